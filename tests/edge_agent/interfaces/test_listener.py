"""The listener bounds what clients may do: how much, how long, how many; and answers broken ones in words."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError
from edge_agent.interfaces.address import Address, parse_address
from edge_agent.interfaces.front import Front
from edge_agent.interfaces.http import BODY_BYTES_MAX, Request, Response, error, json_response
from edge_agent.interfaces.listener import Handler, Limits, Listener, Reply, Wait
from tests.simulators.serving import Caller
from tests.simulators.waiting import until

Opened = Callable[..., Listener]
LOOPBACK = Address("127.0.0.1", 0)


def echo(request: Request, reply: Reply) -> None:
    told = {"method": request.method, "target": request.target, "bytes": len(request.body)}
    reply(json_response(200, told))


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Open listeners that close with the test."""
    with ExitStack() as stack:

        def make(handler: Handler = echo, address: Address = LOOPBACK, **limits: float) -> Listener:
            made = Listener(address, handler, Limits()._replace(**limits))  # type: ignore[arg-type]
            stack.callback(made.close)
            made.start()
            return made

        yield make


def connected(listener: Listener) -> socket.socket:
    host, _, port = listener.place.removeprefix("http://").rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=10.0)
    return sock


def everything(sock: socket.socket) -> bytes:
    """Read until the other end closes."""
    data = b""
    try:
        while part := sock.recv(65_536):
            data += part
    except ConnectionResetError:
        pass
    return data


def ask(path: str = "/", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


def test_one_connection_asks_many_times(opened: Opened) -> None:
    caller = Caller(opened().place)
    for number in range(3):
        assert caller.ask("POST", f"/{number}", b"x" * number)[1] == {
            "method": "POST",
            "target": f"/{number}",
            "bytes": number,
        }
    caller.close()


def test_pipelined_requests_are_answered_in_order_however_many(opened: Opened) -> None:
    with connected(opened()) as sock:
        sock.sendall(b"".join(ask(f"/{number}") for number in range(2000)) + ask("/end", "Connection: close\r\n"))
        found = [line for line in everything(sock).split(b"\r\n") if b'"target"' in line]
    targets = [json.loads(line[line.index(b"{") : line.rindex(b"}") + 1])["target"] for line in found]
    assert targets == [f"/{number}" for number in range(2000)] + ["/end"]


def test_bodies_come_in_chunks_or_after_a_word(opened: Opened) -> None:
    listener = opened()
    with connected(listener) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        sock.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert b'"bytes":3' in everything(sock)
    with connected(listener) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"ab")
        assert b'"bytes":2' in sock.recv(1000)


BROKEN = {
    "garbage": (b"\x16\x03\x01\x02 not http\r\n\r\n", b"400 Bad Request"),
    "long head": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000, b"431 "),
    "long body": (f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n\r\n".encode(), b"413 "),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400 "),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", b"400 "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_request_is_refused_in_words_and_the_connection_ends(opened: Opened, case: str) -> None:
    sent, status = BROKEN[case]
    with connected(opened()) as sock:
        sock.sendall(sent)
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'{"error":"' in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"])
def test_a_client_that_stops_in_the_middle_is_told_so(opened: Opened, sent: bytes) -> None:
    with connected(opened()) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock).startswith(b"HTTP/1.1 400 ")


def test_a_chunked_body_without_end_is_stopped_at_the_bound(opened: Opened) -> None:
    with connected(opened()) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 3 * BODY_BYTES_MAX:
                sock.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        assert b" 413 " in everything(sock) or sent < 2 * BODY_BYTES_MAX


