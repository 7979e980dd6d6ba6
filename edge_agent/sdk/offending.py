"""What kind of live thing is this, and what should an author do instead? Judged by type, importing nothing for it."""

from __future__ import annotations

import io
import logging
import mmap
import queue
import selectors
import socket
import sqlite3
import subprocess
import threading
import types
import weakref
from typing import Any

__all__ = ["MAKE", "OBJECT_BYTES_MAX", "kind_of"]

OBJECT_BYTES_MAX = 256 * 1024 * 1024
"""One object larger than this does not belong into state: it is a model, and travels as a file of its own."""

MAKE = "make it in initialize(), which runs on the device too, and give it back in cleanup()"
_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    queue.SimpleQueue,
    queue.Queue,
)
_BY_TYPE: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("a socket", (socket.socket, selectors.BaseSelector), f"{MAKE}; a worker has no network"),
    ("a lock", (*_LOCKS, threading.local), "make it in __init__ or initialize(); a stage is called by one thread only"),
    ("a thread", (threading.Thread, threading.Timer), "start it in initialize() and end it in cleanup()"),
    ("a process", (subprocess.Popen,), "a worker may not start programs: do the work in predict()"),
    (
        "a generator",
        (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
        "keep what it is made from, and make it anew in initialize()",
    ),
    (
        "a weak reference",
        (weakref.ref, *weakref.ProxyTypes, weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet),
        "keep the object itself, or look it up when it is needed",
    ),
    ("a database connection", (sqlite3.Connection, sqlite3.Cursor), f"{MAKE}; ship the data with `data` or files()"),
    ("a module", (types.ModuleType,), "import it in the class's module, and use it by its name"),
    ("a stack frame", (types.FrameType, types.TracebackType), "keep the words, not the frames"),
    ("memory shared with others", (memoryview, mmap.mmap), "keep bytes(…) or an array of it"),
)
_BY_MODULE = (
    ("a model session", ("onnxruntime", "tflite_runtime"), ("InferenceSession", "Interpreter"), "use OnnxModel, or "),
    (
        "a database connection",
        ("psycopg", "psycopg2", "pymysql", "mysql", "sqlalchemy", "pymongo", "redis", "duckdb"),
        ("Connection", "Cursor", "Engine", "MongoClient", "Redis", "DuckDBPyConnection", "connection", "cursor"),
        "",
    ),
    ("a lock", ("multiprocessing", "asyncio"), ("Lock", "RLock", "Event", "Condition", "Semaphore", "Queue"), ""),
    (
        "a process",
        ("multiprocessing", "concurrent"),
        ("Process", "Pool", "ThreadPoolExecutor", "ProcessPoolExecutor"),
        "",
    ),
)
_FUNCTION = "write it as a method, or as a function of the class's module"


def kind_of(value: Any) -> tuple[str, str] | None:
    """Return kind and advice for what cannot travel in state, None for everything else."""
    if isinstance(value, logging.Logger | logging.LoggerAdapter):
        return None
    if isinstance(value, io.IOBase):
        memory = isinstance(value, io.BytesIO | io.StringIO)
        return None if memory else ("an open file", f"keep its path, return that from files(), and open it: {MAKE}")
    for kind, types_, advice in _BY_TYPE:
        if isinstance(value, types_):
            return kind, advice
    if isinstance(value, types.FunctionType):
        return _function(value)
    return _foreign(value) or _large(value)


def _function(value: types.FunctionType) -> tuple[str, str] | None:
    if value.__name__ == "<lambda>":
        return "a lambda", _FUNCTION
    return ("a nested function", _FUNCTION) if "<locals>" in value.__qualname__ else None


def _foreign(value: Any) -> tuple[str, str] | None:
    cls = type(value)
    top = str(cls.__module__).partition(".")[0]
    if top in ("torch", "jax", "jaxlib", "cupy", "tensorflow") and (place := _device(value, top)):
        return f"a tensor on {place}", "keep a copy in main memory, such as tensor.cpu(), and move it in initialize()"
    for kind, modules, names, advice in _BY_MODULE:
        if top in modules and cls.__name__ in names:
            return kind, advice + MAKE
    return None


def _device(value: Any, top: str) -> str:
    """Return where a tensor lies, empty for main memory and for what is no tensor."""
    if top == "cupy":
        return "a GPU" if type(value).__name__ == "ndarray" else ""
    try:
        device = getattr(value, "device", None)
        place = str(device() if callable(device) else device or "")
    except Exception:  # noqa: BLE001 - another library's property; then it is not known to be elsewhere
        return ""
    return "" if "cpu" in place.lower() else place


def _large(value: Any) -> tuple[str, str] | None:
    size = getattr(value, "nbytes", None) if not isinstance(value, str | bytes | bytearray) else len(value)
    if not isinstance(size, int) or size <= OBJECT_BYTES_MAX:
        return None
    return f"{size / 2**20:.0f} MiB large", f"over {OBJECT_BYTES_MAX >> 20} MiB: ship it as a file, with files()"
