"""Our walk as a TUF client over HTTP, by the command line of the public conformance suite.

The cases follow what that suite asks of every client; `make conformance` runs them, and the suite itself where it is
installed. What is trusted is looked up on disk after every command.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from tests.simulators.repository import Endless, Repository

CLIENT = Path(__file__).parent / "client"
LOADER = SourceFileLoader("conformance_client", str(CLIENT))
client = importlib.util.module_from_spec(importlib.util.spec_from_loader(LOADER.name, LOADER))  # type: ignore[arg-type]
LOADER.exec_module(client)
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
TOP = ("root", "snapshot", "targets", "timestamp")


class Device:
    """One enrolled client and its two directories."""

    def __init__(self, directory: Path, repository: Repository, root: bytes | None = None) -> None:
        self.repository = repository
        self.metadata, self.artifacts = directory / "metadata", directory / "artifacts"
        self.metadata.mkdir()
        self.artifacts.mkdir()
        (directory / "root").write_bytes(repository.bootstrap if root is None else root)
        self.enrolled = self.run("init", str(directory / "root"))

    def run(self, *arguments: str) -> int:
        """Run the client's own `main`; nothing but its directories lives from one call to the next."""
        status: int = client.main(["--metadata-dir", str(self.metadata), *arguments])
        return status

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self.repository.url}/metadata/", "refresh")

    def download(self, *names: str) -> int:
        targets = ["--target-dir", str(self.artifacts), "--target-base-url", f"{self.repository.url}/targets/"]
        named = [word for name in names for word in ("--target-name", name)]
        return self.run("--metadata-url", f"{self.repository.url}/metadata/", *named, *targets, "download")

    def bytes_of(self, role: str) -> bytes:
        return (self.metadata / f"{role}.json").read_bytes()

    def versions(self) -> dict[str, int]:
        found = {
            path.stem: Metadata.from_bytes(path.read_bytes()).signed.version for path in self.metadata.glob("*.json")
        }
        return dict(sorted(found.items()))

    def downloaded(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.artifacts.rglob("*") if path.is_file())


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository().serving() as repository:
        yield repository


@pytest.fixture
def device(repository: Repository, tmp_path: Path) -> Device:
    return Device(tmp_path, repository)


def test_the_executable_answers_by_its_exit_status(repository: Repository, tmp_path: Path) -> None:
    repository.artifact("targets", "file", b"content")
    repository.renew("targets")
    (tmp_path / "root.json").write_bytes(repository.bootstrap)
    (tmp_path / "D").mkdir()
    url = ["--metadata-url", f"{repository.url}/metadata/"]
    wanted = ["--target-name", "file", "--target-dir", str(tmp_path), "--target-base-url", f"{repository.url}/targets/"]
    statuses = [
        subprocess.run([CLIENT, "--metadata-dir", tmp_path / "D", *words], capture_output=True, timeout=120, env=ENV)
        for words in (["init", tmp_path / "root.json"], [*url, "refresh"], [*url, *wanted, "download"])
    ]
    assert [done.returncode for done in statuses] == [0, 0, 0], statuses
    assert (tmp_path / "file").read_bytes() == b"content"
    repository.spoiled["metadata/timestamp.json"] = b"{}"
    refused = subprocess.run([CLIENT, "--metadata-dir", tmp_path / "D", *url, "refresh"], capture_output=True, env=ENV)
    assert refused.returncode == 1
    assert b"Traceback" not in refused.stderr


def house_with(tmp_path: Path, *packages: str) -> Path:
    """Return a checkout whose .venv holds packages."""
    site = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for package in ("pip", *packages):
        (site / package).mkdir(parents=True)
    return tmp_path


def test_the_executable_goes_on_in_the_environment_of_its_checkout(monkeypatch: Any, tmp_path: Path) -> None:
    gone: list[list[str]] = []
    monkeypatch.setattr(client.os, "execv", lambda path, words: gone.append([path, *words[1:]]))
    monkeypatch.setattr(client.sys, "argv", ["client", "refresh"])
    house = house_with(tmp_path, "tuf")
    client.settle(house)
    assert gone == [[str(house / ".venv" / "bin" / "python"), "client", "refresh"]]


