"""TUF's signers, imported without the software of every cloud that is installed.

The library imports that to sign there: a third of what a command takes to start, and keys here are files. An author's
code imports it as ever.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["CryptoSigner", "Key", "SSlibKey", "Signature", "Signer"]

_CLOUDS = ("azure", "boto3", "google.cloud")


@contextlib.contextmanager
def _without_clouds() -> Iterator[None]:
    hidden = [name for name in _CLOUDS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: an import of it fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _without_clouds():
    from securesystemslib.signer import (  # type: ignore[attr-defined]
        CryptoSigner,
        Key,
        Signature,
        Signer,
        SSlibKey,
    )
