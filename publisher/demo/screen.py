"""What the demonstration shows: a live table on a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_agent.contract.messages import SlotReport
from publisher.devices.fleet import Fleet

__all__ = ["DeviceTable", "Screen", "print_summary"]

RATE_SECONDS = 2.0


class DeviceTable:
    """The rows of the live table, from the devices' reports and the meter's counts."""

    def __init__(self, devices: Sequence[str], fleet: Fleet, counted: Callable[[], dict[str, Any]]) -> None:
        self._devices, self._fleet, self._counted = devices, fleet, counted
        self._before: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def rows(self) -> list[dict[str, str]]:
        """Return one row a device, column by column."""
        counted = self._counted()
        return [self._row(device, counted) for device in self._devices]

    def _row(self, device: str, counted: dict[str, Any]) -> dict[str, str]:
        report = self._fleet.reports.get(device)
        slot = report.slots[0] if report is not None and report.slots else SlotReport(pipeline="", channel="")
        running = counted.get("running", {}).get(device) or slot.active
        accuracy = counted.get("accuracy", {}).get(running)
        return {
            "device": device,
            "release": running or "-",
            "state": f"{slot.last} {slot.state.replace('_', ' ')}" if slot.state else "no release yet",
            "samples/s": f"{self._rate(device, counted.get('answered', {}).get(device, 0)):.0f}",
            "accuracy": "-" if accuracy is None else f"{accuracy:.0%}",
            "last reason": "; ".join(reason.message for reason in slot.reasons),
        }

    def _rate(self, device: str, answered: int) -> float:
        now = time.monotonic()
        at, before = self._before.setdefault(device, (now, answered))
        if now - at >= RATE_SECONDS:
            self._rates[device] = (answered - before) / (now - at)
            self._before[device] = (now, answered)
        return self._rates.get(device, 0.0)


class Screen:
    """A table of devices with the steps so far above it. `look()` returns the table's rows."""

    def __init__(self, look: Callable[[], list[dict[str, str]]], *, quiet: bool) -> None:
        self._console = Console(stderr=quiet)
        self._look, self._steps = look, [""]
        self._live: Live | None = None
        self._lock = threading.Lock()
        if self._console.is_terminal and not quiet:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, words: str) -> None:
        """Begin a new step."""
        with self._lock:
            self._steps.append(words)
        if self._live is None:
            self._console.print(f"[{time.strftime('%H:%M:%S')}] {words}", highlight=False, markup=False)

    def detail(self, words: str) -> None:
        """Say more about the current step."""
        if self._live is None:
            self._console.print(f"           {words}", highlight=False, markup=False)
        else:
            with self._lock:
                self._steps[-1] = f"{self._steps[-1].split('  · ')[0]}  · {words}"

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        rows = self._look()
        for column in rows[0] if rows else ():
            table.add_column(
                column, overflow="fold", justify="right" if column in ("samples/s", "accuracy") else "left"
            )
        for row in rows:
            table.add_row(*row.values())
        with self._lock:
            steps = [Text(step, style="bold" if step is self._steps[-1] else "dim") for step in self._steps[1:]]
        return Group(*steps, Text(), table)


def print_summary(summary: dict[str, Any]) -> None:
    """Print what was pushed, what healed itself and what was lost."""
    console = Console(file=sys.stdout, highlight=False)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("release", "outcome", "accuracy", "sent", "seconds", "why"):
        table.add_column(column, overflow="fold")
    for one in summary["releases"]:
        accuracy = summary["accuracy"].get(one["release"])
        table.add_row(
            one["release"],
            one["outcome"].replace("_", " "),
            "-" if accuracy is None else f"{accuracy:.1%}",
            f"{one['sent_bytes']:,} B",
            f"{one['seconds']:.1f}",
            one["reason"],
        )
    console.print(table)
    running = ", ".join(f"{device} {release}" for device, release in summary["committed"].items())
    console.print(f"running now: {running}")
    console.print(f"healed by themselves: {summary['rolled_back']} of {summary['devices']} devices")
    console.print(
        f"samples: {summary['samples']:,} fed, {summary['samples_lost']} lost, "
        f"{summary['samples_repeated']} repeated (counted outside)"
    )
