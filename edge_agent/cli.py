"""The `edge-agent` command: run the agent, and look at one or steer it, running or not.

Every handler parses, calls one function and prints. Exit codes: 0 done, 1 refused or not possible now, 2 wrong
configuration or command line, 3 the device's disk (full, read-only, not ours to read, or no agent has run on it yet).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

import edge_agent
from edge_agent import telemetry
from edge_agent.config import Config, CsvInput, load
from edge_agent.contract.errors import ConfigError, StoreError
from edge_agent.doorbell import ring
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.terminal import Program
from edge_agent.update.store import Store

__all__ = ["main"]

DEFAULT_CONFIG = Path("/etc/fieldcast/agent.toml")
REQUEST_SECONDS = 10.0
EXIT_REFUSED, EXIT_STORE = 1, 3


def with_config(act: Callable[..., None]) -> Callable[..., None]:
    """Add `--config` and hand the path over as `config_path`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file; else $FIELDCAST_CONFIG, else {DEFAULT_CONFIG}.",
    )(act)


_LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _config(path: Path | None, *, check_files: bool = True) -> Config:
    named = path or (Path(os.environ["FIELDCAST_CONFIG"]) if os.environ.get("FIELDCAST_CONFIG") else DEFAULT_CONFIG)
    return load(named, check_files=check_files)