def test_bodies_of_all_clients_together_are_bounded(opened: Opened) -> None:
    listener = opened()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_BYTES_MAX}\r\n\r\n".encode()
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(listener)) for _ in range(5)]
        refused = threading.Event()

        def send(sock: socket.socket) -> None:
            try:
                sock.sendall(head + b"x" * (BODY_BYTES_MAX - 1))
                sock.settimeout(3.0)
                if b" 503 " in sock.recv(200):
                    refused.set()
            except OSError:
                pass

        threads = [threading.Thread(target=send, args=(one,)) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused.is_set()


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"])
def test_a_client_that_does_not_finish_is_told_so_and_dropped(opened: Opened, sent: bytes) -> None:
    """However steadily it dribbles."""
    with connected(opened(request_seconds=0.3)) as sock:
        sock.sendall(sent)
        dribbling = threading.Event()

        def dribble() -> None:
            while not dribbling.wait(0.05):
                try:
                    sock.send(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        if not sent.startswith(b"POST"):
            thread.start()
        answer = everything(sock)
        dribbling.set()
        if thread.ident:
            thread.join()
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_an_idle_client_is_dropped_without_a_word(opened: Opened) -> None:
    with connected(opened(idle_seconds=0.2)) as sock:
        assert everything(sock) == b""


def test_a_client_that_does_not_read_its_answer_is_dropped(opened: Opened) -> None:
    gone = threading.Event()

    def huge(request: Request, reply: Reply) -> None:
        reply(Response(200, b"x" * (32 << 20)))

    listener = opened(huge, response_seconds=0.3)
    with connected(listener) as sock:
        sock.sendall(ask())
        until(lambda: listener._clients, 5.0, "the client")
        until(lambda: not listener._clients, 5.0, "the end of the connection")
        gone.set()
    assert gone.is_set()


def test_a_client_that_reads_its_answer_bit_by_bit_is_dropped_too(opened: Opened) -> None:
    listener = opened(lambda request, reply: reply(Response(200, b"x" * 60_000_000)), response_seconds=1.0)
    with connected(listener) as sock:
        sock.sendall(ask())
        assert sock.recv(1)
        began = time.monotonic()
        while listener._clients:
            assert time.monotonic() - began < 4.0, "every read gives it more time"
            assert sock.recv(200_000)
            time.sleep(0.02)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_head_alone_is_answered_without_a_body_and_the_connection_goes_on(opened: Opened, method: str) -> None:
    with connected(opened()) as sock:
        sock.sendall(ask().replace(b"GET", method.encode()) + ask("/last", "Connection: close\r\n"))
        first, _, rest = everything(sock).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert b"content-length: " in first
    assert rest.startswith(b"HTTP/1.1 200") == (method == "HEAD")
    assert b'"/last"' in rest


def test_what_the_listener_itself_refuses_is_told() -> None:
    told: list[int] = []
    listener = Listener(LOOPBACK, echo, Limits(connections=1), refused=told.append)
    listener.start()
    try:
        with connected(listener) as first:
            first.sendall(b"POST / HTTP/1.1\r\n")
            until(lambda: [one for one in listener._clients.values() if not one.idle], 5.0, "the first client")
            with connected(listener) as second:
                assert everything(second).startswith(b"HTTP/1.1 503")
            first.sendall(f"Host: localhost\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n\r\n".encode())
            assert everything(first).startswith(b"HTTP/1.1 413")
    finally:
        listener.close()
    assert told == [503, 413]


def test_too_many_clients_are_told_and_idle_ones_make_room(opened: Opened) -> None:
    hold = threading.Event()
    waiting: list[Reply] = []

    def later(request: Request, reply: Reply) -> Wait | None:
        if request.target == "/now":
            reply(json_response(200, {}))
            return None
        waiting.append(reply)
        return Wait(20.0, lambda: error(504, "late"))

    listener = opened(later, connections=3)
    with ExitStack() as stack:
        busy = [stack.enter_context(connected(listener)) for _ in range(2)]
        for sock in busy:
            sock.sendall(ask("/later"))
        until(lambda: len(waiting) == 2, 5.0, "two that wait")
        idle = stack.enter_context(connected(listener))
        idle.sendall(ask("/now"))
        assert b" 200 " in idle.recv(1000)
        another = stack.enter_context(connected(listener))
        another.sendall(ask("/later"))
        until(lambda: len(waiting) == 3, 5.0, "the third")
        assert idle.recv(10) == b"", "who has nothing to say makes room"
        refused = stack.enter_context(connected(listener))
        assert everything(refused).startswith(b"HTTP/1.1 503 ")
        for reply in waiting:
            threading.Thread(target=reply, args=(json_response(200, {"late": False}),)).start()
        for sock in [*busy, another]:
            assert b'{"late":false}' in sock.recv(1000)
        hold.set()


def test_a_request_that_is_not_answered_in_time_ends_in_words_and_a_late_answer_reaches_nobody(opened: Opened) -> None:
    replies: list[Reply] = []

    def never(request: Request, reply: Reply) -> Wait | None:
        if request.target == "/now":
            reply(json_response(200, {"now": True}))
            return None
        replies.append(reply)
        return Wait(0.2, lambda: error(504, "too late"))

    caller = Caller(opened(never).place)
    assert caller.ask("GET", "/") == (504, {"error": "too late"})
    replies[0](json_response(200, {"late": True}))
    assert caller.ask("GET", "/now") == (200, {"now": True})
    caller.close()


def test_who_leaves_while_waiting_ends_the_wait(opened: Opened) -> None:
    ended = threading.Event()

    def wait(request: Request, reply: Reply) -> Wait:
        def end() -> Response:
            ended.set()
            return error(504, "")

        return Wait(60.0, end)

    with connected(opened(wait)) as sock:
        sock.sendall(ask())
    assert ended.wait(5.0)


def test_a_fault_of_the_handler_costs_one_answer(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    def faulty(request: Request, reply: Reply) -> None:
        if request.target == "/raise":
            raise RuntimeError("a fault")
        if request.target == "/late":
            reply(lambda: json_response(200, 1 / 0))
        reply(json_response(200, {}))

    caller = Caller(opened(faulty).place)
    for path in ("/raise", "/late"):
        status, body = caller.ask("GET", path)
        assert status == 500
        assert "fault of the agent's" in body["error"]
    assert caller.ask("GET", "/")[0] == 200
    assert "a fault" in caplog.text
    caller.close()


def test_closing_lets_go_of_everything(opened: Opened) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    listener = Listener(LOOPBACK, echo)
    listener.start()
    with connected(listener) as sock:
        sock.sendall(ask())
        assert b" 200 " in sock.recv(1000)
        listener.close()
        assert everything(sock) == b""
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "localhost:0", "127.8.0.1:0"])
def test_loopback_is_listened_at(opened: Opened, text: str) -> None:
    try:
        listener = opened(address=parse_address(text, Path()))
    except ConfigError as fault:
        if "::1" in text:
            pytest.skip(f"no IPv6 here: {fault}")
        raise
    caller = Caller(listener.place)
    assert caller.ask("GET", "/")[0] == 200
    caller.close()


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.168.1.5:80", "example.org:80", "10.0.0.1:1", ":80"])
def test_what_the_network_reaches_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="can be reached from the network"):
        parse_address(text, Path())


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:http"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no address: write"):
        parse_address(text, Path())


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 107 bytes"):
        parse_address("unix:" + "x" * 120, tmp_path)


