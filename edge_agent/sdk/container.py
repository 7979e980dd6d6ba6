"""A container: a stage made of stages, as a nested `Pipeline` or a `Parallel` is.

It says what chains it holds and lets them live and end together; what its rows become, the kinds of containers decide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame, Values

if TYPE_CHECKING:
    from edge_agent.sdk.chain import Chain

__all__ = ["Container", "Member", "StageError"]


class StageError(AuthorError):
    """A stage failed. `stage` is its name, `original` what its filter raised."""

    def __init__(self, stage: str, original: BaseException) -> None:
        self.stage = stage
        self.original = original
        super().__init__(f"stage {stage!r}: {type(original).__name__}: {original}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.original)


class Container:
    """What `Pipeline` and `Parallel` have in common: stages inside, which live and end together."""

    _chains: dict[str, Chain]
    stem: str
    """What the stage is called where the author gives no name."""

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        """Return what the stages make of `values`, and a frame with the times of its rows."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """Return what, beside its branches, the container is made again from."""
        raise NotImplementedError

    @classmethod
    def assembled(cls, name: str, branches: Mapping[str, list[Any]], parameters: Mapping[str, Any]) -> Container:
        """Return a container of `branches` (lists of `(name, stage)`) with what `parameters` returned."""
        raise NotImplementedError

    def reach(self, stride: int) -> tuple[int, int]:
        """Return how many samples of history the stages need, and how many samples apart their rows come.

        Raises `ValueError` where windows in several branches hardly ever end together.
        """
        found = [chain.reach(stride) for chain in self._chains.values()]
        apart = max(hop for _, hop in found)
        for _, hop in found:
            if apart % hop:
                raise ValueError(
                    f"windows in two branches end every {hop} and every {apart} samples, so most of their rows have no "
                    "counterpart: make one hop a multiple of the other"
                )
        return max(samples for samples, _ in found), apart

    @property
    def spread(self) -> int:
        """How many rows go in at the most for one that comes out, beside what windows make of them."""
        return max(chain.spread for chain in self._chains.values())

    @property
    def branches(self) -> dict[str, tuple[tuple[str, Member], ...]]:
        """The stages inside, by branch, as `(name, stage)` pairs."""
        return {name: chain.stages for name, chain in self._chains.items()}

    def every_stage(self) -> Iterator[tuple[str, Member]]:
        """Yield all stages inside as `(name, stage)`, each before what it contains."""
        for chain in self._chains.values():
            yield from chain.every_stage()

    def initialize(self) -> None:
        """Initialize every stage that is not yet; after a failure, clean up those that were. Raises `StageError`."""
        try:
            for chain in self._chains.values():
                chain.initialize()
        except StageError:
            with contextlib.suppress(StageError):  # what failed first is what matters
                self.cleanup()
            raise

    def cleanup(self) -> None:
        """Clean up every initialized stage, the last first, all of them; then raise the first failure, if any."""
        failure = None
        for chain in reversed(self._chains.values()):
            try:
                chain.cleanup()
            except StageError as error:
                failure = failure or error
        if failure is not None:
            raise failure from failure.original

    def reset(self) -> None:
        """Let every stage forget the stream seen so far."""
        for chain in self._chains.values():
            chain.reset()

    def health(self) -> str | None:
        """Return the first stage's veto in words, None if all are well."""
        return next(filter(None, (chain.health() for chain in self._chains.values())), None)


Member: TypeAlias = Filter | Container
