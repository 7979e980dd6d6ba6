"""`publisher broker run`: an MQTT broker to try things out with, on this machine only."""

from __future__ import annotations

import click

from edge_agent.contract.errors import TransportError
from publisher.cli import main


@main.group()
def broker() -> None:
    """Brokers for trying out."""


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
