"""What a channel offers becomes a directory for devices: whole, or as it was before; nothing foreign goes."""

from __future__ import annotations

import errno
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError, ConfigError, StoreError, UpdateRejected
from edge_agent.contract.export import Index, decode_index
from edge_agent.transport import envelope as envelopes
from edge_agent.transport.mirror import Mirror
from publisher.cli import main
from publisher.export import export
from publisher.record import Record, blob_path
from tests.simulators.office import Office, at_hand, blob_of

NOWHERE = "mqtt://127.0.0.1:9"
DAY_SECONDS = 86_400


@pytest.fixture(autouse=True, scope="module")
def verifier_at_hand() -> Iterator[None]:
    with at_hand():
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A fleet that offers meter@2, with meter@1 as stable, and pump@1."""
    office = Office.found(tmp_path_factory.mktemp("office") / "home", NOWHERE)
    office.sign("a")
    office.sign("b")
    office.sign("p", pipeline="pump")
    return office


@pytest.fixture
def office(template: Office, tmp_path: Path) -> Office:
    return template.copy(tmp_path / "home")


def files(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def place(marker: str) -> str:
    return blob_path(BlobRef.of(blob_of(marker)))


def index_of(directory: Path) -> Index:
    found = decode_index((directory / "export.json").read_bytes())
    assert found is not None
    return found


def giving(change: Callable[[bytes], bytes]) -> Callable[[Record, BlobRef], bytes]:
    """Return a `get_blob` that changes the blobs of releases, and them alone."""
    real = Record.get_blob

    def get_blob(record: Record, ref: BlobRef) -> bytes:
        data = real(record, ref)
        return change(data) if data.startswith(b"blob of ") else data

    return get_blob


def pulled_out(data: bytes) -> bytes:
    raise OSError(errno.EIO, "Input/output error")


def test_an_export_holds_what_is_announced_and_every_blob_that_is_offered(office: Office, tmp_path: Path) -> None:
    office.sign("c")  # now a is offered no more
    found = export("staging", tmp_path / "stick", home=office.home.path)
    lying = files(tmp_path / "stick")
    assert lying["trust"] == envelopes.pack(office.channel().envelope())
    assert set(lying) == {"trust", "export.json", place("b"), place("c"), place("p")}
    assert lying[place("b")] == blob_of("b")
    assert (found.blobs, found.written, found.removed) == (3, 3, 0)
    assert found.releases == ["meter@3", "meter@2", "pump@1"]
    assert found.bytes == 900 + len(lying["trust"])
    assert all(re.fullmatch(r"[A-Za-z0-9./]+", name) for name in lying), "FAT takes these names"
    told = index_of(tmp_path / "stick")
    assert (told.fleet, told.channel, told.trust) == (office.home.fleet, "staging", Digest.of(lying["trust"]))
    assert (told.pipelines, told.blobs[Digest.of(blob_of("c"))]) == (["meter", "pump"], 300)
    assert told.expires == found.expires
    assert not list(tmp_path.glob(".stick*"))


def test_an_export_is_a_mirror(office: Office, tmp_path: Path) -> None:
    export("staging", tmp_path / "stick", home=office.home.path)
    ref = BlobRef.of(blob_of("b"))
    assert Record(tmp_path / "stick").get_blob(ref) == blob_of("b")
    mirror = Mirror(f"file://{tmp_path / 'stick'}", tmp_path / "blobs")
    mirror.fetch(ref, tmp_path / "blobs" / "fetched", timeout_seconds=20.0, stop=threading.Event())
    assert (tmp_path / "blobs" / "fetched").read_bytes() == blob_of("b")


def test_an_export_is_brought_up_to_date_in_place(office: Office, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    export("staging", stick, home=office.home.path)
    untouched = (stick / place("b")).stat().st_mtime_ns
    (stick / place("p")).write_bytes(b"rotten")
    office.sign("c")
    found = export("staging", stick, home=office.home.path)
    assert (found.blobs, found.written, found.removed) == (3, 2, 1)
    lying = files(stick)
    assert set(lying) == {"trust", "export.json", place("b"), place("c"), place("p")}
    assert (lying["trust"], lying[place("p")]) == (envelopes.pack(office.channel().envelope()), blob_of("p"))
    assert (stick / place("b")).stat().st_mtime_ns == untouched
    assert export("staging", stick, home=office.home.path).written == 0


def test_an_interrupted_update_leaves_the_export_as_usable_as_it_was(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    export("staging", stick, home=office.home.path)
    before = files(stick)
    office.sign("c")
    with monkeypatch.context() as patch:
        patch.setattr(Record, "get_blob", giving(pulled_out))
        with pytest.raises(StoreError, match="Input/output error"):
            export("staging", stick, home=office.home.path)
    after = files(stick)
    assert {name: after[name] for name in before if name != "export.json"} == {
        name: data for name, data in before.items() if name != "export.json"
    }
    export("staging", stick, home=office.home.path)
    assert set(files(stick)) == {"trust", "export.json", place("b"), place("c"), place("p")}


def test_a_new_export_appears_only_when_it_is_whole(office: Office, tmp_path: Path) -> None:
    (office.home.path / "record" / place("b")).write_bytes(b"rotten")
    with pytest.raises(StoreError, match="damaged"):
        export("staging", tmp_path / "stick", home=office.home.path)
    assert list(tmp_path.glob("*stick*")) == []


def test_an_empty_medium_is_filled_and_what_a_desktop_left_there_stays(office: Office, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    for name in ("System Volume Information", ".Trash-1000", "lost+found"):
        (stick / name).mkdir(parents=True)
    (stick / "export.json.new").write_bytes(b"of a run that was interrupted")
    assert export("staging", stick, home=office.home.path).written == 3
    assert (stick / ".Trash-1000").is_dir()
    assert not (stick / "export.json.new").exists()


def foreign_files(stick: Path, office: Office) -> None:
    stick.mkdir()
    (stick / "holiday.jpg").write_bytes(b"sun")


def foreign_channel(stick: Path, office: Office) -> None:
    export("production", stick, home=office.home.path)


def foreign_index(stick: Path, office: Office) -> None:
    stick.mkdir()
    (stick / "export.json").write_bytes(b'{"format": 99}')


def linked_blobs(stick: Path, office: Office) -> None:
    export("staging", stick, home=office.home.path)
    (stick / "blob").rename(stick.parent / "elsewhere")
    (stick / "blob").symlink_to(stick.parent / "elsewhere")


def linked_index(stick: Path, office: Office) -> None:
    export("staging", stick, home=office.home.path)
    (stick / "export.json").rename(stick.parent / "elsewhere")
    (stick / "export.json").symlink_to(stick.parent / "elsewhere")


def a_file(stick: Path, office: Office) -> None:
    stick.write_bytes(b"not a directory")


@pytest.mark.parametrize("spoil", [foreign_files, foreign_channel, foreign_index, linked_blobs, linked_index, a_file])
def test_a_foreign_directory_is_left_alone(
    office: Office, tmp_path: Path, spoil: Callable[[Path, Office], None]
) -> None:
    stick = tmp_path / "stick"
    spoil(stick, office)
    before = files(stick)
    with pytest.raises(ConfigError, match="name a"):
        export("staging", stick, home=office.home.path)
    assert files(stick) == before


def test_only_the_named_pipelines_take_room(office: Office, tmp_path: Path) -> None:
    found = export("staging", tmp_path / "stick", pipelines=["pump"], home=office.home.path)
    assert set(files(tmp_path / "stick")) == {"trust", "export.json", place("p")}
    assert (found.pipelines, index_of(tmp_path / "stick").releases) == (["pump"], ["pump@1"])
    with pytest.raises(AuthorError, match="offers no pipeline motor: it offers meter, pump"):
        export("staging", tmp_path / "other", pipelines=["motor"], home=office.home.path)
    assert not (tmp_path / "other").exists()


def test_what_a_device_would_refuse_is_not_exported(office: Office, tmp_path: Path) -> None:
    with pytest.raises(UpdateRejected, match="publisher refresh"):
        export("staging", tmp_path / "stick", home=office.home.path, now=time.time() + 15 * DAY_SECONDS)
    assert not (tmp_path / "stick").exists()


def test_a_channel_that_is_not_there_is_named(office: Office, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown channel 'prod'"):
        export("prod", tmp_path / "stick", home=office.home.path)
    shutil.rmtree(office.home.path / "record" / "channel")
    with pytest.raises(AuthorError, match="not in the record"):
        export("staging", tmp_path / "stick", home=office.home.path)


def test_no_room_is_said_before_anything_is_written(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publisher.export.SPACE_RESERVE_BYTES", 1 << 60)
    (tmp_path / "stick").mkdir()
    with pytest.raises(StoreError, match="free some space"):
        export("staging", tmp_path / "stick", home=office.home.path)
    assert files(tmp_path / "stick") == {}


def test_a_medium_that_does_not_keep_what_is_written_is_told(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Record, "get_blob", giving(lambda data: b"x" * len(data)))
    with pytest.raises(StoreError, match="not read back as written: use another medium"):
        export("staging", tmp_path / "stick", home=office.home.path)
    assert not (tmp_path / "stick").exists()


def test_the_command_says_what_it_wrote_and_until_when(office: Office, tmp_path: Path) -> None:
    common = ["--home", str(office.home.path)]
    told = CliRunner().invoke(main, ["channel", "export", "staging", str(tmp_path / "stick"), *common])
    assert told.exit_code == 0, told.output
    assert "meter@2" in told.output
    assert "3 blobs" in told.output
    assert "until 2" in told.output
    as_json = ["channel", "export", "staging", str(tmp_path / "stick"), "--pipeline", "meter", "--json", *common]
    found = json.loads(CliRunner().invoke(main, as_json).output)
    assert (found["pipelines"], found["written"], found["removed"]) == (["meter"], 0, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refused = CliRunner().invoke(main, ["channel", "export", "staging", str(tmp_path / "full"), *common])
    assert refused.exit_code == 2
