"""The connection against scripted brokers that misbehave, and against mosquitto over TLS."""

from __future__ import annotations

import datetime
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mqtt5
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.config import Broker
from edge_agent.runtime import mqtt_stream
from edge_agent.runtime.mqtt_stream import Connection
from tests.simulators.broker import Mosquitto
from tests.simulators.pump import pump

CONNACK = mqtt5.ConnAckPacket().write()
SUBACK = mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write()


@contextmanager
def scripted(*answers: bytes, close: bool = False) -> Iterator[str]:
    """A broker that says `answers`, one per packet batch it reads, to every connection; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(5)
                    try:
                        for answer in answers:
                            client.recv(65536)
                            client.sendall(answer)
                        while not close and not stop.is_set() and client.recv(65536):
                            pass
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)
    thread.join(30)


REFUSED_SUBSCRIPTION = mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]).write()
KICKED = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN).write()
MISBEHAVIOUR = [
    ("refuses the connection", [mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.BANNED).write()], "BANNED"),
    ("speaks MQTT 3.1.1", [b"\x20\x02\x00\x05"], "not MQTT 5"),
    ("speaks HTTP", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not speak MQTT"),
    ("answers with something else", [SUBACK + b"\xd0\x00"], "no CONNACK"),
    ("refuses the subscription", [CONNACK, REFUSED_SUBSCRIPTION], "refused the subscription to 'in/a': NOT_AUTHORIZED"),
    ("ends the connection", [CONNACK + SUBACK + KICKED], "ended the connection: SERVER_SHUTTING_DOWN"),
    ("sends a malformed length", [CONNACK, b"\x30\xff\xff\xff\xff\xff\x01"], "not MQTT 5"),
    ("sends a topic that is not UTF-8", [CONNACK, b"\x30\x06\x00\x02\xff\xfe\x00x"], "not MQTT 5"),
    ("sends a second CONNACK", [CONNACK + CONNACK], "unexpected ConnAckPacket"),
    ("announces 256 MB", [CONNACK, b"\x30\xff\xff\xff\x7f\x00\x05in/d0\x00" + bytes(300_000)], "above the agreed"),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec's panic
@pytest.mark.parametrize(("case", "answers", "words"), MISBEHAVIOUR, ids=[case[0] for case in MISBEHAVIOUR])
def test_a_broker_that_misbehaves_is_dropped_and_named(case: str, answers: list[bytes], words: str) -> None:
    with scripted(*answers) as url:
        connection = Connection(Broker(url=url), "dev", subscription=("in/a", 1), keep_alive_seconds=1)
        problems: list[str] = []

        def failed() -> bool:
            problems.append(connection.problem)
            return any(connection._failures and words in problem for problem in problems)

        pump(connection, until=failed)
        assert all("127.0.0.1:" in problem for problem in problems if problem)
        connection.close()


def test_a_broker_that_closes_at_once_is_tried_again_with_growing_waits() -> None:
    with scripted(close=True) as url:
        connection = Connection(Broker(url=url), "dev")
        waits: list[float] = []

        def counted() -> bool:
            wait = connection._retry_at
            if wait and (not waits or waits[-1] != wait):
                waits.append(wait)
            return len(waits) >= 4

        pump(connection, until=counted)
        gaps = [later - earlier for earlier, later in itertools.pairwise(waits)]
        assert gaps[-1] > gaps[0]
        assert connection.interest()[2] == waits[-1]
        connection.close()
        assert connection.interest() == (-1, 0, None)
        assert connection.handle(0, time.monotonic()) == []


def test_a_broker_that_never_greets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_stream, "CONNECT_SECONDS", 0.2)
    with scripted(b"") as url:
        connection = Connection(Broker(url=url), "dev")
        pump(connection, until=lambda: "did not answer" in connection.problem)
        connection.close()


def test_nothing_is_sent_while_closed() -> None:
    connection = Connection(Broker(url="mqtt://127.0.0.1:1"), "dev")
    connection.send(b"x")
    connection.flush(0.0)
    assert connection.queued_bytes == 0
    connection.close()


def test_closing_while_dialling_leaves_nothing_open() -> None:
    with scripted(CONNACK) as url:
        for _ in range(20):
            connection = Connection(Broker(url=url), "dev")
            connection.handle(0, time.monotonic())
            dial = connection._dial
            assert dial is not None
            connection.close()
            assert dial.take() is None


def test_a_session_taken_over_by_another_client_is_a_problem() -> None:
    with Mosquitto() as broker:
        first, second = (Connection(Broker(url=broker.url), "same", session_seconds=60) for _ in range(2))
        pump(first, until=lambda: first.open)
        pump(second, until=lambda: second.open)
        pump(first, until=lambda: not first.open)
        assert "the connection" in first.problem
        first.close()
        second.close()


def test_a_missing_password_file_is_a_problem_not_an_exception(tmp_path: Path) -> None:
    broker = Broker(url="mqtt://127.0.0.1:1", username="me", password_file=tmp_path / "none")
    connection = Connection(broker, "dev")
    pump(connection, until=lambda: "No such file" in connection.problem)
    connection.close()


# --- TLS


def certificate(directory: Path, name: str, signer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> tuple:
    """Write NAME.pem and NAME.key, signed by `signer` or by itself; return subject and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, issuer_key = signer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    (directory / f"{name}.pem").write_bytes(
        builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return subject, key


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[Mosquitto, Callable[..., Broker]]]:
    authority = certificate(tmp_path, "ca", None)
    certificate(tmp_path, "broker", authority)
    certificate(tmp_path, "device", authority)
    config = (
        f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/broker.pem\nkeyfile {tmp_path}/broker.key\n"
        "require_certificate true"
    )
    with Mosquitto(config) as broker:

        def login(**changes: object) -> Broker:
            fields = {
                "url": f"mqtts://localhost:{broker.port}",
                "ca": tmp_path / "ca.pem",
                "cert": tmp_path / "device.pem",
                "key": tmp_path / "device.key",
            }
            return Broker(**{**fields, **changes})  # type: ignore[arg-type]

        yield broker, login


