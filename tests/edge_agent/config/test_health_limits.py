"""A device's limits on releases only ever tighten, and what is not sensible is refused in words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_agent.config import load
from edge_agent.config.health_limits import health_faults, incident_faults, tightened
from edge_agent.config.limits import HealthLimits, IncidentLimits
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import HealthPolicy
from tests.edge_agent.test_incidents import CONFIG

# limit of the device, what the release asks for, what holds
TABLE = [
    ("error_rate_max", 0.005, 0.01, 0.005),
    ("error_rate_max", 0.5, 0.01, 0.01),
    ("latency_ms_max", 20.0, 0.0, 20.0),
    ("latency_ms_max", 20.0, 5.0, 5.0),
    ("memory_mb_max", 256.0, 1024.0, 256.0),
    ("latency_ratio_max", 3.0, 0.0, 3.0),
    ("probation_seconds", 60.0, 10.0, 60.0),
    ("probation_seconds", 1.0, 10.0, 10.0),
    ("probation_frames", 1000, 100, 1000),
    ("start_seconds", 5.0, 30.0, 5.0),
    ("needs_broker", True, False, True),
    ("needs_broker", False, True, True),
]


@pytest.mark.parametrize(("name", "limit", "asked", "holds"), TABLE)
def test_the_stricter_of_both_holds(name: str, limit: float, asked: float, holds: float) -> None:
    policy = tightened(HealthPolicy(**{name: asked}), HealthLimits(**{name: limit}))  # type: ignore[arg-type]
    assert getattr(policy, name) == holds
    assert msgspec.structs.replace(policy, **{name: asked}) == HealthPolicy(**{name: asked})  # type: ignore[arg-type]


def test_every_limit_is_of_the_policy_and_no_limits_change_nothing() -> None:
    assert set(HealthLimits.__struct_fields__) <= set(HealthPolicy.__struct_fields__)
    assert tightened(HealthPolicy(), HealthLimits()) == HealthPolicy()


def test_what_is_not_sensible_is_named() -> None:
    limits = HealthLimits(error_rate_max=2.0, latency_ms_max=0.0, memory_mb_max=-1.0, probation_seconds=1e9)
    assert [name for name, _ in health_faults(limits)] == [
        "probation_seconds", "error_rate_max", "latency_ms_max", "memory_mb_max",
    ]  # fmt: skip
    assert [name for name, _ in incident_faults(IncidentLimits(frames=65, kilobytes=0, keep=0))] == [
        "frames", "kilobytes", "keep",
    ]  # fmt: skip
    assert list(incident_faults(IncidentLimits(frames=0))) == []


def test_the_file_has_both_sections_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    (tmp_path / "1.root.json").touch()
    (tmp_path / "data.csv").write_text("x\n1\n")
    good = "\n[slot.meter.health]\nmemory_mb_max = 256\n[incidents]\nframes = 0\nredact = ['card']\n"
    path.write_text(CONFIG + good)
    config = load(path)
    assert config.slot["meter"].health.memory_mb_max == 256.0
    assert (config.incidents.frames, config.incidents.redact) == (0, ["card"])
    path.write_text(CONFIG + "\n[slot.meter.health]\nerror_rate_max = 7\n[incidents]\nkeep = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "slot.meter.health.error_rate_max: 7 must be a share of frames" in str(caught.value)
    assert "incidents.keep: 0 must be 1 to 1000" in str(caught.value)
