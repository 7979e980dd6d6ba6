"""Every attack and accident that an envelope can bring, against the verifier's own code, each by its name."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile
from tuf.ngclient import Updater

from edge_agent.contract.digest import Digest, encode_json
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.messages import release_path, rollout_path
from edge_agent.contract.verification import Request, Verified
from edge_agent.update import walk
from edge_agent.update.verifier import answer
from tests.simulators.channel import DAY_SECONDS, ChannelSimulator, sample_manifest, with_floors


@pytest.fixture
def channel() -> ChannelSimulator:
    """A channel with two releases of one pipeline."""
    simulator = ChannelSimulator("plant", "staging")
    simulator.release("activity", sample_manifest(marker="1"))
    simulator.release("activity", sample_manifest(marker="2"))
    return simulator


def refused(request: Request, code: ReasonCode, *words: str) -> UpdateRejected:
    """The request is refused for exactly this kind of reason, in these words, and no release is blamed."""
    with pytest.raises(UpdateRejected) as caught:
        answer(request)
    assert {reason.code for reason in caught.value.reasons} == {code}, str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert all(reason.blame is Blame.ENVIRONMENT for reason in caught.value.reasons)
    return caught.value


# --- what is good ----------------------------------------------------------------------------------------------------


def test_a_channel_without_releases_is_accepted() -> None:
    verified = answer(ChannelSimulator().request())
    assert (verified.releases, verified.rollouts, verified.manifests) == ([], [], {})


def test_a_verdict_carries_what_was_signed_and_only_the_chosen_manifests(channel: ChannelSimulator) -> None:
    third = channel.release("activity", sample_manifest(marker="3"), message="with späß 🌱", dirty=True)
    channel.release("other", sample_manifest("other"))
    verified = answer(channel.request())
    assert [info.name for info in verified.releases] == ["activity@1", "activity@2", "activity@3", "other@1"]
    assert third in verified.releases
    assert [(one.pipeline, one.candidate, one.stable) for one in verified.rollouts] == [
        ("activity", 3, 2),
        ("other", 1, None),
    ]
    assert verified.manifests == {
        str(Digest.of(data)): data
        for data in (sample_manifest(marker="2"), sample_manifest(marker="3"), sample_manifest("other"))
    }
    assert verified.timestamp_expires_at == pytest.approx(channel.now + 14 * DAY_SECONDS, abs=1)
    assert verified.expires_at == verified.timestamp_expires_at
    assert {floor.role: floor.version for floor in verified.floors} == {
        "root": 1, "timestamp": 5, "snapshot": 5, "targets": 1, "release": 5, "rollout": 5
    }  # fmt: skip


def test_the_earliest_expiry_of_any_role_counts(channel: ChannelSimulator) -> None:
    channel.delegated["release"].expires = channel.after(3)
    verified = answer(channel.request())
    assert verified.expires_at == pytest.approx(channel.now + 3 * DAY_SECONDS, abs=1)
    assert verified.timestamp_expires_at == pytest.approx(channel.now + 14 * DAY_SECONDS, abs=1)


def test_the_same_envelope_again_is_accepted(channel: ChannelSimulator) -> None:
    request = channel.request()
    first = answer(request)
    again = msgspec.structs.replace(with_floors(request, first.floors), accepted=request.envelope)
    assert answer(again) == first


def test_a_refresh_is_accepted_after_the_accepted_envelope(channel: ChannelSimulator) -> None:
    before = channel.envelope()
    floors = answer(channel.request()).floors
    channel.refresh()
    verified = answer(with_floors(channel.request(accepted=before), floors))
    assert {floor.role: floor.version for floor in verified.floors}["timestamp"] == 4


def test_two_pipelines_may_share_a_manifest_digest_under_new_sequences(channel: ChannelSimulator) -> None:
    channel.release("activity", sample_manifest(marker="1"))
    assert len(answer(channel.request()).manifests) == 2


def test_a_device_enrolled_with_a_later_root_follows_from_there(channel: ChannelSimulator) -> None:
    channel.rotate("timestamp")
    assert answer(channel.request(root=channel.roots[1])).releases


# --- arbitrary software ----------------------------------------------------------------------------------------------


def _foreign_keys(channel: ChannelSimulator, role: str) -> None:
    channel.keys[role] = [CryptoSigner.generate_ed25519()]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "release", "rollout"])
def test_arbitrary_software_a_role_signed_by_a_foreign_key_is_refused(channel: ChannelSimulator, role: str) -> None:
    _foreign_keys(channel, role)
    refused(channel.request(), ReasonCode.SIGNATURE, role, "not signed by the keys in force")


def test_arbitrary_software_a_foreign_channel_of_the_same_name_is_refused(channel: ChannelSimulator) -> None:
    impostor = ChannelSimulator("plant", "staging")
    impostor.release()
    refused(channel.request(envelope=impostor.envelope()), ReasonCode.SIGNATURE, "1.root.json", "other key holders")


def test_arbitrary_software_a_foreign_chain_without_its_first_root_is_refused(channel: ChannelSimulator) -> None:
    impostor = ChannelSimulator("plant", "staging")
    impostor.release()
    envelope = impostor.envelope(lambda parts: parts["metadata"].update({"1.root.json": channel.bootstrap}))
    refused(channel.request(envelope=envelope), ReasonCode.SIGNATURE, "timestamp")


def test_arbitrary_software_an_unsigned_manifest_that_rides_along_is_refused(channel: ChannelSimulator) -> None:
    def ride(parts: dict) -> None:
        parts["targets"][release_path("activity", 9)] = sample_manifest(marker="evil")

    refused(channel.request(ride), ReasonCode.SIGNATURE, "activity@9", "nobody signed it")


@pytest.mark.parametrize("sequence", [1, 2], ids=["stable", "candidate"])
def test_altered_manifest_is_refused(channel: ChannelSimulator, sequence: int) -> None:
    path = release_path("activity", sequence)

    def alter(parts: dict) -> None:
        parts["targets"][path] = parts["targets"][path].replace(b"window", b"widnow")

    error = refused(channel.request(alter), ReasonCode.SIGNATURE, path, "altered on the way")
    assert error.reasons[0].where == f"$.targets.{path}"


def test_a_manifest_longer_than_signed_is_refused(channel: ChannelSimulator) -> None:
    path = release_path("activity", 2)
    refused(
        channel.request(lambda parts: parts["targets"].update({path: parts["targets"][path] + b" "})),
        ReasonCode.SIGNATURE,
        path,
    )
    refused(channel.request(lambda parts: parts["targets"].update({path: bytes(300_000)})), ReasonCode.SIZE, path)


def test_a_signed_manifest_or_rollout_beyond_its_bound_is_refused(channel: ChannelSimulator) -> None:
    channel.release("activity", bytes(256 * 1024 + 1))
    error = refused(channel.request(), ReasonCode.SIZE)
    assert len(error.reasons) == 2  # by what is signed, and by what is there
    channel.release("activity", sample_manifest(marker="4"))
    channel.sign_target("rollout", rollout_path("activity"), b" " * (16 * 1024 + 1))
    assert "rollout/activity" in str(refused(channel.request(), ReasonCode.SIZE))


def test_a_release_whose_digest_is_no_digest_is_refused(channel: ChannelSimulator) -> None:
    for digest in ("sha256:short", 7):
        custom = {**msgspec.to_builtins(channel.releases["activity", 1], enc_hook=str), "digest": digest}
        channel.sign_target("release", release_path("activity", 1), sample_manifest(marker="1"), custom=custom)
        with pytest.raises(UpdateRejected, match=r"malformed: release: .*at `\$.digest`"):
            answer(channel.request())


def test_an_altered_rollout_is_refused(channel: ChannelSimulator) -> None:
    path = rollout_path("activity")

    def alter(parts: dict) -> None:
        parts["targets"][path] = parts["targets"][path].replace(b'"stable":1', b'"stable":2')

    refused(channel.request(alter), ReasonCode.SIGNATURE, path)


@pytest.mark.parametrize("path", [rollout_path("activity"), release_path("activity", 1), release_path("activity", 2)])
def test_a_missing_document_is_refused(channel: ChannelSimulator, path: str) -> None:
    refused(channel.request(lambda parts: parts["targets"].pop(path)), ReasonCode.MALFORMED, path, "missing")


def test_a_stolen_rollout_key_cannot_choose_an_unsigned_release(channel: ChannelSimulator) -> None:
    channel.choose("activity", 7, stable=1)
    error = refused(channel.request(), ReasonCode.SIGNATURE, "activity@7", "`release` does not sign")
    assert error.reasons[0].where == "$.targets.rollout/activity.candidate"


def test_a_stolen_rollout_key_cannot_choose_an_unsigned_stable(channel: ChannelSimulator) -> None:
    channel.choose("activity", 2, stable=9)
    refused(channel.request(), ReasonCode.SIGNATURE, "activity@9")


def test_a_stolen_rollout_key_cannot_choose_another_pipelines_release(channel: ChannelSimulator) -> None:
    channel.choose("other", 2)
    refused(channel.request(), ReasonCode.SIGNATURE, "other@2")


def test_a_stolen_rollout_key_cannot_sign_a_release(channel: ChannelSimulator) -> None:
    evil = sample_manifest(marker="evil")
    channel.sign_target("rollout", release_path("activity", 3), evil)
    with pytest.raises(UpdateRejected):
        answer(channel.request(lambda parts: parts["targets"].update({release_path("activity", 3): evil})))


# --- rollback and freeze ---------------------------------------------------------------------------------------------


def test_rollback_a_replayed_older_envelope_is_refused(channel: ChannelSimulator) -> None:
    old = channel.envelope()
    channel.release("activity", sample_manifest(marker="3"))
    refused(channel.request(envelope=old, accepted=channel.envelope()), ReasonCode.OLDER)


def _accepted_bytes(kind: str, envelope: bytes) -> bytes | None:
    return {
        "lost": None,
        "empty": b"",
        "truncated": envelope[: len(envelope) // 2],
        "garbage": random.Random(1).randbytes(len(envelope)),
    }[kind]


@pytest.mark.parametrize("kind", ["lost", "empty", "truncated", "garbage"])
def test_rollback_is_refused_by_the_floors_when_the_accepted_envelope_is(channel: ChannelSimulator, kind: str) -> None:
    old = channel.envelope()
    channel.release("activity", sample_manifest(marker="3"))
    floors = answer(channel.request()).floors
    accepted = _accepted_bytes(kind, channel.envelope())
    error = refused(with_floors(channel.request(envelope=old, accepted=accepted), floors), ReasonCode.OLDER)
    assert {reason.where for reason in error.reasons} == {"timestamp", "snapshot", "release", "rollout"}


@pytest.mark.parametrize("kind", ["lost", "empty", "truncated", "garbage"])
def test_a_newer_envelope_is_accepted_even_if_the_accepted_one_is(channel: ChannelSimulator, kind: str) -> None:
    accepted, floors = _accepted_bytes(kind, channel.envelope()), answer(channel.request()).floors
    channel.release("activity", sample_manifest(marker="3"))
    assert len(answer(with_floors(channel.request(accepted=accepted), floors)).releases) == 3


def test_rollback_is_refused_after_an_accepted_envelope_with_emptied_files(channel: ChannelSimulator) -> None:
    """The trap that TUF's own cache falls into: an emptied timestamp and snapshot let older metadata in."""
    old = channel.envelope()
    channel.release("activity", sample_manifest(marker="3"))
    floors = answer(channel.request()).floors

    def empty(parts: dict) -> None:
        for name in parts["metadata"]:
            parts["metadata"][name] = b""

    refused(with_floors(channel.request(envelope=old, accepted=channel.envelope(empty)), floors), ReasonCode.OLDER)


