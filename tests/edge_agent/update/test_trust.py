"""The verifier as a process: bounded, isolated, and never taken for a yes when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.digest import decode_msgpack, encode_msgpack
from edge_agent.contract.errors import Blame, Reason, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.verification import REQUEST_BYTES_MAX, Reply, verifier_command
from edge_agent.update import trust
from edge_agent.update.verifier import answer
from tests.simulators.channel import ChannelSimulator, sample_manifest
from tests.simulators.waiting import until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def channel() -> ChannelSimulator:
    simulator = ChannelSimulator()
    simulator.release("activity", sample_manifest())
    return simulator


def test_the_child_gives_the_same_verdict_as_its_own_code(channel: ChannelSimulator) -> None:
    request = channel.request(accepted=channel.envelope())
    assert trust.verify(request) == answer(request)


def test_a_refusal_crosses_with_every_reason(channel: ChannelSimulator) -> None:
    channel.choose("activity", 7, stable=8)
    request = channel.request()
    with pytest.raises(UpdateRejected) as expected:
        answer(request)
    with pytest.raises(UpdateRejected) as found:
        trust.verify(request)
    assert found.value.reasons == expected.value.reasons
    assert len(found.value.reasons) == 2


def test_what_the_child_cannot_judge_is_a_store_error(channel: ChannelSimulator) -> None:
    with pytest.raises(StoreError, match="enrol anew"):
        trust.verify(channel.request(root=b"{}"))


@pytest.mark.parametrize(
    ("envelope", "code"),
    [(b"", ReasonCode.MALFORMED), (b"\xc1", ReasonCode.MALFORMED), (bytes(2**20 + 1), ReasonCode.SIZE)],
    ids=["empty", "garbage", "oversized"],
)
def test_an_unreadable_envelope_is_refused_without_a_process(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, envelope: bytes, code: ReasonCode
) -> None:
    monkeypatch.setattr(trust, "_command", lambda: pytest.fail("a process was started"))
    with pytest.raises(UpdateRejected) as caught:
        trust.verify(channel.request(envelope=envelope))
    assert [(reason.code, reason.blame) for reason in caught.value.reasons] == [(code, Blame.ENVIRONMENT)]


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e12])
def test_a_time_that_is_none_is_misuse(channel: ChannelSimulator, now: float) -> None:
    with pytest.raises(ValueError, match="no time"):
        trust.verify(channel.request(now=now))


WELL_FORMED = encode_msgpack(Reply(reasons=[Reason(code=ReasonCode.OLDER, message="x")]))

NOBODY = 2**22  # more than the kernel gives
BROKEN = {
    "dies before it answers": ("import os; os._exit(3)", "status 3: it said nothing"),
    "raises": ("raise RuntimeError('out of cheese')", "status 1: RuntimeError: out of cheese"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    "answers and then fails": (
        f"import os, sys; sys.stdout.buffer.write({WELL_FORMED!r}); sys.stdout.flush(); os._exit(1)",
        "status 1",
    ),
    "says nothing": ("", "cannot be read"),
    "babbles": ("print('Verified!')", "cannot be read"),
    "answers with half a reply": (f"import sys; sys.stdout.buffer.write({WELL_FORMED[:-2]!r})", "cannot be read"),
    "answers without a verdict": ("import sys; sys.stdout.buffer.write(bytes([0x80]))", "no verdict"),
    "never stops talking": (
        "import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))",
        "wrote over",
    ),
    "never stops complaining": ("import sys\nwhile True: sys.stderr.write('x' * 65536)", "no answer in"),
    "hangs": ("import time; time.sleep(600)", "no answer in"),
    "closes its output and hangs": ("import os, time; os.close(1); os.close(2); time.sleep(600)", "no answer in"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_verifier_is_a_store_error_and_never_acceptance(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    script, words = BROKEN[name]
    seen = tmp_path / "pid"
    seen.write_text("")
    script = f"import os; open({str(seen)!r}, 'w').write(str(os.getpid()))\n{script}"
    monkeypatch.setattr(trust, "_command", lambda: [sys.executable, "-c", script])
    begun = time.monotonic()
    with pytest.raises(StoreError, match=words) as caught:
        trust.verify(channel.request(), timeout_seconds=2.0 if words == "no answer in" else 60.0)
    assert time.monotonic() - begun < 30
    assert "\n" not in str(caught.value)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.read_text() or NOBODY), 0)  # on a slow machine its time was up before it began


def test_a_verifier_that_cannot_be_started_is_a_store_error(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trust, "_command", lambda: [str(tmp_path / "missing")])
    with pytest.raises(StoreError, match="cannot be started"):
        trust.verify(channel.request())


def test_no_temporary_directory_is_a_store_error(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="temporary directory"):
        trust.verify(channel.request())


@pytest.mark.parametrize("script", [None, "import time; time.sleep(600)"], ids=["answers", "is killed"])
def test_nothing_is_left_in_the_temporary_directory(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if script is None:
        trust.verify(channel.request())
    else:
        litter = f"import tempfile; tempfile.mkdtemp(); {script}"
        monkeypatch.setattr(trust, "_command", lambda: [sys.executable, "-c", litter])
        with pytest.raises(StoreError):
            trust.verify(channel.request(), timeout_seconds=1)
    assert list(tmp_path.iterdir()) == []


def test_the_child_ignores_the_environment_and_the_working_directory(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A `tuf` planted where an attacker may write must not be the one that judges."""
    (tmp_path / "tuf").mkdir()
    (tmp_path / "tuf" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert trust.verify(channel.request()).releases


def test_verifications_run_one_at_a_time(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = str(tmp_path / "running")
    script = (
        f"import os, sys, time; os.mkdir({mark!r}); time.sleep(0.2); os.rmdir({mark!r})\n"
        f"sys.stdout.buffer.write({WELL_FORMED!r})"
    )
    monkeypatch.setattr(trust, "_command", lambda: [sys.executable, "-c", script])
    outcomes: list[Exception] = []

    def ask() -> None:
        try:
            trust.verify(channel.request())
        except Exception as error:  # noqa: BLE001 - judged below
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in outcomes] == [UpdateRejected] * 3


# --- one that waits for its question -------------------------------------------------------------------------------


@pytest.fixture
def verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trust.Verifier]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    made = trust.Verifier(tmp_path / "lock", spare=True)
    yield made
    made.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def waiting(verifier: trust.Verifier) -> subprocess.Popen[bytes]:
    assert verifier._spare is not None
    return verifier._spare._process


