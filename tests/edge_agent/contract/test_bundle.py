"""Bundles are valid wheels, the same bytes everywhere, and refused whole when anything is wrong (F1–F3)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from installer.sources import WheelFile
from packaging.metadata import Metadata
from packaging.utils import parse_wheel_filename

from edge_agent.contract import archive
from edge_agent.contract.bundle import Bundle, build_bundle, read_bundle
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.pinned import PINNED_MEMBER

FILES = {"dsp/__init__.py": b"", "dsp/filters.py": b"class Low: pass\n", "helper.py": b"K = 1\n"}
ARGUMENTS: dict[str, Any] = {
    "name": "Dsp.Low",
    "version": "0+fabc",
    "target": "dsp.filters:Low",
    "files": FILES,
    "data": {"dsp/tables/low.csv": b"1,2\n", "größe.txt": b"x"},
    "requires": ["scipy>=1.11", "numpy"],
    "requires_python": ">=3.11",
}
STEM = "dsp_low-0+fabc"


def build(**changes: Any) -> bytes:
    return build_bundle(**{**ARGUMENTS, **changes})


def contents_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def record_of(contents: dict[str, bytes], folder: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow((path, f"sha256={digest}", len(content)))
    writer.writerow((f"{folder}/RECORD", "", ""))
    return text.getvalue().encode()


def forge(changes: dict[str, bytes | None], *, recorded: bool = True) -> bytes:
    """A bundle with members replaced, added or (None) left out, its RECORD made to fit."""
    folder = f"{STEM}.dist-info"
    contents = {**contents_of(build()), **changes}
    kept = {path: content for path, content in contents.items() if content is not None}
    if recorded:
        kept.pop(f"{folder}/RECORD", None)
        kept[f"{folder}/RECORD"] = record_of(kept, folder)
    return archive.write_archive(kept)


def reasons_of(data: bytes) -> str:
    with pytest.raises(UpdateRejected) as caught:
        read_bundle(data)
    return str(caught.value)


# --- what is right -------------------------------------------------------------------------------------------------


def test_what_is_built_reads_back() -> None:
    assert read_bundle(build()) == Bundle(
        name="dsp-low",
        version="0+fabc",
        target="dsp.filters:Low",
        tag="py3-none-any",
        requires=("numpy", "scipy>=1.11"),
        requires_python=">=3.11",
        members=dict(sorted({**FILES, **ARGUMENTS["data"]}.items())),
    )


def test_a_pinned_bundle_keeps_its_tag_and_needs_no_source() -> None:
    bundle = read_bundle(build(tag="cp311-none-any", files={PINNED_MEMBER: b"x"}, data={}))
    assert (bundle.tag, bundle.members) == ("cp311-none-any", {PINNED_MEMBER: b"x"})


def test_a_bundle_without_requirements_or_python_says_so() -> None:
    bundle = read_bundle(build(requires=(), requires_python="", data=None))
    assert (bundle.requires, bundle.requires_python) == ((), "")


def test_packaging_and_installer_accept_a_bundle_as_a_wheel(tmp_path: Path) -> None:
    data = build()
    path = tmp_path / read_bundle(data).filename
    path.write_bytes(data)
    name, version, _, tags = parse_wheel_filename(path.name)
    assert (name, str(version), [str(tag) for tag in tags]) == ("dsp-low", "0+fabc", ["py3-none-any"])
    with WheelFile.open(path) as wheel:
        wheel.validate_record()
        assert wheel.dist_info_dir == f"{STEM}.dist-info"
        metadata = Metadata.from_email(wheel.read_dist_info("METADATA"), validate=True)
        assert [str(one) for one in metadata.requires_dist or []] == ["numpy", "scipy>=1.11"]
        assert str(metadata.requires_python) == ">=3.11"
        assert BytesParser().parsebytes(wheel.read_dist_info("WHEEL").encode())["Root-Is-Purelib"] == "true"
        assert "[edge_agent.filters]\nLow = dsp.filters:Low" in wheel.read_dist_info("entry_points.txt")


def test_members_are_stored_sorted_and_without_traces_of_the_machine() -> None:
    with zipfile.ZipFile(io.BytesIO(build())) as opened:
        infos = opened.infolist()
    names = [info.filename for info in infos if ".dist-info/" not in info.filename]
    assert names == sorted(names)
    assert infos[-1].filename.endswith("RECORD")
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {stat.S_IFREG | 0o644}


GOLDEN = "fbb5d8ac95ec28ef6cf89c6656a4f0b3ee13441c15192e92d2baea83518441dc"


def test_the_same_closure_gives_the_same_bytes_as_ever() -> None:
    shuffled = {
        "files": dict(reversed(FILES.items())),
        "requires": ["numpy", "scipy >= 1.11", "numpy"],
        "name": "dsp_low",
    }
    assert build(**shuffled) == build()
    assert Digest.of(build()).hex == GOLDEN


def _interpreters() -> list[str]:
    """Every supported interpreter at hand that has our dependencies: tox-like names on PATH, or FIELDCAST_PYTHONS."""
    named = os.environ.get("FIELDCAST_PYTHONS", "").split(os.pathsep)
    return [sys.executable, *(one for one in named if one)]


@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("python", _interpreters(), ids=lambda path: Path(path).parts[-3])
def test_every_interpreter_and_hash_seed_builds_the_same_bytes(python: str, seed: str) -> None:
    script = (
        "from edge_agent.contract.bundle import build_bundle\n"
        "from edge_agent.contract.digest import Digest\n"
        f"print(Digest.of(build_bundle(**{ARGUMENTS!r})).hex)"
    )
    root = Path(archive.__file__).parents[2]
    done = subprocess.run(
        [python, "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == GOLDEN, done.stderr


# --- names that are refused ----------------------------------------------------------------------------------------

BAD_NAMES = {
    ".pth": ("x.pth", "site would run it"),
    ".pth deeper": ("dsp/x.PTH", "site would run it"),
    ".data": ("dsp_low-0.data/scripts/run", "spread it over the machine"),
    "sitecustomize": ("sitecustomize.py", "runs at start"),
    "usercustomize package": ("UserCustomize/__init__.py", "runs at start"),
    "sitecustomize extension": ("sitecustomize.cpython-311.so", "runs at start"),
    "absolute": ("/etc/passwd", "absolute"),
    "drive": ("C:/x.py", "absolute"),
    "climbing": ("../x.py", "climbs"),
    "climbing later": ("dsp/../../x.py", "climbs"),
    "backslash": ("dsp\\x.py", "backslash"),
    "dot": ("dsp/./x.py", "'.' part"),
    "double slash": ("dsp//x.py", "empty"),
    "newline": ("dsp/x\n.py", "control"),
    "long part": ("d" * 256, "longer than 255"),
    "long path": ("/".join(["d" * 100] * 6), "longer than 512"),
    "standard library": ("json.py", "'json'"),
    "standard library package": ("email/mine.py", "'email'"),
    "standard library of another version": ("imp.py", "'imp'"),
    "standard library of a later version": ("annotationlib.py", "'annotationlib'"),
    "compiled standard library": ("json.cpython-311-x86_64-linux-gnu.so", "'json'"),
    "agent": ("edge_agent/sdk/filter.py", "'edge_agent'"),
    "publisher": ("publisher.py", "'publisher'"),
    "main": ("__main__.py", "'__main__'"),
    "case collision": ("Helper.py", "by case"),
    "case collision of folders": ("Dsp/other.py", "by case"),
    "spelling collision": ("gro\u0308\u00dfe.txt", "spelling"),
    "file and folder": ("helper.py/x.py", "a file and a folder"),
    "compiled code": ("dsp/fast.cpython-311-x86_64-linux-gnu.so", "compiled"),
    "bytecode": ("dsp/__pycache__/filters.cpython-311.pyc", "compiled"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_dangerous_name_is_refused_when_read(case: str) -> None:
    name, words = BAD_NAMES[case]
    assert words in reasons_of(forge({name: b"x"}))


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_dangerous_name_is_refused_when_built(case: str) -> None:
    name, words = BAD_NAMES[case]
    with pytest.raises(ValueError, match="bundle") as caught:
        build(data={**ARGUMENTS["data"], name: b"x"})
    assert words in str(caught.value)


GOOD_NAMES = ["dsp/json.py", "dsp/email/x.py", "string.csv", "Queue.py", "weights.data", "dsp/x.data/y.csv", "a b.txt"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_harmless_names_that_look_alike_are_accepted(name: str) -> None:
    assert read_bundle(build(data={name: b"x"})).members[name] == b"x"


def test_all_faults_are_named_at_once() -> None:
    words = reasons_of(forge({"x.pth": b"", "../y.py": b"", "json.py": b""}))
    assert all(one in words for one in ("x.pth", "../y.py", "json"))


# --- contents that are refused -------------------------------------------------------------------------------------

INFO = f"{STEM}.dist-info"
METADATA = b"Metadata-Version: 2.1\nName: dsp-low\nVersion: 0+fabc\n"
WHEEL = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
BAD_CONTENTS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no METADATA": ({f"{INFO}/METADATA": None}, "METADATA"),
    "no WHEEL": ({f"{INFO}/WHEEL": None}, "WHEEL"),
    "no entry points": ({f"{INFO}/entry_points.txt": None}, "entry_points.txt"),
    "two .dist-info": ({"other-1.dist-info/METADATA": b""}, "exactly one .dist-info"),
    "other name": ({f"{INFO}/METADATA": METADATA.replace(b"dsp-low", b"other")}, "the folder another"),
    "no name": ({f"{INFO}/METADATA": b"Version: 0+fabc\n"}, "the folder another"),
    "name of blanks": ({f"{INFO}/METADATA": METADATA.replace(b"dsp-low", b"a b")}, "name is invalid"),
    "no version": ({f"{INFO}/METADATA": b"Name: dsp-low\n"}, "Invalid version"),
    "requirement": ({f"{INFO}/METADATA": METADATA + b"Requires-Dist: not a >< thing\n"}, "requirement"),
    "python": ({f"{INFO}/METADATA": METADATA + b"Requires-Python: three\n"}, "Requires-Python"),
    "no tag": ({f"{INFO}/WHEEL": WHEEL}, "exactly one wheel tag"),
    "two tags": ({f"{INFO}/WHEEL": WHEEL + b"Tag: py3-none-any\nTag: cp311-none-any\n"}, "exactly one wheel tag"),
    "compressed tag": ({f"{INFO}/WHEEL": WHEEL + b"Tag: py2.py3-none-any\n"}, "exactly one wheel tag"),
    "no tag at all": ({f"{INFO}/WHEEL": WHEEL + b"Tag: nonsense\n"}, "exactly one wheel tag"),
    "wheel of the future": ({f"{INFO}/WHEEL": b"Wheel-Version: 2.0\nTag: py3-none-any\n"}, "2.0 is not supported"),
    "no class": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\n"}, "names 0 classes"),
    "no group": ({f"{INFO}/entry_points.txt": b"[console_scripts]\na = b:c\n"}, "names 0 classes"),
    "two classes": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\na = dsp:A\nb = dsp:B\n"}, "names 2 classes"),
    "twice the same": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\na = dsp:A\na = dsp:B\n"}, "already exists"),
    "not ini": ({f"{INFO}/entry_points.txt": b"a = b\n"}, "section"),
    "not text": ({f"{INFO}/entry_points.txt": b"\xff\xfe"}, "utf-8"),
    "target nowhere": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\na = gone:A\n"}, "in none of its files"),
    "target malformed": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\na = dsp.filters\n"}, "not module:Class"),
    "target climbing": ({f"{INFO}/entry_points.txt": b"[edge_agent.filters]\na = ..x:A\n"}, "not module:Class"),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_contradicting_contents_are_refused(case: str) -> None:
    changes, words = BAD_CONTENTS[case]
    assert words in reasons_of(forge(changes))


RECORD = f"{INFO}/RECORD"


def _without_line(record: bytes, name: bytes) -> bytes:
    return b"".join(line for line in record.splitlines(keepends=True) if not line.startswith(name))


BAD_RECORDS: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda record: None, "has no RECORD"),
    "member not listed": (lambda record: _without_line(record, b"helper.py"), "missing from RECORD"),
    "itself not listed": (lambda record: _without_line(record, INFO.encode() + b"/RECORD"), "missing from RECORD"),
    "listed but not there": (lambda record: record + b"ghost.py,sha256=x,1\n", "not there"),
    "listed twice": (lambda record: record + record.splitlines(keepends=True)[0], "doubled"),
    "wrong hash": (lambda record: record.replace(b"sha256=", b"sha256=A", 1), "not what RECORD says"),
    "weak hash": (lambda record: record.replace(b"sha256=", b"md5=", 1), "not what RECORD says"),
    "no hash": (lambda record: _without_line(record, b"helper.py") + b"helper.py,,\n", "not what RECORD says"),
    "wrong size": (lambda record: record.replace(b",0\n", b",1\n", 1), "not what RECORD says"),
    "two columns": (lambda record: record + b"x,y\n", "malformed"),
    "not text": (lambda record: b"\xff" + record, "cannot be read"),
    "not csv": (lambda record: record + b'"x\n', "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_record_and_members_must_agree_both_ways(case: str) -> None:
    change, words = BAD_RECORDS[case]
    record = change(contents_of(build())[RECORD])
    assert words in reasons_of(forge({RECORD: record}, recorded=False))


def test_a_changed_member_is_a_content_fault_and_named() -> None:
    with pytest.raises(UpdateRejected) as caught:
        read_bundle(forge({"helper.py": b"K = 2\n"}, recorded=False))
    assert [(reason.code, reason.where) for reason in caught.value.reasons] == [(ReasonCode.CONTENT, "helper.py")]


# --- containers that are refused -----------------------------------------------------------------------------------


def rezip(edit: Callable[[zipfile.ZipInfo], None] = lambda info: None, **changes: Any) -> bytes:
    """The good bundle, zipped again with one member's header edited, or with other options."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in contents_of(build()).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            if name == "helper.py":
                edit(info)
            opened.writestr(info, content, **changes)
    return buffer.getvalue()