def test_rollback_without_floors_and_without_accepted_cannot_be_seen(channel: ChannelSimulator) -> None:
    """The other half of the claim: it is the floors, and nothing else, that refuse in the tests above."""
    old = channel.envelope()
    channel.release("activity", sample_manifest(marker="3"))
    assert answer(channel.request(envelope=old)).releases


def test_rollback_of_a_single_role_is_refused(channel: ChannelSimulator) -> None:
    """New timestamp and snapshot that name an old release list: whoever holds the online keys cannot do it."""
    old = {role: signed.version for role, signed in channel.delegated.items()}
    floors = answer(channel.request()).floors
    before = channel.envelope()
    for role in old:
        channel.delegated[role].version -= 1
    channel.bump()
    refused(channel.request(accepted=before), ReasonCode.OLDER)
    error = refused(with_floors(channel.request(), floors), ReasonCode.OLDER)
    assert {reason.where for reason in error.reasons} == {"release", "rollout"}


def test_an_accepted_envelope_with_strange_files_does_not_disturb(channel: ChannelSimulator) -> None:
    strange = channel.envelope(lambda parts: parts["metadata"].update({"../../evil.json": b"", "9.root.json": b"x"}))
    channel.bump()
    assert answer(channel.request(accepted=strange)).releases


def test_a_foreign_accepted_envelope_does_not_count(channel: ChannelSimulator) -> None:
    other = ChannelSimulator("plant", "production")
    for _ in range(9):
        other.release()
    assert answer(channel.request(accepted=other.envelope())).releases


