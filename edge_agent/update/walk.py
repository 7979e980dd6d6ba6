"""TUF's own client behind one port: follow a repository's metadata from a trusted root, at a given time (T1, T4).

Sets the limits that hold for every role, the clock by which expiry is judged, and nothing else; where the files come
from is a `FetcherInterface`. The verifier walks over one envelope and throws the directory away; the client of the
public TUF conformance suite (`tests/conformance/client`) walks over HTTP and keeps it. Refuses a `tuf` package without
the clock hook rather than judge by the machine's clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api import exceptions
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig  # type: ignore[attr-defined]

from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import ENVELOPE_BYTES_MAX

__all__ = ["BASE", "LIMITS", "Files", "Walk"]

BASE = "envelope:/"
LIMITS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=4,
    root_max_length=ENVELOPE_BYTES_MAX,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=64 * 1024,
    targets_max_length=ENVELOPE_BYTES_MAX,
)


class Files(FetcherInterface):
    """Serves a mapping of file names to bytes to TUF's client, below `BASE`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Look up before returning an iterator: a generator would leak raw errors. A missing file must be a 404, which
        # is also how TUF's client learns that the chain of roots ends.
        name = url.removeprefix(BASE)
        data = self._files.get(name)
        if data is None:
            raise exceptions.DownloadHTTPError(f"the envelope lacks {name}", 404)
        return iter([data])


class Walk:
    """One walk from the root `bootstrap`; `directory` is TUF's cache, and holds what was verified so far.

    `now` is seconds UTC. `base` and `fetcher` say where metadata lies, `targets` (directory, base) where artifacts go
    to and come from. Raises `StoreError` without the clock hook, and what TUF raises for a root that does not stand.
    """

    def __init__(
        self,
        directory: Path,
        fetcher: FetcherInterface,
        *,
        bootstrap: bytes,
        now: float,
        base: str = BASE,
        targets: tuple[str, str] | tuple[None, None] = (None, None),
    ) -> None:
        target_directory, target_base = targets
        self.client = Updater(
            str(directory), base, target_directory, target_base, fetcher=fetcher, config=LIMITS, bootstrap=bootstrap
        )
        self.trusted = set_clock(self.client, datetime.fromtimestamp(now, UTC))

    def refresh(self) -> None:
        """Follow root, timestamp, snapshot and targets; once in a walk. Raises TUF's errors."""
        self.client.refresh()

    def load(self, role: str) -> None:
        """Load the delegated role `role`, which is trusted with `role/*`, after `refresh`. Raises TUF's errors."""
        self.client.get_targetinfo(f"{role}/-")  # no target has this name

    def download(self, path: str) -> Path:
        """Return the artifact `path`, fetched unless the bytes are there. Raises `LookupError` if nobody signed it."""
        info = self.client.get_targetinfo(path)
        if info is None:
            raise LookupError(f"no role in force signs the target {path!r}")
        return Path(self.client.find_cached_target(info) or self.client.download_target(info))


def set_clock(client: Updater, now: datetime) -> Any:
    """Set the time by which TUF judges expiry. The hook is private, so its absence must not pass unnoticed."""
    trusted: Any = getattr(client, "_trusted_set", None)
    if not isinstance(getattr(trusted, "reference_time", None), datetime):
        raise StoreError(
            "this version of the 'tuf' package has no clock hook (Updater._trusted_set.reference_time), so expiry "
            "cannot be judged: install the version that fieldcast asks for"
        )
    trusted.reference_time = now
    return trusted
