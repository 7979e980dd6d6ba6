"""Local policy: windows, holds, lock files and conditions, judged from values; and the readings themselves."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.errors import Blame, ReasonCode
from edge_agent.contract.window import DAY_SECONDS, Window, parse_window
from edge_agent.update.policy import (
    ASK_AGAIN_SECONDS,
    Act,
    Deferral,
    Policy,
    Reading,
    Requirement,
    may,
)
from edge_agent.update.readings import take
from edge_agent.update.wishes import Hold

MIDNIGHT = datetime.datetime(2026, 3, 10, tzinfo=datetime.UTC).timestamp()
HOUR = 3600.0


def ask(policy: Policy = Policy(), act: Act = Act.FETCH, **values: object) -> Deferral | None:  # noqa: B008 - frozen
    given = {"holds": (), "reading": Reading(), "now": MIDNIGHT, "offset_seconds": 0.0, **values}
    return may(act, policy, **given)  # type: ignore[arg-type]


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hour", "offset_hours", "opens_in_hours"),
    [
        ("22:00-05:00", 23, 0, 0),
        ("22:00-05:00", 4, 0, 0),
        ("22:00-05:00", 5, 0, 17),
        ("22:00-05:00", 21, 1, 0),
        ("22:00-05:00 UTC", 21, 1, 1),
        ("02:00-03:00", 2, 0, 0),
        ("02:00-03:00", 3, 0, 23),
        ("00:00-06:00", 23, 2, 0),
    ],
)
def test_a_window_opens_when_it_says(text: str, hour: int, offset_hours: int, opens_in_hours: int) -> None:
    window = parse_window(text)
    found = window.opens_in(MIDNIGHT + hour * HOUR, offset_hours * HOUR)
    assert found == opens_in_hours * HOUR
    assert str(window) == text


@pytest.mark.parametrize("text", ["", "22-05", "24:00-05:00", "22:60-05:00", "05:00-05:00", "22:00-05:00 CET"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|same time"):
        parse_window(text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, 4e9), st.integers(-14, 14))
def test_a_closed_window_is_open_when_it_said_it_would_be(start: int, end: int, now: float, offset: int) -> None:
    if start == end:
        return
    window = Window(start * 60, end * 60)
    wait = window.opens_in(math.floor(now), offset * HOUR)
    assert 0 <= wait < DAY_SECONDS
    assert window.opens_in(math.floor(now) + wait, offset * HOUR) == 0.0


def test_each_step_has_windows_of_its_own_and_one_open_one_is_enough() -> None:
    policy = Policy(
        fetch=(parse_window("01:00-02:00"), parse_window("23:00-00:30")), activate=(parse_window("03:00-04:00"),)
    )
    assert ask(policy, Act.FETCH) is None
    found = ask(policy, Act.ACTIVATE)
    assert found is not None
    assert found.until == MIDNIGHT + 3 * HOUR
    assert found.reasons[0].code is ReasonCode.WINDOW
    assert found.reasons[0].blame is Blame.ENVIRONMENT
    assert "03:00-04:00" in found.reasons[0].message
    nearest = ask(policy, Act.FETCH, now=MIDNIGHT + 0.75 * HOUR)
    assert nearest is not None
    assert nearest.until == MIDNIGHT + HOUR


# --- holds, locks, conditions ----------------------------------------------------------------------------------------


def test_a_hold_ends_by_itself_or_never() -> None:
    brief = Hold(slot="a", until=MIDNIGHT + 60.0, at=MIDNIGHT)
    found = ask(holds=[brief])
    assert found is not None
    assert (found.until, found.reasons[0].code) == (MIDNIGHT + 60.0, ReasonCode.HOLD)
    assert ask(holds=[brief], now=MIDNIGHT + 60.0) is None
    for_ever = ask(holds=[Hold(slot="", until=0.0, at=MIDNIGHT)], now=MIDNIGHT + 1e9)
    assert for_ever is not None
    assert "every slot" in for_ever.reasons[0].message


BATTERY = Requirement(file="/sys/capacity", minimum=40.0, maximum=100.0)
MAINS = Requirement(command=("on-mains",))


@pytest.mark.parametrize(
    ("requirement", "value", "words"),
    [
        (BATTERY, 40.0, None),
        (BATTERY, 39.0, "/sys/capacity is 39, must be at least 40"),
        (BATTERY, 101.0, "must be at most 100"),
        (BATTERY, "cannot be read: No such file", "cannot be read"),
        (MAINS, 0.0, None),
        (MAINS, 1.0, "on-mains exited with 1"),
        (MAINS, "has not ended within 5 s", "has not ended"),
    ],
)
def test_conditions(requirement: Requirement, value: float | str, words: str | None) -> None:
    found = ask(Policy(require=(requirement,)), reading=Reading(values=(value,)))
    if words is None:
        assert found is None
        return
    assert found is not None
    assert found.until == MIDNIGHT + ASK_AGAIN_SECONDS
    assert found.reasons[0].code is ReasonCode.CONDITION
    assert words in found.reasons[0].message


def test_every_reason_is_told_and_the_last_to_end_decides() -> None:
    policy = Policy(fetch=(parse_window("03:00-04:00"),), lock="/run/lock", require=(BATTERY,))
    found = ask(policy, reading=Reading(locked=True, values=(1.0,)), holds=[Hold(slot="a", until=MIDNIGHT + 5, at=0.0)])
    assert found is not None
    assert [reason.code for reason in found.reasons] == [
        ReasonCode.HOLD,
        ReasonCode.WINDOW,
        ReasonCode.LOCKED,
        ReasonCode.CONDITION,
    ]
    assert found.until == MIDNIGHT + 3 * HOUR
    assert ask(policy, reading=Reading(values=(50.0,)), now=MIDNIGHT + 3 * HOUR) is None


# --- readings --------------------------------------------------------------------------------------------------------


def test_readings_are_what_is_found(tmp_path: Path) -> None:
    (tmp_path / "capacity").write_text("57\n")
    (tmp_path / "words").write_text("Discharging\n")
    (tmp_path / "nan").write_text("nan")
    names = ("capacity", "words", "nan", "gone")
    requirements = [Requirement(file=str(tmp_path / name), minimum=1) for name in names]
    requirements += [
        Requirement(command=("true",)),
        Requirement(command=("false",)),
        Requirement(command=("sleep", "9"), seconds=0.05),
        Requirement(command=(str(tmp_path / "gone"),)),
    ]
    found = take(Policy(lock=str(tmp_path / "lock"), require=tuple(requirements)))
    assert not found.locked
    assert found.values[0] == 57.0
    assert found.values[4:6] == (0.0, 1.0)
    told = [str(value) for value in (*found.values[1:4], *found.values[6:])]
    for value, words in zip(told, ["no number", "no number", "cannot be read", "not ended", "be started"], strict=True):
        assert words in value
    (tmp_path / "lock").touch()
    assert take(Policy(lock=str(tmp_path / "lock"))).locked
