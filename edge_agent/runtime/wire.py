"""What supervisor and worker say to each other over a unix SEQPACKET socket (R1): a fixed header and raw bytes.

Never pickle. Both ends are the same version of this package, so the format needs no negotiation; the magic number only
guards against a stray writer. Payloads above `INLINE_BYTES` travel in a memfd passed along.

    kind      direction   payload
    READY     w -> s      JSON `Ready`: the worker is up and locked down, before it loads anything
    LOAD      s -> w      JSON `Load`
    LOADED    w -> s      JSON `Loaded`: constructed, initialized, self-tested
    FRAME     s -> w      int64 sequences[rows], int64 timestamps[rows], then float64 values[rows x columns]
                          or (flag CELLS) a MessagePack list of as many cells, see `edge_agent.runtime.cells`
    RESULT    w -> s      u32 length and JSON `Note`, int64 sequences[rows], firsts[rows],
                          timestamps[rows], then float64 values[rows x columns] (flag RAW) or JSON rows;
                          header.invalid counts rows outside the output spec; a WARM batch is answered empty
    ERROR     w -> s      JSON `Failure`: the batch failed (batch > 0), or loading did (batch 0)
    STOP      s -> w      empty: `cleanup()` and exit
    STATE     s -> w      JSON `Asked`: what have these stages learned, up to the last frame given
    STATE     w -> s      MessagePack `States`
    UPGRADE   s -> w      MessagePack `States`: take this over
    UPGRADED  w -> s      empty: every `upgrade` returned
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from array import array
from typing import Any, Final, TypeAlias

import msgspec

from edge_agent.contract.errors import Reason

__all__ = [
    "HEADER",
    "INLINE_BYTES",
    "STATES_BYTES_MAX",
    "Asked",
    "Failure",
    "Flag",
    "Header",
    "Kind",
    "Load",
    "Loaded",
    "Note",
    "Ready",
    "States",
    "receive",
    "send",
]

HEADER = struct.Struct("<HBBIQII")  # magic, kind, flags, invalid, batch, rows, columns
MAGIC = 0xFC01
INLINE_BYTES = 65_536
Part: TypeAlias = "bytes | bytearray | memoryview | array[int] | array[float]"
STATES_BYTES_MAX = 1 << 20  # of all stages of a release together
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024  # as much as the sandbox lets a worker write
ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_NOTHING: array[int] = array("i")


class Kind(enum.IntEnum):
    """Message kinds; see the module's table."""

    READY = 1
    LOAD = 2
    LOADED = 3
    FRAME = 4
    RESULT = 5
    ERROR = 6
    STOP = 7
    STATE = 8
    UPGRADE = 9
    UPGRADED = 10


class Flag:
    """RAW: result values are float64. MEMFD: the payload is in the passed descriptor, its size in the datagram.

    WARM: history, whose results and errors count for nothing. CELLS: a frame's values are MessagePack. Plain numbers:
    combining members of an `enum.Flag` takes ten times as long, and every frame and every result has some.
    """

    NONE: Final = 0
    RAW: Final = 1
    MEMFD: Final = 2
    WARM: Final = 4
    CELLS: Final = 8


_KINDS = {int(kind): kind for kind in Kind}


