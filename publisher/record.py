"""The repository of record: an object store, by default a directory, in which nothing is ever overwritten (T7).

Objects are created only if absent, whole or not at all; who creates a number second loses with `Conflict`. Blobs live
under their digest. It knows paths and bytes, and nothing of what they mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ConfigError, FieldcastError, StoreError, TransportError

__all__ = ["Conflict", "Record"]


class Conflict(TransportError):
    """Someone else published first. Nothing of ours is visible; read the record again and retry."""


class Record:
    """Objects by path in a directory, or in an object store named by URL (`s3://…`, `gs://…`, `az://…`).

    What a directory refuses is `StoreError`, what a remote store refuses `TransportError`.
    """

    def __init__(self, location: str | Path) -> None:
        self._local = "://" not in str(location)
        self.location = str(Path(location).absolute()) if self._local else str(location)
        self._settled: set[Path] = set()
        try:
            self._store: ObjectStore = LocalStore(self.location, mkdir=True) if self._local else from_url(self.location)
        except (BaseError, OSError, ValueError) as error:
            raise ConfigError(
                f"repository of record {self.location!r} cannot be opened: {_first_line(error)}"
            ) from None

    def create(self, path: str, data: bytes) -> None:
        """Create an object, durably. Raises `Conflict` if the path is taken."""
        with self._errors(path):
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                raise Conflict(
                    f"{path} was created by someone else: nothing of ours is visible; run it again"
                ) from None
            self._settle(path)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object of at most `bytes_max` bytes, or None if there is none."""
        with self._errors(path):
            try:
                found = obstore.get(self._store, path)
            except (NotFoundError, FileNotFoundError):
                return None
            if found.meta["size"] > bytes_max:
                raise StoreError(
                    f"{path} in {self.location} has {found.meta['size']} bytes, expected up to {bytes_max}"
                )
            return bytes(found.bytes())

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects directly in `folder`."""
        with self._errors(folder):
            listing = obstore.list_with_delimiter(self._store, folder)
            return [entry["path"].rpartition("/")[2] for entry in listing["objects"]]

    def walk(self, folder: str) -> list[str]:
        """Return the paths of all objects in `folder`, at any depth."""
        with self._errors(folder):
            return [entry["path"] for page in obstore.list(self._store, folder) for entry in page]

    def put_blob(self, data: bytes) -> BlobRef:
        """Keep a blob; return its reference. An equal one that is there already is as good, a damaged one is healed."""
        ref = BlobRef.of(data)
        path = _blob_path(ref)
        try:
            self.create(path, data)
        except Conflict:
            if not self.has_blob(ref):
                with self._errors(path):
                    obstore.put(self._store, path, data, mode="overwrite", use_multipart=False)
                    self._settle(path)
        return ref

    def get_blob(self, ref: BlobRef) -> bytes:
        """Return a blob, verified by size and sha256. Raises `StoreError` if it is missing or damaged."""
        data = self.read(_blob_path(ref), ref.size)
        if data is None:
            raise StoreError(f"blob {ref.digest} is missing in {self.location}: push the release again")
        if not ref.matches(data):
            raise StoreError(f"blob {ref.digest} in {self.location} is damaged: push the release again to heal it")
        return data

    def has_blob(self, ref: BlobRef) -> bool:
        """Tell whether a blob is here and undamaged."""
        try:
            self.get_blob(ref)
        except StoreError:
            return False
        return True

    def _settle(self, path: str) -> None:
        """Force a new file and its directory entries to disk: the order of commits must survive a power cut."""
        if not self._local:
            return
        file = Path(self.location, path)
        above = [one for one in file.parents[1:] if one.is_relative_to(self.location)]
        new = [] if file.parent in self._settled else above  # entries of directories that this put may have made
        for place in (file, file.parent, *new):
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._settled.add(file.parent)

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Turn what the store raises into ours, by who must act."""
        try:
            yield
        except FieldcastError:
            raise
        except (BaseError, OSError) as error:
            kind = StoreError if self._local else TransportError
            raise kind(f"repository of record {self.location}, {path}: {_first_line(error)}") from None


def _blob_path(ref: BlobRef) -> str:
    return f"blob/{ref.digest.hex[:2]}/{ref.digest.hex}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
