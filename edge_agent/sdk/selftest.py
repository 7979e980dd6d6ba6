"""Self-tests: frames shipped with a release, and what the pipeline made of them on the author's machine.

Numbers must agree within a tolerance, since processors differ in the last digits; all else exactly. A check leaves the
pipeline as it found it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.state import undisturbed
from edge_agent.sdk.validity import invalid_rows

__all__ = ["ROWS_MAX", "SelfTestFailed", "build", "check", "equal", "read", "shown"]

ROWS_MAX = 10_000
_FORMAT = 1


class SelfTestFailed(AuthorError, AssertionError):
    """The pipeline gave something else than on the author's machine; the message names row, column and both values."""


def build(pipeline: Pipeline, given: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> bytes:
    """Run `pipeline` on `given` (array or `Frame`) and return input, output and tolerance as a blob.

    Raises `AuthorError` if there are more than `ROWS_MAX` rows or no output comes, `StageError` if a stage fails.
    """
    frame = pipeline.frame_of(given)
    if not 0 < len(frame) <= ROWS_MAX:
        raise AuthorError(f"the self-test of {pipeline.name} has {len(frame)} rows: give it 1 to {ROWS_MAX}")
    encoded = frame.to_bytes()  # before a stage may work in place
    result = _run(pipeline, frame)
    if not len(result):
        raise AuthorError(
            f"the self-test of {pipeline.name} shows nothing: its {len(frame)} rows give no output "
            f"(windows need {pipeline.history} samples to be sure of one): give it more rows"
        )
    return plain.encode(
        {
            "format": _FORMAT,
            "input": encoded,
            "expected": _listed(result),
            "columns": list(result.columns),
            "rtol": rtol,
            "atol": atol,
        },
        f"the self-test of {pipeline.name}",
    )


def check(pipeline: Pipeline, data: bytes) -> str:
    """Run the self-test in `data` and return its result in words: "12 rows in, 3 out, equal within 1e-04".

    Raises `SelfTestFailed`, `StageError` if a stage fails, `ValueError` if `data` is no self-test.
    """
    frame, content = read(data)
    found = _listed(_run(pipeline, frame))
    expected = content.get("expected")
    if expected is None:
        return f"{len(frame)} rows in, {len(found)} out"
    rtol, atol = float(content["rtol"]), float(content["atol"])
    if len(found) != len(expected):
        raise SelfTestFailed(
            f"{len(frame)} rows in, {len(found)} out; on the author's machine {len(expected)} came out"
        )
    for row, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        _compare_rows(row, mine, theirs, content.get("columns") or [], rtol, atol)
    return f"{len(frame)} rows in, {len(found)} out, equal within {rtol:.0e}"


def read(data: bytes) -> tuple[Frame, dict[str, Any]]:
    """Return a self-test's input, and all it says: `expected`, `columns`, `rtol`, `atol`. Raises `ValueError`."""
    content = plain.decode(data)
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("input"), bytes):
        raise ValueError("not a self-test, or one of a format that this version does not read")
    return Frame.from_bytes(content["input"]), content


def _run(pipeline: Pipeline, frame: Frame) -> Frame:
    pipeline.initialize()
    with undisturbed(member for _, member in pipeline.every_stage() if isinstance(member, Filter)):
        pipeline.reset()
        result = pipeline.run(frame)
    if pipeline.output.columns:
        _require_valid(pipeline, result)
    return result


def _require_valid(pipeline: Pipeline, result: Frame) -> None:
    """What a device would count against the release in probation does not pass its own test either."""
    invalid, words = invalid_rows(pipeline.output, result)
    if invalid:
        raise SelfTestFailed(
            f"{invalid} of {len(result)} results of {pipeline.name} are not what its output declares: {words}"
        )


def _listed(frame: Frame) -> list[Any]:
    return frame.values.tolist() if isinstance(frame.values, np.ndarray) else frame.values


def _compare_rows(row: int, found: Any, expected: Any, columns: list[str], rtol: float, atol: float) -> None:
    if not isinstance(found, list) or not isinstance(expected, list) or len(found) != len(expected):
        if not equal(found, expected, rtol, atol):
            raise SelfTestFailed(f"row {row}: expected {shown(expected)}, got {shown(found)}")
        return
    for place, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        if not equal(mine, theirs, rtol, atol):
            name = columns[place] if place < len(columns) else str(place)
            raise SelfTestFailed(
                f"row {row}, column {name!r}: expected {shown(theirs)}, got {shown(mine)} (tolerance {rtol:.0e})"
            )


def equal(found: Any, expected: Any, rtol: float, atol: float) -> bool:
    """Tell whether two values agree: numbers within the tolerance (NaN with NaN), all else exactly."""
    if isinstance(found, int | float) and isinstance(expected, int | float):
        if math.isnan(found) or math.isnan(expected):
            return math.isnan(found) and math.isnan(expected)
        return math.isclose(found, expected, rel_tol=rtol, abs_tol=atol)
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            equal(one, other, rtol, atol) for one, other in zip(found, expected, strict=True)
        )
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key], rtol, atol) for key in found)
    return bool(found == expected)


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:120]
