"""JSONL, command, HTTP and spooled sinks: every output arrives once and in order, whatever happens to the peer."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Broker, MqttOutput
from edge_agent.config.plugs import CommandOutput, HttpOutput, JsonlOutput
from edge_agent.contract.errors import StoreError
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.command_sink import CommandSink
from edge_agent.runtime.http_sink import REFUSED, http_sink
from edge_agent.runtime.jsonl_sink import jsonl_sink, last_sequence
from edge_agent.runtime.mqtt_sink import MqttSink
from edge_agent.runtime.sinks import Sink
from edge_agent.runtime.spool import SpoolSink
from tests.simulators.broker import Mosquitto, free_port
from tests.simulators.peer import Peer
from tests.simulators.peers_process import PeerProcess
from tests.simulators.processes import children, dead
from tests.simulators.pump import pump
from tests.simulators.waiting import until

QUICK: dict[str, Any] = {"again_seconds": (0.01, 0.05)}


def outputs(*numbers: int, offset: int = 0, text: str = "") -> list[OutputMessage]:
    return [
        OutputMessage(
            timestamp=number * 10 + offset,
            stream="d/s",
            sequence=number,
            first=number,
            release="p@1",
            probation=False,
            values={"x": float(number), "text": text},
        )
        for number in numbers
    ]


def carry(sink: Sink, messages: Sequence[OutputMessage], seconds: float = 10.0) -> None:
    """Write all and wait until they are confirmed."""
    wanted = sink.confirmed + len(messages)
    sink.write(messages)
    pump(sink, until=lambda: sink.confirmed >= wanted, seconds=seconds)
    assert sink.confirmed == wanted


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def test_jsonl_files_are_put_aside_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = jsonl_sink(JsonlOutput(path=path, file_mb=0.001, keep=2))
    for start in range(0, 100, 10):
        carry(sink, outputs(*range(start, start + 10)))
    sink.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.1", "out.jsonl.2"]
    kept = [number for name in ("out.jsonl.2", "out.jsonl.1", "out.jsonl") for number in numbers(tmp_path / name)]
    assert kept == list(range(kept[0], 100))
    assert all(one.stat().st_size < 1200 for one in tmp_path.iterdir())


def test_jsonl_repeats_nothing_after_a_restart_and_mends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = jsonl_sink(JsonlOutput(path=path))
    carry(sink, outputs(*range(10)))
    sink.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # what a power cut leaves of the last one
    assert last_sequence(path, "d/s") == 8
    assert last_sequence(path, "another") is None
    sink = jsonl_sink(JsonlOutput(path=path))
    carry(sink, outputs(*range(5, 12)))
    carry(sink, outputs(0, 1, offset=1000))  # the stream began anew: numbers fall while time goes on
    sink.close()
    assert numbers(path) == [*range(12), 0, 1]


def test_jsonl_knows_what_it_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = jsonl_sink(JsonlOutput(path=path))
    carry(sink, outputs(1, 2))
    sink.close()
    path.rename(tmp_path / "out.jsonl.1")
    assert last_sequence(path, "d/s") == 2
    sink = jsonl_sink(JsonlOutput(path=path))
    carry(sink, outputs(1, 2, 3))
    sink.close()
    assert numbers(path) == [3]


def test_jsonl_goes_on_when_its_directory_is_back(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "out.jsonl"
    sink = jsonl_sink(JsonlOutput(path=path), **QUICK)
    sink.write(outputs(1))
    pump(sink, until=lambda: "No such file" in sink.problem)
    assert sink.confirmed == 0
    path.parent.mkdir()
    pump(sink, until=lambda: sink.confirmed == 1)
    assert sink.problem == ""
    sink.close()
    assert numbers(path) == [1]
    with pytest.raises(StoreError, match="cannot be read"):
        last_sequence(path.parent, "d/s")


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    sink = jsonl_sink(JsonlOutput(path=tmp_path / "no" / "out"), outputs_max=2, **QUICK)
    with pytest.raises(ValueError, match="there is room for 2"):
        sink.write(outputs(1, 2, 3))
    sink.close()
    command = CommandSink(CommandOutput(command=["cat"]), outputs_max=2)
    with pytest.raises(ValueError, match="there is room for 2"):
        command.write(outputs(1, 2, 3))
    command.close()


READER = """
import os, sys
file = open(sys.argv[1], "a", buffering=1)
print(f'{{"pid": {os.getpid()}, "sequence": -1}}', file=file)
for line in sys.stdin:
    file.write(line)
