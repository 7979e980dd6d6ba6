"""The worker's system call filter (seccomp(2)), put together for the machine at hand.

`program` decides: what a filter of the user's has no business with is refused with EPERM, so that Python raises an
error that can be read; all else is allowed, since numpy, onnxruntime and whoever comes next call widely. It covers what
Landlock cannot, and what an older Landlock does not yet. `install` puts a program to work for good. Standard library
only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TypeAlias

from edge_agent.runtime.syscalls import DENIED, JUDGED, MACHINES, NEWEST

__all__ = ["install", "program"]

Code: TypeAlias = "list[tuple[int, int, int, int]]"  # operation, steps when true, steps when false, constant

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_X32 = 0x4000_0000
_PR_SET_SECCOMP, _FILTER = 22, 2

_ALLOW = (_RETURN, 0, 0, 0x7FFF_0000)
_REFUSE = (_RETURN, 0, 0, 0x0005_0000 | errno.EPERM)
_UNKNOWN = (_RETURN, 0, 0, 0x0005_0000 | errno.ENOSYS)

_CLONE_THREAD, _CLONE_NEW = 0x0001_0000, 0x7E02_0000
_O_ACCMODE, _O_CREAT, _O_TRUNC = 3, 0o100, 0o1000
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET = 1, 1, 5
# F_SETFL may switch O_ASYNC off, which the lifeline needs; F_SETOWN and friends make the kernel send signals to anyone.
_F_SETFL, _F_SETOWNERS = 4, (8, 10, 15)
_OWNER_REQUESTS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
_TERMINAL_REQUESTS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type for whoever sits there
_FIOASYNC = 0x5452
# PDEATHSIG would let it outlive the agent; DUMPABLE and PTRACER open it to others; MM, CHILD_SUBREAPER: no need.
_PRCTL = (1, 4, 35, 36, 0x5961_6D61)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]


def program(machine: str, pid: int, *, landlock: int, lifeline: int = -1) -> bytes:
    """Return the filter for process `pid` on `machine` (`os.uname().machine`).

    `landlock` is the version that guards files, 0 for none: then nothing can be opened for writing, /dev/null neither.
    `lifeline` is a descriptor that must stay open and keep its settings. Raises `ValueError` for another machine.
    """
    if machine not in MACHINES:
        raise ValueError(f"no system call numbers are known for {machine}")
    column, audit = MACHINES[machine]
    code: Code = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, audit), _REFUSE, (_LOAD, 0, 0, _NUMBER)]
    code += [(_AT_LEAST, 0, 1, _X32), _REFUSE, (_AT_LEAST, 0, 1, NEWEST + 1), _UNKNOWN]
    for numbers in DENIED.values():
        code += _judge(numbers[column], [_REFUSE])
    for name, body in _bodies(pid, landlock, lifeline).items():
        code += _judge(JUDGED[name][column], body)
    return b"".join(struct.pack("=HBBI", *step) for step in [*code, _ALLOW])


def install(filter_program: bytes) -> None:
    """Set the filter for the calling thread and what it starts. Needs no_new_privs. Raises `OSError`."""
    steps = ctypes.create_string_buffer(filter_program, len(filter_program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(filter_program) // 8, ctypes.addressof(steps)))
    if _libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(head), 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _bodies(pid: int, landlock: int, lifeline: int) -> dict[str, Code]:
    """Return what is done about each call that depends on its arguments; every way through a body returns."""
    own, watched = (pid,), (lifeline,) if lifeline >= 0 else ()
    to_self = _only(0, 0, pid)
    bodies: dict[str, Code] = {
        "open": _open(1, landlock),
        "openat": _open(2, landlock),
        # Their flags lie in memory, where no filter can look: callers fall back to the calls above and below.
        "openat2": [_UNKNOWN],
        "clone3": [_UNKNOWN],
        "clone": _clone(),
        "kill": _only(0, *own),
        "tgkill": _only(0, *own),
        "prlimit64": to_self,
        "socketpair": _socketpair(),
        "fcntl": _fcntl(watched),
        "ioctl": _never(1, *_OWNER_REQUESTS, *_TERMINAL_REQUESTS, *([_FIOASYNC] if watched else [])),
        "prctl": _never(0, *_PRCTL),
        "setpriority": [(_LOAD, 0, 0, _argument(0)), (_EQUAL, 1, 0, 0), _REFUSE, *_only(1, 0, pid)],
        "ioprio_set": _only(1, 0, pid),
        **dict.fromkeys(("sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity"), to_self),
    }
    if watched:
        bodies |= {"close": _never(0, *watched), "dup2": _never(1, *watched), "dup3": _never(1, *watched)}
        bodies |= {"close_range": [_UNKNOWN]}
    return bodies


def _judge(number: int | None, body: Code) -> Code:
    """Run the body for this call, and step over it for every other."""
    return [] if number is None else [(_EQUAL, 0, len(body), number), *body]


def _argument(index: int) -> int:
    """Return where the low half of an argument lies: whatever is judged here the kernel takes as 32 bits."""
    return _ARGUMENTS + 8 * index


def _only(index: int, *values: int) -> Code:
    tests: Code = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [(_LOAD, 0, 0, _argument(index)), *tests, _REFUSE, _ALLOW]


def _never(index: int, *values: int) -> Code:
    tests: Code = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [(_LOAD, 0, 0, _argument(index)), *tests, _ALLOW, _REFUSE]


def _clone() -> Code:
    flags = (_LOAD, 0, 0, _argument(0))
    return [flags, (_ANY_BIT, 0, 1, _CLONE_NEW), _REFUSE, (_ANY_BIT, 0, 1, _CLONE_THREAD), _ALLOW, _REFUSE]


def _socketpair() -> Code:
    """Allow pairs of connected unix sockets, which asyncio needs; a datagram socket could write to any address."""
    kind: Code = [(_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, 0xF)]
    kind += [(_EQUAL, 2, 0, _SOCK_STREAM), (_EQUAL, 1, 0, _SOCK_SEQPACKET), _REFUSE, _ALLOW]
    return [(_LOAD, 0, 0, _argument(0)), (_EQUAL, 1, 0, _AF_UNIX), _REFUSE, *kind]


def _fcntl(watched: tuple[int, ...]) -> Code:
    settings: Code = []
    for descriptor in watched:
        settings = [(_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 3, _F_SETFL)]
        settings += [(_LOAD, 0, 0, _argument(0)), (_EQUAL, 0, 1, descriptor), _REFUSE]
    return [*settings, *_never(1, *_F_SETOWNERS)]


def _open(index: int, landlock: int) -> Code:
    """Refuse the two ways round Landlock 1 and 2 to empty a file; without Landlock, refuse to open for writing at all.

    Access mode 3 asks for neither reading nor writing, and so Landlock for nothing; O_TRUNC goes with reading too.
    """
    flags = (_LOAD, 0, 0, _argument(index))
    code: Code = [flags, (_AND, 0, 0, _O_ACCMODE), (_EQUAL, 0, 1, 3), _REFUSE]
    if not landlock:
        code += [(_EQUAL, 1, 0, 0), _REFUSE, flags, (_ANY_BIT, 0, 1, _O_CREAT | _O_TRUNC), _REFUSE, _ALLOW]
    else:
        code += [(_EQUAL, 1, 0, 0), _ALLOW, flags, (_ANY_BIT, 0, 1, _O_TRUNC), _REFUSE, _ALLOW]
    return code
