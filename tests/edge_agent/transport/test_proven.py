"""What this process has hashed is not hashed again; what was touched since is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.contract.digest import BlobRef
from edge_agent.transport import proven
from edge_agent.transport.fetcher import Fetcher
from edge_agent.transport.fetchers import Fetchers
from edge_agent.transport.proven import Proven

DATA = b"model"
REF = BlobRef.of(DATA)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    os.utime(path, ns=(1, 1))
    return path


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(DATA)
    os.utime(other, ns=(1, 1))
    other.rename(path)


def written_to(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"M")


def linked(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to(path.with_name("away"))


TOUCHED: dict[str, Callable[[Path], None]] = {
    "written to": written_to,
    "replaced by its like": replaced,
    "longer": lambda path: path.open("ab").write(b"x") and None,
    "a link to it": linked,
    "gone": Path.unlink,
}


def test_what_was_noted_holds_for_that_blob_only(file: Path) -> None:
    known = Proven()
    assert not known.holds(REF, file)
    known.note(REF, file)
    assert known.holds(REF, file)
    assert not known.holds(BlobRef.of(b"MODEL"), file)
    assert not Proven().holds(REF, file), "another process has seen nothing"


@pytest.mark.parametrize("how", TOUCHED)
def test_a_file_that_was_touched_is_unknown(file: Path, how: str) -> None:
    known = Proven()
    known.note(REF, file)
    TOUCHED[how](file)
    assert not known.holds(REF, file)


def test_the_oldest_are_forgotten(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proven, "KEPT_MAX", 2)
    others = [tmp_path / name for name in "ab"]
    known = Proven()
    for path in (file, *others):
        path.write_bytes(DATA)
        known.note(REF, path)
    assert [known.holds(REF, path) for path in (file, *others)] == [False, True, True]


def test_a_fetcher_vouches_for_what_it_fetched_or_checked(tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path, [])
    path = fetcher.path(REF.digest)
    path.parent.mkdir()
    path.write_bytes(DATA)
    several = Fetchers([Fetcher(tmp_path, []), fetcher])
    assert not several.proven(REF, path)
    fetcher.fetch(REF)
    assert several.proven(REF, path)
