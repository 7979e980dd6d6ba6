"""`publisher preflight`: will it run here, there, and on the devices?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from publisher.cli import EXIT_CODES, echo_json, home_option, json_option, main
from publisher.cli.identity import root_option

if TYPE_CHECKING:
    from publisher.packing.checking import Checked
    from publisher.preflight import Finding


@main.command(short_help="Try a pipeline in clean processes, and judge it for images and devices.")
@click.argument("target", required=False)
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="Try it under this interpreter too.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PROFILE.json",
    help="Judge it for an image: what `edge-agent profile --json` printed there.",
)
@root_option
@home_option
@json_option
def preflight(
    target: str | None,
    pythons: tuple[str, ...],
    images: tuple[Path, ...],
    root: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Pack TARGET, rebuild it in clean processes without your source, and run its self-test there. Sends nothing.

    It runs under two hash seeds, and must give what your own process gave. Interpreters given with --python need
    fieldcast installed. With a home, the last report of every device is judged too. Exit code 3 when anything refuses.
    """
    from publisher.packing.checking import check

    found = check(target, root=root, pythons=pythons, images=images, home=home)
    if as_json:
        echo_json(found)
    else:
        _print(found)
    sys.exit(EXIT_CODES["refused"] if found.refused else 0)


def _print(found: Checked) -> None:
    click.echo(f"{found.pipeline}: {found.preflight}")
    if len(found.findings) > 1:
        _print_table(found.findings)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("where", "name", "verdict", "why"):
        table.add_column(column, overflow="fold")
    for one in findings:
        table.add_row(one.kind, one.name, one.verdict.value, one.words)
    click.echo()
    Console(highlight=False, markup=False).print(table)
