"""Keys that open at once and a verifier at hand, for tests that stand for something else.

A home has seven keys, and every signature opens some; every publication is verified three times, each in a process of
its own: at their real cost that is most of a small test's time. `tests/publisher/trust/test_keys.py` holds the cost of
keys, `tests/publisher/trust/test_repository.py` and every test that runs the command hold the process. Agents always
start theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from edge_agent.update.verifier import reply_to
from publisher.trust import keys, verification

__all__ = ["REAL_COST", "cheap_keys", "verifier_at_hand"]

REAL_COST = keys._SCRYPT_N


@contextlib.contextmanager
def cheap_keys() -> Iterator[None]:
    """Encrypt keys with next to no work; each file says what it cost, so whoever reads it does as little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_SCRYPT_N", 16)
        yield


@contextlib.contextmanager
def verifier_at_hand() -> Iterator[None]:
    """Let the publisher in this process ask the verifier's own code without starting a process for each question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_asked", reply_to)
        yield
