"""Keys come and go by `publisher key`, and devices that were enrolled with the first root follow every step."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import AuthorError, UpdateRejected
from edge_agent.contract.messages import decode_envelope
from edge_agent.update.verifier import answer
from publisher import uplink
from publisher.config import load_home
from publisher.trust import keys as key_files
from publisher.trust import repository
from publisher.trust.keys import KeyStore
from publisher.trust.publication import Publication
from publisher.trust.roles import sign
from publisher.trust.signing import completed
from publisher.uplink import Uplink, connect
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.channel import sample_manifest
from tests.simulators.holder import PASSPHRASE, Follower, Holder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with one channel, three root keys, two of which must sign; each test works on a copy."""
    directory = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_files, "_SCRYPT_N", 16)
        Holder.found(directory, "--root-keys", "3", "--root-threshold", "2")
    return directory


@pytest.fixture
def ada(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holder:
    # The devices of these tests ask the verifier process; that the publisher asks it too is seen in `test_repository`.
    monkeypatch.setattr(repository, "verify", answer)
    monkeypatch.setattr(key_files, "_SCRYPT_N", 16)  # what it costs to guess a passphrase is measured in `test_keys`
    monkeypatch.setattr(uplink, "CONNECT_SECONDS", 0.3)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Holder(tmp_path / "ada")


@pytest.fixture
def device(ada: Holder) -> Follower:
    follower = Follower(ada.channel().root())
    follower.follow(ada.channel().envelope())
    return follower


def publish(holder: Holder, marker: str = "1", **fields: Any) -> bytes:
    channel = holder.channel()
    manifest = sample_manifest("activity", marker)
    published = channel.publish(manifest, pipeline="activity", keys=holder.keys, passphrase=PASSPHRASE, **fields)
    return published.envelope


def listed(holder: Holder, role: str, channel: str = "staging") -> dict[str, Any]:
    found = json.loads(holder.must("key", "list", channel, "--json"))
    return next(one for one in found if one["role"] == role)


def names(holder: Holder, role: str, channel: str = "staging") -> list[str]:
    return [one["name"] for one in listed(holder, role, channel)["keys"]]


# --- look ------------------------------------------------------------------------------------------------------------


def test_the_list_says_who_may_sign_what_until_when_and_what_is_here(ada: Holder) -> None:
    (ada.path / "keys" / "staging-root-2.pem").unlink()
    text = ada("key", "list", FIELDCAST_PASSPHRASE=None).output
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows if row[0] == "staging"] == [
        ["staging", role] for role in ("root", "timestamp", "snapshot", "targets", "release", "rollout")
    ]
    root = listed(ada, "root")
    assert (root["threshold"], [one["here"] for one in root["keys"]]) == (2, [True, False, True])
    assert names(ada, "root") == ["staging-root", "staging-root-2", "staging-root-3"]
    assert root["expires"] == ada.channel().expiries()["root"]
    assert "2 of 3" in text


# --- follow ----------------------------------------------------------------------------------------------------------


def test_a_device_enrolled_with_the_first_root_follows_five_root_rotations(ada: Holder, device: Follower) -> None:
    fresh = Follower(device.root)
    for step in range(5):
        ada.must("key", "rotate", "staging", "root", names(ada, "root")[0])
        device.follow(publish(ada, str(step)))
    assert ada.channel().roles().root.version == 6
    assert names(ada, "root") == ["staging-root-6", "staging-root-7", "staging-root-8"]
    assert len(fresh.follow(ada.channel().envelope()).releases) == 5  # one that was away all the time
    assert sum(name.endswith("root.json") for name in decode_envelope(ada.channel().envelope()).metadata) == 6


STEPS = (
    ("add", "staging", "release"),
    ("add", "staging", "root", "--threshold", "3"),
    ("rotate", "staging", "release", "staging-release"),
    ("rotate", "staging", "rollout"),
    ("rotate", "staging", "targets"),
    ("revoke", "staging", "root", "staging-root-3"),
    ("renew", "staging"),
)


def test_devices_accept_every_change_and_what_is_published_after_it(ada: Holder, device: Follower) -> None:
    for step in STEPS:
        said = ada.must("key", *step)
        assert "published in the record, but not announced" in said  # nobody runs this broker
        device.follow(ada.channel().envelope())
    device.follow(publish(ada, "after"))
    verified = Follower(device.root).follow(ada.channel().envelope())
    assert [info.name for info in verified.releases] == ["activity@1"]