def test_a_unix_socket_is_for_its_owner_and_group_and_goes_away(opened: Opened, tmp_path: Path) -> None:
    address = parse_address("unix:a.sock", tmp_path)
    listener = opened(address=address)
    path = tmp_path / "a.sock"
    assert listener.place == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    caller = Caller(listener.place)
    assert caller.ask("GET", "/")[0] == 200
    caller.close()
    with pytest.raises(ConfigError, match="another program listens there"):
        Listener(address, echo)
    listener.close()
    assert not path.exists()


def test_a_socket_that_a_killed_agent_left_is_taken_over(opened: Opened, tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "a.sock"))
    left.close()
    assert opened(address=parse_address("/" + str(tmp_path / "a.sock").lstrip("/"), tmp_path)).place.endswith("a.sock")


def test_a_taken_port_and_a_missing_directory_are_told_in_one_line(opened: Opened, tmp_path: Path) -> None:
    port = int(opened().place.rpartition(":")[2])
    with pytest.raises(ConfigError, match="another program listens there: stop it, or name another"):
        Listener(Address("127.0.0.1", port), echo)
    with pytest.raises(ConfigError, match="No such file or directory"):
        Listener(Address(path=tmp_path / "none" / "a.sock"), echo)


# --- the front door ------------------------------------------------------------------------------------------------

FOREIGN = {
    "another host": ({"host": "evil.example"}, "this is not 'evil.example'"),
    "an address of the network": ({"host": "192.168.1.2:8080"}, "this is not"),
    "a foreign page": ({"host": "localhost", "origin": "https://evil.example"}, "pages of 'https://evil.example'"),
    "a page without origin": ({"host": "localhost", "origin": "null"}, "pages of 'null'"),
    "a broken origin": ({"host": "localhost", "origin": "http://[::"}, "no address"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_a_browser_sends_for_somebody_else_is_refused(opened: Opened, case: str) -> None:
    headers, words = FOREIGN[case]
    told: list[int] = []
    caller = Caller(opened(Front({"v2": lambda request, path, reply: echo(request, reply)}, told.append).handle).place)
    status, body = caller.ask("GET", "/v2", headers=headers)
    assert (status, told) == (403, [403])
    assert words in body["error"]
    local = {"host": "[::1]:8080", "origin": "http://localhost:3000"}
    assert caller.ask("GET", "/v2", headers=local)[0] == 200
    assert caller.ask("GET", "/else")[0] == 404
    assert caller.ask("GET", "/v2/" + "x" * 3000)[0] == 404
    assert told == [403, 200, 404, 404]
    caller.close()
