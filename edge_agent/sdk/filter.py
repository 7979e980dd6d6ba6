"""A filter: the author's class, one stage of a pipeline, and how its constructor parameters are read back.

Life on a device (R7): constructed with its parameters, state restored, `initialize()`, `predict(x)` for every batch,
`cleanup()`. `fit()` runs on the workstation. Subclasses need not call `super().__init__()`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.step import Step

__all__ = ["Filter", "apply", "construct", "parameters_of"]

_RECORDED = "_parameter_names"


class Filter:
    """Base class of everything that can be a stage.

    Define `predict(self, x)`, or `predict(self, x, *, frame)` to see timestamps, sequence numbers and column names too;
    `transform` is an alternative spelling, and both may be `async`. `x` is an array whose first axis is rows, or a
    list. Return as many rows as came in, `[]` for "nothing yet", or a `Frame`.

    Parameters are constructor arguments: pass them on with `super().__init__(threshold=threshold)`, which sets
    attributes of the same names, or set those attributes yourself. Everything else that is set on the instance is
    state: it is shipped, and restored before `initialize()`.
    """

    requires: ClassVar[list[str]] = []
    """Distributions that the class imports, as in pyproject.toml: `["scipy>=1.11"]`."""

    data: ClassVar[list[str]] = []
    """Files that the class reads, relative to its own file."""

    warmup_rows: int = 0
    """How many past rows a fresh copy must see before it answers as a long-running one does."""

    def __init__(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            if callable(getattr(Filter, name, None)):
                raise ValueError(f"{type(self).__name__}: a parameter cannot be called {name!r}, that is a method")
            setattr(self, name, value)
        vars(self)[_RECORDED] = tuple(parameters)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("requires", "data"):
            given = cls.__dict__.get(name, [])
            if isinstance(given, str):
                raise TypeError(f"{cls.__qualname__}.{name} must be a list: write {name} = [{given!r}]")
            if isinstance(given, list | tuple) and not all(isinstance(item, str) for item in given):
                raise TypeError(f"{cls.__qualname__}.{name} must be a list of strings, not {given!r}")

    def __repr__(self) -> str:
        try:
            inside = ", ".join(f"{name}={value!r}" for name, value in parameters_of(self).items())
        except AuthorError:
            inside = "…"
        return f"{type(self).__name__}({inside})"

    def initialize(self) -> Any:
        """Get ready: open what `predict` needs. Called once, after the state is restored. May be `async`."""

    # `*args, **kwargs` lets type checkers accept `predict(self, x)` and `predict(self, x, *, frame)` alike.
    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the answer to `x`: one row for each of its rows, `[]`, or a `Frame`."""
        raise NotImplementedError(f"{type(self).__name__} defines neither predict nor transform")

    def cleanup(self) -> Any:
        """Give back what `initialize` took. Called once at the end, also after failures. May be `async`."""

    def reset(self) -> None:
        """Forget the stream seen so far; keep what was fitted. Called between unrelated streams."""

    def health(self) -> Any:
        """Veto a release while it is on probation: return False, or the reason in words. None and True are well."""
        return None

    def fit(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Learn on the workstation: `fit(x)`, `fit(x, y=None)`, each also with `*, frame`; keep it in attributes."""
        return self

    def upgrade(self, old_state: Any, old_fingerprint: str) -> Any:
        """Take over what the version before has learned on this device's stream; define it to get it (R5).

        Called once, when a release takes over from a running one that has a stage of the same name, after
        `initialize()` and after the last samples were shown for warming up; `predict` goes on with the very next
        sample. `old_state` is what the running stage's `__getstate__` returns, or a dict of its attributes that are
        plain data; `old_fingerprint` says of which version of the class. Replace what warming up left behind. All
        stages together hand over 1 MB at most. What it raises, or taking more than five seconds, refuses the release,
        and the old one goes on. Not called for a first release, a stage without state, or a worker that starts anew.
        May be `async`.
        """

    def files(self) -> dict[str, Path]:
        """Return the parameters that are files, with their absolute paths: they travel as blobs of their own."""
        return {}


def apply(target: Filter, frame: Frame) -> Frame:
    """Run one filter on one frame, under the conventions of `Step`."""
    return Step(target)(frame)


def parameters_of(target: Any) -> dict[str, Any]:
    """Return the constructor parameters of a filter, read back from its attributes.

    Raises `AuthorError` naming class and parameter where one is kept under no attribute of its name, or where the
    constructor takes positional-only or `*` arguments.
    """
    cls = type(target)
    names: list[str] = []
    recorded: tuple[str, ...] = getattr(target, "__dict__", {}).get(_RECORDED, ())
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            names += [one for one in recorded if one not in names]
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise AuthorError(
                f"{cls.__qualname__}.__init__ takes {name!r} by position only, so it cannot be constructed again from "
                "named parameters: give it a name"
            )
        else:
            names.append(name)
    return {name: _read(target, name) for name in names}


def construct(cls: type, parameters: dict[str, Any]) -> Any:
    """Return a new `cls(**parameters)` whose parameters read back as given.

    Raises `AuthorError` where the constructor fails or changes a parameter: the device constructs the filter from the
    values that were read back, so a parameter that is doubled here would be doubled twice there.
    """
    from edge_agent.sdk.plain import encode

    try:
        twin = cls(**parameters)
    except Exception as error:
        raise AuthorError(
            f"{cls.__qualname__} cannot be constructed again from its own parameters "
            f"({', '.join(parameters) or 'none'}): {type(error).__name__}: {error}"
        ) from error
    for name, value in parameters_of(twin).items():
        try:
            same = value is parameters[name] or encode(value) == encode(parameters[name])
        except TypeError:
            same = True  # not plain: whoever encodes the parameters refuses it by name
        if not same:
            raise AuthorError(
                f"{cls.__qualname__}.__init__ changes its parameter {name!r} ({parameters[name]!r} becomes {value!r}), "
                f"so it would be changed again on the device: keep {name!r} as given, the result under another name"
            )
    return twin


def _read(target: Any, name: str) -> Any:
    try:
        return getattr(target, name)
    except AttributeError:
        _refuse_unkept(type(target), name)


def _refuse_unkept(cls: type, name: str) -> NoReturn:
    raise AuthorError(
        f"{cls.__qualname__} takes a parameter {name!r} but keeps no attribute of that name, so its value cannot be "
        f"shipped: write super().__init__({name}={name}) or self.{name} = {name}"
    )
