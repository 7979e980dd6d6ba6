"""Who a class is: one sha256 over the meaning of its source and of everything local that it reaches (I1–I3).

A Merkle tree: every class, function, constant, module and data file reached has a hash of its own, so two fingerprints
can say *what* differs. Analyses source; never imports or executes it, and never uses pickles (I4).
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract.errors import AuthorError
from publisher.analysis.canonical import View, canonical
from publisher.analysis.memo import Memo
from publisher.analysis.reach import Component, Graph
from publisher.analysis.toplevel import Module
from publisher.analysis.walk import Walk, walk

__all__ = ["Analysis", "Fingerprint", "analyse", "fingerprint"]

_VERSION = "fieldcast-1"
_READS_DOCS = {"__doc__", "getdoc", "pydoc", "doctest", "help"}
_READS_SOURCE = {"getsource", "getsourcelines", "linecache", "findsource"}


@dataclass(frozen=True)
class Fingerprint:
    """Identity of a class: `value` is 64 hex digits, `components` maps each part's dotted name to its own hash."""

    value: str
    components: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Analysis:
    """A fingerprint with all that it was worked out from, for those who compare two of them.

    `reached` are the parts by their key in `components`; modules and data files have keys there, too.
    """

    fingerprint: Fingerprint
    walk: Walk
    graph: Graph
    reached: Mapping[str, Component]
    docstrings: bool

    def view(self, module: str) -> View:
        """Return what a program can see of the source of one module."""
        return _view(self.graph, module, docstrings=self.docstrings)


def fingerprint(target: type | str | Path, *, root: Path | None = None) -> Fingerprint:
    """Return the fingerprint of a class, or of everything in a module when `target` names no attribute.

    Equal for equal meaning on CPython 3.11 and later, in any process and directory. Raises `AuthorError` when the
    target or a local file it needs cannot be read.
    """
    key = (id(target) if isinstance(target, type) else str(target), str(root), str(Path.cwd()), tuple(sys.path))
    known = _memo.get(key, target)
    if known is None:
        found = analyse(target, root=root)
        known = found.fingerprint
        _memo.put(key, target, known, _sources(found.walk))
    return known


def analyse(target: type | str | Path, *, root: Path | None = None) -> Analysis:
    """Return the fingerprint of `target` with its parts, worked out afresh. Raises as `fingerprint` does."""
    return _analysis(walk(target, root=root))


_memo: Memo[Fingerprint] = Memo()


def _sources(found: Walk) -> Iterator[Path]:
    """Yield every file that was read and every directory in which a new file could change the outcome."""
    for path in (*(source.origin for source in found.modules.values()), *found.data):
        yield path
        yield path.parent
    yield from found.target.roots.searched()


def _analysis(found: Walk) -> Analysis:
    broken = [refusal for refusal in found.refused if "does not parse" in refusal.reason]
    if broken or found.target.module not in found.modules:
        raise AuthorError("; ".join(map(str, found.refused)))
    entry, attr = found.target.module, found.target.attr
    graph = Graph(found.modules)
    if attr and not graph.resolve(entry, attr.partition(".")[0]):
        raise AuthorError(
            f"{found.target.origin.name} has no {attr!r} at its top level: name a class that is defined there"
        )
    reached = {_key(one, graph): one for one in graph.reach(entry, attr, found.named)}
    words = {word for one in reached.values() for node in one.statements for word in _names(node)}
    words |= {word for name in graph.modules for node in graph.acting(name) for word in _names(node)}
    docs = bool(_READS_DOCS & words)
    components = _hashes(graph, reached, found, docs=docs, source=bool(_READS_SOURCE & words))
    body = json.dumps([_VERSION, entry, attr, sorted(components.items())], ensure_ascii=True)
    return Analysis(Fingerprint(hashlib.sha256(body.encode()).hexdigest(), components), found, graph, reached, docs)


def _key(one: Component, graph: Graph) -> str:
    """Name a part for people; a package may have a submodule and a definition of one name."""
    dotted = f"{one.module}.{one.name}"
    return f"{one.module}:{one.name}" if dotted in graph.modules else dotted


