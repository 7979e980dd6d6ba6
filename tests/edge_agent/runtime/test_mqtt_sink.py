"""Outputs to a real broker: confirmed when they are there, none lost whatever the broker does, none out of order."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edge_agent.config import Broker, MqttOutput
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.mqtt_sink import REFUSED, TOO_LARGE, MqttSink
from tests.simulators.broker import Mosquitto, free_port
from tests.simulators.peer import Peer
from tests.simulators.pump import pump


def output(sequence: int, **values: object) -> OutputMessage:
    return OutputMessage(
        timestamp=10**18 + sequence,
        stream="dev/slot",
        sequence=sequence,
        first=sequence,
        release="p@1",
        probation=False,
        values=values or {"y": 0.5},
    )


def sink_of(broker: Mosquitto, **changes: object) -> MqttSink:
    options = {name: changes.pop(name) for name in ("outputs_max", "keep_alive_seconds") if name in changes}
    config = MqttOutput(**{"topic": "out/a", **changes})  # type: ignore[arg-type]
    return MqttSink(config, Broker(url=broker.url), "dev-slot", **options)  # type: ignore[arg-type]


def sequences(peer: Peer) -> list[int]:
    return [json.loads(data)["sequence"] for _, data, _ in peer.messages]


@pytest.mark.parametrize("qos", [0, 1])
def test_outputs_arrive_in_order_and_are_confirmed(qos: int) -> None:
    with Mosquitto() as broker, Peer(broker.port, "out/#") as peer:
        sink = sink_of(broker, qos=qos)
        sink.write([output(number) for number in range(3)])  # before there is a connection
        assert (sink.confirmed, sink.room) == (0, 9_997)
        pump(sink, until=lambda: sink.confirmed == 3)
        for start in range(3, 3003, 500):
            sink.write([output(number) for number in range(start, start + 500)])
        pump(sink, until=lambda: sink.confirmed == 3003)
        peer.wait(lambda: len(peer.messages) == 3003)
        assert sequences(peer) == list(range(3003))
        assert json.loads(peer.messages[0][1]) == {
            "timestamp": 10**18,
            "stream": "dev/slot",
            "sequence": 0,
            "first": 0,
            "release": "p@1",
            "probation": False,
            "values": {"y": 0.5},
        }
        assert sink.room == 10_000
        sink.close()


def test_a_retained_output_can_be_read_back() -> None:
    with Mosquitto() as broker:
        sink = sink_of(broker, retain=True)
        sink.write([output(1), output(2)])
        pump(sink, until=lambda: sink.confirmed == 2)
        sink.close()
        with Peer(broker.port, "out/#") as peer:
            peer.wait(lambda: peer.messages)
            assert (sequences(peer), peer.messages[0][2]) == ([2], True)


def test_room_is_bounded() -> None:
    with Mosquitto(start=False) as broker:
        sink = sink_of(broker, outputs_max=10)
        sink.write([output(number) for number in range(10)])
        assert sink.room == 0
        with pytest.raises(ValueError, match="do not fit"):
            sink.write([output(10)])
        large = sink_of(broker)
        for number in range(20):
            large.write([output(number, text="x" * 1024 * 1024)])
        assert large.room == 0
        large.close()
        sink.close()


def test_a_broker_absent_at_start_gets_everything_later() -> None:
    port = free_port()
    with Mosquitto(port=port, start=False) as broker:
        sink = sink_of(broker)
        sink.write([output(number) for number in range(5)])
        pump(sink, until=lambda: "Connection refused" in sink.problem)
        broker.start()
        with Peer(broker.port, "out/#") as peer:
            pump(sink, until=lambda: sink.confirmed == 5)
            peer.wait(lambda: len(peer.messages) >= 5)
            assert sequences(peer) == list(range(5))
        sink.close()


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_broker_that_goes_in_the_middle_misses_nothing(end: str) -> None:
    """Frozen first, so that outputs are sent and unacknowledged when it goes."""
    with Mosquitto(persistent=True) as broker:
        sink = sink_of(broker)
        got: list[int] = []
        with Peer(broker.port, "out/#", name="before") as peer:
            sink.write([output(number) for number in range(100)])
            pump(sink, until=lambda: sink.confirmed == 100)
            peer.wait(lambda: len(peer.messages) == 100)
            broker.freeze()
            sink.write([output(number) for number in range(100, 300)])
            assert sink.confirmed == 100
            if end == "kill":
                broker.kill()
                broker.start()
            else:
                broker.restart()
            peer.wait_connected()
            pump(sink, until=lambda: sink.confirmed == 300)
            peer.wait(lambda: set(sequences(peer)) == set(range(300)))
            got = sequences(peer)
        first_seen = list(dict.fromkeys(got))
        assert first_seen == list(range(300))
        sink.close()


def test_a_lost_connection_resends_only_what_is_unconfirmed() -> None:
    with Mosquitto() as broker, Peer(broker.port, "out/#") as peer:
        sink = sink_of(broker, qos=0)
        sink.write([output(number) for number in range(10)])
        pump(sink, until=lambda: sink.confirmed == 10)
        peer.wait(lambda: len(peer.messages) == 10)
        sink._connection._lose("pulled", time.monotonic())
        sink.write([output(number) for number in range(10, 20)])
        assert sink.confirmed == 10
        pump(sink, until=lambda: sink.confirmed == 20)
        peer.wait(lambda: len(peer.messages) == 20)
        assert sequences(peer) == list(range(20))
        sink.close()


def test_qos_0_to_a_broker_that_reads_nothing_waits_in_a_bounded_buffer() -> None:
    with Mosquitto() as broker, Peer(broker.port, "out/#") as peer:
        sink = sink_of(broker, qos=0)
        pump(sink, until=lambda: not sink.problem)
        broker.freeze()
        text = "x" * 4000
        sink.write([output(number, text=text) for number in range(4000)])
        for _ in range(10):
            sink.handle(0, time.monotonic())
        assert 0 < sink.confirmed < 4000
        assert len(sink._connection._out) < 256 * 1024
        broker.thaw()
        pump(sink, until=lambda: sink.confirmed == 4000)
        peer.wait(lambda: len(peer.messages) == 4000)
        assert sequences(peer) == list(range(4000))
        sink.close()


def test_what_the_broker_refuses_is_counted_and_does_not_stop_the_stream(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    with Mosquitto(f"acl_file {acl}") as broker:
        sink = sink_of(broker)
        sink.write([output(0), output(1)])
        pump(sink, until=lambda: sink.confirmed == 2)
        assert sink.faults == {REFUSED: 2}
        assert sink.faults.messages[REFUSED] == "out/a: NOT_AUTHORIZED"
        sink.close()


@pytest.mark.parametrize("qos", [0, 1])
def test_an_output_above_the_brokers_limit_is_given_up_and_named(qos: int) -> None:
    with Mosquitto("max_packet_size 2000") as broker, Peer(broker.port, "out/#") as peer:
        sink = sink_of(broker, qos=qos)
        sink.write([output(0), output(1, text="x" * 3000), output(2)])
        pump(sink, until=lambda: sink.confirmed == 3)
        peer.wait(lambda: len(peer.messages) == 2)
        assert sequences(peer) == [0, 2]
        assert sink.faults == {TOO_LARGE: 1}
        assert "the broker takes 2000" in sink.faults.messages[TOO_LARGE]
        sink.close()
