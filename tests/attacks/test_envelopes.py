"""Attacks on what is signed that need a story of their own; the others stand beside the verifier's tests.

Every test here is a row of docs/THREATS.md, and is run once more with its guard taken out (`guards.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.contract.digest import encode_json
from edge_agent.contract.errors import Blame, ReasonCode, UpdateRejected
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX, release_path
from edge_agent.contract.verification import Request
from edge_agent.update.clock import BUILT_SECONDS, clock_doubt, floor_clock
from edge_agent.update.verifier import answer
from tests.simulators.channel import DAY_SECONDS, ChannelSimulator, sample_manifest, with_floors


@pytest.fixture
def channel() -> ChannelSimulator:
    return new_channel()


def new_channel() -> ChannelSimulator:
    """Return a channel with two releases of one pipeline."""
    simulator = ChannelSimulator("plant", "staging")
    simulator.release("activity", sample_manifest(marker="1"))
    simulator.release("activity", sample_manifest(marker="2"))
    return simulator


def codes(request: Request) -> set[ReasonCode]:
    """Return why a request is refused; fail if it is not, or if a release is blamed for what anyone may send."""
    with pytest.raises(UpdateRejected) as caught:
        answer(request)
    assert all(reason.blame is Blame.ENVIRONMENT for reason in caught.value.reasons)
    return {reason.code for reason in caught.value.reasons}


# --- endless data ----------------------------------------------------------------------------------------------------


def padded(role: str, size: int) -> Callable[[dict], None]:
    """Blanks behind a role's JSON change no word of it; they only make it long."""

    def pad(parts: dict) -> None:
        name = next(name for name in parts["metadata"] if name.endswith(f"{role}.json"))
        parts["metadata"][name] += b" " * size

    return pad


@pytest.mark.parametrize(
    ("role", "size"),
    [("root", 2**20), ("timestamp", 2**14), ("snapshot", 1), ("targets", 1), ("release", 1), ("rollout", 1)],
)
def test_endless_data_in_place_of_a_role_is_refused(channel: ChannelSimulator, role: str, size: int) -> None:
    """What names a role signs its length too, the timestamp has a limit of its own, the root the envelope's."""
    assert codes(channel.request(padded(role, size))) == {ReasonCode.SIZE}


def test_endless_data_in_place_of_an_envelope_is_refused(channel: ChannelSimulator) -> None:
    assert codes(channel.request(envelope=bytes(ENVELOPE_BYTES_MAX + 1))) == {ReasonCode.SIZE}


# --- keys ------------------------------------------------------------------------------------------------------------


def threshold_two(channel: ChannelSimulator, role: str) -> list[CryptoSigner]:
    """Let a delegated role need two signatures; return both signers."""
    assert channel.targets.delegations is not None
    assert channel.targets.delegations.roles is not None
    second = CryptoSigner.generate_ed25519()
    channel.targets.add_key(second.public_key, role)
    channel.targets.delegations.roles[role].threshold = 2
    channel.bump("targets")
    return [channel.keys[role][0], second]


@pytest.mark.parametrize("how", ["one key", "the same key twice", "one key and a foreign one"])
@pytest.mark.parametrize("role", ["release", "rollout"])
def test_key_compromise_under_threshold_is_refused(channel: ChannelSimulator, role: str, how: str) -> None:
    both = threshold_two(channel, role)
    channel.keys[role] = both
    assert answer(channel.request()).releases
    stolen = both[1]
    other = {
        "one key": [],
        "the same key twice": [stolen],
        "one key and a foreign one": [CryptoSigner.generate_ed25519()],
    }
    channel.keys[role] = [stolen, *other[how]]
    assert codes(channel.request()) == {ReasonCode.SIGNATURE}


def test_staging_signing_for_production_is_refused(channel: ChannelSimulator) -> None:
    """Whoever holds every key of staging but its root's relabels a release for production, header and all."""
    production = ChannelSimulator("plant", "production")
    production.release("activity", sample_manifest(marker="1"))
    genuine = production.envelope()
    for role in ("timestamp", "snapshot", "targets", "release", "rollout"):
        production.keys[role] = channel.keys[role]
    production.release("activity", sample_manifest(marker="evil"))
    assert codes(production.request(accepted=genuine)) == {ReasonCode.SIGNATURE}


def test_another_fleets_envelope_on_this_fleets_topic_is_refused(channel: ChannelSimulator) -> None:
    """One root was enrolled in two fleets, by mistake; the header is forged to fit the topic."""
    request = channel.request(lambda parts: parts.update(fleet="other"), fleet="other")
    assert codes(request) == {ReasonCode.WRONG_CHANNEL}


