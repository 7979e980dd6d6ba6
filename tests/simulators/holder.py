"""Key holders of one fleet at workstations of their own, and a device that follows what they publish.

ada = Holder.found(tmp_path, "--root-keys", "3")
bob = ada.colleague("bob", "staging-release-2")
bob("key", "sign", "staging", "--yes")
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner, Result

from edge_agent.contract.verification import Floor, Request, Verified
from edge_agent.update import trust
from publisher.cli import main
from publisher.config import load_home
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.repository import Channel
from tests.simulators.broker import free_port

__all__ = ["FLEET", "PASSPHRASE", "Follower", "Holder"]

FLEET, PASSPHRASE = "plant", "correct horse"


@dataclass
class Holder:
    """One workstation: a home with its own key directory; the record is shared."""

    path: Path
    passphrase: str = PASSPHRASE

    @classmethod
    def found(cls, directory: Path, *options: str, broker: str = "") -> Holder:
        """Found a fleet with the one channel `staging`."""
        holder = cls(directory / "ada")
        url = broker or f"mqtt://127.0.0.1:{free_port()}"
        holder.must("init", "--fleet", FLEET, "--broker", url, "--channel", "staging", *options)
        return holder

    @property
    def keys(self) -> KeyStore:
        """The key directory."""
        return KeyStore(self.path / "keys")

    def channel(self, name: str = "staging") -> Channel:
        """A channel in the record."""
        home = load_home(self.path)
        return Channel(Record(home.record_location), home.fleet, name)

    def colleague(self, name: str, *keys: str, take: bool = True) -> Holder:
        """Return another workstation with these keys, taken from here or (`take=False`) copied."""
        other = Holder(self.path.with_name(name), self.passphrase)
        (other.path / "keys").mkdir(parents=True, mode=0o700)
        record = load_home(self.path).record_location
        text = (self.path / "publisher.toml").read_text().replace('record = "record"', f'record = "{record}"')
        (other.path / "publisher.toml").write_text(text)
        for pinned in (self.path / "keys").glob("*.root.json"):
            shutil.copy(pinned, other.path / "keys")
        for key in keys:
            (shutil.move if take else shutil.copy)(self.path / "keys" / f"{key}.pem", other.path / "keys")
        return other

    def __call__(self, *arguments: str, **environment: str | None) -> Result:
        """Run `publisher` here."""
        given = {"FIELDCAST_PASSPHRASE": self.passphrase, "FIELDCAST_HOME": str(self.path), **environment}
        return CliRunner().invoke(main, list(arguments), env=given)

    def must(self, *arguments: str, code: int = 0) -> str:
        """Run `publisher` here and return what it said; another exit code than `code` is the test's failure."""
        done = self(*arguments)
        assert done.exit_code == code, f"{arguments}: {done.exit_code}: {done.output} {done.exception!r}"
        return done.output


@dataclass
class Follower:
    """A device of one channel: it asks the verifier process about every envelope and keeps envelope and floors."""

    root: bytes
    channel: str = "staging"
    accepted: bytes | None = None
    floors: dict[tuple[str, str], int] = field(default_factory=dict)

    def follow(self, envelope: bytes, *, forget: bool = False) -> Verified:
        """Accept an envelope, or raise `UpdateRejected`. `forget`: the accepted one is lost, only floors are left."""
        verified = trust.verify(
            Request(
                fleet=FLEET,
                channel=self.channel,
                now=time.time(),
                root=self.root,
                envelope=envelope,
                accepted=None if forget else self.accepted,
                floors=[Floor(role=role, keyset=keyset, version=one) for (role, keyset), one in self.floors.items()],
            )
        )
        self.accepted = envelope
        for one in verified.floors:
            key = (one.role, one.keyset)
            self.floors[key] = max(one.version, self.floors.get(key, 0))
        return verified
