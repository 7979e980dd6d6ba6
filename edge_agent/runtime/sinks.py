"""What a sink is, and which one a slot's configuration asks for.

A sink runs in the supervisor's thread: it never blocks, never raises for what the outside world does, and takes only
what it has room for. `confirmed` is the word that sources wait for before they acknowledge (R4).
"""

from __future__ import annotations

from edge_agent.config import Config, MqttOutput, SqliteOutput
from edge_agent.config.plugs import CommandOutput, HttpOutput, JsonlOutput
from edge_agent.config.sections import Output, Spooled
from edge_agent.runtime.mqtt_sink import MqttSink
from edge_agent.runtime.ports import Sink
from edge_agent.runtime.sources import client_name
from edge_agent.runtime.sqlite_sink import SqliteSink

__all__ = ["Sink", "open_sink"]


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
