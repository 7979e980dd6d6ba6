"""Every attribute that cannot travel is found, by its path, and nothing else is."""

from __future__ import annotations

import functools
import io
import logging
import re
import socket
import sqlite3
import ssl
import sys
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import pytest

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import offending
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.parallel import Parallel
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.serializable import require_serializable, validate_serializable


class Holder(Filter):
    """Holds whatever it is given after construction."""

    def predict(self, x):
        return x


class Thing:
    """Neither plain nor live."""


class Slotted:
    __slots__ = ("inner",)


class torch:
    class Tensor:
        __module__ = "torch"

        def __init__(self, device):
            self.device = device


def holding(**attributes):
    made = Holder()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def generator():
    yield 1


LIVE = {
    "open file": (lambda: Path(__file__).open(), "an open file", "files()"),  # noqa: SIM115
    "socket": (socket.socket, "a socket", "no network"),
    "lock": (threading.Lock, "a lock", "make it in __init__"),
    "event": (threading.Event, "a lock", "make it in __init__"),
    "thread": (threading.Thread, "a thread", "start it in initialize()"),
    "generator": (generator, "a generator", "make it anew"),
    "weak reference": (lambda: weakref.ref(Thing), "a weak reference", "keep the object"),
    "weak dictionary": (weakref.WeakValueDictionary, "a weak reference", "keep the object"),
    "database": (lambda: sqlite3.connect(":memory:"), "a database connection", "initialize()"),
    "module": (lambda: np, "a module", "import it in the class's module"),
    "lambda": (lambda: lambda x: x, "a lambda", "write it as a method"),
    "nested function": (lambda: functools.wraps(generator)(lambda: 0), None, None),
    "partial of a lambda": (lambda: functools.partial(lambda x: x, 1), "a lambda", "write it as a method"),
    "frame": (sys._getframe, "a stack frame", "keep the words"),
    "mapping proxy": (lambda: vars(Thing), "a mappingproxy, which pickle cannot write", "initialize()"),
    "encryption": (lambda: ssl.create_default_context(), "a ssl.SSLContext", "initialize()"),
    "pattern": (lambda: re.compile("x"), None, None),
    "ufunc": (lambda: np.sin, None, None),
    "view": (lambda: memoryview(b"x"), "memory shared", "bytes"),
    "tensor": (lambda: torch.Tensor("cuda:0"), "a tensor on cuda:0", "tensor.cpu()"),
    "tensor in memory": (lambda: torch.Tensor("cpu"), None, None),
    "logger": (lambda: logging.getLogger("x"), None, None),
    "memory file": (lambda: io.BytesIO(b"x"), None, None),
    "object": (Thing, None, None),
    "function": (lambda: generator, None, None),
    "class": (lambda: Thing, None, None),
    "array": (lambda: np.zeros(3), None, None),
}


@pytest.mark.parametrize("case", LIVE)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_live_things(case):
    make, kind, advice = LIVE[case]
    found = validate_serializable(holding(held=make()))
    assert len(found) == (kind is not None)
    for offence in found:
        assert offence.path.startswith("Holder.held")
        assert offence.kind.startswith(kind)
        assert advice in offence.advice


def test_every_offence_is_named_by_its_path():
    thing, slotted = Thing(), Slotted()
    thing.call = lambda: 0
    slotted.inner = [threading.Lock()]
    objects = np.empty(2, object)
    objects[1] = np
    target = holding(deep={"a": [1, (thing, {"b": slotted})]}, objects=objects, method=thing.__init__, keys={np: 1})
    assert [one.path for one in validate_serializable(target)] == [
        "Holder.deep['a'][1][0].call",
        "Holder.deep['a'][1][1]['b'].inner[0]",
        "Holder.objects.flat[1]",
        f"Holder.keys key {np!r:.80}",
    ]


def test_cycles_end():
    ring: list[object] = [Thing()]
    ring.append(ring)
    ring[0].ring = ring
    target = holding(ring=ring)
    target.me = target
    assert validate_serializable(target) == []
    ring.append(threading.Lock())
    assert [one.path for one in validate_serializable(target)] == ["Holder.ring[2]"]


def test_what_is_shared_is_named_once_and_deep_nesting_is_no_trouble():
    deep: object = threading.Lock()
    shared = deep
    for _ in range(5000):
        deep = [deep]
    found = validate_serializable(holding(deep=deep))
    assert len(found) == 1
    assert found[0].path.endswith("[0]" * 5000)
    assert len(validate_serializable(holding(a=[shared, shared]))) == 1


class Sound(Filter):
    """Makes all its live things where they belong."""

    def __init__(self, gain=1.0):
        super().__init__(gain=gain)
        self.lock = threading.Lock()
        self.log = logging.getLogger("sound")
        self.socket = None

    def initialize(self):
        self.socket = socket.socket()
        self.call = lambda x: x

    def cleanup(self):
        self.socket.close()


def test_what_a_device_makes_for_itself_is_no_offence():
    live = Sound()
    live.initialize()
    kept = dict(vars(live))
    try:
        assert validate_serializable(live) == []
        assert vars(live) == kept
        live.extra = [live.socket]
        assert [one.path for one in validate_serializable(live)] == ["Sound.extra[0]"]
        assert live.socket.fileno() >= 0
    finally:
        live.cleanup()


def test_getstate_says_what_travels():
    class Careful(Holder):
        def __getstate__(self):
            return {"kept": 1}

        def __setstate__(self, state):
            pass

    class Opaque(Careful):
        def __getstate__(self):
            return [1, np]

    careful = Careful()
    careful.lock = threading.Lock()
    assert validate_serializable(careful) == []
    opaque = f"{Opaque.__qualname__}.__getstate__()[1]"
    assert [one.path for one in validate_serializable(Opaque())] == [opaque]
    nested = holding(inner=careful, other=Opaque())
    assert [one.path for one in validate_serializable(nested)] == ["Holder.other.__getstate__()[1]"]


def test_objects_over_the_cap(monkeypatch):
    monkeypatch.setattr(offending, "OBJECT_BYTES_MAX", 1000)
    target = holding(a=np.zeros(200), b=b"x" * 2000, c=np.zeros(10), d="y" * 999)
    found = validate_serializable(target)
    assert [one.path for one in found] == ["Holder.a", "Holder.b"]
    assert "ship it as a file" in found[0].advice


class Tuned(Holder):
    def __init__(self, how=None, where=None):
        super().__init__(how=how, where=where)


class Forgetful(Filter):
    def __init__(self, how):
        pass


def test_parameters_are_named_too():
    found = validate_serializable(Tuned(how=[1, lambda x: x], where=types.SimpleNamespace()))
    assert [one.path for one in found] == ["parameter how[1]", "parameter where"]
    assert found[0].kind == "a function"
    assert "pass a name and choose by it" in found[0].advice
    (one,) = validate_serializable(Forgetful(1))
    assert "keeps no attribute of that name" in one.advice


def test_a_pipeline_is_looked_through_as_a_whole():
    bad = holding(lock=threading.Lock())
    pipeline = Pipeline("p", [Holder(), Parallel({"a": [("inner", bad)]}), Pipeline("q", [("last", Tuned(how=print))])])
    assert [str(one).split(":")[0] for one in validate_serializable(pipeline)] == ["stage 'inner'", "stage 'last'"]
    with pytest.raises(
        AuthorError,
        match=r"stage 'inner': Holder.lock is a lock: make it in __init__.*; stage 'last': parameter how is a",
    ):
        require_serializable(pipeline)
    require_serializable(Pipeline("p", [Holder()]))
