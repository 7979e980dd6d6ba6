from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError, TransportError
from edge_agent.transport.client import Client
from publisher import broker as broker_module
from publisher.broker import EmbeddedBroker
from tests.simulators.broker import free_port
from tests.simulators.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_it_serves_on_a_free_port_and_is_gone_afterwards() -> None:
    with EmbeddedBroker(port=0) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert broker.running
        assert broker.start() is broker
        assert broker.wait(0.01) is None
        pid = broker.pid
        with Client(broker.url, "guest") as client:
            client.wait_connected(30)
            client.publish("t", b"x" * 1_100_000, retain=True).wait(30)
    assert not broker.running
    assert not alive(pid)
    assert not answers(broker.port)
    assert broker.wait() is None
    broker.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = broker.pid


def test_it_serves_on_the_port_given_and_can_be_started_again() -> None:
    broker = EmbeddedBroker(port=free_port(), host="localhost")
    port = broker.port
    for _ in range(2):
        with broker:
            assert broker.port == port
            assert answers(port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_it_refuses_to_listen_where_others_could_reach_it(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback") as caught:
        EmbeddedBroker(host=host)
    assert "mosquitto" in str(caught.value)


def test_it_listens_on_loopback_and_nowhere_else() -> None:
    with EmbeddedBroker() as broker:
        table = Path(f"/proc/{broker.pid}/net/tcp").read_text().splitlines()[1:]
        port = f":{broker.port:04X}"
        listening = [line.split()[1] for line in table if line.split()[1].endswith(port) and line.split()[3] == "0A"]
    assert listening == [f"0100007F{port}"]


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        EmbeddedBroker(port=port)


def test_a_port_that_is_taken_is_refused_by_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = EmbeddedBroker(port=port)
        with pytest.raises(ConfigError, match=f"{port}.*another port"):
            broker.start()
        assert not broker.running


def test_without_iotcore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install"):
        EmbeddedBroker().start()


@pytest.mark.parametrize("child", ["raise SystemExit('no broker today')", "import time; print('up'); time.sleep(60)"])
def test_a_broker_that_does_not_come_up_is_reported_and_cleaned_up(monkeypatch: pytest.MonkeyPatch, child: str) -> None:
    monkeypatch.setattr(broker_module, "_CHILD", child)
    monkeypatch.setattr(broker_module, "START_SECONDS", 3.0)
    monkeypatch.setattr(broker_module, "STOP_SECONDS", 0.1)
    broker = EmbeddedBroker(port=free_port())
    with pytest.raises(TransportError, match=r"did not start.*(no broker today|up)"):
        broker.start()
    assert not broker.running


PARENT = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
from publisher.broker import EmbeddedBroker
broker = EmbeddedBroker().start()
print(broker.pid, broker.port, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_process_that_started_it(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        pid, port = (int(word) for word in parent.stdout.readline().split())
        assert answers(port)
        parent.send_signal(how)
        # The leader is a zombie a moment before its last thread lets go of the port.
        until(lambda: not alive(pid) and not answers(port))


def test_a_folder_named_like_the_package_does_not_stand_in_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iotcore.py").write_text("raise RuntimeError('impostor')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with EmbeddedBroker() as broker:
        assert answers(broker.port)
        os.kill(broker.pid, signal.SIGINT)
        assert broker.wait(0.3) is None, "Ctrl-C is the parent's to handle"
