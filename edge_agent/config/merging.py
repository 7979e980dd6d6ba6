"""Several inputs in one slot: which columns they have together, and what keeps them from being one stream.

It looks at parts that are valid inputs already, and decides nothing about how their samples are joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_agent.config.plugs import InferenceInput, MergeInput
from edge_agent.config.sections import Column, Input
from edge_agent.contract.dtypes import DEFAULT

__all__ = ["PARTS_MAX", "merge_faults", "merged_columns"]

PARTS_MAX = 64
_OF_PARTS = ("columns", "timestamp", "sequence", "late_seconds")


def merged_columns(parts: Mapping[str, Input]) -> dict[str, Column]:
    """Return the columns of all parts, in the order of the parts' names."""
    return {name: column for part in sorted(parts) for name, column in parts[part].columns.items()}


def merge_faults(merged: MergeInput, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with inputs as parts of one, given the table they were read from; keys are relative to it."""
    for key in _OF_PARTS:
        if key in table:
            yield key, "belongs to the parts: write it under [… .part.NAME]"
    if not 1 <= len(merged.part) <= PARTS_MAX:
        yield "part", f"name 1 to {PARTS_MAX} inputs, each a table of its own: [… .part.NAME]"
    owners: dict[str, str] = {}
    for part in sorted(merged.part):
        section = merged.part[part]
        if isinstance(section, MergeInput):
            yield f"part.{part}.source", "a part cannot be merged itself: name its parts here"
            continue
        if isinstance(section, InferenceInput):
            yield f"part.{part}.source", "requests are no part of another stream: give them a slot of their own"
        if not section.columns:
            yield f"part.{part}.columns", "name the columns: only a file that is the whole input may leave them out"
        for name, column in section.columns.items():
            key = f"part.{part}.columns.{name}"
            if column.dtype != DEFAULT:
                words = f"is {column.dtype}: merged inputs have {DEFAULT} columns only, since the other parts' are NaN"
                yield key, words
            if name in owners:
                yield key, f"the parts {owners[name]!r} and {part!r} both have a column {name!r}: rename one"
            owners.setdefault(name, part)
