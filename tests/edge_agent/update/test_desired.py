"""Which release a slot should run: percentages, membership, aborts and quarantine, as values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import Digest
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.update.desired import Wanted, below_floor, desired, takes_part

PIPELINE = "activity"

# The first 8 bytes of sha256(len‖rollout id‖device id), reckoned apart from our code (printf | sha256sum). Were they
# to change, a running rollout would move to other devices.
GOLDEN = [
    ("activity@7", "machine-1", 0xE90D121861140E68),
    ("activity@7", "machine-2", 0x18017A8A8E923682),
    ("r", "d", 0x23705A66D3B4FFBB),
    ("rollout 1", "süd-3", 0xF33E1ECE46727799),
]


def info(sequence: int, content: str | None = None, pipeline: str = PIPELINE) -> ReleaseInfo:
    return ReleaseInfo(
        fleet="plant",
        channel="staging",
        pipeline=pipeline,
        sequence=sequence,
        digest=Digest.of((content or str(sequence)).encode()),
        published=0,
    )


def rollout(candidate: int = 2, stable: int | None = 1, **fields: object) -> Rollout:
    values = {
        "fleet": "plant",
        "channel": "staging",
        "pipeline": PIPELINE,
        "rollout_id": "r",
        "candidate": candidate,
        "stable": stable,
    }
    return Rollout(**{**values, **fields})  # type: ignore[arg-type]


def wanted(one: Rollout, *, joined: set[str] | None = None, quarantined: set[Digest] | None = None) -> Wanted:
    return desired(
        PIPELINE,
        [info(1), info(2), info(2, "other", pipeline="other")],
        [rollout(pipeline="other"), one],
        device="machine-1",
        memberships=joined or set(),
        quarantined=quarantined or set(),
    )


def sequence(found: Wanted) -> int | None:
    return found.release.sequence if found.release is not None else None


@pytest.mark.parametrize(("rollout_id", "device", "first"), GOLDEN)
def test_membership_hash_never_changes(rollout_id: str, device: str, first: int) -> None:
    share = first / 2**64 * 100
    assert takes_part(rollout(rollout_id=rollout_id, percent=min(100.0, share + 1e-6)), device)
    assert not takes_part(rollout(rollout_id=rollout_id, percent=max(0.0, share - 1e-6)), device)


def test_length_keeps_rollout_and_device_apart() -> None:
    half = [(takes_part(rollout(rollout_id=f"{n}a", percent=50.0), "b"),
             takes_part(rollout(rollout_id=f"{n}", percent=50.0), "ab")) for n in range(64)]  # fmt: skip
    assert any(one != other for one, other in half)


@given(st.text(max_size=40), st.text(max_size=40))
def test_nobody_takes_part_at_zero_and_everybody_at_a_hundred(rollout_id: str, device: str) -> None:
    assert not takes_part(rollout(rollout_id=rollout_id, percent=0.0), device)
    assert takes_part(rollout(rollout_id=rollout_id, percent=100.0), device)


@given(st.text(max_size=20), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_percent_loses_nobody(device: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not takes_part(rollout(percent=low), device) or takes_part(rollout(percent=high), device)


def test_a_percentage_takes_about_its_share() -> None:
    share = sum(takes_part(rollout(percent=25.0), f"machine-{n}") for n in range(4000)) / 4000
    assert 0.22 < share < 0.28


CASES = [
    ("in the percentage", {"percent": 100.0}, False, set(), 2, True),
    ("outside the percentage", {"percent": 0.0}, False, set(), 1, False),
    ("joined before, percent lowered", {"percent": 0.0}, True, set(), 2, True),
    ("paused: nobody joins", {"paused": True}, False, set(), 1, False),
    ("paused: members stay", {"paused": True}, True, set(), 2, True),
    ("aborted evicts members", {"aborted": True}, True, set(), 1, False),
    ("candidate quarantined", {}, True, {2}, 1, False),
    ("both quarantined", {}, True, {1, 2}, None, False),
    ("stable quarantined, not a member", {"percent": 0.0}, False, {1}, None, False),
    ("first release, not a member", {"percent": 0.0, "stable": None}, False, set(), None, False),
    ("first release quarantined", {"stable": None}, True, {2}, None, False),
    ("candidate not signed", {"candidate": 9}, True, set(), 1, False),
    ("stable not signed", {"stable": 9, "percent": 0.0}, False, set(), None, False),
]


@pytest.mark.parametrize(
    ("fields", "joined", "quarantined", "expected", "member"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_wanted(
    fields: dict[str, object], joined: bool, quarantined: set[int], expected: int | None, member: bool
) -> None:
    condemned = {info(number).digest for number in quarantined}
    found = wanted(rollout(**fields), joined={"r"} if joined else set(), quarantined=condemned)  # type: ignore[arg-type]
    assert (sequence(found), found.member) == (expected, member)
    assert found.rollout_id == "r"


def test_membership_of_another_rollout_is_worth_nothing() -> None:
    assert sequence(wanted(rollout(percent=0.0, rollout_id="next"), joined={"r"})) == 1


def test_quarantine_goes_by_content_so_the_same_bytes_under_a_new_number_stay_out() -> None:
    found = desired(
        PIPELINE,
        [info(1), info(3, "2")],
        [rollout(candidate=3)],
        device="d",
        memberships=set(),
        quarantined={info(2).digest},
    )
    assert sequence(found) == 1


def test_a_promotion_to_the_same_bytes_is_the_candidate_under_its_new_name() -> None:
    found = desired(PIPELINE, [info(1), info(2, "1")], [rollout()], device="d", memberships=set(), quarantined=set())
    assert found.release is not None
    assert (found.release.name, found.release.digest) == ("activity@2", info(1).digest)


def test_a_pipeline_without_a_rollout_wants_nothing() -> None:
    found = desired("idle", [info(1)], [rollout()], device="d", memberships=set(), quarantined=set())
    assert found == Wanted(release=None)


def floored(sequence: int, floor: int, content: str | None = None) -> ReleaseInfo:
    return msgspec.structs.replace(info(sequence, content), security_floor=floor)


def test_security_floor_bars_bytes_by_the_first_sequence_that_listed_them() -> None:
    listed = [info(1, "hole"), info(2, "hole"), floored(3, 3), floored(4, 3, "hole"), info(1, pipeline="other")]
    assert below_floor(PIPELINE, listed, 0) == {Digest.of(b"hole"): 1}
    assert below_floor(PIPELINE, listed, 2) == {Digest.of(b"hole"): 1}
    assert below_floor("other", listed, 0) == {}
    assert below_floor(PIPELINE, [], 9) == {}
    assert below_floor(PIPELINE, [info(1), info(2), info(3)], 3) == {Digest.of(b"1"): 1, Digest.of(b"2"): 2}


def test_security_floor_the_release_at_the_floor_was_meant_whatever_its_bytes() -> None:
    assert below_floor(PIPELINE, [info(1, "good"), info(2), floored(3, 3, "good")], 0) == {Digest.of(b"2"): 2}


@pytest.mark.parametrize("aborted", [False, True])
def test_security_floor_neither_candidate_nor_stable_is_wanted_below_it(aborted: bool) -> None:
    both = [info(1), info(2)]
    barred = {one.digest for one in both}
    found = desired(
        PIPELINE, both, [rollout(aborted=aborted)], device="d", memberships=set(), quarantined=set(), barred=barred
    )
    assert (found.release, found.stuck) == (None, True)
    assert found.refused == (None if aborted else both[1])
