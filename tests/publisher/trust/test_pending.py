"""A change that waits for a threshold: nothing of it is seen by devices until enough holders have signed it."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import AuthorError, StoreError, UpdateRejected
from edge_agent.update.verifier import answer
from publisher import uplink
from publisher.trust import keys as key_files
from publisher.trust import repository
from publisher.trust.pending import PendingShelf, unsigned
from publisher.trust.publication import Publication
from publisher.trust.repository import Channel
from publisher.trust.roles import parse, sign
from publisher.trust.signing import completed
from publisher.trust.waiting import Waiting
from tests.simulators.channel import sample_manifest
from tests.simulators.holder import PASSPHRASE, Follower, Holder

DAILY = ("staging-rollout", "staging-snapshot", "staging-timestamp")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ada holds one of two release keys and one of two root keys, Bob the others; both are needed."""
    directory = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_files, "_SCRYPT_N", 16)
        patch.setattr(repository, "verify", answer)
        ada = Holder.found(directory, "--root-keys", "2", "--root-threshold", "2")
        ada.must("key", "add", "staging", "release", "--threshold", "2")
        ada.must("channel", "add", "night", "--threshold", "2")
        bob = ada.colleague("bob", "staging-release-2", "staging-root-2")
        for name in DAILY:
            shutil.copy(ada.path / "keys" / f"{name}.pem", bob.path / "keys")
    return directory


