"""Promotes a release: the same manifest digest, signed into another channel under that channel's keys and next number.

Nothing is packed again: manifest and blobs come from the record, so it works when the author's source is gone. Decides
what may be promoted: only what the source channel's key holders have signed, by the device's own checks. Tag, commit
and signer are carried; the message says where it came from and who promoted it.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import ReleaseInfo
from publisher.config import Home, load_home
from publisher.desk import (
    MESSAGE_CHARACTERS_MAX,
    Desk,
    Ending,
    Progress,
    PushResult,
    Wait,
    check_words,
    ending_of,
    signer,
    timed,
)
from publisher.devices.fleet import Fleet
from publisher.reference import choose, listing
from publisher.trust.chronicle import trusted
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.repository import Channel, Published
from publisher.uplink import connect

__all__ = ["SOURCE", "promote"]

SOURCE = "staging"


def promote(
    reference: str,
    *,
    to: str,
    source: str = SOURCE,
    message: str = "",
    wait: bool = False,
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Offer a release of channel `source`, by reference, in channel `to`: the same bytes under that channel's keys.

    When `to` offers these bytes already nothing is signed and the ending is `UNCHANGED` (with `wait`, what became of
    them). Raises `ConfigError` when the source lists no such release, and as `push` does.
    """
    started = time.monotonic()
    place = load_home(home)
    if to == source:
        raise ConfigError(f"{reference} is to go from {source} to {to}: name two channels, or use `publisher rollback`")
    origin, desk = Desk.at(place, source, progress).channel, Desk.at(place, to, progress)
    check_words(place, "", message)
    info = _chosen(reference, origin, place)
    data = origin.record.get_blob(BlobRef(digest=info.digest, size=_size(origin, info.digest)))
    manifest = parse_manifest(data)
    awaited = Wait(devices, timeout_seconds) if wait else None
    result = PushResult(ending=Ending.UNCHANGED, channel=to, pipeline=info.pipeline, digest=info.digest)
    result = msgspec.structs.replace(result, warnings=_doubts(origin, info))
    same = _offered_already(desk.channel, info)
    if same is not None:
        progress(f"{to} offers these bytes already, as {same.name}")
        return timed(_unchanged(desk, result, same, awaited), started)
    hand = desk.hand(desk.unlock(passphrase))
    words = _words(info, message, hand["signer"])
    hand["signer"] = info.signer
    progress(f"{info.name} of {source} {info.digest.short}")
    contents = [origin.record.get_blob(ref) for ref in manifest.blobs()]

    def sign() -> Published:
        return desk.channel.publish(
            data, pipeline=info.pipeline, tag=info.tag, message=words, commit=info.commit, dirty=info.dirty, **hand
        )

    return timed(desk.offer(result, manifest, contents, sign, awaited), started)


def _chosen(reference: str, origin: Channel, home: Home) -> ReleaseInfo:
    """Return the release meant, among those that the source's key holders have signed."""
    known = listing([origin])
    info = choose(reference, known)
    if info not in trusted(origin, home).releases:
        raise ConfigError(
            f"{info.name} is not among the signed releases of channel {origin.name}: nothing was promoted"
        )
    return info


def _size(origin: Channel, digest: Digest) -> int:
    return len(origin.manifest(digest))


def _doubts(origin: Channel, info: ReleaseInfo) -> list[str]:
    rollout, offered = origin.current()[info.pipeline]
    if offered.digest == info.digest and rollout.aborted:
        return [f"the rollout of {offered.name} in {origin.name} was aborted: look why before you go on"]
    if offered.digest != info.digest:
        return [f"{origin.name} offers {offered.name} now, other bytes than {info.name}"]
    return []


def _offered_already(channel: Channel, info: ReleaseInfo) -> ReleaseInfo | None:
    found = channel.current().get(info.pipeline)
    if found is None or found[1].digest != info.digest or found[0].aborted:
        return None
    return found[1]


def _unchanged(desk: Desk, result: PushResult, same: ReleaseInfo, wait: Wait | None) -> PushResult:
    result = msgspec.structs.replace(result, release=same.name, sequence=same.sequence)
    if wait is None:
        return result
    with connect(desk.home) as client, Fleet.of(desk.home).listening(client) as fleet:
        outcomes = wait.over(fleet, same, desk.progress)
    return msgspec.structs.replace(result, ending=ending_of(outcomes, wait.devices), devices=outcomes)


def _words(info: ReleaseInfo, message: str, who: str = "") -> str:
    """Return the message of the promoted release: what was said, and in brackets where it came from, within bounds."""
    said = message or info.message
    origin = f"(from {info.channel} {info.name}, promoted by {who or signer()})"
    room = MESSAGE_CHARACTERS_MAX - len(origin) - 1
    if len(said) > room:
        said = said[: room - 1] + "…"
    return f"{said} {origin}" if said else origin[1:-1]
