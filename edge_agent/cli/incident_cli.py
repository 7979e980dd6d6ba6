"""`edge-agent incident`: list, show and export what was kept of releases that failed here, agent running or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from edge_agent.cli.command import as_json, configured, with_config
from edge_agent.contract.errors import StoreError
from edge_agent.incidents import Incident, listed, read, readable

__all__ = ["incident"]


@click.group("incident", short_help="Look at what was kept of releases that failed here.")
def incident() -> None:
    """Look at what was kept of releases that failed on this device."""


@incident.command("list", short_help="List the incidents, newest first.")
@with_config
@as_json
def incident_list(config_path: Path | None, as_json: bool) -> None:
    """List the incidents of this device, newest first."""
    state = configured(config_path, check_files=False).device.state
    rows = [_row(state, number) for number in reversed(listed(state))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(_line(row))
    if not rows:
        click.echo("no incident on this device")


def _row(state: Path, number: int) -> dict[str, Any]:
    """Return what the list says of an incident; one that cannot be read hides no other."""
    try:
        one = read(state, number)
    except StoreError as error:
        return {"number": number, "unreadable": str(error)}
    names = ("number", "time", "slot", "release", "digest", "state")
    return {**{name: getattr(one, name) for name in names}, "reason": readable(one)["reason"]}


def _line(row: dict[str, Any]) -> str:
    if "unreadable" in row:
        return f"{row['number']:4} {row['unreadable']}"
    why = f"{row['reason']['code']}: {row['reason']['message']}"
    return f"{row['number']:4} {_when(row['time'])}  {row['release']:24} {row['state'].replace('_', ' '):12} {why}"


@incident.command("show", short_help="Show one incident.")
@click.argument("number", type=int)
@with_config
@as_json
def incident_show(number: int, config_path: Path | None, as_json: bool) -> None:
    """Show incident NUMBER: why, with what evidence, in which versions."""
    one = read(configured(config_path, check_files=False).device.state, number)
    if as_json:
        click.echo(json.dumps(readable(one), indent=2, default=_text))
        return
    _print(one)


@incident.command("export", short_help="Write one incident into a file.")
@click.argument("number", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_config
@as_json
def incident_export(number: int, file: Path, config_path: Path | None, as_json: bool) -> None:
    """Write incident NUMBER with its input frames into FILE, as JSON."""
    one = read(configured(config_path, check_files=False).device.state, number)
    try:
        with file.open("x", encoding="utf-8") as target:
            json.dump(readable(one), target, indent=2, default=_text)
            target.write("\n")
    except FileExistsError:
        raise StoreError(f"{file} is there already: name another file") from None
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}") from None
    told = {"number": one.number, "file": str(file), "frames": len(one.frames)}
    click.echo(json.dumps(told) if as_json else f"incident {one.number} with {len(one.frames)} frames in {file}")


def _print(one: Incident) -> None:
    click.echo(f"incident {one.number}, {_when(one.time)}: {one.release} on slot {one.slot}, {one.state}")
    click.echo(f"  because {one.reason}")
    click.echo(f"  manifest {one.digest}, profile {one.profile}")
    click.echo(f"  versions {', '.join(f'{name} {version}' for name, version in sorted(one.versions.items()))}")
    for name, value in sorted(one.evidence.items()):
        click.echo(f"  {name} {value:g}")
    for name, micros in one.stages.items():
        click.echo(f"  stage {name} took {micros / 1000:g} ms")
    rows = sum(len(frame.sequences) for frame in one.frames)
    click.echo(f"  {len(one.frames)} input frames kept, {rows} rows")
    if one.redacted:
        click.echo(f"  without the columns {', '.join(one.redacted)}")
    if one.traceback:
        click.echo(one.traceback.rstrip())


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
