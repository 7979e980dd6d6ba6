"""What a source is, and which one a slot's configuration asks for.

A source runs in the supervisor's thread: it never blocks, never raises for what the outside world does, and bounds
what it holds. Nothing it gave out is acknowledged upstream before `acknowledge` says so (R4).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from edge_agent.config import Config, CsvInput, MqttInput, overflow, plugs
from edge_agent.config.plug_faults import missing_extra
from edge_agent.config.sections import Input
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.runtime.input_spool import InputSpool
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.mqtt_source import MqttSource
from edge_agent.runtime.overflow import DroppingSource
from edge_agent.runtime.ports import Source
from edge_agent.runtime.samples import Faults, Samples
from edge_agent.runtime.stamps import Stamps

__all__ = ["Faults", "Interest", "Samples", "Source", "client_name", "open_source"]


def open_source(
    config: Config,
    slot: str,
    *,
    start_sequence: int = 0,
    answered: Sequence[int] = (),
    stamps: Stamps | None = None,
    spool: InputSpool | None = None,
) -> Source:
    """Return the source of a slot; it begins with sample `start_sequence` (see the sources for what that means).

    `answered` are the marks of an earlier run's last samples, oldest first: should one come once more it is known.
    `stamps` counts what the timestamps of a merged input's parts are like; those of others are counted by the lane.
    `spool` is where samples wait that nobody takes, if that is the input's overflow policy or an earlier run left some.

    Raises `ConfigError` when a file lacks what the configuration names, or a package is not installed.
    """
    wanted = config.slot[slot].input
    source, rows_max = _plain(config, slot, start_sequence, answered, stamps), overflow.queue_rows(wanted)
    if spool is not None:
        from edge_agent.runtime.spooling import SpoolingSource

        return SpoolingSource(source, slot, rows_max, spool, spools=overflow.policy(wanted) == "spool")
    return DroppingSource(source, slot, rows_max) if overflow.policy(wanted) == "drop_oldest" else source


def _plain(config: Config, slot: str, start_sequence: int, answered: Sequence[int], stamps: Stamps | None) -> Source:
    """Return the source without an overflow policy of its own: it waits, or drops what it has to."""
    wanted, key, client = config.slot[slot].input, f"slot.{slot}.input", client_name(config, slot)
    if not isinstance(wanted, plugs.MergeInput):
        return _opened(config, wanted, key, client, start_sequence, answered)

    def open_part(name: str, part: Input, known: Sequence[int]) -> Source:
        # No name has a slash: no two slots or parts are one client.
        return _opened(config, part, f"{key}.part.{name}", f"{client}/{name}", 0, known)

    module = importlib.import_module("edge_agent.runtime.merged_source")
    merged: Source = module.MergedSource(
        wanted, open_part, stamps or Stamps(wanted), start_sequence=start_sequence, answered=answered
    )
    return merged


def _opened(
    config: Config, wanted: Input, key: str, client: str, start_sequence: int, answered: Sequence[int]
) -> Source:
    if isinstance(wanted, MqttInput):
        broker = config.broker_of(wanted)
        return MqttSource(wanted, broker, client, start_sequence=start_sequence, answered=answered)
    if isinstance(wanted, CsvInput):
        return CsvSource(wanted, start_sequence=start_sequence)
    if words := missing_extra(wanted):
        raise ConfigError(f"{key}: {words}")
    module, name = _KINDS[type(wanted)]
    made: Source = getattr(importlib.import_module(module), name)(wanted, start_sequence=start_sequence)
    return made


# Imported when a slot has one: the agent's memory is for what it does.
_KINDS: dict[type[Input], tuple[str, str]] = {
    plugs.JsonlInput: ("edge_agent.runtime.jsonl_source", "JsonlSource"),
    plugs.SerialInput: ("edge_agent.runtime.serial_source", "serial_source"),
    plugs.CommandInput: ("edge_agent.runtime.command_source", "command_source"),
    plugs.ModbusInput: ("edge_agent.runtime.modbus_source", "modbus_source"),
    plugs.OpcuaInput: ("edge_agent.runtime.opcua_source", "opcua_source"),
    plugs.SysfsInput: ("edge_agent.runtime.sysfs_source", "sysfs_source"),
    plugs.MetricsInput: ("edge_agent.runtime.metrics_source", "metrics_source"),
    plugs.InferenceInput: ("edge_agent.runtime.inference", "InferenceSource"),
}


def client_name(config: Config, slot: str) -> str:
    """Return what the slot's MQTT client ids begin with: unique on the broker, the same after a restart."""
    return f"fieldcast-{config.device.fleet}-{config.device.id}-{slot}"
