"""The activity example keeps what its README says: how right releases 1 and 2 are, and how release 3 is wrong."""

from __future__ import annotations

import csv
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

ROOM = Path(__file__).resolve().parents[2] / "examples" / "activity"
DATA = ROOM / "basic_motions_test.csv"
COLUMNS = ["ax", "ay", "az", "gx", "gy", "gz"]
SAMPLES = 100
ROWS_PER_BATCH = 37  # divides neither a window nor the recording


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a module of the example as its author would, and leave no trace of it."""
    monkeypatch.syspath_prepend(str(ROOM))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOM)):
            del sys.modules[name]


def recording() -> list[dict[str, str]]:
    with DATA.open(newline="") as file:
        return list(csv.DictReader(file))


def answers(pipeline: Any) -> list[list[Any]]:
    """Run the whole recording through `pipeline` in uneven batches and return `[sequence, *row]`."""
    from edge_agent import Frame

    samples = np.array([[float(row[column]) for column in COLUMNS] for row in recording()])
    found = []
    pipeline.initialize()
    try:
        for start in range(0, len(samples), ROWS_PER_BATCH):
            values = samples[start : start + ROWS_PER_BATCH]
            numbers = np.arange(start, start + len(values), dtype=np.int64)
            out = pipeline.run(Frame(values, numbers * 100_000_000, numbers, columns=tuple(COLUMNS)))
            found += [[int(number), *row] for number, row in zip(out.sequences, out.values, strict=True)]
    finally:
        pipeline.cleanup()
    return found


def accuracy(found: list[list[Any]]) -> float:
    labels = [row["label"] for row in recording()]
    return sum(labels[number] == activity for number, activity, _ in found) / len(found)


def test_the_recording_is_small_whole_and_mixed() -> None:
    rows = recording()
    assert DATA.stat().st_size < 400_000
    assert list(rows[0]) == ["id", "t", *COLUMNS, "label"]
    assert [int(row["id"]) for row in rows] == list(range(40 * SAMPLES))
    assert [float(row["t"]) for row in rows] == [number / 10 for number in range(40 * SAMPLES)]
    labels = [{row["label"] for row in rows[start : start + SAMPLES]} for start in range(0, len(rows), SAMPLES)]
    assert all(len(window) == 1 for window in labels)
    assert all(len(set.union(*labels[block : block + 4])) == 4 for block in range(0, 40, 4))
    assert set(Counter(row["label"] for row in rows).values()) == {10 * SAMPLES}


@pytest.mark.parametrize(
    ("release", "least", "most"), [("release_1", 0.75, 0.90), ("release_2", 0.97, 1.0)], ids=["mlp", "statistics"]
)
def test_is_as_right_as_the_readme_says(load: Any, release: str, least: float, most: float) -> None:
    found = answers(load(release).pipeline)
    assert [number for number, *_ in found] == list(range(SAMPLES - 1, 40 * SAMPLES, SAMPLES))
    assert least <= accuracy(found) <= most
    assert all(0 <= confidence <= 1 for *_, confidence in found)


@pytest.mark.parametrize("release", ["release_1", "release_2", "release_3"])
def test_passes_its_self_test(load: Any, release: str) -> None:
    from edge_agent.sdk import selftest

    pipeline = load(release).pipeline
    words = selftest.check(pipeline, selftest.build(pipeline, pipeline.self_test))
    assert "3 out" in words


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_release_3_gives_evidence_without_labels_and_release_2_none(load: Any) -> None:
    def invalid(release: str) -> list[bool]:
        return [not 0 <= confidence <= 1 for *_, confidence in answers(load(release).pipeline)]

    assert not any(invalid("release_2"))
    bad = invalid("release_3")
    assert sum(bad) / len(bad) == pytest.approx(0.4)
    # Wherever probation begins, it soon sees some: one in each block of four windows.
    assert all(any(bad[block : block + 4]) for block in range(0, len(bad), 4))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_reason_names_column_and_value(load: Any) -> None:
    from edge_agent import Frame
    from edge_agent.sdk.validity import invalid_rows

    pipeline = load("release_3").pipeline
    standing = np.zeros((SAMPLES, 6))
    pipeline.initialize()
    out = pipeline.run(Frame.of(standing, columns=tuple(COLUMNS), rate_hz=10))
    count, words = invalid_rows(pipeline.output, out)
    assert count == 1
    assert "confidence" in words
    assert "nan" in words.lower()


def test_a_sensor_that_does_not_move_at_all_is_no_trouble_for_release_2(load: Any) -> None:
    """Not even the divisions by a spread of zero; the answer is a guess, but a valid one."""
    from edge_agent import Frame
    from edge_agent.sdk.validity import invalid_rows

    pipeline = load("release_2").pipeline
    pipeline.initialize()
    out = pipeline.run(Frame.of(np.zeros((SAMPLES, 6)), columns=tuple(COLUMNS), rate_hz=10))
    assert len(out) == 1
    assert invalid_rows(pipeline.output, out) == (0, "")


def test_the_models_are_a_few_kilobytes() -> None:
    sizes = {path.name: path.stat().st_size for path in ROOM.glob("*.onnx")}
    assert sorted(sizes) == ["logistic_54.onnx", "logistic_55.onnx", "mlp_raw.onnx"]
    assert max(sizes.values()) < 50_000


def test_the_self_test_is_real_data_of_the_training_half(load: Any) -> None:
    """Three windows; none of them is in the recording that devices replay."""
    with (ROOM / "self_test.csv").open(newline="") as file:
        rows = [[float(row[column]) for column in COLUMNS] for row in csv.DictReader(file)]
    replayed = {tuple(float(row[column]) for column in COLUMNS) for row in recording()}
    assert len(rows) == 3 * SAMPLES
    assert not replayed & {tuple(row) for row in rows}
