"""State: what an instance has learned, as plain data where that can say it (F5).

State is every attribute that differs from those of a twin, constructed afresh from the same parameters, whatever it is
called. What only `initialize()` makes, and plain data cannot say (sessions, handles), is left out. The rest goes into a
pickle if the caller brings a pickler, and is refused by name otherwise: nothing is pickled or unpickled here. `format`
in the blob tells the two kinds apart. The live instance is only looked at, never changed.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import plain
from edge_agent.sdk.filter import construct, parameters_of
from edge_agent.sdk.step import settle

__all__ = ["Dumps", "Loads", "capture", "is_pickled", "learned", "restore", "undisturbed"]

_FORMAT = 1
_PICKLED = 2  # a part of it is a pickle: only a worker may read it
Dumps = Callable[[Any], bytes]
Loads = Callable[[bytes], Any]
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


def capture(target: Any, dumps: Dumps | None = None) -> bytes | None:
    """Return the state of a filter, None if it has none. `__getstate__` and `__setstate__` are honoured.

    `dumps` pickles what plain data cannot say; it gets all of that at once, so that what is shared stays shared. Raises
    `AuthorError` naming all attributes that cannot be shipped, with the way out.
    """
    parameters = parameters_of(target)
    twin = construct(type(target), parameters)
    content, fresh = _content(target), _content(twin)
    if not isinstance(content, dict):
        return _capture_opaque(target, content, fresh, dumps)
    given = [name for name in content if name in parameters or name == _RECORDED]
    learned = {name: value for name, value in content.items() if name not in given}
    changed, pickled = _changed(target, twin, learned, fresh if isinstance(fresh, dict) else {}, dumps)
    if hasattr(type(target), "__setstate__"):
        # An author's __setstate__ may count on every key, not only on those that changed.
        keep = changed or pickled
        changed = {name: value for name, value in learned.items() if name in changed or _plain(value)} if keep else {}
    removed = [name for name in fresh if name not in content] if isinstance(fresh, dict) else []
    if not changed and not pickled and not removed:
        return None
    state = {"format": _FORMAT, "attributes": changed, "removed": removed, "given": given}
    if pickled and dumps:
        state |= {"format": _PICKLED, "pickle": dumps(pickled)}
    return plain.encode(state)


def restore(target: Any, data: bytes, loads: Loads | None = None) -> None:
    """Give a freshly constructed filter the state that `capture` returned.

    `loads` reads its pickle, if it has one. Raises `ValueError` for foreign bytes, and for a pickle without `loads`.
    """
    content = plain.decode(data)
    if not isinstance(content, dict) or content.get("format") not in (_FORMAT, _PICKLED):
        raise ValueError(
            f"state of {type(target).__qualname__}: not a state, or of a format this version does not read"
        )
    pickled = {}
    if content["format"] == _PICKLED:
        if loads is None or not isinstance(content.get("pickle"), bytes):
            raise ValueError(f"state of {type(target).__qualname__} is a pickle, which is not read here")
        pickled = loads(content["pickle"])
    if "opaque" in pickled:
        target.__setstate__(pickled["opaque"])
        return
    if "opaque" in content:
        target.__setstate__(content["opaque"])
        return
    attributes = content.get("attributes")
    if not isinstance(attributes, dict):
        raise ValueError(f"state of {type(target).__qualname__} has no attributes")
    attributes = {**attributes, **pickled.get("attributes", {})}
    if hasattr(type(target), "__setstate__"):
        own = _attributes(target)
        target.__setstate__({**{name: own[name] for name in content["given"] if name in own}, **attributes})
        return
    for name in content["removed"]:
        if name in _attributes(target):
            object.__delattr__(target, name)
    for name, value in attributes.items():
        object.__setattr__(target, name, value)


def learned(target: Any) -> bytes | None:
    """Return what a running filter has learned so far, None if it keeps nothing but its parameters: for `upgrade`.

    It is what `__getstate__` returns, or every attribute, parameters included, that is plain data; sessions, handles
    and the like are left out. Raises `AuthorError` when a class's own `__getstate__` returns what is not plain.
    """
    content = _content(target)
    if getattr(type(target), "__getstate__", None) is getattr(object, "__getstate__", None):
        content = {name: value for name, value in content.items() if name != _RECORDED and _plain(value)}
    given = parameters_of(target)
    if content is None or (isinstance(content, dict) and content.keys() <= {*given, _RECORDED}):
        return None
    try:
        return plain.encode(content, f"{type(target).__qualname__}.__getstate__()")
    except TypeError as error:
        raise AuthorError(f"{error}: return plain values") from None


def is_pickled(data: bytes) -> bool:
    """Tell whether a part of the state that `capture` returned is a pickle."""
    content = plain.decode(data)
    return isinstance(content, dict) and content.get("format") == _PICKLED


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


def _capture_opaque(target: Any, content: Any, fresh: Any, dumps: Dumps | None) -> bytes | None:
    cls = type(target).__qualname__
    if not hasattr(type(target), "__setstate__"):
        raise AuthorError(
            f"{cls}.__getstate__ returns a {type(content).__name__}, so the class needs a __setstate__ that takes it"
        )
    try:
        data = plain.encode(content, f"{cls}.__getstate__()")
    except TypeError as error:
        if dumps is None:
            raise AuthorError(f"{error}: return plain values") from None
        return plain.encode(
            {"format": _PICKLED, "pickle": _dumped({"opaque": content}, f"{cls}.__getstate__()", dumps)}
        )
    return None if _equals(data, fresh) else plain.encode({"format": _FORMAT, "opaque": content})


def _changed(
    target: Any, twin: Any, learned: dict[str, Any], fresh: dict[str, Any], dumps: Dumps | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of `learned` differs from `fresh`: the plain part, and what goes into a pickle; refuse the rest."""
    changed: dict[str, Any] = {}
    other: dict[str, str] = {}
    pickled: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, value in learned.items():
        try:
            data = plain.encode(value, f"{type(target).__qualname__}.{name}")
        except TypeError as error:
            if name not in fresh or not (
                _alike(value, fresh[name], target, twin) or _dumps_alike(value, fresh[name], dumps)
            ):
                other[name] = str(error)
            continue
        if name not in fresh or not _equals(data, fresh[name]):
            changed[name] = value
    if other:
        pickled, refused = _picklable(target, {name: (learned[name], words) for name, words in other.items()}, dumps)
        for name in _initialized(twin, {**changed, **pickled}) - set(changed):
            pickled.pop(name, None)
            refused.pop(name, None)
    if refused:
        raise AuthorError(
            f"{'; '.join(refused.values())}. Make it in initialize(), which runs on the device too, "
            "keep plain values instead, or leave it out with __getstate__"
        )
    return changed, {"attributes": pickled} if pickled else {}


