"""`edge-agent enroll`: ask the fleet's publisher for a certificate, and install its answer."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_agent.contract.enrolment import ANSWER_BYTES_MAX
from edge_agent.contract.errors import ConfigError

__all__ = ["enroll"]


@click.command(short_help="Become a device of a fleet: ask for a certificate, install the answer.")
@click.option("--id", "device", metavar="ID", help="This device's id, unique in the fleet.")
@click.option("--fleet", metavar="NAME", help="The fleet to become part of.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="REQUEST", help="Write the request to this file."
)
@click.option(
    "--install",
    "answer",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="ANSWER",
    help="Install the publisher's answer.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=lambda: os.environ.get("FIELDCAST_CONFIG") or "/etc/fieldcast/agent.toml",
    help="The configuration to write; key and certificates lie beside it. Else $FIELDCAST_CONFIG, else "
    "/etc/fieldcast/agent.toml.",
)
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="With --install: the agent's directory.")
@click.option("--force", is_flag=True, help="With --install: replace files that differ; the old stay as *.before.")
@click.option("--keep-config", is_flag=True, help="With --install: leave the configuration that is there as it is.")
def enroll(
    device: str | None,
    fleet: str | None,
    out: Path | None,
    answer: Path | None,
    config: Path,
    state: Path | None,
    force: bool,
    keep_config: bool,
) -> None:
    """Become a device of a fleet, in two steps.

    First `--id ID --fleet NAME --out REQUEST`: it makes this device's private key, which never leaves it, and a request
    to carry to the publisher (`publisher device enroll REQUEST`). Then `--install ANSWER`.
    """
    if answer is not None and not (device or fleet or out):
        _install(answer, config.absolute(), state, force, keep_config)
    elif answer is None and device and fleet and out:
        if state is not None or force or keep_config:
            raise ConfigError("--state, --force and --keep-config go with --install ANSWER")
        _request(device, fleet, out, config.absolute().parent)
    else:
        raise ConfigError("say either --id ID --fleet NAME --out REQUEST, or --install ANSWER")


def _request(device: str, fleet: str, out: Path, directory: Path) -> None:
    from edge_agent.enrolment import request

    made = request(directory, fleet, device)
    out.write_bytes(made.pem)
    click.echo(f"key      {directory / 'device.key'} ({'new' if made.key_is_new else 'as before'}); it stays here")
    click.echo(f"request  {out}, for {device} of fleet {fleet}")
    click.echo(f"words    {made.words}")
    click.echo(f"Carry the request to the publisher: `publisher device enroll {out.name} --out {device}.answer`.")
    click.echo("It shows the same words; if it shows others, somebody changed the request on its way.")


def _install(path: Path, config: Path, state: Path | None, force: bool, keep_config: bool) -> None:
    from edge_agent.config import load
    from edge_agent.enrolment import install

    config.parent.mkdir(parents=True, exist_ok=True)
    done = install(_read(path), config, state=state, force=force, keep_config=keep_config)
    click.echo(f"device   {done.answer.device} of fleet {done.answer.fleet}")
    click.echo(f"words    {done.words} (the publisher showed the same, or somebody changed the answer)")
    for name in done.written:
        click.echo(f"wrote    {config.parent / name}")
    for name in done.kept:
        click.echo(f"kept     {config.parent / name}")
    if done.answer.note:
        click.echo(done.answer.note)
    try:
        load(config)
    except ConfigError as error:
        raise ConfigError(f"{error}\nThe files above are installed; complete {config}") from None
    click.echo(f"Ready: `edge-agent run --config {config}`")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(ANSWER_BYTES_MAX + 1)
