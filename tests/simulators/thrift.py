"""Keys that open at once, for tests that stand for something else than what a guess at a passphrase costs.

A home has seven keys, and every signature opens some: at their real cost that is most of a small test's time.
`tests/publisher/test_keys.py` holds the cost itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from publisher import keys

__all__ = ["REAL_COST", "cheap_keys"]

REAL_COST = keys._SCRYPT_N


@contextlib.contextmanager
def cheap_keys() -> Iterator[None]:
    """Encrypt keys with next to no work; each file says what it cost, so whoever reads it does as little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_SCRYPT_N", 16)
        yield
