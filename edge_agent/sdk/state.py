"""State: what an instance has learned, as plain data (F5). No pickle, in neither direction.

State is every attribute that differs from those of a twin, constructed afresh from the same parameters, whatever it is
called. What only `initialize()` makes, and plain data cannot say (sessions, handles), is left out; everything else that
cannot be said is refused by name. The live instance is only looked at, never changed.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain
from edge_agent.sdk.filter import construct, parameters_of
from edge_agent.sdk.step import settle

__all__ = ["capture", "restore", "undisturbed"]

_FORMAT = 1
_RECORDED = "_parameter_names"
_STATELESS = (
    logging.Logger,
    logging.LoggerAdapter,
    threading.Event,
    threading.Condition,
    threading.Semaphore,
    type(threading.Lock()),
    type(threading.RLock()),
)


def capture(target: Any) -> bytes | None:
    """Return the state of a filter, None if it has none. `__getstate__` and `__setstate__` are honoured.

    Raises `AuthorError` naming all attributes that cannot be shipped, with the way out.
    """
    parameters = parameters_of(target)
    twin = construct(type(target), parameters)
    content, fresh = _content(target), _content(twin)
    if not isinstance(content, dict):
        return _capture_opaque(target, content, fresh)
    given = [name for name in content if name in parameters or name == _RECORDED]
    learned = {name: value for name, value in content.items() if name not in given}
    changed = _changed(target, twin, learned, fresh if isinstance(fresh, dict) else {})
    if hasattr(type(target), "__setstate__"):
        # An author's __setstate__ may count on every key, not only on those that changed.
        changed = (
            {name: value for name, value in learned.items() if name in changed or _plain(value)} if changed else {}
        )
    removed = [name for name in fresh if name not in content] if isinstance(fresh, dict) else []
    if not changed and not removed:
        return None
    return plain.encode({"format": _FORMAT, "attributes": changed, "removed": removed, "given": given})


def restore(target: Any, data: bytes) -> None:
    """Give a freshly constructed filter the state that `capture` returned. Raises `ValueError` for foreign bytes."""
    content = plain.decode(data)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"state of {type(target).__qualname__}: not a state, or of a format this version does not read"
        )
    if "opaque" in content:
        target.__setstate__(content["opaque"])
        return
    attributes = content.get("attributes")
    if not isinstance(attributes, dict):
        raise ValueError(f"state of {type(target).__qualname__} has no attributes")
    if hasattr(type(target), "__setstate__"):
        own = _attributes(target)
        target.__setstate__({**{name: own[name] for name in content["given"] if name in own}, **attributes})
        return
    for name in content["removed"]:
        if name in _attributes(target):
            object.__delattr__(target, name)
    for name, value in attributes.items():
        object.__setattr__(target, name, value)


@contextlib.contextmanager
def undisturbed(targets: Iterable[Any]) -> Iterator[None]:
    """Run the body, then put the attributes of `targets` back as they were; what cannot be copied is kept as it is."""
    before = [(target, {name: _copied(value) for name, value in _attributes(target).items()}) for target in targets]
    try:
        yield
    finally:
        for target, attributes in before:
            for name in _attributes(target):
                if name not in attributes:
                    object.__delattr__(target, name)
            for name, value in attributes.items():
                object.__setattr__(target, name, value)


def _capture_opaque(target: Any, content: Any, fresh: Any) -> bytes | None:
    cls = type(target).__qualname__
    if not hasattr(type(target), "__setstate__"):
        raise AuthorError(
            f"{cls}.__getstate__ returns a {type(content).__name__}, so the class needs a __setstate__ that takes it"
        )
    try:
        data = plain.encode(content, f"{cls}.__getstate__()")
    except TypeError as error:
        raise AuthorError(f"{error}: return plain values") from None
    return None if _equals(data, fresh) else plain.encode({"format": _FORMAT, "opaque": content})


def _changed(target: Any, twin: Any, learned: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Return what of `learned` differs from `fresh`; refuse what differs and is not plain."""
    changed, refused = {}, {}
    for name, value in learned.items():
        try:
            data = plain.encode(value, f"{type(target).__qualname__}.{name}")
        except TypeError as error:
            if name not in fresh or not _alike(value, fresh[name], target, twin):
                refused[name] = str(error)
            continue
        if name not in fresh or not _equals(data, fresh[name]):
            changed[name] = value
    if refused:
        for name in _initialized(twin, changed):
            refused.pop(name, None)
    if refused:
        raise AuthorError(
            f"{'; '.join(refused.values())}. Make it in initialize(), which runs on the device too, "
            "keep plain values instead, or leave it out with __getstate__"
        )
    return changed


def _initialized(twin: Any, changed: dict[str, Any]) -> set[str]:
    """Return the attributes that `initialize()` sets, found out on the twin."""
    before = {**_attributes(twin)}
    for name, value in changed.items():
        object.__setattr__(twin, name, copy.deepcopy(value))
    try:
        settle(twin.initialize())
        made = {name for name, value in _attributes(twin).items() if value is not before.get(name)}
    except Exception:  # noqa: BLE001 - the refusal that follows names the attributes; this is only a second look
        return set()
    finally:
        with contextlib.suppress(Exception):
            settle(twin.cleanup())
    return made - set(changed)


def _alike(mine: Any, theirs: Any, target: Any, twin: Any) -> bool:
    """Tell whether two values that are not plain are surely the same, made by the same constructor."""
    if mine is theirs or (isinstance(mine, _STATELESS) and type(mine) is type(theirs)):
        return True
    if isinstance(mine, types.MethodType) and isinstance(theirs, types.MethodType):
        return mine.__func__ is theirs.__func__ and mine.__self__ is target and theirs.__self__ is twin
    if isinstance(mine, types.FunctionType) and isinstance(theirs, types.FunctionType):
        return mine.__code__ is theirs.__code__ and not mine.__closure__ and mine.__defaults__ == theirs.__defaults__
    try:
        return type(mine) is type(theirs) and bool(mine == theirs)
    except Exception:  # noqa: BLE001 - an author's __eq__ may do anything; not surely the same, then
        return False


def _equals(data: bytes, other: Any) -> bool:
    try:
        return plain.encode(other) == data
    except TypeError:
        return False


def _plain(value: Any) -> bool:
    try:
        plain.encode(value)
    except TypeError:
        return False
    return True


def _content(target: Any) -> Any:
    if getattr(type(target), "__getstate__", None) is getattr(object, "__getstate__", None):
        return _attributes(target)
    return target.__getstate__()


def _attributes(target: Any) -> dict[str, Any]:
    """Return all instance attributes, slots included."""
    found = dict(getattr(target, "__dict__", {}))
    for cls in type(target).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ("__dict__", "__weakref__") and hasattr(target, name):
                found.setdefault(name, getattr(target, name))
    return found


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - sessions, locks, handles: shared, not copied
        return value