def _hashes(graph: Graph, reached: Mapping[str, Component], found: Walk, *, docs: bool, source: bool) -> dict[str, str]:
    components: dict[str, str] = {}
    for name, module in graph.modules.items():
        view = _view(graph, name, docstrings=docs)
        here = {key: one for key, one in reached.items() if one.module == name}
        for key, one in here.items():
            components[key] = _digest(canonical(one.statements, view), one.references)
        components[name] = _module(graph, module, here.values(), view, source=source)
    for path, place in found.data.items():
        key = f"./{place}" if place in components else place  # a file without a suffix may be named like a module
        components[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return components


def _view(graph: Graph, module: str, *, docstrings: bool) -> View:
    here = graph.modules[module]
    return View(docstrings, lambda node: graph.quiet.is_plain(node, here))


def _module(graph: Graph, module: Module, here: Iterable[Component], view: View, *, source: bool) -> str:
    """Hash what importing a module does: its acting statements, in order with the values they find, and its imports."""
    references = {
        name: sorted(map(str, items)) for name, items in graph.references(tuple(module.effects), module).items()
    }
    text = ast.get_docstring(module.source.tree, clean=False) if view.docstrings else None
    own = hashlib.sha256(module.source.data).hexdigest() if source else ""
    parts = [list(_order(graph, module, here, view)), [*_rebindings(module), *_hidden(graph, module)], text, own]
    return _digest(json.dumps(parts, ensure_ascii=True).encode(), references)


def _order(graph: Graph, module: Module, here: Iterable[Component], view: View) -> Iterator[str]:
    """Yield what happens when a module is imported, in order.

    Definitions that only bind a name once have no place in it, and imports may change places as long as nothing acts
    between them.
    """
    effects = {id(node) for node in module.effects}
    active = graph.active_names(module.source.module)
    ordered: dict[int, list[str]] = {}
    for one in here:
        for node in one.statements:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or len(one.statements) > 1:
                ordered.setdefault(id(node), []).append(one.name)
    run: set[str] = set()
    for node in module.source.tree.body:
        acts = id(node) in effects or bool(active & set(ordered.get(id(node), ())))
        if isinstance(node, ast.Import | ast.ImportFrom):
            local, outside = graph.imported_by(node, module)
            run.update(outside)
            acts = bool(local) and (bool(effects) or any(graph.is_noisy(name) for name in local))
        if acts:
            yield from sorted(run)
            run.clear()
        if isinstance(node, ast.Import | ast.ImportFrom) and acts:
            yield from sorted(local)
        elif id(node) in effects:
            yield hashlib.sha256(canonical([node], view)).hexdigest()
        else:
            yield from sorted(ordered.get(id(node), ()))
    yield from sorted(run)


def _rebindings(module: Module) -> list[object]:
    """Names bound more than once, an import among them, with what they are bound to in order: the last one counts."""
    found: list[object] = list(module.stars)
    for name, items in sorted(module.bindings.items()):
        if len(items) > 1 and any(isinstance(item, tuple) for item in items):
            found.append([name, [list(item) if isinstance(item, tuple) else "" for item in items]])
    return found


def _hidden(graph: Graph, module: Module) -> Iterator[object]:
    """Yield the names of a module that a star import below them binds anew."""
    for name in sorted(module.bindings) if module.stars else ():
        for star in graph.hiding_stars(module, name):
            if star in graph.modules and graph.resolve(star, name):
                yield [name, star]


def _digest(body: bytes, references: Mapping[str, Iterable[str]]) -> str:
    links = json.dumps([[name, sorted(items)] for name, items in sorted(references.items())], ensure_ascii=True)
    return hashlib.sha256(b"%d:%b%b" % (len(body), body, links.encode())).hexdigest()


def _names(node: ast.AST) -> Iterable[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.alias):
            yield from part.name.split(".")
        elif isinstance(part, ast.Constant) and part.value == "__doc__":
            yield part.value