def test_another_root_key_signs_from_the_next_version_on(ada: Holder, device: Follower) -> None:
    ada.must("key", "rotate", "staging", "root", "staging-root")
    for gone in ("staging-root", "staging-root-2"):
        (ada.path / "keys" / f"{gone}.pem").unlink()
    ada.must("key", "rotate", "staging", "targets")  # signed by staging-root-3 and staging-root-4
    device.follow(ada.channel().envelope())


def test_a_revoked_release_key_is_refused_by_devices_and_here(ada: Holder, device: Follower, tmp_path: Path) -> None:
    device.follow(publish(ada, "1"))
    thief = ada.colleague(
        "thief", *(f"staging-{one}" for one in ("release", "rollout", "snapshot", "timestamp")), take=False
    )
    shutil.copytree(ada.path / "record", tmp_path / "stolen record")
    ada.must("key", "rotate", "staging", "release")
    device.follow(ada.channel().envelope())
    with pytest.raises(AuthorError, match="no key staging-release-2"):
        publish(thief, "evil")
    # The thief goes on from the record as it was, with the keys as they were.
    text = (thief.path / "publisher.toml").read_text()
    (thief.path / "publisher.toml").write_text(text.replace(str(ada.path / "record"), str(tmp_path / "stolen record")))
    for number in range(3):
        evil = publish(thief, f"evil {number}")
    with pytest.raises(UpdateRejected, match="older"):
        device.follow(evil)
    # Even under today's root and targets the revoked key's list of releases is worth nothing.
    forged = _with_release_of(ada, thief)
    with pytest.raises(UpdateRejected, match="release"):
        device.follow(forged)


def _with_release_of(ada: Holder, thief: Holder) -> bytes:
    """Sign timestamp and snapshot (stolen too) over the genuine targets and a list signed by the revoked key."""
    shelf = ada.channel()._shelf
    head = shelf.newest()
    roles = head.roles.raised(("release", "timestamp", "snapshot"), 2e9)
    signer = thief.keys.signer
    files = {**head.files, "release": sign(roles.release, signer("staging-release", PASSPHRASE))}
    online = {
        role: {one.public_key.keyid: one for one in [signer(f"staging-{role}", PASSPHRASE)]}
        for role in ("timestamp", "snapshot")
    }
    files = completed(roles, files, head.roots, online)
    return shelf.envelope(Publication(number=0, roles=roles, files=files, roots=head.roots, documents=head.documents))


# --- fast-forward ----------------------------------------------------------------------------------------------------


def sent_ahead(ada: Holder) -> Publication:
    """Sign what the thief of the always-on host would: the newest state under the highest numbers."""
    head = ada.channel()._shelf.newest()
    roles = copy.deepcopy(head.roles)
    roles.timestamp.version = roles.snapshot.version = 2**31 - 1
    online = {
        role: {one.public_key.keyid: one for one in [ada.keys.signer(f"staging-{role}", PASSPHRASE)]}
        for role in ("timestamp", "snapshot")
    }
    files = completed(roles, dict(head.files), head.roots, online)
    number = head.number + 1
    return Publication(number=number, roles=roles, files=files, roots=head.roots, documents=head.documents)


def test_rotating_the_online_keys_recovers_from_a_fast_forward(ada: Holder, device: Follower) -> None:
    """The numbers were driven up in the record and on the devices (T5)."""
    publish(ada)
    shelf = ada.channel()._shelf
    stolen = sent_ahead(ada)
    shelf.keep(stolen)
    device.follow(shelf.envelope(stolen))

    ada.must("key", "rotate", "staging", "snapshot")
    after = ada.channel().roles()
    assert (after.timestamp.version, after.snapshot.version) == (1, 1)
    assert (names(ada, "timestamp"), names(ada, "snapshot")) == (["staging-timestamp-2"], ["staging-snapshot-2"])
    device.follow(ada.channel().envelope())
    device.follow(publish(ada, "2"), forget=True)
    with pytest.raises(UpdateRejected):
        device.follow(shelf.envelope(stolen))


@pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed")
def test_a_broker_that_was_sent_ahead_gets_the_recovered_history(ada: Holder, device: Follower) -> None:
    with Mosquitto() as broker:
        file = ada.path / "publisher.toml"
        file.write_text(re.sub(r'url = "[^"]*"', f'url = "{broker.url}"', file.read_text()))
        evil = ada.channel()._shelf.envelope(sent_ahead(ada))
        device.follow(evil)
        with connect(load_home(ada.path)) as client:
            link = Uplink(client, ada.channel())
            link._retain(evil)
            assert "somebody pushed from another record" in ada.must("key", "rotate", "staging", "release", code=1)
            assert "published and announced" in ada.must("key", "rotate", "staging", "snapshot")
            device.follow(link.announced_envelope() or b"")
            assert "published and announced" in ada.must("key", "rotate", "staging", "release")
            device.follow(link.announced_envelope() or b"")


