"""Every release that was ever signed into a channel, newest first, from metadata whose signatures hold.

The newest publication lists the last 50 releases of a pipeline; older ones are read from the publications before it,
which the record never loses. Each is checked as it is read: its timestamp, snapshot, targets, releases and rollouts
must be signed by the keys of one of the channel's verified roots. What does not hold, and every gap, is a fault: named
and never shown as history. Between two publications with the same releases and rollouts none is read (a channel
that is refreshed every day has hundreds of them). Signs nothing.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

from edge_agent.contract.digest import BlobRef, Digest, decode_json
from edge_agent.contract.errors import AuthorError, ConfigError, FieldcastError, StoreError
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX, ReleaseInfo, Rollout, decode_envelope
from edge_agent.contract.verification import Request, Verified
from publisher.config import Home, load_home
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.publication import Shelf
from publisher.trust.repository import Channel
from publisher.trust.roles import DELEGATED, parse
from publisher.trust.verification import verify

__all__ = ["ChannelHistory", "Chronicle", "Entry", "Moment", "State", "history", "trusted"]

_RELEASE = tuple[str, int]


class State(enum.Enum):
    """What became of a release in its channel."""

    OFFERED = "offered"
    STABLE = "stable"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"
    REPLACED = "replaced"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One release, and what became of it. `back_to` names the release whose bytes it offers again, if it does."""

    name: str
    release: ReleaseInfo
    state: State
    back_to: str = ""


class ChannelHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's releases, newest first, and what of its history is missing or does not hold."""

    channel: str
    entries: list[Entry]
    faults: list[str]