"""


def test_a_command_reads_every_line_though_it_is_killed(tmp_path: Path) -> None:
    path, before = tmp_path / "read", children()
    sink = CommandSink(CommandOutput(command=[sys.executable, "-Ic", READER, str(path)]), **QUICK)
    carry(sink, outputs(*range(100)))
    until(lambda: len(numbers(path)) == 101)  # what it has read and not yet written would be gone with it
    pid = json.loads(path.read_text().splitlines()[0])["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: dead(pid))
    carry(sink, outputs(*range(100, 200)))
    sink.close()
    assert not children() - before
    assert [number for number in numbers(path) if number >= 0] == list(range(200))


def test_what_a_command_did_not_read_goes_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "read"
    shell = f"echo x >> {tmp_path}/started; [ $(wc -l < {tmp_path}/started) -gt 1 ] && exec cat > {path}; sleep 60"
    sink = CommandSink(CommandOutput(command=["sh", "-c", shell]), **QUICK)
    pump(sink, until=lambda: (tmp_path / "started").exists())
    sink.write(outputs(*range(2000), text="more than a pipe holds"))
    pump(sink, until=lambda: sink.interest()[1] != 0)
    assert sink.confirmed == 0
    for pid in children():
        os.kill(int(pid), signal.SIGKILL)
    pump(sink, until=lambda: sink.confirmed == 2000)
    sink.close()
    assert numbers(path) == list(range(2000))


def test_a_command_sink_that_cannot_start(tmp_path: Path) -> None:
    sink = CommandSink(CommandOutput(command=[str(tmp_path / "no")]), **QUICK)
    sink.write(outputs(1))
    pump(sink, until=lambda: "no: cannot be started: No such file" in sink.problem)
    assert (sink.confirmed, sink.room) == (0, 9_999)
    sink.close()


def posted(peer: PeerProcess) -> list[int]:
    return [found["sequence"] for line in peer.lines if "sequence" in (found := json.loads(line))]


def test_http_posts_survive_their_server(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("s3cret\n")
    config = HttpOutput(url=f"http://127.0.0.1:{port}/in?a=1", batch=10, token_file=tmp_path / "token")
    with PeerProcess("http", str(port), tmp_path, "503", "429") as peer:
        sink = http_sink(config, **QUICK)
        carry(sink, outputs(*range(25)))
        peer.kill()
        sink.write(outputs(*range(25, 50)))
        pump(sink, until=lambda: "Connection refused" in sink.problem)
        peer.start()
        pump(sink, until=lambda: sink.confirmed == 50)
        assert posted(peer) == list(range(50))
        assert '{"authorization": "Bearer s3cret"}' in peer.lines
        assert "s3cret" not in f"{sink.problem}{sink.faults.messages}"
        assert not sink.faults
        sink.close()


def test_http_gives_up_what_is_refused_and_waits_for_a_token(tmp_path: Path) -> None:
    port = free_port()
    config = HttpOutput(url=f"http://127.0.0.1:{port}/", batch=3, token_file=tmp_path / "token")
    with PeerProcess("http", str(port), tmp_path, "401", "400") as peer:
        sink = http_sink(config, **QUICK)
        sink.write(outputs(1, 2, 3, 4))
        pump(sink, until=lambda: "No such file" in sink.problem)
        (tmp_path / "token").write_text("one")
        pump(sink, until=lambda: sink.confirmed == 4)
        assert sink.faults == {REFUSED: 3}
        assert "400 Bad Request; 3 outputs are given up" in sink.faults.messages[REFUSED]
        assert posted(peer) == [4]
        sink.close()


def spooled(inner: Sink, directory: Path, mb: float = 1.0, rate: float = 1e6) -> SpoolSink:
    return SpoolSink(inner, directory / "spool" / "s.db", spool_mb=mb, resend_per_second=rate)


def test_a_spool_confirms_while_the_server_is_away_and_resends_in_order(tmp_path: Path) -> None:
    port = free_port()
    with PeerProcess("http", str(port), tmp_path) as peer:
        sink = spooled(http_sink(HttpOutput(url=f"http://127.0.0.1:{port}/"), **QUICK), tmp_path)
        carry(sink, outputs(*range(10)))
        assert not sink.spooled
        peer.kill()
        carry(sink, outputs(*range(10, 20)))
        carry(sink, outputs(*range(20, 3000)))
        assert sink.spooled == 2990
        assert sink.problem == ""
        peer.start()
        carry(sink, outputs(*range(3000, 3010)))
        pump(sink, until=lambda: not sink.spooled)
        carry(sink, outputs(*range(3010, 3020)))
        sink.close()
        assert posted(peer) == list(range(3020))


def test_a_spool_survives_the_agent(tmp_path: Path) -> None:
    port = free_port()
    config = HttpOutput(url=f"http://127.0.0.1:{port}/")
    sink = spooled(http_sink(config, **QUICK), tmp_path)
    carry(sink, outputs(*range(20)))
    sink.close()
    again = spooled(http_sink(config, **QUICK), tmp_path)
    assert (again.confirmed, again.spooled) == (0, 20)
    with PeerProcess("http", str(port), tmp_path) as peer:
        carry(again, outputs(*range(20, 30)))
        pump(again, until=lambda: not again.spooled)
        again.close()
        assert posted(peer) == list(range(30))
    last = spooled(http_sink(config, **QUICK), tmp_path)
    assert last.spooled == 0
    last.close()


def test_a_full_spool_makes_the_source_wait(tmp_path: Path) -> None:
    sink = spooled(http_sink(HttpOutput(url=f"http://127.0.0.1:{free_port()}/"), **QUICK), tmp_path, mb=0.005)
    carry(sink, outputs(*range(100)))
    pump(sink, until=lambda: sink.room == 0)
    assert "the spool holds its 0.005 MB; http://127.0.0.1" in sink.problem
    sink.close()


def test_a_spool_resends_at_a_limited_rate(tmp_path: Path) -> None:
    port = free_port()
    sink = spooled(http_sink(HttpOutput(url=f"http://127.0.0.1:{port}/"), **QUICK), tmp_path, rate=50)
    carry(sink, outputs(0))  # now it is known that nobody is there
    carry(sink, outputs(*range(1, 1000)))
    with PeerProcess("http", str(port), tmp_path) as peer:
        pump(sink, until=lambda: len(posted(peer)) >= 70)
        assert sink.spooled > 100
        sink.close()


def test_a_spool_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    inner = http_sink(HttpOutput(url="http://127.0.0.1:1/"))
    with pytest.raises(StoreError, match=r"the spool .* cannot be used"):
        spooled(inner, tmp_path)
    inner.close()


def test_a_spool_around_mqtt_survives_its_broker(tmp_path: Path) -> None:
    port = free_port()
    output = MqttOutput(topic="out/a")
    sink = spooled(MqttSink(output, Broker(url=f"mqtt://127.0.0.1:{port}"), "s"), tmp_path)
    carry(sink, outputs(*range(500)))
    with Mosquitto(port=port) as broker, Peer(broker.port, "out/#") as peer:
        pump(sink, until=lambda: not sink.spooled, seconds=20)
        carry(sink, outputs(*range(500, 510)))
        peer.wait(lambda: len(peer.messages) >= 510)
        assert [json.loads(data)["sequence"] for _, data, _ in peer.messages] == list(range(510))
    carry(sink, outputs(*range(510, 520)))
    sink.close()
