"""The `edge-agent` command: run the agent, and look at one or steer it, running or not.

Every handler parses, calls one function and prints. Exit codes: 0 done, 1 refused or not possible now, 2 wrong
configuration or command line, 3 the device's disk (full, read-only, not ours to read, or no agent has run on it yet).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

import edge_agent
from edge_agent import allocator, telemetry
from edge_agent.cli.command import EXIT_STORE, as_json, configured, with_config
from edge_agent.cli.doctor import doctor
from edge_agent.cli.enrolling import enroll
from edge_agent.cli.import_command import import_
from edge_agent.cli.incident_cli import incident
from edge_agent.cli.overview import status
from edge_agent.cli.steering import gc, hold, release
from edge_agent.config import CsvInput
from edge_agent.config.plugs import MergeInput
from edge_agent.contract.errors import StoreError
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.terminal import Program

__all__ = ["main"]

_LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False)


@click.group(
    "edge-agent",
    cls=Program,
    exit_codes={StoreError: EXIT_STORE, OSError: EXIT_STORE},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(edge_agent.__version__, prog_name="edge-agent")
def main() -> None:
    """Run signed pipelines on this device's sensor data, and keep a version that works."""


for command in (status, release, hold, gc, doctor, enroll, import_, incident):
    main.add_command(command)


@main.command(short_help="Run the agent, until SIGTERM or Ctrl-C.")
@with_config
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    metavar="LEVEL",
    type=_LEVELS,
    help="DEBUG, INFO, WARNING or ERROR.",
)
def run(config_path: Path | None, log_level: str) -> None:
    """Run the agent in the foreground, until SIGTERM or Ctrl-C."""
    allocator.settle()
    config = configured(config_path)
    telemetry.set_up_logging(log_level)
    from edge_agent.agent import run_rebuilding

    run_rebuilding(config)


@main.command("check-config", short_help="Check the configuration file.")
@with_config
@as_json
def checkconfigured(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration file and say what it means."""
    config = configured(config_path)
    for slot in config.slot.values():
        for one in slot.input.part.values() if isinstance(slot.input, MergeInput) else (slot.input,):
            if isinstance(one, CsvInput):
                CsvSource(one).close()  # it looks for the columns it is to read
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(config, enc_hook=str), indent=2))
        return
    broker = f"broker {config.broker.url}" if config.broker is not None else "no broker"
    click.echo(f"{config.path}: ok")
    click.echo(f"  device {config.device.id} of fleet {config.device.fleet}, {broker}")
    rooms = [name for name in ("inference", "metrics") if getattr(config.interfaces, name)]
    if rooms:
        click.echo(f"  {' and '.join(rooms)} at {config.interfaces.listen}, for every local user")
    for name, slot in config.slot.items():
        click.echo(f"  slot {name}: channel {slot.channel}, {_input(slot.input)} -> {_output(slot.output)}")


def _input(source: Any) -> str:
    if isinstance(source, MergeInput):
        return f"merge of {'; '.join(f'{name}: {_input(part)}' for name, part in source.part.items())}"
    places = ("topic", "path", "url", "port", "command", "device", "root")
    where = getattr(source, "host", "") or next((found for one in places if (found := getattr(source, one, None))), "")
    where = where[0] if isinstance(where, list) else where
    policy = f", overflow {source.overflow}" if source.overflow else ""
    return (
        f"{source.source}{f' {where}' if where else ''} ({', '.join(source.columns) or 'columns of the file'}){policy}"
    )


def _output(sink: Any) -> str:
    if sink.sink == "sqlite":
        return f"sqlite {sink.path} table {sink.table}"
    if sink.sink == "answer":
        return "whoever asks"
    where = next(found for one in ("topic", "path", "url", "command") if (found := getattr(sink, one, None)))
    spooled = f", spooled up to {sink.spool_mb:g} MB" if getattr(sink, "spool_mb", 0) else ""
    return f"{sink.sink} {where[0] if isinstance(where, list) else where}{spooled}"


@main.command(short_help="Show what releases are judged by on this device.")
@as_json
def profile(as_json: bool) -> None:
    """Show what admission judges releases by: interpreter, wheel tags, distributions, machine."""
    from edge_agent.profile import collect

    found = collect()
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    click.echo(f"python        {found.python} on {found.machine}, {found.memory_bytes / 2**20:.0f} MiB of memory")
    click.echo(f"wheel tags    {len(found.tags)}, first {found.tags[0]}")
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(found.opsets.items()))
    click.echo(f"onnxruntime   providers {', '.join(found.providers) or 'none'}; opsets up to {opsets or 'none'}")
    for name, version in sorted(found.distributions.items()):
        click.echo(f"  {name} {version}")