def test_a_spare_waits_for_the_next_question_and_answers_one(
    channel: ChannelSimulator, verifier: trust.Verifier
) -> None:
    verifier.tend(time.monotonic())
    first = waiting(verifier)
    verifier.tend(time.monotonic())
    assert waiting(verifier) is first
    request = channel.request(accepted=channel.envelope())
    assert verifier.verify(request) == answer(request)
    assert first.returncode == 0, "it was asked, and ended"
    verifier.tend(time.monotonic())
    assert verifier._spare is None, "not at once: what was verified may be about to start"
    verifier.tend(time.monotonic() + trust.SPARE_AFTER_SECONDS)
    assert waiting(verifier).pid != first.pid


def test_a_spare_that_was_killed_is_not_asked(channel: ChannelSimulator, verifier: trust.Verifier) -> None:
    verifier.tend(time.monotonic())
    spare = waiting(verifier)
    spare.kill()
    os.waitid(os.P_PID, spare.pid, os.WEXITED | os.WNOWAIT)
    assert verifier.verify(channel.request()).releases


def test_without_a_wish_for_one_there_is_no_spare(channel: ChannelSimulator) -> None:
    plain = trust.Verifier()
    plain.tend(time.monotonic())
    assert plain._spare is None
    assert plain.verify(channel.request()).releases
    plain.tend(time.monotonic() + 1000)
    assert plain._spare is None
    plain.close()


def test_a_spare_that_cannot_be_started_is_tried_again_later(
    channel: ChannelSimulator, verifier: trust.Verifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trust, "_command", lambda: [str(tmp_path / "missing")])
        verifier.tend(100.0)
    verifier.tend(159.0)
    assert verifier._spare is None
    verifier.tend(160.0)
    assert waiting(verifier).poll() is None


PARENT = """
import os, signal, sys
from edge_agent.update.trust import Verifier
verifier = Verifier(spare=True)
verifier.tend(1.0)
print(verifier._spare._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_spare_ends_with_its_agent_and_takes_its_directory_along(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == -9
    until(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), what="its end")
    assert list(tmp_path.iterdir()) == []


def test_the_agents_side_imports_no_tuf() -> None:
    script = "import edge_agent.update.trust, sys; sys.exit(any(name.split('.')[0] in "
    script += "{'tuf', 'securesystemslib', 'cryptography', 'numpy'} for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def _ask(question: bytes) -> Reply:
    command = verifier_command(sys.executable, str(ROOT))
    done = subprocess.run(command, input=question, capture_output=True, timeout=120, check=True)
    return decode_msgpack(done.stdout, Reply)


def test_the_program_itself_answers_nonsense_with_a_failure() -> None:
    assert "expected" in _ask(encode_msgpack({"fleet": 1})).failure.lower()
    assert "exceeds" in _ask(bytes(REQUEST_BYTES_MAX + 1)).failure


def test_the_program_itself_turns_an_unexpected_error_into_a_failure(channel: ChannelSimulator) -> None:
    """Here no room for its files, as on a full disk."""
    question = encode_msgpack(msgspec.structs.replace(channel.request(), now=1e300))
    reply = _ask(question)
    assert reply.failure
    assert reply.verified is None


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_verifiers_of_several_processes_run_one_at_a_time(channel: ChannelSimulator, tmp_path: Path) -> None:
    """Another process holds the lock: wait for it, and say so if it never lets go."""
    lock = tmp_path / "verifier.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock), "60"], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(StoreError, match="another process has verified"):
                trust.verify(channel.request(), 0.3, lock=lock)
            threading.Timer(0.3, holder.kill).start()
            assert trust.verify(channel.request(), lock=lock).releases
        finally:
            holder.kill()


def test_a_lock_that_cannot_be_opened_is_a_store_error(channel: ChannelSimulator, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lock"):
        trust.verify(channel.request(), lock=tmp_path / "missing" / "lock")
