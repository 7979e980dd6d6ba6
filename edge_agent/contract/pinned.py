"""The one special member of a pinned bundle (F2): a class by value, which one Python minor version can read.

A pickle of bytecode does not fail on another version, it crashes. So the file says before the pickle begins which
interpreter it is for; a reader compares and never tries. Nothing here unpickles.
"""

from __future__ import annotations

import re

from edge_agent.contract.errors import ReasonCode, UpdateRejected

__all__ = ["PINNED_MEMBER", "is_pinned", "unwrap_pinned", "wrap_pinned"]

PINNED_MEMBER = "pinned.cloudpickle"
_TAG = re.compile(r"(cp3\d{1,2})-none-any")
_HEADER = re.compile(rb"fieldcast-pinned 1 (cp3\d{1,2})\n")


def is_pinned(tag: str) -> bool:
    """Tell whether a bundle's wheel tag is that of a pinned one."""
    return _TAG.fullmatch(tag) is not None


def wrap_pinned(interpreter: str, pickle: bytes) -> bytes:
    """Return the member's bytes: a line that names the interpreter, then the pickle."""
    return f"fieldcast-pinned 1 {interpreter}\n".encode() + pickle


def unwrap_pinned(data: bytes, interpreter: str) -> bytes:
    """Return the pickle in `data`. Raises `UpdateRejected` unless it was made for exactly `interpreter`."""
    found = _HEADER.match(data)
    if found is None:
        raise UpdateRejected.one(
            ReasonCode.MALFORMED, f"bundle: {PINNED_MEMBER} does not say what it is", where=PINNED_MEMBER
        )
    made = found[1].decode()
    if made != interpreter:
        raise UpdateRejected.one(
            ReasonCode.INTERPRETER,
            f"the class is pinned to {made} and this is {interpreter}: it was defined in __main__, in a function or at "
            "run time; define it in a module of its own and push again, then it runs on every Python",
            where=PINNED_MEMBER,
        )
    return data[found.end() :]
