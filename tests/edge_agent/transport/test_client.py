from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError, TransportError
from edge_agent.transport import client as client_module
from edge_agent.transport import keeper as keeper_module
from edge_agent.transport import session as session_module
from edge_agent.transport.backoff import Backoff
from edge_agent.transport.client import Client, Will
from tests.simulators.broker import Mosquitto, free_port
from tests.simulators.certificates import Certificates
from tests.simulators.waiting import until

ROOT = Path(__file__).resolve().parents[3]
Connect = Callable[..., Client]


def fast() -> Backoff:
    return Backoff(0.05, 0.2)


def confirmed(client: Client, topic: str, payload: bytes, *, retain: bool = False) -> None:
    client.publish(topic, payload, retain=retain).wait(30)


def test_a_message_goes_from_client_to_client(url: str, connect: Connect) -> None:
    got: list[tuple[str, bytes, bool]] = []
    listener = connect(url, on_message=lambda *message: got.append(message))
    talker = connect(url)
    listener.subscribe(["road/a"])
    listener.subscribe([f"road/{index}" for index in range(20)])
    # Published until it arrives: the subscription may be later than the first message.
    until(lambda: confirmed(talker, "road/a", b"live") or ("road/a", b"live", False) in got)
    confirmed(talker, "road/r", b"kept", retain=True)
    listener.subscribe(["road/r"])
    until(lambda: ("road/r", b"kept", True) in got)
    listener.unsubscribe(["road/r", "never subscribed"])
    confirmed(talker, "road/none", b"x")
    talker.publish("road/7", b"quick", qos=0)
    until(lambda: ("road/7", b"quick", False) in got)
    assert listener.condition == "connected"


def test_what_was_asked_for_once_leaves_nothing_behind_whoever_comes_first(url: str, connect: Connect) -> None:
    """The message may be here before the broker's answer to the subscription, or the other way round."""
    topics = [f"once/{index}" for index in range(60)]
    got: list[str] = []

    def take(topic: str, payload: bytes, retain: bool) -> None:
        client.unsubscribe([topic])
        got.append(topic)

    client = connect(url, on_message=take)
    for topic in topics:
        confirmed(client, topic, b"x", retain=True)
        assert client.ask([topic])
        until(lambda topic=topic: topic in got)
    until(lambda: not client._asked)
    assert not any(map(client.granted, topics))
    for topic in topics:
        confirmed(client, topic, b"", retain=True)


def test_an_answer_to_what_was_given_up_meanwhile_grants_nothing(url: str, connect: Connect) -> None:
    client = connect(url)
    with client._lock:  # the answer waits for it
        client._ask([("a", 0), ("b", 0)])
        client._release(["a"])
    until(lambda: not client._asked)
    assert not client.granted("a")
    assert client.granted("b")


def test_an_unreachable_broker_is_named_with_host_port_and_cause(connect: Connect) -> None:
    port = free_port()
    client = connect(f"mqtt://127.0.0.1:{port}", wait=False)
    until(lambda: "refused" in client.condition)
    with pytest.raises(TransportError, match=rf"127\.0\.0\.1:{port}.*refused"):
        client.wait_connected(0.5)
    assert "refused" in client.condition


def test_a_host_that_does_not_answer_like_a_broker_is_no_connection(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = connect(f"mqtt://127.0.0.1:{mute.getsockname()[1]}", wait=False)
        with pytest.raises(TransportError, match="no answer yet"):
            client.wait_connected(0.3)


def test_a_client_is_started_once_and_stopped_as_often_as_one_likes(url: str, connect: Connect) -> None:
    threads = threading.active_count()
    client = connect(url)
    with pytest.raises(RuntimeError, match="started once"):
        client.start()
    client.stop()
    client.stop()
    assert not client.connected
    until(lambda: threading.active_count() <= threads)
    with pytest.raises(RuntimeError, match="started once"):
        client.start()
    Client(url, "never started").stop()


def test_stop_does_not_wait_for_a_broker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "STOP_SECONDS", 1.0)
    with Mosquitto() as broker:
        client = Client(broker.url, "hung").start()
        client.wait_connected(30)
        broker.freeze()
        # More than the socket's buffer takes, so that the goodbye cannot leave.
        deliveries = [client.publish("t", bytes(1_000_000)) for _ in range(30)]
        begun = time.monotonic()
        client.stop()
        assert time.monotonic() - begun < 25
        with pytest.raises(TransportError, match="stopped"):
            deliveries[-1].wait(0.1)


