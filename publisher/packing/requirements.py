"""Which distributions a release needs: what the author declared, never what happens to be installed (F3).

One exception: what a pickled state was written with is required exactly, since nothing else is known to read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from edge_agent.contract.errors import AuthorError
from publisher.analysis import origin
from publisher.analysis.origin import STDLIB
from publisher.analysis.syntax import OLDEST
from publisher.packing.project import read_pyproject

__all__ = ["PYTHON", "Needs", "join", "join_pythons", "needs_of", "pins_of"]

PYTHON = ">=3.11"
_OURS = {"edge_agent", "numpy"}  # on every device, and arrays are read by every numpy that a device may have


class Needs(NamedTuple):
    """Requirements as PEP 508 texts, a Python specifier, and lines for the author."""

    requires: list[str]
    python: str
    warnings: list[str]

    def for_syntax(self, minor: int, stage: str = "") -> Needs:
        """Return the same for source that no Python older than 3.`minor` parses, nor then any device with one."""
        try:
            allowed = SpecifierSet(self.python)
        except InvalidSpecifier as error:
            raise AuthorError(f"project.requires-python: {error}") from None
        if not any(allowed.contains(f"3.{older}") for older in range(OLDEST, minor)):
            return self
        bound = f">=3.{minor}"
        python = bound if self.python == PYTHON else join_pythons([self.python, bound])
        line = f"stage {stage!r} has syntax of Python 3.{minor}, so no device with an older Python can take it"
        return self._replace(python=python, warnings=[*self.warnings, line])


def needs_of(cls: type, names: Iterable[str], declared_by_class: Iterable[str], root: Path) -> Needs:
    """Return what the author's declarations say of the distributions `names`, and of Python.

    `root` is where a pyproject.toml is looked for. A distribution that nobody declares is required by name alone, with
    a warning that prints the line to add. Raises `AuthorError` for a declaration that cannot be read.
    """
    names = list(names)
    found = read_pyproject(root)
    project = found[1].get("project", {}) if found else {}
    project = project if isinstance(project, dict) else {}
    declared: dict[str, list[str]] = {}
    for where, texts in ((f"{cls.__qualname__}.requires", declared_by_class), (_place(found), _listed(project))):
        known = set(declared)
        for text in texts:
            requirement = _requirement(text, where)
            key = canonicalize_name(requirement.name)
            if key not in known:  # the class knows better than its project
                declared.setdefault(key, []).append(str(requirement))
    wanted = [text for name in names for text in declared.get(name, [name])]
    python = project.get("requires-python")
    return Needs(
        sorted(set(wanted)),
        python if isinstance(python, str) else PYTHON,
        [_advice(name, cls, found) for name in names if name not in declared],
    )


def pins_of(modules: Iterable[str], local: Collection[str], advice: str) -> list[str]:
    """Return exact requirements for the installed distributions behind a pickle's `modules`.

    `local` are the modules that the bundle brings. Raises `AuthorError` for a module that would be nowhere, with
    `advice`, in which `{}` stands for the module's name.
    """
    pins = set()
    for name in sorted(modules):
        top = name.partition(".")[0]
        if name in local or top in _OURS or (top in STDLIB and name != "__main__"):
            continue
        distribution = origin.distribution_of(name)
        if distribution is None or name in origin.editable_packages():
            raise AuthorError(
                f"its state holds something of module {name}, which would not travel along, so no device has it: "
                + advice.format(name)
            )
        pins.add(f"{distribution}=={metadata.version(distribution)}")
    return sorted(pins)


def join(texts: Iterable[str]) -> list[str]:
    """Return all requirements once; a bare name says nothing beside a range."""
    unique = set(texts)
    ranged = {canonicalize_name(Requirement(text).name) for text in unique if not _is_bare(text)}
    return sorted(text for text in unique if not (_is_bare(text) and canonicalize_name(text) in ranged))


def join_pythons(texts: Iterable[str]) -> str:
    """Return one specifier that demands all of them."""
    return ",".join(sorted({part.strip() for text in texts or {PYTHON} for part in text.split(",")}))


def _listed(project: dict[str, Any]) -> list[str]:
    texts = project.get("dependencies", [])
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _place(found: tuple[Path, dict[str, Any]] | None) -> str:
    return f"{found[0]}: project.dependencies" if found else ""


def _requirement(text: str, where: str) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise AuthorError(f"{where}: {text!r}: {' '.join(str(error).split())}") from None
    if requirement.url:
        raise AuthorError(f"{where}: {text!r}: devices install from an index or an image, give a version range instead")
    return requirement


def _advice(key: str, cls: type, found: tuple[Path, dict[str, Any]] | None) -> str:
    try:
        line = f"{key}>={'.'.join(metadata.version(key).split('.')[:2])}"
    except metadata.PackageNotFoundError:
        line = key
    where = f'add "{line}" to dependencies in {found[0]}' if found else f'add requires = ["{line}"] to the class'
    return f"{cls.__qualname__} needs {key} and does not say which versions, so any will be accepted: {where}"


def _is_bare(text: str) -> bool:
    requirement = Requirement(text)
    return not (requirement.specifier or requirement.extras or requirement.marker)
