"""`edge-agent import`: a channel's newest state from a directory, such as a USB stick."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
import msgspec

from edge_agent.cli.command import EXIT_REFUSED, as_json, configured, with_config
from edge_agent.terminal import Seconds

__all__ = ["import_"]

_GOOD = ("committed", "unchanged")


@click.command("import", short_help="Take releases from a directory, such as a USB stick.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@with_config
@click.option("--wait", "wait_seconds", type=Seconds(), help="Wait so long for every slot to commit or refuse.")
@as_json
def import_(directory: Path, config_path: Path | None, wait_seconds: float | None, as_json: bool) -> None:
    """Take a channel's newest releases from DIR, which `publisher channel export` wrote.

    They are verified, admitted and tried like releases from the broker. With the agent stopped they are taken up when
    it starts.

    Exit codes: 0 accepted (with --wait: and committed, or nothing to change), 1 refused or not readable, 2 wrong
    command line or configuration, 3 the device's disk.
    """
    from edge_agent.offline.importing import take

    config = configured(config_path, check_files=False)
    quiet = as_json or not sys.stderr.isatty()
    found = take(
        config,
        directory,
        wait_seconds=wait_seconds or 0.0,
        told=lambda words: None if quiet else click.echo(words, err=True),
    )
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.expires))
        click.echo(f"{found.copied} blobs copied, {found.copied_bytes:,} bytes; {found.present} were here already")
        click.echo(f"channel {found.channel}, good until {ends}; {found.answer}")
        for slot in found.left_out:
            click.echo(f"slot {slot}: not in this export")
        for one in found.outcomes:
            click.echo(
                ": ".join(filter(None, [f"{one.slot} {one.ending.replace('_', ' ')}, {one.release}", one.words]))
            )
    kept = found.answer.startswith("kept") and wait_seconds is None
    if not (found.accepted or kept or found.outcomes) or any(one.ending not in _GOOD for one in found.outcomes):
        sys.exit(EXIT_REFUSED)
