"""`publisher init`, `push`, `rollback` and `refresh`: what signs."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent.contract.errors import ConfigError
from edge_agent.terminal import Seconds
from publisher.cli import EXIT_CODES, echo_json, home_option, json_option, main, passphrase_option

if TYPE_CHECKING:
    from publisher.devices.fleet import DeviceOutcome
    from publisher.pushing import PushResult


@main.command(short_help="Found a fleet: keys, channels, and what a device needs.")
@click.option("--fleet", required=True, metavar="NAME", help="Name of the fleet.")
@click.option("--broker", required=True, metavar="URL", help="mqtt://host[:port] or mqtts://host[:port].")
@click.option(
    "--channel", "channels", multiple=True, metavar="NAME", help="Channels to make; default staging and production."
)
@click.option("--root-keys", type=int, default=1, metavar="N", show_default=True, help="Root keys of each channel.")
@click.option(
    "--root-threshold", type=int, default=1, metavar="N", show_default=True, help="How many of them must sign."
)
@home_option
@passphrase_option
def init(
    fleet: str,
    broker: str,
    channels: tuple[str, ...],
    root_keys: int,
    root_threshold: int,
    home: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Found a fleet: make its keys, protected by one passphrase, and its channels."""
    from publisher import founding
    from publisher.trust.passphrase import ask

    made = founding.init(
        fleet,
        broker,
        passphrase=functools.partial(ask, passphrase_file, new=True),
        channels=channels or founding.CHANNELS,
        home=home,
        root_keys=root_keys,
        root_threshold=root_threshold,
    )
    click.echo(f"fleet {made.fleet} founded in {made.path} with the channels {', '.join(made.channels)}")
    click.echo(f"keep a copy of {made.path}/ and of its passphrase: who holds both can push, nobody else")
    if made.broker.url.startswith("mqtts://"):
        click.echo("next: `publisher broker config --out DIR --use`, then `edge-agent enroll` on each device")
        return
    click.echo(f"for each device: copy {made.device}/, edit agent.toml, run `edge-agent run --config agent.toml`")


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Join options into one decorator; they are listed in this order."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


waiting_options = _options(
    click.option("--wait", is_flag=True, help="Wait until the devices have committed, refused or rolled back."),
    click.option(
        "--devices", type=click.IntRange(min=0), default=0, metavar="N", help="With --wait: for at least N devices."
    ),
    click.option(
        "--timeout", "timeout_seconds", type=Seconds(), default=120.0, show_default=True, help="With --wait: at most."
    ),
)
common_options = _options(home_option, passphrase_option, json_option)


@main.command(short_help="Push a pipeline into a channel.")
@click.argument("target", required=False)
@click.option("-c", "--channel", required=True, metavar="NAME", help="The channel to push into.")
@click.option("--tag", help="A name for people, such as v1.4.")
@click.option("-m", "--message", help="Why this release exists, in one line.")
@click.option("--dry-run", is_flag=True, help="Pack and preflight only; sign and send nothing.")
@click.option(
    "--require-portable", is_flag=True, help="Refuse a class without importable source: it runs on one Python."
)
@click.option("--security-floor", is_flag=True, help="From now on no device goes back below this release.")
@click.option("--retry", is_flag=True, help="Try it also where the same bytes failed before.")
@waiting_options
@common_options
def push(target: str | None, **chosen: Any) -> None:
    """Push a pipeline: TARGET is module:attr, file.py[:attr], or none for [tool.fieldcast] in pyproject.toml.

    Exit codes: 0 committed (or sent, without --wait), 3 refused, 4 rolled back, 5 timed out, 6 no broker.
    """
    from publisher import pushing

    run(pushing.push, target, **chosen)


@main.command(short_help="Offer an older release to the fleet again.")
@click.argument("pipeline", required=False)
@click.option("-c", "--channel", required=True, metavar="NAME", help="The channel to roll back.")
@click.option(
    "--to", "sequence", type=int, metavar="N", help="Back to PIPELINE@N; else the newest good one from before."
)
@click.option("-m", "--message", help="Why, in one line.")
@waiting_options
@common_options
def rollback(pipeline: str | None, **chosen: Any) -> None:
    """Offer an older release of PIPELINE to the fleet again, under a new number.

    PIPELINE may be left out when the channel has only one. Exit codes as for `push`.
    """
    from publisher import pushing

    run(pushing.rollback, pipeline, **chosen)


def run(
    act: Callable[..., PushResult],
    what: str | None,
    *,
    as_json: bool,
    passphrase_file: Path | None,
    **chosen: Any,
) -> None:
    """Call `push`, `rollback` or `promote`, print how it ended and exit accordingly."""
    from publisher.trust.passphrase import ask

    chosen = {name: value for name, value in chosen.items() if value is not None}
    for name in ("tag", "message"):
        if chosen.get(name) == "":
            raise ConfigError(f"the {name} is empty: say something, or leave --{name} out")
    if chosen["devices"] and not chosen["wait"]:
        raise ConfigError("--devices says for how many to wait: add --wait")
    result = act(
        what,
        passphrase=functools.partial(ask, passphrase_file),
        progress=(lambda words: None) if as_json else (lambda words: click.echo(f"  {words}", err=True)),
        **chosen,
    )
    if as_json:
        echo_json(result)
    else:
        _print(result)
    sys.exit(EXIT_CODES[result.ending.value])


def _print(result: PushResult) -> None:
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    name = result.release or result.pipeline
    ending = result.ending.value.replace("_", " ")
    click.echo(f"{name} -> {result.channel}: {ending}  ({result.digest.hex[:12]})")
    if result.preflight:
        click.echo(f"  preflight: {result.preflight}")
    if result.ending.value == "unchanged":
        click.echo("  nothing was signed: the channel offers these bytes already")
    elif result.release:
        click.echo(f"  {result.sent_bytes:,} bytes sent, {result.seconds:.1f} s in all")
    for device in result.devices:
        click.echo(f"  {_ended(device)}")
    if result.ending.value == "timed_out" and not result.devices:
        click.echo("  no device has reported that it follows this channel with this pipeline")


def _ended(device: DeviceOutcome) -> str:
    reasons = "; ".join(map(str, device.reasons))
    return f"{device.device}: {device.words}{f', {reasons}' if reasons else ''}"


@main.command(short_help="Renew the metadata's freshness; safe to run from a timer.")
@click.option("-c", "--channel", "channels", multiple=True, metavar="NAME", help="Only this channel; default all.")
@home_option
@passphrase_option
@json_option
def refresh(channels: tuple[str, ...], home: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign timestamp and snapshot anew, so that devices go on taking updates. Offers nothing new."""
    from publisher.trust import renewal
    from publisher.trust.passphrase import ask

    found = renewal.refresh(channels, home=home, passphrase=functools.partial(ask, passphrase_file))
    if as_json:
        return echo_json(found)
    for name, expires in found.items():
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
        click.echo(f"channel {name}: metadata good until {when}")
    return None
