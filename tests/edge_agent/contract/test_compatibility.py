"""Does a release fit a machine? Named cases, and the promise that a judgement never raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.compatibility import Profile, judge
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.manifest import InputSpec, Manifest, ModelRef, OutputSpec, Stage

BLOB = BlobRef.of(b"")
PROFILE = Profile(
    python="3.11.2",
    machine="aarch64",
    tags=["cp311-cp311-manylinux_2_36_aarch64", "cp311-none-any", "py3-none-any", "py2.py3-none-any"],
    distributions={"numpy": "1.26.4", "scikit-learn": "1.5.0rc1", "odd": "0.1-broken+"},
    environment={"python_version": "3.11", "platform_machine": "aarch64", "platform_release": "6.1.0-rpi7-rpi-v8"},
    providers=["CPUExecutionProvider"],
    opsets={"": 19, "ai.onnx.ml": 3},
)


def manifest(stage: dict[str, object] | None = None, **fields: object) -> Manifest:
    one = {"name": "a", "target": "m:C", "fingerprint": "f", "bundle": BLOB, **(stage or {})}
    values: dict[str, object] = {
        "format": 1,
        "pipeline": "p",
        "stages": [Stage(**one)],  # type: ignore[arg-type]
        "input": InputSpec(columns=[]),
        "output": OutputSpec(columns=[]),
    }
    return Manifest(**{**values, **fields})  # type: ignore[arg-type]


def codes(reasons: list[Reason]) -> list[ReasonCode]:
    return [reason.code for reason in reasons]


FITS = [
    ("nothing asked", manifest()),
    ("python in range", manifest(requires_python=">=3.11,<3.14")),
    ("distribution by name alone", manifest(requires=["numpy"])),
    ("name in another spelling", manifest(requires=["Scikit_Learn"])),
    ("version in range", manifest(requires=["numpy>=1.26,<2"])),
    ("a prerelease that is there counts", manifest(requires=["scikit-learn>=1.5.0rc1"])),
    ("marker for another machine", manifest(requires=['scipy; platform_machine == "x86_64"'])),
    ("marker over a kernel's odd release", manifest(requires=['scipy; platform_release == "5"'])),
    ("extra that nobody asked for", manifest(requires=['scipy; extra == "gpu"'])),
    ("compressed tag", manifest({"tag": "py2.py3-none-any"})),
    ("pinned to this interpreter", manifest({"tag": "cp311-none-any"})),
    ("any tag without a bundle", manifest({"bundle": None, "tag": "cp399-none-any"})),
    ("opsets offered", manifest({"models": {"m": ModelRef(blob=BLOB, name="m", opsets={"": 19, "ai.onnx.ml": 1})}})),
    ("one provider of two", manifest({"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})),
]

FITS_NOT = [
    (
        "python too old",
        manifest(requires_python=">=3.12"),
        ReasonCode.INTERPRETER,
        "needs Python >=3.12, this device has 3.11.2",
    ),
    ("no specifier", manifest(requires_python="3.11 or so"), ReasonCode.MALFORMED, "is no specifier"),
    (
        "not installed",
        manifest(requires=["scipy>=1"]),
        ReasonCode.REQUIREMENTS,
        "needs scipy>=1, which is not installed here",
    ),
    (
        "wrong version",
        manifest(requires=["numpy>=2"]),
        ReasonCode.REQUIREMENTS,
        "needs numpy>=2, this device has 1.26.4",
    ),
    ("odd version", manifest(requires=["odd>=1"]), ReasonCode.REQUIREMENTS, "0.1-broken+"),
    (
        "marker for this machine",
        manifest(requires=['scipy; platform_machine == "aarch64"']),
        ReasonCode.REQUIREMENTS,
        "scipy",
    ),
    ("no requirement", manifest(requires=["not a requirement"]), ReasonCode.MALFORMED, "'not a requirement'"),
    ("marker that compares nothing", manifest(requires=['x; python_version ~= "abc"']), ReasonCode.MALFORMED, "abc"),
    ("pinned elsewhere", manifest({"tag": "cp313-none-any"}), ReasonCode.INTERPRETER, "push a portable bundle"),
    ("no tag", manifest({"tag": "nonsense"}), ReasonCode.INTERPRETER, "nonsense"),
    (
        "opset too new",
        manifest({"models": {"m": ModelRef(blob=BLOB, name="net.onnx", opsets={"": 21})}}),
        ReasonCode.MODEL,
        "model net.onnx uses opset 21 of ai.onnx, this device's onnxruntime offers up to 19",
    ),
    (
        "domain unknown",
        manifest({"models": {"m": ModelRef(blob=BLOB, name="net.onnx", opsets={"com.acme": 1})}}),
        ReasonCode.MODEL,
        "offers none",
    ),
    (
        "no provider",
        manifest({"providers": ["CUDAExecutionProvider"]}),
        ReasonCode.MODEL,
        "offers CPUExecutionProvider",
    ),
]


@pytest.mark.parametrize("one", [case[1] for case in FITS], ids=[case[0] for case in FITS])
def test_what_fits(one: Manifest) -> None:
    assert judge(one, PROFILE) == []


@pytest.mark.parametrize(("one", "code", "words"), [case[1:] for case in FITS_NOT], ids=[case[0] for case in FITS_NOT])
def test_what_does_not(one: Manifest, code: ReasonCode, words: str) -> None:
    (reason,) = judge(one, PROFILE)
    assert reason.code is code
    assert words in reason.message


def test_a_device_without_onnxruntime_offers_nothing() -> None:
    bare = Profile(python="3.11.2", machine="x", tags=["py3-none-any"], distributions={})
    found = judge(
        manifest({"models": {"m": ModelRef(blob=BLOB, name="m", opsets={"": 1})}, "providers": ["CPU"]}), bare
    )
    assert codes(found) == [ReasonCode.MODEL, ReasonCode.MODEL]
    assert [reason.where for reason in found] == ["a.m", "a"]
    assert "offers none" in found[1].message


def test_all_reasons_come_at_once() -> None:
    bad = manifest({"tag": "cp313-none-any", "providers": ["X"]}, requires_python="<3", requires=["a", "b", "c d"])
    assert codes(judge(bad, PROFILE)) == [
        ReasonCode.INTERPRETER,
        ReasonCode.REQUIREMENTS,
        ReasonCode.REQUIREMENTS,
        ReasonCode.MALFORMED,
        ReasonCode.INTERPRETER,
        ReasonCode.MODEL,
    ]


TEXT = st.text(max_size=12)
REQUIREMENT = st.sampled_from(["numpy", "odd", "scipy", "x"]) | TEXT
MARKERS = st.sampled_from(["", "; ", "; python_version ~= '", "; platform_release >= '", "; extra == '", " >= ", " @ "])


@given(
    st.lists(st.tuples(REQUIREMENT, MARKERS, TEXT, st.sampled_from(["", "'"])).map("".join), max_size=3),
    TEXT | st.sampled_from([">=3", "==3.*", "~=3.11"]),
    TEXT | st.sampled_from(["py3-none-any", "py3-none", "a.b-c-d"]),
    TEXT,
)
def test_no_release_makes_the_judge_raise(requires: list[str], python: str, tag: str, version: str) -> None:
    distributions = {**PROFILE.distributions, "x": version}
    profile = Profile(
        python=PROFILE.python,
        machine=PROFILE.machine,
        tags=PROFILE.tags,
        distributions=distributions,
        environment=PROFILE.environment,
    )
    for reason in judge(manifest({"tag": tag}, requires=requires, requires_python=python), profile):
        assert reason.message
