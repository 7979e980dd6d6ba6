"""The sandbox, applied by real child processes and tried from the inside and the outside."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edge_agent.runtime.limits import LAYERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux only")
ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 60
PRELUDE = """
import ctypes, errno, json, os, resource, sys
from edge_agent.runtime.sandbox import Limits, apply
result = {}
def offered():
    from edge_agent.runtime import landlock
    try:
        return landlock.version()
    except OSError:
        return 0
def attempt(name, function):
    try:
        result[name] = function()
    except BaseException as error:
        result[name] = f"{type(error).__name__}: {getattr(error, 'errno', None)}"
"""


def child(body: str, **options: Any) -> dict[str, Any]:
    """Run `body` in a fresh interpreter and return its `result` and the report it got from `apply`."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body + "\nprint(json.dumps(result))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], DEADLINE_SECONDS)[0])


def test_reports_every_layer_and_the_kernel_agrees() -> None:
    found = child("""
result["report"] = apply(Limits(parent=os.getppid(), memory_bytes=2 << 30))
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
result["no_new_privileges"] = status["NoNewPrivs"].strip()
result["capabilities"] = status["CapEff"].strip() + status["CapPrm"].strip()
result["dumpable"] = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
result["signal"] = signal.value
result["filtered"] = status["Seccomp"].strip()
result["limits"] = [resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in ("DATA", "NOFILE", "FSIZE", "CORE")]
result["offered"] = offered()
""")
    report = found["report"]
    applied = {name for name, words in report.items() if words.startswith("applied")}
    assert tuple(report) == LAYERS
    assert set(LAYERS) - applied == {"processes", "cpu"} | (set() if found["offered"] else {"file_system"})
    assert all(
        words.startswith(("not covered: ", "refused: ")) for name, words in report.items() if name not in applied
    )
    assert f"Landlock {found['offered']}" in report["file_system"] or not found["offered"]
    assert found["no_new_privileges"] == "1"
    assert int(found["capabilities"], 16) == 0
    assert found["dumpable"] == 0
    assert found["filtered"] == "2"
    assert found["signal"] == signal.SIGKILL
    assert found["limits"] == [[2 << 30] * 2, [256] * 2, [64 << 20] * 2, [0, 0]]


@pytest.mark.parametrize("parent", ["os.getppid()", "None"])
def test_dies_with_its_parent(parent: str) -> None:
    worker = f"import os,time; from edge_agent.runtime.sandbox import *; apply(Limits(parent={parent})); "
    worker += "print(os.getpid(), flush=True); time.sleep(600)"
    agent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert agent.stdout is not None
        line = agent.stdout.readline()
        pidfd = os.pidfd_open(int(line))
        assert not select.select([pidfd], [], [], 0)[0]
        agent.kill()
        assert ended(pidfd)
    finally:
        agent.kill()
        agent.communicate(timeout=DEADLINE_SECONDS)


def test_a_worker_whose_agent_is_gone_already_does_not_start() -> None:
    found = child("attempt('apply', lambda: apply(Limits(parent=os.getpid())))")
    assert found["apply"].startswith("ProcessLookupError")


def test_a_worker_that_systemd_started_names_its_unit() -> None:
    found = child("result['report'] = apply(Limits(parent=0))")
    assert found["report"]["parent_death"].startswith("not covered: ")
    assert found["report"]["memory"].startswith("applied: "), "half of the machine's, unless told"


def test_limits_hold_and_cannot_be_raised() -> None:
    found = child("""
large = os.memfd_create("large")
apply(Limits(parent=os.getppid(), memory_bytes=1 << 30, open_files=32, file_bytes=4096))
for name in ("AS", "DATA", "NOFILE", "FSIZE", "CORE"):
    attempt(name, lambda: resource.setrlimit(getattr(resource, "RLIMIT_" + name), (1 << 40, 1 << 40)))
import mmap
attempt("allocate", lambda: len(bytearray(2 << 30)))
attempt("share", lambda: mmap.mmap(-1, 4 << 30))
attempt("within", lambda: os.write(large, b"x" * 4096))
attempt("beyond", lambda: os.write(large, b"x"))
attempt("open", lambda: [os.dup(1) for _ in range(64)])
""")
    raised = [found[name] for name in ("AS", "DATA", "NOFILE", "FSIZE", "CORE")]
    assert all(words.startswith(("ValueError", "PermissionError")) for words in raised), found
    assert found["allocate"].startswith("MemoryError")
    assert found["share"] == f"OSError: {errno.ENOMEM}"
    assert found["within"] == 4096
    assert found["beyond"] == f"OSError: {errno.EFBIG}"
    assert found["open"] == f"OSError: {errno.EMFILE}"


def test_keeps_a_lower_limit_that_it_was_started_with() -> None:
    found = child("""
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
result["report"] = apply(Limits(parent=os.getppid(), open_files=256))
""")
    assert found["report"]["open_files"] == "applied: 64"


def test_refuses_to_cover_one_thread_of_many() -> None:
    found = child("""
import threading
release = threading.Event()
threading.Thread(target=release.wait).start()
attempt("apply", lambda: apply(Limits(parent=os.getppid())))
release.set()
""")
    assert found["apply"].startswith("RuntimeError")


def test_a_refused_layer_is_reported_and_the_others_go_on() -> None:
    found = child("result['report'] = apply(Limits(parent=os.getppid(), open_files=-5))")
    assert found["report"]["open_files"].startswith("refused: ")
    assert found["report"]["file_size"].startswith("applied")


as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to set up another user or a set-user-id file")


@as_root
def test_nothing_to_give_up_needs_no_capset() -> None:
    found = child("""
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
result["report"] = apply(Limits(parent=os.getppid()))
""")
    assert found["report"]["capabilities"] == "applied: had none"


