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

import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import check_name
from edge_agent.transport.address import Address

__all__ = ["HOME_NAME", "BrokerAccess", "Home", "access_arguments", "chosen_home", "find_home", "load_home"]

HOME_NAME = ".fieldcast"
FILE_NAME = "publisher.toml"
VARIABLE = "FIELDCAST_HOME"


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


def chosen_home(named: str | Path | None = None) -> Path | None:
    """Return the home that is named, by argument or by `$FIELDCAST_HOME`, whether it exists or not."""
    given = named or os.environ.get(VARIABLE)
    return Path(given).expanduser().absolute() if given else None


def find_home(named: str | Path | None = None) -> Path:
    """Return the home directory. Raises `ConfigError` when there is none."""
    path = chosen_home(named)
    if path is not None:
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
        check_names(found.fleet, found.channels, found.broker.url)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_words(str(error))}") from None
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return Home(path=path, fleet=found.fleet, broker=found.broker, channels=found.channels, record=found.record)


def check_names(fleet: str, channels: Sequence[str], broker: str) -> None:
    """Raise `ConfigError` for a name or broker URL that no fleet can have, or no or repeated channels."""
    try:
        check_name("fleet", fleet)
        for channel in channels:
            check_name("channel", channel)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not channels or len(set(channels)) != len(channels):
        raise ConfigError("channels: name at least one, and each once")
    Address.parse(broker)


def write_home(path: Path, *, fleet: str, broker: str, channels: Sequence[str]) -> Home:
    """Write the configuration of a new home into the directory `path`, and return what it says."""
    lines = [
        f"fleet = {quoted(fleet)}",
        f"channels = [{', '.join(map(quoted, channels))}]",
        'record = "record"  # or an object store: s3://…, gs://…, az://…',
        "",
        "[broker]",
        f"url = {quoted(broker)}",
        *(f'# {key} = ""' for key in msgspec.structs.asdict(BrokerAccess(url="")) if key != "url"),
    ]
    (path / FILE_NAME).write_text("\n".join(lines) + "\n")
    return load_home(path)


def register_channel(home: Home, channel: str) -> Home:
    """Add a channel to a home's configuration, in one step and leaving the rest as its owner wrote it.

    Raises `ConfigError` when the list of channels cannot be found in the file.
    """
    file = home.path / FILE_NAME
    before = file.read_text()
    listed = f"channels = [{', '.join(map(quoted, [*home.channels, channel]))}]"
    after = re.sub(r"(?ms)^[ \t]*channels[ \t]*=[ \t]*\[[^\]]*\]", lambda _: listed, before, count=1)
    try:
        expected = {**tomllib.loads(before), "channels": [*home.channels, channel]}
        good = tomllib.loads(after) == expected
    except tomllib.TOMLDecodeError:
        good = False
    if not good:
        raise ConfigError(f"{file}: the list of channels is written in an unusual way: write there {listed}")
    temporary = file.with_name(f".{FILE_NAME}.new-{os.getpid()}")
    try:
        with temporary.open("w") as stream:
            os.fchmod(stream.fileno(), file.stat().st_mode & 0o777)
            stream.write(after)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return load_home(home.path)


def quoted(text: str) -> str:
    """Return `text` as a TOML string."""
    return msgspec.json.encode(text).decode()


def access_arguments(home: Home) -> dict[str, Any]:
    """Return what `Client` needs to get into the home's broker. Raises `ConfigError` for an unreadable password."""
    broker = home.broker
    password = home.file(broker.password_file)
    try:
        secret = password.read_text().rstrip("\r\n") if password is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{password}: cannot be read: {getattr(error, 'strerror', 'it is not text')}") from None
    return {
        "ca": home.file(broker.ca),
        "cert": home.file(broker.cert),
        "key": home.file(broker.key),
        "username": broker.username or None,
        "password": secret,
    }


def _words(fault: str) -> str:
    """Turn msgspec's words (`Expected … - at `$.broker``) into ours: key path first, and what was probably meant."""
    said, _, place = fault.partition(" - at `$")
    table = place.strip(".`")
    unknown = re.search("unknown field `(.*)`", said)
    if unknown is None:
        missing = re.search("missing required field `(.*)`", said)
        key = ".".join(filter(None, [table, missing[1] if missing else ""]))
        return f"{key or 'the file'}: {'missing' if missing else said.replace('`', '')}"
    known = [field.encode_name for field in msgspec.structs.fields(BrokerAccess if table else _File)]
    near = difflib.get_close_matches(unknown[1], known, 1)
    advice = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}"
    return f"{'.'.join(filter(None, [table, unknown[1]]))}: unknown key; {advice}"