def test_two_timestamps_of_one_version_are_refused(channel: ChannelSimulator) -> None:
    before = channel.envelope()
    channel.timestamp.expires = channel.after(20)
    refused(channel.request(accepted=before), ReasonCode.SIGNATURE, "two different timestamps")


@pytest.mark.parametrize(
    ("role", "remedy"),
    [
        ("timestamp", "run `publisher refresh`"),
        ("snapshot", "run `publisher refresh`"),
        ("targets", "holder of the targets key"),
        ("release", "push a release"),
        ("rollout", "push a release"),
    ],
)
def test_freeze_an_expired_role_is_refused_with_the_remedy(channel: ChannelSimulator, role: str, remedy: str) -> None:
    signed = channel.delegated.get(role) or getattr(channel, role)
    signed.expires = channel.after(-1)
    since = f"{signed.expires:%Y-%m-%d %H:%M}"
    error = refused(channel.request(), ReasonCode.EXPIRED, role, since, remedy)
    assert error.reasons[0].where == role


def test_freeze_an_expired_root_is_refused(channel: ChannelSimulator) -> None:
    channel.root.expires = channel.after(-1)
    channel.roots.clear()
    channel.sign_root()
    refused(channel.request(), ReasonCode.EXPIRED, "root key")


def test_freeze_the_accepted_envelope_itself_is_refused_once_it_is_expired(channel: ChannelSimulator) -> None:
    envelope = channel.envelope()
    late = channel.now + 15 * DAY_SECONDS
    refused(channel.request(envelope=envelope, accepted=envelope, now=late), ReasonCode.EXPIRED, "timestamp")


