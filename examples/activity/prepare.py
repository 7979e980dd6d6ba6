"""Write `basic_motions_test.csv` (what the devices replay) and `self_test.csv` (what a release ships).

    python prepare.py aeon-1.6.0-py3-none-any.whl

The order of the test windows is fixed and mixes the activities: every block of four holds each of them once.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from basic_motions import COLUMNS, SAMPLES, read_half

HERE = Path(__file__).parent
RATE_HZ = 10
# Training windows in which it is plain to see what is going on: walking, running, badminton.
SELF_TEST = ("Walking", "Running", "Badminton")


def main(source: Path) -> None:
    windows, labels = read_half(source, "TEST")
    order = mixed(labels, seed=2)
    with (HERE / "basic_motions_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "t", *COLUMNS, "label"))
        for place, index in enumerate(order):
            for step, sample in enumerate(windows[index]):
                number = place * SAMPLES + step
                writer.writerow((number, number / RATE_HZ, *map(_short, sample), labels[index]))

    windows, labels = read_half(source, "TRAIN")
    with (HERE / "self_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for activity in SELF_TEST:
            clearest = max(np.flatnonzero(labels == activity), key=lambda index: np.abs(windows[index, :, 0]).mean())
            writer.writerows([*map(_short, sample)] for sample in windows[clearest])


def mixed(labels: np.ndarray, *, seed: int) -> list[int]:
    """Return window indices in blocks that hold each label once, in a random but fixed order."""
    generator = np.random.default_rng(seed)
    queues = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return [int(index) for block in zip(*queues, strict=True) for index in generator.permutation(block)]


def _short(value: float) -> str:
    """Return the source's six decimals without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
