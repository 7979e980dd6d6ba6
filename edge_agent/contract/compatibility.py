"""Does a release fit a machine? Judged from values only: a manifest and an interpreter profile (U5).

The same function runs on the device at admission and on the workstation in preflight, so both give the same answer in
the same words. It collects all reasons and never stops at the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import parse_tag
from packaging.utils import canonicalize_name

from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import Manifest, Stage

__all__ = ["Profile", "judge"]


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What admission judges a release by.

    `python` is the full version, `tags` the wheel tags the worker's interpreter accepts, `distributions` canonical
    names to versions as the worker sees them. `environment` holds the marker variables of PEP 508. `providers` and
    `opsets` are what onnxruntime offers (`opsets` maps domains to the newest version), empty without it.
    """

    python: str
    machine: str
    tags: list[str]
    distributions: dict[str, str]
    environment: dict[str, str] = {}
    providers: list[str] = []
    opsets: dict[str, int] = {}
    memory_bytes: int = 0


def judge(manifest: Manifest, profile: Profile) -> list[Reason]:
    """Return every reason why `manifest` cannot run on `profile`; an empty list means it fits."""
    return [
        *_python(manifest, profile),
        *_requirements(manifest, profile),
        *(reason for stage in manifest.every_stage() for reason in _stage(stage, profile)),
    ]


def _python(manifest: Manifest, profile: Profile) -> Iterator[Reason]:
    if not manifest.requires_python:
        return
    try:
        fits = SpecifierSet(manifest.requires_python).contains(profile.python, prereleases=True)
    except InvalidSpecifier:
        yield Reason(code=ReasonCode.MALFORMED, message=f"requires_python {manifest.requires_python!r} is no specifier")
        return
    if not fits:
        yield Reason(
            code=ReasonCode.INTERPRETER,
            message=f"needs Python {manifest.requires_python}, this device has {profile.python}",
        )


def _requirements(manifest: Manifest, profile: Profile) -> Iterator[Reason]:
    for text in manifest.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            yield Reason(code=ReasonCode.MALFORMED, message=f"requirement {text!r}: {error}")
            continue
        try:
            applies = requirement.marker is None or requirement.marker.evaluate(dict(profile.environment))
        except ValueError as error:  # a marker that parses may still compare what cannot be compared
            yield Reason(code=ReasonCode.MALFORMED, message=f"requirement {text!r}: {error}")
            continue
        if not applies:
            continue
        found = profile.distributions.get(canonicalize_name(requirement.name))
        if found is None:
            yield Reason(code=ReasonCode.REQUIREMENTS, message=f"needs {text}, which is not installed here")
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Reason(code=ReasonCode.REQUIREMENTS, message=f"needs {text}, this device has {found}")


def _stage(stage: Stage, profile: Profile) -> Iterator[Reason]:
    if stage.bundle is not None and not _accepts(stage.tag, profile):
        yield Reason(
            code=ReasonCode.INTERPRETER,
            message=f"the bundle is built for {stage.tag}, this device runs Python {profile.python} on "
            f"{profile.machine}: push a portable bundle (class in a module of its own) or one built on that Python",
            where=stage.name,
        )
    for name, model in sorted(stage.models.items()):
        for domain, wanted in sorted(model.opsets.items()):
            offered = profile.opsets.get(domain)
            if offered is None or wanted > offered:
                yield Reason(
                    code=ReasonCode.MODEL,
                    message=f"model {model.name} uses opset {wanted} of {domain or 'ai.onnx'}, "
                    f"this device's onnxruntime offers {'none' if offered is None else f'up to {offered}'}",
                    where=f"{stage.name}.{name}",
                )
    if stage.providers and not set(stage.providers) & set(profile.providers):
        yield Reason(
            code=ReasonCode.MODEL,
            message=f"needs one of the execution providers {', '.join(stage.providers)}, "
            f"this device offers {', '.join(profile.providers) or 'none'}",
            where=stage.name,
        )


def _accepts(tag: str, profile: Profile) -> bool:
    try:
        return not {str(one) for one in parse_tag(tag)}.isdisjoint(profile.tags)
    except ValueError:
        return False
