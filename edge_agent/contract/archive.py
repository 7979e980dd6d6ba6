"""The container of a bundle: a stored zip, the same bytes on every machine (F3), and which names may stand in it (F1).

It decides whether an archive is laid out as we lay it out and whether its members could be unpacked safely. It knows
nothing of wheels; `bundle` does. It refuses compression (so no archive grows when it is read), links, directories,
overlaps, bytes between or around the members, and every path that could leave its directory or meet another one.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import sys
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping

from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected

__all__ = ["ARCHIVE_BYTES_MAX", "MEMBERS_MAX", "PATH_BYTES_MAX", "name_faults", "read_archive", "write_archive"]

ARCHIVE_BYTES_MAX = 64 * 1024 * 1024
MEMBERS_MAX = 4096
PATH_BYTES_MAX = 512
_COMPONENT_BYTES_MAX = 255  # NAME_MAX of every Linux file system
_END = struct.Struct("<4s4H2IH")
_LOCAL_BYTES, _CENTRAL_BYTES = 30, 46
# All that zipfile raises on hostile bytes, found by flipping them.
_UNREADABLE = (zipfile.BadZipFile, struct.error, OSError, ValueError, EOFError, NotImplementedError, RuntimeError)
_UTF8 = 0x800
_EPOCH = (1980, 1, 1, 0, 0, 0)
_STARTUP = {"sitecustomize", "usercustomize"}
_MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pyd")
# Standard library names that only some of the supported interpreters know: a bundle that one of them accepts must be
# acceptable to all. (3.12 and 3.13 dropped the first group, 3.14 brought the second.)
_STANDARD_ELSEWHERE = {
    "aifc",
    "asynchat",
    "asyncore",
    "audioop",
    "cgi",
    "cgitb",
    "chunk",
    "crypt",
    "distutils",
    "imghdr",
    "imp",
    "lib2to3",
    "mailcap",
    "msilib",
    "nis",
    "nntplib",
    "ossaudiodev",
    "pipes",
    "smtpd",
    "sndhdr",
    "spwd",
    "sunau",
    "telnetlib",
    "uu",
    "xdrlib",
    "annotationlib",
    "compression",
}
_TAKEN = sys.stdlib_module_names | _STANDARD_ELSEWHERE | {"__main__", "edge_agent", "publisher", "fieldcast"}


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """Return a stored zip with `members` in the order given; times, rights and flags are fixed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in members.items():
            info = zipfile.ZipInfo(path, _EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def read_archive(data: bytes) -> tuple[dict[str, bytes], list[Reason]]:
    """Return the members of `data` by path, and every fault of their names.

    Raises `UpdateRejected` when members cannot be read safely: too large, truncated, compressed, links, overlaps.
    """
    _check_container(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > MEMBERS_MAX:
                raise UpdateRejected.one(ReasonCode.SIZE, f"bundle has {len(infos)} members, {MEMBERS_MAX} are allowed")
            bad_names = list(name_faults(info.orig_filename for info in infos))
            # Nothing is read before this passes: overlapping members could multiply the file without compression.
            bad_layout = [fault for info in infos for fault in _member_faults(info)] + list(_layout_faults(infos, data))
            if bad_layout:
                raise UpdateRejected([*bad_names, *bad_layout])
            return {info.orig_filename: archive.read(info) for info in infos}, bad_names
    except _UNREADABLE as error:
        raise UpdateRejected.one(ReasonCode.MALFORMED, f"bundle is no readable zip: {_words(error)}") from None


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_container(data: bytes) -> None:
    """Judge the end record before zipfile does: it sizes the directory by what the file claims."""
    if len(data) > ARCHIVE_BYTES_MAX:
        raise UpdateRejected.one(ReasonCode.SIZE, f"bundle of {len(data)} bytes exceeds {ARCHIVE_BYTES_MAX}")
    if len(data) < _END.size:
        raise UpdateRejected.one(ReasonCode.MALFORMED, f"bundle of {len(data)} bytes is no zip: truncated")
    magic, disk, first, here, count, size, offset, comment = _END.unpack_from(data, len(data) - _END.size)
    if magic != b"PK\x05\x06" or comment or disk or first or here != count:
        raise UpdateRejected.one(
            ReasonCode.MALFORMED, "bundle does not end as a zip ends: truncated, or something was appended"
        )
    if count > MEMBERS_MAX or size > MEMBERS_MAX * (_CENTRAL_BYTES + PATH_BYTES_MAX):
        raise UpdateRejected.one(ReasonCode.SIZE, f"bundle has {count} members, {MEMBERS_MAX} are allowed")
    # A zip64 locator would silently replace the numbers just checked.
    if offset + size + _END.size != len(data) or data[-_END.size - 20 :].startswith(b"PK\x06\x07"):
        raise UpdateRejected.one(
            ReasonCode.MALFORMED, "bundle's directory is not where its end says: truncated, or bytes were added"
        )


def _layout_faults(infos: list[zipfile.ZipInfo], data: bytes) -> Iterator[Reason]:
    """Members must fill the file from its first byte to the directory, none twice, nothing between them."""
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset != position:
            yield _fault("the member overlaps another one or leaves hidden bytes before it", info.orig_filename)
        name_bytes = len(info.orig_filename.encode() if info.flag_bits & _UTF8 else info.orig_filename)  # else cp437
        position = info.header_offset + _LOCAL_BYTES + name_bytes + info.compress_size
    if position != _END.unpack_from(data, len(data) - _END.size)[6]:
        yield _fault("bytes between the last member and the directory belong to nobody", "")


def _member_faults(info: zipfile.ZipInfo) -> Iterator[Reason]:
    mode = info.external_attr >> 16
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        yield _fault("is compressed; bundles are stored, the transport compresses", info.orig_filename)
    if info.flag_bits & ~_UTF8 or info.extra or info.comment:
        yield _fault("carries zip features (encryption, descriptor, extra field) a bundle has not", info.orig_filename)
    if stat.S_ISLNK(mode):
        yield _fault("is a symbolic link", info.orig_filename)
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG) or info.is_dir():
        yield _fault("is not a regular file", info.orig_filename)


def _fault(message: str, where: str, code: ReasonCode = ReasonCode.MALFORMED) -> Reason:
    named = where if where.isprintable() else ascii(where)
    return Reason(
        code=code, message=f"bundle: {named[:200]!r} {message}" if where else f"bundle: {message}", where=named
    )


# --- names ---------------------------------------------------------------------------------------------------------


def name_faults(paths: Iterable[str]) -> Iterator[Reason]:
    """Yield every reason why members of these names must not be unpacked or imported (F1)."""
    exact: set[str] = set()
    spelled: dict[str, str] = {}
    folders: set[str] = set()
    for path in paths:
        if path in exact:
            yield _fault("is there twice", path)
            continue
        exact.add(path)
        fault = _path_fault(path)
        if fault:
            yield _fault(fault, path)
            continue
        yield from (_fault(message, path) for message in _meaning_faults(path.split("/")))
        for prefix in _prefixes(path):
            first = spelled.setdefault(_folded(prefix), prefix)
            if first != prefix:
                yield _fault(f"differs from {first!r} by case or spelling only", path)
                break
            if prefix != path:
                folders.add(prefix)
    yield from (_fault("is a file and a folder", path) for path in sorted(exact & folders))


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _folded(path: str) -> str:
    # NFKC, as Python folds identifiers and some file systems fold names.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _path_fault(path: str) -> str:
    if not path or len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
        return f"is empty or longer than {PATH_BYTES_MAX} bytes"
    if not path.isprintable() or "\\" in path:
        return "has a control character or backslash in its name"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    parts = path.split("/")
    if ".." in parts:
        return "climbs out of its folder"
    if "" in parts or "." in parts:
        return "has an empty or '.' part in its path"
    if any(len(part.encode()) > _COMPONENT_BYTES_MAX for part in parts):
        return f"has a part longer than {_COMPONENT_BYTES_MAX} bytes in its path"
    return ""


def _meaning_faults(parts: list[str]) -> Iterator[str]:
    top, name = unicodedata.normalize("NFKC", parts[0]), _folded(parts[-1])
    if name.endswith(".pth"):
        yield "is a .pth file: site would run it"
    if top.lower().endswith(".data") and len(parts) > 1:
        yield "lies in a .data folder: an installer would spread it over the machine"
    if any(_folded(part).partition(".")[0] in _STARTUP for part in parts):
        yield "is named as code that Python runs at start"
    importable = len(parts) > 1 or name.endswith(_MODULE_SUFFIXES)
    if importable and top.partition(".")[0] in _TAKEN and not top.endswith(".dist-info"):
        yield f"takes the name {top.partition('.')[0]!r} from the standard library or the agent: rename it"
