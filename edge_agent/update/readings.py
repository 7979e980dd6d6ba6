"""Looks at what local policy asks about: a lock file, numbers in files, exit codes of commands. Judges nothing.

A command may take its time, so this belongs on a helper thread. What cannot be read is told in words; it counts as a
condition that is not met.
"""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

from edge_agent.update.policy import Policy, Reading, Requirement

__all__ = ["take"]

VALUE_BYTES_MAX = 64


def take(policy: Policy) -> Reading:
    """Return what is found outside, for `policy.may`. Blocks for as long as the commands may take."""
    locked = bool(policy.lock) and Path(policy.lock).exists()
    return Reading(locked=locked, values=tuple(_value(one) for one in policy.require))


def _value(requirement: Requirement) -> float | str:
    return _exit_code(requirement) if requirement.command else _number(Path(requirement.file))


def _number(path: Path) -> float | str:
    try:
        with path.open("rb") as file:
            text = file.read(VALUE_BYTES_MAX).decode("ascii", "replace").strip()
        value = float(text)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ValueError:
        return f"holds no number: {text[:20]!r}"
    return value if math.isfinite(value) else f"holds no number: {text[:20]!r}"


def _exit_code(requirement: Requirement) -> float | str:
    try:
        done = subprocess.run(
            requirement.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=requirement.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"has not ended within {requirement.seconds:g} s"
    except OSError as error:
        return f"cannot be started: {error.strerror or error}"
    return float(done.returncode)
