"""Small project trees, and what must hold of the closure and the fingerprint of a class in each.

A tree is judged by its own expectations, and by two oracles that need none: what is shipped must do in a directory of
its own what the whole tree does, and must have the same fingerprint there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from publisher.closure import Closure, collect
from publisher.fingerprint import fingerprint

__all__ = ["Edit", "Tree", "check"]

Edit = tuple[str, str | bytes, str | bytes]

_RUN = """
import importlib, re, sys
entry, attr, *places = sys.argv[1:]
found = []
for place in places:
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        thing = getattr(importlib.import_module(entry), attr)
        result = repr(thing().predict(2))
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    found.append(re.sub("0x[0-9a-f]+", "", result).replace(place, ""))
    own = [
        name
        for name, module in sys.modules.items()
        for path in (getattr(module, "__file__", "") or "", *(getattr(module, "__path__", None) or ()))
        if str(path).startswith(place)
    ]
    for name in own:
        sys.modules.pop(name, None)
    sys.path.remove(place)
print("\\0".join(found))
"""


@dataclass(frozen=True)
class Tree:
    """A project: files by path, the TARGET, and what is known of it; None where nothing is.

    `refused` holds a word of each refusal expected, `None` allows refusals as an answer as good as the data.
    `same` and `different` are edits that keep the fingerprint and that change it.
    """

    files: Mapping[str, str | bytes]
    target: str = "m.py:F"
    closure: Sequence[str] | None = None
    requires: Sequence[str] | None = None
    data: Sequence[str] | None = None
    refused: bool | None = False
    same: Sequence[Edit] = ()
    different: Sequence[Edit] = ()

    def write(self, root: Path, edit: Edit | None = None) -> Path:
        """Write the tree below `root`, with one edit."""
        for name, content in self.files.items():
            data = content if isinstance(content, bytes) else content.encode()
            if edit is not None and edit[0] == name:
                old, new = (part if isinstance(part, bytes) else part.encode() for part in edit[1:])
                assert old in data, f"{old!r} is not in {name}"
                data = data.replace(old, new)
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root


def check(tree: Tree, folder: Path) -> None:
    """Assert everything that must hold of a tree."""
    root = tree.write(folder / "whole")
    closure = collect(tree.target, root=root)
    found = closure.to_json()
    if tree.refused is not None:
        assert bool(found["refused"]) is tree.refused, found
    elif found["refused"]:
        return  # said aloud, with the place: as good as an answer
    for key, expected in (("files", tree.closure), ("requires", tree.requires), ("data", tree.data)):
        assert expected is None or found[key] == sorted(expected), (key, found)
    if tree.refused:
        return
    value = fingerprint(tree.target, root=root).value
    _oracles(closure, root, folder / "shipped", value)
    for number, edit in enumerate([*tree.same, *tree.different]):
        other = fingerprint(tree.target, root=tree.write(folder / f"edit{number}", edit)).value
        assert (other == value) is (edit in tree.same), edit


def _oracles(closure: Closure, root: Path, shipped: Path, value: str) -> None:
    for file in (*closure.files, *closure.data):
        path = shipped / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.source)
    target = f"{closure.entry}:{closure.attr}"
    assert fingerprint(target, root=shipped).value == value, "what is shipped has another fingerprint"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", _RUN, closure.entry, closure.attr, str(root), str(shipped)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        check=True,
    )
    whole, alone = done.stdout.strip().split("\0")
    assert whole == alone, "what is shipped does something else"
