"""Where the coroutines of `async` filters run: in one event loop for each thread that runs pipelines.

What a filter opens in `async def initialize` belongs to a loop, so its `predict` must find the same one. It starts no
loop for pipelines that await nothing, and decides nothing about time: whoever waits for a frame does.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import inspect
import threading
from typing import Any

__all__ = ["settle"]


class _Loop:
    """This thread's loop. It ends with the thread, or with the process."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        atexit.register(self._runner.close)

    def run(self, awaitable: Any) -> Any:
        return self._runner.run(_await(awaitable))

    def __del__(self) -> None:
        atexit.unregister(self._runner.close)
        with contextlib.suppress(RuntimeError):  # a loop that still runs: its thread was given up
            self._runner.close()


class _Own(threading.local):
    loop: _Loop | None = None
    helper: concurrent.futures.ThreadPoolExecutor | None = None


_own = _Own()


def settle(result: Any) -> Any:
    """Return `result`, awaited if it is awaitable, also where a loop runs already (a notebook, a web service)."""
    if not inspect.isawaitable(result):
        return result
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if _own.loop is None:
            _own.loop = _Loop()
        return _own.loop.run(result)
    # A running loop cannot be waited in. Its thread gets one helper, which has a loop of its own and keeps it.
    if _own.helper is None:
        _own.helper = concurrent.futures.ThreadPoolExecutor(1, "async-filters")
    return _own.helper.submit(settle, result).result()


async def _await(awaitable: Any) -> Any:
    return await awaitable