def set_attr(**values: Any) -> Callable[[zipfile.ZipInfo], None]:
    def edit(info: zipfile.ZipInfo) -> None:
        for name, value in values.items():
            setattr(info, name, value)

    return edit


def doubled() -> bytes:
    buffer = io.BytesIO(build())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as opened:
        opened.writestr(zipfile.ZipInfo("helper.py"), b"K = 3\n")
    return buffer.getvalue()


def overlapping() -> bytes:
    """Many directory entries that all mean the same bytes: a bomb without compression."""
    kernel = b"a" * 100_000
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(kernel), len(kernel), len(kernel), 1, 0)
    body = local + b"a" + kernel
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, zlib.crc32(kernel), len(kernel), len(kernel), 1, 0, 0, 0, 0, 0, 0
    )
    directory = (entry + b"a") * 1000
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), len(body), 0)


def zip64() -> bytes:
    data = build()
    locator = b"PK\6\7" + bytes(16)
    end = struct.unpack("<4s4H2IH", data[-22:])
    return data[:-22] + locator + struct.pack("<4s4H2IH", *end[:5], end[5] + 20, *end[6:])


def hidden_between() -> bytes:
    """Bytes in front that no member owns, with all offsets right."""
    data, shift = build(), 7
    end = list(struct.unpack("<4s4H2IH", data[-22:]))
    directory = bytearray(data[end[6] : -22])
    position = 0
    while position < len(directory):
        sizes = struct.unpack_from("<3H", directory, position + 28)
        (offset,) = struct.unpack_from("<I", directory, position + 42)
        struct.pack_into("<I", directory, position + 42, offset + shift)
        position += 46 + sum(sizes)
    end[6] += shift
    return b"\0" * shift + data[: end[6] - shift] + bytes(directory) + struct.pack("<4s4H2IH", *end)


