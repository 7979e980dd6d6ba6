"""`publisher device enroll`, `list` and `revoke`: who belongs to the fleet."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.contract.enrolment import REQUEST_BYTES_MAX
from edge_agent.contract.errors import ConfigError
from publisher.cli import echo_json, home_option, json_option, main, passphrase_option

if TYPE_CHECKING:
    from publisher.devices.enrolment import Enrolled

_SLOTS_BYTES_MAX = 256 * 1024
_SOON_SECONDS = 60 * 86_400


@main.group()
def device() -> None:
    """Devices of the fleet: enroll, list, revoke, send a command."""


@device.command("enroll", short_help="Make a device part of the fleet.")
@click.argument("request", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--id", "name", metavar="ID", help="The device's id; without REQUEST its key is made here: weaker.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the answer to this file.",
)
@click.option("--slots", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML with [slot.NAME].")
@click.option("-c", "--channel", "channels", multiple=True, metavar="NAME", help="Channels to follow; else the slots'.")
@click.option("--labels", "--label", "labels", multiple=True, metavar="K=V", help="Labels of the device; repeatable.")
@click.option("--state", metavar="DIR", help="The agent's directory on the device; else /var/lib/edge-agent.")
@click.option("--days", type=int, default=825, show_default=True, help="How long the certificate is good.")
@click.option("--replace", is_flag=True, help="Revoke what the device had for another key.")
@home_option
@passphrase_option
def enroll(
    request: Path | None,
    name: str | None,
    out: Path,
    slots: Path | None,
    channels: tuple[str, ...],
    labels: tuple[str, ...],
    state: str | None,
    days: int,
    replace: bool,
    home: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Make a device part of the fleet: answer its REQUEST with certificate, channel roots and configuration.

    The device makes REQUEST with `edge-agent enroll` and installs the answer with `edge-agent enroll --install`. With
    --id and no REQUEST, the answer holds a private key made here: whoever sees it can be the device.
    """
    from publisher.devices import enrolment
    from publisher.devices.device_config import STATE
    from publisher.trust.passphrase import ask

    if out.exists():
        raise ConfigError(f"{out} exists already: name another --out, nothing was changed")
    made = enrolment.enroll(
        _read(request, REQUEST_BYTES_MAX + 1) if request is not None else None,
        name,
        home=home,
        passphrase=functools.partial(ask, passphrase_file),
        labels=_labels(labels),
        channels=channels,
        slots=_read(slots, _SLOTS_BYTES_MAX).decode() if slots is not None else "",
        state=state or STATE,
        days=days,
        replace=replace,
    )
    out.touch(mode=0o600)
    out.write_bytes(made.data)
    click.echo(f"device   {made.device}, follows {', '.join(made.channels)}; its certificate ends {_day(made.ends)}")
    if made.key_made_here:
        click.echo(f"WEAKER   {out} holds the device's private key: carry it safely, delete every copy")
    else:
        click.echo(f"request  {made.request_words} (the device showed the same, or revoke it: somebody changed it)")
    click.echo(f"answer   {made.answer_words} (the device will show the same)")
    click.echo(f"Carry {out} to the device: `edge-agent enroll --install {out.name}`")


@device.command("list", short_help="List the enrolled devices.")
@home_option
@json_option
def list_devices(home: Path | None, as_json: bool) -> None:
    """List the enrolled devices: labels, channels, certificate, and whether it is revoked."""
    from publisher.config import load_home
    from publisher.devices.enrolment import enrolled

    found = enrolled(load_home(home))
    now = time.time()
    if as_json:
        echo_json(found)
        return
    if not found:
        click.echo("no device is enrolled yet: `publisher device enroll REQUEST --out FILE`")
    for one in found:
        labels = " ".join(f"{key}={value}" for key, value in one.labels.items())
        weaker = "key made here" if one.key_made_here else ""
        more = "  ".join(filter(None, [",".join(one.channels), labels, weaker]))
        click.echo(f"{one.id:20} {_state(one, now):24} {one.serial[:12]}  {more}")


@device.command("revoke", short_help="Put a device out of the fleet.")
@click.argument("name", metavar="ID")
@home_option
@passphrase_option
def revoke(name: str, home: Path | None, passphrase_file: Path | None) -> None:
    """Put a device out of the fleet: its certificates open the broker no more."""
    from publisher.devices import expulsion
    from publisher.trust.passphrase import ask

    done = expulsion.revoke(name, home=home, passphrase=functools.partial(ask, passphrase_file))
    click.echo(f"revoked  {name}: {', '.join(serial[:12] for serial in done.serials)} (list {done.number})")
    if done.directory is None:
        click.echo("The broker does not know yet: run `publisher broker config` where its directory was written.")
        return
    click.echo(f"wrote    {', '.join(done.changed)} in {done.directory}")
    if done.at != done.directory:
        click.echo(f"Copy them to {done.at} on the broker's machine, then let mosquitto read them again:")
    else:
        click.echo("The broker does not know yet; let mosquitto read them again:")
    click.echo("  kill -HUP PID-OF-MOSQUITTO   (or `systemctl reload mosquitto`)")
    click.echo("Then the device cannot connect, and a connection that stands is of no more use to it.")


def _labels(texts: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"label {text!r}: want KEY=VALUE")
        labels[key.strip()] = value
    return labels


def _read(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        return file.read(bytes_max)


def _state(one: Enrolled, now: float) -> str:
    if one.revoked is not None:
        return f"REVOKED {_day(one.revoked)}"
    words = "ENDED" if not one.good(now) else "ENDS SOON" if one.ends - now < _SOON_SECONDS else "good until"
    return f"{words} {_day(one.ends)}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
