"""One worker as the supervisor sees it, against a forged worker at the other end of the socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.manifest import HealthPolicy, OutputSpec
from edge_agent.runtime import member as module
from edge_agent.runtime import patience, wire
from edge_agent.runtime.answers import Answer, Batch
from edge_agent.runtime.cells import decode_cells
from edge_agent.runtime.crew import RESTART_SECONDS, Crew, Plan
from edge_agent.runtime.member import OUTSTANDING_MAX, Member, failure_of
from edge_agent.runtime.patience import Look
from edge_agent.runtime.samples import Samples
from edge_agent.runtime.wire import Flag, Header, Kind
from tests.simulators.waiting import until


class Forged:
    """A member whose process sleeps, and the socket's other end in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ends: list[socket.socket] = []

        def spawn(sock: socket.socket, program: object, printed: int) -> int:
            ends.append(sock.dup())
            return os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True)

        monkeypatch.setattr(module, "spawn", spawn)
        self.member = Member(1, "act@1", Path("/nowhere"), ["x"], {}, 0.0)
        # posix_spawn() returns a moment before the new program has closed what it must not inherit.
        until(lambda: Path(f"/proc/{self.member.pid}/comm").read_text() == "sleep\n", what="the program's start")
        self.theirs = ends[0]
        self.theirs.settimeout(5)

    def say(
        self, kind: Kind, *parts: Any, flags: int = Flag.NONE, batch: int = 0, rows: int = 0, columns: int = 0
    ) -> None:
        wire.send(self.theirs, Header(kind, flags, batch, rows, columns), *parts)

    def load(self) -> None:
        self.say(Kind.READY, encode_json(wire.Ready(pid=1, sandbox={"a": "b"})))
        assert isinstance(self.member.receive(), wire.Ready)
        self.say(Kind.LOADED, encode_json(wire.Loaded(load_seconds=0.1, self_test="")))
        assert isinstance(self.member.receive(), wire.Loaded)

    def answer(self, number: int, payload: bytes, **options: Any) -> Any:
        self.member.give(batch(number), 1.0)
        self.say(Kind.RESULT, payload, batch=number, **options)
        return self.member.receive()


def batch(number: int, rows: int = 1) -> Batch:
    numbers = array("q", range(number, number + rows))
    return Batch(number, Samples(("x",), numbers, numbers, array("d", [0.0] * rows)), 0.0)


def result(words: bytes = b"{}", heads: tuple[int, ...] = (1, 1, 1), body: bytes = b"") -> bytes:
    return len(words).to_bytes(4, "little") + words + array("q", heads).tobytes() + body


@pytest.fixture
def forged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forged]:
    made = Forged(monkeypatch)
    yield made
    made.theirs.close()
    made.member.kill()
    until(made.member.reap, what="the process's end")


def test_ready_is_answered_with_what_to_load(forged: Forged) -> None:
    forged.load()
    found = wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64))
    assert found is not None
    assert found[0].kind is Kind.LOAD
    assert forged.member.sandbox == {"a": "b"}


def test_rows_are_read_raw_and_as_json(forged: Forged) -> None:
    forged.load()
    body = array("d", [2.5, 3.5]).tobytes()
    found = forged.answer(1, result(b'{"invalid":"w"}', body=body), flags=Flag.RAW, rows=1, columns=2)
    assert (found.rows, found.note.invalid, list(found.sequences)) == ([[2.5, 3.5]], "w", [1])
    assert forged.answer(1, result(body=b'[["a",null]]'), rows=1).rows == [["a", None]]
    assert forged.answer(1, result(heads=()), flags=Flag.RAW).rows == []


