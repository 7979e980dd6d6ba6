"""A publisher's home: the directory with its configuration, keys and repository of record.

    .fieldcast/
        publisher.toml     fleet, broker, channels, where the record is
        keys/              encrypted private keys, 0700
        record/            signed metadata and blobs, by default; any object store URL instead
        device/            what a device needs: each channel's first root and a configuration to start from

It is found like git finds a repository: `--home`, `$FIELDCAST_HOME`, or `.fieldcast` here or in a directory above.
Validated as a whole when read; nothing in it is secret.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import check_name

__all__ = ["HOME_NAME", "BrokerAccess", "Home", "find_home", "load_home"]

HOME_NAME = ".fieldcast"
FILE_NAME = "publisher.toml"


class BrokerAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is and how to get in; file paths are relative to the home."""

    url: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password_file: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fleet: str
    broker: BrokerAccess
    channels: list[str]
    record: str = "record"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher's home directory and what its configuration says."""

    path: Path
    fleet: str
    broker: BrokerAccess
    channels: list[str]
    record: str

    @property
    def keys(self) -> Path:
        """The key directory."""
        return self.path / "keys"

    @property
    def device(self) -> Path:
        """What a device is given."""
        return self.path / "device"

    @property
    def record_location(self) -> str | Path:
        """The record: a URL as it is, a path relative to the home."""
        return self.record if "://" in self.record else self.path / self.record

    def file(self, name: str) -> Path | None:
        """Return a file named in the configuration, None for an empty name."""
        return self.path / name if name else None

    def require_channel(self, channel: str) -> str:
        """Return `channel` if this fleet has it. Raises `ConfigError` that names those it has."""
        if channel not in self.channels:
            raise ConfigError(f"unknown channel {channel!r}: fleet {self.fleet} has {', '.join(self.channels)}")
        return channel


def find_home(named: str | Path | None = None) -> Path:
    """Return the home directory. Raises `ConfigError` when there is none."""
    given = named or os.environ.get("FIELDCAST_HOME")
    if given:
        path = Path(given).absolute()
        if not (path / FILE_NAME).is_file():
            raise ConfigError(f"{path} is no publisher's home (no {FILE_NAME}): run `publisher init` first")
        return path
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / HOME_NAME / FILE_NAME).is_file():
            return directory / HOME_NAME
    raise ConfigError(f"no {HOME_NAME}/ here or above: run `publisher init --fleet NAME --broker URL` first")


def load_home(named: str | Path | None = None) -> Home:
    """Find, read and validate a home. Raises `ConfigError` with file and key path."""
    path = find_home(named)
    file = path / FILE_NAME
    try:
        found = msgspec.convert(tomllib.loads(file.read_text()), _File)
        check_name("fleet", found.fleet)
        for channel in found.channels:
            check_name("channel", channel)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return Home(path=path, fleet=found.fleet, broker=found.broker, channels=found.channels, record=found.record)


def write_home(path: Path, *, fleet: str, broker: str, channels: list[str]) -> Home:
    """Write a new home's configuration. Raises `ConfigError` if there is one already."""
    file = path / FILE_NAME
    path.mkdir(parents=True, exist_ok=True)
    lines = [
        f"fleet = {_quoted(fleet)}",
        f"channels = [{', '.join(_quoted(channel) for channel in channels)}]",
        'record = "record"  # or an object store: s3://…, gs://…, az://…',
        "",
        "[broker]",
        f"url = {_quoted(broker)}",
        '# ca = "ca.pem"  cert = "publisher.pem"  key = "publisher.key"  username = ""  password_file = ""',
    ]
    try:
        with file.open("x") as stream:
            stream.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise ConfigError(f"{file} exists: this is a publisher's home already, nothing was changed") from None
    return load_home(path)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def access_arguments(home: Home) -> dict[str, Any]:
    """Return what `Client` needs to get into the home's broker."""
    broker = home.broker
    password = home.file(broker.password_file)
    try:
        secret = password.read_text().rstrip("\r\n") if password is not None else None
    except OSError as error:
        raise ConfigError(f"{password}: cannot be read: {error.strerror}") from None
    return {
        "ca": home.file(broker.ca),
        "cert": home.file(broker.cert),
        "key": home.file(broker.key),
        "username": broker.username or None,
        "password": secret,
    }
