"""A device whose agent is killed: its state directory, its lives, and what is found on its disk from outside.

Nothing here asks the agent. The database is read by a second connection, the disk by its files, and what should be
there is worked out from the literal tables and the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import BlobRef, Digest, encode_msgpack
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.contract.verification import Floor, Verified
from edge_agent.update.deployment import TRANSITIONS, UNDER_WAY, Write
from edge_agent.update.layout import lay_out
from edge_agent.update.mirror import Mirror
from publisher.packaging import pack
from publisher.packing.project import find_pipeline
from tests.simulators import author
from tests.simulators.waiting import until

__all__ = ["SLOT", "Device", "Release", "Scene", "Wrapped"]

SLOT, CHANNEL, FLEET = "meter", "staging", "plant"
STOP_SECONDS, SETTLE_SECONDS = 60.0, 60.0

_CONFIG = """\
[device]
id = "d1"
fleet = "plant"
state = "state"

[channel.staging]
root = "root.json"

[blobs]
sources = ["file:///nowhere"]

[slot.meter]
channel = "staging"
policy = { settle_seconds = 0 }
input = { source = "csv", path = "in.csv", columns = { x = "x" }, rate_hz = 200.0, repeat = true }
output = { sink = "sqlite", path = "out.db" }
"""

_ROWS = {(row.state.value, row.event.value): row for row in TRANSITIONS}


@dataclass(frozen=True)
class Release:
    """One release as the key holders have it."""

    info: ReleaseInfo
    manifest: bytes
    parsed: Manifest


class Wrapped:
    """The process that forks agents. See `wrapped.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("wrapped.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FIELDCAST_"))},
        )

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def ask(self, what: str, about: Any) -> int:
        """Start a life or collect one; return its process id or how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({what: about}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return next(iter(answer.values()))


class Scene:
    """Three releases, what announces them, and state directories to begin from, made once."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.shelf = directory, directory / "shelf"
        self.shelf.mkdir(parents=True)
        self._version = 0
        self.releases = [self._release(number) for number in (1, 2, 3)]
        self.templates: dict[int, Path] = {}

    def _release(self, number: int) -> Release:
        source = self.directory / f"meter{number}.py"
        source.write_text(author.scale(number))
        package = pack(find_pipeline(str(source)))
        for digest, data in package.blobs.items():
            (self.shelf / digest.hex).write_bytes(data)
        info = ReleaseInfo(
            fleet=FLEET,
            channel=CHANNEL,
            pipeline=SLOT,
            sequence=number,
            digest=Digest.of(package.data),
            published=int(time.time()),
        )
        return Release(info, package.data, package.manifest)

    def envelope(self, number: int) -> bytes:
        """Sign release `number` as the candidate for everybody, the one before as stable."""
        self._version += 1
        known = self.releases[max(0, number - 2) : number]
        expires = time.time() + 14 * 86_400.0
        rollout = Rollout(
            fleet=FLEET,
            channel=CHANNEL,
            pipeline=SLOT,
            rollout_id=f"r{number}",
            candidate=number,
            stable=number - 1 or None,
        )
        return encode_msgpack(
            Verified(
                releases=[one.info for one in known],
                rollouts=[rollout],
                manifests={str(one.info.digest): one.manifest for one in known},
                floors=[Floor(role="timestamp", keyset="k", version=self._version)],
                expires_at=expires,
                timestamp_expires_at=expires,
            )
        )

    def digest(self, number: int) -> str:
        """Return the digest of release `number`."""
        return str(self.releases[number - 1].info.digest)

    def prepare(self, wrapped: Wrapped) -> None:
        """Make the state directories of devices that have committed none, one and two releases."""
        place = self.directory / "template"
        for committed in (0, 1, 2):
            device = Device(self, wrapped, place / str(committed), committed - 1 if committed else None)
            if committed:
                device.start(announce=self.envelope(committed).hex())
                device.settle(committed)
                device.stop()
            self.templates[committed] = device.directory


class Device:
    """One state directory and the agents that lived on it."""

    def __init__(self, scene: Scene, wrapped: Wrapped, directory: Path, committed: int | None = 0) -> None:
        self.scene, self._wrapped, self.directory = scene, wrapped, directory
        if committed is None:
            directory.mkdir(parents=True)
            (directory / "agent.toml").write_text(_CONFIG)
            (directory / "root.json").write_text("{}")
            (directory / "in.csv").write_text("x\n" + "".join(f"0.{number}\n" for number in range(10)))
        else:
            shutil.copytree(scene.templates[committed], directory)
        self.state = directory / "state"
        self.pid = self._lives_before = 0

    # --- lives ---------------------------------------------------------------------------------------------------

    def start(self, **plan: Any) -> int:
        """Begin a life with these fields of a `Plan`."""
        assert not self.pid, "it lives"
        self._lives_before = self._lives()
        about = {"config": str(self.directory / "agent.toml"), "shelf": str(self.scene.shelf), **plan}
        self.pid = self._wrapped.ask("start", about)
        return self.pid

    def reach(self) -> None:
        """Wait until the agent has stopped at its point."""
        self._wait(lambda: _condition(self.pid) in ("T", "t"), STOP_SECONDS, "the point")

    def go_on(self) -> None:
        """Let an agent that stopped at its point go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the agent with SIGKILL, from outside."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the agent cleanly."""
        status = self._end(signal.SIGTERM)
        assert status == 0, f"ended with {status}\n{self.log}"

    def end(self) -> int:
        """Wait until the agent has ended by itself; return how."""
        self._wait(lambda: _condition(self.pid) in ("Z", ""), STOP_SECONDS, "an end")
        pid, self.pid = self.pid, 0
        return self._wrapped.ask("reap", pid)

    def _end(self, how: signal.Signals) -> int:
        pid, self.pid = self.pid, 0
        if not pid:
            return 0
        os.kill(pid, how)
        if how is signal.SIGTERM:
            os.kill(pid, signal.SIGCONT)
        return self._wrapped.ask("reap", pid)

    def settle(self, number: int, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until release `number` is committed, nothing is on its way, and the agent is ready."""
        self._wait(
            lambda: self._lives() > self._lives_before and self.runs(number), seconds, f"release {number} committed"
        )

    def _wait(self, condition: Any, seconds: float, what: str) -> None:
        def holds() -> Any:
            assert what in ("the point", "an end") or _condition(self.pid) not in ("Z", ""), "the agent has ended"
            return condition()

        try:
            until(holds, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.facts()}\n{self.log}") from None

    @property
    def log(self) -> str:
        """The last lines that the agents wrote."""
        path = self.directory / "agent.toml.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-40:]) if path.exists() else ""

    # --- what lies on the disk -----------------------------------------------------------------------------------

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database from outside."""
        if not (self.state / "agent.db").exists():
            return []
        connection = sqlite3.connect(f"file:{self.state}/agent.db?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such" in str(error) or "locked" in str(error):
                return []  # the agent is just making it
            raise
        finally:
            connection.close()

    def write(self, sql: str, *values: Any) -> None:
        """Change the database while no agent lives."""
        with sqlite3.connect(self.state / "agent.db") as connection:
            connection.execute(sql, values)
        connection.close()

    def facts(self) -> str:
        """What the database says, for a failing test."""
        rows = self.rows("select id, release, state, attempts, reboots, due, reasons from deployment")
        journal = self.rows("select deployment, before, event, after, words from journal")
        return "\n".join(map(str, [*rows, *journal]))

    def active(self) -> str:
        """Return the digest of what the slot runs, empty for nothing."""
        found = self.rows("select d.digest from deployment d join slot s on s.active = d.id")
        return str(found[0][0]) if found else ""

    def condemned(self) -> set[str]:
        """Return the digests in quarantine."""
        return {row[0] for row in self.rows("select digest from quarantine")}

    def runs(self, number: int) -> bool:
        """Tell whether this release runs with nothing on its way."""
        states = ", ".join(f"'{state.value}'" for state in UNDER_WAY)
        if self.rows(f"select 1 from deployment where state in ({states})"):
            return False
        if self.rows("select 1 from request where answer is null"):
            return False
        return self.active() == self.scene.digest(number)

    def floors(self) -> dict[str, float]:
        """Return everything that must never fall."""
        rows = self.rows("select channel || role || keyset, version from floor union select key, value from fact")
        return {str(key): float(value) for key, value in rows}

    def _lives(self) -> int:
        path = self.directory / "agent.toml.log"
        return path.read_bytes().count(b": ready device=") if path.exists() else 0

    def journal(self) -> list[tuple[int, str, str, str]]:
        """Return (deployment, before, event, after), oldest first."""
        return [(int(row[0]), *map(str, row[1:])) for row in self.rows(
            "select deployment, before, event, after from journal order by id")]  # type: ignore[misc] # fmt: skip

    # --- what must hold ------------------------------------------------------------------------------------------

    def require_sound(self) -> None:
        """Check everything that must hold at every moment, also of a device that has just been killed."""
        assert self.rows("pragma integrity_check") in ([("ok",)], []), "the database is damaged"
        committed = self.rows("select id from deployment where state = 'committed'")
        active = self.rows("select active from slot where active is not null")
        assert committed == active, f"active changed outside a transaction\n{self.facts()}"
        if Mirror(self.state).memory.committed or committed:
            assert self.active(), "nothing runs any more"
            self._require_runnable(self.active())
        for key, value in Mirror(self.state).memory.facts.items():
            assert self.floors().get(key, 0) <= value, f"the mirror is behind in {key}"
        self._require_budgets()

    def _require_runnable(self, digest: str) -> None:
        """What a worker gets is, byte for byte, what would be laid out from intact blobs now."""
        release = next(one for one in self.scene.releases if str(one.info.digest) == digest)
        root = self.state / "releases" / release.info.digest.hex
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            ideal = lay_out(Path(name), release.manifest, lambda ref: self.scene.shelf / ref.digest.hex)
            assert _files(root) == _files(ideal), f"release {digest} is not whole"
        for ref in release.parsed.blobs():
            assert ref.matches(self.blob(ref).read_bytes()), "a blob of what runs is gone"

    def _require_budgets(self) -> None:
        """Attempts and reboots are what the journal and the table say they are."""
        rows = self.rows("select id, attempts, reboots from deployment")
        for key, attempts, reboots in rows:
            counted = rebooted = 0
            for _, before, event, after in (line for line in self.journal() if line[0] == key):
                row = _ROWS.get((before, event))
                if row is not None and row.next.value != after:
                    row = _ROWS[before, "failed"]  # the last one that the budget allows
                writes = row.writes if row is not None else ()
                counted += Write.COUNT_ATTEMPT in writes
                counted -= Write.REFUND_ATTEMPT in writes or Write.COUNT_REBOOT in writes
                rebooted += Write.COUNT_REBOOT in writes
            assert (attempts, reboots) == (counted, rebooted), f"deployment {key}\n{self.facts()}"

    def until_tidy(self) -> None:
        """Wait until the helper threads of an agent that has settled have cleared away what they were still making."""

        def tidy() -> bool:
            with contextlib.suppress(AssertionError, FileNotFoundError):
                self.require_tidy(running=True)
                return True
            return False

        self._wait(tidy, SETTLE_SECONDS, "a tidy directory")

    def require_tidy(self, *, running: bool = False) -> None:
        """Check that a device that has come to rest keeps nothing half, and nothing without need."""
        releases = self.state / "releases"
        names = {path.name for path in releases.iterdir()}
        wanted = {Digest(row[0]).hex for row in self.rows(
            "select digest from deployment where state in ('committed', 'superseded')")}  # fmt: skip
        assert names <= wanted, f"left below {releases}: {names - wanted}"
        assert not list((self.state / "blobs").glob("partial/*")), "halves of downloads are left"
        for path in (self.state / "blobs").glob("??/*"):
            assert Digest.of(path.read_bytes()).hex == path.name, "half a blob is left"
        known = {"agent.db", "agent.db-wal", "agent.db-shm", "trust.0", "trust.1", "lock", "blobs", "releases"}
        known |= {"verifier.lock", "incidents", "streams"} | ({"agent.sock"} if running else set())
        left = {path.name for path in self.state.iterdir()} - known
        assert not left, f"left in the state directory: {left}"

    def blob(self, ref: BlobRef) -> Path:
        """Return where the device keeps a blob."""
        return self.state / "blobs" / ref.digest.hex[:2] / ref.digest.hex


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _condition(pid: int) -> str:
    """Return the kernel's letter for what a process does, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
