"""Which guard refuses which attack: taken out, one at a time, its tests must fail.

A guard is one or more switches, `module:attribute` and what stands there when it is off; where two guards stand behind
one another (expiry is judged by TUF and once more by us), both are off. Each names the tests that must not survive it,
as `module::test`, with what a parametrised test takes. `test_guards.py` does the switching.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuf.api.metadata import Metadata, Root

from edge_agent.contract.errors import UpdateRejected

__all__ = ["GUARDS", "Guard", "Victim"]


@dataclass(frozen=True)
class Victim:
    """A test that fails without its guard, by what it asserts, or with `fails` where it expects no error at all.

    `given` are its parameters, beside the fixture that it takes.
    """

    module: str
    name: str
    given: dict[str, Any]
    fails: type[Exception] | None = None


@dataclass(frozen=True)
class Guard:
    """What is switched off (`module:attribute` to its stand-in), and which tests must then fail."""

    off: dict[str, Any]
    victims: tuple[Victim, ...]


def verifier(name: str, /, **given: Any) -> Victim:
    """Return a test of the verifier."""
    return Victim("tests.edge_agent.update.test_verifier", name, given)


def attack(name: str, /, **given: Any) -> Victim:
    """Return a test of this directory."""
    return Victim("tests.attacks.test_envelopes", name, given)


def mirror(name: str, /, **given: Any) -> Victim:
    """Return a test of the mirror."""
    return Victim("tests.edge_agent.update.test_mirror", name, given)


def intake(name: str, /, **given: Any) -> Victim:
    """Return a test of the intake."""
    return Victim("tests.edge_agent.update.test_intake", name, given)


def wishes(name: str, /, **given: Any) -> Victim:
    """Return a test of a device on the bench."""
    return Victim("tests.edge_agent.update.test_wishes", name, given)


def command(name: str, /, **given: Any) -> Victim:
    """Return a test of the commands that a device takes."""
    return Victim("tests.edge_agent.test_commands", name, given)


def nothing(*arguments: Any, **named: Any) -> None:
    """Check nothing."""


def no_faults(*arguments: Any, **named: Any) -> Iterator[Any]:
    """Find nothing."""
    return iter(())


@contextlib.contextmanager
def no_lock(*arguments: Any) -> Iterator[None]:
    """Hold nothing."""
    yield


def give_back(result: Any) -> Callable[..., Any]:
    """Return a function that always says the same."""
    return lambda *arguments, **named: result


def never_expired(self: Any, reference_time: datetime | None = None) -> bool:
    """Judge as in 1970."""
    return bool(self.expires <= datetime(1970, 1, 1, tzinfo=UTC))


def longer(verified: Any, data: Any) -> None:
    """Any length and any hash will do."""


def read_all(self: Any, url: str, max_length: int) -> bytes:
    """Read on for ever."""
    return b"".join(self.fetch(url))


def skip_root(self: Any, data: bytes) -> Any:
    """Leave a link out if it is no good, and take the next one for it."""
    with contextlib.suppress(Exception):
        self._trusted_set[Root.type] = Metadata[Root].from_bytes(data).signed
    return self.root


SIGNED = "edge_agent.update.signed"
CHAIN = "edge_agent.update.chain"
VERIFIER = "edge_agent.update.verifier"

GUARDS: dict[str, Guard] = {
    "signatures of delegated roles": Guard(
        {"tuf.api._payload:_DelegatorMixin.verify_delegate": nothing},
        (
            verifier("test_arbitrary_software_a_role_signed_by_a_foreign_key_is_refused", role="release"),
            verifier("test_arbitrary_software_a_role_signed_by_a_foreign_key_is_refused", role="timestamp"),
            verifier("test_revoked_key_a_release_list_signed_by_it_is_refused"),
            verifier("test_root_rotation_signed_only_by_the_new_keys_is_refused"),
            attack("test_key_compromise_under_threshold_is_refused", role="release", how="one key"),
            attack("test_key_compromise_under_threshold_is_refused", role="rollout", how="the same key twice"),
            attack("test_staging_signing_for_production_is_refused"),
        ),
    ),
    "the enrolled root": Guard(
        {f"{VERIFIER}:_check_first_root": nothing},
        (verifier("test_arbitrary_software_a_foreign_channel_of_the_same_name_is_refused"),),
    ),
    "the header of an envelope": Guard(
        {f"{VERIFIER}:_check_header": nothing},
        (verifier("test_wrong_channel_by_its_header_is_refused"),),
    ),
    "the signed name of fleet and channel": Guard(
        {f"{SIGNED}:subject_faults": no_faults, f"{SIGNED}:foreign": no_faults},
        (
            verifier(
                "test_wrong_channel_with_a_forged_header_is_refused_by_what_is_signed", fleet="plant", name="production"
            ),
            attack("test_another_fleets_envelope_on_this_fleets_topic_is_refused"),
        ),
    ),
    "the channel named by releases and rollouts": Guard(
        {f"{SIGNED}:foreign": no_faults},
        (
            verifier("test_a_release_signed_for_another_channel_is_refused", field="channel"),
            verifier("test_a_rollout_signed_for_another_channel_is_refused", field="fleet"),
        ),
    ),
    "lengths and hashes of targets": Guard(
        {f"{SIGNED}:_mismatch": give_back(None)},
        (
            verifier("test_altered_manifest_is_refused", sequence=2),
            verifier("test_an_altered_rollout_is_refused"),
            verifier("test_mix_and_match_an_old_manifest_under_the_candidates_path_is_refused"),
            attack("test_an_extraneous_dependency_added_on_the_way_is_refused"),
        ),
    ),
    "bytes that nobody signed": Guard(
        {f"{SIGNED}:_unsigned_bytes": no_faults},
        (verifier("test_arbitrary_software_an_unsigned_manifest_that_rides_along_is_refused"),),
    ),
    "choices among what is signed": Guard(
        {f"{SIGNED}:_unsigned_choices": no_faults},
        (
            verifier("test_a_stolen_rollout_key_cannot_choose_an_unsigned_release"),
            verifier("test_a_stolen_rollout_key_cannot_choose_another_pipelines_release"),
        ),
    ),
    "the path of a release": Guard(
        {f"{SIGNED}:_misplaced": give_back(False)},
        (attack("test_wrong_software_under_anothers_name_is_refused"),),
    ),
    "the shape of roles and delegations": Guard(
        {f"{SIGNED}:shape_faults": no_faults},
        (
            verifier("test_a_metadata_file_beside_the_verified_chain_is_refused", name="9.release.json"),
            verifier("test_a_chain_of_roots_with_a_gap_is_refused", missing="1.root.json"),
        ),
    ),
    "lengths of metadata": Guard(
        {
            "tuf.api._payload:MetaFile.verify_length_and_hashes": longer,
            "tuf.ngclient.fetcher:FetcherInterface.download_bytes": read_all,
        },
        (
            attack("test_endless_data_in_place_of_a_role_is_refused", role="timestamp", size=2**14),
            attack("test_endless_data_in_place_of_a_role_is_refused", role="snapshot", size=1),
            attack("test_endless_data_in_place_of_a_role_is_refused", role="release", size=1),
            verifier("test_mix_and_match_an_older_role_file_under_the_new_name_is_refused", role="snapshot"),
        ),
    ),
    "the length of an envelope": Guard(
        {"edge_agent.contract.messages:ENVELOPE_BYTES_MAX": 2**40},
        (
            attack("test_endless_data_in_place_of_an_envelope_is_refused"),
            verifier("test_oversized_envelope_is_refused"),
        ),
    ),
    "floors": Guard(
        {f"{SIGNED}:below_floor": no_faults},
        (
            attack("test_rollback_to_an_envelope_that_is_good_alone_is_refused_by_the_floors"),
            verifier("test_rollback_is_refused_by_the_floors_when_the_accepted_envelope_is", kind="truncated"),
            verifier("test_rollback_is_refused_after_an_accepted_envelope_with_emptied_files"),
            verifier(
                "test_revoked_key_the_chain_before_its_revocation_cannot_come_back",
                accepted=False,
                rotated=("timestamp", "snapshot"),
            ),
        ),
    ),
    "floors by key set": Guard(
        {f"{CHAIN}:_binds": give_back(True)},
        (
            dataclasses.replace(
                verifier("test_fast_forward_is_recovered_from_by_root_rotation", lost=True), fails=UpdateRejected
            ),
        ),
    ),
    "the accepted envelope": Guard(
        {f"{VERIFIER}:_accepted": give_back(None)},
        (
            verifier("test_rollback_a_replayed_older_envelope_is_refused"),
            verifier("test_two_timestamps_of_one_version_are_refused"),
            verifier("test_an_expired_accepted_envelope_still_forbids_going_back"),
            verifier("test_fast_forward_blocks_the_channel_until_keys_are_rotated"),
        ),
    ),
    "the chain after the accepted one": Guard(
        {f"{VERIFIER}:_check_not_older": nothing},
        (verifier("test_two_timestamps_of_one_version_are_refused"),),
    ),
    "expiry": Guard(
        {"tuf.api._payload:Signed.is_expired": never_expired},
        (
            verifier("test_freeze_an_expired_role_is_refused_with_the_remedy", role="timestamp", remedy="refresh"),
            verifier("test_freeze_an_expired_root_is_refused"),
            attack("test_a_clock_at_1970_accepts_nothing_that_had_expired_when_last_trusted"),
            attack("test_a_clock_at_2099_changes_nothing_and_is_doubted_aloud"),
        ),
    ),
    "the floor clock": Guard(
        {"tests.attacks.test_envelopes:floor_clock": lambda now, trusted: now},
        (
            attack("test_a_clock_at_1970_accepts_nothing_that_had_expired_when_last_trusted"),
            attack("test_a_clock_at_1970_on_a_new_device_is_judged_at_the_day_this_program_was_made"),
        ),
    ),
    "doubt about the clock": Guard(
        {f"{VERIFIER}:clock_doubt": give_back("")},
        (attack("test_a_clock_at_2099_changes_nothing_and_is_doubted_aloud"),),
    ),
    "the bound of the security floor": Guard(
        {f"{SIGNED}:_bad_floor": give_back("")},
        (attack("test_a_fast_forward_of_the_security_floor_is_refused"),),
    ),
    "every link of the root chain": Guard(
        {"tuf.ngclient._internal.trusted_metadata_set:TrustedMetadataSet.update_root": skip_root},
        (attack("test_a_root_chain_with_a_garbage_link_is_refused"),),
    ),
    "the mirror of the floors": Guard(
        {"edge_agent.update.mirror:_read": give_back(None)},
        (
            mirror("test_rollback_is_refused_by_the_mirror_when_the_database_is", kind="lost"),
            mirror("test_rollback_is_refused_by_the_mirror_when_the_database_is", kind="truncated"),
            mirror("test_rollback_is_refused_by_the_mirror_when_the_database_is", kind="older"),
        ),
    ),
    "the checksum of the mirror": Guard(
        {"edge_agent.update.mirror:_DIGEST_CHARACTERS": 0},
        (mirror("test_a_torn_newest_file_leaves_the_one_before", kind="flipped"),),
    ),
    "the wait after refusals": Guard(
        {"edge_agent.update.intake:wait_seconds": give_back(0.0)},
        (
            intake("test_denial_of_service_what_cannot_be_unpacked_is_written_down_as_rarely"),
            intake("test_denial_of_service_a_flood_is_looked_at_ever_more_rarely"),
        ),
    ),
    "the pipeline that a manifest names": Guard(
        {"edge_agent.update.admission:_pipeline": no_faults},
        (
            Victim(
                "tests.edge_agent.update.test_admission",
                "test_a_manifest_of_another_pipeline_is_refused_on_this_slot",
                {},
            ),
        ),
    ),
    "one verifier at a time": Guard(
        {"edge_agent.update.trust:_held": no_lock},
        (Victim("tests.edge_agent.update.test_trust", "test_verifiers_of_several_processes_run_one_at_a_time", {}),),
    ),
    "what fits this machine": Guard(
        {"edge_agent.update.admission:judge": give_back(())},
        (Victim("tests.attacks.test_releases", "test_wrong_machine_a_release_for_another_processor_is_refused", {}),),
    ),
    "the security floor on the device": Guard(
        {"edge_agent.update.accepted:Accepted.security_floors": give_back({})},
        (wishes("test_no_device_goes_back_below_a_security_floor"),),
    ),
    "the bytes below the security floor": Guard(
        {"edge_agent.update.accepted:Accepted.barred": give_back({})},
        (
            wishes("test_security_floor_old_bytes_signed_again_under_a_new_sequence_are_refused"),
            wishes("test_security_floor_a_rollout_that_goes_back_below_it_changes_nothing"),
        ),
    ),
    "the signature of a command": Guard(
        {"edge_agent.commands:_signed": give_back(True)},
        (command("test_altered_words_under_a_true_signature_are_refused"),),
    ),
    "the limits of a command": Guard(
        {"edge_agent.commands:refusal": give_back("")},
        (
            command("test_refused_and_answered", case="out of scope"),
            command("test_refused_and_answered", case="code"),
            command("test_replayed_is_refused"),
        ),
    ),
    "the security floor of the publisher": Guard(
        {"publisher.trust.marks:floor_of": give_back(0)},
        (
            Victim(
                "tests.publisher.trust.test_marks",
                "test_security_floor_no_fleet_rollback_goes_below_it_under_any_number",
                {},
            ),
        ),
    ),
}
