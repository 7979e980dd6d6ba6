"""What an operator asks of one device: `release …`, `hold`, `gc`. Each works with the agent running or stopped.

The running agent carries a request out and answers; without it, pins, holds and lifted quarantines are written here
and found at the next start. Nothing needs a network.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_agent import wiring
from edge_agent.cli.command import as_json, configured, open_store, request, say, slot_of, with_config
from edge_agent.config import Config, policies
from edge_agent.contract.errors import ConfigError
from edge_agent.doorbell import ring
from edge_agent.update.collector import Collector
from edge_agent.update.store import EVERY_SLOT, Store

__all__ = ["gc", "hold", "release"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
with_slot = click.option("--slot", help="Which slot; needed when there are several.")


@click.group(short_help="List this device's releases; pin, unpin, retry or go back.")
def release() -> None:
    """Look at the releases of this device, and say which of them may run."""


@release.command("list", short_help="List the releases this device was offered.")
@with_config
@click.option("--slot", help="Only this slot.")
@as_json
def release_list(config_path: Path | None, slot: str | None, as_json: bool) -> None:
    """List the releases this device was offered, newest first, and what became of each."""
    config = configured(config_path, check_files=False)
    with contextlib.closing(open_store(config)) as store:
        rows = _rows(config, store, slot)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        why = "; ".join(f"{reason['code']}: {reason['message']}" for reason in row["reasons"])
        notes = " ".join(name for name in ("pinned", "quarantined") if row[name])
        mark = "*" if row["active"] else " "
        state = row["state"].replace("_", " ")
        told = " ".join(filter(None, [notes, why]))
        click.echo(f"{mark} {row['release']:24} {row['digest'][7:19]} {state:12} {told}".rstrip())


def _rows(config: Config, store: Store, slot: str | None) -> list[dict[str, Any]]:
    active = {one.id for name in config.slot if (one := store.active(name)) is not None}
    pins = {name: pin.digest for name in config.slot if (pin := store.pin(name)) is not None}
    condemned = {(name, one.digest) for name in config.slot for one in store.quarantined(name)}
    return [
        {
            "slot": one.slot,
            "release": one.release,
            "digest": str(one.digest),
            "state": one.state.value,
            "active": one.id in active,
            "pinned": pins.get(one.slot) == one.digest,
            "quarantined": (one.slot, one.digest) in condemned,
            "attempts": one.attempts,
            "reboots": one.reboots,
            "reasons": msgspec.to_builtins(list(one.reasons)),
        }
        for one in store.deployments(slot)
    ]


@release.command("rollback", short_help="Go back to the release committed before.")
@with_config
@with_slot
@as_json
def release_rollback(config_path: Path | None, slot: str | None, as_json: bool) -> None:
    """Go back to the release committed before, without any network. It stays away until told otherwise."""
    config = configured(config_path, check_files=False)
    slot = slot_of(config, slot)
    say(slot, request(config, "rollback", slot), as_json=as_json)


@release.command("pin", short_help="Let a slot run one release and take up no other.")
@click.argument("name", required=False, default="")
@with_config
@with_slot
@as_json
def release_pin(config_path: Path | None, name: str, slot: str | None, as_json: bool) -> None:
    """Pin a slot to the release NAME, else to the one it runs.

    NAME is `pipeline@sequence` or a digest prefix, of a release that was committed here and has not failed since. Its
    files are kept, the slot goes to it through probation if it runs another, and takes up no rollout until unpinned.
    """
    config = configured(config_path, check_files=False)
    slot = slot_of(config, slot, name)
    say(slot, request(config, "pin", slot, name), as_json=as_json)


@release.command("unpin", short_help="Let a slot follow its channel again.")
@click.argument("name", required=False, default="")
@with_config
@with_slot
@as_json
def release_unpin(config_path: Path | None, name: str, slot: str | None, as_json: bool) -> None:
    """Let a slot follow its channel again. NAME only says which slot is meant."""
    config = configured(config_path, check_files=False)
    slot = slot_of(config, slot, name)
    say(slot, request(config, "unpin", slot), as_json=as_json)


@release.command("retry", short_help="Let a condemned release be tried again.")
@click.argument("name")
@with_config
@with_slot
@as_json
def release_retry(config_path: Path | None, name: str, slot: str | None, as_json: bool) -> None:
    """Lift the quarantine of the release NAME; it is tried again if the channel still wants it here."""
    config = configured(config_path, check_files=False)
    slot = slot_of(config, slot, name)
    say(slot, request(config, "retry", slot, name), as_json=as_json)


@click.command(short_help="Let no update begin for a while, or for good.")
@click.argument("slot", required=False)
@click.option("--for", "duration", metavar="TIME", help="For how long: 90s, 30m, 2h, 3d; else until lifted.")
@click.option("--off", is_flag=True, help="Lift the hold.")
@with_config
@as_json
def hold(config_path: Path | None, slot: str | None, duration: str | None, off: bool, as_json: bool) -> None:
    """Let no update begin on SLOT, or on any slot. It outlives restarts.

    What is held is fetched and started by nobody; a probation that has begun ends by itself, an abort still stops a
    candidate, and `release rollback` works as ever.
    """
    if off and duration is not None:
        raise ConfigError("--off and --for do not go together")
    config = configured(config_path, check_files=False)
    named = slot_of(config, slot) if slot is not None else EVERY_SLOT
    argument = "off" if off else "" if duration is None else f"{_seconds(duration):g}"
    say(named, request(config, "hold", named, argument), as_json=as_json)


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None or not float(found.group(1)):
        raise ConfigError(f"--for {text!r} is not a time: write 90s, 30m, 2h or 3d")
    return float(found.group(1)) * _UNITS[found.group(2)]


@click.command(short_help="Remove files that no release needs.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--all", "everything", is_flag=True, help="Remove every unneeded blob, not only those above the budget.")
@with_config
@as_json
def gc(config_path: Path | None, dry_run: bool, everything: bool, as_json: bool) -> None:
    """Remove laid-out releases and blobs that no release needs.

    What belongs to an active, pinned or upcoming release or to the last committed ones is never touched. Other blobs
    stay as a cache up to [store] budget_mb. The agent does this by itself.
    """
    config = configured(config_path, check_files=False)
    if not dry_run and ring(config.device.state) is not None:
        say(EVERY_SLOT, request(config, "gc", EVERY_SLOT, "all" if everything else ""), as_json=as_json)
        return
    state = config.device.state
    with contextlib.closing(open_store(config, write=not dry_run)) as store, contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(wiring.lock_state(state))
        limits = policies.retention(config.store)
        collector = Collector(store, state / "releases", state / "blobs", limits, lambda work: work())
        waste = (collector.waste if dry_run else collector.collect)(everything=everything)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, **msgspec.to_builtins(waste)}, indent=2))
        return
    what = "would remove" if dry_run else "removed"
    click.echo(f"{what} {len(waste.releases)} releases and {len(waste.blobs)} blobs of {waste.blob_bytes} bytes")
