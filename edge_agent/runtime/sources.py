"""What a source is, and which one a slot's configuration asks for.

A source runs in the supervisor's thread: it never blocks, never raises for what the outside world does, and bounds
what it holds. Nothing it gave out is acknowledged upstream before `acknowledge` says so (R4).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

from edge_agent.config import Config, CsvInput, MqttInput, plugs
from edge_agent.config.plug_faults import missing_extra
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.mqtt_source import MqttSource
from edge_agent.runtime.samples import Faults, Samples

__all__ = ["Faults", "Interest", "Samples", "Source", "client_name", "open_source"]


class Source(Protocol):
    """Where a slot's samples come from.

    `columns` are the logical columns in the order of `Samples.values`. `faults` counts what became no sample by kind
    (`faults.messages` has the last message of each), `rejected` in all. `problem` says in words why nothing can come
    now, or is empty. `finished` is True when nothing will ever come again.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Logical column names."""
        ...

    @property
    def faults(self) -> Faults:
        """What became no sample."""
        ...

    @property
    def rejected(self) -> int:
        """How many messages or rows became no sample."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing can come now."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the last sample was taken."""
        ...

    def interest(self) -> Interest:
        """Return descriptor (-1: none), poll events and the monotonic time to call `handle` at the latest (or None).

        Ask before every poll(): all three change, and a descriptor number may return as another file.
        """
        ...

    def handle(self, events: int, now: float) -> None:
        """Do what is due. `events` is what poll() saw (0: the time has come), `now` monotonic seconds."""
        ...

    def take(self, room: int) -> Samples | None:
        """Return the oldest waiting samples, at most `room` rows, or None."""
        ...

    def acknowledge(self, rows: int) -> None:
        """The oldest `rows` taken samples are safe downstream."""
        ...

    def close(self) -> None:
        """Release everything; called once."""
        ...


def open_source(config: Config, slot: str, *, start_sequence: int = 0, answered: Sequence[int] = ()) -> Source:
    """Return the source of a slot; it begins with sample `start_sequence` (see the sources for what that means).

    `answered` are the marks of an earlier run's last samples, oldest first: should one come once more it is known.

    Raises `ConfigError` when a file lacks what the configuration names, or a package is not installed.
    """
    wanted = config.slot[slot].input
    if isinstance(wanted, MqttInput):
        broker, name = config.broker_of(wanted), client_name(config, slot)
        return MqttSource(wanted, broker, name, start_sequence=start_sequence, answered=answered)
    if isinstance(wanted, CsvInput):
        return CsvSource(wanted, start_sequence=start_sequence)
    if words := missing_extra(wanted):
        raise ConfigError(f"slot.{slot}.input: {words}")
    module, name = _KINDS[type(wanted)]
    made: Source = getattr(importlib.import_module(module), name)(wanted, start_sequence=start_sequence)
    return made


# Imported when a slot has one: the agent's memory is for what it does.
_KINDS = {
    plugs.JsonlInput: ("edge_agent.runtime.jsonl_source", "JsonlSource"),
    plugs.SerialInput: ("edge_agent.runtime.serial_source", "serial_source"),
    plugs.CommandInput: ("edge_agent.runtime.command_source", "command_source"),
    plugs.ModbusInput: ("edge_agent.runtime.modbus_source", "modbus_source"),
    plugs.OpcuaInput: ("edge_agent.runtime.opcua_source", "opcua_source"),
    plugs.SysfsInput: ("edge_agent.runtime.sysfs_source", "sysfs_source"),
    plugs.MetricsInput: ("edge_agent.runtime.metrics_source", "metrics_source"),
}


def client_name(config: Config, slot: str) -> str:
    """Return what the slot's MQTT client ids begin with: unique on the broker, the same after a restart."""
    return f"fieldcast-{config.device.fleet}-{config.device.id}-{slot}"
