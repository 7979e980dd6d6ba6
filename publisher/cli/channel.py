"""`publisher channel`: channels of a fleet."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from publisher.cli import home_option, main, passphrase_option

_count = click.IntRange(1, 32)


@main.group(short_help="Channels of a fleet, each with keys of its own.")
def channel() -> None:
    """Channels of a fleet: streams of releases with keys of their own."""


@channel.command("add", short_help="Add a channel to the fleet.")
@click.argument("name")
@click.option(
    "--threshold", type=_count, metavar="N", default=1, show_default=True, help="How many keys must sign a release."
)
@click.option("--release-keys", type=_count, metavar="N", help="Release keys to make; default as many as must sign.")
@click.option("--root-keys", type=_count, metavar="N", default=1, show_default=True, help="Root keys to make.")
@click.option(
    "--root-threshold", type=_count, metavar="N", default=1, show_default=True, help="How many of them must sign."
)
@home_option
@passphrase_option
def channel_add(
    name: str,
    threshold: int,
    release_keys: int | None,
    root_keys: int,
    root_threshold: int,
    home: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Add the channel NAME to the fleet: its own keys, its own history, and the root that devices need."""
    from publisher import founding
    from publisher.trust.passphrase import ask

    made = founding.add_channel(
        name,
        passphrase=functools.partial(ask, passphrase_file),
        home=home,
        release_keys=release_keys or threshold,
        threshold=threshold,
        root_keys=root_keys,
        root_threshold=root_threshold,
    )
    click.echo(f"channel {name} added; fleet {made.fleet} has {', '.join(made.channels)}")
    click.echo(f"for each device: copy {made.device / f'{name}.root.json'} and name it in its configuration")
