"""Founds a fleet: a publisher's home with keys and one signed, still empty history per channel.

Nothing is left half-made: the home is built beside its place and renamed into it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_agent.contract.errors import AuthorError, ConfigError
from publisher.config import HOME_NAME, Home, check_names, chosen_home, load_home, quoted, write_home
from publisher.keys import KeyStore
from publisher.passphrase import Passphrase, ask
from publisher.record import Record
from publisher.repository import create_channel

__all__ = ["CHANNELS", "init"]

CHANNELS = ("staging", "production")


def init(
    fleet: str,
    broker: str,
    *,
    passphrase: Passphrase = ask,
    channels: Sequence[str] = CHANNELS,
    home: str | Path | None = None,
) -> Home:
    """Found `fleet` in a new home (`$FIELDCAST_HOME`, or `.fieldcast` here) with these channels; return the home.

    Raises `ConfigError` for names, URLs or a home that exists, `AuthorError` for an empty passphrase.
    """
    check_names(fleet, channels, broker)
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
        _build(building, fleet, broker, channels, secret)
        building.chmod(0o755)
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return load_home(path)


def _build(path: Path, fleet: str, broker: str, channels: Sequence[str], passphrase: str) -> None:
    home = write_home(path, fleet=fleet, broker=broker, channels=channels)
    record, keys = Record(home.record_location), KeyStore(home.keys)
    home.device.mkdir()
    for channel in channels:
        created = create_channel(record, keys, fleet, channel, passphrase)
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
