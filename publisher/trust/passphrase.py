"""Where the passphrase of the signing keys comes from: a file, the environment, or a person at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from edge_agent.contract.errors import AuthorError

__all__ = ["VARIABLE", "Passphrase", "ask"]

VARIABLE = "FIELDCAST_PASSPHRASE"

Passphrase = str | Callable[[], str]
"""A passphrase, or who to ask for it once it is needed."""


def ask(file: Path | None = None, *, new: bool = False) -> str:
    """Return the passphrase. `new` asks twice at a terminal.

    Raises `AuthorError` when it is empty, unreadable, or there is nobody to ask.
    """
    if file is not None:
        return _filled(_read(file), f"passphrase file {file}")
    if VARIABLE in os.environ:
        return _filled(os.environ[VARIABLE], f"${VARIABLE}")
    if sys.stdin is None or not sys.stdin.isatty():
        raise AuthorError(f"no passphrase: set ${VARIABLE}, give --passphrase-file, or run this at a terminal")
    return str(click.prompt("Passphrase of the signing keys", hide_input=True, confirmation_prompt=new, err=True))


def _read(file: Path) -> str:
    try:
        return file.read_text().rstrip("\r\n")
    except OSError as error:
        raise AuthorError(f"passphrase file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AuthorError(f"passphrase file {file} cannot be read: it is not text") from None


def _filled(secret: str, place: str) -> str:
    if not secret:
        raise AuthorError(f"{place} is empty, and an empty passphrase protects nothing: fill it, or leave it out")
    return secret
