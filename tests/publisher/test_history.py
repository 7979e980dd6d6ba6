"""Every release ever signed is listed with what became of it, and nothing that is not signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.contract.errors import AuthorError, ConfigError, UpdateRejected
from publisher.cli import main
from publisher.trust import chronicle as room
from publisher.trust import roles
from publisher.trust.chronicle import Chronicle, State, history
from tests.simulators.office import Office, at_hand

URL = "mqtt://127.0.0.1:9"  # nobody listens there: history asks no broker


@pytest.fixture(autouse=True, scope="module")
def verifier_at_hand() -> Iterator[None]:
    with at_hand():
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Office:
    office = Office.found(tmp_path_factory.mktemp("office") / "home", URL)
    office.sign("a", tag="v1", message="first", commit="c0ffee", dirty=True, signer="ada")
    office.sign("b", signer="bob")
    office.back(1)
    office.refresh()
    office.sign("c")
    office.sign("x", pipeline="other")
    return office


@pytest.fixture
def office(template: Office, tmp_path: Path) -> Office:
    return template.copy(tmp_path / "home")


def listed(office: Office, pipeline: str | None = None, **options: object) -> list[tuple[str, str, str]]:
    (found,) = history(pipeline, channel="staging", home=office.home.path, **options)  # type: ignore[arg-type]
    assert found.faults == []
    return [(one.name, one.state.value, one.back_to) for one in found.entries]


def test_every_release_says_what_became_of_it(office: Office) -> None:
    assert listed(office) == [
        ("other@1", "offered", ""),
        ("meter@4", "offered", ""),
        ("meter@3", "stable", "meter@1"),
        ("meter@2", "rolled_back", ""),
        ("meter@1", "replaced", ""),
    ]
    first = history("meter", home=office.home.path)[0].entries[-1].release
    assert (first.tag, first.message, first.commit, first.dirty, first.signer) == ("v1", "first", "c0ffee", True, "ada")


def test_it_can_be_narrowed(office: Office) -> None:
    assert [name for name, _, _ in listed(office, "other")] == ["other@1"]
    assert [name for name, _, _ in listed(office, "meter", limit=2)] == ["meter@4", "meter@3"]
    with pytest.raises(ConfigError, match="no release of pipeline 'nope'"):
        history("nope", home=office.home.path)
    with pytest.raises(ConfigError, match="unknown channel"):
        history(channel="nope", home=office.home.path)


def test_releases_that_are_not_listed_any_more_are_found_in_older_publications(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "RELEASES_LISTED", 2)
    for marker in "defg":
        office.sign(marker)
    assert len([one for one in office.channel().releases() if one.pipeline == "meter"]) == 2
    names = [name for name, _, _ in listed(office, "meter")]
    assert names == [f"meter@{number}" for number in range(8, 0, -1)]


def test_what_lies_between_two_equal_publications_is_not_read(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(12):
        office.refresh()
    read: list[int] = []
    asked = room.Shelf.timestamp
    monkeypatch.setattr(room.Shelf, "timestamp", lambda self, number: read.append(number) or asked(self, number))
    chronicle = Chronicle(office.channel(), office.home)
    read.clear()
    assert len(list(chronicle.moments())) >= 6
    assert len(read) == len(set(read)) < 15  # of 19


def test_a_release_that_nobody_signed_is_named_and_not_shown(office: Office, tmp_path: Path) -> None:
    stranger = Office.found(tmp_path / "stranger", URL, fleet=office.home.fleet)
    for marker in "abcdef":
        stranger.sign(marker, signer="mallory")
    folder = Path(str(office.home.record_location)) / f"channel/{office.home.fleet}/staging/timestamp"
    theirs = Path(str(stranger.home.record_location))
    for path in (theirs / "blob").rglob("*"):
        target = Path(str(office.home.record_location)) / path.relative_to(theirs)
        if path.is_file() and not target.exists():
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(path.read_bytes())
    (folder / "3.json").write_bytes((theirs / folder.relative_to(office.home.record_location) / "3.json").read_bytes())
    (found,) = history(channel="staging", home=office.home.path)
    assert found.faults == ["publication 3: its signatures are not those of the channel's keys"]
    assert {one.release.signer for one in found.entries} == {"ada", "bob", ""}


def test_what_is_missing_is_named(office: Office) -> None:
    folder = Path(str(office.home.record_location)) / f"channel/{office.home.fleet}/staging/timestamp"
    (folder / "3.json").unlink()
    (found,) = history(channel="staging", home=office.home.path)
    assert len(found.faults) == 1
    assert found.faults[0].startswith("publications 3 are missing in ")


def test_a_newest_publication_that_is_not_ours_is_refused(office: Office, tmp_path: Path) -> None:
    stranger = Office.found(tmp_path / "stranger", URL, fleet=office.home.fleet)
    root = office.home.keys / "staging.root.json"
    root.write_bytes((stranger.home.keys / "staging.root.json").read_bytes())
    with pytest.raises(UpdateRejected):
        history(home=office.home.path)
    root.unlink()
    with pytest.raises(AuthorError, match=r"does not hold staging\.root\.json"):
        history(home=office.home.path)


def test_an_aborted_rollout_is_remembered() -> None:
    rollouts = (room.Rollout(fleet="f", channel="c", pipeline="p", rollout_id="r", candidate=2, stable=1),)
    infos = {
        ("p", number): room.ReleaseInfo(
            fleet="f",
            channel="c",
            pipeline="p",
            sequence=number,
            digest=room.Digest.of(bytes([number])),
            published=number,
        )
        for number in (1, 2)
    }
    assert room._states(infos, rollouts, {("p", 2)}) == {("p", 1): State.STABLE, ("p", 2): State.ABORTED}
    assert room._holes(dict.fromkeys((("p", 1), ("p", 4)), infos["p", 1])) == ["p@2 is missing", "p@3 is missing"]


def test_the_command_lists_and_exits_by_what_it_found(office: Office) -> None:
    arguments = ["history", "--home", str(office.home.path)]
    told = CliRunner().invoke(main, [*arguments, "meter", "-n", "9"])
    assert told.exit_code == 0, told.output
    assert "meter@3" in told.output
    assert "stable, back to meter@1" in told.output
    assert "c0ffee +changes" in told.output
    assert "channel production: no release yet" in told.output
    parsed = json.loads(CliRunner().invoke(main, [*arguments, "-c", "staging", "--json"]).output)
    assert [one["name"] for one in parsed[0]["entries"]][:2] == ["other@1", "meter@4"]
    folder = Path(str(office.home.record_location)) / f"channel/{office.home.fleet}/staging/timestamp"
    (folder / "2.json").write_bytes(b"{}")
    broken = CliRunner().invoke(main, arguments)
    assert broken.exit_code == 1
    assert "publication 2" in broken.output
