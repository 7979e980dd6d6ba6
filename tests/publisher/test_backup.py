"""A lost workstation comes back from one file, and nothing that is not whole is ever restored."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import AuthorError, ConfigError, FieldcastError, TransportError, UpdateRejected
from publisher.backup.backup_file import examine
from publisher.backup.restoration import restore
from publisher.backup.safekeeping import backup
from publisher.cli import main
from publisher.config import load_home
from publisher.devices.authority import Authority
from publisher.devices.broker_directory import planned, use, write
from publisher.record import Record
from publisher.trust.chronicle import history
from publisher.trust.keys import KeyStore
from publisher.uplink import connect
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.office import PASSPHRASE, Office, at_hand, blob_of, manifest_of
from tests.simulators.racer import Device

pytestmark = pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")


@pytest.fixture(autouse=True, scope="module")
def verifier_at_hand() -> Iterator[None]:
    with at_hand():
        yield


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Mosquitto() as broker:
        yield broker.url


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, url: str) -> Office:
    return Office.found(tmp_path_factory.mktemp("office") / "home", url)


@pytest.fixture
def office(template: Office, tmp_path: Path) -> Office:
    return template.fresh(tmp_path / "home")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Office, Path]:
    """A fleet whose broker is gone, and its backup."""
    directory = tmp_path_factory.mktemp("kept")
    office = Office.found(directory / "home", "mqtt://127.0.0.1:9")
    office.sign("a", tag="v1")
    office.sign("b", channel="production")
    (office.home.path / "broker.password").write_text("secret")
    (office.home.path / "broker.pem").write_text("-----BEGIN PRIVATE KEY-----\nxyz\n")
    toml = office.home.path / "publisher.toml"
    toml.write_text(toml.read_text() + 'password_file = "broker.password"\n')
    backup(directory / "kept.tar", home=office.home.path)
    return office, directory / "kept.tar"


def lose(office: Office) -> None:
    shutil.rmtree(office.home.path)


def restored(file: Path, home: Path, **options: bool) -> Office:
    restore(file, home=home, **options)
    return Office(load_home(home))


def test_after_the_workstation_is_lost_devices_take_what_is_pushed_from_the_restored_one(
    office: Office, tmp_path: Path
) -> None:
    office.push("a", tag="v1")
    with connect(office.home) as client:
        device = Device(office, "staging", client).listen()
        device.settle(office.channel().releases())
        backup(tmp_path / "fleet.tar", home=office.home.path)
        lose(office)
        again = restored(tmp_path / "fleet.tar", tmp_path / "elsewhere" / "home")
        assert again.push("b").release == "meter@2"
        device.settle(again.channel().releases())
        assert device.refused == 0  # the floors it had still hold
        device.leave()
    (found,) = history("meter", channel="staging", home=again.home.path)
    assert ([one.name for one in found.entries], found.faults) == (["meter@2", "meter@1"], [])
    assert again.lacks("a", "b") == []


def test_it_holds_the_home_and_every_publication(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, file = kept
    again = restored(file, tmp_path / "home", offline=True)
    for name in office.home.channels:
        assert again.channel(name).envelope() == office.channel(name).envelope()
        assert again.channel(name).releases() == office.channel(name).releases()
        assert [one.faults for one in history(channel=name, home=again.home.path)] == [[]]
    assert again.record.has_blob(office.record.put_blob(blob_of("a")))
    assert (again.home.keys.stat().st_mode & 0o777, again.home.path.stat().st_mode & 0o777) == (0o700, 0o755)
    assert KeyStore(again.home.keys).signer("staging-release", PASSPHRASE)
    assert (again.home.device / "staging.root.json").read_bytes() == office.channel().root()


def test_open_secrets_stay_behind_and_are_named(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, _ = kept
    found = backup(tmp_path / "b.tar", home=office.home.path)
    assert [one.partition(":")[0] for one in found.left_out] == ["broker.password", "broker.pem"]
    data = (tmp_path / "b.tar").read_bytes()
    assert b"secret" not in data
    assert b"BEGIN PRIVATE KEY" not in data
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600


def test_a_restored_workstation_gets_into_the_broker_with_a_new_key(office: Office, tmp_path: Path) -> None:
    setup = planned(office.home, out=tmp_path / "broker", hosts=["127.0.0.1"], port=8883)
    now, keys = time.time(), office.home.path / "ca"
    write(office.home, setup, Authority.open(office.home, PASSPHRASE, now), b"", [], now)
    use(office.home, setup.url)
    backup(tmp_path / "b.tar", home=office.home.path)
    again = load_home(restore(tmp_path / "b.tar", home=tmp_path / "again", offline=True, passphrase=PASSPHRASE).home)
    key = again.file(again.broker.key)
    assert key is not None
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() != (keys / "publisher.key").read_bytes()
    pem = (again.path / "ca" / "publisher.pem").read_bytes()
    assert Authority.open(again, PASSPHRASE, now).issued(pem)
    made = load_pem_private_key(key.read_bytes(), None).public_key()
    assert x509.load_pem_x509_certificate(pem).public_key() == made


def test_without_keys_there_is_no_private_key_and_the_roots_are(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, _ = kept
    found = backup(tmp_path / "b.tar", with_keys=False, home=office.home.path)
    assert not found.keys
    assert b"PRIVATE KEY" not in (tmp_path / "b.tar").read_bytes()
    again = restored(tmp_path / "b.tar", tmp_path / "home", offline=True)
    assert again.keys.pinned("staging") == office.keys.pinned("staging")
    with pytest.raises(AuthorError, match="no key staging-"):
        again.sign("c")


def test_the_same_state_gives_the_same_bytes(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, file = kept
    assert backup(tmp_path / "again.tar", home=office.home.path).digest == Digest.of(file.read_bytes())


def test_a_backup_is_never_overwritten_nor_a_home(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, file = kept
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        backup(file, home=office.home.path)
    assert file.read_bytes() == before
    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        restore(file, home=tmp_path / "home", offline=True)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_record_is_not_backed_up(office: Office, tmp_path: Path) -> None:
    ref = office.record.put_blob(blob_of("a"))
    office.sign("a")
    path = Path(str(office.home.record_location)) / "blob" / ref.digest.hex[:2] / ref.digest.hex
    path.write_bytes(b"x" * ref.size)
    with pytest.raises(FieldcastError, match="damaged"):
        backup(tmp_path / "b.tar", home=office.home.path)
    assert [one.name for one in tmp_path.iterdir()] == ["home"]


# --- what is refused -------------------------------------------------------------------------------------------------

Files = dict[str, bytes]


def rewrite(file: Path, target: Path, change: Callable[[Files], None], kind: bytes = tarfile.REGTYPE) -> Path:
    """Write another backup with changed members and an index that agrees with them."""
    with tarfile.open(file) as archive:
        members: Files = {one.name: (archive.extractfile(one) or io.BytesIO()).read() for one in archive}
    index = json.loads(members.pop("backup.json"))
    members.pop("backup.json.sha256")
    change(members)
    index["files"] = {
        name: {"digest": str(Digest.of(data)), "size": len(data), "mode": 0o644}
        for name, data in sorted(members.items())
    }
    with tarfile.open(target, "w") as archive:
        seal = f"{Digest.of(encode_json(index))}\n".encode()
        front = {"backup.json": encode_json(index), "backup.json.sha256": seal}
        for name, data in {**front, **dict(sorted(members.items()))}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("link"):
                info.type, info.linkname, info.size = kind, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(data))
    return target


CHANGES: dict[str, tuple[Callable[[Files], None], str]] = {
    "climbing": (lambda files: files.update({"home/../../evil": b"x"}), "leads out of the home"),
    "absolute": (lambda files: files.update({"/etc/evil": b"x"}), "leads out of the home"),
    "elsewhere": (lambda files: files.update({"other/evil": b"x"}), "leads out of the home"),
    "a link": (lambda files: files.update({"home/a-link": b""}), "missing, or not the file"),
    "no configuration": (lambda files: files.pop("home/publisher.toml") and None, "no publisher's home"),
    "no root": (lambda files: files.pop("home/keys/staging.root.json") and None, r"does not hold staging\.root"),
    "another root": (
        lambda files: files.update({"home/keys/staging.root.json": files["home/keys/production.root.json"]}),
        "signature",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_nothing_is_written_when_anything_is_wrong(kept: tuple[Office, Path], tmp_path: Path, case: str) -> None:
    change, words = CHANGES[case]
    file = rewrite(kept[1], tmp_path / "b.tar", change, tarfile.SYMTYPE)
    with pytest.raises((ConfigError, AuthorError, UpdateRejected), match=words):
        restore(file, home=tmp_path / "deep" / "home", offline=True)
    assert not (tmp_path / "deep").exists() or list((tmp_path / "deep").iterdir()) == []
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("where", [0.02, 0.5, 0.97])
def test_a_flipped_bit_is_noticed(kept: tuple[Office, Path], tmp_path: Path, where: float) -> None:
    data = bytearray(kept[1].read_bytes())
    with tarfile.open(kept[1]) as archive:  # padding carries nothing: take a byte of a member
        members = [one for one in archive if one.size]
    member = members[int(where * len(members))]
    data[member.offset_data + member.size // 2] ^= 1
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(ConfigError):
        examine(tmp_path / "b.tar")


def test_what_is_cut_off_or_no_backup_is_refused(kept: tuple[Office, Path], tmp_path: Path) -> None:
    data = kept[1].read_bytes()
    for content in (b"", b"hello", data[: len(data) // 2]):
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(ConfigError):
            examine(tmp_path / "b.tar")
    with pytest.raises(ConfigError, match="cannot be read"):
        examine(tmp_path / "gone.tar")


# --- the broker and a record elsewhere -------------------------------------------------------------------------------


def test_a_newer_history_on_the_broker_is_refused_and_can_be_adopted(office: Office, tmp_path: Path) -> None:
    office.push("a")
    backup(tmp_path / "old.tar", home=office.home.path)
    office.push("b")
    office.push("c")
    with connect(office.home) as client:
        device = Device(office, "staging", client).listen()
        device.settle(office.channel().releases())
        lose(office)
        with pytest.raises(AuthorError, match=r"after this backup was made.*--adopt"):
            restore(tmp_path / "old.tar", home=tmp_path / "again")
        assert not (tmp_path / "again").exists()
        found = restore(tmp_path / "old.tar", home=tmp_path / "again", adopt=True)
        assert (found.adopted, found.missing) == (["staging"], [])
        again = Office(load_home(tmp_path / "again"))
        assert again.push("d").release == "meter@4"
        device.settle(again.channel().releases())
        assert device.refused == 0
        device.leave()
    assert again.channel().manifest(Digest.of(manifest_of("c"))) == manifest_of("c")


def test_without_a_broker_it_says_so_and_writes_nothing(kept: tuple[Office, Path], tmp_path: Path) -> None:
    with pytest.raises((TransportError, ConfigError)):
        restore(kept[1], home=tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_a_record_elsewhere_is_completed_and_never_contradicted(office: Office, tmp_path: Path) -> None:
    office.move_record(str(tmp_path / "shared"))
    moved = Office(office.reload())
    moved.sign("a")
    backup(tmp_path / "b.tar", home=moved.home.path)
    shutil.rmtree(tmp_path / "shared")
    lose(office)
    again = restored(tmp_path / "b.tar", tmp_path / "home")
    assert [one.name for one in again.channel().releases()] == ["meter@1"]
    again.sign("b")  # the record lives on; another workstation comes back from the old backup
    other = restored(tmp_path / "b.tar", tmp_path / "other", offline=True)
    assert [one.name for one in other.channel().releases()] == ["meter@1", "meter@2"]
    path = f"channel/{office.home.fleet}/staging/timestamp/2.json"
    (tmp_path / "shared" / path).write_bytes(b"{}")
    with pytest.raises(AuthorError, match="two histories"):
        restore(tmp_path / "b.tar", home=tmp_path / "third", offline=True)
    assert not (tmp_path / "third").exists()
    assert Record(tmp_path / "shared").read(path, 10) == b"{}"


def test_the_commands_say_what_they_did(kept: tuple[Office, Path], tmp_path: Path) -> None:
    office, _ = kept
    file = str(tmp_path / "b.tar")
    told = CliRunner().invoke(main, ["backup", file, "--home", str(office.home.path)])
    assert told.exit_code == 0, told.output
    assert "left out: broker.password" in told.output
    assert "with private keys; read back and checked" in told.output
    told = CliRunner().invoke(main, ["restore", file, "--home", str(tmp_path / "home"), "--offline"])
    assert told.exit_code == 0, told.output
    assert f"fleet {office.home.fleet} restored in {tmp_path / 'home'}" in told.output
    told = CliRunner().invoke(main, ["restore", file, "--home", str(tmp_path / "h2"), "--offline", "--json"])
    assert json.loads(told.output)["channels"] == {"staging": 2, "production": 2}
