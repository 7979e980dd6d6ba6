from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backports.zstd import compress

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Blame, ReasonCode, StoreError, TransportError, UpdateRejected
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, RAW, ZSTD, ChunkHeader, Topics
from edge_agent.transport import blobs, puller
from edge_agent.transport.backoff import Backoff
from edge_agent.transport.blobs import Puller
from edge_agent.transport.chunks import split
from edge_agent.transport.client import Client
from edge_agent.transport.fetcher import Fetcher
from tests.edge_agent.transport.conftest import Pulling
from tests.simulators.broker import Mosquitto
from tests.simulators.waiting import until

ROOT = Path(__file__).resolve().parents[3]
Connect = Callable[..., Client]
MakePuller = Callable[..., Puller]


def put(client: Client, topics: Topics, digest: Digest, messages: Iterable[tuple[int, bytes]]) -> None:
    for delivery in [client.publish(topics.chunk(digest, i), message, retain=True) for i, message in messages]:
        delivery.wait(10)


def mapped(directory: Path, ref: BlobRef) -> int:
    """How many chunks the map on disk holds."""
    path = directory / "partial" / f"{ref.digest.hex}.map"
    return (path.stat().st_size - CHUNK_HEADER.size) // 8 if path.exists() else 0


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


class Fetch(threading.Thread):
    """A fetch in a thread of its own; `result()` returns or raises what it did."""

    def __init__(self, source: Puller, ref: BlobRef, **options: object) -> None:
        super().__init__(daemon=True)
        self._call = lambda: source.get(ref, **options)  # type: ignore[arg-type]
        self.path: Path | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.path = self._call()
        except Exception as error:  # noqa: BLE001 - handed to result()
            self.error = error

    def result(self) -> Path:
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        assert self.path is not None
        return self.path