def test_a_fast_forward_of_the_security_floor_is_refused(channel: ChannelSimulator) -> None:
    """A floor above the release that signs it would shut devices for every release that there is."""
    channel.release("activity", sample_manifest(marker="3"), security_floor=3, retry_generation=1)
    assert answer(channel.request()).releases
    for wrong in ({"security_floor": 4}, {"security_floor": -1}, {"retry_generation": -1}):
        other = new_channel()
        other.release("activity", sample_manifest(marker="3"), **wrong)
        assert codes(other.request()) == {ReasonCode.MALFORMED}


# --- wrong software --------------------------------------------------------------------------------------------------


def test_wrong_software_under_anothers_name_is_refused(channel: ChannelSimulator) -> None:
    """A rollout of one pipeline that chooses a release of another, which is signed as that other's."""
    channel.release("other", sample_manifest("other"))
    channel.sign_target("release", release_path("activity", 3), sample_manifest("other"), custom=msgspec.to_builtins(
        channel.releases["other", 1], enc_hook=str))  # fmt: skip
    channel.choose("activity", 3, stable=2)
    assert codes(channel.request()) >= {ReasonCode.MALFORMED}


def test_an_extraneous_dependency_added_on_the_way_is_refused(channel: ChannelSimulator) -> None:
    """One requirement more in a manifest is another manifest, and nobody signed that one."""
    path = release_path("activity", 2)

    def add(parts: dict) -> None:
        manifest = json.loads(parts["targets"][path])
        manifest["requires"] = [*manifest.get("requires", []), "evil>=1"]
        parts["targets"][path] = encode_json(manifest)

    assert codes(channel.request(add)) == {ReasonCode.SIGNATURE}


def test_a_root_chain_with_a_garbage_link_is_refused(channel: ChannelSimulator) -> None:
    """Neither a link that is no metadata nor one that is somebody else's lets the newer keys through."""
    accepted = channel.envelope()
    channel.rotate("root", "timestamp")
    channel.rotate("root", "timestamp")
    for link in (b"\x00garbage", b"{}", channel.roots[0], ChannelSimulator().roots[0]):
        request = channel.request(lambda parts, link=link: parts["metadata"].update({"2.root.json": link}))
        assert codes(msgspec.structs.replace(request, accepted=accepted)) <= {
            ReasonCode.MALFORMED, ReasonCode.SIGNATURE, ReasonCode.OLDER
        }  # fmt: skip
    assert answer(channel.request(accepted=accepted)).releases


# --- clocks ----------------------------------------------------------------------------------------------------------


def test_a_clock_at_1970_accepts_nothing_that_had_expired_when_last_trusted(channel: ChannelSimulator) -> None:
    """After a power cut without a battery the machine says 1970: judged at the last trusted time, and said so."""
    trusted = channel.now
    channel.timestamp.expires = channel.after(-1)
    assert codes(channel.request(now=floor_clock(0.0, trusted))) == {ReasonCode.EXPIRED}
    assert "behind by" in clock_doubt(0.0, trusted, None)
    assert clock_doubt(trusted + 5, trusted, None) == clock_doubt(trusted - 60, trusted, None) == ""


def test_a_clock_at_1970_on_a_new_device_is_judged_at_the_day_this_program_was_made() -> None:
    old = ChannelSimulator(now=BUILT_SECONDS - 40 * DAY_SECONDS)
    old.release()
    assert codes(old.request(now=floor_clock(0.0, 0.0))) == {ReasonCode.EXPIRED}


def test_a_clock_at_2099_changes_nothing_and_is_doubted_aloud(channel: ChannelSimulator) -> None:
    now = 4_070_908_800.0
    assert codes(channel.request(now=floor_clock(now, channel.now))) == {ReasonCode.EXPIRED, ReasonCode.CLOCK}
    assert "ahead" in clock_doubt(now, channel.now, channel.now)


# --- rollback --------------------------------------------------------------------------------------------------------


def test_rollback_to_an_envelope_that_is_good_alone_is_refused_by_the_floors(channel: ChannelSimulator) -> None:
    old = channel.envelope()
    channel.release("activity", sample_manifest(marker="3"))
    floors = answer(channel.request()).floors
    assert codes(with_floors(channel.request(envelope=old), floors)) == {ReasonCode.OLDER}
