"""What differs between two analysed sources, in words: helper, constant, method, base class, import, data file.

Decides from the parts of two fingerprints, by name; a part that was renamed is one that went and one that came. Looks
at syntax trees only where the hashes differ. Yields nothing exactly when nothing that has a meaning differs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from publisher.analysis.canonical import canonical
from publisher.analysis.reach import Component
from publisher.fingerprint import Analysis

__all__ = ["Alteration", "alterations", "change"]

_TEXT_MAX = 60
_Method = ast.FunctionDef | ast.AsyncFunctionDef
_Key = tuple[str, str]


@dataclass(frozen=True)
class Alteration:
    """One difference: `kind` is the first of the `words`, `name` what it is about, `module` where it lies, if in one.

    `before` and `after` are short texts, empty where there is none to show.
    """

    kind: str
    name: str = ""
    words: str = ""
    module: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return self.words


def change(kind: str, name: str = "", before: object = None, after: object = None, *, module: str = "") -> Alteration:
    """Return a difference with its words: `constant K: 3 -> 4`, `helper dsp.near added`, `method F.predict`."""
    old, new = ("" if text is None else _short(str(text)) for text in (before, after))
    if old == new:
        old = new = ""
    label = f"{kind} {name}".rstrip()
    words = f"{label}: {old or 'none'} -> {new or 'none'}" if old or new else label
    return Alteration(kind, name, words, module, old, new)


def alterations(a: Analysis, b: Analysis) -> Iterator[Alteration]:
    """Yield what differs in meaning from `a` to `b`, the entry module first."""
    if a.fingerprint.value == b.fingerprint.value:
        return
    names = _Names(a, b)
    code = list(_code(a, b, names))
    found = [*code, *_modules(a, b, names, {one.module for one in code}), *_data(a, b)]
    if a.walk.target.attr != b.walk.target.attr or a.walk.target.module != b.walk.target.module:
        yield change("target", "", _target(a), _target(b))
    yield from sorted(found, key=lambda one: one.module != b.walk.target.module)


def _target(one: Analysis) -> str:
    return f"{one.walk.target.module}:{one.walk.target.attr}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT_MAX else flat[: _TEXT_MAX - 1] + "…"


class _Names:
    """How parts are called: bare in the entry module, else by module, without the package that both entries are in."""

    def __init__(self, a: Analysis, b: Analysis) -> None:
        self.entries = {a.walk.target.module, b.walk.target.module}
        packages = {one.walk.modules[one.walk.target.module].package for one in (a, b)}
        self.package = packages.pop() + "." if len(packages) == 1 else "."
        self.known = {name for one in (a, b) for name in one.graph.modules}

    def module(self, name: str) -> str:
        short = name.removeprefix(self.package)
        return name if short.partition(".")[0] in self.known else short

    def part(self, module: str, name: str) -> str:
        return name if module in self.entries else f"{self.module(module)}.{name}"


# --- definitions ---------------------------------------------------------------------------------------------------


def _parts(one: Analysis) -> dict[_Key, str]:
    """The keys of an analysis by module and name; the entry's module has no name, so that it may move."""
    entry = one.walk.target.module
    return {("" if part.module == entry else part.module, part.name): key for key, part in one.reached.items()}


def _code(a: Analysis, b: Analysis, names: _Names) -> Iterator[Alteration]:
    left, right = _parts(a), _parts(b)
    target = (("", a.walk.target.attr.partition(".")[0]), ("", b.walk.target.attr.partition(".")[0]))
    renamed = target[0] != target[1] and target[0] in left and target[1] in right
    if renamed:
        left[target[1]] = left.pop(target[0])
    for key in sorted(left.keys() | right.keys()):
        if key not in left or key not in right:
            one = b if key in right else a
            part = one.reached[(right if key in right else left)[key]]
            name = names.part(part.module, part.name)
            kind = _kind(part.statements)
            how = "added" if key in right else "gone"
            yield Alteration(kind, name, f"{kind} {name} {how}", part.module)
        elif a.fingerprint.components[left[key]] != b.fingerprint.components[right[key]]:
            yield from _Pair(a, b, left[key], right[key], names).differences()


def _kind(statements: tuple[ast.stmt, ...]) -> str:
    kinds = {_kind_of(node) for node in statements}
    return kinds.pop() if len(kinds) == 1 else "definition"


def _kind_of(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    if isinstance(node, _Method):
        return "helper"
    return "constant" if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) else "definition"