NONSENSE: dict[str, tuple[bytes, dict[str, Any]]] = {
    "empty": (b"", {"rows": 1}),
    "short heads": (result(heads=(1,)), {"rows": 1}),
    "missing rows": (result(body=b"[]"), {"rows": 1}),
    "missing values": (result(), {"rows": 1, "columns": 1, "flags": Flag.RAW}),
    "half a value": (result(body=b"1234"), {"rows": 1, "columns": 1, "flags": Flag.RAW}),
    "rows without columns": (result(), {"rows": 1, "flags": Flag.RAW}),
    "no JSON": (result(body=b"{"), {"rows": 1}),
    "deep JSON": (result(body=b"[" * 50_000), {"rows": 1}),
    "words that are no note": (result(words=b"12"), {"rows": 0}),
    "words beyond the end": (b"\xff\xff\xff\xff", {"rows": 0}),
    "an empty answer to a real batch": (b"", {"flags": Flag.WARM}),
    "more rows than there can be": (result(), {"rows": 2**32 - 1}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_result_that_cannot_be_read_is_a_value_error(forged: Forged, name: str) -> None:
    forged.load()
    payload, options = NONSENSE[name]
    with pytest.raises(ValueError):
        forged.answer(1, payload, **options)


@pytest.mark.parametrize("kind", [Kind.READY, Kind.LOADED, Kind.LOAD, Kind.FRAME, Kind.STOP, Kind.RESULT])
def test_what_it_may_not_say_now_is_a_value_error(forged: Forged, kind: Kind) -> None:
    """A worker that repeats itself could keep the supervisor listening for ever."""
    forged.load()
    forged.say(kind, b"{}")
    with pytest.raises(ValueError):
        forged.member.receive()


def test_loaded_before_ready_is_a_value_error(forged: Forged) -> None:
    forged.say(Kind.LOADED, encode_json(wire.Loaded(load_seconds=0.1, self_test="")))
    with pytest.raises(ValueError):
        forged.member.receive()


def test_an_endless_error_text_is_a_value_error(forged: Forged) -> None:
    failure = wire.Failure(reason=Reason(code=ReasonCode.START, message="x"), traceback="x" * 100_000)
    forged.say(Kind.ERROR, encode_json(failure))
    with pytest.raises(ValueError, match="ERROR of"):
        forged.member.receive()


def test_answers_out_of_turn_are_a_value_error(forged: Forged) -> None:
    forged.load()
    forged.member.give(batch(1), 0.0)
    forged.member.give(batch(2), 0.0)
    forged.say(Kind.ERROR, encode_json(wire.Failure(reason=Reason(code=ReasonCode.ERRORS, message="x"))), batch=2)
    with pytest.raises(ValueError, match="out of turn"):
        forged.member.receive()


def test_results_numbered_beyond_the_newest_sample_are_a_failure(forged: Forged) -> None:
    forged.load()
    found = forged.answer(5, result(heads=(6, 6, 6), body=b"[[1]]"), rows=1)
    assert isinstance(found, Answer)
    assert found.failure is not None
    assert "numbered 6, the newest sample 5" in found.failure.reason.message


def test_a_gone_worker_is_none_and_takes_nothing(forged: Forged) -> None:
    forged.load()
    forged.theirs.close()
    assert forged.member.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        forged.member.give(batch(1), 0.0)
    forged.member.stop()


def test_a_worker_gone_between_ready_and_load_is_no_error(forged: Forged) -> None:
    forged.say(Kind.READY, encode_json(wire.Ready(pid=1, sandbox={})))
    forged.theirs.close()
    assert isinstance(forged.member.receive(), wire.Ready)
    assert forged.member.receive() is None


def test_what_the_socket_has_no_room_for_follows_with_the_answers(forged: Forged) -> None:
    forged.load()
    wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64))
    for number in range(1, 101):
        forged.member.give(batch(number * 10_000, 2000), 0.0, warm=True)
    assert forged.member._waiting
    buffer = bytearray(wire.INLINE_BYTES + 64)
    for number in range(1, 101):
        found = wire.receive(forged.theirs, buffer)
        assert found is not None
        assert found[0].batch == number * 10_000
        forged.say(Kind.RESULT, flags=Flag.WARM, batch=number * 10_000)
        assert forged.member.receive() == Answer(batch=number * 10_000, warm=True)
    assert not forged.member.owed


def test_a_worker_that_owes_too_much_is_behind(forged: Forged) -> None:
    forged.load()
    for number in range(OUTSTANDING_MAX):
        forged.member.give(batch(number), 0.0)
    with pytest.raises(BlockingIOError) as caught:
        forged.member.give(batch(999), 0.0)
    assert failure_of(caught.value).code is ReasonCode.BEHIND
    assert failure_of(ValueError("x")).code is ReasonCode.EXITED


def test_its_time_for_a_batch_starts_with_the_answer_before(forged: Forged) -> None:
    forged.load()
    assert forged.member.owes_since() is None
    forged.member.give(batch(1), 5.0)
    forged.member.give(batch(2), 6.0)
    assert forged.member.owes_since() == 5.0
    before = time.monotonic()
    forged.say(Kind.RESULT, result(heads=()), batch=1, flags=Flag.RAW)
    forged.member.receive()
    since = forged.member.owes_since()
    assert since is not None
    assert since >= before
    assert forged.member.owes(batch(2))
    assert not forged.member.owes(batch(1))


def test_a_column_that_the_samples_lack_is_a_key_error(forged: Forged) -> None:
    forged.load()
    forged.member.columns = ["x", "z"]
    with pytest.raises(KeyError, match="z"):
        forged.member.give(batch(1), 0.0)
    assert not forged.member.owed


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "was killed by SIGKILL"), (40, "was killed by signal 40")]
)
def test_its_end_is_told_in_words(forged: Forged, number: int, words: str) -> None:
    assert forged.member.reap() is None
    assert "closed its socket" in forged.member.obituary().message
    os.kill(forged.member.pid, number)
    until(forged.member.reap, what="the process's end")
    assert forged.member.reap() == words
    assert words in forged.member.obituary().message
    forged.member.kill()


