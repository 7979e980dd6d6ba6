"""One history: what is committed is complete and acceptable to devices, everything else is invisible."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import AuthorError, ConfigError, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.messages import Rollout, decode_envelope
from edge_agent.contract.verification import Request, Verified
from edge_agent.update.verifier import answer
from publisher.trust import repository, roles, verification
from publisher.trust.creation import create_channel
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel, Conflict, Published, Record
from tests.simulators.channel import DAY_SECONDS, ChannelSimulator, sample_manifest

PASS = "correct horse"
ROOT = Path(__file__).parents[3]


class Desk:
    """A workstation: a record, a key directory and one channel."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record = Record(directory / "record")
        self.keys = KeyStore(directory / "keys")
        self.channel = Channel(self.record, "plant", "staging")

    def create(self, **fields: Any) -> Desk:
        create_channel(self.record, self.keys, "plant", "staging", PASS, **fields)
        return self

    def publish(self, marker: str = "1", pipeline: str = "activity", **fields: Any) -> Published:
        manifest = sample_manifest(pipeline, marker)
        return self.channel.publish(manifest, pipeline=pipeline, keys=self.keys, passphrase=PASS, **fields)

    def device(self, envelope: bytes, accepted: bytes | None = None, now: float | None = None) -> Verified:
        """What a device of this channel makes of an envelope."""
        return answer(
            Request(
                fleet="plant",
                channel="staging",
                now=time.time() if now is None else now,
                root=self.channel.root(),
                envelope=envelope,
                accepted=accepted,
            )
        )

    def files(self) -> dict[str, bytes]:
        root = self.directory / "record"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel with two releases, made once; each test works on a copy."""
    desk = Desk(tmp_path_factory.mktemp("desk")).create()
    desk.publish("1", tag="v1", message="first", commit="abc", signer="ada", dirty=True)
    desk.publish("2")
    return desk.directory


@pytest.fixture
def desk(template: Path, tmp_path: Path) -> Desk:
    shutil.copytree(template, tmp_path / "desk")
    return Desk(tmp_path / "desk")


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the very verifier code without a process of its own, 0.3 s each; `by_process` tests run it as in earnest."""
    monkeypatch.setattr(repository, "verify", answer)


@pytest.fixture
def by_process(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "verify", verification.verify)


# --- create ----------------------------------------------------------------------------------------------------------


def test_a_new_channel_is_empty_and_devices_accept_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert not desk.channel.exists()
    desk.create()
    assert desk.channel.exists()
    verified = desk.device(desk.channel.envelope())
    assert (verified.releases, verified.rollouts) == ([], [])
    assert desk.channel.releases() == []
    assert desk.channel.current() == {}
    assert desk.keys.pinned("staging") == desk.channel.root()


def test_an_existing_channel_is_not_created_again(desk: Desk) -> None:
    before = desk.files()
    with pytest.raises(AuthorError, match="exists already"):
        desk.create()
    assert desk.files() == before


@pytest.mark.usefixtures("keys_at_full_cost")
def test_creating_is_quick_enough_for_a_person(tmp_path: Path) -> None:
    begun = time.process_time()
    Desk(tmp_path).create()
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize("lost", ["timestamp", "channel", "everything"])
def test_an_interrupted_creation_is_taken_up(tmp_path: Path, lost: str) -> None:
    desk = Desk(tmp_path).create()
    root = desk.channel.root()
    folder = tmp_path / "record"
    shutil.rmtree(
        {"timestamp": folder / "channel/plant/staging/timestamp", "channel": folder / "channel"}.get(lost, folder)
    )
    desk = Desk(tmp_path)
    assert not desk.channel.exists()
    desk.create(now=time.time() + 60)
    assert desk.channel.root() == root
    desk.device(desk.publish().envelope)


def test_a_creation_interrupted_among_the_keys_is_taken_up(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.keys.create(["staging-root", "staging-snapshot"], PASS)
    desk.create()
    desk.device(desk.publish().envelope)


def test_a_creation_taken_up_with_another_passphrase_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.keys.create(["staging-root"], "another")
    with pytest.raises(AuthorError, match="wrong passphrase"):
        desk.create()
    assert not desk.keys.has("staging-release")


def test_a_creation_begun_with_other_keys_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path).create()
    shutil.rmtree(tmp_path / "record/channel/plant/staging/timestamp")
    other = KeyStore(tmp_path / "other keys")
    with pytest.raises(AuthorError, match="other keys"):
        create_channel(desk.record, other, "plant", "staging", PASS)


