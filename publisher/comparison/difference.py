"""What differs between two editions of a class or a pipeline, in words, and as a diff of their sources.

Decides by meaning: editions whose fingerprints, parameters, state, models and requirements agree are equal, whatever
their comments and formatting. Reads nothing but the two editions; unpickles nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge_agent.contract.digest import BlobRef, encode_json
from edge_agent.contract.errors import AuthorError
from edge_agent.contract.manifest import Manifest, ModelRef, Stage
from edge_agent.sdk import plain
from publisher.comparison.alteration import Alteration, alterations, change
from publisher.comparison.edition import Edition, Part

__all__ = ["Difference", "compare"]

_DIFF_BYTES_MAX = 1_000_000
_PLAIN = ("pipeline", "input", "output", "tunable", "requires_python", "health", "history")


@dataclass(frozen=True)
class Difference:
    """What differs from `a` to `b`. Empty when they are equal in meaning; then `reworded` names files that are not."""

    a: str
    b: str
    found: tuple[tuple[str, Alteration], ...]
    source: str
    reworded: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both mean the same."""
        return not self.found

    def words(self) -> list[str]:
        """Return a line for each difference, with its stage in a pipeline."""
        return [f"stage {stage}: {one}" if stage else str(one) for stage, one in self.found]

    def to_json(self) -> dict[str, Any]:
        """Return what `publisher diff --json` prints."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "differences": [
                {
                    "stage": stage,
                    "kind": one.kind,
                    "name": one.name,
                    "before": one.before,
                    "after": one.after,
                    "words": one.words,
                }
                for stage, one in self.found
            ],
            "reworded": list(self.reworded),
            "diff": self.source,
        }


def compare(a: Edition, b: Edition) -> Difference:
    """Return what differs from `a` to `b`; a class is compared with the stage that it is, if the other is a pipeline.

    Raises `AuthorError` when a pipeline has no such stage, or several.
    """
    left, right = _matched(a, b), _matched(b, a)
    found: list[tuple[str, Alteration]] = []
    if left.manifest and right.manifest:
        found += [("", one) for one in _manifests(left, right)]
    changed: set[str] = set()
    for name in [*right.parts, *(name for name in left.parts if name not in right.parts)]:
        old, new = left.parts.get(name), right.parts.get(name)
        if old and new:
            differences = [*_parts(old, new), *_stages(name, left, right)]
            if not (left.manifest and right.manifest):
                differences += _requirements(old, new)
            found += [(name, one) for one in differences]
            changed |= set(_touched(old, new, differences))
        else:
            found.append(("", _one_sided(name, old, new)))
            changed |= (old or new or Part("", "")).files.keys()
    files = [_files(left), _files(right)]
    differing = [path for path in sorted(files[0].keys() | files[1].keys()) if files[0].get(path) != files[1].get(path)]
    source = "".join(_diff(path, files[0].get(path), files[1].get(path)) for path in differing if path in changed)
    return Difference(a.label, b.label, tuple(found), source, () if found else tuple(differing))


def _matched(one: Edition, other: Edition) -> Edition:
    """Return the stage of a pipeline that the class on the other side is, as an edition of its own."""
    if one.manifest is None or other.manifest is not None:
        return one
    target = other.parts[""].target
    found = [part for part in one.parts.values() if part.target == target]
    if len({part.fingerprint for part in found}) != 1:
        stages = ", ".join(f"{name} ({part.target})" for name, part in one.parts.items())
        raise AuthorError(f"{one.label} has {'several stages' if found else 'no stage'} {target}; it has {stages}")
    return Edition(one.label, {"": found[0]}, None, one.blob)


# --- code ----------------------------------------------------------------------------------------------------------


def _parts(old: Part, new: Part) -> Iterator[Alteration]:
    if old.fingerprint != new.fingerprint or old.target != new.target:
        found = list(alterations(old.analysis, new.analysis)) if old.analysis and new.analysis else []
        if found:
            yield from found
        elif old.target != new.target:
            yield change("target", "", old.target, new.target)
        else:
            yield Alteration("code", new.target, f"code of {new.target} (there is no source of both to compare)")


def _requirements(old: Part, new: Part) -> list[Alteration]:
    """What two classes require: versions count only where both say them."""
    left, right = (
        one.requires if old.bundled and new.bundled else tuple(map(_distribution, one.requires)) for one in (old, new)
    )
    return [change("requires", "", *_apart(left, right))] if set(left) != set(right) else []


def _distribution(text: str) -> str:
    return canonicalize_name(Requirement(text).name)


def _apart(old: tuple[str, ...] | list[str], new: tuple[str, ...] | list[str]) -> tuple[str, str]:
    return ", ".join(text for text in old if text not in new), ", ".join(text for text in new if text not in old)


def _one_sided(name: str, old: Part | None, new: Part | None) -> Alteration:
    part = new or old
    return Alteration("stage", name, f"stage {name} ({part.target if part else ''}) {'added' if new else 'gone'}")


def _touched(old: Part, new: Part, differences: list[Alteration]) -> set[str]:
    """The files to show: those in which something differs; all, when that is not known."""
    if not differences:
        return set()
    both = old.files.keys() | new.files.keys()
    if any(one.kind == "code" for one in differences):
        return set(both)
    modules = {one.module for one in differences if one.module}
    data = {one.name for one in differences if one.kind == "data"}
    one_sided = old.files.keys() ^ new.files.keys()
    return {path for path in both if path in one_sided | data or _module_of(path) in modules}


def _module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# --- manifests -----------------------------------------------------------------------------------------------------


def _stage(manifest: Manifest | None, name: str) -> Stage | None:
    return next((stage for stage in manifest.stages if stage.name == name), None) if manifest else None


def _manifests(a: Edition, b: Edition) -> Iterator[Alteration]:
    old, new = a.manifest, b.manifest
    if old is None or new is None:
        return
    orders = [[stage.name for stage in one.stages] for one in (old, new)]
    shared = [[name for name in order if name in orders[0] and name in orders[1]] for order in orders]
    if shared[0] != shared[1]:
        yield change("order of stages", "", ", ".join(orders[0]), ", ".join(orders[1]))
    for key in _PLAIN:
        yield from _values(key.replace("_", "-"), getattr(old, key), getattr(new, key))
    if old.requires != new.requires:
        yield change("requires", "", *_apart(old.requires, new.requires))
    if old.self_test != new.self_test:
        yield change("self-test", "", *(_size(one.self_test) for one in (old, new)))


def _values(name: str, old: Any, new: Any) -> Iterator[Alteration]:
    left, right = msgspec.to_builtins(old), msgspec.to_builtins(new)
    if left == right:
        return
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            if left.get(key) != right.get(key):
                yield change(f"{name} {key}", "", _shown(left.get(key)), _shown(right.get(key)))
    else:
        yield change(name, "", _shown(left), _shown(right))


def _shown(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _size(ref: BlobRef | None) -> str | None:
    return None if ref is None else f"{ref.size:,} bytes ({ref.digest.short})"


def _stages(name: str, a: Edition, b: Edition) -> Iterator[Alteration]:
    old, new = _stage(a.manifest, name), _stage(b.manifest, name)
    if old is None or new is None:
        return
    for key in sorted(old.parameters.keys() | new.parameters.keys()):
        if encode_json(old.parameters.get(key)) != encode_json(new.parameters.get(key)):
            yield change("parameter", key, *(_shown(one.parameters.get(key)) for one in (old, new)))
    if old.state != new.state:
        yield _state(_content(old.state, a), _content(new.state, b), old.state, new.state)
    for key in sorted(old.models.keys() | new.models.keys()):
        left, right = old.models.get(key), new.models.get(key)
        if left != right:
            yield change("model", key, *(_model(one) for one in (left, right)))
    if old.providers != new.providers:
        yield change("providers", "", _shown(old.providers), _shown(new.providers))


def _model(model: ModelRef | None) -> str | None:
    if model is None:
        return None
    opsets = "".join(f", opset {name or 'ai.onnx'} {version}" for name, version in sorted(model.opsets.items()))
    beside = "".join(f", {path} {_size(ref)}" for path, ref in sorted(model.beside.items()))
    return f"{model.name}, {_size(model.blob)}{opsets}{beside}"


def _content(ref: BlobRef | None, edition: Edition) -> Mapping[str, Any]:
    """The learned attributes of a stage, where they are plain data; nothing is unpickled to find out."""
    if ref is not None and edition.blob is not None:
        with contextlib.suppress(ValueError):
            found = plain.decode(edition.blob(ref))
            if isinstance(found, dict):
                found = found.get("attributes", found)
                return {str(key): plain.encode(value) for key, value in found.items()}
    return {}


def _state(left: Mapping[str, Any], right: Mapping[str, Any], old: BlobRef | None, new: BlobRef | None) -> Alteration:
    names = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    if old is None or new is None or not names:
        return change("state", "", _size(old), _size(new))
    return Alteration("state", ", ".join(names), f"state: {', '.join(names)} differ{'s' if len(names) == 1 else ''}")


# --- source --------------------------------------------------------------------------------------------------------


def _files(edition: Edition) -> dict[str, bytes]:
    return {path: data for part in edition.parts.values() for path, data in part.files.items()}


def _diff(path: str, old: bytes | None, new: bytes | None) -> str:
    left, right = ([] if data is None else _lines(path, data) for data in (old, new))
    if left is None or right is None:
        sizes = " and ".join(f"{len(data or b''):,} bytes" for data in (old, new))
        return f"Binary files a/{path} and b/{path} differ ({sizes})\n"
    names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
    return "".join(f"{line}\n" for line in difflib.unified_diff(left, right, *names, lineterm=""))


def _lines(path: str, data: bytes) -> list[str] | None:
    """The lines of a text in its own encoding, None for what is no text or too long to compare."""
    if len(data) > _DIFF_BYTES_MAX:
        return None
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0] if path.endswith(".py") else "utf-8-sig"
        text = data.decode(encoding)
        return re.split("\r\n|\r|\n", text.removesuffix("\n")) if text else []
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return None
