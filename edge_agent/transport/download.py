"""Reads one object from a URL, from an offset on, and writes it to standard output: a short-lived process (M4).

`python -m edge_agent.transport.download`, started by `mirror`. It knows `file`, `http(s)` through the standard library
and object stores (`s3`, `gs`, `az`) through obstore where that is installed. It believes nothing: it writes at most the
size that is expected, and whoever started it checks digest and deadline. `http` carries no secret and proves nothing;
the digest does.
"""

from __future__ import annotations

import os
import re
import resource
import ssl
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request, build_opener, url2pathname

__all__ = ["main"]

PIECE_BYTES = 64 * 1024
SOCKET_SECONDS = 20.0
MEMORY_BYTES = 1 << 30
STORES = ("s3", "s3a", "gs", "az")


def main(arguments: Sequence[str]) -> int:
    """Write `url` from `offset` on, up to `size` bytes of the whole; `ca` is a PEM file or empty. Return the status."""
    url, offset, size, ca = arguments[0], int(arguments[1]), int(arguments[2]), arguments[3]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        left = size - offset
        for piece in _open(url, offset, ca):
            # One byte too many goes through, so that the parent sees that there is more.
            view = memoryview(piece)[: left + 1]
            left -= len(view)
            while view:
                view = view[os.write(1, view) :]
            if left < 0:
                break
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - whatever a library raises is one line for the parent
        print(" ".join(str(error).split())[:500] or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def _open(url: str, offset: int, ca: str) -> Iterator[bytes]:
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _file(url, offset)
    if scheme in STORES:
        return _store(url, offset)
    return _http(url, offset, ca)


def _file(url: str, offset: int) -> Iterator[bytes]:
    with open(url2pathname(urlsplit(url).path), "rb") as file:  # noqa: PTH123 - pathlib costs this process 10 ms
        file.seek(offset)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _http(url: str, offset: int, ca: str) -> Iterator[bytes]:
    request = Request(url, headers={"Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    with _opener(ca).open(request, timeout=SOCKET_SECONDS) as response:
        skip = offset
        if response.status == 206:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset:
                raise ValueError(f"answers with another range than asked for: {response.headers.get('Content-Range')}")
            skip = 0
        while piece := response.read1(PIECE_BYTES):
            yield piece[skip:]
            skip = max(0, skip - len(piece))


def _opener(ca: str) -> OpenerDirector:
    return build_opener(HTTPHandler, HTTPSHandler(context=ssl.create_default_context(cafile=ca or None)))


def _store(url: str, offset: int) -> Iterator[bytes]:
    try:
        import obstore
        from obstore.store import from_url
    except ImportError:
        raise ValueError("object stores need obstore: pip install 'fieldcast[mirror]'") from None
    place, _, name = url.rpartition("/blob/")
    endpoint = next((os.environ[key] for key in _ENDPOINTS if os.environ.get(key)), "") if url[:2] == "s3" else ""
    options: dict[str, Any] = {"timeout": timedelta(seconds=SOCKET_SECONDS)}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    store = from_url(place, config={"endpoint": endpoint} if endpoint else {}, client_options=options)  # type: ignore[call-overload]
    for piece in obstore.get(store, f"blob/{name}", options={"range": {"offset": offset}}).stream(PIECE_BYTES):
        yield bytes(piece)


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
