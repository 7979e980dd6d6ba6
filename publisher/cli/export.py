"""`publisher channel export`: a channel's newest state as a directory, for devices without a network."""

from __future__ import annotations

import time
from pathlib import Path

import click

from publisher.cli import echo_json, home_option, json_option
from publisher.cli.channel import channel


@channel.command("export", short_help="Write a channel's newest releases into a directory, for a USB stick.")
@click.argument("name")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--pipeline", "pipelines", multiple=True, metavar="NAME", help="Only this pipeline's blobs; repeatable.")
@home_option
@json_option
def channel_export(name: str, directory: Path, pipelines: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Write what channel NAME offers now into DIR, for `edge-agent import DIR` on devices without a network.

    An export of the same channel that is there already is brought up to date; anything else in DIR is left alone. DIR
    is a mirror as well: devices may name it as a source of blobs (file:///…).
    """
    from publisher.export import export

    found = export(name, directory, pipelines=pipelines, home=home)
    if as_json:
        return echo_json(found)
    for release in found.releases:
        click.echo(f"  {release}")
    click.echo(
        f"channel {name} of fleet {found.fleet}: {found.blobs} blobs, {found.bytes:,} bytes in {found.directory} "
        f"({found.written} written, {found.written_bytes:,} bytes; {found.removed} removed)"
    )
    ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.expires))
    click.echo(f"devices start new releases from it until {ends}; `publisher refresh` and export again to go on")
    return None
