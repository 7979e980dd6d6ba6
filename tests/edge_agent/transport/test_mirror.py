"""Blobs from URLs: the same checks whoever serves them, and the next source where one fails."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ReasonCode, StoreError, TransportError, UpdateRejected
from edge_agent.transport import mirror as mirrors
from edge_agent.transport.fetcher import Fetcher
from edge_agent.transport.mirror import Mirror
from edge_agent.transport.pace import Pace
from publisher.record import Record
from tests.simulators import mirror as web
from tests.simulators.certificates import Certificates
from tests.simulators.mirror import WebMirror
from tests.simulators.s3 import INSTALLED, S3Server
from tests.simulators.waiting import until

DATA = random.Random(7).randbytes(300_000)
REF = BlobRef.of(DATA)
OBJECTS = {f"/blob/{REF.digest.hex[:2]}/{REF.digest.hex}": DATA}


@pytest.fixture
def good() -> Iterator[WebMirror]:
    with WebMirror(OBJECTS) as server:
        yield server


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def whole(directory: Path) -> Path:
    return directory / "partial" / f"{REF.digest.hex}.whole"


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def get(mirror: Mirror, directory: Path, ref: BlobRef = REF, seconds: float = 5.0) -> Path:
    target = directory / ref.digest.hex[:2] / ref.digest.hex
    mirror.fetch(ref, target, timeout_seconds=seconds, stop=threading.Event())
    return target


def test_the_publishers_record_is_a_mirror(tmp_path: Path, directory: Path) -> None:
    record = Record(tmp_path / "record")
    for data in (DATA, b"", b"x"):
        ref = record.put_blob(data)
        assert get(Mirror(f"file://{tmp_path}/record", directory), directory, ref).read_bytes() == data
    assert len(files(directory)) == 3


@pytest.mark.skipif(not INSTALLED, reason="moto is not installed")
def test_a_bucket_is_a_mirror(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        Record(bucket).put_blob(DATA)
        source = Mirror(bucket, directory)
        whole(directory).parent.mkdir(parents=True)
        whole(directory).write_bytes(DATA[:1000])
        assert get(source, directory, seconds=20).read_bytes() == DATA
        with pytest.raises(TransportError, match="s3://"):
            get(source, directory, BlobRef.of(b"not there"), seconds=20)


def test_what_arrived_is_resumed_by_range(good: WebMirror, directory: Path) -> None:
    whole(directory).parent.mkdir(parents=True)
    whole(directory).write_bytes(DATA[:1000])
    assert get(Mirror(good.url, directory), directory).read_bytes() == DATA
    assert [asked for _, asked in good.asked] == ["bytes=1000-"]
    assert files(directory) == [REF.digest.hex]


def test_a_server_without_ranges_serves_as_well(directory: Path) -> None:
    whole(directory).parent.mkdir(parents=True)
    whole(directory).write_bytes(DATA[:100_000])
    with WebMirror(OBJECTS, web.rangeless) as server:
        assert get(Mirror(server.url, directory), directory).read_bytes() == DATA


@pytest.mark.parametrize("torn", [b"\0" * 5000, DATA[:-1] + b"x", DATA + b"more"])
def test_a_part_that_a_power_cut_tore_is_fetched_anew(good: WebMirror, directory: Path, torn: bytes) -> None:
    whole(directory).parent.mkdir(parents=True)
    whole(directory).write_bytes(torn)
    assert get(Mirror(good.url, directory), directory).read_bytes() == DATA


def test_a_download_broken_off_goes_on_where_it_stopped(directory: Path) -> None:
    with WebMirror(OBJECTS, web.cut) as server:
        with pytest.raises(TransportError, match=f"{server.url}.*{REF.digest.short}.*ends after 150000 of 300000"):
            get(Mirror(server.url, directory), directory)
        assert whole(directory).stat().st_size == 150_000
        server.how = web.good
        assert get(Mirror(server.url, directory), directory).read_bytes() == DATA
        assert server.asked[-1][1] == "bytes=150000-"


@pytest.mark.parametrize(("how", "code"), [(web.wrong, ReasonCode.CONTENT), (web.endless, ReasonCode.SIZE)])
def test_a_mirror_that_serves_other_bytes_is_refused_by_name(directory: Path, how: web.Serve, code: ReasonCode) -> None:
    with WebMirror(OBJECTS, how) as server, pytest.raises(UpdateRejected, match=server.url) as caught:
        get(Mirror(server.url, directory), directory)
    assert [(one.code, one.where) for one in caught.value.reasons] == [(code, str(REF.digest))]
    assert files(directory) == []


@pytest.mark.parametrize("how", [web.drip, web.drip_headers, web.silent])
def test_slow_retrieval_has_an_end(directory: Path, monkeypatch: pytest.MonkeyPatch, how: web.Serve) -> None:
    monkeypatch.setattr(mirrors, "BYTES_PER_SECOND_MIN", 1_000_000)
    begun = time.monotonic()
    with WebMirror(OBJECTS, how) as server, pytest.raises(TransportError, match=r"is too slow|sent nothing for"):
        get(Mirror(server.url, directory, deadline_seconds=0.6), directory, seconds=1.0)
    assert time.monotonic() - begun < 25


BAD = {
    "not there": lambda request, data: request.send_error(404),
    "wrong bytes": web.wrong,
    "endless": web.endless,
    "breaks off": web.cut,
    "another range": web.other_range,
    "drips": web.drip,
    "silent": web.silent,
}


@pytest.mark.parametrize("how", BAD)
def test_with_a_good_second_source_a_malicious_mirror_only_costs_time_and_is_named(
    good: WebMirror, directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(mirrors, "BYTES_PER_SECOND_MIN", 1_000_000)
    with WebMirror(OBJECTS, BAD[how]) as bad:
        impatient = Mirror(bad.url, directory, deadline_seconds=1.0)
        fetcher = Fetcher(directory, [impatient, Mirror(good.url, directory)])
        assert fetcher.fetch(REF).read_bytes() == DATA
        assert list(fetcher.faults) == [bad.url]
        assert bad.url in fetcher.faults[bad.url] or REF.digest.short in fetcher.faults[bad.url]
        # It works again: nothing to report any more.
        bad.how, impatient._deadline_seconds = web.good, 30.0
        fetcher.path(REF.digest).unlink()
        fetcher.fetch(REF)
        assert fetcher.faults == {}


def test_when_every_source_fails_each_is_named(directory: Path) -> None:
    with WebMirror(OBJECTS, web.wrong) as one, WebMirror({}) as two:
        fetcher = Fetcher(directory, [Mirror(one.url, directory), Mirror(two.url, directory)])
        with pytest.raises(UpdateRejected, match=one.url):
            fetcher.fetch(REF)
        assert set(fetcher.faults) == {one.url, two.url}
        fetcher = Fetcher(directory, [Mirror(two.url, directory), Mirror("file:///nowhere", directory)])
        with pytest.raises(TransportError, match=rf"{two.url}.*404.*file:///nowhere.*No such file"):
            fetcher.fetch(REF)


def test_a_stopped_download_keeps_what_arrived(directory: Path) -> None:
    stop = threading.Event()
    with WebMirror(OBJECTS, web.drip) as server:
        fetcher = Fetcher(directory, [Mirror(server.url, directory)])
        errors: list[str] = []

        def fetch() -> None:
            try:
                fetcher.fetch(REF, stop)
            except TransportError as error:
                errors.append(str(error))

        thread = threading.Thread(target=fetch)
        thread.start()
        until(lambda: server.asked)
        stop.set()
        thread.join(30)
        assert "was stopped" in errors[0]
    assert fetcher.faults == {}
    assert whole(directory).exists()


def test_the_limit_holds_for_downloads_too(good: WebMirror, directory: Path) -> None:
    begun = time.monotonic()
    get(Mirror(good.url, directory, pace=Pace(200_000)), directory)
    assert REF.size / (time.monotonic() - begun) < 1.2 * 200_000


def test_a_pace_lends_and_wants_it_back() -> None:
    now = [0.0]
    pace = Pace(100.0, clock=lambda: now[0])
    assert pace.ready
    pace.took(250)
    assert pace.wait_seconds() == pytest.approx(2.5)
    pace.took(-50)
    now[0] = 1.0
    assert pace.wait_seconds() == pytest.approx(1.0)
    now[0] = 60.0
    assert pace.ready
    pace.took(101)
    assert not pace.ready, "no more than a second's worth is saved up"
    assert Pace().ready
    with pytest.raises(ValueError, match="makes no sense"):
        Pace(-1)


def test_https_is_checked_against_the_configured_authority(directory: Path, tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    issued = authority.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(str(issued.cert), str(issued.key))
    with WebMirror(OBJECTS) as server:
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
            get(Mirror(url, directory), directory)
        assert get(Mirror(url, directory, ca=authority.ca), directory).read_bytes() == DATA


def test_a_disk_that_refuses_is_a_store_error(good: WebMirror, directory: Path) -> None:
    directory.write_text("a file where a directory belongs")
    with pytest.raises(StoreError, match="cannot be written"):
        get(Mirror(good.url, directory), directory)
