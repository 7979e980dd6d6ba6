"""Async filters: one event loop for all calls of a thread, beside sync ones, also where a loop runs already."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import numpy as np

from edge_agent import Filter, Frame, Input, Output, Pipeline

ROWS = np.arange(4.0).reshape(2, 2)


class Asks(Filter):
    """Answers through a task of its own, which was started by `initialize`."""

    async def initialize(self) -> None:
        self.loops = {asyncio.get_running_loop()}
        self.questions: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(self.answer())

    async def answer(self) -> None:
        while True:
            await self.answers.put(await self.questions.get() + 1)

    async def predict(self, x: Any) -> Any:
        self.loops.add(asyncio.get_running_loop())
        await self.questions.put(x)
        return await self.answers.get()

    async def cleanup(self) -> None:
        self.loops.add(asyncio.get_running_loop())
        self.task.cancel()


class Doubles(Filter):
    def predict(self, x: Any) -> Any:
        return x * 2


class Numbered(Filter):
    async def transform(self, x: Any, *, frame: Frame) -> Any:
        await asyncio.sleep(0)
        return x + frame.sequences[:, np.newaxis]


def make() -> Pipeline:
    stages = [("a", Doubles()), ("b", Asks()), ("c", Doubles()), ("d", Numbered())]
    return Pipeline("p", stages, input=Input(["x", "y"]), output=Output(["x", "y"]))


EXPECTED = (ROWS * 2 + 1) * 2 + [[0], [1]]


def test_all_calls_of_a_pipeline_run_in_one_loop_beside_sync_stages() -> None:
    pipeline = make()
    pipeline.initialize()
    for _ in range(3):
        assert np.array_equal(pipeline.predict(ROWS), EXPECTED)
        assert np.array_equal(pipeline.run(Frame.of(ROWS)).values, EXPECTED)
    asks = pipeline["b"]
    assert isinstance(asks, Asks)
    pipeline.cleanup()
    assert len(asks.loops) == 1


def test_where_a_loop_runs_already_another_one_is_used_for_all_calls() -> None:
    async def within() -> tuple[Any, Any, set[Any]]:
        pipeline = make()
        pipeline.initialize()
        found = pipeline.predict(ROWS), pipeline.predict(ROWS), pipeline["b"].loops  # type: ignore[union-attr]
        pipeline.cleanup()
        return (*found[:2], found[2] | {asyncio.get_running_loop()})

    first, second, loops = asyncio.run(within())
    assert np.array_equal(first, EXPECTED)
    assert np.array_equal(second, EXPECTED)
    assert len(loops) == 2


class Outer(Filter):
    """Asks a pipeline of async filters from within an async filter."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner=inner)

    async def predict(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return self.inner.predict(x)


def test_an_async_filter_may_run_a_pipeline_with_async_filters() -> None:
    inner = make()
    outer = Pipeline("o", [Outer(inner)], input=Input(["x", "y"]), output=Output(["x", "y"]))
    assert np.array_equal(outer.predict(ROWS), EXPECTED)

    async def clean_up() -> None:
        inner.cleanup()

    asyncio.run(clean_up())  # where a loop runs, as it was initialized


def test_a_thread_leaves_no_loop_behind() -> None:
    loops: list[Any] = []

    class Notes(Filter):
        async def predict(self, x: Any) -> Any:
            loops.append(asyncio.get_running_loop())
            return x

    pipeline = Pipeline("p", [Notes()], input=Input(["x", "y"]), output=Output(["x", "y"]))
    thread = threading.Thread(target=lambda: [pipeline.predict(ROWS) for _ in range(2)])
    thread.start()
    thread.join(10)
    assert loops[0] is loops[1]
    assert loops[0].is_closed()


SCRIPT = """
import asyncio
from edge_agent import Filter, Input, Output, Pipeline

class Waits(Filter):
    async def predict(self, x):
        self.left = asyncio.create_task(asyncio.sleep(3600))
        return x

print(Pipeline("p", [Waits()], input=Input(["x"]), output=Output(["x"])).predict([[1.0]]))
"""


def test_a_process_ends_without_a_word_about_loops() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[[1.]]\n", "")
