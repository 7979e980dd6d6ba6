"""What a worker says of an exception: one line, and a bounded traceback, fit for logs and terminals.

What authors and sensors put into exceptions may hold anything: line ends that forge lines of a log, sequences that
steer a terminal, lone surrogates that JSON cannot carry, megabytes. Nothing is judged here.
"""

from __future__ import annotations

import traceback

__all__ = ["encodable", "traceback_of", "words_of"]

WORDS_MAX = 500
TRACEBACK_CHARACTERS_MAX = 16_384
LINE_MAX = 1_000


def words_of(error: BaseException) -> str:
    """Return what an exception says, on one line."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an author's __str__ may fail too
        text = f"{type(error).__name__} (its text cannot be had)"
    return encodable(" ".join(text[: 2 * WORDS_MAX].split())[:WORDS_MAX])


def traceback_of(error: BaseException) -> str:
    """Return the end of an exception's traceback; a long line does not push the others out."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    kept = [line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]} …" for line in lines]
    return "".join(f"{encodable(line)}\n" for line in kept)[-TRACEBACK_CHARACTERS_MAX:]


def encodable(text: str) -> str:
    """Return the text with escapes for what is not printed."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )
