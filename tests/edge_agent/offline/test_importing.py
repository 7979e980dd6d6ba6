"""What a device takes from a stick, and what it refuses: by name, with nothing half done, to be done again at will."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_agent.cli import main
from edge_agent.config import Config, load
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import (
    ConfigError,
    FieldcastError,
    ReasonCode,
    StoreError,
    TransportError,
    UpdateRejected,
)
from edge_agent.contract.export import INDEX, TRUST, blob_place
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX, decode_envelope, encode_envelope
from edge_agent.offline import importing
from edge_agent.offline.importing import KEPT, Imported, take
from edge_agent.transport import envelope as envelopes
from edge_agent.update.imports import WAITING_MAX, envelope_of
from edge_agent.update.store import Store
from edge_agent.update.verifier import answer
from publisher.export import export
from tests.simulators.office import Office, at_hand, blob_of

NOWHERE = "mqtt://127.0.0.1:9"
CONFIG = """\
[device]
id = "d1"
fleet = "{fleet}"
state = "state"

[channel.staging]
root = "staging.root.json"

[slot.meter]
channel = "staging"

[slot.meter.input]
source = "csv"
path = "data.csv"
rate_hz = 10

[slot.meter.output]
sink = "sqlite"
path = "results.db"
"""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def verifier_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier's own code, without a process for each question; `tests/e2e/test_offline.py` starts real ones."""
    monkeypatch.setattr(importing, "verify", lambda request, lock: answer(request))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A fleet that offers meter@2, with meter@1 as stable, and pump@1, and the sticks `old` and `new`."""
    with at_hand():
        office = Office.found(tmp_path_factory.mktemp("office") / "home", NOWHERE)
        office.sign("a")
        office.sign("p", pipeline="pump")
        export("staging", office.home.path / "old", home=office.home.path)
        office.sign("b")
        export("staging", office.home.path / "new", home=office.home.path)
        export("production", office.home.path / "production", home=office.home.path)
        yield office


@pytest.fixture
def stick(office: Office, tmp_path: Path) -> Path:
    return Path(shutil.copytree(office.home.path / "new", tmp_path / "stick"))


@pytest.fixture
def config(office: Office, tmp_path: Path) -> Config:
    (tmp_path / "agent.toml").write_text(CONFIG.format(fleet=office.home.fleet))
    (tmp_path / "data.csv").write_text("x\n1\n")
    shutil.copy(office.home.device / "staging.root.json", tmp_path)
    return load(tmp_path / "agent.toml")


def kept(config: Config) -> list[bytes | None]:
    """Return the envelopes that wait for the agent."""
    path = config.device.state / "agent.db"
    if not path.exists():
        return []
    store = Store(path, create=False)
    try:
        return [envelope_of(one) for one in store.requests()]
    finally:
        store.close()


def blobs(config: Config) -> dict[str, bytes]:
    found = (path for path in (config.device.state / "blobs").rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in found}


def hex_of(*markers: str) -> set[str]:
    return {BlobRef.of(blob_of(marker)).digest.hex for marker in markers}


def file_of(stick: Path, marker: str) -> Path:
    return stick.joinpath(*blob_place(BlobRef.of(blob_of(marker))))


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_the_envelope_waits_for_the_agent_and_only_what_the_slots_need_is_copied(
    config: Config, stick: Path, office: Office
) -> None:
    (stick / "blob" / "00").mkdir(exist_ok=True)
    (stick / "blob" / "00" / ("0" * 64)).write_bytes(b"nobody signed this")
    told: list[str] = []
    found = take(config, stick, told=told.append)
    assert (found.answer, found.copied, found.copied_bytes, found.present) == (KEPT, 2, 600, 0)
    assert blobs(config) == {name: blob_of(mark) for mark in "ab" for name in hex_of(mark)}
    assert kept(config) == [envelopes.unpack((stick / TRUST).read_bytes())]
    assert told == ["copying 1 of 2, 300 bytes", "copying 2 of 2, 300 bytes"]
    assert not (config.device.state / "import").exists()
    again = take(config, stick)
    assert (again.copied, again.present) == (0, 2)


def test_the_index_is_only_a_hint(config: Config, stick: Path) -> None:
    (stick / INDEX).unlink()
    assert take(config, stick).copied == 2
    (stick / INDEX).write_bytes(b"{")
    assert take(config, stick).present == 2


def test_a_slot_whose_pipeline_was_not_exported_is_told(config: Config, office: Office, tmp_path: Path) -> None:
    with at_hand():
        export("staging", tmp_path / "pumps", pipelines=["pump"], home=office.home.path)
    found = take(config, tmp_path / "pumps")
    assert (found.left_out, found.copied) == (["meter"], 0)


def test_a_damaged_blob_of_the_device_is_healed(config: Config, stick: Path) -> None:
    take(config, stick)
    place = config.device.state / "blobs"
    (name,) = hex_of("a")
    (place / name[:2] / name).write_bytes(b"rotten")
    assert take(config, stick).copied == 1
    assert blobs(config)[name] == blob_of("a")


# --- what is refused -------------------------------------------------------------------------------------------------


def cut_trust(stick: Path) -> None:
    data = (stick / TRUST).read_bytes()
    (stick / TRUST).write_bytes(data[: len(data) // 2])


def foreign_trust(stick: Path) -> None:
    (stick / TRUST).write_bytes(envelopes.pack(b"\x81\xa1x\x01"))


def large_trust(stick: Path) -> None:
    (stick / TRUST).write_bytes(b"\0" * (ENVELOPE_BYTES_MAX + 1))


def no_trust(stick: Path) -> None:
    (stick / TRUST).unlink()


def linked_trust(stick: Path) -> None:
    (stick / TRUST).rename(stick.parent / "elsewhere")
    (stick / TRUST).symlink_to(stick.parent / "elsewhere")


def piped_trust(stick: Path) -> None:
    (stick / TRUST).unlink()
    os.mkfifo(stick / TRUST)


def altered_trust(stick: Path) -> None:
    found = decode_envelope(envelopes.unpack((stick / TRUST).read_bytes()))
    timestamp = re.sub(rb'("expires": ?")20', rb"\g<1>21", found.metadata["timestamp.json"])
    assert timestamp != found.metadata["timestamp.json"]
    found.metadata["timestamp.json"] = timestamp
    (stick / TRUST).write_bytes(envelopes.pack(encode_envelope(found)))


def cut_blob(stick: Path) -> None:
    file_of(stick, "b").write_bytes(blob_of("b")[:-1])


def long_blob(stick: Path) -> None:
    file_of(stick, "b").write_bytes(blob_of("b") + b"." * 3_000_000)


def altered_blob(stick: Path) -> None:
    file_of(stick, "b").write_bytes(blob_of("c"))


def no_blob(stick: Path) -> None:
    file_of(stick, "b").unlink()


def linked_blob(stick: Path) -> None:
    file_of(stick, "b").rename(stick.parent / "elsewhere")
    file_of(stick, "b").symlink_to(stick.parent / "elsewhere")


def linked_folder(stick: Path) -> None:
    (stick / "blob").rename(stick.parent / "elsewhere")
    (stick / "blob").symlink_to(stick.parent / "elsewhere")


def piped_blob(stick: Path) -> None:
    file_of(stick, "b").unlink()
    os.mkfifo(file_of(stick, "b"))


def blob_is_a_directory(stick: Path) -> None:
    file_of(stick, "b").unlink()
    file_of(stick, "b").mkdir()


SPOILT: dict[Callable[[Path], None], tuple[ReasonCode, str]] = {
    cut_trust: (ReasonCode.MALFORMED, "truncated"),
    foreign_trust: (ReasonCode.MALFORMED, "cannot be read"),
    large_trust: (ReasonCode.SIZE, "has over"),
    no_trust: (ReasonCode.UNAVAILABLE, "trust is missing"),
    linked_trust: (ReasonCode.MALFORMED, "no regular file"),
    piped_trust: (ReasonCode.MALFORMED, "no regular file"),
    altered_trust: (ReasonCode.SIGNATURE, "not signed by"),
    cut_blob: (ReasonCode.SIZE, "has 299 bytes, not the 300"),
    long_blob: (ReasonCode.SIZE, "has more than the 300"),
    altered_blob: (ReasonCode.CONTENT, "sha256"),
    no_blob: (ReasonCode.UNAVAILABLE, "is missing"),
    linked_blob: (ReasonCode.MALFORMED, "no regular file"),
    linked_folder: (ReasonCode.MALFORMED, "no regular file"),
    piped_blob: (ReasonCode.MALFORMED, "no regular file"),
    blob_is_a_directory: (ReasonCode.MALFORMED, "no regular file"),
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_stick_is_refused_and_leaves_nothing_half_done(
    config: Config, stick: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(stick)
    code, words = SPOILT[spoil]
    with pytest.raises(UpdateRejected, match=words) as refused:
        take(config, stick)
    assert refused.value.reasons[0].code is code
    assert kept(config) == []
    assert set(blobs(config)) <= hex_of("a")
    assert not (config.device.state / "import").exists()


def test_a_spoilt_blob_is_named_with_its_file(config: Config, stick: Path) -> None:
    altered_blob(stick)
    with pytest.raises(UpdateRejected) as refused:
        take(config, stick)
    assert str(file_of(stick, "b")) in str(refused.value)


def test_other_fleets_channels_and_roots_are_refused(config: Config, office: Office, tmp_path: Path) -> None:
    with pytest.raises(UpdateRejected, match="holds channel 'production'"):
        take(config, office.home.path / "production")
    with at_hand():
        other = Office.found(tmp_path / "other", NOWHERE)
        export("staging", tmp_path / "other" / "stick", home=other.home.path)
        twin = Office.found(tmp_path / "twin", NOWHERE, fleet=office.home.fleet)
        export("staging", tmp_path / "twin" / "stick", home=twin.home.path)
    with pytest.raises(UpdateRejected, match=f"of fleet '{other.home.fleet}'"):
        take(config, tmp_path / "other" / "stick")
    with pytest.raises(UpdateRejected, match="not the root enrolled"):
        take(config, tmp_path / "twin" / "stick")
    assert kept(config) == []


def test_an_older_stick_is_refused_also_while_the_newer_one_waits_for_the_agent(
    config: Config, office: Office, stick: Path
) -> None:
    take(config, stick)
    with pytest.raises(UpdateRejected, match="older than what was accepted"):
        take(config, office.home.path / "old")
    assert len(kept(config)) == 1


def test_imports_that_wait_for_the_agent_are_bounded(config: Config, stick: Path) -> None:
    for _ in range(WAITING_MAX):
        take(config, stick)
    with pytest.raises(StoreError, match="start it first"):
        take(config, stick)


# --- trouble ---------------------------------------------------------------------------------------------------------


def test_a_stick_pulled_out_in_the_middle_is_told_and_the_next_time_goes_on(
    config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, target = os.read, file_of(stick, "a").stat().st_ino

    def failing(descriptor: int, size: int) -> bytes:
        if os.fstat(descriptor).st_ino == target:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, size)

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.offline.stick.os.read", failing)
        with pytest.raises(TransportError, match=r"cannot be read \(Input/output error\): put it in again"):
            take(config, stick)
    assert kept(config) == []
    assert set(blobs(config)) == hex_of("b")
    found = take(config, stick)
    assert (found.copied, found.present) == (1, 1)


def test_a_stick_that_is_gone_when_a_file_is_opened_is_told(
    config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = importing.Stick._step

    def failing(self: Any, descriptor: int, name: str, flags: int) -> int:
        if name == "blob":
            raise OSError(errno.EIO, "Input/output error")
        return step(self, descriptor, name, flags)

    monkeypatch.setattr(importing.Stick, "_step", failing)
    with pytest.raises(TransportError, match="Input/output error"):
        take(config, stick)


def test_what_a_killed_import_left_is_cleared(config: Config, stick: Path) -> None:
    left = config.device.state / "import"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    take(config, stick)
    assert not left.exists()


def test_one_import_at_a_time(config: Config, stick: Path) -> None:
    take(config, stick)
    with (config.device.state / "import.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another import is under way"):
            take(config, stick)


def test_no_room_is_said_before_anything_is_copied(
    config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: Usage(1, 1, 16 * 2**20 + 1199))
    with pytest.raises(StoreError, match="edge-agent gc --all"):
        take(config, stick)
    assert blobs(config) == {}
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: Usage(1, 1, 16 * 2**20 + 1200))
    assert take(config, stick).copied == 2


def test_files_that_root_made_become_the_agents(config: Config, stick: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    config.device.state.mkdir()
    os.chown(config.device.state, 12_345, 12_345)
    take(config, stick)
    found = {path: path.lstat().st_uid for path in config.device.state.rglob("*")}
    assert {path.name for path in found} >= {"agent.db", "blobs"} | hex_of("a", "b")
    assert set(found.values()) == {12_345}


# --- the command -----------------------------------------------------------------------------------------------------


def run(config: Config, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["import", *arguments, "--config", str(config.path)])


def test_exit_codes_tell_who_must_act(config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(config, str(stick))
    assert (done.exit_code, "2 blobs copied, 600 bytes" in done.output, KEPT in done.output) == (0, True, True)
    found = json.loads(run(config, str(stick), "--json").output)
    assert (found["channel"], found["present"], found["accepted"]) == ("staging", 2, False)
    assert run(config, str(stick / "nowhere")).exit_code == 2
    assert run(config, str(stick), "--wait", "soon").exit_code == 2
    waited = run(config, str(stick), "--wait", "0.2")
    assert (waited.exit_code, "meter under way" in waited.output) == (1, True)
    cut_trust(stick)
    refused = run(config, str(stick))
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert f"edge-agent: malformed: {stick / TRUST} " in refused.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreError("full"), 3), (TransportError("gone"), 1), (ConfigError("wrong"), 2)],
    ids=lambda value: type(value).__name__,
)
def test_each_family_of_errors_has_its_exit_code(
    config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch, error: FieldcastError, code: int
) -> None:
    def failing(*_: object, **__: object) -> Imported:
        raise error

    monkeypatch.setattr(importing, "take", failing)
    assert run(config, str(stick)).exit_code == code


def test_what_the_agent_refuses_ends_with_1(config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ring", lambda state: b"{}")

    def asked(store: Store, *arguments: Any, **more: Any) -> int:
        number = real(store, *arguments, **more)
        store.answer(number, "refused: expired: since yesterday")
        return number

    real = Store.ask
    monkeypatch.setattr(Store, "ask", asked)
    done = run(config, str(stick), "--wait", "5")
    assert (done.exit_code, "refused: expired" in done.output) == (1, True)


def test_an_agent_that_does_not_answer_is_told(config: Config, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ring", lambda state: b"{}")
    monkeypatch.setattr(importing, "ANSWER_SECONDS", 0.2)
    done = run(config, str(stick))
    assert (done.exit_code, "has not answered" in done.output) == (1, True)


def test_a_device_without_a_broker_is_fit(config: Config, stick: Path) -> None:
    take(config, stick)
    checked = CliRunner().invoke(main, ["check-config", "--config", str(config.path)])
    assert (checked.exit_code, "no broker" in checked.output) == (0, True)
    looked = CliRunner().invoke(main, ["doctor", "--config", str(config.path), "--json"])
    network = [one for one in json.loads(looked.output) if one["name"] == "network"]
    assert [(one["state"], "edge-agent import" in one["words"]) for one in network] == [("ok", True)]
