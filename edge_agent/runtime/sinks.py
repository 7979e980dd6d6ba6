"""What a sink is, and which one a slot's configuration asks for.

A sink runs in the supervisor's thread: it never blocks, never raises for what the outside world does, and takes only
what it has room for. `confirmed` is the word that sources wait for before they acknowledge (R4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_agent.config import Config, MqttOutput, SqliteOutput
from edge_agent.config.plugs import CommandOutput, HttpOutput, JsonlOutput
from edge_agent.config.sections import Output, Spooled
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.interest import Interest
from edge_agent.runtime.mqtt_sink import MqttSink
from edge_agent.runtime.samples import Faults
from edge_agent.runtime.sources import client_name
from edge_agent.runtime.sqlite_sink import SqliteSink

__all__ = ["Sink", "open_sink"]


class Sink(Protocol):
    """Where a slot's outputs go.

    `confirmed` counts outputs that are safe since the sink was opened, always the oldest ones. `faults` counts those
    given up (`faults.messages` has the last message of each kind); they count as confirmed. `problem` says in words
    why nothing can be confirmed now, or is empty.
    """

    @property
    def confirmed(self) -> int:
        """How many outputs are safe."""
        ...

    @property
    def room(self) -> int:
        """How many outputs may be written now; 0 or less: none."""
        ...

    @property
    def faults(self) -> Faults:
        """What was given up."""
        ...

    @property
    def problem(self) -> str:
        """Why nothing can be confirmed now."""
        ...

    def interest(self) -> Interest:
        """Return descriptor (-1: none), poll events and the monotonic time to call `handle` at the latest (or None).

        Ask before every poll(): all three change, and a descriptor number may return as another file.
        """
        ...

    def handle(self, events: int, now: float) -> None:
        """Do what is due. `events` is what poll() saw (0: the time has come), `now` monotonic seconds."""
        ...

    def write(self, messages: Sequence[OutputMessage]) -> None:
        """Take outputs in order. `ValueError` for more than `room`."""
        ...

    def close(self) -> None:
        """Release everything; called once."""
        ...


def open_sink(config: Config, slot: str) -> Sink:
    """Return the sink of a slot. Raises `StoreError` for a spool that cannot be used."""
    wanted = config.slot[slot].output
    if not isinstance(wanted, Spooled) or not wanted.spool_mb:
        return _plain(config, slot, wanted)
    from edge_agent.runtime.spool import SpoolSink

    path = config.device.state / "spool" / f"{slot}.db"
    inner = _plain(config, slot, wanted)
    return SpoolSink(inner, path, spool_mb=wanted.spool_mb, resend_per_second=wanted.resend_per_second)


def _plain(config: Config, slot: str, wanted: Output) -> Sink:
    """Return the sink without a spool; modules are imported when a slot needs them."""
    if isinstance(wanted, MqttOutput):
        return MqttSink(wanted, config.broker_of(wanted), client_name(config, slot))
    if isinstance(wanted, SqliteOutput):
        return SqliteSink(wanted)
    if isinstance(wanted, JsonlOutput):
        from edge_agent.runtime.jsonl_sink import jsonl_sink

        return jsonl_sink(wanted)
    if isinstance(wanted, HttpOutput):
        from edge_agent.runtime.http_sink import http_sink

        return http_sink(wanted)
    assert isinstance(wanted, CommandOutput), wanted
    from edge_agent.runtime.command_sink import CommandSink

    return CommandSink(wanted)
