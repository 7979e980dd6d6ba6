"""Zstandard as Python 3.14 has it, or its backport."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdDecompressor,
        ZstdDict,
        ZstdError,
        compress,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdDecompressor,
        ZstdDict,
        ZstdError,
        compress,
    )

__all__ = ["CompressionParameter", "DecompressionParameter", "ZstdDecompressor", "ZstdDict", "ZstdError", "compress"]
