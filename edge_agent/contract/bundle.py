"""The bundle (F1): a wheel that carries one class and its closure, built to the byte (F3) and read with suspicion.

`build_bundle` makes one, `read_bundle` judges one and gives its files; both are pure and obey the same rules, so what
the publisher builds the device accepts. All faults are gathered, then raised once. Whether a bundle's tag, Python and
distributions fit a machine is `compatibility`'s business; nothing here imports or runs what a bundle holds.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from email.parser import BytesParser

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import parse_tag
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from edge_agent.contract.archive import ARCHIVE_BYTES_MAX, name_faults, read_archive, write_archive
from edge_agent.contract.errors import Reason, ReasonCode, UpdateRejected
from edge_agent.contract.pinned import PINNED_MEMBER, is_pinned

__all__ = ["ENTRY_POINT_GROUP", "PORTABLE_TAG", "Bundle", "build_bundle", "read_bundle"]

PORTABLE_TAG = "py3-none-any"
ENTRY_POINT_GROUP = "edge_agent.filters"
_COMPILED = (".pyc", ".pyo", ".so", ".pyd")
_REASONS_MAX = 50


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    `target` is `module:QualifiedName`, `tag` one wheel tag (PEP 425), `requires` PEP 508 texts, `requires_python` a
    specifier or empty. `members` maps posix paths to the bytes of every file outside the `.dist-info` folder.
    """

    name: str
    version: str
    target: str
    tag: str
    requires: tuple[str, ...]
    requires_python: str
    members: dict[str, bytes]

    @property
    def filename(self) -> str:
        """The wheel file name that packaging tools expect of these bytes."""
        return f"{_stem(self.name, self.version)}-{self.tag}.whl"


def build_bundle(
    *,
    name: str,
    version: str,
    target: str,
    files: Mapping[str, bytes],
    data: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
    requires_python: str = "",
    tag: str = PORTABLE_TAG,
) -> bytes:
    """Return the wheel of one class: sources `files` and data files `data` by posix path, at their import paths.

    Equal arguments give equal bytes on every machine and Python version. Raises `ValueError` with everything that
    `read_bundle` would refuse.
    """
    data = data or {}
    double = sorted(files.keys() & data.keys())
    if double:
        raise ValueError(f"given as source and as data: {', '.join(double)}")
    bundle = Bundle(
        name=canonicalize_name(name, validate=True),
        version=str(Version(version)),
        target=target,
        tag=tag,
        requires=tuple(sorted({str(Requirement(text)) for text in requires})),
        requires_python=str(SpecifierSet(requires_python)),
        members=dict(sorted({**files, **data}.items())),
    )
    faults = [*name_faults(bundle.members), *_bundle_faults(bundle)]
    if faults:
        raise ValueError("; ".join(reason.message for reason in faults[:_REASONS_MAX]))
    built = write_archive(_with_dist_info(bundle))
    if len(built) > ARCHIVE_BYTES_MAX:
        raise ValueError(f"bundle of {len(built)} bytes exceeds {ARCHIVE_BYTES_MAX}: pass large files as parameters")
    return built


def read_bundle(data: bytes) -> Bundle:
    """Return the bundle in `data`, read to the last byte and checked against its own RECORD.

    Raises `UpdateRejected` with every fault found: container, names, RECORD in both directions, metadata.
    """
    contents, faults = read_archive(data)
    folders = sorted({path.partition("/")[0] for path in contents if path.partition("/")[0].endswith(".dist-info")})
    if len(folders) != 1:
        listed = ", ".join(folders) or "none"
        faults.append(_fault(f"needs exactly one .dist-info folder, has {listed}"))
        raise UpdateRejected(faults[:_REASONS_MAX])
    faults += _record_faults(contents, f"{folders[0]}/RECORD")
    bundle = _parsed(contents, folders[0], faults)
    if faults or bundle is None:
        raise UpdateRejected(faults[:_REASONS_MAX])
    return bundle


def _fault(message: str, where: str = "", code: ReasonCode = ReasonCode.MALFORMED) -> Reason:
    return Reason(code=code, message=f"bundle: {message}", where=where)


def _stem(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}"


# --- writing -------------------------------------------------------------------------------------------------------


def _with_dist_info(bundle: Bundle) -> dict[str, bytes]:
    """Return all members in archive order: payload sorted, then `.dist-info`, RECORD last."""
    folder = f"{_stem(bundle.name, bundle.version)}.dist-info"
    label = bundle.target.partition(":")[2]
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {bundle.name}",
        f"Version: {bundle.version}",
        *([f"Requires-Python: {bundle.requires_python}"] if bundle.requires_python else []),
        *(f"Requires-Dist: {text}" for text in bundle.requires),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: fieldcast", "Root-Is-Purelib: true", f"Tag: {bundle.tag}"]
    contents = {
        **bundle.members,
        f"{folder}/METADATA": _lines(metadata),
        f"{folder}/WHEEL": _lines(wheel),
        f"{folder}/entry_points.txt": _lines([f"[{ENTRY_POINT_GROUP}]", f"{label} = {bundle.target}"]),
    }
    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    writer.writerows((path, f"sha256={_hash(content)}", len(content)) for path, content in contents.items())
    writer.writerow((f"{folder}/RECORD", "", ""))
    contents[f"{folder}/RECORD"] = record.getvalue().encode()
    return contents


