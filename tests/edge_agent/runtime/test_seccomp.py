"""The system call filter: judged call by call for both machines, and as this kernel enforces it."""

from __future__ import annotations

import errno
import functools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.runtime import seccomp
from edge_agent.runtime.syscalls import DENIED, JUDGED, MACHINES, NEWEST

ROOT = Path(__file__).resolve().parents[3]
PID, LIFELINE = 4711, 9
ALLOW, REFUSE, UNKNOWN = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS
NEW_USER, THREAD = 0x1000_0000, 0x0001_0000
CREATE, TRUNCATE = 0o100, 0o1000


@functools.cache
def unpacked(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("=HBBI", program))


def run(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """Execute a filter as the kernel does (linux/seccomp.h: number, machine, address, six arguments)."""
    words = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number & 0xFFFF_FFFF, machine, 0, *(word & (2**64 - 1) for word in words))
    steps = unpacked(program)
    at = value = 0
    while True:
        code, when, otherwise, constant = steps[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == 0x54:
            value &= constant
        elif code == 0x06:
            return int(constant)
        else:
            test = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            at += when if test else otherwise


class Judge:
    """A filter for one machine, asked by name."""

    def __init__(self, machine: str, landlock: int = 2, lifeline: int = -1) -> None:
        self.column, self.audit = MACHINES[machine]
        self.program = seccomp.program(machine, PID, landlock=landlock, lifeline=lifeline)

    def __call__(self, name: str, *arguments: int) -> int:
        number = {**DENIED, **JUDGED}[name][self.column]
        return ALLOW if number is None else run(self.program, self.audit, number, *arguments)


@pytest.fixture(params=sorted(MACHINES))
def judge(request: pytest.FixtureRequest) -> Judge:
    return Judge(request.param)


def test_what_no_filter_needs_is_refused_whatever_the_arguments(judge: Judge) -> None:
    numbers = [numbers[judge.column] for numbers in DENIED.values()]
    assert all(run(judge.program, judge.audit, one) == REFUSE for one in numbers if one is not None)


def test_no_number_is_used_twice(judge: Judge) -> None:
    known = [numbers[judge.column] for numbers in (*DENIED.values(), *JUDGED.values())]
    found = [one for one in known if one is not None]
    assert len(set(found)) == len(found)
    assert max(found) <= NEWEST


def test_everything_else_is_allowed_up_to_the_newest_known(judge: Judge) -> None:
    named = {numbers[judge.column] for numbers in (*DENIED.values(), *JUDGED.values())}
    others = set(range(NEWEST + 1)) - named
    assert {run(judge.program, judge.audit, one) for one in others} == {ALLOW}
    assert {run(judge.program, judge.audit, one) for one in (NEWEST + 1, 1000, 0x3FFF_FFFF)} == {UNKNOWN}


def test_other_binary_interfaces_are_refused(judge: Judge) -> None:
    """32-bit x86 and ARM, and x32, whose numbers mean other calls."""
    for machine in (0x4000_0003, 0x4000_0028, 0):
        assert run(judge.program, machine, 20) == REFUSE
    assert run(judge.program, judge.audit, 0x4000_0000 | 39) == REFUSE
    assert run(judge.program, judge.audit, -1) == REFUSE


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("kill", (PID, 9), ALLOW),
        ("kill", (PID - 1, 0), REFUSE),
        ("kill", (0, 9), REFUSE),
        ("kill", (-1, 9), REFUSE),
        ("tgkill", (PID, PID + 3, 6), ALLOW),
        ("tgkill", (PID + 1, PID + 1, 6), REFUSE),
        ("clone", (THREAD | 0x3D0F00,), ALLOW),
        ("clone", (17,), REFUSE),
        ("clone", (THREAD | NEW_USER,), REFUSE),
        ("clone", (0x4100 | 17,), REFUSE),
        ("clone3", (0, 0), UNKNOWN),
        ("openat2", (0, 0), UNKNOWN),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (PID, 7), ALLOW),
        ("prlimit64", (1, 7), REFUSE),
        ("socketpair", (1, 1 | 0o2004000), ALLOW),
        ("socketpair", (1, 5), ALLOW),
        ("socketpair", (1, 2), REFUSE),
        ("socketpair", (2, 1), REFUSE),
        ("fcntl", (5, 2, 1), ALLOW),
        ("fcntl", (5, 4, 0o4000), ALLOW),
        ("fcntl", (5, 8, 1), REFUSE),
        ("fcntl", (5, 15, 1), REFUSE),
        ("fcntl", (5, 10, 9), REFUSE),
        ("ioctl", (2, 0x5401), ALLOW),
        ("ioctl", (2, 0x5412), REFUSE),
        ("ioctl", (3, 0x8901), REFUSE),
        ("prctl", (15,), ALLOW),
        ("prctl", (1, 0), REFUSE),
        ("prctl", (4, 1), REFUSE),
        ("setpriority", (0, 0, 10), ALLOW),
        ("setpriority", (0, PID, 10), ALLOW),
        ("setpriority", (0, 1, 10), REFUSE),
        ("setpriority", (2, 0, 10), REFUSE),
        ("ioprio_set", (1, 0), ALLOW),
        ("ioprio_set", (1, 1), REFUSE),
        ("sched_setaffinity", (0,), ALLOW),
        ("sched_setaffinity", (1,), REFUSE),
        ("openat", (-100, 0, 0), ALLOW),
        ("openat", (-100, 0, 1 | CREATE | TRUNCATE), ALLOW),  # Landlock's to judge
        ("openat", (-100, 0, TRUNCATE), REFUSE),
        ("openat", (-100, 0, 3), REFUSE),
        ("openat", (-100, 0, 3 | TRUNCATE), REFUSE),
        ("close", (LIFELINE,), ALLOW),
    ],
)
def test_arguments_are_judged(judge: Judge, name: str, arguments: tuple[int, ...], answer: int) -> None:
    assert judge(name, *arguments) == answer


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_without_landlock_nothing_is_opened_for_writing(machine: str) -> None:
    judge = Judge(machine, landlock=0)
    for name, before in (("openat", (-100, 0)), ("open", (0,))):
        assert judge(name, *before, 0o2000000) == ALLOW
        refused = (1, 2, 3, CREATE, TRUNCATE)
        missing = (machine, name) == ("aarch64", "open")
        assert {judge(name, *before, one) for one in refused} == ({ALLOW} if missing else {REFUSE})


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_a_lifeline_stays_open_and_armed(machine: str) -> None:
    judge = Judge(machine, lifeline=LIFELINE)
    assert judge("close", LIFELINE) == REFUSE
    assert judge("close", LIFELINE + 1) == ALLOW
    assert judge("dup3", 5, LIFELINE, 0) == REFUSE
    assert judge("dup3", 5, LIFELINE + 1, 0) == ALLOW
    assert judge("fcntl", LIFELINE, 4, 0) == REFUSE
    assert judge("fcntl", LIFELINE + 1, 4, 0) == ALLOW
    assert judge("fcntl", LIFELINE + 1, 8, 0) == REFUSE
    assert judge("ioctl", LIFELINE, 0x5452) == REFUSE
    assert judge("close_range", 3, 100) == UNKNOWN
    if machine == "x86_64":
        assert judge("dup2", 5, LIFELINE) == REFUSE


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64", PID, landlock=0)