@as_root
def test_root_cannot_limit_its_own_processes_and_says_so() -> None:
    found = child("result['report'] = apply(Limits(parent=os.getppid(), processes=64))")
    assert found["report"]["processes"].startswith("not covered: ")


@as_root
@pytest.mark.parametrize("sandboxed", [False, True])
def test_set_user_id_files_give_nothing(sandboxed: bool) -> None:
    """Without the sandbox the same file makes its caller root: the test would notice a guard that does nothing."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        program = Path(folder, "id")
        shutil.copy(shutil.which("id") or "/usr/bin/id", program)
        program.chmod(0o4755)
        Path(folder).chmod(0o755)
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("this file system ignores set-user-id")
        found = child(f"""
import subprocess
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
if {sandboxed}:
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
result["user"] = subprocess.run([{str(program)!r}, "-u"], capture_output=True, text=True).stdout.strip()
""")
    assert found["user"] == ("65534" if sandboxed else "0")


@as_root
def test_limits_the_processes_of_an_ordinary_user() -> None:
    found = child("""
import threading
os.setgroups([]), os.setresgid(54321, 54321, 54321), os.setresuid(54321, 54321, 54321)
result["report"] = apply(Limits(parent=os.getppid(), processes=1))
attempt("thread", threading.Thread(target=print).start)
attempt("fork", os.fork)
""")
    assert found["report"]["processes"] == "applied: 1"
    assert found["thread"].startswith("RuntimeError")
    assert found["fork"] == f"PermissionError: {errno.EPERM}"


def test_others_of_the_same_user_cannot_read_its_memory() -> None:
    body = "import os; from edge_agent.runtime.sandbox import *; {}; print('up', flush=True); input()"
    for call, readable in (("pass", True), ("apply(Limits(parent=os.getppid()))", False)):
        drop = "os.getuid() or (os.setgroups([]), os.setresgid(*[54322]*3), os.setresuid(*[54322]*3)); "
        worker = subprocess.Popen(
            [sys.executable, "-c", body.format(f"{drop}import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); {call}")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"up\n"
            found = child(f"{drop}attempt('read', lambda: len(open('/proc/{worker.pid}/environ', 'rb').read()) >= 0)")
            assert (found["read"] is True) is readable
        finally:
            worker.communicate(b"\n", timeout=DEADLINE_SECONDS)


# --- what lies outside the process


def played(body: str, *, landlock: str = "", seccomp: str = "", **limits: Any) -> dict[str, Any]:
    """Run `body` sandboxed, where the kernel refuses Landlock or the filter with these words."""
    told = ", ".join(f"{name}={value!r}" for name, value in limits.items())
    refusals = [
        f"module.{layer}.{name} = lambda *_: (_ for _ in ()).throw(OSError(38, {words!r}))"
        for layer, name, words in (("landlock", "version", landlock), ("seccomp", "install", seccomp))
        if words
    ]
    lines = ["from edge_agent.runtime import sandbox as module", *refusals]
    return child("\n".join([*lines, f"result['report'] = apply(Limits(parent=os.getppid(), {told}))", body]))


def test_without_landlock_it_says_so_and_the_filter_stands_in_where_it_can(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    found = played(
        f"""
attempt("read", lambda: open({str(tmp_path / "key")!r}).read())
attempt("write", lambda: open({str(tmp_path / "key")!r}, "a").close())
attempt("create", lambda: open({str(tmp_path / "new")!r}, "w").close())
""",
        landlock="the kernel has no Landlock",
    )
    report = found["report"]
    assert report["file_system"].startswith("refused: the kernel has no Landlock; without it files are as the user")
    assert "opens nothing for writing" in report["system_calls"]
    assert report["signals"].startswith("applied")
    assert found["read"] == "secret", "the gap that the report names"
    assert found["write"] == found["create"] == f"PermissionError: {errno.EPERM}"


def test_without_the_filter_it_says_what_stays_open() -> None:
    found = played("import socket\nattempt('socket', lambda: socket.socket().close())", seccomp="no filters here")
    report = found["report"]
    assert report["system_calls"] == "refused: [Errno 38] no filters here"
    assert report["network"].startswith("not covered: ")
    assert found["socket"] is None
    bare = played("", landlock="none", seccomp="none")["report"]
    assert bare["network"] == "not covered: sockets are open without the system call filter"
    assert bare["signals"].startswith("not covered: ")


def test_a_release_beside_other_readable_files_is_a_gap_that_is_named() -> None:
    found = played("", release=str(ROOT / "tests"))
    if not found["report"]["file_system"].startswith("refused"):
        assert found["report"]["file_system"].startswith(f"not covered: {ROOT} is on Python's path")


def test_the_program_prints_what_came_of_each_layer() -> None:
    command = [sys.executable, "-I", "-P", "-m", "edge_agent.runtime.sandbox", "{}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True)
    assert set(json.loads(done.stdout)) == set(LAYERS)


@pytest.mark.parametrize("module", ["numpy", "onnxruntime", "sklearn.ensemble"])
def test_heavy_libraries_work_in_it(module: str) -> None:
    pytest.importorskip(module)
    work = {
        "numpy": "import numpy as np; result['sum'] = float((np.ones((300, 300)) @ np.ones((300, 300))).sum())",
        "onnxruntime": "import onnxruntime; result['sum'] = len(onnxruntime.get_available_providers())",
        "sklearn.ensemble": "from sklearn.ensemble import RandomForestRegressor as R\n"
        "result['sum'] = R(5, random_state=0).fit([[0], [1]], [1, 1]).predict([[0]])[0]",
    }
    found = played(f"attempt('work', lambda: exec({work[module]!r}))")
    assert found["work"] is None
    assert found["sum"] >= 1