def test_a_process_that_somebody_else_collected_is_gone(forged: Forged) -> None:
    os.kill(forged.member.pid, signal.SIGKILL)
    os.waitpid(forged.member.pid, 0)
    assert forged.member.reap() == "is gone"


def test_a_worker_sees_little_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    member = Member(1, "act@1", Path("/nowhere"), ["x"], {}, 0.0)
    try:
        environment = Path(f"/proc/{member.pid}/environ")
        until(lambda: b"OMP_NUM_THREADS=1" in environment.read_bytes(), what="the program's start")
        assert b"secret" not in environment.read_bytes()
    finally:
        member.kill()
        until(member.reap, what="the process's end")


# --- the crew


def plan(key: int, history: int = 0, **health: Any) -> Plan:
    return Plan(
        key=key,
        release=f"act@{key}",
        root=Path("/nowhere"),
        columns=["x"],
        output=OutputSpec(columns=["y"]),
        health=HealthPolicy(**health),
        history=history,
    )


@pytest.fixture
def told() -> Iterator[list[socket.socket]]:
    """The workers' ends of their sockets."""
    ends: list[socket.socket] = []
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch, told: list[socket.socket]) -> Iterator[Crew]:
    def spawn(sock: socket.socket, program: object, printed: int) -> int:
        told.append(sock.dup())
        return os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True)

    monkeypatch.setattr(module, "spawn", spawn)
    made = Crew()
    yield made
    made.dismiss(0.0)
    until(lambda: made.bury(time.monotonic() + 60) or not made.dying, what="burials")


def test_deadlines_to_load_and_to_answer(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "look", lambda pid, now: Look(now, 0.0, 0.0, ready=False))
    member = crew.hire(plan(1, start_seconds=30.0, heartbeat_seconds=5.0), 100.0)
    assert crew.wake_at(100.0) == 130.0
    assert crew.overdue(130.0) == []
    ((late, reason),) = crew.overdue(130.1)
    assert late is member
    assert reason.code is ReasonCode.START
    member.loaded = wire.Loaded(load_seconds=0.0, self_test="")
    assert crew.overdue(1000.0) == []
    assert crew.wake_at(1000.0) is None
    member.give(batch(1), 1000.0)
    assert crew.wake_at(1000.0) == 1002.5
    assert crew.overdue(1002.5) == []  # a first look
    assert crew.wake_at(1002.5) == 1005.0
    assert crew.overdue(1004.9) == []
    ((_, reason),) = crew.overdue(1005.1)
    assert (reason.code, reason.blame) == (ReasonCode.HEARTBEAT, Blame.RELEASE)
    assert reason.message == "no answer to a frame for 5.1 s"


def test_who_has_answered_is_not_late_however_late_it_is_asked(crew: Crew, told: list[socket.socket]) -> None:
    member = crew.hire(plan(1, heartbeat_seconds=5.0), 0.0)
    member.loaded = wire.Loaded(load_seconds=0.0, self_test="")
    member.give(batch(1), 1000.0)
    assert crew.overdue(1100.0) == []
    wire.send(told[0], Header(Kind.RESULT), b"")
    assert crew.overdue(1200.0) == []
    with contextlib.suppress(ValueError):
        member.receive()
    assert [late for late, _ in crew.overdue(1200.0)] == [member]


