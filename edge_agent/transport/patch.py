"""Makes a blob of an older one and a delta: a short-lived process (M6), or `unpacked` where both are small.

`python -m edge_agent.transport.patch`, started by `patching`. A patch holds the older blob and the new one in memory at
once, and unpacks bytes that nobody signed; in a process of its own that costs the agent nothing. It checks nothing but
the size: whoever started it compares the digest.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from edge_agent.transport.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict

__all__ = ["WINDOW_LOG_MAX", "main", "memory_bytes", "unpacked"]

WINDOW_LOG_MAX = 29
PIECE_BYTES = 256 * 1024
CPU_SECONDS = 120
_INTERPRETER_BYTES = 256 * 1024 * 1024


def memory_bytes(base_bytes: int, size: int) -> int:
    """Return what a patch takes beside the interpreter: the older blob twice (as read, as prefix), and its window."""
    return 2 * base_bytes + size + 16 * 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Write the new blob, at most `size` bytes of it, to standard output: base file, delta file, `size`."""
    base, delta, size = arguments[0], arguments[1], int(arguments[2])
    limit = memory_bytes(os.stat(base).st_size, size) + _INTERPRETER_BYTES  # noqa: PTH116 - no pathlib needed here
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    try:
        _patch(base, delta, size)
    except Exception as error:  # noqa: BLE001 - one line for the parent
        print(f"does not unpack: {error}" if str(error) else type(error).__name__, file=sys.stderr)
        return 1
    return 0


def _patch(base: str, delta: str, size: int) -> None:
    with open(base, "rb") as file:  # noqa: PTH123
        prefix = file.read()
    with open(delta, "rb") as file:  # noqa: PTH123
        for piece in unpacked(prefix, file, size):
            view = memoryview(piece)
            while view:
                view = view[os.write(1, view) :]


def unpacked(base: bytes, delta: IO[bytes], size: int, *, window_log_max: int = WINDOW_LOG_MAX) -> Iterator[bytes]:
    """Yield the new blob piece by piece. Raises `ValueError` or `ZstdError` when `delta` is none, or makes too much."""
    options: dict[int, int] = {DecompressionParameter.window_log_max: window_log_max}
    unpacker = ZstdDecompressor(zstd_dict=ZstdDict(base, is_raw=True).as_prefix, options=options)
    left = size
    while not unpacker.eof:
        data = delta.read(PIECE_BYTES) if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            raise ValueError("it ends in the middle of its zstd frame")
        piece = unpacker.decompress(data, max_length=PIECE_BYTES)
        left -= len(piece)
        if left < 0:
            raise ValueError(f"it makes more than {size} bytes")
        yield piece


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
