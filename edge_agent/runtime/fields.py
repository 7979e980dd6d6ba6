"""Values found by path into one row: a cell each, the sample's number and time where it brings them.

Lines of text become fields here, too. What does not fit is `BadPayload` naming column and path; nothing is replaced.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from edge_agent.config.plugs import CommandInput, SerialInput
from edge_agent.config.sections import Input
from edge_agent.config.tables import listing
from edge_agent.contract.dtypes import as_cell, parse_cell
from edge_agent.runtime.cells import held_cell
from edge_agent.runtime.decode import (
    BAD_SEQUENCE,
    BAD_TIMESTAMP,
    INT64_MAX,
    MALFORMED,
    MISSING,
    Layout,
    dtypes_of,
    nanoseconds,
)
from edge_agent.runtime.samples import BadPayload, Cells

__all__ = ["Decode", "Fields", "Row", "by_place", "line_decoder"]

Row: TypeAlias = "tuple[int | None, int | None, Cells]"
"""Sequence and timestamp in nanoseconds (None: not in the data), and one value per column."""
Decode: TypeAlias = "Callable[[bytes], Row]"


class Fields:
    """Where the columns of `config` lie among named values; `texts` tells whether values come as text."""

    def __init__(self, config: Input, *, texts: bool) -> None:
        self.columns = tuple(config.columns)
        self.dtypes = dtypes_of(config.columns)
        self.paths = [column.path for column in config.columns.values()]
        self._config = config
        self._make = parse_cell if texts else as_cell

    def row(self, found: Mapping[str, Any]) -> Row:
        """Return one sample of values by path. Raises `BadPayload`."""
        values = [self._cell(found, name) for name in self.columns]
        return self._sequence(found), self._time(found), values

    def _cell(self, found: Mapping[str, Any], name: str) -> Any:
        column = self._config.columns[name]
        if column.path not in found:
            has = listing(found)
            raise BadPayload(MISSING, f"column '{name}': there is no '{column.path}'; there is: {has}")
        try:
            return held_cell(column, self._make, found[column.path])
        except BadPayload as bad:
            raise BadPayload(bad.kind, f"column '{name}', path '{column.path}': {bad}") from None

    def _sequence(self, found: Mapping[str, Any]) -> int | None:
        path = self._config.sequence
        if not path:
            return None
        number = _number(found.get(path))
        if type(number) is not int or not 0 <= number <= INT64_MAX:
            raise BadPayload(
                BAD_SEQUENCE, f"sequence: {found.get(path)!r:.40} is not a whole number from 0 to 2^63 - 1"
            )
        return number

    def _time(self, found: Mapping[str, Any]) -> int | None:
        timestamp = self._config.timestamp
        if timestamp is None:
            return None
        number = _number(found.get(timestamp.path))
        if number is None:
            raise BadPayload(BAD_TIMESTAMP, f"timestamp: {found.get(timestamp.path)!r:.40} is not a number")
        return nanoseconds(number, timestamp.unit)


def line_decoder(config: SerialInput | CommandInput) -> Decode:
    """Return what turns one line, without its end, into a row."""
    if config.format == "json":
        return Layout(config.columns, config.timestamp, config.sequence).decode
    fields = Fields(config, texts=True)
    split = _by_pattern(config.pattern) if config.format == "regex" else _cells

    def decode(line: bytes) -> Row:
        return fields.row(split(line.decode("utf-8", "replace")))

    return decode


def by_place(values: Sequence[Any]) -> dict[str, Any]:
    """Return values by their place, counted from 0, as paths have it."""
    return {str(place): value for place, value in enumerate(values)}


def _cells(line: str) -> dict[str, Any]:
    try:
        return by_place(next(csv.reader([line]), []))
    except csv.Error as error:
        raise BadPayload(MALFORMED, f"line is not CSV: {error}") from None


def _by_pattern(pattern: str) -> Callable[[str], dict[str, Any]]:
    compiled = re.compile(pattern)

    def split(line: str) -> dict[str, Any]:
        match = compiled.search(line)
        if match is None:
            raise BadPayload(MALFORMED, f"line does not fit the pattern: {line[:60]!r}")
        found = {str(place + 1): text for place, text in enumerate(match.groups())} | match.groupdict()
        return {name: text for name, text in found.items() if text is not None}

    return split


def _number(value: Any) -> int | float | None:
    """A number, or a text that is one; None for everything else."""
    if type(value) is str:
        text = value.strip()
        try:
            return int(text) if text.lstrip("+-").isdecimal() else float(text)
        except ValueError:
            return None
    return value if type(value) in (int, float) else None
