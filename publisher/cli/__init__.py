"""The `publisher` command. Every handler parses, calls one function and prints.

Exit codes: 0 done (or committed everywhere), 1 not possible (the message says why), 2 wrong command line or
configuration, 3 refused by a device, 4 rolled back on a device, 5 timed out, 6 broker or network: try again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import edge_agent
from edge_agent.contract.errors import ConfigError, FieldcastError, TransportError

__all__ = ["EXIT_CODES", "guarded", "home_option", "json_option", "main", "passphrase_option"]

EXIT_FAILED, EXIT_CONFIG, EXIT_TRANSPORT = 1, 2, 6
EXIT_CODES = {"dry_run": 0, "published": 0, "committed": 0, "refused": 3, "rolled_back": 4, "timed_out": 5}

home_option = click.option(
    "--home", type=click.Path(path_type=Path), help="The publisher's home; else $FIELDCAST_HOME, else .fieldcast above."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
passphrase_option = click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="Read the passphrase here; else $FIELDCAST_PASSPHRASE."
)


def guarded(act: Callable[..., None]) -> Callable[..., None]:
    """Turn errors meant for people into a message on standard error and an exit code."""

    @functools.wraps(act)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            act(*args, **kwargs)
        except FieldcastError as error:
            click.echo(f"publisher: {error}", err=True)
            code = EXIT_FAILED
            if isinstance(error, ConfigError):
                code = EXIT_CONFIG
            elif isinstance(error, TransportError):
                code = EXIT_TRANSPORT
            sys.exit(code)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edge_agent.__version__, prog_name="publisher")
def main() -> None:
    """Push signed pipelines to a fleet of edge devices over MQTT."""


from publisher.cli import broker, demo, push, status  # noqa: E402, F401 - each module adds its commands to `main`
