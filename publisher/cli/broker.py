"""`publisher broker run`, an MQTT broker to try things out with, and `config`, the files of a real one."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import click

from edge_agent.contract.errors import TransportError
from publisher.cli import home_option, main, passphrase_option


@main.group()
def broker() -> None:
    """Brokers: one for trying out, and the files for a real one."""


@broker.command("run")
@click.option("--port", default=1883, show_default=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", hidden=True)
def broker_run(port: int, host: str) -> None:
    """Run the embedded broker until Ctrl-C. It keeps nothing and listens on loopback only."""
    from publisher.broker import EmbeddedBroker

    with EmbeddedBroker(port, host) as running:
        click.echo(f"broker on {running.url} (loopback only; Ctrl-C ends it)")
        try:
            code = running.wait()
        except KeyboardInterrupt:
            click.echo("ended")
        else:
            raise TransportError(f"the embedded broker ended by itself, with code {code}: start it again")


@broker.command("config", short_help="Write the files of a mosquitto that only the fleet may use.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write here; else where it was written.")
@click.option("--host", "hosts", multiple=True, metavar="H", help="Name or address of the broker; repeatable.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="PORT", help="Port; else that of an mqtts:// URL, else 8883."
)
@click.option("--bind", metavar="ADDRESS", help="Listen on this address only.")
@click.option(
    "--data-topic",
    "data",
    multiple=True,
    metavar="RULE",
    help="[read|write|readwrite] PATTERN that devices may use; %u is the device's id. Repeatable; "
    "else readwrite fieldcast/FLEET/data/%u/#.",
)
@click.option("--at", metavar="DIR", help="Where the directory will lie on the broker's machine, if elsewhere.")
@click.option("--use", is_flag=True, help="Make it the broker of this home, in publisher.toml.")
@home_option
@passphrase_option
def broker_config(
    out: Path | None,
    hosts: tuple[str, ...],
    port: int | None,
    bind: str | None,
    data: tuple[str, ...],
    at: str | None,
    use: bool,
    home: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Write the files of a mosquitto that only the fleet may use: TLS, certificates, access lists, limits.

    Run it again to change something, after a revocation elsewhere, or once a year: keys and certificates are kept, and
    renewed when they end within 60 days. Needs mosquitto 2.0 or newer.
    """
    from publisher.config import load_home
    from publisher.devices import broker_directory
    from publisher.devices.authority import Authority
    from publisher.devices.enrolment import enrolled
    from publisher.devices.expulsion import barred
    from publisher.devices.revocation import Revocations
    from publisher.trust.passphrase import ask

    now, found = time.time(), load_home(home)
    setup = broker_directory.planned(found, out=out, hosts=hosts, port=port, bind=bind, data=data, at=at)
    secret = functools.partial(ask, passphrase_file)()
    listed = Revocations.open(found, secret, now).current(now)
    authority = Authority.open(found, secret, now)
    done = broker_directory.write(found, setup, authority, listed.pem, barred(enrolled(found), now), now)
    click.echo(f"broker   {setup.url}, called {', '.join(setup.hosts)}; listens on {setup.bind or 'every address'}")
    for made in done.certified:
        click.echo(f"made     {made}")
    click.echo(f"wrote    {', '.join(done.changed)} in {setup.out}" if done.changed else "wrote    nothing new")
    if use:
        click.echo(f"use      set in {found.path}/publisher.toml: {', '.join(broker_directory.use(found, setup.url))}")
    elif not broker_directory.is_used(found, setup.url):
        click.echo(f"use      --use sets this in {found.path}/publisher.toml, or do it yourself, below [broker]:")
        for line in broker_directory.access_lines(setup.url):
            click.echo(f"           {line}")
    if setup.at != setup.out:
        click.echo(f"start    copy {setup.out} to {setup.at} on the broker's machine; there:")
    click.echo(f"start    mosquitto -c {setup.at}/mosquitto.conf")
    if os.geteuid() == 0:
        click.echo(
            f"         started by root or systemd, mosquitto gives up its rights: chown -R mosquitto: {setup.at}"
        )
