"""The local HTTP listener: one thread, one epoll, any number of clients within bounds.

It decides how many may connect, how long each may take to ask and to listen, and closes who takes longer. What a
request means, its `Handler` decides, which never blocks: it replies at once, or later from another thread. The data
path never waits for this thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from edge_agent.interfaces.address import Address
from edge_agent.interfaces.http import Broken, Conversation, Request, Response, error

__all__ = ["CONNECTIONS_MAX", "Answer", "Handler", "Limits", "Listener", "Reply", "Wait"]

log = logging.getLogger(__name__)
CONNECTIONS_MAX = 64
HELD_BYTES_MAX = 16 * 1024 * 1024
RECEIVE_BYTES = 65_536
TURN_SECONDS_MAX = 1.0
REST_SECONDS = 1.0
FLUSH_SECONDS = 1.0
SCARCE_SECONDS = 0.1
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP

Answer: TypeAlias = "Response | Callable[[], Response]"
"""A response, or what makes it on the listener's thread: whoever replies has other things to do."""
Reply: TypeAlias = "Callable[[Answer], None]"
"""Answers one request; from any thread, and only the first time."""


class Wait(NamedTuple):
    """A request that is answered later: how long at the most, and what ends it then or when the client has gone."""

    seconds: float
    end: Callable[[], Response]


Handler: TypeAlias = Callable[[Request, Reply], "Wait | None"]


class Limits(NamedTuple):
    """How long a client may be idle, may take for one request, and may leave a response unread; seconds."""

    idle_seconds: float = 60.0
    request_seconds: float = 15.0
    response_seconds: float = 15.0
    linger_seconds: float = 1.0
    connections: int = CONNECTIONS_MAX


class _Client:
    """One connection: what is to be sent, and until when something must happen."""

    def __init__(self, sock: socket.socket, due: float) -> None:
        self.sock, self.due = sock, due
        self.conversation = Conversation()
        self.out = bytearray()
        self.wait: Wait | None = None
        self.request = 0
        self.ending = self.lingering = False
        self.events = 0

    @property
    def idle(self) -> bool:
        """Whether nothing was asked that is not answered."""
        return not (self.out or self.wait or self.conversation.begun or self.ending)