@click.group(
    "edge-agent",
    cls=Program,
    exit_codes={StoreError: EXIT_STORE, OSError: EXIT_STORE},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(edge_agent.__version__, prog_name="edge-agent")
def main() -> None:
    """Run signed pipelines on this device's sensor data, and keep a version that works."""


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
    config = _config(config_path)
    telemetry.set_up_logging(log_level)
    from edge_agent.agent import Agent

    Agent(config).run()


@main.command("check-config", short_help="Check the configuration file.")
@with_config
@as_json
def check_config(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration file and say what it means."""
    config = _config(config_path)
    for slot in config.slot.values():
        if isinstance(slot.input, CsvInput):
            CsvSource(slot.input).close()  # it looks for the columns it is to read
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(config, enc_hook=str), indent=2))
        return
    click.echo(f"{config.path}: ok")
    click.echo(f"  device {config.device.id} of fleet {config.device.fleet}, broker {config.broker.url}")
    for name, slot in config.slot.items():
        click.echo(f"  slot {name}: channel {slot.channel}, {_input(slot.input)} -> {_output(slot.output)}")


def _input(source: Any) -> str:
    where = getattr(source, "topic", None) or source.path
    return f"{source.source} {where} ({', '.join(source.columns) or 'columns of the file'})"


def _output(sink: Any) -> str:
    return f"{sink.sink} {getattr(sink, 'topic', None) or f'{sink.path} table {sink.table}'}"


@main.command(short_help="Show what runs, what is on its way, and why not.")
@with_config
@as_json
def status(config_path: Path | None, as_json: bool) -> None:
    """Show what runs, what is on its way and why something was refused; works with the agent stopped."""
    found = _status(_config(config_path, check_files=False))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    running = f"running, pid {found['pid']}, {found['connection']}" if found["running"] else "not running"
    click.echo(f"device {found['device']} of fleet {found['fleet']}: agent {running}")
    for slot in found["slots"]:
        _print_slot(slot)
    for name, channel in found["channels"].items():
        _print_channel(name, channel)


_TROUBLES = {
    "crashes": "worker crashes",
    "errors": "frames failed",
    "skipped": "samples without an answer",
    "rejected": "samples unreadable",
    "refused": "results that the sink refused",
}


def _print_slot(slot: dict[str, Any]) -> None:
    rate = f", {slot.get('samples_per_second', 0.0):g} samples/s" if slot.get("active") else ""
    click.echo(f"slot {slot['pipeline']}: runs {slot.get('active') or 'nothing'}{rate}")
    if slot.get("candidate"):
        click.echo(f"  on its way: {slot['candidate']} ({_said(slot['state'])})")
    elif slot.get("last") and slot["last"] != slot.get("active"):
        click.echo(f"  last offered: {slot['last']} ({_said(slot['state'])})")
    for reason in slot.get("reasons", []):
        click.echo(f"  because {reason['code']}: {reason['message']}")
    counters = slot.get("counters", {})
    told = [f"{counters[name]} {words}" for name, words in _TROUBLES.items() if counters.get(name)]
    if told:
        click.echo(f"  since the agent started: {', '.join(told)}")
    for end in ("input", "output"):
        if slot.get(f"{end}_problem"):
            click.echo(f"  {end}: {slot[f'{end}_problem']}")
        for kind, words in slot.get(f"{end}_faults", {}).items():
            click.echo(f"  {end} {kind}: {words}")


def _print_channel(name: str, channel: dict[str, Any]) -> None:
    if "accepted" in channel:
        stale = f", STALE since {_when(channel['stale_since'])}" if "stale_since" in channel else ""
        click.echo(f"channel {name}: metadata expires {_when(channel['expires'])}{stale}")
    else:
        click.echo(f"channel {name}: nothing accepted yet")
    for reason in channel.get("refused", []):
        click.echo(f"  refused {_when(channel['refused_at'])}, {reason['code']}: {reason['message']}")


def _said(state: str) -> str:
    return state.replace("_", " ")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _status(config: Config) -> dict[str, Any]:
    live = ring(config.device.state) if config.device.state.is_dir() else None
    if live is not None:
        return {"running": True, **json.loads(live)}
    now = time.time()
    with contextlib.closing(_store(config)) as store:
        slots = [telemetry.slot_report(store, name, slot.channel, {}, 0.0) for name, slot in config.slot.items()]
        channels = {name: telemetry.channel_status(store, name, now) for name in config.channel}
    return {
        "running": False,
        "device": config.device.id,
        "fleet": config.device.fleet,
        "slots": msgspec.to_builtins(slots, enc_hook=str),
        "channels": channels,
    }


def _store(config: Config) -> Store:
    return Store(config.device.state / "agent.db", create=False)


@main.group(short_help="List this device's releases, or go back to one.")
def release() -> None:
    """Look at the releases of this device, or go back to an earlier one."""


@release.command("list", short_help="List the releases this device was offered.")
@with_config
@click.option("--slot", help="Only this slot.")
@as_json
def release_list(config_path: Path | None, slot: str | None, as_json: bool) -> None:
    """List the releases this device was offered, newest first, and what became of each."""
    config = _config(config_path, check_files=False)
    with contextlib.closing(_store(config)) as store:
        found = store.deployments(slot)
        active = {one.id for name in config.slot if (one := store.active(name)) is not None}
    rows = [
        {
            "slot": one.slot,
            "release": one.release,
            "digest": str(one.digest),
            "state": one.state.value,
            "active": one.id in active,
            "attempts": one.attempts,
            "reasons": msgspec.to_builtins(list(one.reasons)),
        }
        for one in found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        why = "; ".join(f"{reason['code']}: {reason['message']}" for reason in row["reasons"])
        mark = "*" if row["active"] else " "
        click.echo(f"{mark} {row['release']:24} {row['digest'][7:19]} {_said(row['state']):12} {why}".rstrip())


@release.command("rollback", short_help="Go back to the release committed before.")
@with_config
@click.option("--slot", help="Which slot; needed when there are several.")
@as_json
def release_rollback(config_path: Path | None, slot: str | None, as_json: bool) -> None:
    """Go back to the release committed before, without any network. It stays away until told otherwise."""
    config = _config(config_path, check_files=False)
    if slot is None:
        if len(config.slot) != 1:
            raise ConfigError(f"which slot? --slot {'|'.join(config.slot)}")
        slot = next(iter(config.slot))
    if slot not in config.slot:
        raise ConfigError(f"there is no slot {slot!r} in {config.path}; there is {', '.join(config.slot)}")
    answer = _request(config, "rollback", slot)
    click.echo(json.dumps({"slot": slot, "answer": answer}) if as_json else answer)
    if answer.startswith("refused"):
        sys.exit(EXIT_REFUSED)


def _request(config: Config, kind: str, slot: str) -> str:
    """Leave a request in the store and ring; a stopped agent carries it out when it starts."""
    with contextlib.closing(_store(config)) as store:
        if ring(config.device.state) is None and not _can_go_back(store, slot):
            return f"refused: {slot} has no earlier committed release on this device"
        with store.transaction():
            number = store.ask(kind, slot, time.time())
        deadline = time.monotonic() + REQUEST_SECONDS
        while ring(config.device.state) is not None:
            answer = store.answer_of(number)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                return f"asked; the agent has not answered within {REQUEST_SECONDS:.0f} s, see `edge-agent status`"
            time.sleep(0.05)
        return store.answer_of(number) or "asked; the agent is not running and does it when it starts"


def _can_go_back(store: Store, slot: str) -> bool:
    active = store.active(slot)
    return store.under_way(slot) is not None or (active is not None and store.previous(slot, active) is not None)


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
