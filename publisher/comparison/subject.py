"""What a TARGET names: source to be read, or a pipeline object that only running the author's code makes.

Decides by reading: a class, function, file or module is never run. Only a name bound to a `Pipeline(…)`, or to what
some other call returns, is imported, as a push would do it.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.pipeline import Pipeline
from publisher.analysis.reach import Graph
from publisher.analysis.scopes import uses
from publisher.analysis.toplevel import Module, Target
from publisher.analysis.walk import walk
from publisher.packing.project import find_pipeline

__all__ = ["chosen", "is_pipeline", "load", "pipeline_of"]

_OWN = ("edge_agent", "fieldcast")


def pipeline_of(target: str | None, *, root: Path | None = None, files: bool = True) -> Pipeline | None:
    """Return the pipeline that `target` names, None when it names source.

    With `files`, a file or module without an attribute means the pipeline in it, if it has one; without, all of its
    source. No target at all means `[tool.fieldcast]`. Raises `AuthorError` when the pipeline does not import.
    """
    if target is None:
        return load(None, root=root)
    verdict = _verdict(chosen(target, root), root, files=files)
    if verdict is False:
        return None
    if verdict:
        return load(target, root=root)
    try:
        return load(target, root=root)
    except AuthorError:
        return None  # what an unknown call made is something else: its source is read


def is_pipeline(target: str, *, root: Path | None = None) -> bool:
    """Tell whether `target` names a pipeline; its source is read, and run only if that does not tell."""
    verdict = _verdict(chosen(target, root), root, files=True)
    return pipeline_of(target, root=root) is not None if verdict is None else verdict


def load(target: str | None, *, root: Path | None = None) -> Pipeline:
    """Import the pipeline that `target` names; its path may start here or at `root`. Raises `AuthorError`.

    What the author's code prints goes to standard error: standard output is for answers.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return find_pipeline(chosen(target, root) if target is not None else None, directory=root)


def chosen(target: str, root: Path | None) -> str:
    """Return `target` with a path that starts here made whole; one that starts at `root` stays as it is."""
    head, colon, attr = target.rpartition(":")
    text, attr = (head, colon + attr) if colon and attr.replace(".", "").isidentifier() else (target, "")
    path = Path(text)
    is_path = text.endswith(".py") or "/" in text
    return f"{path.resolve()}{attr}" if is_path and path.is_file() else target


def _verdict(target: str, root: Path | None, *, files: bool) -> bool | None:
    """Whether a target names a pipeline: True or False when the source says it, None when only running it can tell."""
    found = walk(target, root=root)
    entry, attr = found.target.module, found.target.attr
    if entry not in found.modules:
        return False
    graph = Graph(found.modules)
    if not attr:
        module = graph.modules[entry]
        made = (_is_made(node, module, graph) for name in module.bindings for node in module.statements(name))
        return files and any(one is True for one in made)
    verdicts = list(_bound(graph, graph.resolve(entry, attr)))
    if True in verdicts:
        return True
    return None if verdicts and all(one is None for one in verdicts) else False


def _bound(graph: Graph, targets: list[Target]) -> Iterator[bool | None]:
    for target in targets:
        if target.module in graph.modules and target.name:
            module = graph.modules[target.module]
            yield from (_is_made(node, module, graph) for node in module.statements(target.name))
        else:
            yield False


def _is_made(node: ast.stmt, module: Module, graph: Graph) -> bool | None:
    """Whether a statement binds a name to a pipeline: a call of our class does, any other call may."""
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "add":
        value = value.func.value  # Pipeline(…).add(…) returns the pipeline
    if not isinstance(value, ast.Call):
        return False
    meant = [one for use in uses([value.func], module.source) for one in graph.resolve_use(use, module)]
    names = [one.name for one in meant if not one.module]
    if any(name.partition(".")[0] in _OWN for name in names):
        return any(name.rpartition(".")[2] == "Pipeline" for name in names)
    return None
