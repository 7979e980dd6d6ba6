"""Pickles carry the author's names: written inside a bundle's namespace, read inside it, and nowhere else."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.runtime import pickles
from edge_agent.runtime.namespace import Mount
from edge_agent.sdk import pickled

FILES = {
    "shapes/__init__.py": "",
    "shapes/points.py": """
        import enum
        class Point:
            def __init__(self, x):
                self.x = x
            class Inner:
                pass
        class Kind(enum.Enum):
            NEAR = 1
        def double(point):
            return Point(point.x * 2)
        """,
    "work.py": """
        import io
        import pickle
        from pickle import dumps, loads
        from shapes.points import Kind, Point, double

        class Work:
            def trip(self, value):
                return loads(dumps(value))
            def files(self, value):
                file = io.BytesIO()
                pickle.dump(value, file, protocol=4)
                file.seek(0)
                return pickle.load(file)
            def classes(self, value):
                file = io.BytesIO()
                pickle.Pickler(file).dump(value)
                return pickle.Unpickler(io.BytesIO(file.getvalue())).load()
            def written(self, value):
                return dumps(value)
            def values(self):
                return [Point(1), Point.Inner(), Kind.NEAR, double, Point, {"k": [Point(2)]}]
        """,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def one(bundle: Path) -> Iterator[Mount]:
    with Mount(bundle, "one") as mount:
        yield mount


@pytest.fixture
def two(bundle: Path) -> Iterator[Mount]:
    with Mount(bundle, "two") as mount:
        yield mount


@pytest.mark.parametrize("way", ["trip", "files", "classes"])
def test_pickle_inside_a_bundle_gives_back_its_own_classes(one: Mount, way: str) -> None:
    work: Any = one.load("work:Work")()
    values = work.values()
    again = getattr(work, way)(values)
    assert [type(value) for value in again] == [type(value) for value in values]
    assert again[2] is values[2]
    assert again[3] is values[3]
    assert again[4] is values[4]
    assert again[5]["k"][0].x == 2


def test_what_one_mount_writes_another_reads_as_its_own(one: Mount, two: Mount) -> None:
    ours, theirs = one.load("work:Work")(), two.load("work:Work")()
    data = ours.written(ours.values())  # type: ignore[attr-defined]
    assert b"_fieldcast_" not in data
    assert b"shapes.points" in data
    again = pickles.loads(data, two)
    assert type(again[0]) is type(theirs.values()[0]) is not type(ours.values()[0])  # type: ignore[attr-defined]


def test_a_pickle_written_where_the_source_is_importable_is_read_in_a_bundle(one: Mount) -> None:
    assert pickles.loads(b"\x80\x04\x8c\rshapes.points\x8c\x05Point\x93.", one) is one.resolve("shapes.points", "Point")
    assert pickles.loads(b"cdatetime\ndate\n.", one).__name__ == "date"
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        pickles.loads(b"cnowhere\nThing\n.", one)
    with pytest.raises(AttributeError, match="Missing"):
        pickles.loads(b"cshapes.points\nMissing\n.", one)


def test_a_pickle_of_a_bundle_says_so_outside_it(one: Mount) -> None:
    written = pickled.dumps(one.load("shapes.points:Point")(3))  # type: ignore[call-arg]
    assert written.modules == {"shapes.points", "copyreg"} or written.modules == {"shapes.points"}
    with pytest.raises(pickle.UnpicklingError, match=r"shapes\.points\.Point belongs to a bundle"):
        pickle.loads(written.data)


def test_the_owner_of_a_state_stands_for_itself(one: Mount) -> None:
    owner: Any = one.load("shapes.points:Point")(3)  # type: ignore[call-arg]
    data = pickled.dumps({"me": owner}, owner=owner).data
    other = object()
    assert pickles.loads(data, one, owner=other)["me"] is other
    with pytest.raises(pickle.UnpicklingError, match="means nothing here"):
        pickles.loads(data, one)


def test_the_real_pickle_is_left_alone(one: Mount) -> None:
    one.load("work:Work")
    assert pickle.dumps.__module__ == "_pickle"
    assert one.get("pickle") is not pickle
    assert one.get("pickle").HIGHEST_PROTOCOL == pickle.HIGHEST_PROTOCOL
