"""An ONNX model as a stage: what goes in is shaped and cast to what the model wants, what comes out becomes rows.

It refuses to guess: rows are reshaped only by flattening them or by adding axes of length 1, never by swapping axes,
and fractions are not cut off for a model that takes integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.place import resolve

__all__ = ["OnnxModel"]

Array = npt.NDArray[Any]
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class OnnxModel(Filter):
    """Run an ONNX model with onnxruntime.

    `path` is relative to the file that constructs the model. `outputs` names the model's outputs to use, None all of
    them, in the model's order. Several outputs stand side by side as columns; a classifier's list of maps becomes one
    column for each class, in the order of the sorted classes. Rows with a text label are lists, all others arrays.

    `providers` are onnxruntime's execution providers in order of preference; at least one must be there. `threads`
    limits one session's threads (spinning is off: an edge device has better things to do).

    Raises `FileNotFoundError` when constructed without the file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        outputs: Sequence[str] | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 1,
    ) -> None:
        for name, given in (("outputs", outputs), ("providers", providers)):
            if isinstance(given, str):
                raise TypeError(f"OnnxModel: {name} must be a list of names: write {name}=[{given!r}]")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"OnnxModel: threads must be at least 1, not {threads!r}")
        super().__init__(
            path=str(resolve(path, "OnnxModel")),
            outputs=None if outputs is None else list(outputs),
            providers=list(providers),
            threads=threads,
        )
        self.path: str
        self.outputs: list[str] | None
        self.providers: list[str]
        self.threads: int
        self._session: Any = None

    def files(self) -> dict[str, Path]:
        """Return the model's path: the model is a blob of its own."""
        return {"path": Path(self.path)}

    def initialize(self) -> None:
        """Load the model. Raises `RuntimeError` if no provider is there, `ValueError` for unknown outputs."""
        self._session = _open(self.path, self.providers, self.threads)
        self._inputs = [_Input(one.name, one.type, one.shape) for one in self._session.get_inputs()]
        known = [one.name for one in self._session.get_outputs()]
        self._names = known if self.outputs is None else self.outputs
        unknown = [name for name in self._names if name not in known]
        if unknown:
            raise ValueError(f"model {Path(self.path).name} has no output {unknown[0]!r}; it has {', '.join(known)}")

    def cleanup(self) -> None:
        """Let go of the session."""
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_session", "_inputs", "_names")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _session=None)

    def predict(self, x: Any, *, frame: Frame) -> Array | list[list[Any]]:
        """Return the model's outputs for `x`, one row each.

        Raises `ValueError` naming model and shapes where `x` does not fit the model, or an output not the rows.
        """
        if self._session is None:
            self.initialize()
        feeds = self._feeds(np.asarray(x), frame.columns)
        batch = self._inputs[0].batch
        if batch is None or batch == len(x):
            return _rows(self._names, self._session.run(self._names, feeds), len(x))
        return self._in_batches(feeds, len(x), batch)

    def _feeds(self, x: Array, columns: tuple[str, ...]) -> dict[str, Array]:
        if len(self._inputs) == 1:
            return {self._inputs[0].name: self._inputs[0].fit(x)}
        if x.ndim != 2 or x.shape[1] != len(self._inputs):
            raise ValueError(
                f"model {Path(self.path).name} has {len(self._inputs)} inputs "
                f"({', '.join(one.name for one in self._inputs)}): give it one column for each, not {x.shape[1:]}"
            )
        names = [one.name for one in self._inputs]
        order = [columns.index(name) for name in names] if set(names) == set(columns) else range(len(names))
        return {one.name: one.fit(x[:, [place]]) for one, place in zip(self._inputs, order, strict=True)}

    def _in_batches(self, feeds: dict[str, Array], rows: int, batch: int) -> Array | list[list[Any]]:
        """Feed a model with a fixed batch size piece by piece; the last piece is filled up with its last row."""
        pieces: list[Any] = []
        for start in range(0, rows, batch):
            part = {name: value[start : start + batch] for name, value in feeds.items()}
            count = min(batch, rows - start)
            filled = {name: value[np.minimum(np.arange(batch), count - 1)] for name, value in part.items()}
            piece = _rows(self._names, self._session.run(self._names, filled), batch)
            pieces.append(piece[:count])
        return (
            np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else [row for piece in pieces for row in piece]
        )


