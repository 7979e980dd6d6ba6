"""Tries a package before it is signed, and judges it for images and devices.

Decides what a difference between processes means. The package runs in two clean processes under different hash seeds,
and must give there what the author's own process gave; where it does not, the first stage that differs is named. Other
interpreters, images and devices each get a verdict: accept, refuse with the reason, or silent where nothing is known.
Nothing is sent anywhere.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.compatibility import Profile, judge
from edge_agent.contract.digest import decode_json
from edge_agent.contract.errors import AuthorError, ConfigError, Reason, ReasonCode
from edge_agent.contract.manifest import Manifest
from edge_agent.sdk.pipeline import Pipeline
from edge_agent.sdk.trace import Difference, difference, trace
from publisher.packaging import Package
from publisher.packing.trial import Trial, bench

__all__ = ["SEEDS", "Finding", "Preflight", "Verdict", "judge_reported", "preflight"]

SEEDS = (1, 2)
AT_ONCE = 2
_SALTED = (
    "it depends on the hash of text (use hashlib or zlib.crc32 instead of hash()), on the order of a set (sort it), "
    "or on chance (give the generator a fixed seed)"
)


class Verdict(enum.Enum):
    """What a place says to a package. `SILENT`: nothing is known about it."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    SILENT = "silent"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `kind` is `here`, `python`, `image` or `device`."""

    kind: str
    name: str
    verdict: Verdict
    words: str = ""
    reasons: list[Reason] = []


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen: `words` about the run here, a finding for each place, and `warnings` for the author."""

    words: str
    findings: list[Finding]
    warnings: list[str] = []

    @property
    def refused(self) -> bool:
        """Whether any place refuses the package."""
        return any(one.verdict is Verdict.REFUSE for one in self.findings)


def preflight(
    package: Package,
    *,
    pipeline: Pipeline | None = None,
    pythons: Iterable[str] = (),
    images: Iterable[str | Path] = (),
    profiles: Iterable[tuple[str, Any]] = (),
) -> Preflight:
    """Try a package here under two hash seeds, under other interpreters, and judge it for images and devices.

    `pipeline` is what was packed: with it, a difference between this process and a clean one is traced to a stage.
    `pythons` are paths of interpreters, `images` files as `edge-agent profile --json` prints them, `profiles` devices
    with what they last reported about themselves, None for those that did not. Raises `AuthorError` when the package
    fails here, with the stage and the remote traceback, and `ConfigError` for an interpreter or a file that is of no
    use.
    """
    others = list(pythons)
    described = [(str(path), _image(Path(path))) for path in images]
    with bench(package) as place, ThreadPoolExecutor(AT_ONCE) as pool:
        here = [pool.submit(place.run, seed) for seed in SEEDS]
        there = [pool.submit(place.run, SEEDS[0], python) for python in others]
        try:
            words, warnings = _agreed([one.result() for one in here], package, pipeline)
            tried = [one.result() for one in there]
        finally:
            pool.shutdown(cancel_futures=True)
    first = here[0].result()
    findings = [Finding(kind="here", name=f"Python {first.python}", verdict=Verdict.ACCEPT, words=words)]
    findings += [_tried(python, one, first, package) for python, one in zip(others, tried, strict=True)]
    findings += [_judged("image", name, package.manifest, profile) for name, profile in described]
    findings += judge_reported(package.manifest, profiles)
    return Preflight(words=words, findings=findings, warnings=warnings)


def judge_reported(manifest: Manifest, profiles: Iterable[tuple[str, Any]]) -> list[Finding]:
    """Return what each device would say, by the profile that it last reported."""
    return [_judged("device", name, manifest, _profile(reported)) for name, reported in profiles]


# --- here ----------------------------------------------------------------------------------------------------------


def _agreed(trials: list[Trial], package: Package, pipeline: Pipeline | None) -> tuple[str, list[str]]:
    """Return what was seen in words, and warnings. Raises `AuthorError` when a clean process says otherwise."""
    test = _self_test(package)
    seeds = f"under PYTHONHASHSEED={SEEDS[0]}", f"under PYTHONHASHSEED={SEEDS[1]}"
    apart = _difference(trials[0], trials[1], test)
    failed = next((one for one in trials if not one.ok), None)
    if failed is None:
        words = f"{trials[0].words} under {len(SEEDS)} hash seeds" if test else trials[0].words
        if apart is None:
            return words, []
        said = _between(apart, *seeds)
        return words, [f"{said}; {_SALTED}. The pipeline's own output is the same in this self-test, by luck perhaps"]
    reasons = "; ".join(map(str, failed.reasons))
    if apart is not None:
        reasons = f"{_between(apart, *seeds)}; {_SALTED}. {reasons}"
    elif trials[0].ok != trials[1].ok:
        reasons = f"only {seeds[trials.index(failed)]}: {reasons}"
    elif test and pipeline is not None and _is_other_output(failed):
        own = difference(trace(pipeline, test), failed.outputs, test)
        reasons = f"{_between(own, 'in your process', 'in a clean one')}. {reasons}" if own else reasons
    trail = "\n" + textwrap.indent(failed.traceback.rstrip(), "  ") if failed.traceback else ""
    raise AuthorError(f"preflight failed, nothing was pushed: {reasons}{trail}")


def _is_other_output(trial: Trial) -> bool:
    return any(reason.code is ReasonCode.SELF_TEST and not reason.where for reason in trial.reasons)


def _difference(one: Trial, other: Trial, test: bytes) -> Difference | None:
    """Return what two runs of the self-test disagree on first; None where one of them never came to it."""
    return difference(one.outputs, other.outputs, test) if one.outputs and other.outputs else None


def _self_test(package: Package) -> bytes:
    ref = package.manifest.self_test
    return package.blobs[ref.digest] if ref is not None else b""


def _between(found: Difference, one: str, other: str) -> str:
    return f"stage {found.stage!r} differs first, {found.place}: {found.one} {one}, {found.other} {other}"


# --- elsewhere -----------------------------------------------------------------------------------------------------


def _tried(python: str, trial: Trial, here: Trial, package: Package) -> Finding:
    name = f"Python {trial.python} ({python})"
    if trial.ok:
        return Finding(kind="python", name=name, verdict=Verdict.ACCEPT, words=trial.words)
    words = "; ".join(map(str, trial.reasons))
    apart = _difference(here, trial, _self_test(package)) if _is_other_output(trial) else None
    if apart is not None:
        words = f"{_between(apart, 'here', 'there')}. {words}"
    return Finding(kind="python", name=name, verdict=Verdict.REFUSE, words=words, reasons=trial.reasons)


def _judged(kind: str, name: str, manifest: Manifest, profile: Profile | None) -> Finding:
    if profile is None:
        return Finding(kind=kind, name=name, verdict=Verdict.SILENT, words="has not reported a readable profile")
    reasons = judge(manifest, profile)
    if reasons:
        words = "; ".join(map(str, reasons))
        return Finding(kind=kind, name=name, verdict=Verdict.REFUSE, words=words, reasons=reasons)
    return Finding(kind=kind, name=name, verdict=Verdict.ACCEPT, words=f"Python {profile.python}, {profile.machine}")


def _profile(reported: Any) -> Profile | None:
    try:
        return msgspec.convert(reported, Profile) if reported else None
    except msgspec.ValidationError:
        return None


def _image(path: Path) -> Profile:
    try:
        return decode_json(path.read_bytes(), Profile)
    except OSError as error:
        raise ConfigError(f"--image {path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--image {path}: is no profile ({error}): make one there with `edge-agent profile --json`"
        ) from None
