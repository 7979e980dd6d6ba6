"""`edge-agent status`: what runs, what is on its way, and why not; from the running agent, or from its store."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_agent import telemetry
from edge_agent.cli.command import as_json, configured, open_store, with_config
from edge_agent.config import Config
from edge_agent.doorbell import ring

__all__ = ["status"]


@click.command(short_help="Show what runs, what is on its way, and why not.")
@with_config
@as_json
def status(config_path: Path | None, as_json: bool) -> None:
    """Show what runs, what is on its way and why something was refused; works with the agent stopped."""
    found = _status(configured(config_path, check_files=False))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    running = f"running, pid {found['pid']}, {found['connection']}" if found["running"] else "not running"
    click.echo(f"device {found['device']} of fleet {found['fleet']}: agent {running}")
    for slot in found["slots"]:
        _print_slot(slot, running=found["running"])
    for name, channel in found["channels"].items():
        _print_channel(name, channel)
    if interfaces := found.get("interfaces"):
        told = " and ".join(name for name in ("inference", "metrics") if interfaces[name])
        click.echo(f"{told} at {interfaces['listen']}")
    for name, words in found.get("sources", {}).items():
        click.echo(f"source of blobs {name}: {words}")


_TROUBLES = {
    "crashes": "worker crashes",
    "errors": "frames failed",
    "skipped": "samples without an answer",
    "rejected": "samples unreadable",
    "dropped": "samples dropped, since nobody took them",
    "spool_damaged": "spooled samples unreadable",
    "stamps_duplicate": "samples that came twice",
    "stamps_late": "samples stamped late",
    "stamps_backward": "samples stamped back in time",
    "refused": "results that the sink refused",
}


def _print_slot(slot: dict[str, Any], *, running: bool) -> None:
    rate = f", {slot.get('samples_per_second', 0.0):g} samples/s" if running and slot.get("active") else ""
    nothing = "no committed release yet" if slot.get("candidate") else "nothing"
    click.echo(f"slot {slot['pipeline']}: runs {slot.get('active') or nothing}{rate}")
    if slot.get("candidate"):
        click.echo(f"  on its way: {slot['candidate']} ({_said(slot['state'])})")
        if slot.get("probation"):
            click.echo(f"  probation: {slot['probation']}")
    elif slot.get("last") and slot["last"] != slot.get("active"):
        click.echo(f"  last offered: {slot['last']} ({_said(slot['state'])})")
    if slot.get("due"):
        click.echo(f"  goes on {_when(slot['due'])} at the latest")
    if slot.get("pinned"):
        click.echo(f"  pinned to {slot['pinned']}: takes up nothing else until `edge-agent release unpin`")
    if slot.get("held"):
        click.echo("  held by an operator: `edge-agent hold --off` lifts it")
    if slot.get("stuck"):
        click.echo("  stuck: every permitted release is condemned here; what runs goes on")
    for reason in slot.get("reasons", []):
        click.echo(f"  because {reason['code']}: {reason['message']}")
    counters = slot.get("counters", {})
    told = [f"{counters[name]} {words}" for name, words in _TROUBLES.items() if counters.get(name)]
    if told:
        click.echo(f"  since the agent started: {', '.join(told)}")
    if slot.get("input_spooled"):
        click.echo(f"  input: {slot['input_spooled']} samples wait on disk")
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
    if "clock" in channel:
        click.echo(f"  clock {channel['clock']}")
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
    with contextlib.closing(open_store(config)) as store:
        slots = [telemetry.slot_report(store, name, slot.channel, {}, 0.0) for name, slot in config.slot.items()]
        channels = {name: telemetry.channel_status(store, name, now) for name in config.channel}
    return {
        "running": False,
        "device": config.device.id,
        "fleet": config.device.fleet,
        "slots": msgspec.to_builtins(slots, enc_hook=str),
        "channels": channels,
    }
