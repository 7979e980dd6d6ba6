"""Where the passphrase of the signing keys comes from: a file, the environment, or a person at a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_agent.contract.errors import AuthorError

__all__ = ["VARIABLE", "passphrase"]

VARIABLE = "FIELDCAST_PASSPHRASE"


def passphrase(file: Path | None = None, *, new: bool = False) -> str:
    """Return the passphrase. `new` asks twice at a terminal.

    Raises `AuthorError` when there is nobody to ask.
    """
    if file is not None:
        try:
            return file.read_text().rstrip("\r\n")
        except OSError as error:
            raise AuthorError(f"passphrase file {file} cannot be read: {error.strerror}") from None
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not click.get_text_stream("stdin").isatty():
        raise AuthorError(f"no passphrase: set ${VARIABLE}, give --passphrase-file, or run this at a terminal")
    found: str = click.prompt("Passphrase of the signing keys", hide_input=True, confirmation_prompt=new, err=True)
    return found
