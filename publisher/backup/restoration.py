"""Restores a home and its record from a backup, after everything in it has been checked.

Refused before anything is written: a file that is no backup or was damaged, a member that is not in its index or whose
name leads anywhere but into the home and the record, a home that exists, a history that the pinned roots do not vouch
for, a record elsewhere that tells another history, and a broker that announces a newer one. From the last there is a
way out: to *adopt* what the broker announces, which the same keys have signed; only then do devices, whose floors have
risen since the backup, take what is pushed next.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import AuthorError, ConfigError, FieldcastError, StoreError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import Topics, decode_envelope
from edge_agent.transport.client import Client
from edge_agent.transport.puller import Puller
from publisher.backup.backup_file import INDEX_BYTES_MAX, Index, examine, unpack
from publisher.collection import offered_manifests
from publisher.config import HOME_NAME, Home, chosen_home, load_home
from publisher.devices.authority import KEY_NAME, Authority
from publisher.devices.broker_directory import certify_publisher
from publisher.record import Record, blob_path
from publisher.trust.chronicle import trusted
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.publication import Publication, Shelf
from publisher.trust.repository import Channel
from publisher.trust.roles import DELEGATED, Roles, parse
from publisher.uplink import Uplink, connect

__all__ = ["Restored", "restore"]

FETCH_SECONDS = 20.0
_NEWER = (
    "releases were published after this backup was made. Restore a newer backup; if there is none, restore with "
    "--adopt, which goes on from what the broker announces"
)


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored. `adopted` are the channels whose newest state came from the broker; `missing` what did not."""

    home: str
    fleet: str
    channels: dict[str, int]
    keys: bool
    record: str
    adopted: list[str] = []
    missing: list[str] = []


