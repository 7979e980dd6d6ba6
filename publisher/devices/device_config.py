"""The configuration that an enrolled device gets: who it is, its broker, its channels, and the slots given for it.

It decides which channels a device follows and what its `agent.toml` says. What the slots mean is the device's to check.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence

from edge_agent.contract.enrolment import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, root_file
from edge_agent.contract.errors import ConfigError
from publisher.config import Home, quoted
from publisher.devices.broker_directory import setup_of

__all__ = ["STATE", "channels_of", "device_config"]

STATE = "/var/lib/edge-agent"


def channels_of(home: Home, channels: Sequence[str], slots: str) -> list[str]:
    """Return which channels the device follows: those given, else those of its slots, else the fleet's first."""
    try:
        tables = tomllib.loads(slots)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the slots are not valid TOML: {error}") from None
    if tables.keys() - {"slot"} or not all(isinstance(one, dict) for one in (tables.get("slot") or {}).values()):
        raise ConfigError("the slots may hold tables [slot.NAME] and nothing else; the rest is enrolment's to say")
    named = [one["channel"] for one in (tables.get("slot") or {}).values() if isinstance(one.get("channel"), str)]
    chosen = list(dict.fromkeys(channels or named or home.channels[:1]))
    missing = sorted(set(named) - set(chosen))
    if missing:
        raise ConfigError(f"the slots follow {', '.join(missing)}, which --channel leaves out")
    return [home.require_channel(one) for one in chosen]


def device_config(
    home: Home, device: str, channels: Sequence[str], labels: Mapping[str, str], slots: str, state: str
) -> str:
    """Return `agent.toml`; `%u` in `slots` stands for the id. Raises `ConfigError` for a broker without TLS."""
    setup = setup_of(home)
    url = setup.url if setup is not None else home.broker.url
    if not url.startswith("mqtts://"):
        raise ConfigError(
            f"{url} takes no certificates: run `publisher broker config --out DIR --use`, or set an mqtts:// URL in "
            f"{home.path}/publisher.toml"
        )
    lines = [
        f"# {device} of fleet {home.fleet}, as enrolled.",
        "[device]",
        f"id = {quoted(device)}",
        f"fleet = {quoted(home.fleet)}",
        f"state = {quoted(state)}",
        *(["", "[device.labels]"] if labels else []),
        *(f"{_key(key)} = {quoted(value)}" for key, value in labels.items()),
        "",
        "[broker]",
        f"url = {quoted(url)}",
        f"ca = {quoted(AUTHORITY_FILE)}",
        f"cert = {quoted(CERTIFICATE_FILE)}",
        f"key = {quoted(KEY_FILE)}",
    ]
    for channel in channels:
        lines += ["", f"[channel.{_key(channel)}]", f"root = {quoted(root_file(channel))}"]
    data = f"fieldcast/{home.fleet}/data/{device}"
    return "\n".join(
        [
            *lines,
            "",
            slots.replace("%u", device).strip("\n") or _SLOTS.format(channel=quoted(channels[0]), data=data),
            "",
        ]
    )


def _key(name: str) -> str:
    """Return a name as a TOML key: a dot in a bare one would open another table."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else quoted(name)


_SLOTS = """\
# One slot for each pipeline; its name is the pipeline's. Topics must be among those that the broker gives this device.
# [slot.PIPELINE]
# channel = {channel}
#
# [slot.PIPELINE.input]
# source = "mqtt"
# topic = "{data}/sensors"
# columns = {{ temperature = "temperature" }}
#
# [slot.PIPELINE.output]
# sink = "mqtt"
# topic = "{data}/results"
"""