def test_keys_of_another_fleet_are_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path).create()
    with pytest.raises(AuthorError, match="another fleet"):
        create_channel(Record(tmp_path / "record 2"), desk.keys, "other", "staging", PASS)


def test_an_unknown_channel_is_one_clear_line(desk: Desk) -> None:
    channel = Channel(desk.record, "plant", "stagign")
    for read in (channel.envelope, channel.root, channel.releases):
        with pytest.raises(ConfigError, match=r"channel stagign of fleet plant is not in .*publisher init"):
            read()


# --- publish ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_process")
def test_what_is_published_is_what_devices_accept(desk: Desk) -> None:
    before = desk.channel.envelope()
    published = desk.publish("3", tag="v3", message="späß\n🌱", commit="def", signer="bob")
    verified = desk.device(published.envelope, accepted=before)
    assert published.info == verified.releases[-1]
    assert (published.info.name, published.info.tag, published.info.message) == ("activity@3", "v3", "späß\n🌱")
    assert published.info.published == pytest.approx(time.time(), abs=60)
    assert [(one.candidate, one.stable, one.percent) for one in verified.rollouts] == [(3, 2, 100.0)]
    assert verified.manifests[str(published.info.digest)] == sample_manifest(marker="3")
    assert len(verified.manifests) == 2
    assert verified.timestamp_expires_at == pytest.approx(time.time() + 14 * DAY_SECONDS, abs=60)
    assert desk.channel.expiries()["release"] == pytest.approx(time.time() + 365 * DAY_SECONDS, abs=60)


def test_the_record_gives_back_what_was_published(desk: Desk) -> None:
    published = desk.publish("3")
    again = Desk(desk.directory).channel
    assert again.envelope() == published.envelope
    assert [info.name for info in again.releases()] == ["activity@1", "activity@2", "activity@3"]
    first = again.releases()[0]
    assert (first.tag, first.message, first.commit, first.signer, first.dirty) == ("v1", "first", "abc", "ada", True)
    assert again.manifest(first.digest) == sample_manifest(marker="1")
    rollout, info = again.current()["activity"]
    assert (rollout.candidate, info) == (3, published.info)


def test_a_second_pipeline_has_sequences_of_its_own(desk: Desk) -> None:
    published = desk.publish("1", pipeline="other")
    assert published.info.name == "other@1"
    assert {name: info.name for name, (_, info) in desk.channel.current().items()} == {
        "activity": "activity@2",
        "other": "other@1",
    }
    assert len(desk.device(published.envelope).manifests) == 3


def test_a_rollback_offers_the_old_manifest_under_a_new_sequence(desk: Desk) -> None:
    desk.publish("3")
    back = desk.channel.republish(1, pipeline="activity", keys=desk.keys, passphrase=PASS, signer="ada")
    assert (back.info.name, back.info.message, back.info.commit) == ("activity@4", "back to activity@1", "abc")
    assert back.info.digest == Digest.of(sample_manifest(marker="1"))
    verified = desk.device(back.envelope)
    assert [(one.candidate, one.stable) for one in verified.rollouts] == [(4, 1)]
    assert list(verified.manifests) == [str(back.info.digest)]


def test_a_rollback_to_what_is_not_listed_is_refused(desk: Desk) -> None:
    with pytest.raises(AuthorError, match="activity@9 is not among"):
        desk.channel.republish(9, pipeline="activity", keys=desk.keys, passphrase=PASS)


def test_a_refresh_needs_only_the_online_keys_and_revives_an_expired_channel(desk: Desk, tmp_path: Path) -> None:
    always_on = KeyStore(tmp_path / "always on")
    always_on.pin("staging", desk.channel.root())
    for role in ("timestamp", "snapshot"):
        shutil.copy(desk.keys.directory / f"staging-{role}.pem", always_on.directory)
    before = desk.channel.envelope()
    late = time.time() + 30 * DAY_SECONDS
    with pytest.raises(UpdateRejected, match="publisher refresh"):
        desk.device(before, now=late)
    envelope = desk.channel.refresh(keys=always_on, passphrase=PASS, now=late)
    verified = desk.device(envelope, accepted=before, now=late)
    assert verified.timestamp_expires_at == pytest.approx(late + 14 * DAY_SECONDS, abs=2)
    assert [info.name for info in verified.releases] == ["activity@1", "activity@2"]
    with pytest.raises(AuthorError, match="no key staging-release"):
        desk.channel.publish(sample_manifest(), pipeline="activity", keys=always_on, passphrase=PASS)


