"""Conditions on the Python version and the platform, as far as every device answers them alike.

Devices run Linux and CPython 3.11 or later; what differs between those is not decided here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

__all__ = ["on_device"]

_OLDEST = (3, 11)
_TEXTS = {
    "sys.platform": "linux",
    "os.name": "posix",
    "platform.system()": "Linux",
    "sys.implementation.name": "cpython",
}
_VERSIONS = ("sys.version_info", "sys.version_info[:2]", "sys.version_info[:3]")
_MAJOR = ("sys.version_info[0]", "sys.version_info.major")


def on_device(test: ast.expr, names: Mapping[str, ast.expr]) -> bool | None:
    """Return what a condition is on every device, None when that depends; `names` are what a module binds once."""
    if isinstance(test, ast.Name) and test.id in names:
        return on_device(names[test.id], {})
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = on_device(test.operand, names)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        decisive = isinstance(test.op, ast.Or)
        found = [on_device(value, names) for value in test.values]
        if decisive in found:
            return decisive
        return None if None in found else not decisive
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and test.func.attr == "startswith":
        text = _TEXTS.get(ast.unparse(test.func.value))
        prefix = _literal(test.args[0]) if len(test.args) == 1 else None
        return text.startswith(prefix) if text and isinstance(prefix, str | tuple) else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left = names.get(test.left.id, test.left) if isinstance(test.left, ast.Name) else test.left
        return _compared(ast.unparse(left), test.ops[0], _literal(test.comparators[0]))
    return None


def _literal(node: ast.expr) -> object:
    try:
        found: object = ast.literal_eval(node)
    except ValueError:
        return None
    return found


def _compared(subject: str, op: ast.cmpop, value: object) -> bool | None:
    if subject in _TEXTS:
        text = _TEXTS[subject]
        if isinstance(op, ast.Eq | ast.NotEq) and isinstance(value, str):
            return (text == value) is isinstance(op, ast.Eq)
        if isinstance(op, ast.In | ast.NotIn) and isinstance(value, tuple | list | set):
            return (text in value) is isinstance(op, ast.In)
        return None
    if subject in _MAJOR and isinstance(value, int):
        value = (value,)
        return _version(op, value[0], 3) if value[0] != 3 else isinstance(op, ast.Eq | ast.GtE | ast.LtE)
    if subject in _VERSIONS and isinstance(value, tuple) and all(isinstance(part, int) for part in value):
        if value[:2] <= _OLDEST and len(value) <= 2:
            return True if isinstance(op, ast.GtE) else False if isinstance(op, ast.Lt) else None
        if value[:2] < _OLDEST:
            return isinstance(op, ast.Gt | ast.GtE) if isinstance(op, ast.Gt | ast.GtE | ast.Lt | ast.LtE) else None
    return None


def _version(op: ast.cmpop, value: int, major: int) -> bool | None:
    if isinstance(op, ast.GtE | ast.Gt):
        return major > value
    if isinstance(op, ast.Lt | ast.LtE):
        return major < value
    return isinstance(op, ast.NotEq) if isinstance(op, ast.Eq | ast.NotEq) else None
