"""`publisher init`, `push` and `rollback`: what signs."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from edge_agent.contract.digest import encode_json
from publisher.cli import EXIT_CODES, guarded, home_option, json_option, main, passphrase_option

wait_options = [
    click.option("--wait", is_flag=True, help="Wait until the devices have committed, refused or rolled back."),
    click.option("--devices", default=0, help="With --wait: wait for at least this many devices.", metavar="N"),
    click.option(
        "--timeout", "seconds", default=120.0, show_default=True, help="With --wait: at most so many seconds."
    ),
]


@main.command()
@click.option("--fleet", required=True, help="Name of the fleet.")
@click.option("--broker", required=True, help="mqtt://host[:port] or mqtts://host[:port].")
@click.option("--channel", "channels", multiple=True, help="Channels to make; default staging and production.")
@home_option
@passphrase_option
@guarded
def init(fleet: str, broker: str, channels: tuple[str, ...], home: Path | None, passphrase_file: Path | None) -> None:
    """Found a fleet: make its keys, protected by one passphrase, and its channels."""
    from publisher import founding
    from publisher.passphrase import passphrase

    made = founding.init(
        fleet,
        broker,
        passphrase=passphrase(passphrase_file, new=True),
        channels=channels or founding.CHANNELS,
        home=home,
    )
    click.echo(f"fleet {made.fleet} founded in {made.path} with the channels {', '.join(made.channels)}")
    click.echo(f"keep a copy of {made.keys} and of its passphrase: who holds both can push")
    click.echo(f"for each device: copy {made.device}/, edit agent.toml, run `edge-agent run --config agent.toml`")


@main.command()
@click.argument("target", required=False)
@click.option("-c", "--channel", required=True, help="The channel to push into.")
@click.option("--tag", default="", help="A name for people, such as v1.4.")
@click.option("-m", "--message", default="", help="Why this release exists.")
@click.option("--dry-run", is_flag=True, help="Pack and preflight only; sign and send nothing.")
@home_option
@passphrase_option
@json_option
@guarded
def push(
    target: str | None,
    channel: str,
    tag: str,
    message: str,
    dry_run: bool,
    home: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
    wait: bool,
    devices: int,
    seconds: float,
) -> None:
    """Push a pipeline: TARGET is module:attr, file.py[:attr], or none for [tool.fieldcast] in pyproject.toml."""
    from publisher.passphrase import passphrase
    from publisher.pushing import push as push_

    result = push_(
        target,
        channel=channel,
        tag=tag,
        message=message,
        wait=wait,
        dry_run=dry_run,
        devices=devices,
        timeout_seconds=seconds,
        home=home,
        passphrase=passphrase(passphrase_file) if not dry_run else None,
        progress=_progress(as_json),
    )
    _print(result, as_json)


@main.command()
@click.argument("pipeline", required=False)
@click.option("-c", "--channel", required=True, help="The channel to roll back.")
@click.option("--to", "sequence", type=int, help="Back to this sequence number; else the newest with other bytes.")
@click.option("-m", "--message", default="", help="Why.")
@home_option
@passphrase_option
@json_option
@guarded
def rollback(
    pipeline: str | None,
    channel: str,
    sequence: int | None,
    message: str,
    home: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
    wait: bool,
    devices: int,
    seconds: float,
) -> None:
    """Offer an older release of PIPELINE to the fleet again, under a new number."""
    from publisher.passphrase import passphrase
    from publisher.pushing import rollback as rollback_

    result = rollback_(
        pipeline,
        channel=channel,
        sequence=sequence,
        message=message,
        wait=wait,
        devices=devices,
        timeout_seconds=seconds,
        home=home,
        passphrase=passphrase(passphrase_file),
        progress=_progress(as_json),
    )
    _print(result, as_json)


for _option in wait_options:
    push, rollback = _option(push), _option(rollback)


def _progress(quiet: bool):  # type: ignore[no-untyped-def]
    return (lambda words: None) if quiet else (lambda words: click.echo(f"  {words}", err=True))


def _print(result: msgspec.Struct, as_json: bool) -> None:
    shown = msgspec.json.decode(encode_json(result))
    if as_json:
        click.echo(msgspec.json.format(encode_json(result), indent=2).decode())
    else:
        for warning in shown["warnings"]:
            click.echo(f"warning: {warning}", err=True)
        _print_lines(shown)
    sys.exit(EXIT_CODES[shown["ending"]])


def _print_lines(shown: dict) -> None:  # type: ignore[type-arg]
    name = shown["release"] or f"{shown['pipeline']} (dry run)"
    click.echo(f"{name} -> {shown['channel']}: {shown['ending'].replace('_', ' ')}  {shown['digest'][7:19]}")
    if shown["preflight"]:
        click.echo(f"  preflight: {shown['preflight']}")
    if shown["release"]:
        click.echo(f"  {shown['sent_bytes']:,} bytes sent, {shown['seconds']:.1f} s in all")
    for device in shown["devices"]:
        reasons = "; ".join(f"{reason['code']}: {reason['message']}" for reason in device.get("reasons", []))
        click.echo(f"  {device['device']}: {device['outcome'].replace('_', ' ')} {f'- {reasons}' if reasons else ''}")