class Header(msgspec.Struct, frozen=True):
    """One message's head. `batch` numbers batches from 1; `invalid` counts result rows that fail the output's spec."""

    kind: Kind
    flags: int = Flag.NONE
    batch: int = 0
    rows: int = 0
    columns: int = 0
    invalid: int = 0


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the sandbox applied, per layer: `applied`, `refused: why` or `not covered: why`."""

    pid: int
    sandbox: dict[str, str]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Where the release's files lie (see `edge_agent.update.layout`), and the device's tunable values."""

    root: str
    release: str
    tunables: dict[str, Any] = {}


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """How long loading took, in seconds, and what the self-test showed, in words.

    `upgrades` names the stages that take over what the version before them has learned (R5).
    """

    load_seconds: float
    self_test: str
    upgrades: list[str] = []


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The stages whose state is wanted, by name."""

    stages: list[str]


class States(msgspec.Struct, frozen=True, kw_only=True):
    """What stages have learned, by name: their fingerprint and plain data (`edge_agent.sdk.plain`), never a pickle.

    `failure` says in words why it cannot be had.
    """

    stages: dict[str, tuple[str, bytes]] = {}
    failure: str = ""


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Words beside a result: why rows are invalid, why the pipeline's own `health()` says no, what it took.

    `micros` is what the frame took in the worker (microseconds), without the `waited` that others had the processor.
    Sampled a few times a second and 0 or empty in between: `memory_kb`, resident; `printed`, bytes since the start; and
    `stages`, the microseconds that each stage took for this frame.
    """

    invalid: str = ""
    veto: str = ""
    micros: int = 0
    waited: int = 0
    memory_kb: int = 0
    printed: int = 0
    stages: dict[str, int] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the worker could not do what it was asked. `traceback` has source lines, bounded to 16 KB.

    `note` says what the frame took.
    """

    reason: Reason
    traceback: str = ""
    note: Note = Note()


def send(sock: socket.socket, header: Header, *parts: Part) -> None:
    """Send one message; `parts` are concatenated into the payload. Raises `OSError` (also `BlockingIOError`)."""
    size = sum(map(_bytes, parts))
    numbers = header.invalid, header.batch, header.rows, header.columns
    if size <= INLINE_BYTES:
        sock.sendmsg((HEADER.pack(MAGIC, header.kind, header.flags, *numbers), *parts))
        return
    head = HEADER.pack(MAGIC, header.kind, header.flags | Flag.MEMFD, *numbers)
    memory = os.memfd_create("frame", os.MFD_CLOEXEC)
    try:
        for part in parts:
            view = memoryview(part)
            view = view.cast("B") if view.nbytes else view  # nothing cannot be cast
            while view:
                view = view[os.write(memory, view) :]
        socket.send_fds(sock, (head, size.to_bytes(8, "little")), [memory])
    finally:
        os.close(memory)


def _bytes(part: Part) -> int:
    return memoryview(part).nbytes


def receive(sock: socket.socket, buffer: bytearray) -> tuple[Header, memoryview] | None:
    """Return the next message, or None when the other end is gone.

    `buffer` (at least `INLINE_BYTES + 64` bytes) is reused: an inline payload is a view into it, valid until the next
    call. Raises `ValueError` for anything that is not one of our messages, `BlockingIOError` when nothing waits.
    """
    size, ancillary, flags, _ = sock.recvmsg_into([buffer], ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    passed = _passed(ancillary) if ancillary else _NOTHING
    try:
        if size == 0:
            return None
        if size < HEADER.size or flags & _CUT:
            raise ValueError(f"message of {size} bytes is truncated or too short")
        magic, kind, flag, invalid, batch, rows, columns = HEADER.unpack_from(buffer)
        if magic != MAGIC:
            raise ValueError(f"message starts with {magic:#x}, not {MAGIC:#x}")
        header = Header(_KINDS.get(kind) or Kind(kind), flag, batch, rows, columns, invalid)
        payload = memoryview(buffer)[HEADER.size : size]
        if flag & Flag.MEMFD:
            payload = _read(passed, int.from_bytes(payload[:8], "little"))
        return header, payload
    finally:
        for descriptor in passed:
            os.close(descriptor)


def _passed(ancillary: list[tuple[int, int, bytes]]) -> array[int]:
    """Return the descriptors that came along: alignment makes room for a second one, and every one must be closed."""
    passed = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            passed.frombytes(data[: len(data) // passed.itemsize * passed.itemsize])
    return passed


def _read(passed: array[int], size: int) -> memoryview:
    """Return the passed memory's bytes, copied: the sender could shrink a mapping and kill its reader by SIGBUS."""
    if len(passed) != 1 or not 0 < size <= PAYLOAD_BYTES_MAX:
        raise ValueError(f"a payload of {size} bytes came with {len(passed)} descriptors")
    if os.fstat(passed[0]).st_size != size:
        raise ValueError("the passed memory is not of the size announced")
    data = bytearray(size)
    if os.preadv(passed[0], [data], 0) != size:
        raise ValueError("the passed memory shrank while it was read")
    return memoryview(data)
