"""Texts through a lane: a swap under load loses and repeats none, and a fresh worker's windows are warmed with them."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from edge_agent.runtime.crew import NoticeKind, Plan
from edge_agent.runtime.samples import Samples
from edge_agent.sdk.code import Code
from edge_agent.sdk.pipeline import Health, Input, Output, Pipeline
from edge_agent.sdk.text import Text
from edge_agent.sdk.window import Window
from publisher.packaging import pack
from tests.simulators.release import Releases
from tests.simulators.slot import ScriptedSource, Slot

HEALTH = Health(shadow_frames=5, probation_frames=10, probation_seconds=0.05, heartbeat_seconds=20.0)


class Texts(ScriptedSource):
    """Sample `n` is the text `t<n>`."""

    def take(self, room: int) -> Samples | None:
        numbers = super().take(room)
        if numbers is None:
            return None
        texts = Samples.none(("text",), ("string",))
        for number, time in zip(numbers.sequences, numbers.timestamps, strict=True):
            texts.append(number, time, [f"t{number}"])
        return texts


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


def joined(releases: Releases, key: int, operation: str) -> Plan:
    """Return a release that joins four texts to one, again every two, in upper or lower case."""
    pipeline = Pipeline(
        "act",
        [Text(operation), Window(4, 2), Code("return [' '.join(window) for window in values]", columns=["y"])],
        input=Input(["text"], dtype="string"),
        output=Output(["y"]),
        self_test=["a", "b", "c", "d", "e", "f"],
        health=HEALTH,
    )
    return releases._plan(key, pack(pipeline), {})


def test_windows_of_texts_go_on_over_a_swap(releases: Releases, tmp_path: Path) -> None:
    with Slot(Texts()) as slot:
        slot.run(joined(releases, 1, "upper"))
        slot.feed_on(0.002)
        slot.wait_for_outputs(3)
        slot.try_out(joined(releases, 2, "lower"))
        slot.wait_for(NoticeKind.HEALTHY)
        slot.wait_for_outputs(len(slot.sink.messages) + 3)
        fed = slot.stop_feeding()
        slot.wait_for_done()
    ends = range(3, fed, 2)
    assert slot.numbers == list(ends)
    for message in slot.sink.messages:
        words = " ".join(f"t{number}" for number in range(message.sequence - 3, message.sequence + 1))
        assert message.values["y"] == (words.upper() if message.release == "act@1" else words)
    assert {message.release for message in slot.sink.messages} == {"act@1", "act@2"}
    assert slot.lane.counters["skipped"] == slot.lane.counters["errors"] == 0


def test_a_release_of_numbers_takes_over_from_one_of_texts(releases: Releases) -> None:
    """They share a slot: one column is a text, the other a number, and each release takes its own."""

    class Both(Texts):
        def take(self, room: int) -> Samples | None:
            texts = super().take(room)
            if texts is None:
                return None
            both = Samples(("text", "x"), texts.sequences, texts.timestamps, [], ("string", "float64"))
            for text, number in zip(texts.values, texts.sequences, strict=True):
                both.values.extend([text, float(number)])
            return both

    with Slot(Both()) as slot:
        slot.run(joined(releases, 1, "upper"))
        slot.feed_on(0.002)
        slot.wait_for_outputs(3)
        slot.try_out(releases.act(2))
        slot.wait_for(NoticeKind.HEALTHY)
        slot.wait_for_outputs(len(slot.sink.messages) + 3)
        slot.stop_feeding()
        slot.wait_for_done()
    theirs = [message for message in slot.sink.messages if message.release == "act@2"]
    assert [message.values["y"] for message in theirs] == [2.0 * message.sequence for message in theirs]
    assert array("q", slot.numbers) == array("q", sorted(slot.numbers))