def test_a_batch_that_nobody_answers_is_nobodys_fault_though_their_times_end_one_after_the_other(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waited for nothing, the second for a processor, up to 1008.5."""
    waits: set[int] = set()

    def look(pid: int, now: float) -> Look:
        return Look(now, 0.0, min(now, 1008.5) if pid in waits else 0.0, ready=False)

    monkeypatch.setattr(patience, "look", look)
    first, second = (crew.hire(plan(key, heartbeat_seconds=4.0), 0.0) for key in (1, 2))
    for one in (first, second):
        one.loaded = wire.Loaded(load_seconds=0.0, self_test="")
        one.give(batch(7), 1000.0)
    waits.add(second.pid)
    for now in (1002.0, 1004.0, 1007.9):
        assert crew.overdue(now) == []
    ((late, reason),) = crew.overdue(1008.5)
    assert (late, reason.blame) == (first, Blame.ENVIRONMENT)
    crew.discard(first, 1008.5)
    assert crew.overdue(1010.4) == []
    ((late, reason),) = crew.overdue(1010.6)
    assert (late, reason.blame) == (second, Blame.ENVIRONMENT)


def test_a_worker_that_never_gets_a_processor_is_the_machines_fault(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "look", lambda pid, now: Look(now, 0.0, 0.0, ready=True))
    member = crew.hire(plan(1, heartbeat_seconds=5.0), 0.0)
    member.loaded = wire.Loaded(load_seconds=0.0, self_test="")
    member.give(batch(1), 1000.0)
    for now in (1002.5, 1005.0, 1007.5, 1010.0, 1020.0, 1040.0):
        assert crew.overdue(now) == []
    ((_, reason),) = crew.overdue(1090.0)
    assert (reason.code, reason.blame) == (ReasonCode.HEARTBEAT, Blame.ENVIRONMENT)
    assert reason.message == "no answer to a frame for 90.0 s, 87.5 s of them without a processor"


def test_replacements_come_later_each_time_and_too_many_are_told(crew: Crew) -> None:
    reason = Reason(code=ReasonCode.EXITED, message="it died")
    member = crew.hire(plan(1, history=7), 0.0)
    crew.discard(member, 0.0)
    words = []
    for count, pause in enumerate([*RESTART_SECONDS, RESTART_SECONDS[-1]]):
        words.append(crew.mourn(member, reason, float(count)))
        assert crew.history_rows == 7
        assert crew.wake_at(count) is not None
        assert crew.due_again(count + pause - 0.01) is None
        assert crew.due_again(count + pause) == plan(1, history=7)
        assert crew.due_again(count + pause) is None
    assert words[:2] == ["", ""]
    assert words[2] == "3 crashes within 2 s, last: it died"
    assert crew.mourn(member, reason, 1000.0) == ""


def test_a_replacement_can_be_called_off(crew: Crew) -> None:
    crew.postpone(plan(1), 0.0)
    crew.call_off(2)
    assert crew.due_again(100.0) == plan(1)
    crew.postpone(plan(1), 0.0)
    crew.call_off(1)
    assert crew.due_again(100.0) is None


def test_who_was_let_go_is_forgotten_and_who_does_not_go_is_killed(crew: Crew) -> None:
    first, second = crew.hire(plan(1, history=3), 0.0), crew.hire(plan(2, history=9), 0.0)
    assert crew.history_rows == 9
    crew.retire(second, 0.0)
    crew.retire(second, 0.0)
    crew.discard(second, 0.0)
    assert (crew.dying, crew.has(second), crew.has(first)) == (1, False, True)
    assert crew.history_rows == 3
    crew.bury(1.9)
    assert second.reap() is None
    until(lambda: crew.bury(2.1) or not crew.dying, what="the burial")
    assert crew.hire(plan(3), 0.0)
    assert set(crew._plans) == {1, 3}


def test_the_newest_sandbox_is_shown(crew: Crew) -> None:
    assert crew.sandbox == {}
    first, _ = crew.hire(plan(1), 0.0), crew.hire(plan(2), 0.0)
    first.sandbox = {"layer": "applied"}
    assert crew.sandbox == {"layer": "applied"}


def test_cells_go_as_cells_and_numbers_among_them_as_numbers(forged: Forged) -> None:
    forged.load()
    assert wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64)) is not None  # LOAD
    samples = Samples.none(("t", "x"), ("string", "float64"))
    samples.append(1, 10, ["a", 0.5])
    for number, columns in enumerate((["x", "t"], ["x"]), 1):
        forged.member.columns = columns
        forged.member.give(Batch(number, samples, 0.0), 1.0, warm=number == 1)
    header, payload = wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64)) or pytest.fail("nothing came")
    assert (header.flags, header.rows, header.columns) == (Flag.CELLS | Flag.WARM, 1, 2)
    assert decode_cells(payload[16:], 2) == [0.5, "a"]
    header, payload = wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64)) or pytest.fail("nothing came")
    assert (header.flags, header.columns, bytes(payload[16:])) == (Flag.NONE, 1, array("d", [0.5]).tobytes())


def test_a_worker_that_takes_no_large_frames_falls_behind(forged: Forged, monkeypatch: pytest.MonkeyPatch) -> None:
    forged.load()
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 4_000_000)
    forged.member.columns = ["t"]
    samples = Samples.none(("t",), ("string",))
    samples.append(1, 1, ["x" * 60_000])
    for number in range(1, 200):
        if forged.member._waiting_bytes > module.WAITING_BYTES_MAX:
            break
        forged.member.give(Batch(number, samples, 0.0), 1.0)
    with pytest.raises(BlockingIOError, match="bytes of frames not taken"):
        forged.member.give(Batch(200, samples, 0.0), 1.0)
    while forged.member._waiting_bytes:
        wire.receive(forged.theirs, bytearray(wire.INLINE_BYTES + 64))
        forged.member._push()
    forged.member.give(Batch(200, samples, 0.0), 1.0)  # taken again, it takes more
