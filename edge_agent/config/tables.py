"""Parsed TOML tables into frozen sections: generic, knows no key of any file.

It collects every fault with its key path, in words for people, and proposes the key or value that was probably meant.
It never stops at the first fault and never guesses a value.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_agent.contract.manifest import check_name

__all__ = ["Reader", "Section", "Tables", "hint", "listing"]

S = TypeVar("S", bound="Section")
Reader = Callable[[str, Any], Any]
_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "a table",
}


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the file; its fields are the keys the table may have."""


class Tables:
    """One pass over a parsed file in `directory`: builds sections and collects `faults` (`key.path: what`).

    What could not be read is None. A `Reader` takes key path and value and does the same.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: list[str] = []

    def fault(self, key: str, what: str) -> None:
        """Note what is wrong at `key`."""
        self.faults.append(f"{key}: {what}")

    def section(self, key: str, table: Any, kind: type[S], readers: Mapping[str, Reader] | None = None) -> S | None:
        """Build a section of `kind` from a table; `readers` read the fields that are more than a plain value."""
        if not self.is_table(key, table):
            return None
        before = len(self.faults)
        self.refuse_unknown(key, table, kind.__struct_fields__)
        types = typing.get_type_hints(kind)
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            place = f"{key}.{field.name}" if key else field.name
            if field.name in table:
                read = (readers or {}).get(field.name) or self.plain(types[field.name])
                values[field.name] = read(place, table[field.name])
            elif field.required:
                self.fault(place, "missing")
        return kind(**values) if len(self.faults) == before else None

    def plain(self, kind: Any) -> Reader:
        """Return the reader of a value of type `kind`; a path is made absolute."""

        def read(key: str, value: Any) -> Any:
            path = Path in (kind, *typing.get_args(kind))
            try:
                found = msgspec.convert(value, str if path else kind)
            except msgspec.ValidationError:
                self.fault(key, f"expected {_words(str if path else kind)}, got {_value(value)}")
                return None
            if path and not found:
                self.fault(key, "is empty: name a file")
            return self.directory / found if path else found

        return read

    def short(self, kind: type[S], name: str, readers: Mapping[str, Reader] | None = None) -> Reader:
        """Return the reader of a section of `kind` that may be written as a string, meaning its field `name`."""

        def read(key: str, value: Any) -> S | None:
            return self.section(key, {name: value} if isinstance(value, str) else value, kind, readers)

        return read

    def named(self, key: str, table: Any, read: Reader) -> dict[str, Any]:
        """Read a table whose keys are free names."""
        if not self.is_table(key, table):
            return {}
        return {name: read(f"{key}.{name}", value) for name, value in table.items()}

    def one_of(self, key: str, table: Any, name: str, kinds: Mapping[str, type[S]]) -> type[S] | None:
        """Return the kind of section that the value of `name` chooses."""
        if not self.is_table(key, table):
            return None
        if name not in table:
            self.fault(f"{key}.{name}", f"missing: one of {listing(kinds)}")
            return None
        found = self.plain(str)(f"{key}.{name}", table[name])
        if found is not None and found not in kinds:
            self.fault(f"{key}.{name}", f"{found!r} is not one of {listing(kinds)}{hint(found, kinds)}")
        return kinds.get(found)

    def is_table(self, key: str, value: Any) -> bool:
        """Whether `value` is a table; notes a fault otherwise."""
        if not isinstance(value, dict):
            self.fault(key, f"expected a table, got {_value(value)}")
        return isinstance(value, dict)

    def refuse_unknown(self, key: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        """Note a fault for every key of `table` that is not known."""
        known = list(known)
        for name in table:
            if name not in known:
                place = f"{key}.{name}" if key else name
                self.fault(place, f"unknown key{hint(name, known)}; allowed: {listing(known)}")

    def check_name(self, key: str, kind: str, name: str) -> None:
        """Note a fault unless `name` may name a `kind`."""
        try:
            check_name(kind, name)
        except ValueError as error:
            self.fault(key, str(error))


def hint(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    known = list(known)
    near = [one for one in known if one.lower() == word.lower()] or difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def listing(words: Iterable[str]) -> str:
    """Return words for a message, sorted and bounded: `a, b, c`."""
    found = sorted(words)
    more = f", … ({len(found)} in all)" if len(found) > 20 else ""
    return (", ".join(found[:20]) or "nothing") + more


def _words(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "one of " + listing(map(str, typing.get_args(kind)))
    if origin is dict:
        values = typing.get_args(kind)[1]
        return "a table" if values is Any else f"a table whose values are each {_words(values)}"
    several = [one for one in typing.get_args(kind) if one is not type(None)]
    return " or ".join(map(_words, several)) if several else _NAMES.get(kind, str(kind))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        shown = str(value)[:60]
        return f"the string {shown!r}" if isinstance(value, str) else f"the number {shown}"
    return _NAMES.get(type(value), "a date or time")
