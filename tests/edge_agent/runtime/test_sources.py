"""A configuration file opens the source and the sink it names, and they work together."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edge_agent.config import Config, load
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.sinks import Sink, open_sink
from edge_agent.runtime.sources import Samples, Source, open_source
from tests.simulators.broker import Mosquitto
from tests.simulators.peer import Peer
from tests.simulators.pump import pump

CSV = 'source = "csv"\npath = "data.csv"\nrate_hz = 1000\nspeed = 0'
MQTT = 'source = "mqtt"\ntopic = "in/a"\ncolumns = {x = "x"}'


def configured(directory: Path, source: str, sink: str, url: str = "mqtt://127.0.0.1:1") -> Config:
    (directory / "root.json").touch()
    (directory / "data.csv").write_text("x\n" + "".join(f"{number}\n" for number in range(500)))
    path = directory / "agent.toml"
    path.write_text(
        f'[device]\nid = "d"\nfleet = "f"\n[broker]\nurl = "{url}"\n[channel.c]\nroot = "root.json"\n'
        f'[slot.s]\nchannel = "c"\n[slot.s.input]\n{source}\n[slot.s.output]\n{sink}\n'
    )
    return load(path)


def carry(source: Source, sink: Sink, count: int) -> None:
    """Copy `count` samples from source to sink, acknowledging what is confirmed, as the supervisor does."""
    acknowledged = carried = 0

    def done() -> bool:
        nonlocal acknowledged, carried
        samples = source.take(min(64, sink.room))
        if samples is not None:
            sink.write([message(samples, row) for row in range(samples.rows)])
            carried += samples.rows
        source.acknowledge(sink.confirmed - acknowledged)
        acknowledged = sink.confirmed
        return acknowledged == count

    pump(source, sink, until=done)
    assert carried == count


def message(samples: Samples, row: int) -> OutputMessage:
    return OutputMessage(
        timestamp=samples.timestamps[row],
        stream="d/s",
        sequence=samples.sequences[row],
        first=samples.sequences[row],
        release="p@1",
        probation=False,
        values={"x": samples.values[row]},
    )


def test_csv_to_sqlite(tmp_path: Path) -> None:
    config = configured(tmp_path, CSV, 'sink = "sqlite"\npath = "out.db"')
    source, sink = open_source(config, "s", start_sequence=100), open_sink(config, "s")
    carry(source, sink, 400)
    assert (source.finished, source.rejected, source.problem, sink.problem) == (True, 0, "", "")
    source.close()
    sink.close()
    with sqlite3.connect(tmp_path / "out.db") as database:
        found = database.execute("SELECT sequence, x FROM output ORDER BY sequence").fetchall()
    assert found == [(number, float(number)) for number in range(100, 500)]


def test_mqtt_to_mqtt(tmp_path: Path) -> None:
    with Mosquitto() as broker, Peer(broker.port, "out/#") as peer:
        config = configured(tmp_path, MQTT, 'sink = "mqtt"\ntopic = "out/a"', broker.url)
        source, sink = open_source(config, "s"), open_sink(config, "s")
        pump(source, sink, until=lambda: "Sending SUBACK to fieldcast-f-d-s-in" in broker.log)
        peer.publish_all("in/a", [{"x": number} for number in range(300)])
        carry(source, sink, 300)
        peer.wait(lambda: len(peer.messages) == 300)
        assert [json.loads(data)["values"]["x"] for _, data, _ in peer.messages] == list(range(300))
        pump(source, until=lambda: broker.log.count("Received PUBACK from fieldcast-f-d-s-in") == 300)
        source.close()
        sink.close()


def test_a_column_that_no_payload_has_is_a_config_error_for_a_file(tmp_path: Path) -> None:
    config = configured(tmp_path, CSV + '\ncolumns = {x = "y"}', 'sink = "sqlite"\npath = "out.db"')
    with pytest.raises(ConfigError, match="has no column 'y'; it has: x"):
        open_source(config, "s")
