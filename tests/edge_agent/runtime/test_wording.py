"""What a worker says of an exception is one printable line, and a bounded traceback."""

from __future__ import annotations

import pytest

from edge_agent.runtime.wording import LINE_MAX, TRACEBACK_CHARACTERS_MAX, WORDS_MAX, traceback_of, words_of


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("bad\nline two\r\n"), "ValueError: bad line two"),
        (ValueError("\x1b[31mred\x00"), r"ValueError: \x1b[31mred\x00"),
        (ValueError("\udc80 \u202e"), r"ValueError: \udc80 \u202e"),
        (Mute(), "Mute (its text cannot be had)"),
        (KeyError("ü"), "KeyError: 'ü'"),
    ],
)
def test_words_are_one_printable_line(error: Exception, words: str) -> None:
    assert words_of(error) == words


def test_words_are_bounded() -> None:
    assert len(words_of(ValueError("x" * 10_000))) == WORDS_MAX


def test_a_long_text_does_not_push_the_place_out_of_the_traceback() -> None:
    try:
        raise ValueError("long " * 10_000 + "\x1b[2J")
    except ValueError as error:
        text = traceback_of(error)
    assert "test_wording.py" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= LINE_MAX + 2


def test_a_deep_traceback_is_bounded() -> None:
    def fall(depth: int) -> None:
        if not depth:
            raise ValueError("bottom")
        [fall, fall][depth % 2](depth - 1) if depth % 3 else (lambda: fall(depth - 1))()

    try:
        fall(400)
    except ValueError as error:
        text = traceback_of(error)
    assert len(text) <= TRACEBACK_CHARACTERS_MAX
    assert text.endswith("ValueError: bottom\n")
