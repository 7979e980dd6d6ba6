"""A mirror over HTTP on the loopback that is good, or bad in a way of one's choice."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["WebMirror"]

Serve = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def good(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Serve the object, or the range of it that was asked for."""
    found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    start = int(found[1]) if found else 0
    request.send_response(206 if found else 200)
    if found:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    request.send_header("Content-Length", str(len(data) - start))
    request.end_headers()
    request.wfile.write(data[start:])


def rangeless(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Always serve the whole."""
    request.send_response(200)
    request.end_headers()
    request.wfile.write(data)


def other_range(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Answer with a range that nobody asked for."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 7-{len(data) - 1}/{len(data)}")
    request.end_headers()
    request.wfile.write(data[7:])


def cut(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Break off in the middle."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data[: len(data) // 2])


def wrong(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Serve other bytes of the same size."""
    good(request, data[::-1])


def endless(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Serve the object, and go on for ever."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(data)


def drip(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Serve a byte now and then, never silent for long."""
    request.send_response(200)
    request.end_headers()
    for byte in data:
        request.wfile.write(bytes([byte]))
        request.wfile.flush()
        time.sleep(0.05)


def drip_headers(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Never come to the end of the headers."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in data:
        request.wfile.write(b"x")
        time.sleep(0.05)


def silent(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Say nothing, and do not hang up."""
    request.connection.settimeout(30)
    request.rfile.read(1)


class WebMirror:
    """Serves `objects` (path to bytes) on `url`, as `how` does it. A context manager. `asked` are (path, range)."""

    def __init__(self, objects: dict[str, bytes], how: Serve = good) -> None:
        self.objects, self.how = objects, how
        self.asked: list[tuple[str, str]] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append((self.path, self.headers.get("Range", "")))
                data = mirror.objects.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                try:
                    mirror.how(self, data)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