def test_an_expired_accepted_envelope_still_forbids_going_back(channel: ChannelSimulator) -> None:
    old = channel.envelope(lambda parts: None)
    channel.timestamp.expires = channel.after(60)
    replayed = channel.envelope()
    channel.refresh()
    accepted = channel.envelope()
    assert old != replayed
    late = channel.now + 30 * DAY_SECONDS
    refused(channel.request(envelope=replayed, accepted=accepted, now=late), ReasonCode.OLDER)


def test_expiry_is_judged_at_the_callers_now_and_not_by_the_machines_clock() -> None:
    past = ChannelSimulator(now=1_000_000_000.0)  # 2001: by the machine's clock long expired
    past.release()
    assert answer(past.request()).releases
    future = ChannelSimulator(now=3_000_000_000.0)  # 2065
    future.release()
    assert answer(future.request()).releases
    refused(future.request(now=3_000_000_000.0 + 20 * DAY_SECONDS), ReasonCode.EXPIRED)


def test_a_clock_at_1970_is_judged_as_the_caller_floors_it(channel: ChannelSimulator) -> None:
    """The caller passes max(clock, floor clock): with the floor expired metadata is refused, at bare 1970 it is not."""
    channel.timestamp.expires = channel.after(-1)
    refused(channel.request(now=max(0.0, channel.now)), ReasonCode.EXPIRED)
    assert answer(channel.request(now=0.0)).releases


