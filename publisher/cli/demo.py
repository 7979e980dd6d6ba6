"""`publisher demo`: the whole road on three local devices with real data."""

from __future__ import annotations

import click

from publisher.cli import json_option, main


@main.command(short_help="Push three releases to three local devices; the third heals itself.")
@json_option
@click.option("--keep", is_flag=True, help="Leave the directory with everything in it.")
@click.option("--broker", "broker_url", metavar="URL", help="Use this broker instead of an embedded one.")
def demo(as_json: bool, keep: bool, broker_url: str | None) -> None:
    """Push three releases to three devices: two commit, the third heals itself. Nothing is lost."""
    from publisher.demo import run_demo

    run_demo(as_json=as_json, keep=keep, broker_url=broker_url)
