"""`edge_agent.run` takes all that can be run, and says how it went."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import numpy as np
import pytest

import edge_agent
from edge_agent import Code, Filter, Frame, Input, Output, Parallel, Pipeline, RunMetrics, Standardize, arun, run
from edge_agent.contract.errors import UpdateRejected
from edge_agent.sdk.container import StageError
from publisher.packaging import pack

ROWS = np.array([[1.0, 2.0], [3.0, 6.0]])


class Life(Filter):
    def __init__(self):
        self.log = []

    def initialize(self):
        self.log.append("initialize")

    def predict(self, x):
        self.log.append("predict")
        return x + 1

    def cleanup(self):
        self.log.append("cleanup")


def fitted():
    stages = [Standardize(), Code("a + b", columns=["s"])]
    return Pipeline("p", stages, input=Input(["a", "b"]), output=Output(["s"])).fit(ROWS)


PACKED = pack(fitted())
MANIFEST = {
    "struct": PACKED.manifest,
    "dict": json.loads(PACKED.data),
    "text": PACKED.data.decode(),
    "bytes": PACKED.data,
}


@pytest.mark.parametrize(
    "given", [Life(), [Life()], (("only", Life()),), Pipeline("p", [Life()]), Parallel({"a": Life()}, join="first")]
)
def test_filters_lists_and_pipelines(given):
    assert run(given, ROWS).tolist() == [[2, 3], [4, 7]]
    out = run(given, Frame.of(ROWS, start=7))
    assert isinstance(out, Frame)
    assert out.sequences.tolist() == [7, 8]


@pytest.mark.parametrize("kind", MANIFEST)
def test_manifests_with_their_blobs(kind, tmp_path: Path):
    for digest, data in PACKED.blobs.items():
        (tmp_path / digest.hex).write_bytes(data)
    by_hex = {digest.hex: data for digest, data in PACKED.blobs.items()}
    expected = fitted().predict(ROWS)
    for blobs in (PACKED.blobs, by_hex, tmp_path, lambda ref: PACKED.blobs[ref.digest]):
        np.testing.assert_array_equal(run(MANIFEST[kind], ROWS, blobs=blobs), expected)


def test_a_missing_or_wrong_blob_is_named(tmp_path: Path):
    (ref,) = PACKED.manifest.blobs()
    for blobs in (None, {}, tmp_path):
        with pytest.raises(UpdateRejected, match=f"needs blob {ref.digest}"):
            run(PACKED.manifest, ROWS, blobs=blobs)
    with pytest.raises(UpdateRejected, match="not what its digest says"):
        run(PACKED.manifest, ROWS, blobs={ref.digest: b"x" * ref.size})
    with pytest.raises(UpdateRejected, match="manifest"):
        run("{}", ROWS)


def test_metrics_say_rows_and_seconds_by_stage():
    result, metrics = run([("one", Life()), ("two", Life())], ROWS, metrics=True)
    assert result.tolist() == [[3, 4], [5, 8]]
    assert isinstance(metrics, RunMetrics)
    assert (metrics.rows_in, metrics.rows_out) == (2, 2)
    assert list(metrics.stages) == ["one", "two"]
    assert 0 < sum(metrics.stages.values()) <= metrics.seconds


def test_what_was_not_live_is_cleaned_up_again():
    life = Life()
    run(life, ROWS)
    assert life.log == ["initialize", "predict", "cleanup"]
    pipeline = Pipeline("p", [life])
    pipeline.initialize()
    life.log.clear()
    run(pipeline, ROWS)
    assert life.log == ["predict"]


def test_failures_name_the_stage_and_end_what_was_started():
    life = Life()
    for bad in (Code("missing"), Parallel({"a": [("code", Code("missing"))]})):
        life.log.clear()
        with pytest.raises(StageError, match="stage 'code': NameError"):
            run([life, bad], ROWS)
        assert life.log[-1] == "cleanup"


def test_nothing_yet_is_no_failure():
    result, metrics = run([edge_agent.Window(5), Life()], ROWS, metrics=True)
    assert (len(result), metrics.rows_out) == (0, 0)


def test_arun_lets_the_loop_go_on():
    class Slow(Filter):
        async def predict(self, x):
            await asyncio.wait_for(asyncio.to_thread(beat.wait), 10)
            return x

    beat = threading.Event()

    async def main():
        running = asyncio.create_task(arun(Slow(), ROWS, metrics=True))
        await asyncio.sleep(0)
        beat.set()
        return await running

    result, metrics = asyncio.run(main())
    assert result.tolist() == ROWS.tolist()
    assert metrics.rows_in == 2


def test_the_callers_rows_stay_as_they_are():
    class InPlace(Filter):
        def predict(self, x):
            x += 1
            return x

    frame = Frame.of(ROWS.copy())
    run(InPlace(), frame)
    assert frame.values.tolist() == ROWS.tolist()


def test_what_cannot_be_run_is_said():
    with pytest.raises(TypeError, match="a int cannot be run"):
        run(3, ROWS)