def test_without_a_session_the_client_subscribes_again(connect: Connect) -> None:
    got: list[bytes] = []
    states: list[tuple[bool, bool]] = []
    with Mosquitto() as broker:
        listener = connect(
            broker.url,
            backoff=fast(),
            on_message=lambda _, payload, __: got.append(payload),
            on_state=lambda *state: states.append(state),
        )
        listener.subscribe(["a/b"])
        talker = connect(broker.url, backoff=fast())
        until(lambda: confirmed(talker, "a/b", b"before") or got)
        broker.kill()
        until(lambda: not listener.connected and not talker.connected)
        listener.subscribe(["while/away"])
        listener.unsubscribe(["while/nothing"])
        broker.start()
        listener.wait_connected(30)
        talker.wait_connected(30)
        until(lambda: confirmed(talker, "a/b", b"after") or b"after" in got)
        until(lambda: confirmed(talker, "while/away", b"wished") or b"wished" in got)
    assert states[:3] == [(True, False), (False, False), (True, False)]


def test_a_kept_session_delivers_what_came_while_we_were_away(connect: Connect, url: str) -> None:
    got: list[bytes] = []
    states: list[tuple[bool, bool]] = []
    first = connect(url, "sleeper", on_message=lambda _, payload, __: got.append(payload))
    first.subscribe(["sleep/x"])
    talker = connect(url)
    until(lambda: confirmed(talker, "sleep/x", b"1") or got)
    first.stop()
    confirmed(talker, "sleep/x", b"2")
    connect(
        url,
        "sleeper",
        on_message=lambda _, payload, __: got.append(payload),
        on_state=lambda *state: states.append(state),
    )
    until(lambda: b"2" in got)
    assert states == [(True, True)]


def test_what_is_published_while_the_broker_is_away_arrives_later(connect: Connect) -> None:
    with Mosquitto() as broker:
        client = connect(broker.url, backoff=fast())
        broker.kill()
        until(lambda: not client.connected)
        delivery = client.publish("late", b"x", retain=True)
        with pytest.raises(TransportError, match=r"late.*not confirmed.*not connected"):
            delivery.wait(0.05)
        assert not delivery.done
        with pytest.raises(TransportError, match="QoS 0"):
            client.publish("late", b"x", qos=0)
        for _ in range(session_module.QUEUED_MAX - 1):
            client.publish("many", b"x")
        with pytest.raises(TransportError, match="already wait"):
            client.publish("many", b"x")
        broker.start()
        delivery.wait(10)
        assert delivery.done


def test_a_packet_larger_than_the_broker_takes_is_refused_before_it_is_sent(connect: Connect) -> None:
    states: list[bool] = []
    with Mosquitto("max_packet_size 100000") as broker:
        client = connect(broker.url, on_state=lambda connected, _: states.append(connected))
        assert client.packet_bytes_max == 100_000
        with pytest.raises(TransportError, match=r"100000.*max_packet_size"):
            client.publish("big", bytes(100_000))
        confirmed(client, "small", bytes(99_900))
    assert states[0:1] == [True]


def test_before_the_broker_has_spoken_only_small_packets_are_taken() -> None:
    client = Client(f"mqtt://127.0.0.1:{free_port()}", "early")
    with pytest.raises(TransportError, match="131072"):
        client.publish("big", bytes(140_000))


