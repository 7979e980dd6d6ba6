"""The agent's configuration: one TOML file, parsed once into frozen sections, validated whole."""

from edge_agent.config.document import load
from edge_agent.config.limits import Condition, LocalPolicy, StoreLimits
from edge_agent.config.sections import (
    STATE_DIRECTORY,
    Blobs,
    Broker,
    Channel,
    Column,
    Commands,
    Config,
    CsvInput,
    Device,
    MqttInput,
    MqttOutput,
    Slot,
    SqliteOutput,
    Timestamp,
)

__all__ = [
    "STATE_DIRECTORY",
    "Blobs",
    "Broker",
    "Channel",
    "Column",
    "Commands",
    "Condition",
    "Config",
    "CsvInput",
    "Device",
    "LocalPolicy",
    "MqttInput",
    "MqttOutput",
    "Slot",
    "SqliteOutput",
    "StoreLimits",
    "Timestamp",
    "load",
]
