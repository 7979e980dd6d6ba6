"""Writes `deployment.md` from the two literal tables of `edge_agent.update.deployment`, which are the specification.

Run `python docs/make_diagrams.py` after changing a table; a test fails while the file is stale.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_agent.update.deployment import (
    ATTEMPTS_MAX,
    ENDED,
    IGNORED,
    REBOOTS_MAX,
    RESTART,
    RETRY_SECONDS,
    RETRY_SECONDS_MAX,
    TRANSITIONS,
    UNDER_WAY,
    Effect,
    EventKind,
    State,
    Write,
)

__all__ = ["TARGET", "render"]

TARGET = Path(__file__).with_name("deployment.md")

_HEAD = """\
# Deployment: the state machine of one release on one slot

This file is written by [make_diagrams.py](make_diagrams.py) from `TRANSITIONS`, `IGNORED` and `RESTART` in
`edge_agent/update/deployment.py`. Do not edit it.

How to read the tables:

- Every state and event stands in exactly one of the two tables; what is ignored is old news from a worker or a
  download that was given up, or concerns nothing that is running.
- *Written with it* happens in the same SQLite transaction as the new state. *Done after it* starts when that
  transaction is durable, and can be repeated.
- `quarantine` is written only if a reason blames something other than the environment.
- `make active` feeds `replaced` to the release that was active; `make previous active` turns the superseded release
  before it back to `committed`. Both happen in the same transaction.
- A `crashed` that ends attempt {attempts} counts as `failed`.
- A `rebooted` refunds its attempt; reboot {reboots} counts as `failed`, blames the environment and quarantines nothing.
- A postponed deployment waits {retry:g} s, doubled with each postponement, at most {retry_max:g} s. A crashed or
  rebooted one waits in the same way before its next attempt, and until the committed release has settled.
- A `held` one waits until its window opens or its hold ends, and is asked again after {retry_max:g} s at the latest.
- A committed release with no earlier one to go back to ignores `failed` and `operator`: it is never given up.
"""


def render() -> str:
    """Return the whole text of `deployment.md`."""
    head = _HEAD.format(attempts=ATTEMPTS_MAX, retry=RETRY_SECONDS, retry_max=RETRY_SECONDS_MAX, reboots=REBOOTS_MAX)
    return "\n".join(
        [head, "## Diagram", "", *_diagram(), "", *_groups(), *_transitions(), "", *_ignored(), "", *_restart(), ""]
    )


def _diagram() -> list[str]:
    """Draw one arrow for each pair of states, with all events that lead from one to the other."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TRANSITIONS:
        arrows.setdefault((row.state, row.next), []).append(row.event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.ANNOUNCED.value}"]
    for (before, after), events in arrows.items():
        lines.append(f"    {before.value} --> {after.value}: {', '.join(events)}")
    left = {row.state for row in TRANSITIONS}
    lines += [f"    {state.value} --> [*]" for state in State if state not in left]
    return [*lines, "```"]


def _groups() -> list[str]:
    return [
        f"- Under way: {_listed(state for state in State if state in UNDER_WAY)}.",
        f"- Ended: {_listed(state for state in State if state in ENDED)}.",
        f"- `{State.COMMITTED.value}` is the release that the slot runs.",
        "",
    ]


def _transitions() -> list[str]:
    lines = [
        "## Transitions",
        "",
        "| state | event | next | written with it | done after it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in TRANSITIONS:
        cells = [row.state.value, row.event.value, row.next.value, _listed(row.writes), _listed(row.effects)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ignored() -> list[str]:
    lines = ["## What is ignored", "", "| state | events |", "| --- | --- |"]
    for state, events in IGNORED.items():
        lines.append(f"| {state.value} | {'every one' if set(events) == set(EventKind) else _listed(events)} |")
    return lines


def _restart() -> list[str]:
    lines = [
        "## What a state found at start means",
        "",
        "| state found | after the agent died | after the machine went down | done again |",
        "| --- | --- | --- | --- |",
    ]
    for state, found in RESTART.items():
        fed = [event.value if event else "–" for event in (found.killed, found.rebooted)]
        lines.append(f"| {state.value} | {' | '.join(fed)} | {_listed(found.effects)} |")
    return lines


def _listed(items: Iterable[State | EventKind | Write | Effect]) -> str:
    return ", ".join(f"`{item.value}`" for item in items) or "–"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