@pytest.fixture
def ada(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holder:
    monkeypatch.setattr(repository, "verify", answer)
    monkeypatch.setattr(key_files, "_SCRYPT_N", 16)
    monkeypatch.setattr(uplink, "CONNECT_SECONDS", 0.3)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    bob = tmp_path / "bob" / "publisher.toml"
    bob.write_text(bob.read_text().replace(str(template), str(tmp_path)))
    return Holder(tmp_path / "ada")


@pytest.fixture
def bob(ada: Holder) -> Holder:
    return Holder(ada.path.with_name("bob"))


@pytest.fixture
def device(ada: Holder) -> Follower:
    follower = Follower(ada.channel().root())
    follower.follow(ada.channel().envelope())
    return follower


def publish(holder: Holder, marker: str = "1") -> bytes:
    manifest = sample_manifest("activity", marker)
    channel = holder.channel()
    published = channel.publish(
        manifest, pipeline="activity", keys=holder.keys, passphrase=PASSPHRASE, signer="ada", message="warmer"
    )
    return published.envelope


# --- two of two ------------------------------------------------------------------------------------------------------


def test_a_push_waits_for_the_second_release_key_and_is_published_by_its_holder(
    ada: Holder, bob: Holder, device: Follower
) -> None:
    before = ada.channel().envelope()
    with pytest.raises(Waiting, match=r"activity@1 by ada waits .* 1 more of staging-release-2: .*`publisher key sign"):
        publish(ada)
    assert ada.channel().envelope() == before
    assert ada.channel().releases() == []
    said = ada.must("key", "sign", "staging", "--yes", code=7)  # Ada alone gets no further
    assert "1 more of staging-release-2" in said
    assert "nobody is here to say yes" in bob.must("key", "sign", "staging", code=2)
    shown = bob.must("key", "sign", "staging", "--yes")
    assert "release activity@1: manifest sha256:" in shown
    assert "by ada, 'warmer'" in shown
    assert "offers activity@1 to 100 % of the fleet" in shown
    (info,) = device.follow(ada.channel().envelope()).releases
    assert info.name == "activity@1"
    assert "nothing waits" in bob.must("key", "sign", "staging", "--yes", code=1)


def test_devices_refuse_one_signature_of_two_and_accept_both(ada: Holder, bob: Holder, device: Follower) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    shelf = ada.channel()._shelf
    head = shelf.newest()
    pending = PendingShelf(ada.channel().record, "plant", "staging").newest()
    assert pending is not None
    signers = [
        holder.keys.signer(name, PASSPHRASE) for holder, name in ((ada, "staging-release"), (bob, "staging-release-2"))
    ]
    rollout = ada.keys.signer("staging-rollout", PASSPHRASE)

    def envelope(*releasers: object) -> bytes:
        roles = pending.roles(head).raised(("timestamp", "snapshot"), 2e9)
        files = {
            **head.files,
            "release": sign(roles.release, *releasers),
            "rollout": sign(roles.rollout, rollout),
        }
        online = {
            role: {one.public_key.keyid: one for one in [ada.keys.signer(f"staging-{role}", PASSPHRASE)]}
            for role in ("timestamp", "snapshot")
        }
        files = completed(roles, files, head.roots, online)
        documents = shelf.chosen(roles, {})
        return shelf.envelope(Publication(number=0, roles=roles, files=files, roots=head.roots, documents=documents))

    for alone in ([], signers[:1], signers[1:]):
        with pytest.raises(UpdateRejected, match="release"):
            device.follow(envelope(*alone))
    assert device.follow(envelope(*signers)).releases[0].name == "activity@1"


def test_a_root_change_waits_for_the_second_root_key(ada: Holder, bob: Holder, device: Follower) -> None:
    said = ada.must("key", "rotate", "staging", "targets", code=7)
    assert "root: 1 more of staging-root-2" in said
    device.follow(
        ada.channel().refresh(keys=ada.keys, passphrase=PASSPHRASE)
    )  # the timer's refresh does not disturb it
    shown = bob.must("key", "sign", "staging", "--yes")
    assert "targets: revokes key staging-targets (" in shown
    assert "targets: adds key staging-targets-2 (" in shown
    assert device.follow(ada.channel().envelope())
    assert ada.channel().roles().root.version == 2


def test_who_holds_no_online_key_signs_and_another_publishes(ada: Holder, bob: Holder, device: Follower) -> None:
    for name in DAILY:
        (bob.path / "keys" / f"{name}.pem").unlink()
    with pytest.raises(Waiting):
        publish(ada)
    said = bob.must("key", "sign", "staging", "--yes", code=7)
    assert "snapshot: 1 more of staging-snapshot" in said
    assert "release:" not in said
    ada.must("key", "sign", "staging", "--yes")
    assert device.follow(ada.channel().envelope()).releases


# --- one at a time, overtaken, dropped -------------------------------------------------------------------------------


def test_one_change_waits_at_a_time(ada: Holder, bob: Holder) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    with pytest.raises(AuthorError, match=r"another change waits in channel staging, made by ada.*--drop"):
        publish(ada, "2")
    assert "is dropped" in bob.must("key", "sign", "staging", "--drop")
    with pytest.raises(Waiting):
        publish(ada, "2")


def test_what_was_overtaken_is_refused_and_makes_room(ada: Holder, bob: Holder, device: Follower) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    ada.must("key", "revoke", "staging", "release", "staging-release-2", "--threshold", "1")
    publish(ada, "overtaking")
    said = bob.must("key", "sign", "staging", "--yes", code=1)
    assert "overtaken" in said
    assert "--drop" in said
    ada.must("key", "add", "staging", "release", "bobs-own", "--threshold", "2")  # both keys are here: it need not wait
    (ada.path / "keys" / "bobs-own.pem").rename(bob.path / "keys" / "bobs-own.pem")
    with pytest.raises(Waiting):
        publish(ada, "next")
    bob.must("key", "sign", "staging", "--yes")
    assert [one.name for one in device.follow(ada.channel().envelope()).releases] == ["activity@1", "activity@2"]


# --- a record that lies ----------------------------------------------------------------------------------------------


def test_a_signature_that_somebody_made_up_is_as_good_as_none(ada: Holder, bob: Holder) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    keyid = bob.keys.signer("staging-release-2", PASSPHRASE).public_key.keyid
    channel = ada.channel()
    for text in ({"sig": "00" * 64}, {"no": "sig"}):
        path = f"channel/plant/staging/pending/1.release.{keyid}.json"
        (ada.path / "record" / path).unlink(missing_ok=True)
        channel.record.create(path, encode_json(text))
        assert "1 more of staging-release-2" in ada.must("key", "sign", "staging", "--yes", code=7)
    bob.must("key", "sign", "staging", "--yes")
    assert channel.releases()


def _planted(ada: Holder, **changes: object) -> None:
    """Change what waits behind its maker's back."""
    path = ada.path / "record/channel/plant/staging/pending/1.change.json"
    text = msgspec.json.decode(path.read_bytes())
    text.update(changes)
    path.write_bytes(encode_json(text))


def test_what_there_are_no_words_for_is_not_signed(ada: Holder, bob: Holder) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    head = ada.channel()._shelf.newest()
    release = copy.deepcopy(parse("release", unsigned(head.roles.release).encode()))
    release.version += 1
    release.unrecognized_fields["x-more"] = 1
    base = PendingShelf(ada.channel().record, "plant", "staging").newest()
    assert base is not None
    _planted(ada, roles={"release": unsigned(release)}, base={"release": base.change.base["release"]})
    assert "no words for" in bob.must("key", "sign", "staging", "--yes", code=1)
    release.unrecognized_fields.clear()
    release.version += 1
    _planted(ada, roles={"release": unsigned(release)}, base={"release": base.change.base["release"]})
    assert "no words for" in bob.must("key", "sign", "staging", "--yes", code=1)


def test_a_planted_change_is_told_as_it_is_and_not_as_it_says(ada: Holder, bob: Holder) -> None:
    said = ada.must("key", "add", "staging", "operator", "olga", "--command", "ping")
    assert "published" in said
    ada.must("key", "rotate", "staging", "root", "staging-root", code=7)
    _planted(ada, by="the boss, nothing to worry about")
    shown = bob.must("key", "sign", "staging", "--yes", code=0)
    assert "root: revokes key staging-root (" in shown
    assert "root: adds key staging-root-3 (" in shown
    assert "boss" not in shown


@pytest.mark.parametrize("changes", [{"format": 2}, {"roles": {"timestamp": "{}"}}, {"base": {}}, {"roles": 1}])
def test_a_damaged_change_is_one_clear_line_and_can_be_dropped(ada: Holder, changes: dict[str, object]) -> None:
    with pytest.raises(Waiting):
        publish(ada)
    _planted(ada, **changes)
    with pytest.raises(StoreError, match="--drop"):
        ada.channel().waiting(ada.keys)
    assert "--drop" in ada.must("key", "sign", "staging", "--yes", code=1)
    ada.must("key", "sign", "staging", "--drop")
    assert ada.channel().waiting(ada.keys) is None


# --- channels --------------------------------------------------------------------------------------------------------


def test_a_channel_is_added_with_its_own_keys_history_and_threshold(ada: Holder) -> None:
    night = ada.channel("night")
    assert night.root() == (ada.path / "device" / "night.root.json").read_bytes()
    follower = Follower(night.root(), "night")
    assert follower.follow(night.envelope()).releases == []
    assert "2 of 2" in ada.must("key", "list", "night")
    assert not {*night.roles().root.keys} & {*ada.channel().roles().root.keys}
    # With both keys in one directory nothing waits.
    manifest = sample_manifest("activity", "1")
    done = night.publish(manifest, pipeline="activity", keys=ada.keys, passphrase=PASSPHRASE)
    assert follower.follow(done.envelope).releases


def test_adding_a_channel_keeps_the_rest_of_the_configuration(ada: Holder) -> None:
    file = ada.path / "publisher.toml"
    file.write_text(
        "# ours\n" + file.read_text().replace('["staging", "night"]', '[\n  "staging",  # tried\n  "night",\n]')
    )
    ada.must("channel", "add", "dawn")
    text = file.read_text()
    assert text.startswith("# ours\n")
    assert 'channels = ["staging", "night", "dawn"]' in text
    assert "has a channel dawn already" in ada.must("channel", "add", "dawn", code=2)
    assert "channel name" in ada.must("channel", "add", "a/b", code=2)
    assert "at least as many keys" in ada.must("channel", "add", "x", "--threshold", "3", "--release-keys", "2", code=2)


def test_a_channel_whose_addition_was_interrupted_is_taken_up(ada: Holder) -> None:
    file = ada.path / "publisher.toml"
    before = file.read_text()
    ada.must("channel", "add", "dawn")
    file.write_text(before)
    (ada.path / "device" / "dawn.root.json").unlink()
    ada.must("channel", "add", "dawn")
    assert isinstance(ada.channel("dawn"), Channel)
    assert (ada.path / "device" / "dawn.root.json").read_bytes() == ada.channel("dawn").root()


def test_a_configuration_written_in_an_unusual_way_is_left_to_its_owner(ada: Holder) -> None:
    file = ada.path / "publisher.toml"
    file.write_text(file.read_text().replace("channels =", '"channels" ='))
    before = file.read_text()
    assert 'write there channels = ["staging", "night", "dawn"]' in ada.must("channel", "add", "dawn", code=2)
    assert file.read_text() == before
