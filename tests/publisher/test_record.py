"""The repository of record: create if absent, whole or not at all, verified on the way out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ConfigError, StoreError, TransportError
from publisher import record as room
from publisher.record import Conflict, Record
from tests.simulators.s3 import INSTALLED, S3Server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    if not INSTALLED:
        pytest.skip("needs moto[server]")
    with S3Server() as server:
        yield server


@pytest.fixture(params=["directory", "memory", "s3"])
def record(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return Record(server.bucket())
    return Record(tmp_path / "record" if request.param == "directory" else "memory:///")


def _only_file(folder: Path) -> Path:
    (found,) = [path for path in folder.rglob("*") if path.is_file()]
    return found


def test_what_is_created_is_read_back(record: Record) -> None:
    record.create("channel/plant/1.json", b"one")
    assert record.read("channel/plant/1.json", 10) == b"one"
    assert record.read("channel/plant/2.json", 10) is None
    assert record.names("channel/plant") == ["1.json"]
    assert record.names("channel/other") == []


def test_an_empty_object_is_an_object(record: Record) -> None:
    record.create("empty", b"")
    assert record.read("empty", 10) == b""


def test_the_second_to_create_a_path_loses_and_changes_nothing(record: Record) -> None:
    record.create("timestamp/7.json", b"first")
    with pytest.raises(Conflict, match=r"timestamp/7\.json"):
        record.create("timestamp/7.json", b"second")
    assert record.read("timestamp/7.json", 10) == b"first"
    assert issubclass(Conflict, TransportError)


def test_of_many_that_create_at_once_exactly_one_wins(tmp_path: Path) -> None:
    outcomes: list[bytes | None] = []
    start = threading.Barrier(8)

    def create(content: bytes) -> None:
        mine = Record(tmp_path / "record")
        start.wait()
        try:
            mine.create("timestamp/1.json", content)
            outcomes.append(content)
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(bytes([n]) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    winners = [content for content in outcomes if content is not None]
    assert len(outcomes) == 8
    assert winners == [Record(tmp_path / "record").read("timestamp/1.json", 2000)]


def test_a_blob_comes_back_verified(record: Record) -> None:
    ref = record.put_blob(b"weights")
    assert ref == BlobRef.of(b"weights")
    assert record.put_blob(b"weights") == ref
    assert record.get_blob(ref) == b"weights"
    assert record.has_blob(ref)
    assert not record.has_blob(BlobRef.of(b"other"))


def test_a_missing_blob_is_named(record: Record) -> None:
    ref = BlobRef.of(b"gone")
    with pytest.raises(StoreError, match=f"{ref.digest} is missing"):
        record.get_blob(ref)


@pytest.mark.parametrize("damage", [b"", b"weightz", b"weights and more"], ids=["emptied", "altered", "longer"])
def test_a_damaged_blob_is_never_returned_and_healed_by_putting_it_again(tmp_path: Path, damage: bytes) -> None:
    record = Record(tmp_path / "record")
    ref = record.put_blob(b"weights")
    _only_file(tmp_path / "record").write_bytes(damage)
    with pytest.raises(StoreError):
        record.get_blob(ref)
    assert not record.has_blob(ref)
    record.put_blob(b"weights")
    assert record.get_blob(ref) == b"weights"


def test_nothing_is_read_past_its_bound(record: Record) -> None:
    record.create("big", bytes(100))
    with pytest.raises(StoreError, match="100 bytes, expected up to 99"):
        record.read("big", 99)


def test_a_killed_writers_rest_is_neither_listed_nor_in_the_way(tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    record.create("timestamp/1.json", b"one")
    (tmp_path / "record" / "timestamp" / "2.json#1").write_bytes(b"half")
    assert record.names("timestamp") == ["1.json"]
    record.create("timestamp/2.json", b"two")
    assert record.read("timestamp/2.json", 10) == b"two"


def test_a_directory_that_refuses_is_a_store_error(tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    (tmp_path / "record" / "blob").write_text("a file where a directory belongs")
    with pytest.raises(StoreError, match="repository of record") as caught:
        record.put_blob(b"x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["nonsense://x", "s3://"])
def test_a_location_that_cannot_be_opened_is_one_clear_line(location: str) -> None:
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        Record(location)
    assert "\n" not in str(caught.value)


def test_a_relative_location_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = Record("record")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ref = record.put_blob(b"x")
    assert record.get_blob(ref) == b"x"
    assert (tmp_path / "record" / "blob").is_dir()


def test_a_file_url_is_a_directory_and_made_durable_like_one(tmp_path: Path) -> None:
    record = Record(f"file://{tmp_path}/with%20space")
    assert record.location == str(tmp_path / "with space")
    ref = record.put_blob(b"x")
    assert Record(tmp_path / "with space").get_blob(ref) == b"x"


S3_ENVIRONMENTS = {
    "endpoint of S3 alone": {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "{}"},
    "old name": {"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT": "{}"},
    "default region": {"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-central-1"},
}


@pytest.mark.parametrize("case", S3_ENVIRONMENTS)
def test_the_environment_of_the_aws_tools_is_enough(s3: S3Server, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    for name, value in {**s3.environment, **S3_ENVIRONMENTS[case]}.items():
        monkeypatch.setenv(name, value.format(s3.url)) if value else monkeypatch.delenv(name, raising=False)
    record = Record(s3.bucket())
    assert record.get_blob(record.put_blob(b"x")) == b"x"


def test_a_bucket_that_is_not_there(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    record = Record("s3://nowhere/record")
    for act in (
        lambda: record.create("a", b"x"),
        lambda: record.read("a", 10),
        lambda: record.names("a"),
        lambda: record.walk("a"),
    ):
        with pytest.raises(ConfigError, match="s3://nowhere/record: there is no such bucket") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_an_object_store_that_does_not_answer_is_a_transport_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RETRIES_MAX", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(TransportError, match="repository of record s3://b") as caught:
        Record("s3://b").put_blob(b"x")
    assert not isinstance(caught.value, Conflict)
    assert "\n" not in str(caught.value)
