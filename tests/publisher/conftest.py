"""What the publisher's tests need not pay for: keys that are slow to open, and a process for every verification."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from publisher.trust import keys
from tests.simulators.thrift import REAL_COST, cheap_keys, verifier_at_hand

# What these show needs the process.
IN_A_PROCESS = {"test_ci", "test_one_history", "test_repository", "test_verification"}


@pytest.fixture(scope="module", autouse=True)
def keys_that_open_at_once() -> Iterator[None]:
    """For every key that a module makes in this process."""
    with cheap_keys():
        yield


@pytest.fixture
def keys_at_full_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypt as in earnest."""
    monkeypatch.setattr(keys, "_SCRYPT_N", REAL_COST)


@pytest.fixture(scope="module", autouse=True)
def verification_at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """See `IN_A_PROCESS`."""
    if request.path.stem in IN_A_PROCESS:
        yield
        return
    with verifier_at_hand():
        yield
