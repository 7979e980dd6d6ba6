"""`publisher status`: what every device runs, against what is wanted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_agent.contract.digest import encode_json
from publisher.cli import guarded, home_option, json_option, main


@main.command()
@home_option
@json_option
@guarded
def status(home: Path | None, as_json: bool) -> None:
    """Show what is offered in each channel and what every device last reported."""
    found = gather(home)
    if as_json:
        click.echo(msgspec.json.format(encode_json(found), indent=2).decode())
        return
    _print(found)


def gather(home: Path | None) -> dict[str, Any]:
    """Return channels (offered releases, expiry) and devices (reports, unsigned as they are)."""
    from edge_agent.contract.messages import Topics
    from publisher.config import load_home
    from publisher.fleet import Fleet
    from publisher.pushing import connect
    from publisher.record import Record
    from publisher.repository import Channel

    place = load_home(home)
    topics = Topics(place.fleet)
    with connect(place) as client, Fleet(topics).listening(client) as fleet:
        fleet.settle()
        channels = {}
        for name in place.channels:
            channel = Channel(Record(place.record_location), place.fleet, name)
            offered = {pipeline: info for pipeline, (_, info) in channel.current().items()}
            channels[name] = {"offered": offered, "expires": min(channel.expiries().values())}
        return {
            "fleet": place.fleet,
            "broker": place.broker.url,
            "channels": channels,
            "devices": [
                {"device": device, "online": fleet.online.get(device, False), "report": report}
                for device, report in sorted(fleet.reports.items())
            ],
            "unreadable": fleet.unreadable,
        }


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, channel in found["channels"].items():
        offered = ", ".join(info.name for info in channel["offered"].values()) or "nothing yet"
        days = (channel["expires"] - time.time()) / 86_400
        console.print(f"channel {name}: {offered}  (metadata good for {days:.0f} days)", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("device", "online", "slot", "runs", "on its way", "samples/s", "last word"):
        table.add_column(column, overflow="fold")
    for device in found["devices"]:
        for slot in device["report"].slots:
            words = "; ".join(f"{reason.code.value}: {reason.message}" for reason in slot.reasons)
            last = f"{slot.last} {slot.state}" if slot.last and slot.last != slot.active else slot.state
            table.add_row(
                device["device"],
                "yes" if device["online"] else "no",
                f"{slot.pipeline} ({slot.channel})",
                slot.active or "-",
                f"{slot.candidate} {slot.state}" if slot.candidate else "",
                f"{slot.samples_per_second:g}",
                f"{last}{': ' if words else ''}{words}",
            )
    console.print(table if found["devices"] else "no device has reported yet", highlight=False)
    for device, why in found["unreadable"].items():
        console.print(f"{device}: unreadable report: {why}", highlight=False)
    if found["devices"]:
        console.print("(reports are not signed in this version: take them as hints)", style="dim", highlight=False)
