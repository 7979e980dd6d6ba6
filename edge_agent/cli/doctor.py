"""`edge-agent doctor`: is this device fit to run and to be updated? Looks, changes nothing, and says what to do.

Each check gives `ok`, `warn` or `fail` with words and advice; the exit code is 1 if one fails. It works beside a
running agent and without one. What needs the broker stands in `edge_agent.cli.reach`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_agent.cli.command import DATABASE, EXIT_REFUSED, as_json, configured, open_store, with_config
from edge_agent.config import Config
from edge_agent.config.confinement import confinement
from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import ConfigError, FieldcastError, StoreError
from edge_agent.contract.manifest import ResourceLimits
from edge_agent.doorbell import ring
from edge_agent.runtime.limits import unmet
from edge_agent.update.admission import SPACE_RESERVE_BYTES
from edge_agent.update.clock import clock_doubt
from edge_agent.update.wholeness import intact

__all__ = ["Check", "doctor", "examine"]

CERTIFICATE_WARN_SECONDS = 30 * 86_400.0
EXPIRY_WARN_SECONDS = 3 * 86_400.0
PROBE_SECONDS = 20.0
# What a child of the agent cannot have, and the unit of a launcher can.
BOUNDED_ELSEWHERE = {"processes", "cpu"}
SPACE_WARN_BYTES = 256 * 1024 * 1024


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found. `state` is `ok`, `warn` or `fail`."""

    name: str
    state: str
    words: str
    advice: str = ""


@click.command(short_help="Check whether this device is fit, and say what to do.")
@with_config
@as_json
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Check configuration, state directory, database, clock, certificates, Python, sandbox and broker."""
    try:
        config = configured(config_path, check_files=False)
    except ConfigError as error:
        found = [Check(name="configuration", state="fail", words=str(error), advice="mend the file")]
    else:
        found = examine(config)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        for check in found:
            click.echo(f"{check.state:4}  {check.name:15} {check.words}")
            if check.advice and check.state != "ok":
                click.echo(f"      {'':15} -> {check.advice}")
    if any(check.state == "fail" for check in found):
        sys.exit(EXIT_REFUSED)


def examine(config: Config) -> list[Check]:
    """Run every check on this device. Takes some seconds while the broker cannot be reached."""
    from edge_agent.cli import reach  # brings the transport and paho along, which no other command needs

    checks: list[Callable[[Config], Iterator[Check]]] = [
        _configuration,
        _roots,
        _state,
        _database,
        _clock,
        _certificates,
        _python,
        _agent,
    ]
    found = [check for look in checks for check in _guarded(look, config)]
    return [*found, *(Check(name=name, state=state, words=words, advice=advice)
                      for name, state, words, advice in reach.look(config))]  # fmt: skip


def _guarded(look: Callable[[Config], Iterator[Check]], config: Config) -> list[Check]:
    try:
        return list(look(config))
    except (FieldcastError, OSError) as error:
        name = look.__name__.strip("_")
        return [Check(name=name, state="fail", words=str(error), advice="see the message")]


def _configuration(config: Config) -> Iterator[Check]:
    try:
        configured(config.path)
    except ConfigError as error:
        yield Check(name="configuration", state="fail", words=str(error), advice="put the files there or name others")
        return
    yield Check(name="configuration", state="ok", words=f"{config.path}, slots: {', '.join(config.slot) or 'none'}")


def _roots(config: Config) -> Iterator[Check]:
    for name, channel in config.channel.items():
        if not channel.root.is_file():
            words, advice = f"channel {name}: there is no {channel.root}", "enrol the device, or copy the root there"
            yield Check(name="roots", state="fail", words=words, advice=advice)
            continue
        try:
            signed = json.loads(channel.root.read_bytes())["signed"]
            words = f"channel {name}: root version {signed['version']}, expires {signed['expires']}"
            yield Check(name="roots", state="ok", words=words)
        except (ValueError, KeyError, TypeError):
            words = f"channel {name}: {channel.root} is no root of trust"
            yield Check(name="roots", state="fail", words=words, advice="copy the channel's 1.root.json again")


def _state(config: Config) -> Iterator[Check]:
    state = config.device.state
    place = next((path for path in (state, *state.parents) if path.is_dir()), Path("/"))
    if not os.access(place, os.W_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        yield Check(
            name="state", state="fail", words=f"{place} cannot be written", advice="mount it writable; chown it"
        )
        return
    free = shutil.disk_usage(place).free
    level = "fail" if free < SPACE_RESERVE_BYTES else "warn" if free < SPACE_WARN_BYTES else "ok"
    words = f"{state}, {free / 2**20:.0f} MiB free"
    yield Check(name="state", state=level, words=words, advice="free some space: `edge-agent gc --all`")


def _database(config: Config) -> Iterator[Check]:
    if not (config.device.state / DATABASE).exists():
        yield Check(name="database", state="warn", words="none yet", advice="start the agent")
        return
    with contextlib.closing(open_store(config)) as store:
        store.check()
        stuck = [name for name in config.slot if store.note(f"stuck/{name}")]
        active = [one for name in config.slot if (one := store.active(name)) is not None]
        harmed = [one.release for one in active if not _whole(config, store.manifest(one.digest))]
    running = ", ".join(one.release for one in active) or "nothing"
    yield Check(name="database", state="ok", words=f"whole; committed: {running}")
    for name in harmed:
        words = f"files of {name} below {config.device.state / 'releases'} are missing or altered"
        yield Check(name="releases", state="fail", words=words, advice="restart the agent: it lays them out anew")
    for name in stuck:
        words = f"slot {name} is stuck: every permitted release is condemned here"
        yield Check(
            name="releases", state="warn", words=words, advice="push a mended one, or `edge-agent release retry`"
        )


def _whole(config: Config, manifest: bytes) -> bool:
    state = config.device.state
    return intact(state / "releases", manifest, lambda ref: state / "blobs" / ref.digest.hex[:2] / ref.digest.hex)


def _clock(config: Config) -> Iterator[Check]:
    now, trusted, ends = time.time(), 0.0, {}
    with contextlib.suppress(StoreError), contextlib.closing(open_store(config)) as store:
        trusted = store.fact("clock")
        ends = {name: trust.expires for name in config.channel if (trust := store.trust(name)) is not None}
    doubt = clock_doubt(now, trusted, max(ends.values(), default=None))
    yield Check(
        name="clock",
        state="warn" if doubt else "ok",
        words=doubt or time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)),
        advice="set the clock, or let it be set from the network",
    )
    for name, end in ends.items():
        if end - now < EXPIRY_WARN_SECONDS:
            words = f"channel {name}: {'expired' if end < now else 'expires'} {time.strftime('%F', time.gmtime(end))}"
            yield Check(name="metadata", state="warn", words=words, advice="run `publisher refresh`")


def _certificates(config: Config) -> Iterator[Check]:
    for name in ("ca", "cert"):
        path = getattr(config.broker, name, None)
        if path is None:
            continue
        end = _expiry(path)
        left = end - time.time()
        level = "fail" if left < 0 else "warn" if left < CERTIFICATE_WARN_SECONDS else "ok"
        words = f"broker.{name} {path} {'expired' if left < 0 else 'expires'} {time.strftime('%F', time.gmtime(end))}"
        yield Check(name="certificates", state=level, words=words, advice="enrol the device again")


def _expiry(path: Path) -> float:
    """Return when the first certificate of a PEM file ends. Raises `ConfigError`."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate: {error}") from None