def test_a_tuf_without_the_clock_hook_is_a_clear_failure(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Renamed(Updater):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            del self._trusted_set.reference_time

    monkeypatch.setattr(walk, "Updater", Renamed)
    with pytest.raises(StoreError, match="clock hook"):
        answer(channel.request())


def test_expiry_is_judged_even_if_the_hook_stops_working(
    channel: ChannelSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.timestamp.expires = channel.after(-1)

    def ignore(client: Updater, now: datetime) -> object:
        client._trusted_set.reference_time = datetime(1970, 1, 1, tzinfo=UTC)
        return client._trusted_set

    monkeypatch.setattr(walk, "set_clock", ignore)
    refused(channel.request(), ReasonCode.EXPIRED, "timestamp")


# --- mix and match ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets", "release", "rollout"])
def test_mix_and_match_an_older_role_file_under_the_new_name_is_refused(channel: ChannelSimulator, role: str) -> None:
    seen: dict[str, bytes] = {}
    channel.envelope(lambda parts: seen.update(parts["metadata"]))
    old = next(data for name, data in seen.items() if name.endswith(f".{role}.json"))
    channel.bump("targets", "release", "rollout")

    def mix(parts: dict) -> None:
        name = next(name for name in parts["metadata"] if name.endswith(f".{role}.json"))
        parts["metadata"][name] = old

    with pytest.raises(UpdateRejected) as caught:
        answer(channel.request(mix))
    assert {reason.code for reason in caught.value.reasons} <= {ReasonCode.SIGNATURE, ReasonCode.SIZE}


def test_mix_and_match_an_old_manifest_under_the_candidates_path_is_refused(channel: ChannelSimulator) -> None:
    def mix(parts: dict) -> None:
        parts["targets"][release_path("activity", 2)] = parts["targets"][release_path("activity", 1)]

    refused(channel.request(mix), ReasonCode.SIGNATURE)


# --- wrong channel ---------------------------------------------------------------------------------------------------


def test_wrong_channel_by_its_header_is_refused(channel: ChannelSimulator) -> None:
    refused(channel.request(channel="production"), ReasonCode.WRONG_CHANNEL, "'staging'", "'production'")
    refused(channel.request(fleet="other"), ReasonCode.WRONG_CHANNEL, "'plant'", "'other'")
    for header in ({"channel": "production"}, {"fleet": "other"}):
        request = channel.request(lambda parts, header=header: parts.update(header))
        refused(request, ReasonCode.WRONG_CHANNEL, "publish it where it belongs")


@pytest.mark.parametrize(("fleet", "name"), [("plant", "production"), ("other", "staging")])
def test_wrong_channel_with_a_forged_header_is_refused_by_what_is_signed(
    channel: ChannelSimulator, fleet: str, name: str
) -> None:
    """The device was enrolled with this channel's root under another name, and the header says what it wants."""
    request = channel.request(lambda parts: parts.update(fleet=fleet, channel=name), fleet=fleet, channel=name)
    error = refused(request, ReasonCode.WRONG_CHANNEL, "enrol the device with the right root")
    assert {reason.where for reason in error.reasons} == {"root.signed.x-fieldcast", "targets.signed.x-fieldcast"}


@pytest.mark.parametrize("field", ["fleet", "channel"])
def test_a_release_signed_for_another_channel_is_refused(channel: ChannelSimulator, field: str) -> None:
    channel.release("activity", sample_manifest(marker="3"), **{field: "elsewhere"})
    refused(channel.request(), ReasonCode.WRONG_CHANNEL, "release activity@3", "elsewhere")


@pytest.mark.parametrize("field", ["fleet", "channel"])
def test_a_rollout_signed_for_another_channel_is_refused(channel: ChannelSimulator, field: str) -> None:
    channel.choose("activity", 2, **{field: "elsewhere"})
    refused(channel.request(), ReasonCode.WRONG_CHANNEL, "rollout of activity", "elsewhere")


@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_role_that_does_not_name_its_channel_is_refused(channel: ChannelSimulator, role: str) -> None:
    getattr(channel, role).unrecognized_fields.clear()
    channel.roots.clear()
    channel.sign_root()
    refused(channel.request(), ReasonCode.MALFORMED, f"{role}.signed.x-fieldcast")


# --- keys: rotation, revocation, recovery ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "release", "rollout"])
def test_a_rotated_key_is_accepted_after_the_old_envelope(channel: ChannelSimulator, role: str) -> None:
    before, floors = channel.envelope(), answer(channel.request()).floors
    channel.rotate(role)
    if role == "targets":
        channel.bump("targets")
    if role in ("release", "rollout"):
        channel.bump(role)
    verified = answer(with_floors(channel.request(accepted=before), floors))
    names = {floor.role: floor.keyset for floor in verified.floors}
    assert {one.role for one in floors if names[one.role] != one.keyset} == {role}


def test_root_rotation_several_times_is_followed_from_the_first_root(channel: ChannelSimulator) -> None:
    for _ in range(3):
        channel.rotate("root", "timestamp", "snapshot")
    verified = answer(channel.request())
    assert {floor.role: floor.version for floor in verified.floors}["root"] == 4


def test_root_rotation_signed_only_by_the_new_keys_is_refused(channel: ChannelSimulator) -> None:
    channel.rotate("root")
    channel.roots.pop()
    channel.sign_root(channel.keys["root"])
    refused(channel.request(), ReasonCode.SIGNATURE, "root")


@pytest.mark.parametrize("missing", ["1.root.json", "2.root.json", "3.root.json"])
def test_a_chain_of_roots_with_a_gap_is_refused(channel: ChannelSimulator, missing: str) -> None:
    channel.rotate("root")
    channel.rotate("root")
    with pytest.raises(UpdateRejected):
        answer(channel.request(lambda parts: parts["metadata"].pop(missing), accepted=channel.envelope()))
    if missing != "3.root.json":  # a chain without its last root is a valid older chain: only history can tell
        refused(channel.request(lambda parts: parts["metadata"].pop(missing)), ReasonCode.MALFORMED, "chain")


def test_revoked_key_a_release_list_signed_by_it_is_refused(channel: ChannelSimulator) -> None:
    stolen = channel.keys["release"]
    channel.rotate("release")
    channel.keys["release"] = stolen
    channel.release("activity", sample_manifest(marker="evil"))
    refused(channel.request(), ReasonCode.SIGNATURE, "release")


@pytest.mark.parametrize("rotated", [("timestamp", "snapshot"), ("root", "timestamp", "snapshot")], ids="+".join)
@pytest.mark.parametrize("accepted", [True, False], ids=["accepted kept", "accepted lost"])
def test_revoked_key_the_chain_before_its_revocation_cannot_come_back(
    channel: ChannelSimulator, accepted: bool, rotated: tuple[str, ...]
) -> None:
    """With the old root the stolen online keys would be in force again, at any version they like."""
    before = ChannelSimulator.__new__(ChannelSimulator)
    before.__dict__ = {**channel.__dict__, "roots": list(channel.roots), "keys": dict(channel.keys)}
    floors = answer(channel.request()).floors
    channel.rotate(*rotated)
    floors = [*floors, *answer(channel.request()).floors]
    newest = channel.envelope()
    before.snapshot.version += 1000
    before.timestamp.version += 1000
    replayed = before.envelope()
    request = with_floors(channel.request(envelope=replayed, accepted=newest if accepted else None), floors)
    refused(request, ReasonCode.OLDER, "root")
    assert answer(msgspec.structs.replace(request, floors=[], accepted=None)).releases


def test_an_older_root_with_unrevoked_keys_is_refused_after_the_accepted_one(channel: ChannelSimulator) -> None:
    channel.rotate("root")
    accepted = channel.envelope()
    channel.bump()
    request = channel.request(lambda parts: parts["metadata"].pop("2.root.json"), accepted=accepted)
    refused(request, ReasonCode.OLDER, "root version 1")


def _fast_forward(channel: ChannelSimulator) -> tuple[bytes, Verified]:
    """Someone with the online keys and the release key raises the versions as high as they go; a device accepts."""
    for signed in (channel.timestamp, channel.snapshot, channel.delegated["release"]):
        signed.version = 2**31
    return channel.envelope(), answer(channel.request())


def test_fast_forward_blocks_the_channel_until_keys_are_rotated(channel: ChannelSimulator) -> None:
    true_versions = (channel.timestamp.version, channel.snapshot.version, channel.delegated["release"].version)
    accepted, verdict = _fast_forward(channel)
    channel.timestamp.version, channel.snapshot.version, channel.delegated["release"].version = true_versions
    channel.bump("release", "rollout")
    refused(channel.request(accepted=accepted), ReasonCode.OLDER)
    refused(with_floors(channel.request(), verdict.floors), ReasonCode.OLDER)


@pytest.mark.parametrize("lost", [False, True], ids=["accepted kept", "accepted lost"])
def test_fast_forward_is_recovered_from_by_root_rotation(channel: ChannelSimulator, lost: bool) -> None:
    true_versions = (channel.timestamp.version, channel.snapshot.version, channel.delegated["release"].version)
    accepted, verdict = _fast_forward(channel)
    channel.timestamp.version, channel.snapshot.version, channel.delegated["release"].version = true_versions
    channel.rotate("timestamp", "snapshot", "release")
    channel.bump("release", "rollout")
    request = with_floors(channel.request(accepted=None if lost else accepted), verdict.floors)
    recovered = answer(request)
    assert {floor.role: floor.version for floor in recovered.floors}["timestamp"] < 100


def test_a_floor_of_another_keyset_does_not_bind_except_for_root(channel: ChannelSimulator) -> None:
    floors = answer(channel.request()).floors
    other = [msgspec.structs.replace(floor, keyset="0" * 16, version=99) for floor in floors if floor.role != "root"]
    assert answer(with_floors(channel.request(), other)).releases
    root = [msgspec.structs.replace(floors[0], keyset="0" * 16, version=2)]
    refused(with_floors(channel.request(), root), ReasonCode.OLDER, "root")


# --- shapes ----------------------------------------------------------------------------------------------------------


def _delegations(channel: ChannelSimulator) -> dict[str, DelegatedRole]:
    assert channel.targets.delegations is not None
    assert channel.targets.delegations.roles is not None
    return channel.targets.delegations.roles


def _rename_role(channel: ChannelSimulator) -> None:
    roles = _delegations(channel)
    role = DelegatedRole("evil", roles["release"].keyids, 1, True, ["evil/*"])
    roles["evil"] = role


def _widen(channel: ChannelSimulator) -> None:
    _delegations(channel)["rollout"].paths = ["rollout/*", "release/*"]


def _not_terminating(channel: ChannelSimulator) -> None:
    _delegations(channel)["release"].terminating = False


def _drop_release(channel: ChannelSimulator) -> None:
    del _delegations(channel)["release"]


def _no_delegations(channel: ChannelSimulator) -> None:
    channel.targets.delegations = None


def _top_level_target(channel: ChannelSimulator) -> None:
    path = release_path("activity", 5)
    channel.targets.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])