def test_an_expired_channel_can_be_published_to(desk: Desk) -> None:
    late = time.time() + 30 * DAY_SECONDS
    assert desk.device(desk.publish("3", now=late).envelope, now=late).releases


def test_a_refresh_cannot_hide_that_another_role_expired(desk: Desk) -> None:
    with pytest.raises(UpdateRejected) as caught:
        desk.channel.refresh(keys=desk.keys, passphrase=PASS, now=time.time() + 400 * DAY_SECONDS)
    assert caught.value.reasons[0].code is ReasonCode.EXPIRED


def test_the_last_releases_stay_listed_and_the_chosen_ones_always(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert roles.RELEASES_LISTED == 50
    monkeypatch.setattr(roles, "RELEASES_LISTED", 3)
    for number in range(3, 7):
        desk.publish(str(number))
    assert [info.sequence for info in desk.channel.releases()] == [4, 5, 6]
    desk.channel.republish(4, pipeline="activity", keys=desk.keys, passphrase=PASS)
    assert [info.sequence for info in desk.channel.releases()] == [4, 5, 6, 7]
    assert desk.channel.current()["activity"][0].stable == 4
    desk.device(desk.channel.envelope())


def test_stable_skips_what_was_aborted_or_not_offered_to_all(desk: Desk) -> None:
    rollout, info = desk.channel.current()["activity"]
    stable = repository._stable
    assert stable(None) is None
    assert stable((rollout, info)) == 2
    assert stable((msgspec.structs.replace(rollout, aborted=True), info)) == 1
    assert stable((msgspec.structs.replace(rollout, percent=5.0), info)) == 1


# --- refused before anything is visible ------------------------------------------------------------------------------


def _unchanged(desk: Desk, before: bytes) -> None:
    assert Desk(desk.directory).channel.envelope() == before


def test_a_manifest_of_another_pipeline_is_refused(desk: Desk) -> None:
    files = desk.files()
    with pytest.raises(AuthorError, match="not of pipeline other"):
        desk.channel.publish(sample_manifest(), pipeline="other", keys=desk.keys, passphrase=PASS)
    with pytest.raises(UpdateRejected, match="manifest"):
        desk.channel.publish(b"{}", pipeline="other", keys=desk.keys, passphrase=PASS)
    assert desk.files() == files


def test_a_wrong_passphrase_changes_nothing(desk: Desk) -> None:
    files = desk.files()
    with pytest.raises(AuthorError, match="wrong passphrase"):
        desk.channel.publish(sample_manifest(), pipeline="activity", keys=desk.keys, passphrase="wrong")
    assert desk.files() == files


def test_text_that_is_no_unicode_changes_nothing(desk: Desk) -> None:
    files = desk.files()
    with pytest.raises(AuthorError, match="not valid Unicode"):
        desk.publish("3", message="\udcff")
    assert desk.files() == files


def test_an_envelope_beyond_its_bound_changes_nothing(desk: Desk) -> None:
    files = desk.files()
    with pytest.raises(AuthorError, match="shorter messages"):
        desk.publish("3", message="x" * 1_100_000)
    assert desk.files() == files


def test_a_key_that_is_not_in_force_is_refused(desk: Desk, tmp_path: Path) -> None:
    impostor = KeyStore(tmp_path / "impostor")
    impostor.create([f"staging-{role}" for role in ("release", "rollout", "snapshot", "timestamp")], PASS)
    impostor.pin("staging", desk.channel.root())
    files = desk.files()
    with pytest.raises(AuthorError, match=r"staging-release is not .* in force"):
        desk.channel.publish(sample_manifest(), pipeline="activity", keys=impostor, passphrase=PASS)
    assert desk.files() == files


@pytest.mark.usefixtures("by_process")
def test_what_a_device_would_refuse_is_not_committed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.channel.envelope()
    monkeypatch.setattr(repository, "Rollout", lambda **fields: Rollout(**{**fields, "stable": 9}))
    with pytest.raises(UpdateRejected, match="activity@9, which `release` does not sign"):
        desk.publish("3")
    _unchanged(desk, before)


def test_a_workstation_without_the_pinned_root_does_not_sign(desk: Desk) -> None:
    (desk.keys.directory / "staging.root.json").unlink()
    with pytest.raises(AuthorError, match=r"staging\.root\.json"):
        desk.publish("3")


@pytest.mark.usefixtures("by_process")
def test_a_verifier_that_fails_is_not_a_yes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.channel.envelope()
    monkeypatch.setattr(verification, "verifier_command", lambda *_: ["false"])
    with pytest.raises(StoreError, match="could not judge"):
        desk.publish("3")
    monkeypatch.setattr(verification, "verifier_command", lambda *_: ["true"])
    with pytest.raises(StoreError, match="no verdict"):
        desk.publish("3")
    _unchanged(desk, before)


# --- a record that lies or is damaged --------------------------------------------------------------------------------


def _plant(desk: Desk, simulator: ChannelSimulator) -> None:
    """Write a foreign channel's newest state into the record, as someone with access to its disk would."""
    envelope = decode_envelope(simulator.envelope())
    folder = desk.directory / "record/channel/plant/staging"
    for path in folder.rglob("*.json"):
        path.unlink()
    for name, data in envelope.metadata.items():
        if name.endswith("root.json"):
            (folder / "root" / name.replace(".root", "")).write_bytes(data)
        elif name == "timestamp.json":
            (folder / "timestamp" / f"{simulator.timestamp.version}.json").write_bytes(data)
        else:
            desk.record.put_blob(data)
    for data in simulator.documents.values():
        desk.record.put_blob(data)


def test_a_planted_channel_that_names_our_key_gets_no_signature(desk: Desk) -> None:
    """Its root authorises our release key beside the attacker's: signing there would sign the attacker's release."""
    attacker = ChannelSimulator("plant", "staging")
    for role in ("release", "rollout", "snapshot", "timestamp"):
        ours = desk.keys.signer(f"staging-{role}", PASS).public_key
        owner = attacker.targets if role in ("release", "rollout") else attacker.root
        owner.add_key(ours, role)
    attacker.roots.clear()
    attacker.sign_root()
    attacker.release("activity", sample_manifest(marker="evil"))
    _plant(desk, attacker)
    assert [info.name for info in desk.channel.releases()] == ["activity@1"]
    for act in (lambda: desk.publish("3"), lambda: desk.channel.refresh(keys=desk.keys, passphrase=PASS)):
        with pytest.raises(UpdateRejected, match="not the root enrolled"):
            act()
    assert desk.channel._shelf.numbers() == [attacker.timestamp.version]


@pytest.mark.usefixtures("by_process")
def test_a_planted_release_list_gets_no_signature(desk: Desk) -> None:
    """The attacker keeps our roots and writes everything below anew, with keys of their own."""
    attacker = ChannelSimulator("plant", "staging")
    attacker.roots[:] = [desk.channel.root()]
    attacker.release("activity", sample_manifest(marker="evil"))
    _plant(desk, attacker)
    with pytest.raises(UpdateRejected, match="not signed by the keys in force"):
        desk.channel.republish(1, pipeline="activity", keys=desk.keys, passphrase=PASS)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"signed":{}}'], ids=["emptied", "cut", "hollow"])