def test_a_packet_queued_for_a_laxer_broker_does_not_wedge_the_client(connect: Connect) -> None:
    port = free_port()
    with Mosquitto(port=port) as lax:
        client = connect(lax.url, backoff=fast())
        lax.kill()
        until(lambda: not client.connected)
        big = client.publish("big", bytes(90_000))
        with Mosquitto("max_packet_size 50000", port=port):
            with pytest.raises(TransportError, match="exceeds the 50000"):
                big.wait(10)
            confirmed(client, "small", b"x")


def test_a_callback_that_raises_costs_nobody_a_message(url: str, connect: Connect) -> None:
    got: list[bytes] = []

    def raising(_: str, payload: bytes, __: bool) -> None:
        got.append(payload)
        raise ValueError("the callback's own mistake")

    def state(_: bool, __: bool) -> None:
        raise KeyError("another")

    client = connect(url, on_message=raising, on_state=state)
    client.subscribe(["boom"])
    others: list[bytes] = []
    with client.listening(lambda _, payload, __: others.append(payload)):
        talker = connect(url)
        until(lambda: confirmed(talker, "boom", b"1") or got)
        confirmed(talker, "boom", b"2")
        until(lambda: b"2" in got and b"2" in others)
    heard = len(others)
    confirmed(talker, "boom", b"3")
    until(lambda: b"3" in got)
    assert len(others) == heard
    assert client.faults["on_message: ValueError"] == len(got)
    assert client.faults["on_state: KeyError"] == 1


class Panic(BaseException):
    """What mqtt5's and other Rust codecs raise; no `Exception`."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_network_thread_is_started_again_and_the_message_comes_again(connect: Connect) -> None:
    got: list[bytes] = []

    def dying(_: str, payload: bytes, __: bool) -> None:
        got.append(payload)
        if got.count(b"1") == 1:
            raise Panic

    with Mosquitto() as broker:
        client = connect(broker.url, on_message=dying, backoff=fast())
        client.subscribe(["panic"])
        talker = connect(broker.url)
        confirmed(talker, "panic", b"1", retain=True)
        until(lambda: got.count(b"1") >= 2)
        assert client.faults["network thread restarted"] == 1
        confirmed(talker, "panic", b"2")
        until(lambda: b"2" in got)


def test_waiting_inside_a_callback_is_misuse(url: str, connect: Connect) -> None:
    raised: list[BaseException] = []
    clients: list[Client] = []

    def wait(topic: str, payload: bytes, _: bool) -> None:
        try:
            clients[0].publish("answer", payload).wait(30)
        except RuntimeError as error:
            raised.append(error)

    clients.append(connect(url, on_message=wait))
    clients[0].subscribe(["question"])
    talker = connect(url)
    until(lambda: confirmed(talker, "question", b"?") or raised)
    assert "inside a callback" in str(raised[0])


def test_stop_inside_a_callback_ends_the_client(url: str, connect: Connect) -> None:
    clients: list[Client] = []
    clients.append(connect(url, on_message=lambda *_: clients[0].stop()))
    clients[0].subscribe(["end"])
    talker = connect(url)
    until(lambda: confirmed(talker, "end", b"!") or not clients[0].connected)


WILL_SCRIPT = """
import sys
from edge_agent.transport.client import Client, Will
client = Client(sys.argv[1], "mortal", will=Will(topic="mortal/online", payload=b"0")).start()
client.wait_connected(30)
client.publish("mortal/online", b"1", retain=True).wait(30)
if sys.argv[2] == "leave":
    client.stop()