class _Input(NamedTuple):
    """One input of a model: its element type and shape, where text or None stands for any length."""

    name: str
    kind: str
    shape: list[Any] | None

    @property
    def batch(self) -> int | None:
        """The fixed number of rows that the model takes at once, if it has one."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None

    def fit(self, x: Array) -> Array:
        """Return `x` in the input's shape and element type."""
        return self._cast(self._reshape(x))

    def _reshape(self, x: Array) -> Array:
        if not self.shape:
            return x
        row = x.shape[1:]
        wanted = [length if isinstance(length, int) else None for length in self.shape[1:]]
        if len(row) == len(wanted) and all(want in (None, have) for want, have in zip(wanted, row, strict=True)):
            return x
        size = math.prod(row)
        known = math.prod(length for length in wanted if length is not None)
        if wanted.count(None) == 1 and known and size % known == 0:
            wanted[wanted.index(None)] = size // known
        dims = [length for length in wanted if length is not None]
        same = [length for length in dims if length != 1] == [length for length in row if length != 1]
        flat = sum(length != 1 for length in dims) <= 1 or sum(length != 1 for length in row) <= 1
        if len(dims) == len(wanted) and math.prod(dims) == size and (same or flat):
            return x.reshape(len(x), *dims)
        raise ValueError(
            f"model input {self.name!r} wants rows of shape {_shape(self.shape[1:])}, got {_shape(row)}: "
            "transpose or select in a stage before the model"
        )

    def _cast(self, x: Array) -> Array:
        dtype = _DTYPES.get(self.kind)
        if dtype is None:
            raise ValueError(f"model input {self.name!r} is a {self.kind}, which rows cannot become")
        if dtype is np.object_:
            return x.astype(np.str_).astype(np.object_)
        if x.dtype.kind not in "biuf":
            try:
                x = x.astype(np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"model input {self.name!r} is a {self.kind}, but the rows hold {x.dtype}") from None
        if np.dtype(dtype).kind in "iu" and x.dtype.kind == "f" and not (x == np.rint(x)).all():
            raise ValueError(
                f"model input {self.name!r} is a {self.kind}, but the rows hold fractions or NaN: round first"
            )
        return np.ascontiguousarray(x, dtype)


def _open(path: str, providers: list[str], threads: int) -> Any:
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    usable = [name for name in providers if name in offered]
    if not usable:
        raise RuntimeError(f"{Path(path).name} wants one of {', '.join(providers)}; here are {', '.join(offered)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; warnings about graph details go to nobody
    return onnxruntime.InferenceSession(path, options, providers=usable)


def _rows(names: Sequence[str], outputs: Sequence[Any], rows: int) -> Array | list[list[Any]]:
    """Set a model's outputs side by side; a single array of two or more axes stays as it is."""
    blocks = [_block(name, output, rows) for name, output in zip(names, outputs, strict=True)]
    if all(block.dtype.kind in "biuf" for block in blocks):
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate([block.reshape(rows, -1) for block in blocks], axis=1)
    return [
        [cell for part in parts for cell in part]
        for parts in zip(*(_cells(block, rows) for block in blocks), strict=True)
    ]


def _cells(block: Array, rows: int) -> list[list[Any]]:
    cells: list[list[Any]] = block.reshape(rows, -1).tolist()
    return cells


def _block(name: str, output: Any, rows: int) -> Array:
    if isinstance(output, list) and output and isinstance(output[0], dict):
        keys = sorted(output[0])
        output = np.asarray([[one[key] for key in keys] for one in output])
    if not isinstance(output, np.ndarray) or not output.ndim or len(output) != rows:
        shape = list(output.shape) if isinstance(output, np.ndarray) else f"a {type(output).__name__}"
        raise ValueError(
            f"model output {name!r} is {shape} for {rows} rows, not one for each: choose others with outputs=[…]"
        )
    return output.reshape(rows, 1) if output.ndim == 1 else output


def _shape(lengths: Sequence[Any]) -> str:
    return "[" + ", ".join(str(length) if isinstance(length, int) else "any" for length in lengths) + "]"
