"""Which release a rollback goes back to: always further back, and never to what devices have condemned."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, ConfigError
from edge_agent.contract.messages import ReleaseInfo, Rollout
from publisher.retreat import earlier


class Listed:
    """A channel with these bytes as releases 1, 2, 3, …; the last is offered."""

    name = "staging"

    def __init__(self, *contents: bytes) -> None:
        self._infos = [
            ReleaseInfo(
                fleet="f",
                channel="staging",
                pipeline="p",
                sequence=number,
                digest=Digest.of(content),
                published=0,
            )
            for number, content in enumerate(contents, 1)
        ]

    def releases(self) -> list[ReleaseInfo]:
        return self._infos

    def current(self) -> dict[str, tuple[Rollout, ReleaseInfo]]:
        last = self._infos[-1]
        rollout = Rollout(fleet="f", channel="staging", pipeline="p", rollout_id="r", candidate=last.sequence)
        return {"p": (rollout, last)}


def back_from(*contents: bytes, condemned: frozenset[bytes] = frozenset()) -> int:
    channel: Any = Listed(*contents)
    bad = {str(Digest.of(one)) for one in condemned}
    return earlier(channel, "p", None, lambda pipeline: bad).sequence


# releases in order, the sequence gone back to
TABLE = [
    ((b"a", b"b"), 1),
    ((b"a", b"b", b"c"), 2),
    ((b"a", b"b", b"b"), 1),
    ((b"a", b"b", b"c", b"b"), 1),  # c was rolled back to b: done again, it goes on to a
    ((b"a", b"b", b"a", b"c"), 3),
]


@pytest.mark.parametrize(("contents", "sequence"), TABLE)
def test_it_goes_ever_further_back(contents: tuple[bytes, ...], sequence: int) -> None:
    assert back_from(*contents) == sequence


def test_it_passes_over_what_devices_condemned() -> None:
    assert back_from(b"a", b"b", b"c", condemned=frozenset({b"b"})) == 1
    with pytest.raises(AuthorError, match="condemned every earlier release"):
        back_from(b"a", b"b", condemned=frozenset({b"a"}))


def test_there_may_be_nothing_to_go_back_to() -> None:
    for contents in ((b"a",), (b"a", b"a"), (b"a", b"b", b"a")):
        with pytest.raises(AuthorError, match="nothing to go back to"):
            back_from(*contents)


def test_a_named_one_is_taken_as_it_is() -> None:
    channel: Any = Listed(b"a", b"b", b"c")

    def nobody_asks(pipeline: str) -> set[str]:
        raise AssertionError(pipeline)

    assert earlier(channel, "p", 2, nobody_asks).sequence == 2
    with pytest.raises(ConfigError, match="p@9"):
        earlier(channel, "p", 9, nobody_asks)
