"""How the agent's process takes memory from glibc: what is freed goes back, and no thread keeps a share of its own.

Left alone, glibc suits programs whose memory goes up and stays; an agent runs for years on a small device. It changes
nothing about what is allocated, and nothing at all under another libc.
"""

from __future__ import annotations

import ctypes

__all__ = ["settle"]

# Of malloc.h; glibc's manual, "Malloc Tunable Parameters".
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Larger pieces are mapped for themselves, and unmapped when they are freed.
LARGE_BYTES = 128 << 10


def settle() -> bool:
    """Have memory given back; call it before the first thread starts. Tell whether this libc can be told.

    Left to itself glibc raises its threshold with every large piece that is freed (to 32 MiB), and the next one comes
    out of a heap, where the smaller ones that follow it keep its place taken: a table that grew, a message, a blob's
    buffer. And each thread that finds the heap locked gets another one, up to eight per processor, each with a rest
    that the others cannot use. Here one thread at a time runs Python, so that they hardly ever meet.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    large = mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) & mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES)
    return bool(large & mallopt(_M_ARENA_MAX, 1))
