"""Where a loaded class came from: the bundle, byte for byte, so that it can be packed again without its source.

Whoever loads a class from a verified bundle for an author (not a worker, which never packs) notes it on the class. A
class that was changed since is no longer what its bundle says, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.pickled import Names, private_name
from edge_agent.sdk.place import NAMESPACE_PREFIX

__all__ = ["Provenance", "is_remembered", "recall", "remember"]

_NOTE = "__fieldcast_bundle__"
_VOLATILE = {
    *(_NOTE, "__abstractmethods__", "_abc_impl", "__doc__", "__annotations__", "__annotations_cache__"),
    *("__annotate__", "__annotate_func__", "__dict__", "__weakref__", "__static_attributes__", "__slotnames__"),
}


@dataclass(frozen=True)
class Provenance:
    """The bundle of a loaded class: `data` are its verified bytes, `names` tells the author's names of its content."""

    target: str
    fingerprint: str
    tag: str
    data: bytes = field(repr=False)
    names: Names = field(default=private_name, repr=False)


def remember(cls: type, provenance: Provenance) -> None:
    """Note on `cls` where it came from; its caller has verified the bytes."""
    setattr(cls, _NOTE, (provenance, _looks(cls)))


def recall(cls: type) -> Provenance | None:
    """Return where `cls` came from, None if it was not loaded from a bundle.

    Raises `AuthorError` naming the attribute when the class or a base from the same bundle was changed since.
    """
    noted: tuple[Provenance, dict[str, Any]] | None = cls.__dict__.get(_NOTE)
    if noted is None:
        return None
    provenance, before = noted
    now = _looks(cls)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name, before) is not now.get(name, now))
    if changed:
        raise AuthorError(
            f"{changed[0]} was changed after the class was loaded from its bundle, so neither that nor any source says "
            "what it is now: write the change into its source, or subclass it in a module of your own"
        )
    return provenance


def is_remembered(cls: type) -> bool:
    """Tell whether `cls` itself (no base of it) was noted before."""
    return _NOTE in cls.__dict__


def _looks(cls: type) -> dict[str, Any]:
    """Return all attributes of the class, and of its bases from the same bundle, by name."""
    near = [one for one in cls.__mro__ if one.__module__ == cls.__module__]
    own = near + [one for one in cls.__mro__ if one not in near and one.__module__.startswith(NAMESPACE_PREFIX)]
    return {
        f"{one.__qualname__}.{name}": value for one in own for name, value in vars(one).items() if name not in _VOLATILE
    }