@dataclass(frozen=True)
class Moment:
    """What one publication says. `fault` tells why it is not believed; then it says nothing."""

    number: int
    key: object
    releases: tuple[ReleaseInfo, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    manifests: tuple[BlobRef, ...] = ()
    fault: str = ""


def history(
    pipeline: str | None = None,
    *,
    channel: str | None = None,
    limit: int | None = None,
    home: str | Path | None = None,
) -> list[ChannelHistory]:
    """Return the releases of each channel (or of one), newest first, at most `limit` a channel.

    Raises `ConfigError` for names that are not there, `AuthorError` without a pinned root, `UpdateRejected` when the
    newest publication does not pass the device's own checks.
    """
    place = load_home(home)
    record = Record(place.record_location)
    names = [place.require_channel(channel)] if channel else place.channels
    channels = [Channel(record, place.fleet, name) for name in names]
    found = [_of(one, place, pipeline, limit) for one in channels if one.exists()]
    if pipeline is not None and not any(one.entries or one.faults for one in found):
        raise ConfigError(f"no release of pipeline {pipeline!r} was ever signed into {', '.join(names)}")
    return found


def trusted(channel: Channel, home: Home, envelope: bytes | None = None, *, now: float = 0.0) -> Verified:
    """Return what the key holders have signed, by the device's checks from the pinned root.

    Expiry is judged at `now` (seconds UTC), and so not at all unless that is given. Raises `AuthorError` when this
    workstation has pinned no root, `UpdateRejected` when the checks fail.
    """
    root = KeyStore(home.keys).pinned(channel.name)
    if root is None:
        raise AuthorError(
            f"{home.keys} does not hold {channel.name}.root.json, by which this workstation knows channel "
            f"{channel.name}: copy it from the workstation that created the channel"
        )
    envelope = channel.envelope() if envelope is None else envelope
    return verify(Request(fleet=channel.fleet, channel=channel.name, now=now, root=root, envelope=envelope))


def _of(channel: Channel, home: Home, pipeline: str | None, limit: int | None) -> ChannelHistory:
    chronicle = Chronicle(channel, home)
    infos: dict[_RELEASE, ReleaseInfo] = {}
    came: dict[_RELEASE, int] = {}
    rollouts: list[Rollout] = []
    wanted: list[_RELEASE] = []
    now: tuple[Rollout, ...] | None = None
    for moment in chronicle.moments():
        now = moment.rollouts if now is None and not moment.fault else now
        listed = {(one.pipeline, one.sequence): one for one in moment.releases if pipeline in (None, one.pipeline)}
        if limit is not None and len(wanted) >= limit and not moment.fault and not listed.keys() & set(wanted):
            break
        infos |= listed
        came |= dict.fromkeys(listed, moment.number)
        rollouts += moment.rollouts
        wanted = sorted(infos, key=lambda one: (came[one], one), reverse=True)[:limit]
    aborted = {(one.pipeline, one.candidate) for one in rollouts if one.aborted}
    states = _states(infos, now or (), aborted)
    entries = [
        Entry(name=infos[one].name, release=infos[one], state=states[one], back_to=_back_to(infos[one], infos))
        for one in wanted
    ]
    return ChannelHistory(channel=channel.name, entries=entries, faults=[*chronicle.faults, *_holes(infos)])


def _states(
    infos: dict[_RELEASE, ReleaseInfo], now: tuple[Rollout, ...], aborted: set[_RELEASE]
) -> dict[_RELEASE, State]:
    left = {(one.pipeline, one.sequence - 1) for one in infos.values() if _back_to(one, infos)}
    offered = {(one.pipeline, one.candidate) for one in now}
    stable = {(one.pipeline, one.stable) for one in now}

    def state(one: _RELEASE) -> State:
        if one in aborted:
            return State.ABORTED
        if one in offered:
            return State.OFFERED
        if one in left:
            return State.ROLLED_BACK
        return State.STABLE if one in stable else State.REPLACED

    return {one: state(one) for one in infos}


def _back_to(info: ReleaseInfo, infos: dict[_RELEASE, ReleaseInfo]) -> str:
    """Return the newest earlier release with the same bytes, if others were offered in between."""
    before = infos.get((info.pipeline, info.sequence - 1))
    if before is None or before.digest == info.digest:
        return ""
    same = [
        one.sequence
        for one in infos.values()
        if one.pipeline == info.pipeline and one.digest == info.digest and one.sequence < info.sequence
    ]
    return infos[info.pipeline, max(same)].name if same else ""


def _holes(infos: dict[_RELEASE, ReleaseInfo]) -> list[str]:
    """Name the numbers that are missing between those found."""
    found = []
    for pipeline in sorted({one.pipeline for one in infos.values()}):
        numbers = {sequence for name, sequence in infos if name == pipeline}
        missing = sorted(set(range(min(numbers), max(numbers))) - numbers)
        found += [f"{pipeline}@{number} is missing" for number in missing]
    return found


class Chronicle:
    """The publications of a channel, each verified as it is read."""

    def __init__(self, channel: Channel, home: Home) -> None:
        self._shelf = Shelf(channel.record, channel.fleet, channel.name)
        envelope = channel.envelope()
        trusted(channel, home, envelope)
        metadata = decode_envelope(envelope).metadata
        # The verifier has walked this chain from the pinned root; the newest is the likeliest.
        files = [
            metadata[f"{number}.root.json"] for number in range(1, len(metadata)) if f"{number}.root.json" in metadata
        ]
        self._roots: list[Root] = [parse("root", data) for data in reversed(files)]
        self._known: dict[object, Any] = {}
        self.faults: list[str] = []

    def moments(self) -> Iterator[Moment]:
        """Yield publications, newest first, but none between two that say the same. Faults are gathered on the way."""
        numbers = self._shelf.numbers()
        gaps = sorted(set(range(1, numbers[-1])) - set(numbers))
        if gaps:
            shown = ", ".join(map(str, gaps[:10])) + (f" and {len(gaps) - 10} more" if len(gaps) > 10 else "")
            self.faults.append(f"publications {shown} are missing in {self._shelf.record.location}: restore a backup")
        read: dict[int, Moment] = {}
        stretches, above = [(0, len(numbers) - 1)], len(numbers)
        while stretches:
            low, high = stretches.pop()
            for index in (high, low):
                if index not in read:
                    read[index] = self._at(numbers[index])
            if high - low > 1 and read[low].key != read[high].key:
                middle = (low + high) // 2
                stretches += [(low, middle), (middle, high)]
                continue
            for index in (high, low):
                if index < above:
                    above = index
                    yield self._noted(read[index])

    def _noted(self, moment: Moment) -> Moment:
        if moment.fault:
            self.faults.append(f"publication {moment.number}: {moment.fault}")
        return moment

    def _at(self, number: int) -> Moment:
        try:
            return self._verified(number)
        except (FieldcastError, RepositoryError, msgspec.MsgspecError, ValueError) as error:
            return Moment(number, object(), fault=str(error))

    def _verified(self, number: int) -> Moment:
        timestamp: Metadata[Any] = Metadata.from_bytes(self._shelf.timestamp(number))
        snapshot: Metadata[Any] = Metadata.from_bytes(
            self._shelf.record.get_blob(_named(timestamp.signed.snapshot_meta))
        )
        files: dict[str, Metadata[Any]] = {"timestamp": timestamp, "snapshot": snapshot}
        named = {role: _named(snapshot.signed.meta.get(f"{role}.json")) for role in ("targets", *DELEGATED)}
        for role, ref in named.items():
            files[role] = self._cached(ref, functools.partial(self._file, ref))
        if not any(_holds(root, files) for root in self._roots):
            raise StoreError("its signatures are not those of the channel's keys")
        for role in DELEGATED:
            files["targets"].signed.verify_delegate(role, files[role].signed_bytes, files[role].signatures)
        targets = {role: files[role].signed.targets.values() for role in DELEGATED}
        return Moment(
            number,
            (named["release"], named["rollout"]),
            self._cached((named["release"], "infos"), lambda: tuple(map(_info, targets["release"]))),
            self._cached((named["rollout"], "choices"), lambda: tuple(map(self._rollout, targets["rollout"]))),
            tuple(map(_ref, targets["release"])),
        )

    def _file(self, ref: BlobRef) -> Metadata[Any]:
        return Metadata.from_bytes(self._shelf.record.get_blob(ref))

    def _rollout(self, target: Any) -> Rollout:
        return decode_json(self._shelf.record.get_blob(_ref(target)), Rollout)

    def _cached(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _holds(root: Root, files: dict[str, Metadata[Any]]) -> bool:
    """Tell whether timestamp, snapshot and targets are all signed by the keys of this root."""
    try:
        for role in ("timestamp", "snapshot", "targets"):
            root.verify_delegate(role, files[role].signed_bytes, files[role].signatures)
    except RepositoryError:
        return False
    return True


def _info(target: Any) -> ReleaseInfo:
    return msgspec.convert(target.custom, ReleaseInfo, dec_hook=lambda _kind, value: Digest(value))


def _named(meta: Any) -> BlobRef:
    """Return where a role's file lies, as the one above it says."""
    if meta is None or meta.length is None or not meta.hashes or meta.length > ENVELOPE_BYTES_MAX:
        raise StoreError("a role is not named by size and sha256")
    return BlobRef(digest=Digest(f"sha256:{meta.hashes['sha256']}"), size=meta.length)


def _ref(target: Any) -> BlobRef:
    return BlobRef(digest=Digest(f"sha256:{target.hashes['sha256']}"), size=target.length)