def test_rotating_the_timestamp_key_alone_starts_only_its_number_again(ada: Holder, device: Follower) -> None:
    device.follow(publish(ada))
    before = ada.channel().roles().snapshot.version
    ada.must("key", "rotate", "staging", "timestamp")
    after = ada.channel().roles()
    assert (after.timestamp.version, after.snapshot.version) == (1, before + 1)
    device.follow(ada.channel().envelope())
    ada.must("key", "add", "staging", "timestamp")
    assert ada.channel().roles().timestamp.version == 2  # a key is added: nothing starts again
    device.follow(ada.channel().envelope())


def test_a_key_that_was_revoked_from_an_online_role_does_not_come_back(ada: Holder) -> None:
    ada.must("key", "rotate", "staging", "timestamp")
    assert "cannot come back" in ada.must("key", "add", "staging", "timestamp", "staging-timestamp", code=1)


# --- where keys lie --------------------------------------------------------------------------------------------------


def test_daily_work_needs_neither_root_nor_targets_keys_and_a_stick_brings_them_back(
    ada: Holder, device: Follower, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir(mode=0o700)
    for name in ("staging-root", "staging-root-2", "staging-root-3", "staging-targets"):
        shutil.move(ada.path / "keys" / f"{name}.pem", stick)
    device.follow(publish(ada, "1"))
    device.follow(ada.channel().refresh(keys=ada.keys, passphrase=PASSPHRASE))
    back = ada.channel().republish(1, pipeline="activity", keys=ada.keys, passphrase=PASSPHRASE)
    device.follow(back.envelope)
    refused = ada.must("key", "rotate", "staging", "release", code=1)
    assert "none of the keys that may change channel staging is here" in refused
    assert "--keys" in refused
    ada.must("key", "rotate", "staging", "release", "--keys", str(stick))
    ada.must("key", "rotate", "staging", "root", "staging-root", "--keys", str(stick))
    device.follow(publish(ada, "2"))
    assert (ada.path / "keys" / "staging-root-4.pem").exists()
    assert "mounted" in ada.must("key", "list", "--keys", str(tmp_path / "no stick"), code=2)


def test_a_refresh_works_with_a_key_directory_of_timestamp_and_snapshot_alone(ada: Holder, device: Follower) -> None:
    host = ada.colleague("host", "staging-timestamp", "staging-snapshot", take=False)
    assert sorted(one.name for one in (host.path / "keys").glob("*.pem")) == [
        "staging-snapshot.pem",
        "staging-timestamp.pem",
    ]
    before = ada.channel().roles().timestamp.version
    device.follow(host.channel().refresh(keys=host.keys, passphrase=PASSPHRASE))
    assert ada.channel().roles().timestamp.version == before + 1


def test_keys_may_come_from_the_environment(ada: Holder, device: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ada.colleague("runner")
    for role in ("release", "rollout", "snapshot", "timestamp"):
        pem = ada.path / "keys" / f"staging-{role}.pem"
        monkeypatch.setenv(f"FIELDCAST_KEY_STAGING_{role.upper()}", pem.read_text())
    assert [one.name for one in (runner.path / "keys").iterdir()] == ["staging.root.json"]
    device.follow(publish(runner))
    assert listed(runner, "release")["keys"][0]["here"]
    monkeypatch.setenv("FIELDCAST_KEY_STAGING_RELEASE", "rubbish")
    with pytest.raises(AuthorError, match=r"\$FIELDCAST_KEY_STAGING_RELEASE is damaged"):
        publish(runner)


def test_private_keys_are_closed_to_others_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = KeyStore(tmp_path / "keys")
        keys.create(["a"], "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((keys.directory / "a.pem").stat().st_mode) == 0o600
    assert b"ENCRYPTED" in (keys.directory / "a.pem").read_bytes()


# --- public halves ---------------------------------------------------------------------------------------------------


def test_a_colleague_makes_a_key_and_is_added_by_its_public_half(ada: Holder, device: Follower, tmp_path: Path) -> None:
    bob = ada.colleague("bob", "staging-rollout", "staging-snapshot", "staging-timestamp", take=False)
    out = tmp_path / "bob.pem"
    bob.must("key", "export", "bob", "--new", "--out", str(out))
    assert b"PRIVATE" not in out.read_bytes()
    assert ada.must("key", "add", "staging", "release", "--public", str(out))
    assert names(ada, "release") == ["staging-release", "bob"]
    assert [one["here"] for one in listed(bob, "release")["keys"]] == [False, True]
    device.follow(publish(bob, "by bob"))
    assert bob.must("key", "export", "bob") == out.read_text()
    assert ada("key", "export", "bob", FIELDCAST_PASSPHRASE=None).output == out.read_text()
    assert "exists already" in bob.must("key", "export", "bob", "--out", str(out), code=2)
    ada.must("key", "revoke", "staging", "release", "bob")
    device.follow(ada.channel().envelope())
    with pytest.raises(AuthorError, match="no key staging-release"):
        publish(bob, "again")


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "unknown channel": (["rotate", "nope", "release"], 2, "unknown channel 'nope'"),
    "unknown role": (["rotate", "staging", "relase"], 2, "unknown role 'relase'"),
    "which of three": (["rotate", "staging", "root"], 2, "has 3 keys: say which, of staging-root,"),
    "no such key": (["revoke", "staging", "release", "eve"], 2, "'eve' is not one key of role release"),
    "the last key": (["revoke", "staging", "release", "staging-release"], 1, "add another one first"),
    "another role's key": (["add", "staging", "release", "staging-rollout"], 1, "in force for role rollout"),
    "an operator with a role's key": (
        ["add", "staging", "operator", "staging-release", "--command", "ping"],
        1,
        "in force for role release",
    ),
    "an unknown command": (["add", "staging", "operator", "olga", "--command", "pign"], 2, "unknown command 'pign'"),
    "too few for the threshold": (["add", "staging", "release", "--threshold", "3"], 1, "2 keys and need 3"),
    "twice": (["add", "staging", "release", "staging-release"], 1, "in force for role release already"),
    "a private half": (["add", "staging", "release", "--public", "PRIVATE"], 1, "holds a private key"),
    "no key at all": (["add", "staging", "release", "--public", "RUBBISH"], 1, "no public key in PEM"),
    "an operator without scope": (["add", "staging", "operator", "olga"], 2, "at least one --command"),
    "a scope without operator": (["add", "staging", "release", "--command", "ping"], 2, "has no scope"),
    "no such operator": (["revoke", "staging", "operator", "olga"], 2, "there are none"),
    "an operator's rotation": (["rotate", "staging", "operator"], 2, "add another"),
    "nothing waits": (["sign", "staging"], 1, "nothing waits in channel staging"),
    "nothing to drop": (["sign", "staging", "--drop"], 1, "nothing waits in channel staging"),
    "a name that climbs": (["add", "staging", "release", "../x"], 2, "key name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_clear_line_and_changes_nothing(ada: Holder, tmp_path: Path, case: str) -> None:
    arguments, code, words = REFUSED[case]
    (tmp_path / "rubbish").write_text("rubbish")
    files = {"PRIVATE": str(ada.path / "keys/staging-root.pem"), "RUBBISH": str(tmp_path / "rubbish")}
    before = sorted(ada.path.rglob("*"))
    said = ada.must("key", *(files.get(one, one) for one in arguments), code=code)
    assert words in said
    assert "Traceback" not in said
    assert sorted(ada.path.rglob("*")) == before


def test_a_mistyped_passphrase_makes_no_key(ada: Holder) -> None:
    before = sorted((ada.path / "keys").iterdir())
    for arguments in (["add", "staging", "release"], ["export", "mine", "--new"], ["rotate", "staging", "rollout"]):
        done = ada("key", *arguments, FIELDCAST_PASSPHRASE="correct hrose")
        assert (done.exit_code, "wrong passphrase" in done.output) == (1, True)
    assert sorted((ada.path / "keys").iterdir()) == before


# --- operators -------------------------------------------------------------------------------------------------------


def test_operators_are_listed_signed_handed_out_and_revoked(ada: Holder, device: Follower) -> None:
    ada.must("key", "add", "staging", "operator", "olga", "--command", "ping", "--command", "rollback")
    (olga,) = device.follow(ada.channel().envelope()).operators
    key = ada.keys.signer("olga", PASSPHRASE).public_key
    assert (olga.name, olga.keyid, olga.scope) == ("olga", key.keyid, ["ping", "rollback"])
    assert olga.public == key.keyval["public"]
    assert listed(ada, "operator")["keys"][0]["scope"] == ["ping", "rollback"]
    assert "listed already" in ada.must("key", "add", "staging", "operator", "olga", "--command", "ping", code=1)
    ada.must("key", "revoke", "staging", "operator", "olga")
    assert device.follow(ada.channel().envelope()).operators == []
