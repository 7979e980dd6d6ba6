"""Read BasicMotions as the `aeon` distribution packs it: sktime's `.ts` text, from the wheel or a folder.

Used to prepare data and to train, on the workstation only; nothing here travels to a device.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

COLUMNS = ("ax", "ay", "az", "gx", "gy", "gz")
SAMPLES = 100
FOLDER = "aeon/datasets/data/BasicMotions"


def read_half(source: Path, half: str) -> tuple[np.ndarray, np.ndarray]:
    """Return windows [40, 100, 6] (m/s² and rad/s, 10 Hz) and their labels; `half` is TRAIN or TEST."""
    name = f"BasicMotions_{half}.ts"
    if source.is_dir():
        text = (source / name).read_text()
    else:
        with zipfile.ZipFile(source) as wheel:
            text = wheel.read(f"{FOLDER}/{name}").decode()
    windows, labels = _parse(text.splitlines())
    if windows.shape[1:] != (SAMPLES, len(COLUMNS)):
        raise ValueError(f"{name} holds windows of {windows.shape[1:]}, not {(SAMPLES, len(COLUMNS))}")
    return windows, labels


def _parse(lines: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Parse `channel:channel:…:label` lines after `@data`."""
    lines = iter(lines)
    for line in lines:
        if line.strip().lower() == "@data":
            break
    windows, labels = [], []
    for line in lines:
        if line.strip():
            *channels, label = line.strip().split(":")
            windows.append([[float(value) for value in channel.split(",")] for channel in channels])
            labels.append(label)
    return np.array(windows).transpose(0, 2, 1), np.array(labels)
