"""The repository of record: an object store, by default a directory, in which nothing is ever overwritten (T7).

Objects are created only if absent, whole or not at all; who creates a number second loses with `Conflict`. Blobs live
under their digest. It knows paths and bytes, and nothing of what they mean.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ConfigError, FieldcastError, StoreError, TransportError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["Conflict", "Record", "blob_path"]

TIMEOUT_SECONDS = 30.0
RETRIES_MAX = 4
_S3 = ("s3", "s3a")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class Conflict(TransportError):
    """Someone else published first. Nothing of ours is visible; read the record again and retry."""


class Record:
    """Objects by path in a directory, or in an object store named by URL (`s3://…`, `gs://…`, `az://…`).

    Credentials, region and endpoint come from the store's usual environment variables (`AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …). What a directory refuses is `StoreError`, what a
    remote store refuses `TransportError`, a bucket that does not exist `ConfigError`.
    """

    def __init__(self, location: str | Path) -> None:
        text = str(location)
        path = url2pathname(urlsplit(text).path) if text.startswith("file://") else text
        self._local = "://" not in path
        self.location = str(Path(path).absolute()) if self._local else text
        self._settled: set[Path] = set()
        try:
            self._store: ObjectStore = LocalStore(self.location, mkdir=True) if self._local else _remote(text)
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
            except (NotFoundError, FileNotFoundError) as error:
                if _no_bucket(error):
                    raise
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
        path = blob_path(ref)
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
        data = self.read(blob_path(ref), ref.size)
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

    def blob_age_seconds(self, digest: Digest) -> float | None:
        """Return how long ago a blob was written here, by the store's clock and ours; None if it is not here."""
        path = blob_path(BlobRef(digest=digest, size=0))
        with self._errors(path):
            try:
                written = obstore.head(self._store, path)["last_modified"]
            except (NotFoundError, FileNotFoundError) as error:
                if _no_bucket(error):
                    raise
                return None
        return max(0.0, time.time() - written.timestamp())

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
            if not self._local and _no_bucket(error):
                raise ConfigError(
                    f"repository of record {self.location}: there is no such bucket: make it first"
                ) from None
            kind = StoreError if self._local else TransportError
            raise kind(f"repository of record {self.location}, {path}: {_first_line(error)}") from None


def _remote(url: str) -> ObjectStore:
    """Open a store by URL; what only the AWS tools read from the environment is handed on, and bounds are set."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return from_url(url)
    given = [os.environ.get(name, "") for name in _ENDPOINTS] if scheme in _S3 else []
    endpoint = next(filter(None, given), "")
    config = {"endpoint": endpoint} if endpoint else {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if scheme in _S3 and region:
        config["region"] = region
    # Whoever names an endpoint by http:// wants it so: a store on this machine or in this network.
    options: ClientConfig = {"timeout": timedelta(seconds=TIMEOUT_SECONDS)}
    if endpoint.startswith("http://") or scheme == "http":
        options["allow_http"] = True
    retry: RetryConfig = {"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=TIMEOUT_SECONDS)}
    return from_url(url, config=config, client_options=options, retry_config=retry)  # type: ignore[call-overload, no-any-return]


def _no_bucket(error: Exception) -> bool:
    return any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound"))


def blob_path(ref: BlobRef) -> str:
    """Return where a blob lies."""
    return f"blob/{ref.digest.hex[:2]}/{ref.digest.hex}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
