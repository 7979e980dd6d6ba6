"""Security floor and retry generation: they rise, are carried on, and no rollback goes below."""

from __future__ import annotations

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.messages import ReleaseInfo
from publisher.trust.marks import NO_MARKS, Marks, floor_of, require_above_floor


def release(sequence: int, content: bytes = b"", **marks: int) -> ReleaseInfo:
    data = content or str(sequence).encode()
    return ReleaseInfo(fleet="plant", channel="staging", pipeline="p", sequence=sequence, digest=Digest.of(data),
                       published=0, **marks)  # fmt: skip


def test_a_floor_is_the_release_that_sets_it_and_is_carried_on() -> None:
    assert NO_MARKS.of([], 1) == {"security_floor": 0, "retry_generation": 0}
    third = release(3, **Marks(security_floor=True).of([release(1), release(2)], 3))
    assert floor_of([third]) == 3
    assert NO_MARKS.of([third], 4) == {"security_floor": 3, "retry_generation": 0}
    assert Marks(security_floor=True).of([third], 9)["security_floor"] == 9


def test_a_retry_raises_the_generation_and_it_never_falls() -> None:
    first = release(1, **Marks(retry=True).of([], 1))
    assert first.retry_generation == 1
    assert NO_MARKS.of([first, release(2)], 3)["retry_generation"] == 1
    assert Marks(retry=True).of([first, release(2)], 3)["retry_generation"] == 2


def test_security_floor_no_fleet_rollback_goes_below_it_under_any_number() -> None:
    """Bytes that first came below the floor stay below it when they were offered again before the floor was set."""
    again = release(3, b"1")
    listed = [release(1), release(2), again, release(4, security_floor=2)]
    with pytest.raises(AuthorError, match="p@1, below the security floor 2"):
        require_above_floor(listed, listed[0])
    with pytest.raises(AuthorError, match="p@3 has the bytes of p@1"):
        require_above_floor(listed, again)
    require_above_floor(listed, listed[1])
    require_above_floor(listed, listed[3])