class _Pair:
    """One part in both analyses, with different hashes."""

    def __init__(self, a: Analysis, b: Analysis, left: str, right: str, names: _Names) -> None:
        self.left, self.right = a.reached[left], b.reached[right]
        self.views = a.view(self.left.module), b.view(self.right.module)
        self.names = names
        self.module = self.right.module
        self.name = names.part(self.module, self.right.name)

    def differences(self) -> Iterator[Alteration]:
        left, right = self.left.statements, self.right.statements
        found: list[Alteration] = []
        if not self._same(left, right):
            single = len(left) == len(right) == 1
            if single and isinstance(left[0], ast.ClassDef) and isinstance(right[0], ast.ClassDef):
                found += self._class(left[0], right[0], self.name)
            elif single and (old := _value(left[0])) and (new := _value(right[0])):
                found.append(change(_kind(right), self.name, old, new, module=self.module))
            else:
                found.append(change(_kind(right), self.name, module=self.module))
        found += self._meanings()
        if not found and self._stands_for(self.left) != self._stands_for(self.right):
            found.append(change(_kind(right), self.name, module=self.module))
        yield from found  # nothing, when only the entry module's name differs

    def _same(self, left: object, right: object) -> bool:
        return canonical(_nodes(left), self.views[0]) == canonical(_nodes(right), self.views[1])

    def _meanings(self) -> Iterator[Alteration]:
        """Names that stand for something else than before, where both use them."""
        for name in sorted(self.left.references.keys() & self.right.references.keys()):
            old, new = ([self._meaning(text) for text in one.references[name]] for one in (self.left, self.right))
            if old != new:
                yield change("name", f"{name} in {self.name}", ", ".join(old), ", ".join(new), module=self.module)

    def _stands_for(self, part: Component) -> dict[str, list[str]]:
        return {name: sorted(map(self._meaning, texts)) for name, texts in part.references.items()}

    def _meaning(self, text: str) -> str:
        module, colon, name = text.partition(":")
        if not colon:
            return text
        return self.names.part(module, name) if name else f"module {self.names.module(module)}"

    def _class(self, left: ast.ClassDef, right: ast.ClassDef, name: str) -> Iterator[Alteration]:
        heads: list[tuple[str, Callable[[ast.ClassDef], object]]] = [
            ("base classes of", lambda node: [*node.bases, *node.keywords]),
            ("decorators of", lambda node: node.decorator_list),
            ("type parameters of", lambda node: getattr(node, "type_params", [])),
        ]
        found = [
            change(kind, name, _text(part(left)), _text(part(right)), module=self.module)
            for kind, part in heads
            if not self._same(part(left), part(right))
        ]
        olds, news = _members(left), _members(right)
        for key in [*news, *(key for key in olds if key not in news)]:
            found += self._member(olds.get(key, []), news.get(key, []), f"{name}.{key}" if key else name)
        yield from found or [change("order in class", name, module=self.module)]

    def _member(self, left: list[ast.stmt], right: list[ast.stmt], name: str) -> Iterator[Alteration]:
        if self._same(left, right) and bool(left) == bool(right):
            return
        kind = _member_kind(right or left)
        if not left or not right:
            yield Alteration(kind, name, f"{kind} {name} {'added' if right else 'gone'}", self.module)
        elif len(left) == len(right) == 1 and isinstance(left[0], ast.ClassDef) and isinstance(right[0], ast.ClassDef):
            yield from self._class(left[0], right[0], name)
        else:
            values = (_value(left[0]), _value(right[0])) if len(left) == len(right) == 1 else (None, None)
            yield change(kind, name, *(values if all(values) else (None, None)), module=self.module)


def _nodes(found: object) -> list[ast.AST]:
    return [node for node in found if isinstance(node, ast.AST)] if isinstance(found, list | tuple) else []


def _text(found: object) -> str:
    return ", ".join(ast.unparse(node) for node in _nodes(found))


def _value(node: ast.stmt) -> str | None:
    """What a statement binds its names to; None when it does more than that."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        return ast.unparse(node.value)
    return None


def _members(node: ast.ClassDef) -> Mapping[str, list[ast.stmt]]:
    """The statements of a class body by the name that they bind; under the empty name what binds none."""
    found: dict[str, list[ast.stmt]] = {}
    for item in node.body:
        targets: list[ast.expr] = []
        if isinstance(item, ast.Assign):
            targets = item.targets
        elif isinstance(item, ast.AnnAssign | ast.AugAssign):
            targets = [item.target]
        names = [one.id for one in targets if isinstance(one, ast.Name)]
        name = item.name if isinstance(item, _Method | ast.ClassDef) else names[0] if names else ""
        found.setdefault(name, []).append(item)
    return found


def _member_kind(statements: list[ast.stmt]) -> str:
    node = statements[0]
    if isinstance(node, _Method):
        decorators = {ast.unparse(item) for one in statements for item in getattr(one, "decorator_list", [])}
        return "property" if "property" in decorators else "method"
    if isinstance(node, ast.ClassDef):
        return "class"
    return "attribute" if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) else "body of class"


# --- modules and data ----------------------------------------------------------------------------------------------


def _modules(a: Analysis, b: Analysis, names: _Names, told: set[str]) -> Iterator[Alteration]:
    entry = b.walk.target.module
    pairs = {name: name for name in a.graph.modules} | {a.walk.target.module: entry}
    for old, new in pairs.items():
        if new not in b.graph.modules:
            yield Alteration("module", names.module(old), f"module {names.module(old)} gone", old)
        elif a.fingerprint.components[old] != b.fingerprint.components[new]:
            yield from _module(a, b, old, new, names.module(new), told=new in told)
    for new in b.graph.modules:
        if new not in pairs.values():
            yield Alteration("module", names.module(new), f"module {names.module(new)} added", new)


def _module(a: Analysis, b: Analysis, old: str, new: str, name: str, *, told: bool) -> Iterator[Alteration]:
    """What importing a module does: the modules it imports itself, and its statements that act."""
    left, right = a.graph.modules[old], b.graph.modules[new]
    found: list[Alteration] = []
    gone, come = sorted(left.imported - right.imported), sorted(right.imported - left.imported)
    if gone or come:
        found.append(change("imports of module", name, ", ".join(gone), ", ".join(come), module=new))
    if canonical(left.effects, a.view(old)) != canonical(right.effects, b.view(new)):
        found.append(change("statements that run on import of module", name, module=new))
    if not found and not told:
        found.append(change("order of what import does in module", name, module=new))
    yield from found


def _data(a: Analysis, b: Analysis) -> Iterator[Alteration]:
    left, right = ({place: path for path, place in one.walk.data.items()} for one in (a, b))
    for place in sorted(left.keys() | right.keys()):
        if place not in left or place not in right:
            yield Alteration("data", place, f"data {place} {'added' if place in right else 'gone'}")
        elif _hash(a, place) != _hash(b, place):
            yield change("data", place)


def _hash(one: Analysis, place: str) -> str:
    components = one.fingerprint.components
    return components.get(f"./{place}") or components[place]
