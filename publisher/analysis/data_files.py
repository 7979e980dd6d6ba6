"""Data files that local code reads: those a class declares, and those found where they are read.

Decides for every path that starts at `__file__` or a package whether it names a file to ship. Refuses, with file and
line, what is computed, missing, above the modules or relative to the working directory, unless the class declares data.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from publisher.analysis.bindings import Scope, only_return
from publisher.analysis.leads import Leads
from publisher.analysis.path_values import COMPUTED
from publisher.analysis.paths import Evaluator
from publisher.analysis.source import Source

if TYPE_CHECKING:
    from publisher.analysis.walk import Walk

__all__ = ["Reader", "start_of"]

_ADVICE = "use a literal name, or declare the files on the class: data = ['name', 'folder']"
_QUESTION = re.compile(
    r"exists|is_file|is_dir|isfile|isdir|isabs|mtime|stat|print|debug|info|warning|relative_to|relpath"
)
_WRITE = re.compile(r"save|write|dump|mkdir|makedirs|touch|unlink|remove|rmtree|rename|chmod|chdir|to_csv|to_parquet")
_LISTING = {"iterdir", "listdir", "walk", "scandir", "iglob"}
_READERS = {"open", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "read_csv", "read_json", "read_parquet"}
_READERS |= {"read_text", "read_bytes", "imread"}
_FILE_ARGUMENTS = ("file", "fname", "filename", "filepath_or_buffer", "path", "fp", "f")
_PLACES = (
    "getframeinfo",
    "stack()",
    "__file__",
    "__spec__",
    "__path__",
    "resource",
    "pkgutil",
    "getfile",
    "getsourcefile",
    "get_data",
    "co_filename",
)
_MACHINE_CODE = {".so", ".pyd", ".dll", ".dylib"}
_FILES_LIMIT = 5_000


def start_of(source: Source) -> Path:
    """The directory that a module's top-level package lies in: what its bundle's root stands for."""
    return source.origin.parents[source.module.count(".") + source.is_package]


class Reader:
    """Finds data files in all modules of a walk and adds them to it."""

    def __init__(self, walk: Walk, evaluator: Evaluator) -> None:
        self.walk = walk
        self.evaluator = evaluator
        self.sources: set[Path] = set()
        self.seen: set[str] = set()
        self.placed = False
        self.leads = Leads(evaluator)

    def declared(self) -> None:
        """Add what the class declares."""
        self.sources = {source.origin for source in self.walk.modules.values()}
        for module, line, reason in self.walk.declared.problems:
            self.walk.refuse(self.walk.modules[module].origin, line, reason)
        for pattern, module, line in self.walk.declared.data:
            self._declared(pattern, self.walk.modules[module], line)

    def read(self) -> None:
        """Add what modules read that were not looked at before."""
        self.sources = {source.origin for source in self.walk.modules.values()}
        new = [source for name, source in self.walk.modules.items() if name not in self.seen]
        if not self.placed and any(_has_place(source) for source in new):
            self.placed = True
            new = list(self.walk.modules.values())  # any of them may go on from a place that another one knows
        self.seen.update(self.walk.modules)
        for source in new:
            if self.placed or _READERS & set(_words(source)):
                self._visit(source.tree, self.evaluator.scope(source))

    def _declared(self, pattern: str, source: Source, line: int) -> None:
        """Add what a class declares: a file, a folder or a pattern, relative to its own file or to the root."""
        for base in (source.origin.parent, start_of(source), self.walk.target.root):
            found = sorted(_matches(base, pattern))
            if found:
                for path in found[:_FILES_LIMIT]:
                    self._add(path, source, line)
                return
        self.walk.refuse(source.origin, line, f"declared data {pattern!r} matches no file beside {source.origin.name}")

    def _visit(self, tree: ast.AST, scope: Scope) -> None:
        pending: list[ast.AST] = [tree]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.expr) and self._judge(node, scope):
                if isinstance(node, ast.Call):
                    pending.extend(node.keywords)
                continue
            if isinstance(node, ast.Call):
                self._from_working_directory(node, scope)
            pending.extend(ast.iter_child_nodes(node))

    def _judge(self, node: ast.expr, scope: Scope) -> bool:
        """Judge one expression; True when it is a path as a whole, so its parts need no look of their own."""
        value = None if _is_target(node) else self.evaluator.value(node, scope)
        if value is COMPUTED:
            self._computed(node, scope)
            return True
        if not isinstance(value, Path):
            return False
        self._path(node, value, scope)
        return True

    def _computed(self, node: ast.expr, scope: Scope) -> None:
        if not self.walk.declared.data and not self._is_written(node, scope):
            what = f"the path {_short(node)} is computed at run time"
            self.walk.refuse(scope.source.origin, node.lineno, f"{what}: {_ADVICE}")

    def _path(self, node: ast.expr, value: Path, scope: Scope) -> None:
        if value in self.sources or value == scope.source.origin:
            return
        if value.is_file():
            self._add(value, scope.source, node.lineno)
        elif value.is_dir():
            self._directory(node, value, scope)
        elif not self._is_bound(node, scope) and not self._is_written(node, scope) and not self.walk.declared.data:
            reason = f"the file {_short(node)} ({self._shown(value)}) does not exist: {_ADVICE}"
            self.walk.refuse(scope.source.origin, node.lineno, reason)

    def _directory(self, node: ast.expr, value: Path, scope: Scope) -> None:
        """A directory by itself is only a step; refuse it where it is listed or handed to code we cannot see."""
        parent = scope.parents[node]
        if isinstance(parent, ast.Attribute):
            call = scope.parents.get(parent)
            pattern = call.args[0] if isinstance(call, ast.Call) and call.args else None
            if parent.attr in ("glob", "rglob") and isinstance(pattern, ast.Constant):
                text = str(pattern.value)
                found = sorted(value.rglob(text) if parent.attr == "rglob" else value.glob(text))
                for path in found[:_FILES_LIMIT]:
                    if path.is_file() and path not in self.sources:
                        self._add(path, scope.source, node.lineno)
                return
            handed_on = parent.attr in _LISTING | {"glob", "rglob"}
        else:
            handed_on = not self._is_step(node, parent, scope)
        if handed_on and not self._is_harmless(node, scope) and not self.walk.declared.data:
            reason = f"the directory {_short(node)} is read by names that are not written here: {_ADVICE}"
            self.walk.refuse(scope.source.origin, node.lineno, reason)

    def _is_step(self, node: ast.expr, parent: ast.AST, scope: Scope) -> bool:
        """Whether what becomes of a directory is judged elsewhere: under its name, or by those who call."""
        if isinstance(parent, ast.Assign):
            return all(_is_followed(target) for target in parent.targets)
        if isinstance(parent, ast.Tuple) and isinstance(assign := scope.parents[parent], ast.Assign):
            return all(_is_unpacked(target, parent) for target in assign.targets)
        if isinstance(parent, ast.AnnAssign):
            return _is_followed(parent.target)
        if isinstance(parent, ast.Return):
            return self._is_simple_result(parent, scope)
        if isinstance(parent, ast.BinOp):
            return isinstance(scope.parents[parent], ast.AugAssign)
        harmless = ast.NamedExpr | ast.arguments | ast.withitem | ast.Expr | ast.Compare | ast.FormattedValue
        return isinstance(parent, harmless | ast.AugAssign)

    def _is_simple_result(self, node: ast.Return, scope: Scope) -> bool:
        owner = scope.owner(node)
        return isinstance(owner, ast.FunctionDef) and only_return(owner) is not None

    def _is_harmless(self, node: ast.expr, scope: Scope) -> bool:
        parent = scope.parents[node]
        if isinstance(parent, ast.Call):
            name = ast.unparse(parent.func)
            return name.startswith("sys.path.") or name == "len" or self._is_written(node, scope)
        return False

    def _is_bound(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a path is only given a name here; what becomes of it is judged where the name is used."""
        return isinstance(scope.parents[node], ast.Assign | ast.AnnAssign | ast.NamedExpr)

    def _is_written(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a path is only asked about or written to, so that nothing needs to be there."""
        parent = scope.parents[node]
        if isinstance(parent, ast.Attribute):
            call = scope.parents.get(parent)
            if parent.attr == "open" and isinstance(call, ast.Call):
                return _writes(call.args[0] if call.args else None, call)
            return bool(_WRITE.search(parent.attr) or _QUESTION.search(parent.attr))
        if isinstance(parent, ast.Call):
            name = ast.unparse(parent.func).rpartition(".")[2]
            if name == "open":
                return _writes(parent.args[1] if len(parent.args) > 1 else None, parent)
            return bool(_WRITE.search(name) or _QUESTION.search(name))
        return isinstance(parent, ast.FormattedValue)

    def _from_working_directory(self, node: ast.Call, scope: Scope) -> None:
        """Refuse `open("name")`: on the device the working directory is another one."""
        name = ast.unparse(node.func).rpartition(".")[2]
        if name not in _READERS or self.walk.declared.data:
            return
        if self.evaluator.is_local(node.func, scope):
            return
        named = (keyword.value for keyword in node.keywords if keyword.arg in _FILE_ARGUMENTS)
        first: ast.expr | None = node.args[0] if node.args else next(named, None)
        mode = node.args[1] if len(node.args) > 1 else None
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in scope.imported:
            first, mode = node.func.value, first  # a method of a path, or of an object unknown
            value = self.leads.text(first, scope) if self.leads.is_path(first, scope) else None
        else:
            value = self.leads.text(first, scope) if first is not None else None
        if value is None or first is None or "://" in value or _writes(mode, node):
            return
        if Path(value).is_absolute() and not Path(value).is_relative_to(self.walk.target.root):
            return
        reason = f"{_short(first)} is looked up from the working directory, which is another one on the device"
        name = Path(value).name or "name"
        advice = f"use Path(__file__).parent / {name!r}, or declare the files on the class: data = [{name!r}]"
        self.walk.refuse(scope.source.origin, node.lineno, f"{reason}: {advice}")

    def _add(self, path: Path, source: Source, line: int) -> None:
        """Ship one file, at the place from which the module that reads it finds it again."""
        start = start_of(source)
        if not path.is_relative_to(start):
            reason = (
                f"the file {self._shown(path)} lies above {self._shown(start)}, where the modules start: move it below"
            )
            self.walk.refuse(source.origin, line, reason)
        elif path.suffix in _MACHINE_CODE:
            reason = f"{self._shown(path)} is machine code for one kind of machine: install it as a wheel"
            self.walk.refuse(source.origin, line, reason)
        elif path not in self.sources:
            self.walk.data[path] = path.relative_to(start).as_posix()

    def _shown(self, path: Path) -> str:
        return os.path.relpath(path, self.walk.target.root)


def _is_followed(target: ast.expr) -> bool:
    """Whether a binding is one that paths are followed through: a name, or an attribute of `self` or `cls`."""
    if isinstance(target, ast.Attribute):
        return isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")
    return isinstance(target, ast.Name)


def _is_unpacked(target: ast.expr, value: ast.Tuple) -> bool:
    """Whether a tuple is bound part by part, to names that are followed."""
    if not isinstance(target, ast.Tuple) or len(target.elts) != len(value.elts):
        return False
    return all(map(_is_followed, target.elts))


def _is_target(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)


def _matches(base: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        return []
    plain = Path(os.path.normpath(base / pattern))
    if plain.is_file():
        return [plain]
    found = plain.rglob("*") if plain.is_dir() else base.glob(pattern) if any(c in pattern for c in "*?[") else []
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _writes(mode: ast.expr | None, call: ast.Call) -> bool:
    mode = mode or next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), None)
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(set("wax") & set(mode.value))


def _text(source: Source) -> str:
    return source.data.decode("latin-1")


def _has_place(source: Source) -> bool:
    return any(word in _text(source) for word in _PLACES)


def _words(source: Source) -> list[str]:
    return re.findall(r"\w+", _text(source))


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:57] + "..."