def _shadow_the_probe(channel: ChannelSimulator) -> None:
    channel.targets.targets["release/-"] = TargetFile.from_data("release/-", b"x", ["sha256"])


def _nested(channel: ChannelSimulator) -> None:
    deeper = DelegatedRole("deeper", [], 1, True, ["elsewhere/*"])
    channel.delegated["release"].delegations = Delegations({}, {"deeper": deeper})
    channel.delegated["release"].add_key(channel.keys["release"][0].public_key, "deeper")


def _inconsistent(channel: ChannelSimulator) -> None:
    channel.root.consistent_snapshot = False
    channel.roots.clear()
    channel.sign_root()


def _foreign_path(channel: ChannelSimulator) -> None:
    data = channel.documents[release_path("activity", 1)]
    custom = msgspec.to_builtins(channel.releases["activity", 1], enc_hook=str)
    channel.sign_target("release", "release/activity@8", data, custom=custom)


def _no_custom(channel: ChannelSimulator) -> None:
    channel.sign_target("release", release_path("activity", 3), b"{}")


def _other_digest(channel: ChannelSimulator) -> None:
    channel.release("activity", sample_manifest(marker="3"), digest=Digest.of(b"other"))


def _odd_pipeline(channel: ChannelSimulator) -> None:
    info = msgspec.structs.replace(channel.releases["activity", 1], pipeline="a/../b", sequence=3)
    custom = msgspec.to_builtins(info, enc_hook=str)
    channel.sign_target("release", release_path("activity", 3), sample_manifest(marker="1"), custom=custom)


