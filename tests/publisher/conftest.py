"""What the publisher's tests need not pay for: keys that are slow to open, and coverage in every process they start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from publisher import keys
from tests.simulators.thrift import REAL_COST, cheap_keys

# They start verifiers and clean processes by the hundred, whose code is measured in tests/edge_agent.
UNMEASURED = {"test_one_history", "test_preflight", "test_pushing", "test_registry", "test_repository"}


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
def many_processes_are_not_measured(request: pytest.FixtureRequest) -> None:
    """See `UNMEASURED`."""
    if request.path.stem in UNMEASURED:
        request.getfixturevalue("unmeasured")
