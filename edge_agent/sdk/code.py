"""A snippet as a stage: an expression or a function body over columns by name, as text in the manifest (R7).

It is signed like everything else and runs in the worker's sandbox, which is what confines it. That only the modules it
names can be imported, and that files are not opened from it, keeps honest code honest; it is no wall of its own.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import linecache
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_agent.sdk.cells import column_of, stacked
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame, as_values

__all__ = ["Code"]

SOURCE_BYTES_MAX = 64 * 1024
_WHOLE = ("values", "frame")
_WITHHELD = ("open", "exec", "eval", "compile", "input", "breakpoint", "help", "exit", "quit")
# `__import__` stays: numpy's own C code imports through the builtins of whoever calls it.
_BUILTINS = {name: value for name, value in vars(builtins).items() if name not in _WITHHELD}


class Code(Filter):
    """Compute an expression, `Code("a + b * 2")`, or a function body with `return`, over columns by name.

    A column is an array if its cells are numbers, else a list. `values` is the whole batch and `frame` the `Frame`,
    unless columns are called so. `imports` lists modules as an import statement does, `["math", "numpy as np"]`; no
    others can be imported. The result is one value for each row, one for all, a tuple of columns, or a dict of columns
    by name; `columns` names what comes out otherwise.

    Raises `ValueError` with the line for source that does not parse, has no `return`, or imports what is not named.
    """

    def __init__(self, source: str, *, imports: Sequence[str] = (), columns: Sequence[str] | None = None) -> None:
        for name, given in (("imports", imports), ("columns", columns)):
            if isinstance(given, str):
                raise TypeError(f"Code: {name} must be a list: write {name}=[{given!r}]")
        super().__init__(source=source, imports=list(imports), columns=None if columns is None else list(columns))
        self.source: str
        self.imports: list[str]
        self.columns: list[str] | None
        _check_imports(_parsed(source), self.modules())
        self._forget()

    def modules(self) -> dict[str, str]:
        """Return the modules that `imports` names, by the names they are bound to."""
        bound = {}
        for text in self.imports:
            module, _, alias = (part.strip() for part in text.partition(" as "))
            if not all(part.isidentifier() for part in [*module.split("."), alias or "_"]):
                raise ValueError(f"Code: {text!r} is no import: write 'module' or 'module as name'")
            bound[alias or module] = module
        return bound

    def initialize(self) -> None:
        """Import what is named. Raises `ImportError` where the device does not have it."""
        self._forget()
        self._globals |= {"__builtins__": _BUILTINS, "__name__": "code"}
        for name, module in self.modules().items():
            found = importlib.import_module(module)
            top = name.partition(".")[0]
            self._globals[top] = importlib.import_module(top) if "." in name else found

    def cleanup(self) -> None:
        """Forget what was compiled."""
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_globals", "_made")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def predict(self, x: Any, *, frame: Frame) -> Any:
        """Return the result as rows. Raises whatever the snippet raises; a traceback shows its lines."""
        function, names = self._function(frame.columns or _keys(x))
        cells = [_whole(name, x, frame) if name not in frame.columns else column_of(frame, name) for name in names]
        try:
            return self._settled(function(*cells), frame)
        except NameError as error:
            here = f"the columns are {', '.join(frame.columns)}" if frame.columns else "the rows have no column names"
            raise NameError(f"{error}: {here}, imports: {', '.join(self.imports) or 'none'}") from error

    def _forget(self) -> None:
        self._globals: dict[str, Any] = {}
        self._made: tuple[tuple[str, ...], Callable[..., Any], list[str]] | None = None

    def _function(self, columns: tuple[str, ...]) -> tuple[Callable[..., Any], list[str]]:
        if self._made is None or self._made[0] != columns:
            if not self._globals:
                self.initialize()
            self._made = (columns, *_compiled(self.source, columns, self._globals))
        return self._made[1], self._made[2]

    def _settled(self, result: Any, frame: Frame) -> Any:
        rows = len(frame)
        if isinstance(result, Frame):
            return result
        if isinstance(result, dict):
            return frame.with_values(stacked([*result.values()], rows), tuple(result))
        if isinstance(result, tuple):
            result = stacked(result, rows)
        elif np.ndim(result) == 0 and not isinstance(result, list):
            result = stacked([result], rows)
        elif isinstance(result, list):
            result = as_values(result)
        if len(result) != rows:
            return result  # for the caller to judge
        return frame.with_values(result, tuple(self.columns or ()))


def _keys(x: Any) -> tuple[str, ...]:
    """Return the names that rows bring along themselves."""
    return tuple(map(str, x[0])) if isinstance(x, list) and x and isinstance(x[0], dict) else ()


def _whole(name: str, x: Any, frame: Frame) -> Any:
    if isinstance(x, list) and x and isinstance(x[0], dict) and name in x[0]:
        return column_of(frame, name)
    return frame if name == "frame" else x


def _parsed(source: Any) -> ast.Module:
    """Return the source as the body of a function. Raises `ValueError` with the line."""
    if not isinstance(source, str):
        raise TypeError(f"Code takes its source as text, not a {type(source).__name__}")
    if len(source.encode()) > SOURCE_BYTES_MAX:
        raise ValueError(f"Code: the source has over {SOURCE_BYTES_MAX} bytes: write a filter of its own")
    text = textwrap.dedent(source).strip("\n")
    try:
        expression = ast.parse(text.strip(), mode="eval")
        answer = ast.copy_location(ast.Return(expression.body), expression.body)
        return ast.Module([answer], [])
    except (SyntaxError, ValueError):
        pass
    try:
        tree = ast.parse(text)
        if not any(isinstance(node, ast.Return) for node in _own(tree)):
            raise ValueError("Code: a function body needs a `return`")
        if any(isinstance(node, ast.Yield | ast.YieldFrom | ast.Await) for node in _own(tree)):
            raise ValueError("Code: a function body returns its result at once: it can neither yield nor await")
        _compile(tree, [])
    except SyntaxError as error:
        raise ValueError(f"Code, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    return tree


def _own(tree: ast.AST) -> list[ast.AST]:
    """Return the nodes of a body without those of functions and classes within it."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            found += _own(node)
    return found


def _check_imports(tree: ast.Module, modules: dict[str, str]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "__import__":
            raise ValueError(
                f"Code, line {node.lineno}: write `import name` instead of __import__, and name it in imports"
            )
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            named = ["." * node.level + (node.module or "")]
        for name in named:
            if not _allowed(name, set(modules.values())):
                raise ValueError(f"Code, line {node.lineno}: imports {name}, which imports=[…] does not name")  # type: ignore[attr-defined]


def _allowed(name: str, modules: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def _compiled(source: str, columns: tuple[str, ...], scope: dict[str, Any]) -> tuple[Callable[..., Any], list[str]]:
    """Return the source as a function, and the columns it takes: those it names."""
    tree = _parsed(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = [name for name in (*columns, *(one for one in _WHOLE if one not in columns)) if name in used]
    made: dict[str, Any] = {}
    exec(_compile(tree, names, source), scope, made)  # noqa: S102 - running signed code is what this filter is for
    return made["code"], names


def _compile(tree: ast.Module, names: list[str], source: str = "") -> Any:
    file = f"<Code {hashlib.sha256(source.encode()).hexdigest()[:8]}>"
    function = ast.parse(f"def code({', '.join(names)}): pass")
    function.body[0].body = tree.body  # type: ignore[attr-defined]
    if source:
        lines = textwrap.dedent(source).strip("\n").splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)  # no time of change: tracebacks keep it
    return compile(ast.fix_missing_locations(function), file, "exec", dont_inherit=True)
