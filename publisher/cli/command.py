"""`publisher device send`: one signed command to one device, and its answer."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from edge_agent.terminal import Seconds
from publisher.cli import EXIT_CODES, echo_json, home_option, json_option, passphrase_option
from publisher.cli.device import device as devices

_EXIT = {"done": 0, "refused": EXIT_CODES["refused"], "timed_out": EXIT_CODES["timed_out"]}


@devices.command("send", short_help="Send one signed command to a device.")
@click.argument("device")
@click.argument("kind", metavar="TYPE")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option("-c", "--channel", metavar="NAME", help="The channel that lists the operator; default: any that does.")
@click.option("--as", "operator", metavar="NAME", help="Whose key signs; default: the only one in this home.")
@click.option("--timeout", "timeout_seconds", type=Seconds(), default=30.0, show_default=True, help="Wait at most.")
@home_option
@passphrase_option
@json_option
def send(
    device: str,
    kind: str,
    arguments: tuple[str, ...],
    channel: str | None,
    operator: str | None,
    timeout_seconds: float,
    home: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Send a command, signed with an operator's key, to DEVICE.

    TYPE is ping, report, rollback SLOT, retry SLOT RELEASE, or hold SLOT SECONDS|off.

    A device takes ping, report and rollback unless its configuration says otherwise ([commands] allow).

    Exit codes: 0 done, 3 refused by the device, 5 no answer, 6 no broker, or the device is offline.
    """
    from publisher.devices import commanding
    from publisher.trust.passphrase import ask

    found = commanding.send(
        device,
        kind,
        arguments,
        channel=channel,
        operator=operator,
        timeout_seconds=timeout_seconds,
        home=home,
        passphrase=functools.partial(ask, passphrase_file),
    )
    if as_json:
        echo_json(found)
    else:
        unsigned = " (not signed)" if found.standing is not None and found.standing.value == "unsigned" else ""
        ending = "" if found.words.startswith(found.ending) else f"{found.ending.replace('_', ' ')}, "
        click.echo(f"{device}: {ending}{found.words}{unsigned}")
    sys.exit(_EXIT[found.ending])
