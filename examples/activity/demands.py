"""What all releases of the pipeline take and give, and what a candidate must show on a device."""

from __future__ import annotations

from pathlib import Path

from edge_agent import Health, Input, Output

WATCH = Input(
    ["ax", "ay", "az", "gx", "gy", "gz"],
    unit={"ax": "m/s2", "ay": "m/s2", "az": "m/s2", "gx": "rad/s", "gy": "rad/s", "gz": "rad/s"},
    rate_hz=10,
)
ANSWER = Output(["activity", "confidence"], range={"confidence": (0, 1)})

# Three windows of a hundred samples: walking, running, badminton.
SELF_TEST = Path(__file__).with_name("self_test.csv")

# The recordings are replayed at 25 to 50 times their speed: ten windows are two to four seconds.
PROBATION = Health(shadow_frames=300, probation_frames=1000, probation_seconds=2.0)
