"""`publisher watch`: what happens on the devices, one line each, as it happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.contract.digest import encode_json
from publisher.cli import home_option, json_option, main

if TYPE_CHECKING:
    from publisher.devices.watching import SeenEvent


@main.command(short_help="Print what happens on the devices, as it happens.")
@click.option("-c", "--channel", metavar="NAME", help="Only releases of this channel.")
@home_option
@json_option
def watch(channel: str | None, home: Path | None, as_json: bool) -> None:
    """Print every transition of every device in one line, until Ctrl-C, with the standing of the device's word."""
    from publisher.devices.watching import events

    for seen in events(home=home, channel=channel):
        click.echo(encode_json(seen).decode() if as_json else line(seen))


def line(seen: SeenEvent) -> str:
    """Return one event for people; what is not verified is said first."""
    mark = "" if seen.standing.value == "verified" else f"[{seen.standing.value}] "
    event = seen.event
    if event is None:
        return _plain(f"{mark}{seen.device}: {seen.why}")
    when = time.strftime("%H:%M:%S", time.gmtime(event.time))
    dropped = f" (and {event.dropped} before it that were not sent)" if event.dropped else ""
    words = f": {event.words}" if event.words else ""
    why = "" if seen.counts else f"; not counted: it {seen.why}"
    return _plain(
        f"{when} {mark}{seen.device} {event.slot} {event.release} "
        f"{_state(event.before)} -> {_state(event.after)}{words}{dropped}{why}"
    )


def _plain(text: str) -> str:
    """Return what a device said without control characters: it must not steer the terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _state(state: str) -> str:
    return state.replace("_", " ")
