"""One connection's HTTP/1.1, without the connection: bytes in, requests out; responses in, bytes out.

h11 reads and writes the protocol; here stand the bounds: how long a head may be, how large a body. It knows no socket
and no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import h11
import msgspec

__all__ = ["BODY_BYTES_MAX", "Broken", "Conversation", "Request", "Response", "error", "json_response"]

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 4 * 1024 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Request(NamedTuple):
    """One whole request. `target` is as it came, header names are lower case; of several of a name the last counts."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


class Response(NamedTuple):
    """What is answered. With `close` the connection ends afterwards."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


class Broken(Exception):
    """What came is no request that may be answered otherwise than with `response`, after which nothing is read."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response._replace(close=True)


def json_response(status: int, body: Any, *headers: tuple[str, str]) -> Response:
    """Return a response with `body` as JSON."""
    return Response(status, msgspec.json.encode(body), headers=headers)


def error(status: int, words: str, *headers: tuple[str, str]) -> Response:
    """Return a refusal in words, in the form of the Open Inference Protocol."""
    return json_response(status, {"error": words}, *headers)


class Conversation:
    """One client's requests, one after the other: the next is read when the one before it is answered."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self.begun = False
        """Whether a part of a request has come that is not answered yet."""
        self.ended = False
        """Whether the client will say nothing more."""

    @property
    def held_bytes(self) -> int:
        """How much of a body is held."""
        return len(self._body)

    def receive(self, data: bytes) -> None:
        """Take what the client sent; nothing means that it sends no more."""
        self.begun = self.begun or bool(data)
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as fault:
            raise Broken(_refusal(fault)) from None

    def next(self) -> tuple[Request | None, bytes]:
        """Return the next request once it is whole, and what must be sent meanwhile. Raises `Broken`."""
        try:
            return self._next()
        except h11.RemoteProtocolError as fault:
            raise Broken(_refusal(fault)) from None

    def _next(self) -> tuple[Request | None, bytes]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return None, self._go_on()
            if event is h11.PAUSED:
                return None, b""
            if isinstance(event, h11.ConnectionClosed):
                self.ended = True
                return None, b""
            if isinstance(event, h11.Request):
                self._head = event
                self._require_room(_length(event))
            elif isinstance(event, h11.Data):
                self._require_room(len(self._body) + len(event.data))
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return self._request(), b""

    def _require_room(self, size: int) -> None:
        if size > BODY_BYTES_MAX:
            words = f"a body of {size} bytes is too large ({BODY_BYTES_MAX} at the most): send fewer rows at a time"
            raise Broken(error(413, words))

    def _go_on(self) -> bytes:
        """Say that the body may come, to a client that waits for that word."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def _request(self) -> Request:
        assert self._head is not None
        head, body = self._head, bytes(self._body)
        self._body.clear()
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        return Request(head.method.decode("ascii"), head.target.decode("latin-1"), headers, body)

    def respond(self, response: Response) -> tuple[bytes, bool]:
        """Return the bytes of a response, and whether the connection ends with it."""
        headers = [("content-type", response.kind), ("content-length", str(len(response.body))), *response.headers]
        if response.close:
            headers.append(("connection", "close"))
        reason = _REASONS.get(response.status, "").encode()
        # Who asks for the head alone gets the length of a body that does not follow.
        body = b"" if self._head is not None and self._head.method == b"HEAD" else response.body
        parts = [
            self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)),
            self._http.send(h11.Data(data=body)),
            self._http.send(h11.EndOfMessage()),
        ]
        data = b"".join(part for part in parts if part)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return data, True
        self._http.start_next_cycle()
        self._head, self.begun = None, bool(self._http.trailing_data[0])
        return data, False


def _length(head: h11.Request) -> int:
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _refusal(fault: h11.RemoteProtocolError) -> Response:
    if fault.error_status_hint == 431:
        return error(431, f"the head of the request is longer than {HEAD_BYTES_MAX} bytes")
    status = fault.error_status_hint if fault.error_status_hint in _REASONS else 400
    return error(status, f"this is no HTTP/1.1 request: {fault}")
