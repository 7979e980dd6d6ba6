"""Landlock by its system calls: which files the calling thread, and what it starts, may still reach (landlock(7)).

It asks the kernel for everything that its version can restrict, and allows again what it is given. It does not know
what a worker needs. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["DEVICE", "READ", "SCOPE_VERSION", "TCP_VERSION", "TRUNCATE_VERSION", "restrict", "version"]

# linux/landlock.h; the same system call numbers on every machine.
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
READ = _READ_FILE | _READ_DIR
DEVICE = READ | _WRITE_FILE | _TRUNCATE | _IOCTL
"""What may be done beneath a path: read files and directories; use a device such as /dev/null. Nobody may execute."""

# What each version restricts beside what the one before does.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
_ON_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_TCP, _SCOPE = 0b11, 0b11  # bind and connect; abstract unix sockets and signals
TRUNCATE_VERSION, TCP_VERSION, SCOPE_VERSION = 3, 4, 6

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def version() -> int:
    """Return the kernel's Landlock version (ABI). Raises `OSError` that says why there is none."""
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise OSError(errno.ENOSYS, "the kernel has no Landlock") from None
        if error.errno == errno.EOPNOTSUPP:
            words = "the kernel has Landlock, but was started without it (lsm=landlock,…)"
            raise OSError(errno.EOPNOTSUPP, words) from None
        raise


def restrict(abi: int, rules: Iterable[tuple[str, int]], held: Iterable[str] = ()) -> None:
    """Deny the calling thread every file except beneath the `rules`' paths, and TCP, and signals, as far as `abi` goes.

    A path that is not there is left out. Paths in `held` stay open for good: the kernel forgets rules for files of
    /proc and /sys when it drops them from its cache. Needs no_new_privs. Raises `OSError`.
    """
    files = sum(rights for since, rights in _FILES.items() if since <= abi)
    words = [files]
    if abi >= TCP_VERSION:
        words.append(_TCP)
    if abi >= SCOPE_VERSION:
        words.append(_SCOPE)
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        kept = set(held)
        for path, rights in rules:
            with suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, path, rights & files, keep=path in kept)
        _call(_RESTRICT, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int, *, keep: bool) -> None:
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            rights &= _ON_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, found), ctypes.c_uint32(0))
    except BaseException:
        os.close(found)
        raise
    if not keep:
        os.close(found)
