"""Constructor parameters as JSON: every value keeps its type, or is refused by name.

JSON says None, bool, int, float, str, list and dict by itself. What it cannot say becomes an object with one key that
starts with `$`: `{"$tuple": […]}`, `{"$bytes": "base64"}`, `{"$float": "nan"}`, … A dict that could be mistaken for one
is itself tagged. An enum travels by the names of module, class and member. Files do not belong here (`Filter.files`),
nor anything with code in it.
"""

from __future__ import annotations

import base64
import difflib
import enum
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np

from edge_agent.sdk.place import NAMESPACE_PREFIX
from edge_agent.sdk.plain import ARRAY_KINDS, array_of

__all__ = ["Resolve", "decode_parameters", "encode_parameters", "installed", "resolve_tunable"]

_DEPTH_MAX = 32
_INT64_MAX = 2**63 - 1


def encode_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parameters` as JSON-able values.

    Raises `TypeError` naming the parameter, and the place within it, of the first value that cannot be kept exactly.
    """
    return {name: _encode(value, name, 0) for name, value in parameters.items()}


Resolve = Callable[[str, str], Any]


def installed(module: str, name: str) -> Any:
    """Return what the dotted `name` means in an installed `module`; raises what importing and looking up raise."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def decode_parameters(parameters: Mapping[str, Any], resolve: Resolve = installed) -> dict[str, Any]:
    """Return the values that `encode_parameters` was given.

    `resolve(module, name)` finds the classes of enums by the author's names. Raises `ValueError` naming a parameter
    that is damaged, or whose enum or member is not there.
    """
    decoded = {}
    for name, value in parameters.items():
        try:
            decoded[name] = _decode(value, resolve)
        except (ValueError, TypeError, KeyError, RecursionError, ImportError, AttributeError) as error:
            raise ValueError(f"parameter {name!r} cannot be read: {error}") from None
    return decoded


def resolve_tunable(name: str, parameters: Mapping[str, Iterable[str]]) -> tuple[str, str]:
    """Return stage and parameter that a tunable's `name` means; `parameters` maps stages to their parameters' names.

    `parameter` alone will do where only one stage has it, else `stage.parameter`. Raises `ValueError` with the choices.
    """
    choices = [(stage, parameter) for stage, owned in parameters.items() for parameter in owned]
    found = [choice for choice in choices if name in (choice[1], ".".join(choice))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"tunable {name!r} could mean {' or '.join('.'.join(choice) for choice in found)}: write the stage too"
        )
    names = sorted({parameter for _, parameter in choices} | {".".join(choice) for choice in choices})
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names) or 'no parameters'}"
    raise ValueError(f"tunable {name!r} is no parameter of any stage: {hint}")


def _encode(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_INT64_MAX <= value <= _INT64_MAX else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if depth >= _DEPTH_MAX:
        raise TypeError(f"parameter {where[:80]}… is nested more than {_DEPTH_MAX} deep, or contains itself")
    if kind in (list, tuple):
        items = [_encode(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind in (set, frozenset):
        members = [_encode(item, f"{where}{{{item!r}}}", depth + 1) for item in value]
        # The order of a set depends on the hash seed; a manifest must not.
        return {"$set" if kind is set else "$frozenset": sorted(members, key=repr)}
    if kind is dict:
        return _encode_dict(value, where, depth)
    if kind is np.ndarray and value.dtype.kind in ARRAY_KINDS:
        data = base64.b64encode(value.tobytes()).decode()
        return {"$array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, enum.Enum):
        return {"$enum": _member(value, where)}
    if isinstance(value, np.generic) and value.dtype.kind in ARRAY_KINDS:
        return {"$scalar": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}
    _refuse(value, where)


def _encode_dict(value: dict[Any, Any], where: str, depth: int) -> dict[str, Any]:
    names = [*value]
    # A manifest sorts its keys: a dict in another order is written as pairs, so that its order survives.
    if all(type(name) is str and not name.startswith("$") for name in names) and names == sorted(names):
        return {key: _encode(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    pairs = [
        [_encode(key, f"{where} key {key!r}", depth + 1), _encode(item, f"{where}[{key!r}]", depth + 1)]
        for key, item in value.items()
    ]
    return {"$dict": pairs}


def _member(value: enum.Enum, where: str) -> str:
    """Return an enum's member as `module:Class:NAME`; several flags of one are joined by `|`."""
    cls = type(value)
    module = cls.__module__
    if module.startswith(NAMESPACE_PREFIX):  # loaded from a bundle: its author's name
        module = module.partition(".")[2]
    names = [value.name] if value.name in cls.__members__ else []
    if not names and isinstance(value, enum.Flag):
        names = [one.name for one in type(value) if one in value and one.name is not None]
    empty = not names and not (isinstance(value, enum.Flag) and value.value == 0)
    if empty or _joined(cls, names) is not value or not _stands_in_its_module(cls):
        raise TypeError(
            f"parameter {where} is {value!r:.80}, which cannot be shipped: an enum must stand in a module, by its own "
            "name, and the value must be made of its members"
        )
    return f"{module}:{cls.__qualname__}:{'|'.join(names)}"


def _stands_in_its_module(cls: type) -> bool:
    try:
        return installed(cls.__module__, cls.__qualname__) is cls
    except (ImportError, AttributeError):
        return False


def _joined(cls: Any, names: list[str]) -> Any:
    joined = cls[names[0]] if names else cls(0)
    for name in names[1:]:
        joined |= cls[name]
    return joined


def _enum(text: str, resolve: Resolve) -> Any:
    module, qualified, names = text.split(":")
    cls = resolve(module, qualified)
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        raise ValueError(f"{module}:{qualified} is no enum")
    return _joined(cls, names.split("|") if names else [])


def _refuse(value: Any, where: str) -> NoReturn:
    if isinstance(value, PurePath):
        advice = "return it from files(), so that the file itself is shipped"
    elif callable(value):
        advice = "code belongs into the class; pass a name and choose by it"
    else:
        advice = (
            "pass plain values (numbers, strings, bytes, lists, tuples, dicts, sets, arrays) and build it from them"
        )
    raise TypeError(f"parameter {where} is a {type(value).__qualname__}, which cannot be shipped: {advice}")


def _decode(value: Any, resolve: Resolve) -> Any:
    if isinstance(value, list):
        return [_decode(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and next(iter(value)).startswith("$"):
        ((tag, content),) = value.items()
        return _decode_tagged(tag, content, resolve)
    return {key: _decode(item, resolve) for key, item in value.items()}


def _decode_tagged(tag: str, content: Any, resolve: Resolve) -> Any:
    match tag:
        case "$tuple":
            return tuple(_decode(item, resolve) for item in content)
        case "$set":
            return {_decode(item, resolve) for item in content}
        case "$frozenset":
            return frozenset(_decode(item, resolve) for item in content)
        case "$dict":
            return {_decode(key, resolve): _decode(item, resolve) for key, item in content}
        case "$enum":
            return _enum(content, resolve)
        case "$int":
            return int(content)
        case "$float":
            return float(content)
        case "$bytes":
            return base64.b64decode(content, validate=True)
        case "$array":
            dtype, shape, data = content
            return array_of(dtype, shape, base64.b64decode(data, validate=True))
        case "$scalar":
            dtype, data = content
            return array_of(dtype, [], base64.b64decode(data, validate=True))[()]
    raise ValueError(f"tag {tag!r} is unknown: written by a newer fieldcast?")
