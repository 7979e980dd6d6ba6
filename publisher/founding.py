"""Founds a fleet: a publisher's home with keys and one signed, still empty history per channel.

Nothing is left half-made: the home is built beside its place and renamed into it, and a channel that is added later is
in the configuration only once it is complete.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import AuthorError, ConfigError
from publisher.config import HOME_NAME, Home, check_names, chosen_home, load_home, quoted, register_channel, write_home
from publisher.record import Record
from publisher.trust.creation import create_channel
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.repository import Channel
from publisher.trust.roles import KEYS_MAX

__all__ = ["CHANNELS", "add_channel", "init"]

CHANNELS = ("staging", "production")


def init(
    fleet: str,
    broker: str,
    *,
    passphrase: Passphrase = ask,
    channels: Sequence[str] = CHANNELS,
    home: str | Path | None = None,
    root_keys: int = 1,
    root_threshold: int = 1,
) -> Home:
    """Found `fleet` in a new home (`$FIELDCAST_HOME`, or `.fieldcast` here) with these channels; return the home.

    Each channel gets `root_keys` root keys, of which `root_threshold` must sign a change of its keys.
    Raises `ConfigError` for names, URLs or a home that exists, `AuthorError` for an empty passphrase.
    """
    check_names(fleet, channels, broker)
    numbers = _numbers(root_keys, root_threshold)
    path = chosen_home(home) or Path(HOME_NAME).absolute()
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already: nothing was changed")
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    if not secret:
        raise AuthorError("an empty passphrase does not protect signing keys: choose one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=path.parent))
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}") from None
    try:
        _build(building, fleet, broker, channels, secret, numbers)
        building.chmod(0o755)
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return load_home(path)


def add_channel(
    name: str,
    *,
    passphrase: Passphrase = ask,
    home: str | Path | None = None,
    release_keys: int = 1,
    threshold: int = 1,
    root_keys: int = 1,
    root_threshold: int = 1,
) -> Home:
    """Add a channel with keys and a history of its own to a home; return the home.

    `threshold` of `release_keys` keys must sign a release. An interrupted addition is taken up where it stopped. Raises
    `ConfigError` for a name that the home has, `AuthorError` for one that the record has with other keys.
    """
    place = load_home(home)
    numbers = _numbers(root_keys, root_threshold, release_keys, threshold)
    if name in place.channels:
        raise ConfigError(f"fleet {place.fleet} has a channel {name} already: nothing was changed")
    check_names(place.fleet, [*place.channels, name], place.broker.url)
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    record, keys = Record(place.record_location), KeyStore(place.keys)
    channel = Channel(record, place.fleet, name)
    if not (channel.exists() and keys.pinned(name) == channel.root()):
        channel = create_channel(record, keys, place.fleet, name, secret, **numbers)
    place.device.mkdir(exist_ok=True)
    (place.device / f"{name}.root.json").write_bytes(channel.root())
    return register_channel(place, name)


def _numbers(root_keys: int, root_threshold: int, release_keys: int = 1, threshold: int = 1) -> dict[str, Any]:
    """Return how many keys each role gets and how many of them must sign. Raises `ConfigError`."""
    for role, needed, count in (("root", root_threshold, root_keys), ("release", threshold, release_keys)):
        if not 1 <= needed <= count <= KEYS_MAX:
            raise ConfigError(
                f"a threshold of {needed} with {count} {role} keys: both must be 1 to {KEYS_MAX}, and at least as many "
                f"keys as must sign (--{'root-keys' if role == 'root' else 'release-keys'})"
            )
    return {
        "numbers": {"root": root_keys, "release": release_keys},
        "thresholds": {"root": root_threshold, "release": threshold},
    }


def _build(
    path: Path, fleet: str, broker: str, channels: Sequence[str], passphrase: str, numbers: dict[str, Any]
) -> None:
    home = write_home(path, fleet=fleet, broker=broker, channels=channels)
    record, keys = Record(home.record_location), KeyStore(home.keys)
    home.device.mkdir()
    for channel in channels:
        created = create_channel(record, keys, fleet, channel, passphrase, **numbers)
        (home.device / f"{channel}.root.json").write_bytes(created.root())
    template = _TEMPLATE.format(fleet=fleet, broker=quoted(broker), channel=channels[0], table=_table(channels[0]))
    (home.device / "agent.toml").write_text(template)


def _table(name: str) -> str:
    """Return a name as part of a TOML table's heading: a dot in it would open another table."""
    return quoted(name) if "." in name else name


_TEMPLATE = """\
# A device of fleet {fleet}. Copy this file and the root of its channel to the device, then edit.
[device]
id = "device-1"                 # unique in the fleet
fleet = "{fleet}"
state = "/var/lib/edge-agent"   # the agent's own directory

[broker]
url = {broker}

[channel.{table}]
root = "{channel}.root.json"

# One slot for each pipeline; its name is the pipeline's.
[slot.PIPELINE]
channel = "{channel}"

[slot.PIPELINE.input]
source = "mqtt"
topic = "sensors/device-1"
columns = {{ temperature = "temperature" }}
timestamp = {{ path = "time", unit = "s" }}

[slot.PIPELINE.output]
sink = "mqtt"
topic = "results/device-1"
"""
