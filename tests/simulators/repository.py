"""A TUF repository of any roles that signs on demand and serves over HTTP, truthfully or not.

Where `channel.py` makes our own envelopes, this one makes what the public conformance suite makes: arbitrary delegated
roles, key types, thresholds, with or without consistent snapshots. Roles are plain `tuf` objects that a test may change
before `publish` signs them; `spoiled` replaces what is served under a path by other bytes, or by an endless stream.

    with Repository().serving() as repository:
        repository.artifact("targets", "file", b"content")
        repository.publish("targets", "snapshot", "timestamp")
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib import parse

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edge_agent.contract.digest import Digest

TOP = ("root", "timestamp", "snapshot", "targets")
ENDLESS_PIECE = b" " * 65_536


class Endless:
    """Serve this instead of a file: bytes without end, or `pause_seconds` apart one at a time."""

    def __init__(self, piece: bytes = ENDLESS_PIECE, pause_seconds: float = 0.0) -> None:
        self.piece, self.pause_seconds = piece, pause_seconds


class Repository:
    """All roles with their keys in memory. `signed[role]` are the versions published, oldest first.

    `keys[role]` are the signers that sign; `root` and delegations say which keys are in force. `asked` lists the
    requests since the start: (role, version or None) for metadata, (path, hash prefix or "") for artifacts.
    """

    def __init__(self, *, consistent_snapshot: bool = True, hashes: bool = False) -> None:
        self.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        self.hashes = hashes
        self.root = Root(expires=self.expires, consistent_snapshot=consistent_snapshot)
        self.timestamp, self.snapshot = Timestamp(expires=self.expires), Snapshot(expires=self.expires)
        self.roles: dict[str, Targets] = {"targets": Targets(expires=self.expires)}
        self.keys: dict[str, list[CryptoSigner]] = {}
        self.signed: dict[str, dict[int, bytes]] = {}
        self.newest: dict[str, bytes] = {}
        self.artifacts: dict[str, bytes] = {}
        self.spoiled: dict[str, bytes | Endless] = {}
        self.asked: list[tuple[str, Any]] = []
        self.url = ""
        for role in TOP:
            self.rotate(role)
        self.publish(*reversed(TOP), bump=False)

    # --- what key holders do -----------------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> bytes:
        """The first root."""
        return self.signed["root"][1]

    def role(self, name: str) -> Any:
        """Return the role object that `publish` signs."""
        return getattr(self, name) if name in ("root", "timestamp", "snapshot") else self.roles[name]

    def rotate(self, role: str, count: int = 1, *, owner: str = "root", threshold: int = 1) -> None:
        """Give `role` new keys; `owner` is who says so and must be published for it to hold."""
        said = self.role(owner)
        entry = said.roles[role] if owner == "root" else said.delegations.roles[role]
        entry.keyids.clear()
        entry.threshold = threshold
        self.keys[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
        for signer in self.keys[role]:
            said.add_key(signer.public_key, role)

    def delegate(self, name: str, *paths: str, owner: str = "targets", terminating: bool = False) -> Targets:
        """Let `owner` trust a role `name` with `paths`; publish both."""
        giver = self.roles[owner]
        if giver.delegations is None:
            giver.delegations = Delegations({}, {})
        assert giver.delegations.roles is not None
        giver.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, list(paths) or ["*"])
        if name not in self.roles:
            self.roles[name] = Targets(expires=self.expires)
            self.keys[name] = [CryptoSigner.generate_ed25519()]
        giver.add_key(self.keys[name][0].public_key, name)
        return self.roles[name]

    def artifact(self, role: str, path: str, data: bytes) -> None:
        """List bytes under a path, and serve them."""
        self.roles[role].targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self.artifacts[path] = data

    def publish(self, *names: str, bump: bool = True) -> None:
        """Sign roles in this order, under the next version unless told not to; snapshot and timestamp note it."""
        for name in names:
            signed = self.role(name)
            signed.version += 1 if bump and name in self.signed else 0
            metadata = Metadata(signed)
            metadata.signatures.clear()
            for signer in self.keys[name]:
                metadata.sign(signer, append=True)
            data = metadata.to_bytes(JSONSerializer(compact=True))
            self.signed.setdefault(name, {})[signed.version] = self.newest[name] = data
            pin = MetaFile(signed.version, *((len(data), {"sha256": Digest.of(data).hex}) if self.hashes else ()))
            if name == "snapshot":
                self.timestamp.snapshot_meta = pin
            elif name in self.roles:
                self.snapshot.meta[f"{name}.json"] = pin

    def renew(self, *names: str) -> None:
        """Publish roles and, as always after them, snapshot and timestamp."""
        self.publish(*names, "snapshot", "timestamp")

    # --- what travels ------------------------------------------------------------------------------------------------

    def fetch(self, path: str) -> bytes | Endless:
        """Return what is served under a path. Raises `LookupError`."""
        kind, _, name = path.partition("/")
        if kind == "metadata" and name.endswith(".json"):
            return self._metadata(path, name.removesuffix(".json"))
        if kind == "targets":
            folder, slash, last = name.rpartition("/")
            prefix = ""
            if self.root.consistent_snapshot:
                prefix, _, last = last.partition(".")
            name = f"{folder}{slash}{last}"
            self.asked.append((name, prefix))
            return self.spoiled.get(f"targets/{name}", self.artifacts[name])
        raise LookupError(path)

    def _metadata(self, path: str, name: str) -> bytes | Endless:
        version, dot, role = name.partition(".")
        numbered = bool(dot) and (role == "root" or (self.root.consistent_snapshot and name != "timestamp"))
        role = parse.unquote(role if numbered else name)
        self.asked.append((role, int(version) if numbered else None))
        if path in self.spoiled:
            return self.spoiled[path]
        return self.signed[role][int(version)] if numbered else self.newest[role]

    @contextlib.contextmanager
    def serving(self) -> Iterator[Repository]:
        """Serve on a free port of loopback, below `url`."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"repository": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    repository: Repository

    def do_GET(self) -> None:
        try:
            found = self.repository.fetch(self.path.lstrip("/"))
        except (LookupError, ValueError) as error:
            self.send_error(404, str(error)[:80])
            return
        self.send_response(200)
        if isinstance(found, bytes):
            self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if isinstance(found, bytes):
            self.wfile.write(found)
            return
        with contextlib.suppress(OSError):  # the client has had enough: that is the point
            while True:
                self.wfile.write(found.piece)
                self.wfile.flush()
                if found.pause_seconds:
                    threading.Event().wait(found.pause_seconds)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""