class Listener:
    """Listens at `address`. Raises `ConfigError` when it is taken.

    `refused` hears the status of every answer that is the listener's own, since what came never was a request.
    """

    def __init__(
        self,
        address: Address,
        handler: Handler,
        limits: Limits | None = None,
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._handler, self._limits, self._refused = handler, limits or Limits(), refused
        self._address, self._sock = address, address.bind()
        self.place = address.place(self._sock)
        """Where it listens, for people: a URL, or the path of a socket."""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._sock, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._clients: dict[int, _Client] = {}
        self._replies: deque[tuple[_Client, int, Answer]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="interfaces", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Send what is ready, then end every connection; once is enough."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join(FLUSH_SECONDS + TURN_SECONDS_MAX)
        if not self._thread.is_alive():
            for client in list(self._clients.values()):
                self._drop(client)
            self._epoll.close()
            os.close(self._wake)
        self._address.release(self._sock)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn(TURN_SECONDS_MAX)
            except Exception:
                log.exception("interfaces rest seconds=%s", REST_SECONDS)
                time.sleep(REST_SECONDS)
        deadline = time.monotonic() + FLUSH_SECONDS
        while any(client.out or client.wait for client in self._clients.values()) and time.monotonic() < deadline:
            self._turn(0.05)

    def _turn(self, longest: float) -> None:
        now = time.monotonic()
        due = min((client.due for client in self._clients.values()), default=now + longest)
        for number, events in self._epoll.poll(min(max(due - now, 0.0), longest)):
            if number == self._sock.fileno():
                self._accept()
            elif number == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif number in self._clients:
                self._guarded(self._clients[number], self._attend, events)
        self._deliver()
        self._expire()

    def _guarded(self, client: _Client, act: Callable[..., None], *arguments: Any) -> None:
        """Do something for one client; what goes wrong ends its connection and no other."""
        try:
            try:
                act(client, *arguments)
            except Broken as broken:
                self._refused(broken.response.status)
                self._respond(client, broken.response)
        except OSError:
            self._drop(client)
        except Exception:
            log.exception("connection ended by a fault of ours")
            self._drop(client)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as fault:
            log.warning("no connection taken reason=%s", fault)
            time.sleep(SCARCE_SECONDS)  # out of descriptors, probably: it would be tried again at once
            return
        sock.setblocking(False)
        if len(self._clients) >= self._limits.connections and not self._make_room():
            with sock, contextlib.suppress(OSError):
                refusal = error(503, f"{self._limits.connections} clients are connected: try again in a moment")
                self._refused(refusal.status)
                sock.send(Conversation().respond(refusal._replace(close=True))[0])
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(sock, time.monotonic() + self._limits.idle_seconds)
        self._clients[sock.fileno()] = client
        self._epoll.register(sock, 0)
        self._want(client)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest."""
        idle = min((one for one in self._clients.values() if one.idle), key=lambda one: one.due, default=None)
        if idle is not None:
            self._drop(idle)
        return idle is not None

    def _attend(self, client: _Client, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send(client)
        if events & select.EPOLLIN and not (client.wait or client.out):
            self._receive(client)
        elif events & _GONE:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        data = client.sock.recv(RECEIVE_BYTES)
        if client.lingering:
            if not data:
                self._drop(client)
            return
        if not client.conversation.begun and data:
            client.due = time.monotonic() + self._limits.request_seconds
        client.conversation.receive(data)
        self._go_on(client)
        if not data and client.sock.fileno() in self._clients and client.idle:
            self._drop(client)

    def _go_on(self, client: _Client) -> None:
        """Handle the next request if it is whole."""
        while not (client.wait or client.out or client.ending):
            request, hint = client.conversation.next()
            client.out += hint
            if request is None:
                break
            self._handle(client, request)
        if sum(one.conversation.held_bytes for one in self._clients.values()) > HELD_BYTES_MAX:
            raise Broken(error(503, "too much is being sent at once: try again in a moment", ("retry-after", "1")))
        self._send(client)

    def _handle(self, client: _Client, request: Request) -> None:
        client.request += 1
        number = client.request

        def reply(answer: Answer) -> None:
            self._replies.append((client, number, answer))
            if threading.current_thread() is not self._thread:
                os.eventfd_write(self._wake, 1)

        client.wait = Wait(0.0, _nothing)  # until somebody says otherwise
        try:
            client.wait = self._handler(request, reply) or Wait(TURN_SECONDS_MAX, _nothing)
        except Exception:
            log.exception("request not handled")
            reply(_nothing)
        client.due = time.monotonic() + client.wait.seconds
        self._want(client)

    def _deliver(self) -> None:
        while self._replies:
            client, number, answer = self._replies.popleft()
            if client.wait is None or client.request != number or client.sock.fileno() < 0:
                continue  # answered already, or gone
            client.wait = None
            self._guarded(client, self._answer, answer)

    def _answer(self, client: _Client, answer: Answer) -> None:
        self._respond(client, _made(answer))
        self._go_on(client)  # what it has asked meanwhile

    def _respond(self, client: _Client, response: Response) -> None:
        data, ends = client.conversation.respond(response)
        client.out += data
        client.ending = ends
        client.due = time.monotonic() + self._limits.response_seconds
        self._send(client)

    def _send(self, client: _Client) -> None:
        """Send what the client takes; when all is sent, read on or end."""
        sending = bool(client.out)
        while client.out:
            try:
                sent = client.sock.send(client.out)
            except BlockingIOError:
                break
            del client.out[:sent]
        if not client.out and client.ending and not client.lingering:
            # What it still sends is read and thrown away: a close would reset what it has not read yet.
            client.lingering, client.due = True, time.monotonic() + self._limits.linger_seconds
            client.sock.shutdown(socket.SHUT_WR)
        elif sending and not (client.out or client.wait or client.ending):
            seconds = self._limits.request_seconds if client.conversation.begun else self._limits.idle_seconds
            client.due = time.monotonic() + seconds
        self._want(client)

    def _want(self, client: _Client) -> None:
        """Ask for what is of use: who waits for an answer is not read from, only seen to leave."""
        events = select.EPOLLOUT if client.out else 0 if client.wait else select.EPOLLIN
        events |= select.EPOLLRDHUP if client.wait else 0
        if events != client.events:
            client.events = events
            self._epoll.modify(client.sock, events)

    def _expire(self) -> None:
        now = time.monotonic()
        for client in [one for one in self._clients.values() if one.due <= now]:
            self._guarded(client, self._end_wait)

    def _end_wait(self, client: _Client) -> None:
        wait, client.wait = client.wait, None
        if wait is not None:
            self._answer(client, wait.end)
        elif client.conversation.begun and not (client.out or client.ending):
            words = f"the request did not come whole within {self._limits.request_seconds:g} s"
            raise Broken(error(408, words))
        else:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        wait, client.wait = client.wait, None
        if wait is not None:
            wait.end()
        if self._clients.pop(client.sock.fileno(), None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(client.sock)
            client.sock.close()


def _made(answer: Answer) -> Response:
    if not callable(answer):
        return answer
    try:
        return answer()
    except Exception:
        log.exception("no response could be made")
        return _nothing()


def _nothing() -> Response:
    """End a request that our own code failed."""
    return error(500, "this request could not be answered, by a fault of the agent's: see its log")
