"""Outputs posted to an HTTP server in batches of JSON lines, until it takes them.

2xx is taken. A server that is away, busy (408, 425, 429) or broken (5xx) is asked again, after `Retry-After` if it
says so; what it refuses for good is counted as a fault and given up. Redirects are not followed: a token would go with
them. The token is read anew for every connection, and never shown.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_agent.config.credentials import secret
from edge_agent.config.plugs import HttpOutput
from edge_agent.contract.messages import OutputMessage
from edge_agent.runtime.samples import Faults
from edge_agent.runtime.writer_sink import Undelivered, WriterSink

__all__ = ["REFUSED", "http_sink"]

REFUSED = "refused by the server"
BATCH_BYTES_MAX = 4 << 20
ANSWER_BYTES_MAX = 65_536
RETRY_AFTER_SECONDS_MAX = 300.0
BUSY = (408, 425, 429)
AUTHORIZATION = (401, 403)  # a token may be renewed, or arrive late: waiting loses nothing
_encode = msgspec.json.Encoder().encode


class _Server:
    """One kept connection. A `Delivery`."""

    def __init__(self, config: HttpOutput) -> None:
        parts = urlsplit(config.url)
        self.batch_max = config.batch
        self._config = config
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connection: http.client.HTTPConnection | None = None
        self._headers: dict[str, str] = {}

    def deliver(self, batch: Sequence[OutputMessage], faults: Faults) -> None:
        lines: list[bytes] = []
        size = 0
        for line in map(_encode, batch):
            if lines and size + len(line) > BATCH_BYTES_MAX:
                self._post(lines, faults)
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        self._post(lines, faults)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, lines: list[bytes], faults: Faults) -> None:
        status, words, seconds = self._ask(b"\n".join(lines) + b"\n")
        if 200 <= status < 300:
            return
        if status in BUSY or status in AUTHORIZATION or status >= 500:
            raise Undelivered(words, seconds)
        faults.note(REFUSED, f"{words}; {len(lines)} outputs are given up")
        faults[REFUSED] += len(lines) - 1

    def _ask(self, body: bytes) -> tuple[int, str, float]:
        try:
            connection = self._connection or self._connect()
            connection.request("POST", self._target, body, self._headers)
            answer = connection.getresponse()
            answer.read(ANSWER_BYTES_MAX)
            if not answer.isclosed() or answer.status in AUTHORIZATION:  # more than is worth reading; another token
                self.close()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            words = error.strerror if isinstance(error, OSError) else ""
            raise Undelivered(words or str(error) or type(error).__name__) from None
        return answer.status, f"{answer.status} {answer.reason}"[:200], _seconds(answer.getheader("Retry-After"))

    def _connect(self) -> http.client.HTTPConnection:
        config = self._config
        token = secret(config.token_file, config.credential)
        self._headers = {"Content-Type": "application/x-ndjson", "User-Agent": "fieldcast"}
        if token is not None:
            try:
                self._headers["Authorization"] = f"Bearer {token.decode('ascii')}"
            except UnicodeDecodeError:
                raise Undelivered("the token is not ASCII") from None
        seconds = config.timeout_seconds
        if self._tls:
            context = ssl.create_default_context(cafile=config.ca)
            self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=context)
        else:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        return self._connection


def _seconds(text: str | None) -> float:
    """What `Retry-After` says in seconds (RFC 9110, 10.2.3); a date is left to the sink's own waits."""
    if text and text.strip().isascii() and text.strip().isdigit():
        return min(float(text), RETRY_AFTER_SECONDS_MAX)
    return 0.0


def http_sink(config: HttpOutput, **options: Any) -> WriterSink:
    """Return the sink of a slot; `options` are those of `WriterSink`."""
    parts = urlsplit(config.url)
    return WriterSink(f"{parts.scheme}://{parts.netloc}{parts.path}", _Server(config), **options)