def restore(
    file: str | Path,
    *,
    home: str | Path | None = None,
    offline: bool = False,
    adopt: bool = False,
    passphrase: Passphrase = ask,
) -> Restored:
    """Restore a backup into a new home (`$FIELDCAST_HOME`, or `.fieldcast` here) and into the record that it names.

    `offline` does not ask the broker whether it announces a newer history (every push asks it again). `adopt` takes
    that over. A backup never holds the key by which the workstation gets into the broker: with the authority's, which
    `passphrase` opens, a new one is made and certified. Raises `ConfigError` for the file and the place, `AuthorError`
    for a history that is not this one.
    """
    source = Path(file)
    target = chosen_home(home) or Path(HOME_NAME).absolute()
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already: nothing was changed")
    index = examine(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"{target} cannot be made: {error.strerror}") from None
    try:
        unpack(source, index, building)
        place = load_home(building / "home")
        staged = Record(building / "record")
        _require_trust(place, staged, index)
        _let_in(place, passphrase)
        adopted, missing = ([], []) if offline else _meet_broker(place, staged, adopt)
        location = _settle(place, staged, building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Restored(
        home=str(target),
        fleet=index.fleet,
        channels=index.channels,
        keys=index.keys,
        record=location,
        adopted=adopted,
        missing=missing,
    )


# --- its history -----------------------------------------------------------------------------------------------------


def _require_trust(place: Home, staged: Record, index: Index) -> None:
    """The pinned roots must vouch for what is about to become this workstation's record."""
    if place.fleet != index.fleet or set(place.channels) != set(index.channels):
        raise ConfigError(f"the backup says fleet {index.fleet}, its configuration another: nothing was changed")
    for name in place.channels:
        trusted(Channel(staged, place.fleet, name), place)


def _let_in(place: Home, passphrase: Passphrase) -> None:
    """Make the workstation a new key for the broker, if its own stayed behind and the authority's is here."""
    access = place.file(place.broker.key)
    if access is None or access.exists() or not KeyStore(place.keys).has(KEY_NAME):
        return
    now, secret = time.time(), passphrase if isinstance(passphrase, str) else passphrase()
    certify_publisher(place, Authority.open(place, secret, now), now)


def _meet_broker(place: Home, staged: Record, adopt: bool) -> tuple[list[str], list[str]]:
    """Refuse a broker that announces a newer history, or adopt that; return the channels adopted, and what lacks."""
    adopted, missing = [], []
    with connect(place) as client:
        for name in place.channels:
            channel = Channel(staged, place.fleet, name)
            uplink = Uplink(client, channel)
            try:
                uplink.require_one_history(_NEWER)
            except AuthorError:
                if not adopt:
                    raise
                _adopt(place, channel, uplink.announced_envelope() or b"")
                adopted.append(name)
                missing += _fetch(client, channel)
    return adopted, missing


def _adopt(place: Home, channel: Channel, envelope: bytes) -> None:
    """Take a publication from an envelope over into the record, as the next one. Raises `UpdateRejected`."""
    trusted(channel, place, envelope)
    found = decode_envelope(envelope)
    roots = [
        found.metadata[f"{n}.root.json"] for n in range(1, len(found.metadata)) if f"{n}.root.json" in found.metadata
    ]
    files = {"timestamp": found.metadata["timestamp.json"]}
    for role in ("snapshot", "targets", *DELEGATED):
        files[role] = next(data for name, data in found.metadata.items() if name.partition(".")[2] == f"{role}.json")
    roles = Roles(root=parse("root", roots[-1]), **{role: parse(role, data) for role, data in files.items()})
    shelf = Shelf(channel.record, channel.fleet, channel.name)
    number = shelf.numbers()[-1] + 1
    shelf.keep(Publication(number=number, roles=roles, files=files, roots=tuple(roots), documents=found.targets))


def _fetch(client: Client, channel: Channel) -> list[str]:
    """Fetch the blobs of the releases offered now from the broker; return those that are not there."""
    missing = []
    with tempfile.TemporaryDirectory(prefix="fieldcast-restore-") as directory:
        puller = Puller(client, Topics(channel.fleet), Path(directory))
        with client.listening(lambda topic, payload, retain: _hand(puller, topic, payload)):
            wanted = {ref for data in offered_manifests(channel) for ref in parse_manifest(data).blobs()}
            for ref in sorted(wanted, key=lambda one: one.digest):
                if channel.record.has_blob(ref):
                    continue
                try:
                    target = Path(directory) / ref.digest.hex
                    puller.fetch(ref, target, timeout_seconds=FETCH_SECONDS, stop=threading.Event())
                    channel.record.put_blob(target.read_bytes())
                except FieldcastError as error:
                    missing.append(f"{channel.name}: blob {ref.digest.short}: {error}")
    return missing


def _hand(puller: Puller, topic: str, payload: bytes) -> None:
    puller.on_message(topic, payload)


# --- into place ------------------------------------------------------------------------------------------------------


def _settle(place: Home, staged: Record, building: Path, target: Path) -> str:
    """Put the record where the configuration says and the home in its place, the home last; return the former."""
    inside = Path(os.path.normpath(place.path / place.record))
    if "://" not in place.record and inside.is_relative_to(place.path) and inside != place.path:
        inside.parent.mkdir(parents=True, exist_ok=True)
        (building / "record").rename(inside)
        location = str(target / inside.relative_to(place.path))
    else:
        # A path relative to the home means the one that it will have.
        location = place.record if "://" in place.record else os.path.normpath(target / place.record)
        _merge(staged, Record(location))
    place.path.chmod(0o755)
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} was made by someone else just now: nothing of it was changed")
    place.path.rename(target)
    return location


def _merge(staged: Record, record: Record) -> None:
    """Create what a record elsewhere lacks. Raises `AuthorError`, and then creates nothing, if it contradicts."""
    paths = staged.walk("")
    contents = sorted(path for path in paths if path.startswith("blob/"))
    named = sorted(set(paths) - set(contents), key=_in_order)
    lacking = []
    for path in named:
        there = record.read(path, INDEX_BYTES_MAX)
        if there is None:
            lacking.append(path)
        elif there != staged.read(path, INDEX_BYTES_MAX):
            raise AuthorError(f"the record {record.location} has another {path}: two histories do not become one")
    for path in contents:
        data = staged.read(path, 1 << 62) or b""
        if blob_path(BlobRef.of(data)) != path:
            raise StoreError(f"{path} in the backup is not what its name says: use another copy")
        record.put_blob(data)
    for path in lacking:
        record.create(path, staged.read(path, INDEX_BYTES_MAX) or b"")


def _in_order(path: str) -> tuple[str, int, str]:
    """Publications by number: each is complete before the next one is there."""
    folder, _, name = path.rpartition("/")
    number = name.partition(".")[0]
    return folder, int(number) if number.isdecimal() else 0, name
