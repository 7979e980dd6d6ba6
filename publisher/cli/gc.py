"""`publisher gc`: clear from the broker what no channel offers any more."""

from __future__ import annotations

from pathlib import Path

import click

from publisher.cli import echo_json, home_option, json_option, main

ALL = "all"


@main.command(short_help="Clear blobs from the broker that no channel offers any more.")
@click.option(
    "-c", "--channel", default=ALL, show_default=True, metavar="NAME", help="Only what this channel once offered."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be cleared.")
@home_option
@json_option
def gc(channel: str, dry_run: bool, home: Path | None, as_json: bool) -> None:
    """Clear from the broker the blobs that no channel's candidate or stable release needs, and say how much that frees.

    The record keeps everything: a rollback sends again what the broker lacks.
    """
    from publisher.collection import collect

    found = collect(channel=None if channel == ALL else channel, dry_run=dry_run, home=home)
    if as_json:
        return echo_json(found)
    for one in found.cleared:
        click.echo(f"{one.digest.short}  {one.bytes:>13,} bytes  {one.why}")
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{len(found.cleared)} blobs, {found.freed_bytes:,} bytes {verb}; {found.kept} blobs stay")
    if found.sent_again:
        click.echo(f"{found.sent_again} blobs were needed again meanwhile, and sent again")
    return None