def test_a_program_that_the_kernel_does_not_take_is_an_error() -> None:
    with pytest.raises(OSError, match=r"Permission denied|Invalid argument"):
        seccomp.install(struct.pack("=HBBI", 0xFFFF, 0, 0, 0))


def test_the_kernel_enforces_it_and_threads_still_start() -> None:
    body = """
import ctypes, errno, json, mmap, os, threading
from edge_agent.runtime import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.install(seccomp.program(os.uname().machine, os.getpid(), landlock=0))
found = {}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, function):
    try:
        found[name] = function() or "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
thread = threading.Thread(target=lambda: found.update(thread="ran"))
thread.start(), thread.join()
attempt("fork", os.fork)
attempt("signal", lambda: os.kill(os.getppid(), 0))
attempt("itself", lambda: os.kill(os.getpid(), 0))
attempt("write", lambda: os.open("/dev/null", os.O_WRONLY))
attempt("read", lambda: os.open("/dev/null", os.O_RDONLY))
if os.uname().machine == "x86_64":
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    found["i386"] = call()
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", body], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if os.uname().machine == "x86_64":
        # Without 32-bit support in the kernel it would have been a signal.
        assert found.pop("i386") == -errno.EPERM
    denied = dict.fromkeys(("fork", "signal", "write"), "EPERM")
    assert found.pop("read") != "EPERM"
    assert found == {**denied, "thread": "ran", "itself": "done"}