else:
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["killed", "leave"])
def test_the_will_speaks_for_a_killed_client_and_not_for_one_that_leaves(url: str, connect: Connect, how: str) -> None:
    got: list[bytes] = []
    watcher = connect(url, on_message=lambda _, payload, __: got.append(payload))
    confirmed(watcher, "mortal/online", b"", retain=True)
    watcher.subscribe(["mortal/online", "fence"])
    with subprocess.Popen(
        [sys.executable, "-c", WILL_SCRIPT, url, how], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if how == "killed":
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            until(lambda: b"1" in got)
            process.kill()
            until(lambda: b"0" in got)
        else:
            assert process.wait(20) == 0
            until(lambda: b"1" in got)
            confirmed(watcher, "fence", b"fence")
            until(lambda: b"fence" in got)
            assert b"0" not in got


def test_what_an_access_list_denies_is_reported(connect: Connect, tmp_path: Path) -> None:
    access = tmp_path / "acl"
    access.write_text("topic read open/#\ntopic write open/#\n")
    access.chmod(0o644)
    with Mosquitto(f"acl_file {access}") as broker:
        client = connect(broker.url)
        with pytest.raises(TransportError, match=r"closed/x: not taken.*[Nn]ot authorized"):
            client.publish("closed/x", b"x").wait(30)
        confirmed(client, "open/x", b"x")


def test_a_broker_that_refuses_us_is_quoted(connect: Connect) -> None:
    with Mosquitto("allow_anonymous false") as broker:
        client = connect(broker.url, wait=False, username="u", password="p", backoff=fast())
        until(lambda: "refuses us" in client.condition)
        with pytest.raises(TransportError, match=r"refuses us: .*[Nn]ot authorized"):
            client.wait_connected(0.7)


class Watched(Backoff):
    resets = 0

    def reset(self) -> None:
        self.resets += 1
        super().reset()


def test_two_clients_with_one_id_wait_longer_and_longer(connect: Connect, mosquitto: Mosquitto) -> None:
    ups: list[bool] = []
    backoffs = [Watched(0.05, 0.2), Watched(0.05, 0.2)]
    for backoff in backoffs:
        options = {"on_state": lambda connected, _: ups.append(connected), "wait": False, "backoff": backoff}
        connect(mosquitto.url, "twin", **options)
    until(lambda: ups.count(True) >= 5)
    assert [backoff.resets for backoff in backoffs] == [0, 0]


def test_a_connection_that_held_makes_the_next_wait_short_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STABLE_SECONDS", 0)
    backoff = Watched(0.05, 0.2)
    with Mosquitto() as broker:
        client = connect(broker.url, backoff=backoff)
        broker.restart()
        until(lambda: backoff.resets == 1)
        client.wait_connected(30)


def test_tls_with_client_certificates(connect: Connect, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    server, device = certificates.issue("server"), certificates.issue("device-1")
    stranger = Certificates(tmp_path / "other").issue("device-1")
    config = f"cafile {certificates.ca}\ncertfile {server.cert}\nkeyfile {server.key}\nrequire_certificate true"
    with Mosquitto(config) as broker:
        url = broker.url.replace("mqtt://", "mqtts://")
        client = connect(url, ca=certificates.ca, cert=device.cert, key=device.key)
        confirmed(client, "t", b"x")
        for name, options in {
            "no certificate": {"ca": certificates.ca},
            "another CA's": {"ca": certificates.ca, "cert": stranger.cert, "key": stranger.key},
            "a broker we do not know": {"ca": stranger.ca, "cert": device.cert, "key": device.key},
        }.items():
            refused = connect(url, wait=False, backoff=fast(), **options)
            with pytest.raises(TransportError, match="cannot be reached"):
                refused.wait_connected(0.7)
            assert not refused.connected, name
        until(lambda: "CERTIFICATE_VERIFY_FAILED" in refused.condition)


def test_unusable_arguments_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scheme"):
        Client("tcp://broker", "x")
    with pytest.raises(ConfigError, match="absent"):
        Client("mqtts://broker", "x", ca=tmp_path / "absent")


def test_the_control_plane_stays_light() -> None:
    code = "import sys, edge_agent.transport.blobs; print([m for m in ('numpy', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert Will(topic="t", payload=b"").topic == "t"
    assert client_module.TOPICS_PER_PACKET <= 8
