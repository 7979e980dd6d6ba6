"""Landlock by its system calls, as this kernel offers it: what it does not offer must be said."""

from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.runtime import landlock

ROOT = Path(__file__).resolve().parents[3]


def offered() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


needs = pytest.mark.skipif(not offered(), reason="this kernel offers no Landlock")
PRELUDE = """
import ctypes, errno, json, os, socket, sys
from edge_agent.runtime.landlock import *
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
found = {}
def attempt(name, function):
    try:
        function()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
"""


def child(body: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body + "\nprint(json.dumps(found))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@needs
@pytest.mark.parametrize("abi", range(1, min(offered(), 6) + 1))
def test_every_version_up_to_the_kernels_leaves_the_rules_and_nothing_else(tmp_path: Path, abi: int) -> None:
    """An older kernel is played by asking for no more than it would know."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    (tmp_path / "out").write_text("x")
    found = child(f"""
import signal
inside, outside, missing = {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, {str(tmp_path / "none")!r}
listener = socket.create_server(("127.0.0.1", 0))
restrict({abi}, [(inside, READ), (missing, READ), ("/dev/null", DEVICE)])
attempt("read", lambda: open(inside + "/file").close())
attempt("list", lambda: os.listdir(inside))
attempt("null", lambda: open("/dev/null", "w").write("x"))
attempt("other", lambda: open(outside))
attempt("write", lambda: open(inside + "/file", "a"))
attempt("create", lambda: open(inside + "/new", "w"))
attempt("directory", lambda: os.mkdir(inside + "/new"))
attempt("remove", lambda: os.unlink(inside + "/file"))
attempt("rename", lambda: os.rename(inside + "/file", inside + "/other"))
attempt("execute", lambda: os.execv("/bin/true", ["true"]))
attempt("root", lambda: os.listdir("/"))
attempt("agent", lambda: open(f"/proc/{{os.getppid()}}/environ"))
attempt("truncate", lambda: os.truncate(inside + "/file", 0))
attempt("connect", lambda: socket.socket().connect(listener.getsockname()))
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("signal", lambda: os.kill(os.getppid(), 0))
""")
    for name in ("read", "list", "null"):
        assert found.pop(name) == "done", name
    since = {"truncate": landlock.TRUNCATE_VERSION, "connect": landlock.TCP_VERSION, "bind": landlock.TCP_VERSION}
    for name, version in (*since.items(), ("signal", landlock.SCOPE_VERSION)):
        assert (found.pop(name) == "done") is (abi < version), name
    assert set(found.values()) == {"EACCES"}, found


@needs
def test_it_cannot_be_taken_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    found = child(f"""
restrict(version(), [("/usr", READ)])
restrict(version(), [({str(tmp_path)!r}, READ)])
attempt("read", lambda: open({str(tmp_path / "file")!r}))
""")
    assert found == {"read": "EACCES"}


@needs
def test_held_paths_stay_open_and_others_do_not() -> None:
    found = child("""
before = len(os.listdir("/proc/self/fd"))
restrict(version(), [("/proc/self", READ), ("/dev/null", DEVICE)], held=("/proc/self",))
found["more"] = len(os.listdir("/proc/self/fd")) - before
attempt("own", lambda: open("/proc/self/statm"))
""")
    assert found == {"more": 1, "own": "done"}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSYS, "the kernel has no Landlock"), (errno.EOPNOTSUPP, "started without it"), (errno.EPERM, "not perm")],
)
def test_why_there_is_none_is_said(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(landlock._libc, "syscall", refuse, raising=False)
    with pytest.raises(OSError, match=words):
        landlock.version()


@needs
def test_a_path_that_cannot_be_allowed_is_an_error_and_leaves_nothing_open() -> None:
    found = child("""
before = os.listdir("/proc/self/fd")
attempt("pipe", lambda: restrict(version(), [("/usr", 1 << 40)]))
found["open"] = os.listdir("/proc/self/fd") == before
""")
    assert found["open"] is True