def test_a_damaged_timestamp_is_one_clear_line_and_no_way_back(desk: Desk, damage: bytes) -> None:
    newest = max(desk.channel._shelf.numbers())
    (desk.directory / f"record/channel/plant/staging/timestamp/{newest}.json").write_bytes(damage)
    for act in (desk.channel.envelope, lambda: desk.publish("3")):
        with pytest.raises(StoreError, match=r"timestamp metadata .* damaged"):
            act()


def test_damaged_or_missing_files_below_are_named(desk: Desk) -> None:
    blobs = [path for path in (desk.directory / "record/blob").rglob("*") if path.is_file()]
    current = decode_envelope(desk.channel.envelope())
    needed = {Digest.of(data).hex for data in [*current.metadata.values(), *current.targets.values()]}
    hit = 0
    for path in blobs:
        if path.name in needed:
            hit += 1
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(StoreError, match=path.name):
                desk.channel.envelope()
            path.write_bytes(content)
    assert hit == 7  # snapshot, targets, release, rollout, the rollout document, two manifests


def test_another_roles_file_in_place_of_the_timestamp_is_refused(desk: Desk) -> None:
    newest = max(desk.channel._shelf.numbers())
    (desk.directory / f"record/channel/plant/staging/timestamp/{newest}.json").write_bytes(desk.channel.root())
    with pytest.raises(StoreError, match="root metadata where timestamp belongs"):
        desk.channel.envelope()


