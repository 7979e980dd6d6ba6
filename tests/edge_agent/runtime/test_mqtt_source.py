"""Samples from a real broker: batches, acknowledgements, faults, back-pressure, and every way a broker can go away."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from edge_agent.config import Broker, Column, MqttInput, Timestamp
from edge_agent.runtime.mqtt_source import MqttSource
from publisher.broker import EmbeddedBroker
from tests.simulators.broker import Mosquitto, free_port
from tests.simulators.peer import Peer
from tests.simulators.pump import pump

XY = {"x": Column(path="acc.x"), "y": Column(path="acc.y", scale=2.0, offset=1.0)}
TIME = Timestamp(path="t", unit="ms")


def source_of(broker: Mosquitto, **changes: object) -> MqttSource:
    options = {
        name: changes.pop(name)
        for name in ("start_sequence", "pending_rows_max", "keep_alive_seconds")
        if name in changes
    }
    config = MqttInput(**{"topic": "in/a", "columns": XY, **changes})  # type: ignore[arg-type]
    return MqttSource(config, Broker(url=broker.url), "dev-slot", **options)  # type: ignore[arg-type]


def payload(number: int) -> dict[str, object]:
    return {"t": 1_700_000_000_000 + number, "n": number, "acc": {"x": number, "y": 0.5}}


def open_source(broker: Mosquitto, **changes: object) -> MqttSource:
    source = source_of(broker, **changes)
    lines = broker.log.count("Sending SUBACK")
    pump(source, until=lambda: not source.problem and broker.log.count("Sending SUBACK") > lines)
    return source


def take_all(source: MqttSource, rows: int) -> list[int]:
    """Take until `rows` samples came; return their sequences."""
    found: list[int] = []

    def enough() -> bool:
        samples = source.take(1000)
        if samples is not None:
            found.extend(samples.sequences)
        return len(found) >= rows

    pump(source, until=enough)
    return found


@pytest.mark.parametrize("qos", [0, 1])
def test_payloads_become_samples_in_order(qos: int) -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, qos=qos, timestamp=TIME, start_sequence=100)
        peer.publish_all("in/a", [payload(number) for number in range(50)])
        pump(source, until=lambda: source.pending == 50)
        first = source.take(20)
        rest = source.take(1000)
        assert first is not None
        assert rest is not None
        assert (first.rows, rest.rows, source.take(10)) == (20, 30, None)
        assert list(first.sequences) + list(rest.sequences) == list(range(100, 150))
        assert first.timestamps[3] == 1_700_000_000_003 * 10**6
        assert list(first.values[:4]) == [0.0, 2.0, 1.0, 2.0]
        assert first.columns == ("x", "y")
        source.acknowledge(50)
        source.close()


def test_without_a_timestamp_the_time_of_arrival_counts() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, sequence="n")
        before = time.time_ns()
        peer.publish("in/a", payload(7))
        pump(source, until=lambda: source.pending)
        samples = source.take(1)
        assert samples is not None
        assert before <= samples.timestamps[0] <= time.time_ns()
        assert list(samples.sequences) == [7]
        source.close()


def test_nothing_is_acknowledged_before_it_is_safe() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker)
        peer.publish_all("in/a", [payload(number) for number in range(4)])
        pump(source, until=lambda: source.pending == 4)
        assert source.take(10) is not None
        assert "Received PUBACK from fieldcast" not in broker.log
        assert broker.log.count("Received PUBACK from dev-slot") == 0
        source.acknowledge(3)
        pump(source, until=lambda: broker.log.count("Received PUBACK from dev-slot") == 3)
        with pytest.raises(ValueError, match="1 are taken"):
            source.acknowledge(2)
        source.acknowledge(1)
        pump(source, until=lambda: broker.log.count("Received PUBACK from dev-slot") == 4)
        source.close()


BAD = [
    ("not JSON", b"{", "malformed payload", "not JSON"),
    ("not UTF-8", b'"\xff"', "malformed payload", "not JSON"),
    ("a bare number", b"12", "malformed payload", "not a JSON object or array"),
    (
        "missing path",
        b'{"t": 1, "acc": {"X": 1, "y": 2}}',
        "missing column",
        "column 'x': path 'acc.x' is not in the payload; it has: t, acc.X, acc.y; did you mean 'acc.X'?",
    ),
    ("text", b'{"t": 1, "acc": {"x": "1", "y": 2}}', "not a number", "column 'x': \"1\" at 'acc.x' is not a number"),
    ("a boolean", b'{"t": 1, "acc": {"x": true, "y": 2}}', "not a number", "column 'x': true at"),
    ("null", b'{"t": 1, "acc": {"x": 1, "y": null}}', "not a number", "column 'y': null at"),
    ("no time", b'{"acc": {"x": 1, "y": 2}}', "bad timestamp", "path 't' is not in the payload"),
]


@pytest.mark.parametrize(("case", "data", "kind", "words"), BAD, ids=[case[0] for case in BAD])
def test_bad_payloads_are_counted_named_and_acknowledged(case: str, data: bytes, kind: str, words: str) -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, timestamp=TIME)
        peer.publish("in/a", data)
        peer.publish("in/a", payload(1))
        peer.publish("in/a", data)
        pump(source, until=lambda: source.rejected == 2)
        assert dict(source.faults) == {kind: 2}
        assert words in source.faults.messages[kind]
        assert source.faults.messages[kind].startswith("in/a: ")
        # The first had nothing in front of it; the last waits for the sample before it.
        pump(source, until=lambda: broker.log.count("Received PUBACK from dev-slot") == 1)
        samples = source.take(10)
        assert samples is not None
        assert samples.rows == 1
        source.acknowledge(1)
        pump(source, until=lambda: broker.log.count("Received PUBACK from dev-slot") == 3)
        source.close()


def test_while_too_much_is_pending_nothing_is_read() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, pending_rows_max=10)
        peer.publish_all("in/a", [{**payload(number), "fill": "x" * 2000} for number in range(500)])
        pump(source, until=lambda: source.pending >= 10)
        held = source.pending
        assert held < 100
        for _ in range(20):
            _, events, _ = source.interest()
            assert events == 0
            source.handle(0, time.monotonic())
        assert source.pending == held
        found: list[int] = []
        acknowledged = 0
        while len(found) < 500:
            found += take_all(source, 1)
            source.acknowledge(len(found) - acknowledged)
            acknowledged = len(found)
        assert found == list(range(500))
        source.close()


def test_a_broker_that_is_absent_at_start_is_found_later() -> None:
    port = free_port()
    with Mosquitto(port=port, start=False) as broker:
        source = source_of(broker)
        pump(source, until=lambda: "Connection refused" in source.problem)
        assert f"127.0.0.1:{port}" in source.problem
        broker.start()
        pump(source, until=lambda: "Sending SUBACK" in broker.log)
        with Peer(broker.port) as peer:
            peer.publish("in/a", payload(1))
            assert take_all(source, 1) == [0]
        source.close()


def acknowledged_since_the_last_start(broker: Mosquitto) -> int:
    """Return how many samples the broker has heard of; what is under way when a connection is closed may be lost."""
    return broker.log.rpartition("Sending SUBACK to dev-slot")[2].count("Received PUBACK from dev-slot")


@pytest.mark.parametrize("numbered", [False, True])
def test_a_broker_restart_in_the_middle_loses_and_repeats_nothing(numbered: bool) -> None:
    """Some samples are acknowledged, some taken, some pending; the broker resumes the session and sends again."""
    with Mosquitto(persistent=True) as broker, Peer(broker.port) as peer:
        source = open_source(broker, sequence="n" if numbered else "")
        peer.publish_all("in/a", [payload(number) for number in range(15)])
        pump(source, until=lambda: source.pending == 15)
        first = source.take(10)
        assert first is not None
        source.acknowledge(4)
        broker.restart()
        source.acknowledge(2)  # into the void: the broker will send these two again
        pump(source, until=lambda: broker.log.count("Sending SUBACK to dev-slot") == 2)
        peer.wait_connected()
        peer.publish_all("in/a", [payload(number) for number in range(15, 30)])
        pump(source, until=lambda: source.pending == 20)
        rest = source.take(100)
        assert rest is not None
        assert list(rest.sequences) == list(range(10, 30))
        assert list(rest.values[::2]) == [float(number) for number in range(10, 30)]
        source.acknowledge(24)
        # What is left unacknowledged would come again to a new connection of the same session.
        pump(source, until=lambda: source.repeats >= 11 and acknowledged_since_the_last_start(broker) >= 26)
        source.close()
        again = open_source(broker, sequence="n" if numbered else "")
        peer.publish("in/a", payload(30))
        assert take_all(again, 1) == [30 if numbered else 0]
        again.close()


def test_a_killed_broker_that_forgot_the_session_leaves_what_is_held_intact() -> None:
    with Mosquitto() as broker:
        with Peer(broker.port) as peer:
            source = open_source(broker)
            peer.publish_all("in/a", [payload(number) for number in range(10)])
            pump(source, until=lambda: source.pending == 10)
        broker.kill()
        pump(source, until=lambda: source.problem)
        broker.start()
        pump(source, until=lambda: not source.problem)
        with Peer(broker.port) as peer:
            pump(source, until=lambda: broker.log.count("Sending SUBACK to dev-slot") == 2)
            peer.publish_all("in/a", [payload(number) for number in range(10, 15)])
            assert take_all(source, 15) == list(range(15))
            source.acknowledge(15)
            pump(source, until=lambda: len(re.findall("Received PUBACK from dev-slot", broker.log)) == 5)
        source.close()


def test_after_a_restart_redelivered_samples_that_were_answered_are_only_acknowledged() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, sequence="n")
        peer.publish_all("in/a", [payload(number) for number in range(6)])
        pump(source, until=lambda: source.pending == 6)
        source._connection._drop()  # as if the process had been killed: no goodbye, nothing acknowledged
        again = source_of(broker, sequence="n", start_sequence=4)
        assert take_all(again, 2) == [4, 5]
        assert again.repeats == 4
        pump(again, until=lambda: broker.log.count("Received PUBACK from dev-slot") == 4)
        # A sensor that starts again at 0 is not mistaken for a redelivery.
        peer.publish("in/a", payload(0))
        assert take_all(again, 1) == [0]
        again.close()


def test_retained_messages_are_not_part_of_the_stream() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        peer.publish("in/a", payload(99), retain=True)
        source = open_source(broker, sequence="n")
        peer.publish("in/a", payload(1))
        assert take_all(source, 1) == [1]
        source.close()


def test_a_topic_that_is_none_is_misuse() -> None:
    with pytest.raises(ValueError, match="topic filter"):
        MqttSource(MqttInput(topic="a/#/b", columns=XY), Broker(url="mqtt://127.0.0.1"), "dev-slot")


def test_the_embedded_broker_renumbers_what_it_sends_again() -> None:
    """iotcore ignores the wish for no retained messages, and redelivers with new identifiers and no DUP flag."""
    with EmbeddedBroker() as broker, Peer(Broker(url=broker.url).port) as peer:
        peer.publish("in/a", payload(99), retain=True)
        source = MqttSource(MqttInput(topic="in/a", columns=XY), Broker(url=broker.url), "dev-slot")
        pump(source, until=lambda: not source.problem)
        until = time.monotonic() + 0.2
        pump(source, until=lambda: time.monotonic() > until)
        peer.publish_all("in/a", [payload(number) for number in range(10)])
        pump(source, until=lambda: source.pending == 10)
        assert source.take(6) is not None
        source.acknowledge(3)
        until = time.monotonic() + 0.2
        pump(source, until=lambda: time.monotonic() > until)
        source._connection.refuse("pulled")
        source.acknowledge(1)  # into the void
        pump(source, until=lambda: source.repeats == 7)
        peer.publish_all("in/a", [payload(number) for number in range(10, 13)])
        pump(source, until=lambda: source.pending == 7)
        rest = source.take(100)
        assert rest is not None
        assert [int(value) for value in rest.values[::2]] == list(range(6, 13))
        source.acknowledge(9)
        source._connection.refuse("pulled again")
        pump(source, until=lambda: not source.problem)
        peer.publish("in/a", payload(13))
        pump(source, until=lambda: source.pending)
        last = source.take(10)
        assert last is not None
        assert last.values[-2] == 13.0
        source.close()


def test_wrong_credentials_are_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wrong\n")
    (tmp_path / "users").write_text("")
    config = f"allow_anonymous false\npassword_file {tmp_path / 'users'}"
    with Mosquitto(config) as broker:
        login = Broker(url=broker.url, username="me", password_file=tmp_path / "secret")
        source = MqttSource(MqttInput(topic="in/a", columns=XY), login, "dev-slot")
        pump(source, until=lambda: "refused the connection" in source.problem)
        assert re.search("NOT_AUTHORIZED|BAD_USER_NAME", source.problem)
        source.close()


def test_a_frozen_broker_is_noticed_by_its_silence() -> None:
    with Mosquitto() as broker:
        source = open_source(broker, keep_alive_seconds=1)
        broker.freeze()
        pump(source, until=lambda: "silent" in source.problem)
        broker.thaw()
        pump(source, until=lambda: not source.problem)
        source.close()


def test_a_source_that_does_not_read_keeps_its_connection() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, keep_alive_seconds=2, pending_rows_max=1)
        peer.publish_all("in/a", [payload(number) for number in range(3)])
        pump(source, until=lambda: source.pending)
        opened = source._connection.opened
        until = time.monotonic() + 4.0  # the broker gives up after 1.5 keep-alive intervals
        pump(source, until=lambda: time.monotonic() > until)
        assert source._connection.opened == opened
        assert take_all(source, 3) == [0, 1, 2]
        until = time.monotonic() + 0.3
        pump(source, until=lambda: time.monotonic() > until)
        assert source._connection.opened == opened
        assert not source.problem
        source.close()


TEXT = {"t": Column(path="t", dtype="string")}


def test_texts_are_samples_and_numbers_in_their_place_are_faults() -> None:
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, columns=TEXT)
        peer.publish_all("in/a", [{"t": "a"}, {"t": 5}, {"t": "x" * 70_000}, {"t": "b"}])
        pump(source, until=lambda: source.pending + source.rejected == 4)
        samples = source.take(10)
        assert samples is not None
        assert (samples.values, samples.dtypes) == (["a", "b"], ("string",))
        assert source.faults == {"wrong type": 1, "too large": 1}
        source.acknowledge(2)
        source.close()


def test_large_texts_hold_up_reading_until_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.runtime.mqtt_source.PENDING_BYTES_MAX", 150_000)
    with Mosquitto() as broker, Peer(broker.port) as peer:
        source = open_source(broker, columns=TEXT)
        peer.publish_all("in/a", [{"t": str(number) * 20_000} for number in range(10)] * 3)
        pump(source, until=lambda: source.pending * 20_000 >= 150_000)
        most, taken = source.pending, 0
        assert most < 16  # what waited, and what one read brings
        while taken < 30:
            pump(source, until=lambda: source.pending)
            samples = source.take(3)
            assert samples is not None
            taken += samples.rows
            source.acknowledge(samples.rows)
            most = max(most, source.pending)
        assert most < 16
        source.close()