def test_an_environment_without_its_packages_is_passed_over(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(client.os, "execv", lambda *words: pytest.fail(f"went on in {words}"))
    client.settle(house_with(tmp_path))
    monkeypatch.setattr(client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        client.settle(tmp_path)
    assert ended.value.code == 2, "1 would pass for a refusal"


# --- refresh ---------------------------------------------------------------------------------------------------------


def test_init_asks_nothing_and_refresh_asks_for_each_role_once(device: Device, repository: Repository) -> None:
    assert device.enrolled == 0
    assert repository.asked == []
    assert device.refresh() == 0
    assert repository.asked == [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]
    assert device.versions() == dict.fromkeys(TOP, 1)


def test_what_is_trusted_lies_there_byte_for_byte_as_served(device: Device, repository: Repository) -> None:
    repository.publish("root")
    repository.renew("targets")
    assert device.refresh() == 0
    assert {role: device.bytes_of(role) for role in TOP} == {role: repository.newest[role] for role in TOP}


def test_nothing_new_costs_one_root_and_one_timestamp(device: Device, repository: Repository) -> None:
    device.refresh()
    del repository.asked[:]
    assert device.refresh() == 0
    assert repository.asked == [("root", 2), ("timestamp", None)]


@pytest.mark.parametrize("fault", ["no version", "not signed", "no json"])
def test_an_initial_root_that_does_not_stand_is_refused_without_a_request(tmp_path: Path, fault: str) -> None:
    with Repository().serving() as repository:
        root = json.loads(repository.bootstrap)
        if fault == "no version":
            del root["signed"]["version"]
        root["signatures"][0]["sig"] = "00" * 64
        device = Device(tmp_path, repository, b"{" if fault == "no json" else json.dumps(root).encode())
        assert device.refresh() == 1
        assert repository.asked == []


def test_fields_nobody_knows_are_signed_like_the_others(device: Device, repository: Repository) -> None:
    repository.root.unrecognized_fields["custom"] = {"a": [1]}
    repository.root.roles["root"].unrecognized_fields["more"] = True
    repository.publish("root")
    assert device.refresh() == 0
    assert device.versions()["root"] == 2


def test_a_repository_without_consistent_snapshots_is_followed(tmp_path: Path) -> None:
    with Repository(consistent_snapshot=False).serving() as repository:
        device = Device(tmp_path, repository)
        repository.artifact("targets", "a/b", b"plain")
        repository.renew("targets")
        assert device.download("a/b") == 0
        assert device.downloaded() == [b"plain"]
        assert repository.asked == [
            ("root", 2), ("timestamp", None), ("snapshot", None), ("targets", None), ("a/b", "")
        ]  # fmt: skip


@pytest.mark.parametrize("path", ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])
@pytest.mark.parametrize("kind", ["garbage", "endless"])
def test_endless_data_or_garbage_in_place_of_a_role_is_refused(
    device: Device, repository: Repository, path: str, kind: str
) -> None:
    assert device.refresh() == 0
    before = device.versions()
    repository.publish("root")
    repository.renew("targets")
    repository.spoiled[f"metadata/{path}"] = Endless() if kind == "endless" else b"\x00garbage"
    assert device.refresh() == 1
    role = path.removesuffix(".json").partition(".")[2] or "timestamp"
    assert device.versions()[role] == before[role]


# --- rollback and freeze ---------------------------------------------------------------------------------------------


def test_rollback_of_the_timestamp_is_refused_across_calls(device: Device, repository: Repository) -> None:
    repository.publish("timestamp")
    assert device.refresh() == 0
    repository.timestamp.version = 1
    repository.publish("timestamp", bump=False)
    assert device.refresh() == 1
    assert device.versions()["timestamp"] == 2


@pytest.mark.parametrize("hashes", [False, True], ids=["plain", "with hashes"])
@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_rollback_of_what_a_newer_role_names_is_refused_across_calls(tmp_path: Path, role: str, hashes: bool) -> None:
    with Repository(hashes=hashes).serving() as repository:
        device = Device(tmp_path, repository)
        repository.renew("targets")
        repository.renew("targets")
        assert device.refresh() == 0
        repository.role(role).version = 1
        repository.publish(role, bump=False)
        repository.publish(*(("timestamp",) if role == "snapshot" else ("snapshot", "timestamp")))
        assert device.refresh() == 1
        assert device.versions()[role] == 3


def test_a_timestamp_changed_under_the_same_version_does_not_replace_the_first(
    device: Device, repository: Repository
) -> None:
    assert device.refresh() == 0
    before = device.bytes_of("timestamp")
    repository.timestamp.snapshot_meta.version = 100
    repository.publish("timestamp", bump=False)
    assert device.refresh() == 0
    assert device.bytes_of("timestamp") == before


def test_a_role_of_another_version_than_named_is_refused(device: Device, repository: Repository) -> None:
    repository.snapshot.version = 5
    repository.publish("snapshot", bump=False)
    repository.timestamp.snapshot_meta.version = 1
    repository.signed["snapshot"][1] = repository.newest["snapshot"]
    repository.publish("timestamp")
    assert device.refresh() == 1
    assert device.versions() == {"root": 1, "timestamp": 2}


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_freeze_an_expired_role_is_refused_and_only_root_is_kept(
    device: Device, repository: Repository, role: str
) -> None:
    assert device.refresh() == 0
    repository.role(role).expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    repository.publish("root")
    repository.renew("targets")
    assert device.refresh() == 1
    versions = device.versions()
    assert versions["root"] == 2
    assert versions[role] == (2 if role == "root" else 1)
    assert versions["targets"] == 1


def expiring(role: Any, days: int) -> None:
    role.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def test_freeze_a_delegated_role_that_has_expired_gives_no_artifact_and_is_not_kept(
    device: Device, repository: Repository
) -> None:
    expiring(repository.delegate("A"), -1)
    repository.artifact("A", "file", b"content")
    repository.publish("A")
    repository.renew("targets")
    assert device.refresh() == 0
    assert device.download("file") == 1
    assert device.downloaded() == []
    assert sorted(device.versions()) == sorted(TOP)


def test_freeze_a_delegated_role_that_expires_here_is_used_no_more_until_there_is_a_newer_one(
    device: Device, repository: Repository, monkeypatch: Any
) -> None:
    expiring(repository.delegate("A"), 7)
    repository.artifact("A", "first", b"1")
    repository.artifact("A", "second", b"2")
    repository.publish("A")
    repository.renew("targets")
    assert device.download("first") == 0
    later = datetime.now(UTC).timestamp() + 18 * 86_400
    monkeypatch.setattr(client.time, "time", lambda: later)
    assert device.download("second") == 1
    expiring(repository.roles["A"], 21)
    repository.publish("A")
    repository.renew()
    assert device.download("second") == 0
    assert device.downloaded() == [b"1", b"2"]


def test_a_role_of_another_type_is_refused_though_its_keys_are_right(device: Device, repository: Repository) -> None:
    repository.keys["snapshot"] += repository.keys["timestamp"]
    repository.root.add_key(repository.keys["timestamp"][0].public_key, "snapshot")
    repository.snapshot.meta = {"snapshot.json": MetaFile(1)}
    repository.publish("root", "snapshot")
    repository.spoiled["metadata/timestamp.json"] = repository.newest["snapshot"]
    assert device.refresh() == 1
    assert device.versions() == {"root": 2}


@pytest.mark.parametrize("rotated", [("timestamp",), ("snapshot", "timestamp")], ids="+".join)
def test_fast_forward_is_recovered_from_by_new_keys(
    device: Device, repository: Repository, rotated: tuple[str, ...]
) -> None:
    for role in rotated:
        repository.role(role).version = 99_999
    repository.publish(*rotated, bump=False)
    repository.publish("timestamp")
    assert device.refresh() == 0
    for role in rotated:
        repository.rotate(role)
        repository.role(role).version = 1
    repository.publish("root")
    repository.publish(*rotated, bump=False)
    assert device.refresh() == 0
    assert device.versions()[rotated[0]] == 1


# --- keys ------------------------------------------------------------------------------------------------------------

# keys in force, threshold, keys that sign; the last version of each row is refused if so marked
ROOTS = {
    "rotation": ([((1,), 1, (1,)), ((2,), 1, (2, 1)), ((2,), 1, (2,))], True),
    "signatures nobody asked for": ([((1,), 1, (3, 1, 4)), ((2,), 1, (3, 2, 1, 4))], True),
    "three of five, others each time": ([((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((0, 1, 2, 3, 4), 3, (0, 1, 3))], True),
    "all of five replaced": ([((0, 1, 2, 3, 4), 3, (0, 2, 4)), ((5, 6, 7, 8, 9), 3, (0, 2, 4, 5, 6, 7))], True),
    "threshold raised": ([((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (1, 2))], True),
    "threshold lowered": ([((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1, 2)), ((1, 2, 3), 1, (1,))], True),
    "not signed by the old key": ([((1,), 1, (1,)), ((2,), 1, (2, 3, 4))], False),
    "not signed by the new key": ([((1,), 1, (1,)), ((2,), 1, (1, 3, 4))], False),
    "under the new threshold": ([((1, 2, 3), 1, (1,)), ((1, 2, 3), 2, (2,))], False),
    "under the old threshold": ([((1, 2, 3), 2, (1, 2)), ((1, 2, 3), 1, (1,))], False),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_needs_the_old_and_the_new_keys(tmp_path: Path, name: str) -> None:
    versions, good = ROOTS[name]
    signers = [CryptoSigner.generate_ed25519() for _ in range(10)]
    with Repository().serving() as repository:
        repository.signed["root"].clear()
        for number, (keys, threshold, signing) in enumerate(versions, 1):
            entry = repository.root.roles["root"]
            entry.keyids.clear()
            entry.threshold = threshold
            for key in keys:
                repository.root.add_key(signers[key].public_key, "root")
            repository.keys["root"] = [signers[key] for key in signing]
            repository.root.version = number
            repository.publish("root", bump=False)
        device = Device(tmp_path, repository)
        assert device.refresh() == (0 if good else 1)
        assert device.bytes_of("root") == repository.signed["root"][len(versions) if good else len(versions) - 1]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_under_its_threshold_is_refused_also_if_one_key_signs_twice(
    device: Device, repository: Repository, role: str
) -> None:
    repository.rotate(role, 2, threshold=2)
    both = repository.keys[role]
    repository.publish("root")
    repository.renew("targets")
    assert device.refresh() == 0
    versions = device.versions()
    repository.keys[role] = [both[0], both[0]]
    repository.renew("targets")
    assert device.refresh() == 1
    assert device.versions()[role] == versions[role]


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_keys_of_every_kind_are_understood(device: Device, repository: Repository, kind: str) -> None:
    repository.root.roles["timestamp"].keyids.clear()
    repository.keys["timestamp"] = [getattr(CryptoSigner, f"generate_{kind}")()]
    repository.root.add_key(repository.keys["timestamp"][0].public_key, "timestamp")
    repository.publish("root", "timestamp")
    assert device.refresh() == 0
    assert device.versions()["timestamp"] == 2


def test_one_key_under_several_names_counts_once(device: Device, repository: Repository) -> None:
    entry, signer = repository.root.roles["snapshot"], repository.keys["snapshot"][0]
    copied = json.loads(json.dumps(signer.public_key.to_dict()))
    entry.threshold = 2
    key = type(signer.public_key).from_dict("0" * 64, copied)
    repository.root.keys[key.keyid] = key
    entry.keyids.append(key.keyid)
    repository.publish("root")
    repository.renew()
    assert device.refresh() == 1
    assert "snapshot" not in device.versions()


def test_a_key_that_is_listed_twice_among_the_signatures_is_refused(device: Device, repository: Repository) -> None:
    role = json.loads(repository.newest["snapshot"])
    role["signatures"] *= 2
    repository.spoiled["metadata/1.snapshot.json"] = json.dumps(role).encode()
    assert device.refresh() == 1
    assert "snapshot" not in device.versions()


@pytest.mark.parametrize("other", ["", "00" * 64])
def test_a_signature_that_is_none_costs_nothing_beside_enough_good_ones(
    device: Device, repository: Repository, other: str
) -> None:
    repository.rotate("timestamp", 2)
    repository.publish("root", "timestamp")
    role = json.loads(repository.newest["timestamp"])
    role["signatures"][0]["sig"] = other
    repository.spoiled["metadata/timestamp.json"] = json.dumps(role).encode()
    assert device.refresh() == 0
    assert device.versions()["timestamp"] == 2


# --- artifacts and delegations ---------------------------------------------------------------------------------------


def test_an_artifact_is_downloaded_once_and_again_only_when_it_changed(device: Device, repository: Repository) -> None:
    for content in (b"first", b"second"):
        repository.artifact("targets", "path/to/file", content)
        repository.artifact("targets", "other", b"other")
        repository.renew("targets")
        assert device.download("path/to/file", "other") == 0
        assert device.downloaded() == sorted([content, b"other"])
    assert device.download("path/to/file") == 0
    assert [path for path, _ in repository.asked if path == "path/to/file"] == ["path/to/file"] * 2


@pytest.mark.parametrize("kind", ["other bytes", "endless"])
def test_an_altered_or_endless_artifact_is_refused_and_the_old_one_stays(
    device: Device, repository: Repository, kind: str
) -> None:
    repository.artifact("targets", "file", b"first")
    repository.renew("targets")
    assert device.download("file") == 0
    repository.artifact("targets", "file", b"second")
    repository.renew("targets")
    repository.spoiled["targets/file"] = b"evil!!" if kind == "other bytes" else Endless()
    assert device.download("file") == 1
    assert device.downloaded() == [b"first"]


def test_a_target_that_nobody_signs_is_refused_after_a_whole_refresh(device: Device, repository: Repository) -> None:
    assert device.download("missing") == 1
    assert device.versions() == dict.fromkeys(TOP, 1)


GRAPHS = {
    "depth first": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D")], ["A", "C", "D", "B"]),
    "a cycle": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("C", "D"), ("D", "B")], ["A", "B", "C", "D"]),
    "two give to a third": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C")], ["A", "C", "B"]),
    "paths that do not match": ([("targets", "A", "*.py"), ("targets", "B"), ("A", "C")], ["B"]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_delegations_are_searched_depth_first_in_order(device: Device, repository: Repository, name: str) -> None:
    edges, visited = GRAPHS[name]
    for owner, role, *paths in edges:
        repository.delegate(role, *paths, owner=owner)
    repository.publish(*(role for role in repository.roles if role != "targets"))
    repository.renew("targets")
    assert device.download("missing") == 1
    assert repository.asked[4:] == [(role, 1) for role in visited]


def test_a_terminating_delegation_ends_the_search(device: Device, repository: Repository) -> None:
    repository.delegate("A", terminating=True)
    repository.delegate("B")
    repository.artifact("B", "file", b"content")
    repository.publish("A", "B")
    repository.renew("targets")
    assert device.download("file") == 1
    assert repository.asked[4:] == [("A", 1)]


def test_a_delegated_role_signs_only_below_its_paths(device: Device, repository: Repository) -> None:
    repository.delegate("A", "mine/*")
    repository.artifact("A", "mine/file", b"mine")
    repository.artifact("A", "yours/file", b"yours")
    repository.publish("A")
    repository.renew("targets")
    assert device.download("mine/file") == 0
    assert device.download("yours/file") == 1
    assert device.downloaded() == [b"mine"]


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated"])
def test_an_unusual_role_name_is_quoted_and_stays_in_its_directory(
    device: Device, repository: Repository, role: str, tmp_path: Path
) -> None:
    repository.delegate(role)
    repository.publish(role)
    repository.renew("targets")
    outside = sorted(tmp_path.iterdir())
    assert device.download("missing") == 1
    assert (role, 1) in repository.asked
    assert len(list(device.metadata.glob("*.json"))) == 5
    assert sorted(tmp_path.iterdir()) == outside
