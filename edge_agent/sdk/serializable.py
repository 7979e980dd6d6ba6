"""Can a filter's attributes travel? Every one that cannot, by its path, with what to do about it (F6).

It looks before anything is packed and touches nothing. Live things (files, sockets, locks, threads, …) are offences
wherever they hide; objects of other classes are not, since a pickle may hold them. Loggers are no offence, they are
found again by name, nor are cycles, nor what the constructor or `initialize()` makes anew on the device.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import state
from edge_agent.sdk.filter import construct, parameters_of
from edge_agent.sdk.offending import MAKE, OBJECT_BYTES_MAX, kind_of
from edge_agent.sdk.parameters import encode_parameters
from edge_agent.sdk.pickled import PROTOCOL

__all__ = ["OBJECT_BYTES_MAX", "Offence", "require_serializable", "validate_serializable"]

OBJECTS_MAX = 200_000
OFFENCES_MAX = 100


@dataclass(frozen=True)
class Offence:
    """One attribute that cannot travel: where it is, what it is, and what to do instead."""

    path: str
    kind: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path} is {self.kind}: {self.advice}"


def validate_serializable(target: Any) -> list[Offence]:
    """Return every offence in the attributes of a filter, or of all filters of a pipeline; at most `OFFENCES_MAX`.

    The filter is only looked at. Where offences are found, a twin is constructed and initialized to tell what the
    device makes for itself.
    """
    if hasattr(target, "every_stage"):
        stages = [one for one in target.every_stage() if not hasattr(one[1], "every_stage")]
        found = [
            Offence(f"stage {name!r}: {one.path}", one.kind, one.advice)
            for name, member in stages
            for one in validate_serializable(member)
        ]
        return found[:OFFENCES_MAX]
    try:
        parameters = parameters_of(target)
    except AuthorError as error:
        return [Offence(type(target).__qualname__, "not constructible", str(error))]
    files = target.files() if hasattr(target, "files") else {}
    return [
        *_parameters(target, {name: value for name, value in parameters.items() if name not in files}),
        *_attributes(target, parameters),
    ][:OFFENCES_MAX]


def require_serializable(target: Any) -> None:
    """Raise `AuthorError` with all offences of `target`, if it has any."""
    found = validate_serializable(target)
    if found:
        raise AuthorError("; ".join(map(str, found)))


def _parameters(target: Any, parameters: dict[str, Any]) -> Iterator[Offence]:
    for name, value in parameters.items():
        try:
            encode_parameters({name: value})
        except TypeError as error:
            path, _, rest = str(error).removeprefix("parameter ").partition(" is a ")
            kind, _, advice = rest.partition(", which cannot be shipped: ")
            yield Offence(
                f"parameter {path}", f"a {kind}" if kind else "no value that can be kept", advice or str(error)
            )


def _attributes(target: Any, parameters: dict[str, Any]) -> list[Offence]:
    content = state._content(target)
    cls = type(target).__qualname__
    if not isinstance(content, dict):
        return list(_Walk(target).offences(content, f"{cls}.__getstate__()"))
    found = {
        name: offences
        for name, value in content.items()
        if name not in parameters and (offences := list(_Walk(target).offences(value, f"{cls}.{name}")))
    }
    for name in _made_anew(target, parameters, content, set(found)) if found else ():
        del found[name]
    return [one for offences in found.values() for one in offences]


def _made_anew(target: Any, parameters: dict[str, Any], content: dict[str, Any], names: set[str]) -> set[str]:
    """Return which of `names` a device has by itself: from the constructor, or from `initialize()`."""
    try:
        twin = construct(type(target), parameters)
    except AuthorError:
        return set()
    fresh = state._content(twin)
    fresh = fresh if isinstance(fresh, dict) else {}
    same = {name for name in names if name in fresh and state._alike(content[name], fresh[name], target, twin)}
    given = {name: value for name, value in content.items() if name not in names and name not in parameters}
    return same | (state._initialized(twin, given) & names)


class _Walk:
    """One walk through everything that hangs on an attribute, each object once."""

    def __init__(self, owner: Any) -> None:
        self._seen = {id(owner)}
        self._kept: list[Any] = []  # ids are only unique among living objects

    def offences(self, value: Any, path: str) -> Iterator[Offence]:
        """Yield all offences in `value`. Goes in depth, with a stack of its own: nesting may be deep."""
        waiting = [(value, path)]
        while waiting and len(self._seen) < OBJECTS_MAX:
            one, where = waiting.pop()
            if one is None or type(one) in (bool, int, float, complex) or id(one) in self._seen:
                continue
            self._seen.add(id(one))
            self._kept.append(one)
            found = kind_of(one) or _refused(one)
            if found is not None:
                yield Offence(where, *found)
            else:
                waiting += reversed([*_parts(one, where)])


def _refused(value: Any) -> tuple[str, str] | None:
    """Say of an object that cannot tell how it is written, and that pickle cannot write, that it must be made anew."""
    kind = type(value)
    own = any(getattr(kind, n) is not getattr(object, n, None) for n in ("__reduce__", "__reduce_ex__", "__getstate__"))
    if own or isinstance(value, type | FunctionType | MethodType) or kind in copyreg.dispatch_table:
        return None
    try:
        value.__reduce_ex__(PROTOCOL)
    except TypeError:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return f"a {name}, which pickle cannot write", MAKE
    except Exception:  # noqa: BLE001 - an author's property may do anything; packing will say so
        return None
    return None


def _parts(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    """Yield what `value` is made of, with paths."""
    if isinstance(value, str | bytes | bytearray | type | FunctionType | np.generic):
        return
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            yield from ((one, f"{where}.flat[{place}]") for place, one in enumerate(value.ravel().tolist()))
    elif isinstance(value, functools.partial):
        yield from ((value.func, f"{where}.func"), (value.args, f"{where}.args"), (value.keywords, f"{where}.keywords"))
    elif isinstance(value, MethodType):
        yield value.__self__, f"{where}.__self__"
    else:
        yield from _members(value, where)
        # Who says itself how it is written is not looked into.
        if all(getattr(type(value), name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__")):
            yield from _inside(value, where)


def _members(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, f"{where} key {key!r:.80}"
            yield one, f"{where}[{key!r:.80}]"
    elif isinstance(value, list | tuple):
        yield from ((one, f"{where}[{place}]") for place, one in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((one, f"{where}{{{one!r:.80}}}") for one in value)


def _inside(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    if not hasattr(value, "__dict__") and not hasattr(type(value), "__slots__"):
        return
    try:
        content = state._content(value)
    except Exception:  # noqa: BLE001 - an author's __getstate__ may do anything; packing will say so
        return
    if isinstance(content, dict):
        yield from ((one, f"{where}.{name}") for name, one in content.items())
    elif content is not None:
        yield content, f"{where}.__getstate__()"
