"""A reference means exactly one release, or says what it may have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import ReleaseInfo
from publisher.reference import Listing, choose, is_reference


def info(pipeline: str, sequence: int, data: bytes, *, channel: str = "staging", tag: str = "") -> ReleaseInfo:
    return ReleaseInfo(
        fleet="f",
        channel=channel,
        pipeline=pipeline,
        sequence=sequence,
        digest=Digest.of(data),
        published=1_000 + sequence,
        tag=tag,
    )


ONE, TWO, THREE = (
    info("pump", 1, b"1", tag="v1"),
    info("pump", 2, b"2", tag="v2"),
    info("pump", 3, b"1", tag="v1"),  # back to the bytes of the first
)
PROMOTED = info("pump", 1, b"2", channel="production", tag="v2")
OTHER = info("fan", 1, b"other")
KNOWN = Listing([ONE, TWO, THREE, PROMOTED, OTHER], {"staging": {"pump": THREE, "fan": OTHER}, "production": {}})

FOUND = {
    "by number": ("pump@3", THREE),
    "by channel": ("pump@staging", THREE),
    "by tag": ("fan@1", OTHER),
    "by tag, the newest of the same bytes": ("pump@v1", THREE),
    "by tag, in two channels": ("pump@v2", TWO),
    "by digest": (ONE.digest, THREE),
    "by prefix": (OTHER.digest.hex[:6], OTHER),
    "by marked prefix": (f"sha256:{OTHER.digest.hex[:2]}", OTHER),
}


@pytest.mark.parametrize("name", FOUND)
def test_reference_means_one_release(name: str) -> None:
    text, expected = FOUND[name]
    assert choose(text, KNOWN) == expected


REFUSED = {
    "two channels, other bytes": ("pump@1", "--channel"),
    "no such number": ("pump@9", "pump has pump@3"),
    "no such tag": ("pump@v9", "pump has"),
    "nothing offered": ("pump@production", "pump has"),
    "no such pipeline": ("pumps@1", "did you mean pipeline 'pump'"),
    "nothing like it": ("zzz@1", "the record has fan, pump"),
    "no such digest": ("0000000", "no release"),
    "no reference": ("m:F", "write name@sequence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_it_may_have_meant(name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        choose(text, KNOWN)
    assert words in str(caught.value)


def test_one_tag_on_several_releases_is_refused() -> None:
    known = Listing([ONE, info("pump", 2, b"x", tag="v1")])
    with pytest.raises(ConfigError, match="by its number"):
        choose("pump@v1", known)


def test_prefix_that_is_not_unique_is_refused() -> None:
    first = info("pump", 1, b"0")
    same = next(one for number in range(99) if (one := info("pump", 2, b"x%d" % number)).digest[:8] == first.digest[:8])
    with pytest.raises(ConfigError, match="more than one release"):
        choose(first.digest[:8], Listing([first, same]))


def test_empty_record_says_so() -> None:
    with pytest.raises(ConfigError, match="lists none yet"):
        choose("pump@1", Listing([]))


def test_long_lists_are_cut() -> None:
    known = Listing([info("pump", number, b"%d" % number) for number in range(1, 30)])
    with pytest.raises(ConfigError, match="and 23 more"):
        choose("pump@99", known)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pump@3", True),
        ("pump@v1.2", True),
        ("sha256:ab", True),
        ("abcdef", True),
        ("abcde", False),
        ("m:F", False),
        ("a/b.py", False),
        ("x@y.py", False),
        ("a.b:F", False),
        ("dir::m:F", False),
    ],
)
def test_references_are_told_from_targets(text: str, expected: bool) -> None:
    assert is_reference(text) is expected


def test_a_file_named_like_a_digest_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abcdef").write_text("")
    assert not is_reference("abcdef")