def _picklable(
    target: Any, values: dict[str, tuple[Any, str]], dumps: Dumps | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Sort values by name into what a pickle can hold and why not; the words given say why plain data cannot."""
    held, refused = {}, {}
    for name, (value, words) in values.items():
        try:
            _dumped(value, f"{type(target).__qualname__}.{name}", dumps, words)
            held[name] = value
        except AuthorError as error:
            refused[name] = str(error)
    return held, refused


def _dumped(value: Any, where: str, dumps: Dumps | None, words: str = "") -> bytes:
    if dumps is None:
        raise AuthorError(words)
    try:
        return dumps(value)
    except AuthorError:
        raise
    except Exception as error:  # an author's __reduce__ may raise anything
        text = " ".join(str(error).split())
        raise AuthorError(f"{where} can be neither plain data nor a pickle: {type(error).__name__}: {text}") from error


def _dumps_alike(mine: Any, theirs: Any, dumps: Dumps | None) -> bool:
    """Tell whether two values that are not plain pickle alike: made by the same constructor, and not changed since."""
    if dumps is None or type(mine) is not type(theirs):
        return False
    try:
        return dumps(mine) == dumps(theirs)
    except Exception:  # noqa: BLE001 - then neither is shipped unless initialize() makes it
        return False


def _initialized(twin: Any, given: dict[str, Any]) -> set[str]:
    """Return the attributes that `initialize()` sets, found out on the twin with `given` as its state."""
    for name, value in given.items():
        with contextlib.suppress(Exception):  # what cannot be copied is not lent: cleanup() would close it
            object.__setattr__(twin, name, copy.deepcopy(value))
    before = {**_attributes(twin)}
    try:
        settle(twin.initialize())
        return {name for name, value in _attributes(twin).items() if value is not before.get(name)}
    except Exception:  # noqa: BLE001 - the refusal that follows names the attributes; this is only a second look
        return set()
    finally:
        with contextlib.suppress(Exception):
            settle(twin.cleanup())


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