class Asked:
    """Counts which chunk topics a puller's client subscribes to."""

    def __init__(self, source: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
        self.indices: list[int] = []
        original = source._client.ask

        def ask(topics: Iterable[str]) -> int:
            names = list(topics)
            self.indices += [int(name.rsplit("/", 1)[1]) for name in names]
            return original(names)

        monkeypatch.setattr(source._client, "ask", ask)


SIZES = {
    "nothing": b"",
    "one byte": b"x",
    "one chunk": random.Random(1).randbytes(60_000),
    "one chunk and a byte": random.Random(2).randbytes(60_001),
    "many windows": random.Random(3).randbytes(5_000_000),
    "compressible": b"fieldcast " * 300_000,
}


@pytest.mark.parametrize("case", SIZES)
def test_a_published_blob_arrives(
    url: str, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path, case: str
) -> None:
    data = SIZES[case]
    ref = BlobRef.of(data)
    publisher = connect(url)
    assert blobs.publish(publisher, topics, data) == sum(map(len, split(data)))
    source = make_puller(url)
    path = source.get(ref, timeout_seconds=30)
    assert path == tmp_path / "blobs" / ref.digest.hex[:2] / ref.digest.hex
    assert path.read_bytes() == data
    assert files(tmp_path / "blobs") == [f"{ref.digest.hex[:2]}/{ref.digest.hex}"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert source.get(ref, timeout_seconds=0.1) == path


def test_no_more_than_the_window_is_under_way(
    url: str, connect: Connect, topics: Topics, make_puller: MakePuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(100 * CHUNK_BYTES)
    blobs.publish(connect(url), topics, data)
    source = make_puller(url)
    asked = Asked(source, monkeypatch)
    source.get(BlobRef.of(data), timeout_seconds=30)
    assert sorted(asked.indices) == list(range(100))


CHILD = """
import sys, threading
from pathlib import Path
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.messages import Topics
from edge_agent.transport.blobs import Puller
from edge_agent.transport.client import Client
from edge_agent.transport.fetcher import Fetcher
url, fleet, directory, digest, size = sys.argv[1:]
client = Client(url, "killed", on_message=lambda *message: puller.on_message(*message))
puller = Puller(client, Topics(fleet), Path(directory))
client.start().wait_connected(30)
ref = BlobRef(digest=Digest(digest), size=int(size))
target = Path(directory) / ref.digest.hex[:2] / ref.digest.hex
puller.fetch(ref, target, timeout_seconds=60, stop=threading.Event())
"""


def test_after_a_kill_only_what_is_missing_is_fetched(
    url: str,
    connect: Connect,
    topics: Topics,
    make_puller: MakePuller,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(puller, "ASK_AGAIN_SECONDS", 1.0)
    data = os.urandom(50 * CHUNK_BYTES)
    ref, messages, directory = BlobRef.of(data), list(enumerate(split(data))), tmp_path / "blobs"
    publisher = connect(url)
    put(publisher, topics, ref.digest, messages[::2])
    arguments = [url, topics.fleet, str(directory), str(ref.digest), str(ref.size)]
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT) as child:
        # Every second chunk is withheld, so it is in the middle for certain.
        until(lambda: mapped(directory, ref) == 25)
        child.kill()
    put(publisher, topics, ref.digest, messages[1::2])
    source = make_puller(url, client_id="killed")
    asked = Asked(source, monkeypatch)
    assert source.get(ref, timeout_seconds=30).read_bytes() == data
    # rumqttd may have spent some on the old session before we listened; those are asked for again.
    assert sorted(set(asked.indices)) == list(range(1, 50, 2))
    assert len(asked.indices) == 25 or "embedded" in request.node.name


def test_a_stopped_fetch_keeps_what_arrived(
    url: str, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(4 * CHUNK_BYTES)
    ref, messages = BlobRef.of(data), list(enumerate(split(data)))
    publisher, source, stop = connect(url), make_puller(url), threading.Event()
    put(publisher, topics, ref.digest, messages[:2])
    fetch = Fetch(source, ref, timeout_seconds=60, stop=stop)
    until(lambda: mapped(tmp_path / "blobs", ref) == 2)
    stop.set()
    with pytest.raises(TransportError, match="stopped"):
        fetch.result()
    put(publisher, topics, ref.digest, messages[2:])
    asked = Asked(source, monkeypatch)
    source.get(ref, timeout_seconds=30)
    assert sorted(asked.indices) == [2, 3]


def flip(message: bytes, at: int = -1) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


def header(message: bytes, **change: int) -> bytes:
    known, payload = ChunkHeader.split(message)
    index, count = change.get("index", known.index), change.get("count", known.count)
    size = change.get("size", known.encoded_bytes)
    return (
        CHUNK_HEADER.pack(0xFC, change.get("encoding", known.encoding), 0, index, count, size, known.stream) + payload
    )


PLAIN = random.Random(11).randbytes(3 * CHUNK_BYTES + 5)
TEXT = " ".join(str(random.Random(12).random()) for _ in range(1)).encode() + random.Random(12).randbytes(90_000) * 2
RAW_CHUNKS, ZSTD_CHUNKS = split(PLAIN), split(TEXT)
LONGER, SHORTER, OTHER = split(PLAIN + b"x"), split(PLAIN[:-1]), split(PLAIN[::-1])
BOMB = split(bytes(50_000_000))
CONTENT, SIZE = ReasonCode.CONTENT, ReasonCode.SIZE

WRONG = {
    "flipped byte in the first chunk": (PLAIN, {0: flip(RAW_CHUNKS[0])}, CONTENT),
    "flipped byte in a middle chunk": (PLAIN, {1: flip(RAW_CHUNKS[1], 3000)}, CONTENT),
    "flipped byte in the last chunk": (PLAIN, {3: flip(RAW_CHUNKS[3])}, CONTENT),
    "flipped byte in a compressed chunk": (TEXT, {0: flip(ZSTD_CHUNKS[0])}, CONTENT),
    "flipped byte in the compressed end": (TEXT, {1: flip(ZSTD_CHUNKS[1])}, CONTENT),
    "flipped magic": (PLAIN, {2: flip(RAW_CHUNKS[2], 0)}, CONTENT),
    "truncated chunk": (PLAIN, {1: RAW_CHUNKS[1][:-1]}, CONTENT),
    "truncated last chunk": (PLAIN, {3: RAW_CHUNKS[3][:-1]}, CONTENT),
    "header alone": (PLAIN, {1: RAW_CHUNKS[1][:28]}, CONTENT),
    "no chunk at all": (PLAIN, {0: b"hello"}, CONTENT),
    "swapped chunks": (PLAIN, {1: RAW_CHUNKS[2], 2: RAW_CHUNKS[1]}, CONTENT),
    "swapped payloads under right headers": (
        PLAIN,
        {1: RAW_CHUNKS[1][:28] + RAW_CHUNKS[2][28:], 2: RAW_CHUNKS[2][:28] + RAW_CHUNKS[1][28:]},
        CONTENT,
    ),
    "another blob of that size": (PLAIN, dict(enumerate(OTHER)), CONTENT),
    "longer than its reference": (PLAIN, dict(enumerate(LONGER)), SIZE),
    "shorter than its reference": (PLAIN, dict(enumerate(SHORTER)), SIZE),
    "count lies": (PLAIN, {0: header(RAW_CHUNKS[0], count=9)}, CONTENT),
    "size lies": (PLAIN, {0: header(RAW_CHUNKS[0], count=100, size=100 * CHUNK_BYTES)}, SIZE),
    "encoding lies": (PLAIN, {0: header(RAW_CHUNKS[0], encoding=ZSTD)}, SIZE),
    "raw posing as a smaller zstd": (TEXT, {0: header(ZSTD_CHUNKS[0], encoding=RAW)}, SIZE),
    "decompression bomb": (TEXT, dict(enumerate(BOMB)), SIZE),
    "unpacks to less": (TEXT, dict(enumerate(split(bytes(100_000)))), SIZE),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_bytes_are_refused_by_name_and_the_right_ones_accepted_afterwards(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path, case: str
) -> None:
    data, changes, code = WRONG[case]
    ref, publisher, source = BlobRef.of(data), connect(mosquitto.url), make_puller(mosquitto.url)
    put(publisher, topics, ref.digest, (dict(enumerate(split(data))) | changes).items())
    with pytest.raises(UpdateRejected, match=ref.digest.short) as caught:
        source.get(ref, timeout_seconds=30)
    (reason,) = caught.value.reasons
    assert (reason.code, reason.blame, reason.where) == (code, Blame.ENVIRONMENT, str(ref.digest))
    assert [name for name in files(tmp_path / "blobs") if not name.startswith("partial/")] == []
    put(publisher, topics, ref.digest, enumerate(split(data)))
    assert source.get(ref, timeout_seconds=30).read_bytes() == data


def test_a_flipped_byte_is_refused_by_the_embedded_broker_too(
    url: str, connect: Connect, topics: Topics, make_puller: MakePuller
) -> None:
    ref = BlobRef.of(PLAIN)
    put(connect(url), topics, ref.digest, (dict(enumerate(RAW_CHUNKS)) | {2: flip(RAW_CHUNKS[2])}).items())
    with pytest.raises(UpdateRejected, match="sha256"):
        make_puller(url).get(ref, timeout_seconds=30)


def other_encoding(data: bytes) -> list[bytes]:
    """The same blob as another publisher's zstd might pack it."""
    packed = compress(data, level=1)
    assert packed != compress(data, level=9)
    count = -(-len(packed) // CHUNK_BYTES)
    stream = hashlib.sha256(packed).digest()[:8]
    return [
        ChunkHeader(ZSTD, i, count, len(packed), stream).pack() + packed[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
        for i in range(count)
    ]


MIXED = b"".join(random.Random(n % 40).randbytes(5000) + bytes(n) for n in range(80)) + os.urandom(100_000)


def test_a_blob_published_in_another_encoding_replaces_what_was_collected(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path
) -> None:
    ref, first, second = BlobRef.of(MIXED), split(MIXED), other_encoding(MIXED)
    assert len(first) >= 3 <= len(second)
    publisher, source = connect(mosquitto.url), make_puller(mosquitto.url)
    put(publisher, topics, ref.digest, list(enumerate(first))[:2])
    fetch = Fetch(source, ref, timeout_seconds=10)
    until(lambda: mapped(tmp_path / "blobs", ref) == 2)
    put(publisher, topics, ref.digest, enumerate(second))
    assert fetch.result().read_bytes() == MIXED


def test_chunks_of_two_encodings_that_stay_mixed_are_refused(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller
) -> None:
    ref = BlobRef.of(MIXED)
    mixed = dict(enumerate(split(MIXED))) | {1: other_encoding(MIXED)[1]}
    put(connect(mosquitto.url), topics, ref.digest, mixed.items())
    with pytest.raises(UpdateRejected, match="two different encodings") as caught:
        make_puller(mosquitto.url).get(ref, timeout_seconds=1.5)
    assert caught.value.reasons[0].code is CONTENT


def test_missing_chunks_are_counted_in_the_error(
    url: str, connect: Connect, topics: Topics, make_puller: MakePuller
) -> None:
    ref = BlobRef.of(PLAIN)
    publisher, source = connect(url), make_puller(url)
    with pytest.raises(TransportError, match=rf"{ref.digest.short}.*all of its up to 4 chunks.*connected"):
        source.get(ref, timeout_seconds=0.3)
    put(publisher, topics, ref.digest, [(0, RAW_CHUNKS[0])])
    with pytest.raises(TransportError, match="3 of 4 chunks are missing"):
        source.get(ref, timeout_seconds=1.5)
    put(publisher, topics, ref.digest, [(1, RAW_CHUNKS[1]), (3, RAW_CHUNKS[3])])
    with pytest.raises(TransportError, match="1 of 4 chunks is missing"):
        source.get(ref, timeout_seconds=1.5)


def test_the_deadline_counts_from_the_last_new_chunk(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller
) -> None:
    ref = BlobRef.of(PLAIN)
    publisher, source = connect(mosquitto.url), make_puller(mosquitto.url)
    begun = time.monotonic()
    fetch = Fetch(source, ref, timeout_seconds=4.0)
    for index, message in enumerate(RAW_CHUNKS):
        until(lambda index=index: time.monotonic() - begun > 1.5 * (index + 1))  # type: ignore[misc]
        put(publisher, topics, ref.digest, [(index, message)])
    assert fetch.result().read_bytes() == PLAIN
    assert time.monotonic() - begun > 4.0


def test_what_a_forgetful_broker_lacks_is_said_while_we_wait(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before we give up; nobody is condemned, and the word is taken back when the chunk comes."""
    monkeypatch.setattr(puller, "NOTICE_SECONDS", 0.2)
    publisher, ref, told = connect(mosquitto.url), BlobRef.of(PLAIN), []
    pullers: list[Puller] = []
    client = connect(mosquitto.url, on_message=lambda *message: [one.on_message(*message) for one in pullers])
    pullers.append(Puller(client, topics, tmp_path / "blobs"))
    device = Fetcher(tmp_path / "blobs", pullers)
    device.told = lambda: told.append(dict(device.faults))
    put(publisher, topics, ref.digest, [(0, RAW_CHUNKS[0])])
    with ThreadPoolExecutor() as pool:
        fetch = pool.submit(device.fetch, ref)
        until(lambda: told)
        assert told[0]["mqtt"].startswith(f"waiting: chunk 1 of blob {ref.digest.short} ")
        assert "is not on the broker; push the release again" in told[0]["mqtt"]
        put(publisher, topics, ref.digest, list(enumerate(RAW_CHUNKS))[1:])
        assert fetch.result(30).read_bytes() == PLAIN
    assert told[-1] == device.faults == {}


def test_a_chunk_the_broker_dropped_is_asked_for_again(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "ASK_AGAIN_SECONDS", 0.2)
    dropped: list[str] = []
    pullers: list[Pulling] = []

    def lossy(topic: str, payload: bytes, retain: bool) -> None:
        if topic.endswith(("/1", "/2")) and dropped.count(topic) < 2:
            dropped.append(topic)
            return
        pullers[0].on_message(topic, payload, retain)

    pullers.append(Pulling(connect(mosquitto.url, on_message=lossy), topics, tmp_path))
    blobs.publish(connect(mosquitto.url), topics, PLAIN)
    assert pullers[0].get(BlobRef.of(PLAIN), timeout_seconds=30).read_bytes() == PLAIN
    assert len(dropped) == 4


def test_a_slow_link_is_not_asked_again_and_again(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "ASK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(puller, "POLL_SECONDS", 0.01)
    ref = BlobRef.of(PLAIN)
    publisher, source = connect(mosquitto.url), make_puller(mosquitto.url)
    asked = Asked(source, monkeypatch)
    fetch = Fetch(source, ref, timeout_seconds=10)
    begun = time.monotonic()
    for index, message in enumerate(RAW_CHUNKS):
        until(lambda index=index: time.monotonic() - begun > 0.5 * (index + 1))  # type: ignore[misc]
        put(publisher, topics, ref.digest, [(index, message)])
    fetch.result()
    # 2 s at 0.1 s each would be 20 askings; waits that double after 0.1 s, then four gaps of 0.5 s each, are few.
    assert asked.indices.count(0) <= 4
    assert all(asked.indices.count(index) == 1 for index in (1, 2, 3))


class Disorderly:
    """A broker in memory that repeats and reorders retained messages, and sends some that nobody asked for."""

    condition = "connected"
    connection = 1

    def __init__(self, topics: Topics, digest: Digest, messages: list[bytes], rng: random.Random) -> None:
        self._retained = {topics.chunk(digest, index): message for index, message in enumerate(messages)}
        self._rng = rng
        self._waiting: list[str] = []
        self.deliver: Callable[[str, bytes], bool] = lambda *_: False

    def ask(self, topics: Iterable[str]) -> int:
        self._waiting += topics
        self._rng.shuffle(self._waiting)
        # One is always held back for later, unless it is the only one.
        while len(self._waiting) > 1 or (self._waiting and self._rng.random() < 0.5):
            topic = self._waiting.pop()
            for _ in range(self._rng.choice([1, 1, 2, 3])):
                self.deliver(topic, self._retained[topic])
            stray = self._rng.choice(list(self._retained))
            self.deliver(stray, self._retained[stray])
            self.deliver(stray + "9999999", self._retained[stray])
            self.deliver(stray.rsplit("/", 1)[0] + "/x", b"junk")
            self.deliver(stray, b"")
        return 1

    def unsubscribe(self, topics: Iterable[str]) -> None:
        list(topics)

    def refusal(self, topic: str) -> str:
        return ""


@pytest.mark.parametrize("seed", range(8))
def test_duplicates_and_disorder_change_nothing(
    topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(puller, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(puller, "POLL_SECONDS", 0.005)
    data = random.Random(seed).randbytes(20 * CHUNK_BYTES + seed)
    ref = BlobRef.of(data)
    broker = Disorderly(topics, ref.digest, split(data), random.Random(seed))
    source = Pulling(broker, topics, tmp_path, window=4)
    broker.deliver = source.on_message
    assert source.get(ref, timeout_seconds=30).read_bytes() == data


class Refusing(Disorderly):
    def ask(self, topics: Iterable[str]) -> int:
        list(topics)
        return 1

    def refusal(self, topic: str) -> str:
        return "Not authorized"


def test_a_refused_subscription_is_quoted(topics: Topics, tmp_path: Path) -> None:
    ref = BlobRef.of(PLAIN)
    source = Pulling(Refusing(topics, ref.digest, RAW_CHUNKS, random.Random(0)), topics, tmp_path)
    with pytest.raises(TransportError, match=f"refuses us {topics.chunk(ref.digest, 0)}: Not authorized"):
        source.get(ref, timeout_seconds=0.1)
    assert not source.on_message("some/other/topic", b"x")
    assert not source.on_message(topics.chunk(ref.digest, 0), b"x")


@pytest.mark.parametrize("persistent", [True, False])
def test_a_broker_that_dies_in_the_middle_and_comes_back(
    connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path, persistent: bool
) -> None:
    data = os.urandom(80 * CHUNK_BYTES)
    ref, messages = BlobRef.of(data), list(enumerate(split(data)))
    quick = {"backoff": Backoff(0.05, 0.2)}
    with Mosquitto(persistent=persistent) as broker:
        publisher, source = connect(broker.url, **quick), make_puller(broker.url, **quick)
        put(publisher, topics, ref.digest, messages[:40])
        fetch = Fetch(source, ref, timeout_seconds=15)
        until(lambda: mapped(tmp_path / "blobs", ref) == 40)
        broker.restart() if persistent else broker.kill()
        broker.start()
        publisher.wait_connected(30)
        # Nothing of the first half is there any more without persistence, and nothing of it is needed.
        put(publisher, topics, ref.digest, messages[40:])
        assert fetch.result().read_bytes() == data


def test_an_unreachable_broker_is_named(connect: Connect, topics: Topics, tmp_path: Path) -> None:
    with Mosquitto() as broker:
        client = connect(broker.url)
        broker.kill()
        until(lambda: not client.connected)
        with pytest.raises(TransportError, match="not connected"):
            Pulling(client, topics, tmp_path).get(BlobRef.of(PLAIN), timeout_seconds=0.3)


def test_a_damaged_file_under_a_blobs_name_is_fetched_again(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller
) -> None:
    blobs.publish(connect(mosquitto.url), topics, PLAIN)
    source = make_puller(mosquitto.url)
    path = source.get(BlobRef.of(PLAIN), timeout_seconds=30)
    for damage in (PLAIN[:-1], flip(PLAIN)):
        path.write_bytes(damage)
        assert source.get(BlobRef.of(PLAIN), timeout_seconds=30).read_bytes() == PLAIN


def test_what_a_broken_off_fetch_left_can_be_discarded(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path
) -> None:
    ref = BlobRef.of(PLAIN)
    put(connect(mosquitto.url), topics, ref.digest, [(0, RAW_CHUNKS[0])])
    source = make_puller(mosquitto.url)
    with pytest.raises(TransportError):
        source.get(ref, timeout_seconds=1.5)
    assert len(files(tmp_path / "blobs")) == 2
    source.discard(ref.digest)
    assert files(tmp_path / "blobs") == []


@pytest.mark.parametrize("data", [PLAIN, TEXT])
def test_a_disk_that_refuses_is_a_store_error_and_leaves_nothing_half_written(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path, data: bytes
) -> None:
    ref = BlobRef.of(data)
    blobs.publish(connect(mosquitto.url), topics, data)
    source = make_puller(mosquitto.url)
    (tmp_path / "blobs").mkdir()
    blocker = tmp_path / "blobs" / ref.digest.hex[:2]
    blocker.write_text("a file where a directory belongs")
    with pytest.raises(StoreError, match="blobs cannot be written"):
        source.get(ref, timeout_seconds=30)
    blocker.unlink()
    assert source.get(ref, timeout_seconds=30).read_bytes() == data
    assert files(tmp_path / "blobs") == [f"{ref.digest.hex[:2]}/{ref.digest.hex}"]


FULL = """
import resource, signal, sys
sys.path.insert(0, ".")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""


def test_a_write_that_fails_half_way_is_a_store_error(
    mosquitto: Mosquitto, connect: Connect, topics: Topics, make_puller: MakePuller, tmp_path: Path
) -> None:
    ref = BlobRef.of(TEXT)
    blobs.publish(connect(mosquitto.url), topics, TEXT)
    arguments = [mosquitto.url, topics.fleet, str(tmp_path / "blobs"), str(ref.digest), str(ref.size)]
    child = subprocess.run([sys.executable, "-c", FULL + CHILD, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert "StoreError: blob directory" in child.stderr
    assert all(name.startswith("partial/") for name in files(tmp_path / "blobs"))
    assert make_puller(mosquitto.url).get(ref, timeout_seconds=30).read_bytes() == TEXT
