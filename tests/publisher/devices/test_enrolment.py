"""Devices are enrolled, listed and revoked; nobody gets a name that is another's, or in by writing to the record."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_agent.contract.certificates import issued_by
from edge_agent.contract.enrolment import decode_answer
from edge_agent.contract.errors import AuthorError, ConfigError, StoreError
from edge_agent.enrolment import request as ask
from publisher.cli import main
from publisher.config import Home, load_home
from publisher.devices import expulsion
from publisher.devices.authority import Authority, certificate_of
from publisher.devices.enrolment import Admitted, enroll, enrolled
from publisher.devices.revocation import Revocations
from publisher.devices.whole_file import CLOSED, write_whole
from publisher.founding import init
from publisher.record import Record

NOW = 1_800_000_000.0
DAY = 86_400
PASSPHRASE = "correct horse"
SLOTS = '[slot.meter]\nchannel = "production"\n[slot.meter.output]\nsink = "mqtt"\ntopic = "results/%u"\n'


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("founded") / "home"
    home = init("plant", "mqtts://broker.example", passphrase=PASSPHRASE, home=place)
    Authority.open(home, PASSPHRASE, NOW)
    return place


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> Home:
    shutil.copytree(founded, tmp_path / "home")
    return load_home(tmp_path / "home")


def asked(place: Path, device: str = "d1", fleet: str = "plant") -> bytes:
    return ask(place / f"{device}-{fleet}", fleet, device).pem


def admit(home: Home, request: bytes | None, device: str | None = None, **options: object) -> Admitted:
    options = {"now": NOW, **options}
    return enroll(request, device, home=home.path, passphrase=PASSPHRASE, **options)  # type: ignore[arg-type]


def command(home: Home, *arguments: str) -> Result:
    environment = {"FIELDCAST_HOME": str(home.path), "FIELDCAST_PASSPHRASE": PASSPHRASE}
    return CliRunner().invoke(main, ["device", *arguments], env=environment)


def test_a_request_is_answered_with_certificate_roots_and_configuration(home: Home, tmp_path: Path) -> None:
    made = ask(tmp_path, "plant", "d1")
    done = admit(home, made.pem, slots=SLOTS, labels={"site": "north", "a b": "ü"}, state="/state")
    answer = decode_answer(done.data)
    assert answer.files.keys() == {"agent.toml", "ca.pem", "device.pem", "production.root.json"}
    assert done.request_words == made.words
    subject = issued_by(certificate_of(home) or b"", answer.files["device.pem"].encode(), NOW + 824 * DAY)
    assert (subject.device, subject.fleet) == ("d1", "plant")
    config = tomllib.loads(answer.files["agent.toml"])
    labels = {"site": "north", "a b": "ü"}
    assert config["device"] == {"id": "d1", "fleet": "plant", "state": "/state", "labels": labels}
    assert config["broker"]["url"] == "mqtts://broker.example"
    assert config["slot"]["meter"]["output"]["topic"] == "results/d1"
    assert config["channel"] == {"production": {"root": "production.root.json"}}
    assert answer.files["production.root.json"].encode() == (home.device / "production.root.json").read_bytes()


def test_without_slots_the_configuration_shows_how_one_looks(home: Home, tmp_path: Path) -> None:
    config = decode_answer(admit(home, asked(tmp_path)).data).files["agent.toml"]
    assert "slot" not in tomllib.loads(config)
    uncommented = tomllib.loads(
        "\n".join(line.removeprefix("# ") for line in config[config.index("# [slot") :].splitlines())
    )
    assert uncommented["slot"]["PIPELINE"]["output"]["topic"] == "fieldcast/plant/data/d1/results"


def test_a_device_without_a_request_gets_a_key_and_everybody_is_told(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "answer"
    done = command(home, "enroll", "--id", "d2", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "WEAKER" in done.output
    answer = decode_answer(out.read_bytes())
    assert "BEGIN PRIVATE KEY" in answer.files["device.key"]
    assert "Weaker" in answer.note
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [one.key_made_here for one in enrolled(home)] == [True]
    assert "key made here" in command(home, "list").output


def test_every_workstation_sees_the_same_devices(home: Home, tmp_path: Path) -> None:
    admit(home, asked(tmp_path), labels={"site": "north"})
    other = tmp_path / "other"
    shutil.copytree(home.path, other)
    (other / "record").rename(tmp_path / "unused")
    (other / "record").symlink_to(home.path / "record")
    admit(home, asked(tmp_path, "d2"))
    revoked = expulsion.revoke("d1", home=home.path, passphrase=PASSPHRASE, now=NOW + 5)
    seen = {one.id: one for one in enrolled(load_home(other))}
    assert (seen["d1"].labels, seen["d1"].revoked, seen["d1"].serial) == (
        {"site": "north"},
        NOW + 5,
        revoked.serials[0],
    )
    assert seen["d2"].revoked is None


def test_a_name_that_is_taken_is_given_to_no_other_key(home: Home, tmp_path: Path) -> None:
    admit(home, asked(tmp_path / "first"))
    with pytest.raises(AuthorError, match="d1 is enrolled already, with another key"):
        admit(home, asked(tmp_path / "second"))
    assert len(enrolled(home)) == 1
    admit(home, asked(tmp_path / "second"), replace=True, now=NOW + 9)
    assert [one.revoked for one in enrolled(home)] == [NOW + 9, None]


def test_the_same_key_may_renew_and_an_ended_one_may_be_followed(home: Home, tmp_path: Path) -> None:
    request = asked(tmp_path)
    admit(home, request, days=30)
    admit(home, request, days=30, now=NOW + 20 * DAY)
    assert [one.good(NOW + 40 * DAY) for one in enrolled(home)] == [False, True]
    admit(home, asked(tmp_path / "new"), now=NOW + 60 * DAY)
    assert len(enrolled(home)) == 3


def _without_possession(place: Path) -> bytes:
    """Return a request with somebody else's public key in it, and the asker's signature."""
    import base64

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    mine, theirs = asked(place / "mine"), asked(place / "theirs")
    point = [
        x509.load_pem_x509_csr(one).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for one in (mine, theirs)
    ]
    der = x509.load_pem_x509_csr(mine).public_bytes(Encoding.DER).replace(point[0], point[1])
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n".encode()


def test_a_request_without_possession_of_its_key_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold the key"):
        admit(home, _without_possession(tmp_path))
    assert enrolled(home) == []


def test_a_request_that_cannot_be_used_is_refused(home: Home, tmp_path: Path) -> None:
    for request, words in (
        (asked(tmp_path, fleet="other"), "for fleet 'other'"),
        (b"rubbish", "cannot be used"),
        (b"x" * 20_000, "at most"),
    ):
        with pytest.raises(ConfigError, match=words):
            admit(home, request)
    with pytest.raises(ConfigError, match="is for d1, not for d9"):
        admit(home, asked(tmp_path), "d9")
    for device in (None, "a/b", "_publisher"):
        with pytest.raises(ConfigError, match=r"REQUEST|device name"):
            admit(home, None, device)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"days": 0}, "1 to"),
        ({"days": 99_999}, "1 to"),
        ({"channels": ["nightly"]}, "unknown channel"),
        ({"slots": "= x"}, "not valid TOML"),
        ({"slots": '[broker]\nurl = "mqtt://evil"'}, "nothing else"),
        ({"slots": "slot = { a = 1 }"}, "nothing else"),
        ({"slots": SLOTS, "channels": ["staging"]}, "follow production"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_signed(
    options: dict[str, object], words: str, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        admit(home, asked(tmp_path), **options)
    assert enrolled(home) == []


def test_a_broker_without_tls_takes_no_device(home: Home, tmp_path: Path) -> None:
    file = home.path / "publisher.toml"
    file.write_text(file.read_text().replace("mqtts://", "mqtt://"))
    with pytest.raises(ConfigError, match="publisher broker config"):
        admit(home, asked(tmp_path))


def test_a_channel_whose_root_is_not_here_cannot_be_given(home: Home, tmp_path: Path) -> None:
    (home.keys / "staging.root.json").unlink()
    with pytest.raises(AuthorError, match=r"does not hold staging\.root\.json"):
        admit(home, asked(tmp_path))


def test_whoever_writes_to_the_record_enrols_nobody(home: Home, tmp_path: Path) -> None:
    admit(home, asked(tmp_path))
    (path,) = (home.path / "record" / "enrolled" / "plant" / "d1").iterdir()
    entry = json.loads(path.read_text())
    planted = home.path / "record" / "enrolled" / "plant" / "d2" / path.name
    planted.parent.mkdir()
    for content in ({**entry, "device": "d2"}, entry, {**entry, "certificate": "x"}, "rubbish"):
        planted.write_text(json.dumps(content))
        with pytest.raises(StoreError, match="no enrolment of ours"):
            enrolled(home)


def test_a_revocation_cannot_be_taken_back_through_the_record(home: Home, tmp_path: Path) -> None:
    admit(home, asked(tmp_path))
    expulsion.revoke("d1", home=home.path, passphrase=PASSPHRASE, now=NOW)
    lists = home.path / "record" / "authority" / "plant" / "revoked"
    whole = (lists / "1.pem").read_bytes()
    (lists / "1.pem").unlink()
    with pytest.raises(StoreError, match="this home has seen 1"):
        enrolled(home)
    for content, words in ((b"rubbish", "is damaged"), (_strangers_list(), "not signed by the fleet's authority")):
        (lists / "1.pem").write_bytes(content)
        with pytest.raises(StoreError, match=words):
            enrolled(home)
    (lists / "1.pem").write_bytes(whole)
    (lists / "2.pem").write_bytes(whole)
    with pytest.raises(StoreError, match="is revocation list 1"):
        enrolled(home)


def _strangers_list() -> bytes:
    from publisher.devices.authority import new_key

    return Authority.found("plant", new_key(), NOW).revocation_list(1, {}, NOW)


def test_lists_count_up_and_keep_what_was_revoked(home: Home, tmp_path: Path) -> None:
    for device in ("d1", "d2"):
        admit(home, asked(tmp_path, device))
        assert expulsion.revoke(device, home=home.path, passphrase=PASSPHRASE, now=NOW + 1).directory is None
    newest = Revocations(home, Record(home.record_location), certificate_of(home) or b"").newest()
    assert (newest.number, set(newest.serials)) == (2, {one.serial for one in enrolled(home)})
    with pytest.raises(AuthorError, match="enrolled are none"):
        expulsion.revoke("d1", home=home.path, passphrase=PASSPHRASE, now=NOW + 1)
    with pytest.raises(AuthorError, match="needs the authority's key"):
        Revocations(home, Record(home.record_location), certificate_of(home) or b"").revoke(["1"], NOW)


def test_revoking_tells_the_brokers_files(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "broker"
    environment = {"FIELDCAST_HOME": str(home.path), "FIELDCAST_PASSPHRASE": PASSPHRASE}
    at = ["--at", "/etc/mosquitto/plant"]
    assert CliRunner().invoke(main, ["broker", "config", "--out", str(out), *at], env=environment).exit_code == 0
    request, answer = tmp_path / "request", tmp_path / "answer"
    request.write_bytes(asked(tmp_path))
    arguments = ["enroll", str(request), "--out", str(answer), "--label", "site=north"]
    done = command(home, *arguments)
    assert done.exit_code == 0, done.output
    assert "exists already" in command(home, *arguments).output, "an answer is not overwritten"
    done = command(home, "revoke", "d1")
    assert done.exit_code == 0, done.output
    assert "acl, revoked.pem" in done.output
    assert "Copy them to /etc/mosquitto/plant" in done.output
    assert "user d1\ntopic deny #" in (out / "acl").read_text()
    listed = command(home, "list")
    assert "d1" in listed.output
    assert "REVOKED" in listed.output
    assert json.loads(command(home, "list", "--json").output)[0]["labels"] == {"site": "north"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_again_stays_the_brokers_own(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    write_whole(path, b"one", CLOSED)
    os.chown(path, 65_534, 65_534)
    write_whole(path, b"two", CLOSED)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (65_534, 65_534, 0o600)
    os.chown(tmp_path, 65_534, 65_534)
    write_whole(tmp_path / "new", b"", CLOSED)
    assert (tmp_path / "new").stat().st_uid == 65_534


def test_revoking_without_the_brokers_files_says_what_to_do(home: Home, tmp_path: Path) -> None:
    enroll(asked(tmp_path), home=home.path, passphrase=PASSPHRASE)
    assert "run `publisher broker config`" in command(home, "revoke", "d1").output


def test_an_empty_fleet_says_how_to_enrol(home: Home) -> None:
    assert "publisher device enroll" in command(home, "list").output
    shutil.rmtree(home.path / "ca")
    assert enrolled(home) == []


def test_the_list_warns_of_what_ends_soon_and_tells_what_has_ended(home: Home, tmp_path: Path) -> None:
    now = time.time()
    for device, at in (("d1", now), ("d2", now - 20 * DAY), ("d3", now - 40 * DAY)):
        admit(home, asked(tmp_path, device), days=800 if device == "d1" else 30, now=at)
    lines = command(home, "list").output.splitlines()
    assert [word in line for word, line in zip(("good until", "ENDS SOON", "ENDED"), lines, strict=True)] == [True] * 3


def test_a_label_that_is_none_is_refused(home: Home, tmp_path: Path) -> None:
    done = command(home, "enroll", "--id", "d1", "--out", str(tmp_path / "a"), "--labels", "north")
    assert (done.exit_code, "want KEY=VALUE" in done.output) == (2, True)
