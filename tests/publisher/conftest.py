"""What the publisher's tests need not pay for: keys that are slow to open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from publisher import keys
from tests.simulators.thrift import REAL_COST, cheap_keys


@pytest.fixture(scope="module", autouse=True)
def keys_that_open_at_once() -> Iterator[None]:
    """For every key that a module makes in this process."""
    with cheap_keys():
        yield


@pytest.fixture
def keys_at_full_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypt as in earnest."""
    monkeypatch.setattr(keys, "_SCRYPT_N", REAL_COST)
