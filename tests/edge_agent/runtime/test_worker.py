"""The worker's side of the conversation, over a real socket pair; its process is tried in the lane's tests."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import ReasonCode
from edge_agent.runtime import wire, worker
from edge_agent.runtime.cells import encode_cells
from edge_agent.runtime.crew import Plan
from edge_agent.runtime.wire import Flag, Header, Kind
from edge_agent.runtime.worker import Worker
from edge_agent.sdk.code import Code
from edge_agent.sdk.pass_through import PassThrough
from edge_agent.sdk.pipeline import Input, Output, Pipeline
from edge_agent.sdk.text import Text
from publisher.packaging import pack
from tests.simulators.release import Releases

SECONDS = 10.0


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


class Talk:
    """The supervisor's end; the worker serves the other one in a thread."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(SECONDS)
        self.raised: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        header, payload = self.receive()
        assert header.kind is Kind.READY
        self.ready = decode_json(payload, wire.Ready)

    def _serve(self) -> None:
        try:
            Worker(self.theirs).serve({"layer": "applied"})
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised.append(error)
        finally:
            self.theirs.close()

    def receive(self) -> tuple[Header, bytes]:
        message = wire.receive(self.sock, bytearray(wire.INLINE_BYTES + 64))
        assert message is not None
        return message[0], bytes(message[1])

    def load(self, plan: Plan, **tunables: Any) -> tuple[Header, bytes]:
        load = wire.Load(root=str(plan.root), release=plan.release, tunables=tunables)
        wire.send(self.sock, Header(Kind.LOAD), encode_json(load))
        return self.receive()

    def frame(self, *numbers: int, batch: int = 1, flags: Flag = Flag.NONE, columns: int = 1) -> tuple[Header, bytes]:
        values = array("d", [float(number) for number in numbers for _ in range(columns)])
        header = Header(Kind.FRAME, flags, batch, len(numbers), columns)
        wire.send(self.sock, header, array("q", numbers), array("q", numbers), values)
        return self.receive()

    def failure(self, answer: tuple[Header, bytes]) -> wire.Failure:
        assert answer[0].kind is Kind.ERROR
        return decode_json(answer[1], wire.Failure)

    def end(self) -> None:
        self.sock.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _unmounted() -> Iterator[None]:
    """A worker never unmounts, since its process ends; here the process goes on."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_fieldcast_"):
            del sys.modules[name]


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.end()


def test_it_says_who_it_is_loads_answers_and_stops(
    talk: Talk, releases: Releases, capfd: pytest.CaptureFixture[str]
) -> None:
    assert talk.ready == wire.Ready(pid=os.getpid(), sandbox={"layer": "applied"})
    header, payload = talk.load(releases.act(1, note="trace"), factor=3.0)
    assert header.kind is Kind.LOADED
    assert decode_json(payload, wire.Loaded).self_test == "no self-test shipped"

    header, payload = talk.frame(5, 6, batch=9)
    assert (header.kind, header.batch, header.rows, header.columns, header.invalid) == (Kind.RESULT, 9, 2, 1, 0)
    note_size = int.from_bytes(payload[:4], "little")
    note_words = decode_json(payload[4 : 4 + note_size], wire.Note)
    assert (note_words.invalid, note_words.veto, list(note_words.stages)) == ("", "", ["act"])
    heads = array("q", payload[4 + note_size : 4 + note_size + 48])
    assert list(heads) == [5, 6, 5, 6, 5, 6]
    assert list(array("d", payload[4 + note_size + 48 :])) == [15.0, 18.0]

    wire.send(talk.sock, Header(Kind.STOP))
    talk.thread.join(SECONDS)
    assert f"trace: cleanup {os.getpid()}\n" in capfd.readouterr().err
    assert talk.raised == []


def test_warm_frames_are_answered_empty_also_when_they_fail(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1, "raise on seven"))
    header, payload = talk.frame(1, batch=1, flags=Flag.WARM)
    assert (header.kind, header.flags, header.batch, payload) == (Kind.RESULT, Flag.WARM, 1, b"")
    header, _ = talk.frame(7, batch=2, flags=Flag.WARM)
    assert (header.kind, header.flags, header.batch) == (Kind.ERROR, Flag.WARM, 2)


def test_windows_answer_nothing_until_they_are_full(talk: Talk, releases: Releases) -> None:
    talk.load(releases.windows(1, 4, 2))
    header, _ = talk.frame(0, 1, 2)
    assert (header.kind, header.rows) == (Kind.RESULT, 0)
    header, _ = talk.frame(3, batch=2)
    assert (header.kind, header.rows) == (Kind.RESULT, 1)


def test_rows_that_are_no_array_travel_as_json(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1, "words"))
    header, payload = talk.frame(4)
    assert (header.flags, header.rows, header.columns) == (Flag.NONE, 1, 1)
    assert payload.endswith(b"[[8.0]]")


def test_invalid_rows_are_counted_with_words(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1, "too large"))
    header, payload = talk.frame(1, 2, 3)
    assert header.invalid == 3
    assert b"y = 1e+09 outside" in payload


@pytest.mark.parametrize(
    ("how", "words"),
    [("raise always", "broken filter"), ("unprintable", "no text"), ("surrogate", r"cannot read \udc80")],
)
def test_what_a_filter_raises_becomes_an_error(talk: Talk, releases: Releases, how: str, words: str) -> None:
    talk.load(releases.act(1, how))
    failure = talk.failure(talk.frame(1))
    assert failure.reason.code is ReasonCode.ERRORS
    assert words in failure.reason.message
    assert "acting.py" in failure.traceback


def test_a_frame_before_the_release_is_an_error(talk: Talk) -> None:
    assert "before the release was loaded" in talk.failure(talk.frame(1)).reason.message


def test_a_release_that_is_not_there_is_a_failed_start(talk: Talk, releases: Releases, tmp_path: Path) -> None:
    wire.send(talk.sock, Header(Kind.LOAD), encode_json(wire.Load(root=str(tmp_path), release="act@1")))
    failure = talk.failure(talk.receive())
    assert failure.reason.code is ReasonCode.START
    assert "manifest.json" in failure.reason.message


def test_a_tunable_that_is_none_is_a_failed_start(talk: Talk, releases: Releases) -> None:
    failure = talk.failure(talk.load(releases.act(1), no_such=1))
    assert failure.reason.code is ReasonCode.START
    assert "no_such" in failure.reason.message


def test_a_self_test_is_run_and_its_failure_told(talk: Talk, releases: Releases) -> None:
    package = releases.pack([releases.module.Act(factor=5.0)], self_test=[[1.0], [2.0]])
    plan = releases._plan(1, package, {})
    header, payload = talk.load(plan)
    assert header.kind is Kind.LOADED
    assert decode_json(payload, wire.Loaded).self_test == "2 rows in, 2 out, equal within 1e-04"
    (blob,) = (plan.root / "blobs").iterdir()
    blob.unlink()  # a link to the stored one
    blob.write_bytes(b"no self-test")
    failure = talk.failure(talk.load(plan))
    assert failure.reason.code is ReasonCode.SELF_TEST


def test_a_cleanup_that_raises_ends_the_worker_with_it(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1, "raise in cleanup"))
    wire.send(talk.sock, Header(Kind.STOP))
    talk.thread.join(SECONDS)
    assert "cannot clean up" in str(talk.raised)


def test_the_supervisors_end_is_the_workers_end(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1))
    talk.end()
    assert talk.raised == []


def test_what_is_not_for_workers_ends_it(talk: Talk) -> None:
    wire.send(talk.sock, Header(Kind.RESULT))
    talk.thread.join(SECONDS)
    assert "RESULT, which is not for workers" in str(talk.raised)


@pytest.mark.parametrize(
    ("error", "status"),
    [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit(256 + 7), 7), (SystemExit("bye"), 1), (RuntimeError(), 1)],
)
def test_exit_status_of_what_ended_the_worker(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker._status(error) == status
    assert (type(error).__name__ in capsys.readouterr().err) == (status == 1)


@pytest.mark.parametrize(
    ("act", "expected"), [(lambda: None, None), (lambda: exec("raise BrokenPipeError"), 0), (lambda: exec("1/0"), 1)]
)
def test_main_serves_descriptor_three(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], expected: int | None
) -> None:
    """With the sandbox and the end of the process taken out, which the lane's tests have for real."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setattr(worker, "SOCKET_FD", theirs.detach())
        monkeypatch.setattr("edge_agent.runtime.sandbox.apply", lambda limits: {"parent": str(limits.parent)})
        monkeypatch.setattr("sys.argv", ["worker", "123"])
        monkeypatch.setattr(Worker, "serve", lambda self, applied, imports: act())
        monkeypatch.setattr(os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
        if expected is None:
            worker.main()
        else:
            with pytest.raises(SystemExit) as caught:
                worker.main()
            assert caught.value.code == expected


def cells(talk: Talk, columns: int, *rows: list[Any]) -> tuple[Header, bytes]:
    numbers = array("q", range(len(rows)))
    header = Header(Kind.FRAME, Flag.CELLS, 1, len(rows), columns)
    wire.send(talk.sock, header, numbers, numbers, encode_cells([cell for row in rows for cell in row]))
    return talk.receive()


def typed(releases: Releases, stages: list[Any], columns: list[str], dtype: Any, self_test: Any = None) -> Plan:
    pipeline = Pipeline("act", stages, input=Input(columns, dtype=dtype), output=Output(["y"]), self_test=self_test)
    return releases._plan(1, pack(pipeline), {})


def table(answer: tuple[Header, bytes]) -> Any:
    header, payload = answer
    assert header.kind is Kind.RESULT, payload
    return json.loads(payload[4 + int.from_bytes(payload[:4], "little") + 24 * header.rows :])


def test_texts_reach_the_pipeline_and_come_out(talk: Talk, releases: Releases) -> None:
    header, payload = talk.load(typed(releases, [Text("upper")], ["text"], "string", ["hello", "you"]))
    assert header.kind is Kind.LOADED, payload
    assert table(cells(talk, 1, ["ab"], ["ç"])) == [["AB"], ["Ç"]]


def test_mixed_rows_reach_the_pipeline_as_the_author_saw_them(talk: Talk, releases: Releases) -> None:
    code = "return [f'{t} {sum(v):.0f} {e[\"k\"]} {n}' for t, v, e, n in values]"
    dtypes = {"t": "string", "v": "vector", "e": "json", "n": "int64"}
    plan = typed(releases, [Code(code)], ["t", "v", "e", "n"], dtypes, [["a", [1, 2], {"k": "w"}, 5]])
    header, payload = talk.load(plan)
    assert header.kind is Kind.LOADED, payload
    row = ["b", msgspec.msgpack.encode([1.0, 3.0]), msgspec.msgpack.encode({"k": [None]}), 2**60]
    assert table(cells(talk, 4, row)) == [[f"b 4 [None] {2**60}"]]


def test_a_device_with_more_exact_cells_serves_what_asks_for_less(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1))  # float64, as ever, from a whole number
    header, payload = cells(talk, 1, [3])
    assert (header.flags, payload[-8:]) == (Flag.RAW, array("d", [6.0]).tobytes())
    talk.load(typed(releases, [PassThrough()], ["x"], "json"))
    assert table(talk.frame(4)) == [[4.0]]
    assert table(cells(talk, 1, [{"a": 1}])) == [[{"a": 1}]]


def test_cells_of_another_dtype_than_admitted_are_an_error_not_an_end(talk: Talk, releases: Releases) -> None:
    talk.load(releases.act(1))
    assert "could not convert string" in talk.failure(cells(talk, 1, ["x"])).reason.message
