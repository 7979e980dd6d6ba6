"""The worker's side of a hand-over: what its stages have learned, and what they take over from the version before (R5).

State crosses as plain data; nothing is pickled. Which worker is asked, and when, the lane decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.runtime import wire

if TYPE_CHECKING:
    from edge_agent.contract.manifest import Manifest
    from edge_agent.sdk.pipeline import Pipeline

__all__ = ["states_of", "take_over", "upgrading"]


def upgrading(pipeline: Pipeline) -> list[str]:
    """Return the names of the stages whose class defines `upgrade`."""
    from edge_agent.sdk.filter import Filter

    return [
        name
        for name, stage in pipeline.every_stage()
        if isinstance(stage, Filter) and type(stage).upgrade is not Filter.upgrade
    ]


def states_of(pipeline: Pipeline, manifest: Manifest, names: list[str]) -> wire.States:
    """Return what the stages `names` have learned, without those that are not here or have no state.

    Raises `StageError` naming the stage whose state cannot be had, `ValueError` when there is too much of it.
    """
    from edge_agent.sdk.container import Container, StageError
    from edge_agent.sdk.state import learned

    fingerprints = {stage.name: stage.fingerprint for stage in manifest.every_stage()}
    found: dict[str, tuple[str, bytes]] = {}
    for name, stage in pipeline.every_stage():
        if name not in names or isinstance(stage, Container):
            continue
        try:
            state = learned(stage)
        except Exception as error:
            raise StageError(name, error) from error
        if state is not None:
            found[name] = fingerprints[name], state
    size = sum(len(state) for _, state in found.values())
    if size > wire.STATES_BYTES_MAX:
        sizes = ", ".join(f"{name!r} {len(state)}" for name, (_, state) in found.items())
        raise ValueError(f"{size} bytes of state are more than the {wire.STATES_BYTES_MAX} that can go over: {sizes}")
    return wire.States(stages=found)


def take_over(pipeline: Pipeline, states: wire.States) -> None:
    """Call `upgrade` of each stage that has a state here. Raises `StageError` with what it raised."""
    from edge_agent.sdk.container import StageError
    from edge_agent.sdk.plain import decode
    from edge_agent.sdk.step import settle

    stages = dict(pipeline.every_stage())
    for name, (fingerprint, state) in states.stages.items():
        try:
            settle(stages[name].upgrade(decode(state), fingerprint))  # type: ignore[union-attr]
        except Exception as error:
            raise StageError(name, error) from error