def test_an_unlisted_manifest_is_refused(desk: Desk) -> None:
    with pytest.raises(AuthorError, match="no release listed"):
        desk.channel.manifest(Digest.of(b"other"))


# --- two publishers, and one that is killed --------------------------------------------------------------------------


def test_of_two_concurrent_publishes_one_gets_conflict_and_nothing_of_it_is_visible(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = threading.Barrier(2, timeout=30)
    keep = repository.Shelf.keep

    def together(shelf: Any, publication: Any) -> None:
        meet.wait()
        keep(shelf, publication)

    monkeypatch.setattr(repository.Shelf, "keep", together)
    outcomes: dict[str, Published | Conflict] = {}

    def publish(marker: str) -> None:
        try:
            outcomes[marker] = Desk(desk.directory).publish(marker)
        except Conflict as error:
            outcomes[marker] = error

    threads = [threading.Thread(target=publish, args=(marker,)) for marker in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    monkeypatch.undo()
    (loser,) = [marker for marker, outcome in outcomes.items() if isinstance(outcome, Conflict)]
    (winner,) = [outcome for outcome in outcomes.values() if isinstance(outcome, Published)]
    channel = Desk(desk.directory).channel
    assert channel.envelope() == winner.envelope
    assert [info.name for info in channel.releases()] == ["activity@1", "activity@2", "activity@3"]
    again = Desk(desk.directory).publish(loser)
    assert again.info.name == "activity@4"
    desk.device(again.envelope, accepted=winner.envelope)


class _Killed(BaseException):
    """Ends a publisher where it stands, as SIGKILL would: no handler of ours runs."""


def test_a_publisher_killed_before_any_write_leaves_the_channel_as_it_was(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single write: the others see the old state, and publish without stumbling over the rest."""
    before = desk.channel.envelope()
    create = Record.create
    writes = 0
    for survives in range(20):
        writes = 0

        def counted(record: Record, path: str, data: bytes, survives: int = survives) -> None:
            nonlocal writes
            if writes == survives:
                raise _Killed
            writes += 1
            create(record, path, data)

        with monkeypatch.context() as patch:
            patch.setattr(Record, "create", counted)
            try:
                desk.publish("3", now=time.time() + survives)
            except _Killed:
                _unchanged(desk, before)
                continue
        break
    assert survives == writes >= 6
    after = desk.publish("4")
    assert after.info.name == "activity@4"
    desk.device(after.envelope, accepted=before)


PUBLISH_FOR_EVER = """\
import sys
from itertools import count
from edge_agent.update.verifier import answer
from publisher.trust import repository
from publisher.trust.keys import KeyStore
from tests.simulators.channel import sample_manifest
directory, passphrase = sys.argv[1:]
repository.verify = answer
channel = repository.Channel(repository.Record(directory + "/record"), "plant", "staging")
keys = KeyStore(directory + "/keys")
for marker in count():
    manifest = sample_manifest(marker=f"killed {marker}")
    channel.publish(manifest, pipeline="activity", keys=keys, passphrase=passphrase)
"""


def test_a_publisher_killed_at_a_random_moment_leaves_a_channel_that_works(desk: Desk) -> None:
    accepted = desk.channel.envelope()
    for _ in range(3):
        number = max(desk.channel._shelf.numbers())
        command = [sys.executable, "-c", PUBLISH_FOR_EVER, str(desk.directory), PASS]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(desk.directory)}
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            deadline = time.monotonic() + 30
            while max(desk.channel._shelf.numbers()) == number and time.monotonic() < deadline:
                time.sleep(0.005)
            # Not a wait for a condition: the moment of death is what varies.
            time.sleep(random.uniform(0, 0.25))
            process.kill()
        envelope = Desk(desk.directory).channel.envelope()
        assert max(desk.channel._shelf.numbers()) > number
        desk.device(envelope, accepted=accepted)
        accepted = envelope
    published = Desk(desk.directory).publish("after")
    desk.device(published.envelope, accepted=accepted)
