"""`publisher backup` and `publisher restore`: one file against the loss of the workstation."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from publisher.cli import echo_json, home_option, json_option, main, passphrase_option


@main.command(short_help="Write home and record into one file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.tar")
@click.option("--without-keys", is_flag=True, help="Leave the private keys out, encrypted as they are.")
@home_option
@json_option
def backup(file: Path, without_keys: bool, home: Path | None, as_json: bool) -> None:
    """Write the home and the record of all its channels into FILE.tar, and read it back.

    With keys, FILE.tar and the passphrase together are the right to push to the fleet. Nothing is ever overwritten.
    """
    from publisher.backup import safekeeping as room

    found = room.backup(file, with_keys=not without_keys, home=home)
    if as_json:
        return echo_json(found)
    for one in found.left_out:
        click.echo(f"left out: {one}", err=True)
    channels = ", ".join(f"{name} ({number} publications)" for name, number in found.channels.items())
    click.echo(f"{found.file}: {found.size:,} bytes, {found.digest}")
    click.echo(f"  {channels}; {'with' if found.keys else 'without'} private keys; read back and checked")
    return None


@main.command(short_help="Restore home and record from a backup.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.tar")
@click.option("--offline", is_flag=True, help="Do not ask the broker whether it announces something newer.")
@click.option("--adopt", is_flag=True, help="Go on from what the broker announces, if that is newer.")
@home_option
@passphrase_option
@json_option
def restore(
    file: Path, offline: bool, adopt: bool, home: Path | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Restore FILE.tar into a new home, after checking all of it and that the broker announces nothing newer."""
    from publisher.backup import restoration
    from publisher.trust.passphrase import ask

    found = restoration.restore(
        file, home=home, offline=offline, adopt=adopt, passphrase=functools.partial(ask, passphrase_file)
    )
    if as_json:
        return echo_json(found)
    for one in found.missing:
        click.echo(f"missing: {one}", err=True)
    click.echo(f"fleet {found.fleet} restored in {found.home}, its record in {found.record}")
    if found.adopted:
        click.echo(f"taken over from the broker: the newest state of {', '.join(found.adopted)}")
    if not found.keys:
        click.echo(f"the backup has no private keys: bring those you need to {found.home}/keys")
    click.echo("run `publisher refresh` to see that everything works, and `publisher history` to see what is there")
    return None
