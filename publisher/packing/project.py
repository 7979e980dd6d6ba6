"""The author's pipeline: which object a TARGET names, imported from the author's own files.

TARGET is `module:attr`, `file.py[:attr]`, or nothing, then `[tool.fieldcast] pipeline = "…"` of the nearest
pyproject.toml says it. This is the one room of the publisher that runs the author's code. Everything that can be wrong
with a target is one `AuthorError` line; it decides nothing about shipping.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import edge_agent
import publisher
from edge_agent.contract.errors import AuthorError
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.pipeline import Pipeline
from publisher.analysis import target as targets

__all__ = ["find_pipeline", "read_pyproject"]

_FORMS = "a TARGET is module:attr, file.py, file.py:attr, or nothing with [tool.fieldcast] in pyproject.toml"


def find_pipeline(target: Any = None, *, directory: Path | None = None) -> Pipeline:
    """Return the pipeline that `target` names or is; relative paths start in `directory` (the working directory).

    The directory that the author's modules start in is put first on `sys.path`, and stays there: imports inside
    functions need it later. Raises `AuthorError` in one line.
    """
    if isinstance(target, Pipeline):
        return target
    here = (directory or Path.cwd()).resolve()
    if target is None:
        target, here = _declared(here)
    if not isinstance(target, str):
        return _checked(target, "the target")
    if not target.strip():
        raise AuthorError(f"{target!r} names no pipeline: {_FORMS}")
    text, attr = _split(target.strip())
    module = _import_file(text, here) if _is_path(text) else _import_module(text, attr, here)
    return _pipeline_of(module, attr, target)


def read_pyproject(start: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return path and content of the nearest pyproject.toml in `start` or above. Raises `AuthorError` if unreadable."""
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                return path, tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise AuthorError(f"{path}: {error}") from None
    return None


def _declared(here: Path) -> tuple[str, Path]:
    found = read_pyproject(here)
    if found is None:
        raise AuthorError(f"no target given, and no pyproject.toml in {here} or above: {_FORMS}")
    path, content = found
    tool = content.get("tool")
    section = tool.get("fieldcast") if isinstance(tool, dict) else None
    target = section.get("pipeline") if isinstance(section, dict) else None
    if not isinstance(target, str) or not target:
        raise AuthorError(
            f'no target given, and {path} does not name one: add [tool.fieldcast] pipeline = "module:attr"'
        )
    return target, path.parent


def _split(target: str) -> tuple[str, str]:
    if target.endswith(".onnx"):
        raise AuthorError(
            f"{target} is a model: push it as a stage of a pipeline, in a file of yours: "
            f'Pipeline("name", [OnnxModel("{Path(target).name}")], input=Input([…]), output=Output([…]))'
        )
    head, colon, attr = target.rpartition(":")
    if not colon:
        return target, ""
    if not all(part.isidentifier() for part in attr.split(".")):
        raise AuthorError(f"{target!r}: {attr!r} cannot be a name in a module: {_FORMS}")
    return head, attr


def _is_path(text: str) -> bool:
    return text.endswith(".py") or "/" in text


# --- importing -----------------------------------------------------------------------------------------------------


def _import_file(text: str, here: Path) -> ModuleType:
    path = here / Path(text).expanduser()
    if not path.is_file():
        beside = sorted(one.name for one in path.parent.glob("*.py")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, 1)
        raise AuthorError(f"there is no file {path}" + (f": did you mean {close[0]}?" if close else ""))
    found = targets.resolve(path)
    base = found.origin
    for _ in found.module.split(".") if found.origin.stem != "__init__" else [*found.module.split("."), ""]:
        base = base.parent
    _add_to_path(base)
    module = _imported(found.module, str(path))
    file = getattr(module, "__file__", None)
    if file is None or Path(file).resolve() != found.origin:
        raise AuthorError(
            f"{path} would be imported as {found.module!r}, which here means {file or 'a built-in module'}: "
            "rename the file"
        )
    return module


def _import_module(name: str, attr: str, here: Path) -> ModuleType:
    if not attr or not all(part.isidentifier() for part in name.split(".")):
        raise AuthorError(f"{name!r} names no pipeline: {_FORMS}")
    for folder in (here, here / "src"):
        if folder.is_dir() and (folder == here or (here / "pyproject.toml").is_file()):
            _add_to_path(folder)
    return _imported(name, name)


def _add_to_path(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def _imported(name: str, shown: str) -> ModuleType:
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    except AuthorError as error:
        _forget(before)
        raise AuthorError(f"{shown} does not import: {error}{_place(error)}") from error
    except (Exception, SystemExit) as error:
        _forget(before)
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise AuthorError(f"there is no module {error.name!r} here ({shown}): {_FORMS}") from error
        text = " ".join(str(error).split())
        raise AuthorError(f"{shown} does not import: {type(error).__name__}: {text}{_place(error)}") from error


def _forget(before: set[str]) -> None:
    """Drop what a failed import half-loaded of the author's own modules, so that a corrected file is read again."""
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and any(Path(file).is_relative_to(Path(folder)) for folder in sys.path[:2] if folder):
            del sys.modules[name]


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})" if f"{error.lineno}" not in str(error) else ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    ours = tuple(str(Path(inspect.getfile(package)).parent) for package in (edge_agent, publisher, importlib))
    theirs = [frame for frame in frames if not frame.filename.startswith(ours)]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""


# --- choosing ------------------------------------------------------------------------------------------------------


def _pipeline_of(module: ModuleType, attr: str, target: str) -> Pipeline:
    if attr:
        return _checked(_attribute(module, attr, target), target)
    found = {name: value for name, value in vars(module).items() if isinstance(value, Pipeline)}
    if len({id(value) for value in found.values()}) == 1:
        return next(iter(found.values()))
    if found:
        choices = " or ".join(f"{target}:{name}" for name in sorted(found))
        raise AuthorError(f"{target} has several pipelines: say {choices}")
    filters = sorted(
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__
    )
    raise AuthorError(
        _filter_advice(filters[0], target)
        if filters
        else f"{target} has no pipeline: write pipeline = Pipeline('name', [filter, …], input=…, output=…) in it"
    )


def _attribute(module: ModuleType, attr: str, target: str) -> Any:
    found: Any = module
    for part in attr.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if isinstance(value, Pipeline)]
            close = difflib.get_close_matches(part, [*names, *dir(found)], 1)
            hint = f": did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(names)) or 'no pipeline'}"
            raise AuthorError(f"{target}: {module.__name__} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _checked(found: Any, target: str) -> Pipeline:
    if isinstance(found, Pipeline):
        return found
    if isinstance(found, type) and issubclass(found, Filter):
        raise AuthorError(_filter_advice(found.__name__, target))
    if isinstance(found, Filter):
        raise AuthorError(_filter_advice(type(found).__name__, target))
    raise AuthorError(f"{target} is a {type(found).__name__}, not a Pipeline: name the pipeline object itself")


def _filter_advice(name: str, target: str) -> str:
    return (
        f"{target} is the filter {name}, not a pipeline: write pipeline = Pipeline('name', [{name}()], "
        "input=Input([…]), output=Output([…])) beside it and name that"
    )
