"""For authors' tests: does a filter survive the way to a device? (F7)"""

from __future__ import annotations

from typing import Any

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import AuthorError
from edge_agent.runtime import pickles
from edge_agent.sdk import plain, state
from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.parameters import decode_parameters, encode_parameters, installed
from edge_agent.sdk.pickled import dumps
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.serializable import require_serializable

__all__ = ["roundtrip"]


def roundtrip(target: Filter, frame: Any) -> Frame:
    """Rebuild `target` from what would be shipped, run both on `frame` (rows or a `Frame`), return what comes out.

    The rebuilt filter goes through the whole life on a device: construct, restore, initialize, predict, clean up. The
    live one is serialized as it is, and must not be changed by that. The class itself is not packed: `publisher
    push --dry-run` does that too.

    Raises `AuthorError` for what cannot be shipped, `StageError` where a method fails, and `AssertionError` where the
    two differ, or where serializing changed the live filter.
    """
    before = _attributes(target)
    require_serializable(target)
    again = _rebuilt(target)
    changed = [name for name, value in _attributes(target).items() if name not in before or value is not before[name]]
    assert not changed, f"serializing {type(target).__qualname__} changed its {', '.join(changed)}: see __getstate__"
    mine, theirs = _answer(target, frame), _answer(again, frame)
    _compare(type(target).__qualname__, mine, theirs)
    return theirs


def _attributes(target: Any) -> dict[str, Any]:
    return dict(getattr(target, "__dict__", {}))


def _rebuilt(target: Filter) -> Any:
    files = target.files()
    parameters = parameters_of(target)
    sent = encode_json(encode_parameters({name: one for name, one in parameters.items() if name not in files}))
    kept = state.capture(target, lambda value: dumps(value, owner=target).data)
    received = decode_parameters(decode_json(sent, dict[str, Any]))
    try:
        again = type(target)(**received, **{name: str(path) for name, path in files.items()})
    except Exception as error:
        raise AuthorError(f"{type(target).__qualname__} cannot be constructed from its parameters: {error}") from error
    if kept is not None:
        state.restore(again, kept, lambda data: pickles.loads(data, _Here(), owner=again))
    return again


def _answer(target: Filter, frame: Any) -> Frame:
    """Run a filter as the one stage of a pipeline of its own, from a fresh start."""
    pipeline = Pipeline("roundtrip", [target])
    given = pipeline.frame_of(frame)
    try:
        pipeline.reset()
        return pipeline.run(given.with_values(given.values.copy(), given.columns))
    finally:
        pipeline.cleanup()


def _compare(name: str, mine: Frame, theirs: Frame) -> None:
    assert len(mine) == len(theirs), f"{name} gives {len(mine)} rows, rebuilt {len(theirs)}"
    for what in ("sequences", "timestamps", "firsts", "columns"):
        one, other = getattr(mine, what), getattr(theirs, what)
        assert list(one) == list(other), f"{name} gives other {what} when rebuilt: {list(one)} became {list(other)}"
    for row, (one, other) in enumerate(zip(mine.values, theirs.values, strict=True)):
        same = plain.encode(one) == plain.encode(other)
        assert same, f"{name}, row {row}: {one!r} became {other!r} when rebuilt (does anything depend on the process?)"


class _Here:
    """The author's names, in the author's process."""

    def resolve(self, module: str, name: str) -> Any:
        return installed(module, name)

    def name_of(self, item: Any) -> tuple[str, str] | None:
        return None
