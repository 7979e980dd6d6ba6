"""Every way in which a release can misbehave, as a candidate, with real worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.runtime.crew import NoticeKind
from tests.simulators.release import Releases
from tests.simulators.slot import Slot


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def slot(releases: Releases) -> Iterator[Slot]:
    with Slot() as made:
        yield made


# how it misbehaves, the reason's code, words in its message
CONDEMNED = [
    ("raise always", ReasonCode.ERRORS, "broken filter"),
    ("unprintable", ReasonCode.ERRORS, "no text"),
    ("surrogate", ReasonCode.ERRORS, r"cannot read \udc80"),
    ("hang", ReasonCode.HEARTBEAT, "no answer"),
    ("stop itself", ReasonCode.HEARTBEAT, "no answer"),
    ("raise in load", ReasonCode.START, "no such sensor"),
    ("exit in load", ReasonCode.EXITED, "exited with status 7"),
    ("fd in load", ReasonCode.EXITED, "the worker"),
    ("exit", ReasonCode.EXITED, "exited with status 3"),
    ("segfault", ReasonCode.EXITED, "SIGSEGV"),
    ("real time signal", ReasonCode.EXITED, "signal 40"),
    ("cancelled", ReasonCode.EXITED, "exited with status 1"),
    ("nan", ReasonCode.OUTPUT, "y = nan"),
    ("too large", ReasonCode.OUTPUT, "outside [-1e+06, 1e+06]"),
    ("wide", ReasonCode.OUTPUT, "2 columns"),
    ("no columns", ReasonCode.EXITED, "nonsense"),
    ("veto", ReasonCode.VETO, "health check says: stage 'act': not today"),
    ("one row more", ReasonCode.ERRORS, "returned"),
    ("numbers ahead", ReasonCode.ERRORS, "the newest sample"),
    ("close descriptor", ReasonCode.EXITED, "the worker"),
    ("half close", ReasonCode.EXITED, "closed its socket"),
    ("garbage", ReasonCode.EXITED, "nonsense"),
    ("garbage flood", ReasonCode.EXITED, "nonsense"),
]


TRACED = {"raise always", "unprintable", "surrogate", "raise in load"}


@pytest.mark.parametrize(("how", "code", "words"), CONDEMNED, ids=[how for how, *_ in CONDEMNED])
def test_a_bad_candidate_is_condemned_and_the_stream_does_not_notice(
    slot: Slot, releases: Releases, how: str, code: ReasonCode, words: str
) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, how, **({"heartbeat_seconds": 1.0} if code is ReasonCode.HEARTBEAT else {})))
    slot.feed_on(0.005)
    notice = slot.wait_for(NoticeKind.FAILED)
    seen = len(slot.sink.messages)
    slot.wait_for_outputs(seen + 20)
    fed = slot.stop_feeding()
    slot.wait_for_done()
    assert notice.reason is not None
    assert (notice.key, notice.reason.code, notice.reason.blame) == (2, code, Blame.RELEASE)
    assert words in notice.reason.message
    assert ("acting.py" in notice.traceback.partition("no traceback")[0]) == (how in TRACED)
    assert slot.numbers == list(range(fed))
    assert {message.release for message in slot.sink.messages} == {"act@1"}
    assert slot.lane.counters["crashes"] == 0
    assert slot.lane.counters["faults"] == 0


def test_a_candidate_that_hangs_in_load_is_given_up(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    slot.try_out(releases.act(2, "hang in load", start_seconds=0.6))
    notice = slot.wait_for(NoticeKind.FAILED)
    assert notice.reason is not None
    assert notice.reason.code is ReasonCode.START
    assert "not ready after 1 s" in notice.reason.message


def test_a_candidate_that_fails_its_self_test_says_row_and_values(slot: Slot, releases: Releases) -> None:
    slot.run(releases.act(1))
    package = releases.pack([releases.module.Act(factor=3.0)], self_test=[[1.0]])
    root = releases.lay_out(package)
    # The same release with another bundle's answer: what a device with a broken library would compute.
    (stage,) = root.glob("bundles/*/acting.py")
    stage.write_text(stage.read_text().replace("return x * self.factor", "return x * 99"))
    slot.try_out(releases._plan(2, package, {}))
    notice = slot.wait_for(NoticeKind.FAILED)
    assert notice.reason is not None
    assert notice.reason.code is ReasonCode.SELF_TEST
    assert "expected 3, got 99" in notice.reason.message