def _lines(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


# --- reading -------------------------------------------------------------------------------------------------------


def _record_faults(contents: Mapping[str, bytes], path: str) -> Iterator[Reason]:
    """Compare every member with RECORD and every line of RECORD with the members."""
    if path not in contents:
        yield _fault("has no RECORD", path)
        return
    try:
        rows = list(csv.reader(io.StringIO(contents[path].decode()), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        yield _fault(f"RECORD cannot be read: {error}", path)
        return
    listed: set[str] = set()
    for row in rows:
        if len(row) != 3 or row[0] in listed:
            yield _fault(f"RECORD line {','.join(row)[:200]!r} is malformed or doubled", path)
            continue
        listed.add(row[0])
        if row[0] not in contents:
            yield _fault("RECORD lists a file that is not there", row[0], ReasonCode.CONTENT)
        elif row[0] != path and row[1:] != [f"sha256={_hash(contents[row[0]])}", str(len(contents[row[0]]))]:
            yield _fault("the file is not what RECORD says by size and sha256", row[0], ReasonCode.CONTENT)
    for missing in sorted(contents.keys() - listed):
        yield _fault("the file is missing from RECORD", missing, ReasonCode.CONTENT)


def _parsed(contents: Mapping[str, bytes], folder: str, faults: list[Reason]) -> Bundle | None:
    """Return the bundle that the `.dist-info` files describe and add what is wrong with them to `faults`."""
    members = {path: content for path, content in contents.items() if not path.startswith(f"{folder}/")}
    try:
        metadata = BytesParser().parsebytes(contents[f"{folder}/METADATA"])
        wheel = BytesParser().parsebytes(contents[f"{folder}/WHEEL"])
        tags = wheel.get_all("Tag", [])
        bundle = Bundle(
            name=canonicalize_name(str(metadata["Name"]), validate=True),
            version=str(Version(str(metadata["Version"]))),
            target=_entry_point(contents[f"{folder}/entry_points.txt"]),
            tag=str(tags[0]) if len(tags) == 1 else "",
            requires=tuple(str(text) for text in metadata.get_all("Requires-Dist", [])),
            requires_python=str(metadata.get("Requires-Python", "")),
            members=members,
        )
    except KeyError as error:
        faults.append(_fault("the file is missing from the bundle", str(error.args[0])))
    except (InvalidName, InvalidVersion, ValueError, configparser.Error, binascii.Error) as error:
        faults.append(_fault(" ".join(str(error).split())[:200], folder))
    else:
        if str(wheel["Wheel-Version"]).partition(".")[0] != "1":
            faults.append(_fault(f"wheel version {wheel['Wheel-Version']} is not supported", f"{folder}/WHEEL"))
        if f"{_stem(bundle.name, bundle.version)}.dist-info" != folder:
            faults.append(_fault(f"METADATA names {bundle.name} {bundle.version}, the folder another", folder))
        faults += _bundle_faults(bundle)
        return bundle
    return None


def _entry_point(text: bytes) -> str:
    """Return the one target of group `edge_agent.filters`. Raises `ValueError`."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    parser.read_string(text.decode())
    found = dict(parser.items(ENTRY_POINT_GROUP)) if parser.has_section(ENTRY_POINT_GROUP) else {}
    if len(found) != 1:
        raise ValueError(f"entry_points.txt names {len(found)} classes in {ENTRY_POINT_GROUP}, one is needed")
    return next(iter(found.values())).strip()


def _bundle_faults(bundle: Bundle) -> Iterator[Reason]:
    """Yield what contradicts itself between tag, target, requirements and files."""
    module, separator, qualified = bundle.target.partition(":")
    parts = [*module.split("."), *qualified.split(".")]
    if not separator or not all(part.isidentifier() for part in parts):
        yield _fault(f"target {bundle.target!r} is not module:Class", "entry_points.txt")
    elif bundle.tag == PORTABLE_TAG:
        path = module.replace(".", "/")
        if not {f"{path}.py", f"{path}/__init__.py"} & bundle.members.keys():
            yield _fault(f"target {bundle.target} is in none of its files", "entry_points.txt")
    for path in bundle.members:
        if path.partition("/")[0].endswith(".dist-info"):
            yield _fault("a .dist-info folder is not for an author's files", path)
    yield from _tag_faults(bundle)
    for text in bundle.requires:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            yield _fault(f"requirement {text!r}: {' '.join(str(error).split())}", "METADATA")
    try:
        SpecifierSet(bundle.requires_python)
    except InvalidSpecifier:
        yield _fault(f"Requires-Python {bundle.requires_python!r} is no specifier", "METADATA")


def _tag_faults(bundle: Bundle) -> Iterator[Reason]:
    try:
        plain = len(parse_tag(bundle.tag)) == 1
    except ValueError:
        plain = False
    if not plain:
        yield _fault(f"needs exactly one wheel tag, has {bundle.tag or 'none or several'}", "WHEEL")
    elif is_pinned(bundle.tag) != (PINNED_MEMBER in bundle.members):
        held = "holds" if PINNED_MEMBER in bundle.members else "lacks"
        yield _fault(f"is {bundle.tag} and {held} {PINNED_MEMBER}", "WHEEL")
    elif bundle.tag == PORTABLE_TAG:
        for path in sorted(bundle.members):
            if path.lower().endswith(_COMPILED):
                yield _fault("compiled code has no place in a portable bundle, which carries source", path)
