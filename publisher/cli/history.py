"""`publisher history`: every release ever signed, who signed it, and what became of it."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from publisher.cli import echo_json, home_option, json_option, main

if TYPE_CHECKING:
    from publisher.trust.chronicle import ChannelHistory, Entry

_DIGEST_DIGITS = 12
_COMMIT_DIGITS = 10
_PIPE_COLUMNS = 1_000


@main.command(short_help="List every release ever signed, newest first.")
@click.argument("pipeline", required=False)
@click.option("-c", "--channel", metavar="NAME", help="Only this channel; default all.")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="At most N releases a channel.")
@home_option
@json_option
def history(pipeline: str | None, channel: str | None, limit: int | None, home: Path | None, as_json: bool) -> None:
    """List the releases of PIPELINE (default: all), newest first: when, who, which commit, and what became of them.

    All of it is signed metadata, checked against this workstation's pinned root. Exit code 1 when something of it is
    missing or does not hold; what does is shown.
    """
    from publisher.trust import chronicle as room

    found = room.history(pipeline, channel=channel, limit=limit, home=home)
    if as_json:
        echo_json(found)
    else:
        for one in found:
            _print(one)
    for one in found:
        for fault in one.faults:
            click.echo(f"channel {one.channel}: {fault}", err=True)
    sys.exit(1 if any(one.faults for one in found) else 0)


def _print(found: ChannelHistory) -> None:
    from rich.console import Console
    from rich.table import Table

    click.echo(f"channel {found.channel}{'' if found.entries else ': no release yet'}")
    if not found.entries:
        return
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("release", "tag", "state", "signed, UTC", "signer", "commit", "digest", "message"):
        table.add_column(column, overflow="fold")
    for entry in found.entries:
        table.add_row(*_cells(entry))
    console.print(table)


def _cells(entry: Entry) -> list[str]:
    info = entry.release
    when = datetime.datetime.fromtimestamp(info.published, datetime.UTC)
    state = entry.state.value.replace("_", " ") + (f", back to {entry.back_to}" if entry.back_to else "")
    commit = info.commit[:_COMMIT_DIGITS] + (" +changes" if info.dirty else "")
    digest = info.digest.hex[:_DIGEST_DIGITS]
    return [entry.name, info.tag, state, f"{when:%Y-%m-%d %H:%M}", info.signer, commit, digest, info.message]
