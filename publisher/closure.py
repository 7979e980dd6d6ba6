"""Everything local that a class needs to run: its module, the local modules those import, the data files they read.

Decides what is shipped, what is required from the device by distribution name, and what is refused with file and line.
Analyses source; never imports or executes the author's code. Nothing is left out silently: what cannot be decided here
is a `Refusal`, and an author may declare it on the class (`imports`, `data`, `requires`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from publisher.analysis import origin
from publisher.analysis.declared import Declared
from publisher.analysis.origin import STDLIB, canonical_name
from publisher.analysis.source import Source
from publisher.analysis.syntax import OLDEST, oldest_minor
from publisher.analysis.walk import External, Refusal, Walk, shown, walk

__all__ = ["Closure", "LocalFile", "Refusal", "collect"]

# Larger things than these are models, which travel as blobs of their own (F6).
MAX_DATA_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class LocalFile:
    """A file to ship. `path` is where the bundle keeps it (posix, its import path), `module` is empty for data."""

    path: str
    module: str
    source: bytes = field(repr=False)
    origin: Path


@dataclass(frozen=True)
class Closure:
    """What a class needs. `files` come sorted by path; `requires` are canonical names of installed distributions.

    `entry` and `attr` name the class inside the bundle; `declared` are the requirements that its `requires` spells out.
    `oldest_minor` is the oldest Python 3 whose grammar has all that is surely imported.
    """

    root: Path
    entry: str
    attr: str
    files: tuple[LocalFile, ...]
    data: tuple[LocalFile, ...]
    requires: tuple[str, ...]
    refused: tuple[Refusal, ...]
    declared: tuple[str, ...] = ()
    oldest_minor: int = OLDEST

    def shown(self, file: LocalFile) -> str:
        """Return a file's path relative to the root, as a person finds it there."""
        return shown(file.origin, self.root)

    def to_json(self) -> dict[str, Any]:
        """Return what `publisher closure --json` prints."""
        return {
            "files": sorted(self.shown(file) for file in self.files),
            "requires": list(self.requires),
            "data": sorted(self.shown(file) for file in self.data),
            "refused": [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused],
        }


def collect(target: type | str | Path, *, root: Path | None = None) -> Closure:
    """Return everything that a class, module or file needs to run elsewhere.

    `target` is a class, `module`, `module:attr`, `file.py[:attr]` or a path; `root` the project directory, guessed when
    None. What cannot be shipped is in `refused`; only a target that cannot be found at all raises `AuthorError`.
    """
    found = walk(target, root=root)
    requires = set(_judge(found))
    requires.update(canonical_name(name) for name in found.declared.distributions)
    files = [
        LocalFile(_bundle_path(source), source.module, source.data, source.origin) for source in found.modules.values()
    ]
    return Closure(
        root=found.target.root,
        entry=found.target.module,
        attr=found.target.attr,
        files=tuple(sorted(files, key=lambda file: file.path)),
        data=tuple(sorted(_data(found), key=lambda file: file.path)),
        requires=tuple(sorted(requires - {"fieldcast"})),
        refused=tuple(sorted(found.refused)),
        declared=found.declared.requires,
        oldest_minor=max((oldest_minor(found.modules[name].data) for name in found.needed()), default=OLDEST),
    )


def _judge(found: Walk) -> Iterator[str]:
    """Yield the distributions that external imports come from; refuse what comes from nowhere."""
    missing: list[External] = []
    for item in found.externals:
        top = item.module.partition(".")[0]
        if top in STDLIB:
            shadow = found.target.roots.find(top)
            if shadow and shadow.path and top != "__main__":
                reason = f"local {shadow.path.name} hides the standard library's {top!r} or is hidden by it: rename it"
                found.refuse(item.source.origin, item.line, reason)
        else:
            full = [f"{item.module}.{name}" for name in item.names] or [item.module]
            names = {origin.distribution_of(name) for name in full} - {None}
            names = names or {_declared_name(top, found.declared)} - {None}
            yield from (name for name in names if name)
            if not names:
                missing.append(item)
                continue
        if item.group:
            found.found.add((item.source.module, item.group))
    last = {(item.source.module, item.group): item for item in missing}
    for item in missing:
        if item.group < 0:
            continue  # the author's own process goes on without it, too
        place = (item.source.module, item.group)
        if not item.group or (place not in found.found and last[place] is item):
            reason = (
                f"{item.module!r} is neither in the standard library, nor installed, nor below {found.target.root}: "
                "install it, or declare it on the class: requires = ['distribution']"
            )
            found.refuse(item.source.origin, item.line, reason)


def _declared_name(top: str, declared: Declared) -> str | None:
    names = {canonical_name(name) for name in declared.distributions}
    return canonical_name(top) if canonical_name(top) in names else None


def _data(found: Walk) -> Iterator[LocalFile]:
    total = 0
    for path, place in found.data.items():
        data = path.read_bytes()
        total += len(data)
        if total > MAX_DATA_BYTES:
            found.refuse(
                path, 1, f"data files are over {MAX_DATA_BYTES} bytes together: ship models as blobs (OnnxModel)"
            )
            return
        yield LocalFile(place, "", data, path)


def _bundle_path(source: Source) -> str:
    path = source.module.replace(".", "/")
    return f"{path}/__init__.py" if source.is_package else f"{path}.py"
