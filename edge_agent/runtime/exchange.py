"""A FRAME as the frame that a pipeline takes, and what comes out of one as the parts of a RESULT (see `wire`).

Importing this imports numpy, which may start threads: a worker does so only once it has locked itself down. It runs
no pipeline and sends nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.contract.manifest import InputSpec, OutputSpec
from edge_agent.runtime.cells import decode_cells
from edge_agent.runtime.wire import Flag, Header, Part
from edge_agent.sdk.frame import Frame, Values, received
from edge_agent.sdk.intake import arranged
from edge_agent.sdk.validity import invalid_rows

__all__ = ["Exchange"]

EXACT_MAX = 2**53


class Exchange:
    """What passes between the wire and a pipeline with this input and output."""

    def __init__(self, spec: InputSpec, output: OutputSpec) -> None:
        self._spec, self._columns, self._output = spec, tuple(spec.columns), output

    def frame(self, header: Header, payload: memoryview) -> Frame:
        """Return the frame of a message's payload, with memory of its own."""
        rows, width = header.rows, header.columns
        # One copy of all: the buffer is reused, and filters may keep, and write to, what they were given.
        own = bytearray(payload)
        sequences = np.frombuffer(own, np.int64, rows)
        timestamps = np.frombuffer(own, np.int64, rows, 8 * rows)
        if self._spec.dtypes or header.flags & Flag.CELLS:
            values = self._cells(header, memoryview(own)[16 * rows :])
            return Frame(values, timestamps, sequences, columns=self._spec.columns)
        numbers = np.frombuffer(own, np.float64, rows * width, 16 * rows).reshape(rows, width)
        return received(numbers, timestamps, sequences, self._columns)

    def _cells(self, header: Header, body: memoryview) -> Values:
        """Return the values of a frame that has, or is to have, other cells than float64."""
        width, count = header.columns, header.rows * header.columns
        numbers = None if header.flags & Flag.CELLS else memoryview(bytes(body)).cast("d")
        cells = decode_cells(body, count) if numbers is None else numbers.tolist()
        return arranged([cells[at : at + width] for at in range(0, count, width)], self._spec)

    def invalid_rows(self, result: Frame) -> tuple[int, str]:
        """Return how many rows of a result are not of the declared output, and the first fault in words."""
        return invalid_rows(self._output, result)

    @staticmethod
    def parts(result: Frame) -> tuple[int, int, Part, Part]:
        """Return flags and columns of a result, its numbers and times, and its values.

        Numbers are raw float64 rows, anything else is JSON rows.
        """
        heads = np.concatenate((result.sequences, result.firsts, result.timestamps)).data
        values, rows = result.values, len(result)
        if rows == 0:
            return Flag.RAW, 0, heads, b""
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and not _beyond_floats(values):
            matrix = np.ascontiguousarray(values.reshape(rows, -1), np.float64)
            return Flag.RAW, matrix.shape[1], heads, matrix.data
        listed = values.tolist() if isinstance(values, np.ndarray) else [_plain(row) for row in values]
        table = [row if isinstance(row, list) else [row] for row in listed]
        return Flag.NONE, len(table[0]), heads, msgspec.json.encode(table)


def _beyond_floats(values: NDArray[Any]) -> bool:
    """Tell whether these are whole numbers that a float64 does not hold exactly."""
    return values.dtype.itemsize == 8 and values.dtype.kind in "iu" and bool((abs(values) > EXACT_MAX).any())


def _plain(value: object) -> object:
    """Return numpy scalars and arrays, wherever they are, as what JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value