def _python(config: Config) -> Iterator[Check]:
    version = platform.python_version()
    yield Check(name="python", state="ok", words=f"{version} on {platform.machine()}, {sys.executable}")
    if sys.maxsize < 2**32:
        yield Check(name="python", state="fail", words="a 32-bit Python", advice="use a 64-bit system")


def _agent(config: Config) -> Iterator[Check]:
    live = ring(config.device.state) if config.device.state.is_dir() else None
    if live is None:
        yield Check(name="agent", state="warn", words="not running", advice="start it: `edge-agent run`")
        yield from _kernel(config)
        return
    status: dict[str, Any] = json.loads(live)
    trouble = status.get("trouble", "")
    yield Check(
        name="agent",
        state="fail" if trouble else "ok",
        words=f"running, pid {status.get('pid')}" + (f"; {trouble}" if trouble else ""),
        advice="free space or mount the disk writable; the agent tries again by itself",
    )
    yield from _interfaces(status.get("interfaces", {}))
    for slot in status.get("slots", []):
        yield _layers(config, slot["pipeline"], slot.get("sandbox", {}))


def _interfaces(told: dict[str, Any]) -> Iterator[Check]:
    if told:
        rooms = " and ".join(name for name in ("inference", "metrics") if told[name])
        yield Check(name="interfaces", state="ok", words=f"{rooms} at {told['listen']}, for every local user")


def _kernel(config: Config) -> Iterator[Check]:
    """What a worker's sandbox would hold here: a process is locked down as one, without any release, and asked."""
    for name in config.slot:
        limits = confinement(config, name, ResourceLimits()).limits
        command = [sys.executable, "-I", "-P", "-m", "edge_agent.runtime.sandbox", encode_json(limits).decode()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True)
            yield _layers(config, name, json.loads(done.stdout))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            yield Check(name="sandbox", state="fail", words=f"{name}: no worker could be locked down: {error}")


def _layers(config: Config, slot: str, sandbox: dict[str, str]) -> Check:
    """Judge what a worker said of its sandbox; what only a control group could bound is told and no reason to worry."""
    if not sandbox:
        return Check(name="sandbox", state="ok", words=f"{slot}: no worker runs")
    gaps = {layer: words for layer, words in sandbox.items() if not words.startswith("applied")}
    told = "; ".join(f"{layer} {words}" for layer, words in gaps.items())
    words = f"{slot}: {len(sandbox) - len(gaps)} of {len(sandbox)} layers applied" + (f"; {told}" if told else "")
    required = unmet(config.sandbox.require, sandbox) is not None
    return Check(
        name="sandbox",
        state="fail" if required else "warn" if gaps.keys() - BOUNDED_ELSEWHERE else "ok",
        words=words,
        advice="[sandbox] require asks for more than this machine has" if required else "see docs/THREATS.md",
    )
