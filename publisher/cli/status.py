"""`publisher status`: what every device runs, against what is wanted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edge_agent.contract.errors import Reason
from publisher.cli import echo_json, home_option, json_option, main

if TYPE_CHECKING:
    from edge_agent.contract.messages import SlotReport
    from publisher.devices.fleet import DeviceStatus
    from publisher.devices.overview import ChannelStatus, FleetStatus

DAY_SECONDS = 86_400


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of a channel, as far as it is shown here."""

    stale_since: float = 0.0
    refused: list[Reason] = []
    refused_at: float = 0.0


@main.command(short_help="Show what is offered and what every device runs.")
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> None:
    """Show what is offered in each channel and what every device last reported."""
    from publisher.devices import overview

    found = overview.status(home=home)
    if as_json:
        echo_json(found)
    else:
        _print(found)


def _print(found: FleetStatus) -> None:
    click.echo(f"fleet {found.fleet}, broker {found.broker}")
    for name, channel in found.channels.items():
        click.echo(f"channel {name}: {_offer(channel)}")
    if not any(device.report for device in found.devices):
        click.echo("no device has reported yet")
    else:
        _print_table(found.devices)
    for device in found.devices:
        if device.unreadable:
            words = device.unreadable.removeprefix("report cannot be read: ")
            click.echo(f"{device.device}: its report cannot be read: {words}")
        elif device.standing.value not in ("verified", "unsigned"):
            click.echo(f"{device.device}: {device.standing.value.upper()}, its report does not count: it {device.why}")
    click.echo(_counting(found))


def _counting(found: FleetStatus) -> str:
    """Say whose word counts."""
    if found.unsigned_count:
        return "No device is enrolled: reports count unsigned, and whoever reaches the broker can invent one."
    unsigned = [one.device for one in found.devices if one.standing.value == "unsigned"]
    more = f"; not counted: {', '.join(unsigned)}, unsigned" if unsigned else ""
    return f"Only verified reports count{more}."


def _offer(channel: ChannelStatus) -> str:
    offered = ", ".join(f"{info.name}{f' ({info.tag})' if info.tag else ''}" for info in channel.offered.values())
    days = (channel.expires - time.time()) / DAY_SECONDS
    fresh = (
        f"its signatures are good for {days:.0f} days" if days > 0 else f"its signatures EXPIRED {-days:.0f} days ago"
    )
    return f"offers {offered or 'nothing yet'}; {fresh}"


def _print_table(devices: list[DeviceStatus]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("device", "standing", "online", "slot", "runs", "samples/s", "last"):
        table.add_column(column, overflow="fold", justify="right" if column == "samples/s" else "left")
    for device in devices:
        for slot in device.report.slots if device.report is not None else ():
            table.add_row(
                device.device,
                device.standing.value,
                "yes" if device.online else "no",
                *_cells(slot, online=device.online),
            )
    click.echo()
    console.print(table)
    for device in devices:
        for slot in device.report.slots if device.report is not None else ():
            for reason in slot.reasons:
                click.echo(f"{device.device}: {slot.last} {_state(slot)}, {reason}")
        for name, channel in (device.report.channels if device.report is not None else {}).items():
            for words in _trouble(channel):
                click.echo(f"{device.device}: channel {name}: {words}")
        for name, words in (device.report.sources if device.report is not None else {}).items():
            click.echo(f"{device.device}: source of blobs {name}: {words}")
        if device.report is not None and device.report.refused_commands:
            since = f"{device.report.refused_commands} commands refused since its agent started"
            click.echo(f"{device.device}: {since}, the last: {device.report.refused_command}")
    click.echo()


def _trouble(channel: dict[str, Any]) -> list[str]:
    """Say what a device has against a channel: it is stale, or what was announced last was refused."""
    try:
        said = msgspec.convert(channel, _Said)
        found = [f"STALE since {_when(said.stale_since)}: no update begins"] if said.stale_since else []
        if said.refused:
            more = f" (and {len(said.refused) - 1} more)" if len(said.refused) > 1 else ""
            found.append(f"refused at {_when(said.refused_at)} what was announced, {said.refused[0]}{more}")
    except (msgspec.ValidationError, ValueError, OverflowError, OSError) as error:
        return [f"what it says of it cannot be read: {error}"]  # of a device whose word nobody has to believe
    return found


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _cells(slot: SlotReport, *, online: bool) -> tuple[str, str, str, str]:
    return (
        f"{slot.pipeline} ({slot.channel})",
        slot.active or "nothing",
        f"{slot.samples_per_second:g}" if online else "-",
        f"{slot.last} {_state(slot)}" if slot.last else "nothing offered yet",
    )


def _state(slot: SlotReport) -> str:
    return slot.state.replace("_", " ")
