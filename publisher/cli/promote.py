"""`publisher promote`: the same bytes into another channel."""

from __future__ import annotations

from typing import Any

import click

from publisher.cli import main
from publisher.cli.push import common_options, run, waiting_options

SOURCE = "staging"  # publisher.promotion.SOURCE, without importing the room for `--help`


@main.command(short_help="Sign a release into another channel: the same bytes.")
@click.argument("reference", metavar="REF")
@click.option("--to", required=True, metavar="NAME", help="The channel to promote into.")
@click.option("--from", "source", default=SOURCE, show_default=True, metavar="NAME", help="The channel it is in.")
@click.option("-m", "--message", help="Why, in one line; where it came from is added.")
@waiting_options
@common_options
def promote(reference: str, **chosen: Any) -> None:
    """Offer release REF of one channel in another one: the same bytes, under that channel's keys and next number.

    REF is name@sequence, name@channel, name@tag, or the first digits of its digest. Nothing is packed again; the
    author's files may be gone. Does nothing when the channel offers these bytes already. Exit codes as for `push`.
    """
    from publisher import promotion

    run(promotion.promote, reference, **chosen)
