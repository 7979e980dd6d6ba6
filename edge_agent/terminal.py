"""How both commands end: in one line on standard error and an exit code, never in a traceback.

`Program` is the top of a command line. It turns what Fieldcast raises on purpose, what the operating system refuses and
what click finds wrong with the arguments into `NAME: what, where, what to do`. What it does not know is a mistake of
ours and stays a traceback.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from edge_agent.contract.errors import ConfigError, FieldcastError

__all__ = ["EXIT_COMMAND_LINE", "EXIT_FAILED", "EXIT_INTERRUPTED", "Program", "Seconds", "echo_lines"]

EXIT_FAILED, EXIT_COMMAND_LINE, EXIT_INTERRUPTED = 1, 2, 130
DAY_SECONDS = 86_400.0


class Program(click.Group):
    """A group of commands that ends in one line. `exit_codes` says which family of errors ends with which code."""

    def __init__(self, *args: Any, exit_codes: Mapping[type[Exception], int], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._exit_codes = {**exit_codes, ConfigError: EXIT_COMMAND_LINE}

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line and exit."""
        name = self.name or "program"
        try:
            code = super().main(*args, **{**extra, "prog_name": name, "standalone_mode": False})
        except FieldcastError as error:
            _end(f"{name}: ", str(error), self._code_of(error))
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2: no command at all, the whole help says more
                error.show()
                sys.exit(EXIT_COMMAND_LINE)
            _end(f"{name}: ", _usage(error), EXIT_COMMAND_LINE)
        except click.Abort:
            _end(f"{name}: ", "interrupted", EXIT_INTERRUPTED)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _end(f"{name}: ", f"{place}{error.strerror or error}", self._code_of(error))
        sys.exit(code or 0)

    def _code_of(self, error: Exception) -> int:
        return next((code for kind, code in self._exit_codes.items() if isinstance(error, kind)), EXIT_FAILED)


class Seconds(click.FloatRange):
    """A time on the command line: a number above 0, at most a day."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, max=DAY_SECONDS, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return `value` as a float, or fail; also for `nan`, which is in no range and out of none."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds

    def _describe_range(self) -> str:
        return f"up to {DAY_SECONDS:.0f}"


def echo_lines(prefix: str, text: str) -> None:
    """Print `text` on standard error, `prefix` before its first line and before every other that is not indented."""
    for number, line in enumerate(text.splitlines()):
        click.echo(line if number and line[:1] in ("", " ") else prefix + line, err=True)


def _end(prefix: str, text: str, code: int) -> NoReturn:
    echo_lines(prefix, text)
    sys.exit(code)


def _usage(error: click.ClickException) -> str:
    words = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{words} (see `{context.command_path} --help`)" if context is not None else words
