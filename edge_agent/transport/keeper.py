"""Keeps a paho client's network thread alive, and runs what paho's callbacks must not do themselves (M3).

paho's network thread dies silently of what `suppress_exceptions` does not cover; the keeper starts it again. paho's
callbacks run under paho's own locks, so answers are posted here and handled with those locks free. It decides nothing
about messages.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from paho.mqtt import client as paho

from edge_agent.transport.backoff import Backoff

__all__ = ["Keeper"]

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
STOP_SECONDS = 3.0


class Keeper:
    """A thread beside paho's. `connect` holds the arguments of `connect_async`.

    `on_death` is called when the network thread had died, before it is started again; `on_end` once after the stop.
    """

    def __init__(
        self,
        client: paho.Client,
        connect: Mapping[str, Any],
        backoff: Backoff,
        *,
        on_death: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._client, self._connect, self._backoff = client, connect, backoff
        self._on_death, self._on_end = on_death, on_end
        self._posted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._network: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt-keeper", daemon=True)
        client.on_pre_connect = self._before_connect

    @property
    def in_network_thread(self) -> bool:
        """Whether the caller runs in paho's network thread."""
        return threading.current_thread() is self._network

    def start(self) -> None:
        """Start both threads; only once."""
        if self._stopping.is_set() or self._thread.ident is not None:
            raise RuntimeError("a client is started once: make a new one")
        self._launch()
        self._thread.start()

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run soon in the keeper's thread. Never blocks."""
        self._posted.put(action)

    def delay_reconnect(self) -> None:
        """Choose how long paho waits before its next attempt."""
        # paho doubles without jitter; setting both bounds anew before each wait makes the wait ours.
        seconds: Any = self._backoff.next()
        self._client.reconnect_delay_set(seconds, seconds)

    def held(self) -> None:
        """Note that a connection held: the next wait is short again."""
        self._backoff.reset()

    def stop(self) -> None:
        """Disconnect and end both threads, within a few seconds. Safe to call twice, and from a callback."""
        self._stopping.set()
        self._posted.put(None)
        if self.in_network_thread or self._thread.ident is None:
            return
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            # A broker that stopped reading keeps our goodbye in the buffer: cut.
            self._cut()
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                action = self._posted.get(timeout=WATCH_SECONDS)
            except queue.Empty:
                self._watch()
                continue
            if action is not None:
                action()
        self._client.disconnect()
        self._client.loop_stop()
        self._on_end()

    def _watch(self) -> None:
        if self._network is None or self._network.is_alive():
            return
        log.error("network_thread_died restarting=true")
        self._on_death()
        self._stopping.wait(self._backoff.next())
        self._launch()

    def _launch(self) -> None:
        # connect_async also puts paho's state machine back to its start, whatever it was doing when it died.
        self._network = None
        self._client.connect_async(**self._connect)
        self._client.loop_start()

    def _before_connect(self, *_: object) -> None:
        self._network = threading.current_thread()

    def _cut(self) -> None:
        connection: Any = self._client.socket()
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
