"""An exported channel: a directory that brings a channel's newest state to devices without a network.

    export.json             what is here, for people and for better messages; nothing in it is trusted
    trust                   the message that the broker retains: the envelope, compressed
    blob/<2 hex>/<64 hex>   blobs, laid out as in the record, so that the directory is a mirror as well

It says where things lie and how large they may be. It does no I/O. No name in it is refused by FAT.
"""

from __future__ import annotations

import msgspec

from edge_agent.contract.digest import BlobRef, Digest, decode_json

__all__ = ["BLOBS", "EXPORT_FORMAT", "INDEX", "INDEX_BYTES_MAX", "TRUST", "Index", "blob_place", "decode_index"]

EXPORT_FORMAT = 1
INDEX, TRUST, BLOBS = "export.json", "trust", "blob"
INDEX_BYTES_MAX = 1024 * 1024


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What an export says of itself. Hints: whoever imports goes by what is signed in `trust`.

    `trust` and `trust_bytes` are digest and size of the file of that name. `pipelines` are those whose blobs are here,
    `releases` their offered releases by name, `blobs` maps digests to sizes in bytes. `made` and `expires` are seconds
    UTC.
    """

    format: int
    fleet: str
    channel: str
    made: int
    expires: float
    trust: Digest
    trust_bytes: int
    pipelines: list[str]
    releases: list[str]
    blobs: dict[Digest, int]


def blob_place(ref: BlobRef) -> tuple[str, str, str]:
    """Return where a blob lies, name by name."""
    return (BLOBS, ref.digest.hex[:2], ref.digest.hex)


def decode_index(data: bytes) -> Index | None:
    """Return the index in `data`, None for anything that is not one that this program knows."""
    try:
        found = decode_json(data, Index)
    except (msgspec.DecodeError, ValueError):
        return None
    return found if found.format == EXPORT_FORMAT else None