def test_data_flows_both_ways_over_tls(tls: tuple[Mosquitto, Callable[..., Broker]]) -> None:
    _, login = tls
    reader = Connection(login(), "reader", subscription=("t", 0))
    writer = Connection(login(), "writer")
    got: list[bytes] = []
    pump(reader, writer, until=lambda: reader.open and writer.open, seconds=10)
    body = b"x" * 30_000  # larger than a TLS record: what was decrypted already must not be forgotten
    sent = 0

    class Taking:
        problem = ""

        def interest(self) -> tuple[int, int, float | None]:
            return reader.interest()

        def handle(self, events: int, now: float) -> None:
            for packet in reader.handle(events, now):
                got.append(packet.payload if isinstance(packet, mqtt5.PublishPacket) else b"")

    def all_there() -> bool:
        nonlocal sent
        if sent < 200 and len(writer._out) < 200_000:
            writer.send(mqtt5.PublishPacket("t", body).write())
            writer.flush(time.monotonic())
            sent += 1
        return len(got) == 200

    pump(Taking(), writer, until=all_there, seconds=15)
    assert set(got) == {body}
    reader.close()
    writer.close()


def test_an_untrusted_broker_is_refused(tls: tuple[Mosquitto, Callable[..., Broker]]) -> None:
    _, login = tls
    connection = Connection(login(ca=None), "dev")
    pump(connection, until=lambda: "self-signed certificate" in connection.problem)
    connection.close()
    other_name = Connection(login(url=login().url.replace("localhost", "127.0.0.1")), "dev")
    pump(other_name, until=lambda: "IP address mismatch" in other_name.problem)
    other_name.close()
