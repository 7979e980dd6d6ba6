"""What a device allows releases, whatever their manifests ask for (§10): its limits only ever tighten a policy.

A release says what it must show; the device's owner says how much it may use. The stricter of both holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from edge_agent.config.limits import HealthLimits, IncidentLimits
from edge_agent.contract.manifest import HealthPolicy

__all__ = ["health_faults", "incident_faults", "limits_set", "tightened"]

# Where more is stricter, and where 0 means no limit at all.
_AT_LEAST = ("probation_seconds", "probation_frames", "shadow_frames")
_ZERO_IS_NONE = (
    *("latency_ms_max", "latency_ratio_max", "memory_mb_max", "memory_growth_mb_max", "disagreement_max"),
    *("rows_ratio_max", "printed_kb_max"),
)
SECONDS_MAX = 7 * 86_400.0
FRAMES_MAX, KILOBYTES_MAX, KEEP_MAX = 64, 4096, 1000


def tightened(policy: HealthPolicy, limits: HealthLimits) -> HealthPolicy:
    """Return the policy that holds on a device with these limits."""
    changed = {}
    for name, limit in limits_set(limits).items():
        asked = getattr(policy, name)
        if name in _AT_LEAST:
            changed[name] = max(asked, limit)
        elif name == "needs_broker":
            changed[name] = bool(asked or limit)
        else:
            unlimited = name in _ZERO_IS_NONE and asked == 0
            changed[name] = limit if unlimited else min(asked, limit)
    return msgspec.structs.replace(policy, **changed)


def limits_set(limits: HealthLimits) -> dict[str, float]:
    """Return the limits that the device's file names."""
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}


def health_faults(section: HealthLimits) -> Iterator[tuple[str, str]]:
    """Yield (key, words) for what is not sensible."""
    for name, value in limits_set(section).items():
        if not math.isfinite(value) or value < 0:
            yield name, f"{value:g} must be 0 or more, and finite"
        elif value == 0 and name in (*_ZERO_IS_NONE, "start_seconds", "heartbeat_seconds"):
            yield name, "0 is no limit: leave the key out to let releases have their own"
        elif name.endswith("_seconds") and value > SECONDS_MAX:
            yield name, f"{value:g} must be at most {SECONDS_MAX:g}: nothing would ever be committed"
        elif name == "error_rate_max" and value > 1:
            yield name, f"{value:g} must be a share of frames, 0 to 1"


def incident_faults(section: IncidentLimits) -> Iterator[tuple[str, str]]:
    """Yield (key, words) for what is not sensible."""
    for name, most, least in (("frames", FRAMES_MAX, 0), ("kilobytes", KILOBYTES_MAX, 1), ("keep", KEEP_MAX, 1)):
        value = getattr(section, name)
        if not least <= value <= most:
            yield name, f"{value} must be {least} to {most}"
