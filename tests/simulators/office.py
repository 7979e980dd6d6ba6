"""A publisher's home whose releases need no packing: small manifests with one blob each, signed, sent and announced.

office = Office.found(tmp_path / "home", broker.url)
office.push("a")                      # the road of a push without author's files and preflight
office.sign("b", channel="staging")   # only into the record
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.manifest import InputSpec, Manifest, OutputSpec, Stage, encode_manifest, parse_manifest
from edge_agent.contract.messages import Topics
from edge_agent.transport import blobs
from edge_agent.transport.client import Client
from publisher.config import Home, load_home
from publisher.desk import Desk, Ending, PushResult
from publisher.founding import init
from publisher.promotion import promote
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel, Published
from publisher.uplink import connect
from tests.simulators.thrift import cheap_keys, verifier_at_hand
from tests.simulators.waiting import until

__all__ = ["PASSPHRASE", "Office", "at_hand", "blob_of", "manifest_of", "retained"]

PASSPHRASE = "correct horse"
_FENCE = "fieldcast-test/fence"


@contextlib.contextmanager
def at_hand() -> Iterator[None]:
    """Ask the verifier's own code without starting a process for each question, and wait less for what is not there.

    For tests that stand for something else than verification: a process costs more than all the rest of them.
    """
    with verifier_at_hand(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("publisher.uplink.RETAINED_SECONDS", 0.3)
        patch.setattr("publisher.inventory.QUIET_SECONDS", 0.3)
        yield


def blob_of(marker: str, size: int = 300) -> bytes:
    """Return the one blob of the release with this marker."""
    return f"blob of {marker} ".encode().ljust(size, b".")


def manifest_of(marker: str, pipeline: str = "meter", size: int = 300) -> bytes:
    """Return a manifest that pins one blob."""
    return encode_manifest(
        Manifest(
            format=1,
            pipeline=pipeline,
            stages=[Stage(name="window", target="edge_agent.sdk.window:Window", fingerprint=f"builtin:{marker}")],
            input=InputSpec(columns=["x"]),
            output=OutputSpec(columns=["y"]),
            self_test=BlobRef.of(blob_of(marker, size)),
        )
    )


@dataclass(frozen=True)
class Office:
    """A home, and short ways to sign and push."""

    home: Home

    @classmethod
    def found(cls, path: Path, url: str, *, record: str = "", fleet: str = "") -> Office:
        """Found a fleet with staging and production; `record` puts its record elsewhere."""
        with cheap_keys():
            home = init(fleet or f"f{secrets.token_hex(5)}", url, passphrase=PASSPHRASE, home=path)
        if record:
            office = cls(home)
            office.move_record(record)
            return cls(load_home(path))
        return cls(home)

    def reload(self) -> Home:
        """Read the home's configuration again."""
        return load_home(self.home.path)

    def move_record(self, location: str, *, keep: bool = False) -> None:
        """Copy the record to another place and let the home name that."""
        old, new = Record(self.home.record_location), Record(location)
        for path in old.walk("channel") + old.walk("blob"):
            new.create(path, old.read(path, 10_000_000) or b"")
        file = self.home.path / "publisher.toml"
        text = file.read_text()
        line = next(one for one in text.splitlines() if one.startswith("record = "))
        file.write_text(text.replace(line, f'record = "{location}"'))
        if not keep:
            shutil.rmtree(self.home.path / "record")

    def copy(self, path: Path) -> Office:
        """Copy the home to another workstation."""
        shutil.copytree(self.home.path, path)
        return Office(load_home(path))

    def fresh(self, path: Path) -> Office:
        """Copy the home, and clear the broker of what the fleet left there: one more test begins."""
        seen: set[str] = set()
        with connect(self.home) as client:
            with client.listening(lambda topic, payload, retain: seen.add(topic) if payload else None):
                client.subscribe([self.topics.everything(), _FENCE])
                client.publish(_FENCE, b"here", retain=True).wait(30.0)
                until(lambda: _FENCE in seen, what="the fence")
                client.unsubscribe([self.topics.everything(), _FENCE])
            for topic in seen:
                client.publish(topic, b"", retain=True).wait(30.0)
        return self.copy(path)

    @property
    def topics(self) -> Topics:
        """The fleet's topics."""
        return Topics(self.home.fleet)

    @property
    def keys(self) -> KeyStore:
        """The key store."""
        return KeyStore(self.home.keys)

    @property
    def record(self) -> Record:
        """The repository of record."""
        return Record(self.home.record_location)

    def channel(self, name: str = "staging") -> Channel:
        """A channel in the record."""
        return Channel(self.record, self.home.fleet, name)

    def sign(
        self, marker: str, *, channel: str = "staging", pipeline: str = "meter", size: int = 300, **words: Any
    ) -> Published:
        """Keep the blob and sign the release into the record; tell nobody."""
        self.record.put_blob(blob_of(marker, size))
        return self.channel(channel).publish(
            manifest_of(marker, pipeline, size), pipeline=pipeline, keys=self.keys, passphrase=PASSPHRASE, **words
        )

    def back(self, sequence: int, *, channel: str = "staging", pipeline: str = "meter") -> Published:
        """Offer an older release again, in the record."""
        return self.channel(channel).republish(sequence, pipeline=pipeline, keys=self.keys, passphrase=PASSPHRASE)

    def refresh(self, channel: str = "staging") -> bytes:
        """Sign timestamp and snapshot anew, in the record."""
        return self.channel(channel).refresh(keys=self.keys, passphrase=PASSPHRASE)

    def push(
        self, marker: str, *, channel: str = "staging", pipeline: str = "meter", size: int = 300, **words: Any
    ) -> PushResult:
        """Send, sign and announce, as `publisher push` does after its preflight."""
        told = words.pop("progress", lambda said: None)
        desk = Desk.at(self.home, channel, told)
        data = manifest_of(marker, pipeline, size)
        hand = {**desk.hand(desk.unlock(PASSPHRASE)), **words}
        sign = functools.partial(desk.channel.publish, data, pipeline=pipeline, **hand)
        result = PushResult(ending=Ending.PUBLISHED, channel=channel, pipeline=pipeline, digest=Digest.of(data))
        return desk.offer(result, parse_manifest(data), [blob_of(marker, size)], sign, None)

    def promote(self, reference: str, **options: Any) -> PushResult:
        """Promote from staging to production."""
        options = {"to": "production", **options}
        return promote(reference, home=self.home.path, passphrase=PASSPHRASE, **options)

    def lacks(self, *markers: str, size: int = 300) -> list[str]:
        """Return those of the releases whose blob the broker lacks."""
        refs = {BlobRef.of(blob_of(marker, size)): marker for marker in markers}
        with connect(self.home) as client:
            return sorted(refs[one] for one in blobs.absent(client, self.topics, refs, 0.4))


def retained(client: Client, topic: str, seconds: float = 5.0) -> bytes:
    """Return the retained message of a topic; empty when none comes in time."""
    heard = threading.Event()
    found: list[bytes] = []

    def hear(where: str, payload: bytes, retain: bool) -> None:
        if where == topic:
            found.append(payload)
            heard.set()

    with client.listening(hear):
        client.subscribe([topic])
        heard.wait(seconds)
        client.unsubscribe([topic])
    return found[0] if found else b""
