from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.contract.messages import CHUNK_BYTES, CHUNK_HEADER, ChunkHeader
from edge_agent.transport.chunks import accept, split
from edge_agent.transport.partial import Partial

DATA = os.urandom(5 * CHUNK_BYTES + 17)
REF = BlobRef.of(DATA)


def filled(directory: Path, *indices: int) -> Partial:
    partial = Partial(directory, REF)
    for index in indices:
        header, payload = accept(REF, index, split(DATA)[index])
        if partial.header is None:
            partial.begin(header)
        partial.add(index, payload)
    return partial


def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path, 5, 0, 3).close()
    again = Partial(tmp_path, REF)
    assert again.have == {0, 3, 5}
    assert again.header is not None
    assert again.header.count == 6
    again.close()
    filled(tmp_path, 1, 2, 4).close()
    whole = Partial(tmp_path, REF)
    assert b"".join(whole.pieces()) == DATA
    whole.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", range(1, 16))
def test_a_torn_map_costs_only_the_torn_entries(tmp_path: Path, torn: int) -> None:
    partial = filled(tmp_path, 0, 1, 2)
    partial.close()
    os.truncate(partial.map_path, partial.map_path.stat().st_size - torn)
    again = Partial(tmp_path, REF)
    assert again.have == ({0, 1} if torn <= 8 else {0})
    again.add(4, accept(REF, 4, split(DATA)[4])[1])
    again.close()
    assert Partial(tmp_path, REF).have == again.have


def test_a_chunk_whose_bytes_changed_on_disk_is_not_there(tmp_path: Path) -> None:
    partial = filled(tmp_path, 0, 1, 5)
    partial.close()
    data = bytearray(partial.data_path.read_bytes())
    data[CHUNK_BYTES + 5] ^= 1
    partial.data_path.write_bytes(data)
    assert Partial(tmp_path, REF).have == {0, 5}
    os.truncate(partial.data_path, 5 * CHUNK_BYTES)
    assert Partial(tmp_path, REF).have == {0}


def test_the_hash_of_the_whole_is_taken_as_chunks_come_in_whatever_order(tmp_path: Path) -> None:
    orders = [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 2, 4)]
    for number, order in enumerate(orders):
        together = Partial(tmp_path / f"{number}", REF)
        together.begin(accept(REF, 0, split(DATA)[0])[0])
        together.add_all([(index, accept(REF, index, split(DATA)[index])[1]) for index in order])
        assert together.sha256 == REF.digest.hex
        assert b"".join(together.pieces()) == DATA
        together.close()
        again = Partial(tmp_path / f"{number}", REF)
        assert (again.have, again.sha256) == (set(range(6)), REF.digest.hex)


@pytest.mark.parametrize("first", [(), (0, 1, 2), (2, 0, 1), (5, 3)])
def test_the_hash_goes_on_where_another_process_stopped(tmp_path: Path, first: tuple[int, ...]) -> None:
    filled(tmp_path, *first).close()
    again = filled(tmp_path, *(index for index in range(6) if index not in first))
    assert again.sha256 == REF.digest.hex


def test_what_was_torn_and_fetched_again_counts_again(tmp_path: Path) -> None:
    partial = filled(tmp_path, 0, 1, 2, 3)
    partial.close()
    data = bytearray(partial.data_path.read_bytes())
    data[CHUNK_BYTES + 5] ^= 1
    partial.data_path.write_bytes(data)
    assert Partial(tmp_path, REF).have == {0}, "their checksums are of all that came before"
    filled(tmp_path, 1, 2, 3).close()
    whole = filled(tmp_path, 4, 5)
    assert (whole.have, whole.sha256) == (set(range(6)), REF.digest.hex)


BAD_HEADERS = {
    "short": b"\xfc",
    "no magic": CHUNK_HEADER.pack(1, 0, 0, 0, 6, len(DATA), b"x" * 8),
    "unknown encoding": CHUNK_HEADER.pack(0xFC, 7, 0, 0, 6, len(DATA), b"x" * 8),
    "wrong count": CHUNK_HEADER.pack(0xFC, 0, 0, 0, 9, len(DATA), b"x" * 8),
    "another size": CHUNK_HEADER.pack(0xFC, 0, 0, 0, 6, len(DATA) - 1, b"x" * 8),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_map_that_makes_no_sense_counts_as_none(tmp_path: Path, case: str) -> None:
    (tmp_path / f"{REF.digest.hex}.map").write_bytes(BAD_HEADERS[case] + bytes(80))
    partial = Partial(tmp_path, REF)
    assert (partial.header, partial.have) == (None, set())
    partial.close()
    filled(tmp_path, 2).close()
    assert Partial(tmp_path, REF).have == {2}


def test_an_entry_for_a_chunk_that_cannot_exist_is_ignored(tmp_path: Path) -> None:
    partial = filled(tmp_path, 0)
    partial.close()
    with partial.map_path.open("ab") as file:
        file.write((99).to_bytes(4, "big") + bytes(4))
    assert Partial(tmp_path, REF).have == {0}


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / f"{REF.digest.hex}.map").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        Partial(tmp_path / "p", REF)
    assert victim.read_text() == "precious"


def test_a_longer_leftover_is_cut_to_the_stream(tmp_path: Path) -> None:
    partial = filled(tmp_path, 0, 1, 2, 3, 4, 5)
    with partial.data_path.open("ab") as file:
        file.write(b"leftover")
    partial.sync()
    partial.close()
    partial.close()
    assert partial.data_path.read_bytes() == DATA
    assert isinstance(partial.header, ChunkHeader)
