"""What the handlers of `edge-agent` share: options, the configuration, the store, and requests to the agent.

A request is left in the store and the agent is rung; the answer comes back the same way. Without an agent, what needs
none is done here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from edge_agent.config import Config, load
from edge_agent.contract.errors import ConfigError
from edge_agent.doorbell import ring
from edge_agent.update.orders import ORDERS, carry_out
from edge_agent.update.store import EVERY_SLOT, Store

__all__ = [
    "DATABASE",
    "DEFAULT_CONFIG",
    "EXIT_REFUSED",
    "EXIT_STORE",
    "as_json",
    "configured",
    "open_store",
    "request",
    "say",
    "slot_of",
    "with_config",
]

DATABASE = "agent.db"
DEFAULT_CONFIG = Path("/etc/fieldcast/agent.toml")
EXIT_REFUSED, EXIT_STORE = 1, 3
REQUEST_SECONDS = 10.0
TURN_SECONDS = 0.05

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def with_config(act: Callable[..., None]) -> Callable[..., None]:
    """Add `--config` and hand the path over as `config_path`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file; else $FIELDCAST_CONFIG, else {DEFAULT_CONFIG}.",
    )(act)


def configured(path: Path | None, *, check_files: bool = True) -> Config:
    """Read the configuration that the command line or the environment names. Raises `ConfigError`."""
    named = path or (Path(os.environ["FIELDCAST_CONFIG"]) if os.environ.get("FIELDCAST_CONFIG") else DEFAULT_CONFIG)
    return load(named, check_files=check_files)


def open_store(config: Config, *, write: bool = False) -> Store:
    """Open this device's store, unless `write` only to look at it. Raises `StoreError` when no agent has run yet."""
    return Store(config.device.state / DATABASE, create=False, look=not write)


def slot_of(config: Config, slot: str | None, release: str = "") -> str:
    """Return the slot that is meant: by `--slot`, by the release's name, or because there is but one."""
    named = slot or (release.rpartition("@")[0] if "@" in release else "")
    if not named and len(config.slot) == 1:
        return next(iter(config.slot))
    if not named:
        raise ConfigError(f"which slot? --slot {'|'.join(config.slot)}")
    if named not in config.slot:
        raise ConfigError(f"there is no slot {named!r} in {config.path}; there is {', '.join(config.slot)}")
    return named


def request(config: Config, kind: str, slot: str, argument: str = "") -> str:
    """Have the agent do something and return its answer; without one, do it here or leave it for its next start."""
    with contextlib.closing(open_store(config, write=True)) as store:
        running = ring(config.device.state) is not None
        if not running and kind in ORDERS:
            with store.transaction():
                return carry_out(store, kind, slot, argument, time.time())
        if not running and kind == "rollback" and not _can_go_back(store, slot):
            return f"refused: {slot} has no earlier committed release on this device"
        with store.transaction():
            number = store.ask(kind, slot, time.time(), argument)
        deadline = time.monotonic() + REQUEST_SECONDS
        while ring(config.device.state) is not None:
            answer = store.answer_of(number)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                return f"asked; the agent has not answered within {REQUEST_SECONDS:.0f} s, see `edge-agent status`"
            time.sleep(TURN_SECONDS)
        return store.answer_of(number) or "asked; the agent is not running and does it when it starts"


def say(slot: str, answer: str, *, as_json: bool) -> None:
    """Print an answer and exit with 1 if it is a refusal."""
    named = {"slot": slot} if slot != EVERY_SLOT else {}
    click.echo(json.dumps({**named, "answer": answer}) if as_json else answer)
    if answer.startswith("refused"):
        sys.exit(EXIT_REFUSED)


def _can_go_back(store: Store, slot: str) -> bool:
    active = store.active(slot)
    if store.under_way(slot) is not None or active is None:
        return active is not None or store.under_way(slot) is not None
    return store.previous(slot, active, store.security_floors(slot)) is not None