def _rollout_not_json(channel: ChannelSimulator) -> None:
    channel.sign_target("rollout", rollout_path("activity"), b"{nonsense")


def _rollout_other_path(channel: ChannelSimulator) -> None:
    channel.sign_target("rollout", rollout_path("other"), encode_json(channel.rollouts["activity"]))
    channel.rollouts["other"] = channel.rollouts["activity"]


def _percent(channel: ChannelSimulator) -> None:
    channel.choose("activity", 2, percent=100.5)


SHAPES = {
    "a third delegated role": (_rename_role, "targets.signed.delegations.roles"),
    "rollout may sign release paths": (_widen, "targets.signed.delegations.roles.rollout.paths"),
    "a delegation that goes on": (_not_terminating, "targets.signed.delegations.roles.release.terminating"),
    "no release role": (_drop_release, "targets.signed.delegations.roles"),
    "no delegations": (_no_delegations, "targets.signed.delegations.roles"),
    "targets signs software itself": (_top_level_target, "targets.signed.targets"),
    "targets hides the release role": (_shadow_the_probe, "targets.signed.targets"),
    "release delegates further": (_nested, "release.signed.delegations"),
    "root without consistent snapshots": (_inconsistent, "timestamp|snapshot|root"),
    "a release under another path": (_foreign_path, "release.signed.targets.release/activity@8"),
    "a release that says nothing": (_no_custom, "release.signed.targets.release/activity@3.custom"),
    "a release that names another digest": (_other_digest, "release.signed.targets.release/activity@3"),
    "a pipeline name with slashes": (_odd_pipeline, "release.signed.targets.release/activity@3.custom"),
    "a rollout that is no JSON": (_rollout_not_json, "$.targets.rollout/activity"),
    "a rollout under another path": (_rollout_other_path, "$.targets.rollout/other"),
    "a percentage above 100": (_percent, "$.targets.rollout/activity.percent"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_unexpected_shape_is_refused_with_its_key_path(channel: ChannelSimulator, name: str) -> None:
    change, where = SHAPES[name]
    change(channel)
    with pytest.raises(UpdateRejected) as caught:
        answer(channel.request(lambda parts: parts["targets"].update(_all_rollouts(channel))))
    assert {reason.code for reason in caught.value.reasons} == {ReasonCode.MALFORMED}
    if name != "root without consistent snapshots":
        assert where in {reason.where for reason in caught.value.reasons}, str(caught.value)


def _all_rollouts(channel: ChannelSimulator) -> dict[str, bytes]:
    return {path: data for path, data in channel.documents.items() if path.startswith("rollout/")}


@pytest.mark.parametrize("name", ["evil.json", "0.root.json", "../1.root.json", "1.timestamp.json", "1.evil.json"])
def test_a_metadata_file_of_an_unknown_name_is_refused(channel: ChannelSimulator, name: str) -> None:
    request = channel.request(lambda parts: parts["metadata"].update({name: b"{}"}))
    assert refused(request, ReasonCode.MALFORMED, name).reasons[0].where == "$.metadata"


@pytest.mark.parametrize("name", ["9.root.json", "9.release.json", "1.snapshot.json"])
def test_a_metadata_file_beside_the_verified_chain_is_refused(channel: ChannelSimulator, name: str) -> None:
    request = channel.request(lambda parts: parts["metadata"].update({name: b"{}"}))
    refused(request, ReasonCode.MALFORMED, name, "not part of the verified chain")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "release", "rollout"])
