"""What `edge-agent status` says of a slot's samples."""

from __future__ import annotations

import pytest

from edge_agent.cli import overview
from edge_agent.runtime import stamps


def test_odd_stamps_are_told_with_the_slot(capsys: pytest.CaptureFixture[str]) -> None:
    counters = {stamps.DUPLICATE: 1, stamps.LATE: 2, stamps.BACKWARD: 3, stamps.BACKWARD_MS_MAX: 40}
    overview._print_slot({"pipeline": "meter", "counters": counters}, running=True)
    told = "1 samples that came twice, 2 samples stamped late, 3 samples stamped back in time"
    assert f"  since the agent started: {told}\n" in capsys.readouterr().out


def test_a_first_release_on_probation_is_not_called_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    overview._print_slot({"pipeline": "meter", "candidate": "meter@1", "state": "live"}, running=True)
    overview._print_slot({"pipeline": "meter"}, running=True)
    assert capsys.readouterr().out.splitlines() == [
        "slot meter: runs no committed release yet",
        "  on its way: meter@1 (live)",
        "slot meter: runs nothing",
    ]