def hidden_after() -> bytes:
    data = build()
    end = list(struct.unpack("<4s4H2IH", data[-22:]))
    start = end[6]
    end[6] += 5
    return data[:start] + b"\0" * 5 + data[start:-22] + struct.pack("<4s4H2IH", *end)


BAD_CONTAINERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "truncated"),
    "text": (lambda: b"this is not a zip file at all", "truncated"),
    "empty zip": (lambda: b"PK\5\6" + bytes(18), "exactly one .dist-info"),
    "half": (lambda: build()[: len(build()) // 2], "truncated"),
    "last byte missing": (lambda: build()[:-1], "truncated"),
    "first byte missing": (lambda: build()[1:], "truncated"),
    "bytes in front": (lambda: b"#!/bin/sh\n" + build(), "bytes were added"),
    "bytes appended": (lambda: build() + b"x", "appended"),
    "bytes before the first member": (hidden_between, "hidden bytes"),
    "bytes behind the last member": (hidden_after, "belong to nobody"),
    "comment": (lambda: build()[:-2] + b"\3\0abc", "appended"),
    "zip64": (zip64, "bytes were added"),
    "deflated": (lambda: rezip(compress_type=zipfile.ZIP_DEFLATED), "compressed"),
    "bzip2": (lambda: rezip(compress_type=zipfile.ZIP_BZIP2), "compressed"),
    "symbolic link": (lambda: rezip(set_attr(external_attr=0o120777 << 16)), "symbolic link"),
    "device": (lambda: rezip(set_attr(external_attr=0o060644 << 16)), "not a regular file"),
    "folder": (lambda: rezip(set_attr(filename="folder/", orig_filename="folder/")), "not a regular file"),
    "extra field": (lambda: rezip(set_attr(extra=b"\x99\x99\x02\x00ab")), "zip features"),
    "member comment": (lambda: rezip(set_attr(comment=b"hi")), "zip features"),
    "duplicate": (doubled, "twice"),
    "overlapping": (overlapping, "overlaps"),
    "too many members": (
        lambda: archive.write_archive({f"m{number}": b"" for number in range(archive.MEMBERS_MAX + 1)}),
        "are allowed",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTAINERS)
def test_a_container_that_is_not_laid_out_as_ours_is_refused(case: str) -> None:
    make, words = BAD_CONTAINERS[case]
    assert words in reasons_of(make())


def test_an_encrypted_member_is_refused() -> None:
    data = bytearray(build())
    position = data.index(b"PK\1\2")
    data[position + 8] |= 1
    assert "zip features" in reasons_of(bytes(data))


def test_a_directory_that_claims_fewer_members_than_it_lists_is_refused() -> None:
    data = archive.write_archive({f"m{number}": b"" for number in range(archive.MEMBERS_MAX + 1)})
    end = list(struct.unpack("<4s4H2IH", data[-22:]))
    end[3] = end[4] = 3
    assert "are allowed" in reasons_of(data[:-22] + struct.pack("<4s4H2IH", *end))


def test_size_is_bounded_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = build()
    monkeypatch.setattr(archive, "ARCHIVE_BYTES_MAX", len(data) - 1)
    with pytest.raises(UpdateRejected) as caught:
        read_bundle(data)
    assert caught.value.reasons[0].code is ReasonCode.SIZE


# --- building what could not be read -------------------------------------------------------------------------------

BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "file and data": ({"data": {"helper.py": b""}}, "as source and as data"),
    "target nowhere": ({"target": "gone:A"}, "in none of its files"),
    "target malformed": ({"target": "dsp.filters"}, "not module:Class"),
    "requirement": ({"requires": ["a >< b"]}, "a >< b"),
    "python": ({"requires_python": "three"}, "three"),
    "version": ({"version": "one"}, "one"),
    "name": ({"name": "a b"}, "a b"),
    "tag": ({"tag": "cp311"}, "wheel tag"),
    "dist-info": ({"data": {"mine.dist-info/x": b""}}, "not for an author's files"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_what_could_not_be_read_is_not_built(case: str) -> None:
    changes, words = BAD_ARGUMENTS[case]
    with pytest.raises(ValueError, match=words):
        build(**changes)


def test_a_bundle_over_the_bound_is_not_built() -> None:
    large = bytes(archive.ARCHIVE_BYTES_MAX)
    with pytest.raises(ValueError, match="exceeds"):
        build(data={"large.bin": large})


# --- properties ----------------------------------------------------------------------------------------------------

identifiers = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).map(lambda text: f"m_{text}")
paths = st.lists(identifiers, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".py")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(paths, st.binary(max_size=50), max_size=8))
def test_any_files_read_back_as_they_were(files: dict[str, bytes]) -> None:
    assert read_bundle(build(files={**FILES, **files}, data={})).members == dict(sorted({**FILES, **files}.items()))


BUILT = build()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BUILT) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_flipped_byte_never_changes_what_is_read_and_never_raises_anything_else(flips: list[tuple[int, int]]) -> None:
    data = bytearray(BUILT)
    for position, mask in flips:
        data[position] ^= mask
    try:
        found = read_bundle(bytes(data))
    except UpdateRejected as error:
        assert error.reasons  # noqa: PT017 - either outcome is right
    else:
        assert found == read_bundle(BUILT)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BUILT) - 1))
def test_a_truncated_bundle_is_refused(length: int) -> None:
    reasons_of(BUILT[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_but_a_rejection(data: bytes) -> None:
    reasons_of(data)
    reasons_of(data + b"PK\5\6" + bytes(18))
