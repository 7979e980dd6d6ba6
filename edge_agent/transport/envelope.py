"""A trust envelope on its way: compressed as one zstd frame, unpacked within a bound (T3, F7).

It judges nothing: what comes out may still be anything.
"""

from __future__ import annotations

from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX
from edge_agent.transport.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress

__all__ = ["pack", "unpack"]

LEVEL = 19
WINDOW_LOG_MAX = 23


def pack(envelope: bytes) -> bytes:
    """Return the message that carries `envelope`."""
    return compress(envelope, level=LEVEL)


def unpack(message: bytes) -> bytes:
    """Return the envelope in `message`. Raises `UpdateRejected` when it is damaged, truncated or too large."""
    decompressor = ZstdDecompressor(options={DecompressionParameter.window_log_max: WINDOW_LOG_MAX})
    try:
        envelope = decompressor.decompress(message, max_length=ENVELOPE_BYTES_MAX + 1)
    except ZstdError as error:
        raise UpdateRejected.one(ReasonCode.MALFORMED, f"the envelope cannot be unpacked: {error}") from None
    if len(envelope) > ENVELOPE_BYTES_MAX:
        raise UpdateRejected.one(ReasonCode.SIZE, f"the envelope exceeds {ENVELOPE_BYTES_MAX} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise UpdateRejected.one(ReasonCode.MALFORMED, "the envelope is truncated, or something follows it")
    return envelope
