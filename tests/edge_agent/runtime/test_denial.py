"""What the sandbox refused is put into words, and nothing else is put down to it."""

from __future__ import annotations

import errno
import socket
import urllib.error
from collections.abc import Callable

import pytest

from edge_agent.runtime.denial import denial

ALL = {"system_calls": "applied: 399 steps", "file_system": "applied: reads Python"}


def raised(act: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        act()
    return caught.value


def chained() -> None:
    try:
        raise PermissionError(errno.EPERM, "Operation not permitted")
    except PermissionError as error:
        raise RuntimeError("no connection") from error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EPERM, "not permitted"), "asks the system for what only agents may do"),
        (PermissionError(errno.EACCES, "denied", "/etc/passwd"), "reaches for /etc/passwd"),
        (PermissionError(errno.EACCES, "denied"), "reaches for a file"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "opens a socket"),
        (urllib.error.URLError(socket.gaierror(-3, "no")), "opens a socket"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), "writes a temporary file"),
        (FileNotFoundError(errno.ENOENT, "no such file", "model.bin"), ""),
        (ValueError("three rows"), ""),
    ],
)
def test_errors_and_their_causes_are_recognised(error: BaseException, words: str) -> None:
    found = denial(error, ALL)
    assert (f"this filter {words}; on devices it may not" in found) if words else not found


def test_a_cause_counts_and_a_circle_ends() -> None:
    error = raised(chained)
    assert "this filter asks" in denial(error, ALL)
    one, other = RuntimeError("a"), RuntimeError("b")
    one.__context__, other.__context__ = other, one
    assert denial(one, ALL) == ""


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("socket.py", "opens a socket"),
        ("subprocess.py", "starts a process"),
        ("tempfile.py", "writes a temporary file"),
        ("author.py", "asks the system"),
    ],
)
def test_where_it_was_raised_tells_what_it_was(file: str, words: str) -> None:
    code = compile("raise PermissionError(1, 'Operation not permitted')", f"/usr/lib/python3/{file}", "exec")
    assert f"this filter {words}" in denial(raised(lambda: exec(code)), ALL)


def test_a_layer_that_is_missing_is_not_blamed() -> None:
    assert denial(PermissionError(errno.EPERM, "x"), {**ALL, "system_calls": "refused: no"}).endswith("(sandbox)")
    assert denial(PermissionError(errno.EACCES, "x"), {"system_calls": "applied"}) == ""
    assert denial(PermissionError(errno.EPERM, "x"), {}) == ""
    assert denial(socket.gaierror(-2, "x"), {}) == ""