def test_a_missing_metadata_file_is_refused_even_if_the_accepted_envelope_has_it(
    channel: ChannelSimulator, role: str
) -> None:
    def drop(parts: dict) -> None:
        del parts["metadata"][next(name for name in parts["metadata"] if f"{role}.json" in name)]

    refused(channel.request(drop, accepted=channel.envelope()), ReasonCode.MALFORMED, role)


@pytest.mark.parametrize("file", ["2.root.json", "timestamp.json"])
def test_metadata_that_is_no_json_is_refused(channel: ChannelSimulator, file: str) -> None:
    refused(channel.request(lambda parts: parts["metadata"].update({file: b"{no"})), ReasonCode.MALFORMED)


@pytest.mark.parametrize("file", ["2.root.json", "timestamp.json"])
def test_deeply_nested_metadata_is_refused(channel: ChannelSimulator, file: str) -> None:
    bomb = b"[" * 100_000
    refused(channel.request(lambda parts: parts["metadata"].update({file: bomb})), *_bomb_code(file))


def _bomb_code(file: str) -> tuple[ReasonCode]:
    return (ReasonCode.SIZE,) if file == "timestamp.json" else (ReasonCode.MALFORMED,)


def test_a_snapshot_with_an_unknown_role_is_refused(channel: ChannelSimulator) -> None:
    channel.snapshot.meta["evil.json"] = MetaFile(1)
    error = refused(channel.request(), ReasonCode.MALFORMED, "evil.json")
    assert error.reasons[0].where == "snapshot.signed.meta"


def test_all_faults_are_reported_not_only_the_first(channel: ChannelSimulator) -> None:
    channel.choose("activity", 7, stable=8, percent=-1)
    channel.release("other", sample_manifest("other"), digest=Digest.of(b"x"))
    with pytest.raises(UpdateRejected) as caught:
        answer(channel.request(lambda parts: parts["targets"].update({"stray": b"x"})))
    text = str(caught.value)
    for part in ("activity@7", "activity@8", "percent", "other@1 names another digest", "stray"):
        assert part in text


# --- damage ----------------------------------------------------------------------------------------------------------


def test_truncated_envelope_is_refused(channel: ChannelSimulator) -> None:
    envelope = channel.envelope()
    for size in (0, 1, 17, len(envelope) // 2, len(envelope) - 1):
        refused(channel.request(envelope=envelope[:size]), ReasonCode.MALFORMED)


def test_unsupported_format_is_refused(channel: ChannelSimulator) -> None:
    refused(channel.request(lambda parts: parts.update(format=2)), ReasonCode.FORMAT, "format 2", "update the agent")


def test_oversized_envelope_is_refused(channel: ChannelSimulator) -> None:
    refused(channel.request(envelope=bytes(1024 * 1024 + 1)), ReasonCode.SIZE)


def test_a_damaged_enrolled_root_is_the_devices_problem(channel: ChannelSimulator) -> None:
    with pytest.raises(StoreError, match="enrol anew"):
        answer(channel.request(root=b"{}"))
    with pytest.raises(StoreError, match="enrol anew"):
        answer(channel.request(root=channel.bootstrap.replace(b'"sig":"', b'"sig":"00')))
    with pytest.raises(StoreError, match="timestamp metadata"):
        answer(channel.request(root=channel.sign(channel.timestamp, channel.keys["timestamp"])))


FIXED = ChannelSimulator("plant", "staging", now=1_800_000_000.0)
FIXED.release("activity", sample_manifest(marker="1"))
FIXED.release("activity", sample_manifest(marker="2"))
FIXED_ENVELOPE = FIXED.envelope()
FIXED_VERDICT = answer(FIXED.request(envelope=FIXED_ENVELOPE))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, len(FIXED_ENVELOPE) * 8 - 1))
def test_bit_flipped_envelope_is_refused_or_says_exactly_the_same(at: int) -> None:
    """Only the case of a signature's hex digits and such may flip unnoticed; never a word of what is signed."""
    damaged = bytearray(FIXED_ENVELOPE)
    damaged[at // 8] ^= 1 << at % 8
    try:
        verdict = answer(FIXED.request(envelope=bytes(damaged)))
    except UpdateRejected:
        return
    assert verdict == FIXED_VERDICT


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(["1.root.json", "2.root.json", "timestamp.json", "3.snapshot.json"]), data=st.data())
def test_any_json_in_place_of_a_role_is_refused_and_never_crashes(name: str, data: st.DataObject) -> None:
    leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    keys = st.sampled_from(["signed", "signatures", "_type", "version", "roles", "keys", "meta", "expires", "x"])
    value = data.draw(st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12))
    content = encode_json(value)
    with pytest.raises(UpdateRejected):
        answer(FIXED.request(lambda parts: parts["metadata"].update({name: content})))
