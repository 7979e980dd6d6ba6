"""One local source file as a syntax tree: decoded, parsed, and without the branches that never run on a device.

Decides which branches are dead (`TYPE_CHECKING`, `if False`, the `__main__` guard). Never imports or executes anything.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Source", "Unparsable", "parse"]

_TYPING = ("typing", "typing_extensions")
_LIMIT_BYTES = 16 * 1024 * 1024


class Unparsable(ValueError):
    """A local file cannot be read as Python. `line` is where the parser stopped, 1 when it cannot tell."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(reason)


@dataclass(frozen=True, eq=False)
class Source:
    """A parsed local module. `origin` is its file, `module` its import name, `tree` has no dead branches."""

    origin: Path
    module: str
    is_package: bool
    data: bytes
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that relative imports start from; empty for a top-level module."""
        return self.module if self.is_package else self.module.rpartition(".")[0]


def parse(origin: Path, module: str, data: bytes) -> Source:
    """Parse `data`, in whatever encoding it declares, with or without a byte order mark.

    Raises `Unparsable` with the line and the reason when it is not Python that this interpreter reads.
    """
    if len(data) > _LIMIT_BYTES:
        raise Unparsable(1, f"source file of {len(data)} bytes; the limit is {_LIMIT_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data, filename=str(origin))
    except SyntaxError as error:
        raise Unparsable(error.lineno or 1, f"does not parse: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unparsable(1, f"does not parse: {error or type(error).__name__}") from None
    names = frozenset(_type_checking_names(tree))
    tree.body = [kept for statement in tree.body for kept in _without_main(statement)]
    _prune(tree, names)
    return Source(origin=origin, module=module, is_package=origin.stem == "__init__", data=data, tree=tree)


def _type_checking_names(tree: ast.Module) -> Iterator[str]:
    """The names that mean `typing.TYPE_CHECKING` in this module, under any alias, and nothing else anywhere in it.

    A module with its own `TYPE_CHECKING`, of another value or from elsewhere, chooses at run time like any other.
    """
    meanings: dict[str, list[bool]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            typing = isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in _TYPING
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                module = isinstance(node, ast.Import) and alias.name in _TYPING
                meanings.setdefault(f"{name}.TYPE_CHECKING", []).append(module)
                meanings.setdefault(name, []).append(typing and alias.name == "TYPE_CHECKING")
        elif isinstance(node, ast.Assign):
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            for name in names:
                meanings.setdefault(name, []).append(off and name == "TYPE_CHECKING")
    return (name for name, found in meanings.items() if all(found))


def _without_main(statement: ast.stmt) -> list[ast.stmt]:
    """Drop the body of `if __name__ == "__main__"`: a bundle's module is imported, never run as a script."""
    if not (isinstance(statement, ast.If) and isinstance(statement.test, ast.Compare)):
        return [statement]
    test = statement.test
    sides = {ast.dump(side) for side in (test.left, *test.comparators)}
    if sides != {ast.dump(ast.Name("__name__", ast.Load())), ast.dump(ast.Constant("__main__"))}:
        return [statement]
    if isinstance(test.ops[0], ast.Eq):
        return statement.orelse
    return statement.body if isinstance(test.ops[0], ast.NotEq) else [statement]


def _verdict(test: ast.expr, names: frozenset[str]) -> bool | None:
    """Whether a condition is surely true or false at run time; None when only running it can tell."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Name):
        return False if test.id in names else None
    if isinstance(test, ast.Attribute):
        return False if ast.unparse(test) in names else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _verdict(test.operand, names)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        decisive = isinstance(test.op, ast.Or)
        verdicts = [_verdict(value, names) for value in test.values]
        if verdicts[0] is decisive:
            return decisive
        if not decisive and False in verdicts:
            return False
        return not decisive if all(verdict is not None for verdict in verdicts) else None
    return None


def _prune(node: ast.AST, names: frozenset[str]) -> None:
    pending = [node]
    while pending:
        current = pending.pop()
        for field, value in ast.iter_fields(current):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(current, field, _live(value, names))
        pending.extend(child for child in ast.iter_child_nodes(current) if not isinstance(child, ast.expr))


def _live(body: list[ast.stmt], names: frozenset[str]) -> list[ast.stmt]:
    kept: list[ast.stmt] = []
    for statement in body:
        verdict = _verdict(statement.test, names) if isinstance(statement, ast.If) else None
        if isinstance(statement, ast.If) and verdict is not None:
            kept.extend(_live(statement.body if verdict else statement.orelse, names))
        else:
            kept.append(statement)
    return kept
