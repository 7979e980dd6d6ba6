"""The `publisher` command. Every handler parses, calls one function and prints.

Exit codes: 0 done (or committed everywhere), 1 not possible (the message says why), 2 wrong command line or
configuration, 3 refused by a device, 4 rolled back on a device, 5 timed out, 6 broker or network: try again,
7 kept, and waiting for somebody else's signature, 130 Ctrl-C.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

import edge_agent
from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import TransportError
from edge_agent.terminal import Program
from publisher.trust.waiting import Waiting

__all__ = ["EXIT_CODES", "echo_json", "home_option", "json_option", "main", "passphrase_option"]

EXIT_TRANSPORT, EXIT_WAITING = 6, 7
EXIT_CODES = {
    "dry_run": 0,
    "published": 0,
    "unchanged": 0,
    "committed": 0,
    "refused": 3,
    "rolled_back": 4,
    "timed_out": 5,
}

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The publisher's home; else $FIELDCAST_HOME, else .fieldcast here or above.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the passphrase here; else $FIELDCAST_PASSPHRASE, else ask.",
)


def echo_json(found: Any) -> None:
    """Print any of our structures as indented JSON."""
    click.echo(msgspec.json.format(encode_json(found), indent=2).decode())


@click.group(
    "publisher",
    cls=Program,
    exit_codes={TransportError: EXIT_TRANSPORT, Waiting: EXIT_WAITING},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(edge_agent.__version__, prog_name="publisher")
def main() -> None:
    """Push signed pipelines to a fleet of edge devices over MQTT."""


from publisher.cli import (  # noqa: E402 - each module adds its commands to `main`
    backup,  # noqa: F401
    broker,  # noqa: F401
    channel,  # noqa: F401
    command,  # noqa: F401
    demo,  # noqa: F401
    device,  # noqa: F401
    export,  # noqa: F401
    gc,  # noqa: F401
    history,  # noqa: F401
    identity,  # noqa: F401
    key,  # noqa: F401
    preflight,  # noqa: F401
    promote,  # noqa: F401
    push,  # noqa: F401
    status,  # noqa: F401
    watch,  # noqa: F401
)
