"""Can the broker be reached, and does it hold what this device follows? One step after the other, each with its reason.

The connection is a short one of its own under another client id, so that a running agent keeps its session.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import time
from collections.abc import Iterator

from edge_agent.config import Broker, Config
from edge_agent.contract.errors import ConfigError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.transport.address import tls_context
from edge_agent.transport.client import Client

__all__ = ["look"]

CONNECT_SECONDS = 5.0
RETAINED_SECONDS = 2.0

Found = tuple[str, str, str, str]
"""Name, state, words, advice."""


def look(config: Config) -> Iterator[Found]:
    """Yield what each step found; the first that fails is the last."""
    broker = config.broker
    if broker is None:
        yield "network", "ok", "no broker is configured: releases come with `edge-agent import`", ""
        return
    steps = [("network", _tcp), *([("tls", _tls)] if broker.tls else [])]
    for name, step in steps:
        try:
            words = step(broker)
        except (OSError, ConfigError) as error:
            advice = {
                "network": "check that the broker runs, its address, the network and the firewall",
                "tls": "check ca, cert and key under [broker], the broker's name in its certificate, and the clock",
            }[name]
            yield name, "fail", f"broker {broker.address}: {_reason(error)}", advice
            return
        yield name, "ok", words, ""
    yield from _mqtt(config, broker)


def _tcp(broker: Broker) -> str:
    began = time.monotonic()
    with socket.create_connection((broker.host, broker.port), timeout=CONNECT_SECONDS):
        return f"broker {broker.address} answers in {1000 * (time.monotonic() - began):.0f} ms"


def _tls(broker: Broker) -> str:
    context = tls_context(broker.ca, broker.cert, broker.key)
    with (
        socket.create_connection((broker.host, broker.port), timeout=CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=broker.host) as secure,
    ):
        return f"{secure.version()}, {(secure.cipher() or ('no cipher',))[0]}"


def _mqtt(config: Config, broker: Broker) -> Iterator[Found]:
    device = config.device
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
    try:
        password = broker.password()
        client = Client(
            broker.url,
            f"{device.fleet}-{device.id}-doctor-{os.getpid()}",
            clean_start=True,
            session_expiry_seconds=0,
            ca=broker.ca,
            cert=broker.cert,
            key=broker.key,
            username=broker.username or None,
            password=password.decode() if password is not None else None,
            on_message=lambda topic, payload, retain: arrived.put(topic) if payload else None,
        )
        with client:
            client.wait_connected(CONNECT_SECONDS)
            yield "mqtt", "ok", f"broker {broker.address} takes us", ""
            yield from _channels(config, client, arrived)
    except (TransportError, ConfigError, OSError, UnicodeDecodeError) as error:
        advice = "check user name, password or certificate, and what the broker allows this device"
        yield "mqtt", "fail", str(error), advice


def _channels(config: Config, client: Client, arrived: queue.SimpleQueue[str]) -> Iterator[Found]:
    topics = {name: Topics(config.device.fleet).trust(name) for name in config.channel}
    elsewhere = [f"fieldcast/+/channel/{name}/trust" for name in config.channel]
    client.subscribe([*topics.values(), *elsewhere])
    seen: set[str] = set()
    deadline = time.monotonic() + RETAINED_SECONDS
    while not set(topics.values()) <= seen and (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            seen.add(arrived.get(timeout=left))
    for name, topic in topics.items():
        if topic in seen:
            yield "channel", "ok", f"channel {name}: the broker holds its trust", ""
            continue
        others = sorted({one.split("/")[1] for one in seen if one.split("/")[3] == name})
        refusal = client.refusal(topic)
        if refusal:
            yield (
                "channel",
                "fail",
                f"channel {name}: the broker refuses us {topic}: {refusal}",
                "mend the broker's ACL",
            )
        elif others:
            words = f"channel {name}: nothing for fleet {config.device.fleet}, but for {', '.join(others)}"
            yield "channel", "warn", words, "is device.fleet right? It must be the publisher's"
        else:
            words = f"channel {name}: the broker holds nothing on {topic}"
            yield (
                "channel",
                "warn",
                words,
                "push to the channel; check device.fleet, the channel's name and the broker's ACL",
            )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    return str(getattr(error, "strerror", None) or error)
