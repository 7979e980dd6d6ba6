"""The manifest: what is written comes back, and what is wrong is told by its key path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.manifest import (
    MANIFEST_BYTES_MAX,
    STAGE_DEPTH_MAX,
    HealthPolicy,
    InputSpec,
    Manifest,
    ModelRef,
    OutputSpec,
    Stage,
    check_name,
    encode_manifest,
    parse_manifest,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
REFS = st.binary(max_size=3).map(BlobRef.of)
COLUMNS = st.lists(st.text(max_size=5), max_size=4, unique=True)
WORDS = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | FINITE | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
MODELS = st.builds(
    ModelRef,
    blob=REFS,
    name=st.text(min_size=1, max_size=20).filter(lambda name: name not in (".", "..") and not set(name) & {"/", "\0"}),
    opsets=st.dictionaries(st.sampled_from(["", "ai.onnx.ml"]), st.integers(1, 30), max_size=2),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    stages = [
        Stage(
            name=name,
            target="my_pipeline:Double" if bundle is not None else "edge_agent.sdk.window:Window",
            fingerprint=draw(WORDS),
            bundle=bundle,
            parameters=draw(st.dictionaries(WORDS, VALUES, max_size=3)),
            state=draw(st.none() | REFS),
            models=draw(st.dictionaries(WORDS, MODELS, max_size=2)),
            providers=draw(st.lists(WORDS, max_size=2)),
        )
        for name, bundle in draw(
            st.lists(st.tuples(WORDS, st.none() | REFS), min_size=1, max_size=3, unique_by=lambda one: one[0])
        )
    ]
    return Manifest(
        format=1,
        pipeline=draw(NAMES),
        stages=stages,
        input=InputSpec(columns=draw(COLUMNS), rate_hz=draw(FINITE)),
        output=OutputSpec(
            columns=draw(COLUMNS), ranges=draw(st.dictionaries(WORDS, st.tuples(FINITE, FINITE), max_size=2))
        ),
        tunable=draw(st.lists(WORDS, max_size=2)),
        requires=draw(st.lists(WORDS, max_size=2)),
        self_test=draw(st.none() | REFS),
        health=HealthPolicy(probation_frames=draw(st.integers(0, 1000))),
        history=draw(st.integers(0, 100)),
    )


def document(**fields: Any) -> dict[str, Any]:
    """Return the JSON of a small valid manifest with `fields` replaced."""
    stage = {"name": "window", "target": "edge_agent.sdk.window:Window", "fingerprint": "builtin"}
    return {
        "format": 1,
        "pipeline": "activity",
        "stages": [stage],
        "input": {"columns": ["x"]},
        "output": {"columns": ["y"]},
        **fields,
    }


def parse(**fields: Any) -> Manifest:
    return parse_manifest(json.dumps(document(**fields)).encode())


def stage(**fields: Any) -> dict[str, Any]:
    return {**document()["stages"][0], **fields}


@given(manifests())
def test_what_is_written_comes_back(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert encode_manifest(parse_manifest(data)) == data


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_rubbish_is_rejected_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(UpdateRejected) as caught:
        parse_manifest(data)
    assert caught.value.reasons[0].code in (ReasonCode.MALFORMED, ReasonCode.FORMAT)


@given(manifests(), st.data())
def test_a_truncated_manifest_is_rejected(manifest: Manifest, data: st.DataObject) -> None:
    whole = encode_manifest(manifest)
    with pytest.raises(UpdateRejected):
        parse_manifest(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_defaults_are_left_out_and_the_format_is_not() -> None:
    assert json.loads(encode_manifest(parse())) == document()


def test_unknown_fields_are_tolerated_everywhere() -> None:
    later = parse(
        colour="blue",
        stages=[
            stage(
                speed=1, models={"m": {"blob": {"digest": str(Digest.of(b"")), "size": 0, "x": 1}, "name": "n", "y": 2}}
            )
        ],
        input={"columns": ["x"], "dtype": "f4"},
        health={"mood": "good"},
    )
    assert later.input == InputSpec(columns=["x"])


@pytest.mark.parametrize("number", [0, 2, 99, -1])
def test_another_format_is_refused_before_anything_else_is_read(number: int) -> None:
    with pytest.raises(UpdateRejected, match=f"format {number} is not supported .* update fieldcast first") as caught:
        parse_manifest(json.dumps({"format": number, "stages": "another world"}).encode())
    assert caught.value.reasons[0].code is ReasonCode.FORMAT


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"format": "1"}, r"\$\.format"),
        ({"pipeline": 7}, r"\$\.pipeline"),
        ({"stages": [stage(), {"name": "x"}]}, r"missing required field `target` - at `\$\.stages\[1\]`"),
        ({"stages": [stage(state={"digest": "sha256:x", "size": 1})]}, r"\$\.stages\[0\]\.state\.digest"),
        ({"stages": [stage(state={"digest": str(Digest.of(b"")), "size": 1.5})]}, r"\$\.stages\[0\]\.state\.size"),
        ({"stages": [stage(models={"m": {"name": "n"}})]}, r"\$\.stages\[0\]\.models\[\.\.\.\]"),
        ({"input": {"columns": "x"}}, r"\$\.input\.columns"),
        ({"output": {"columns": ["y"], "ranges": {"y": [0]}}}, r"\$\.output\.ranges"),
        ({"health": {"error_rate_max": "low"}}, r"\$\.health\.error_rate_max"),
        ({"history": None}, r"\$\.history"),
    ],
)
def test_a_wrong_type_is_told_by_its_key_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(UpdateRejected, match=path) as caught:
        parse(**fields)
    assert caught.value.reasons[0].code is ReasonCode.MALFORMED


NEGATIVE = {"digest": str(Digest.of(b"")), "size": -1}
PARALLEL = "edge_agent.sdk.parallel:Parallel"
FAULTS = [
    ({"pipeline": "../x"}, "$.pipeline", "not allowed"),
    ({"stages": []}, "$.stages", "at least one stage"),
    ({"stages": [stage(), stage()]}, "$.stages", "'window' is used twice"),
    ({"stages": [stage(target="Window")]}, "$.stages[0].target", "is not module:Class"),
    ({"stages": [stage(target="a:b:c")]}, "$.stages[0].target", "is not module:Class"),
    ({"stages": [stage(target=":C")]}, "$.stages[0].target", "is not module:Class"),
    ({"stages": [stage(target="os:system")]}, "$.stages[0].bundle", "has no bundle"),
    ({"stages": [stage(target="edge_agent.sdkx:C")]}, "$.stages[0].bundle", "has no bundle"),
    ({"input": {"columns": ["x", "x"]}}, "$.input.columns", "named twice"),
    ({"output": {"columns": ["y", "y"]}}, "$.output.columns", "named twice"),
    ({"input": {"columns": ["x"], "dtypes": {"y": "json"}}}, "$.input.dtypes.y", "column that the input does not have"),
    ({"input": {"columns": ["x"], "dtypes": {"x": "decimal"}}}, "$.input.dtypes.x", "'decimal' is not known (float64,"),
    (
        {"input": {"columns": ["x"], "dtypes": {"x": "string"}, "units": {"x": "g"}}},
        "$.input.dtypes.x",
        "'x' is string, which has no unit",
    ),
    ({"self_test": NEGATIVE}, "$.stages", "size -1"),
    ({"stages": [stage(models={"m": {"blob": NEGATIVE, "name": "n"}})]}, "$.stages", "size -1"),
    (
        {"stages": [stage(models={"m": {"blob": {**NEGATIVE, "size": 0}, "name": "../n"}})]},
        "$.stages[0].models.m.name",
        "must name a file",
    ),
    ({"history": -1}, "$.history", "negative"),
    ({"stages": [stage(branches={"a": [stage(name="b")]})]}, "$.stages[0].branches", "has branches, which only"),
    ({"stages": [stage(target=PARALLEL)]}, "$.stages[0].branches", "has no branches"),
    ({"stages": [stage(target=PARALLEL, branches={"": []})]}, "$.stages[0].branches", "a nested Pipeline has one"),
    ({"stages": [stage(target=PARALLEL, branches={"a/b": []})]}, "$.stages[0].branches", "not allowed"),
    (
        {"stages": [stage(target=PARALLEL, branches={"left": [stage(name="b"), stage(name="c", target="C")]})]},
        "$.stages[0].branches.left[1].target",
        "is not module:Class",
    ),
    ({"stages": [stage(target=PARALLEL, branches={"left": [stage()]})]}, "$.stages", "'window' is used twice"),
]


@pytest.mark.parametrize(("fields", "where", "words"), FAULTS)
def test_a_fault_of_meaning_is_told_by_its_key_path(fields: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(UpdateRejected) as caught:
        parse(**fields)
    (reason,) = caught.value.reasons
    assert (reason.code, reason.where) == (ReasonCode.MALFORMED, where)
    assert words in reason.message


def test_stages_in_stages_are_walked_in_order_and_no_deeper_than_the_bound() -> None:
    def nest(depth: int) -> dict[str, Any]:
        one = stage(name=f"s{depth}")
        return one if depth == 0 else {**one, "target": PARALLEL, "branches": {"a": [nest(depth - 1)]}}

    assert [one.name for one in parse(stages=[nest(2)]).every_stage()] == ["s2", "s1", "s0"]
    parse(stages=[nest(STAGE_DEPTH_MAX - 1)])
    with pytest.raises(UpdateRejected, match="deep or deeper in others"):
        parse(stages=[nest(STAGE_DEPTH_MAX)])


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UpdateRejected) as caught:
        parse(pipeline="", history=-1, input={"columns": ["x", "x"]})
    assert [reason.where for reason in caught.value.reasons] == ["$.pipeline", "$.input.columns", "$.history"]


def test_a_manifest_over_its_bound_is_refused_unread() -> None:
    data = json.dumps(document(pad="x" * MANIFEST_BYTES_MAX)).encode()
    with pytest.raises(UpdateRejected, match=f"exceeds {MANIFEST_BYTES_MAX}") as caught:
        parse_manifest(data)
    assert caught.value.reasons[0].code is ReasonCode.SIZE
    assert parse(pad="x" * 1000).pipeline == "activity"


def test_brackets_without_end_are_rejected() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(UpdateRejected, match="nested too deeply"):
        parse_manifest(json.dumps(document())[:-1].encode() + b',"x":' + deep + b"}")


def test_blobs_come_once_each_and_in_a_fixed_order() -> None:
    bundle, state, model, test = (BlobRef.of(name) for name in (b"bundle", b"state", b"model", b"test"))
    stages = [
        Stage(
            name=name,
            target="m:C",
            fingerprint="f",
            bundle=bundle,
            state=state,
            models={"z": ModelRef(blob=test, name="z"), "a": ModelRef(blob=model, name="a")},
        )
        for name in ("one", "two")
    ]
    manifest = Manifest(
        format=1,
        pipeline="p",
        stages=stages,
        input=InputSpec(columns=[]),
        output=OutputSpec(columns=[]),
        self_test=test,
    )
    assert list(manifest.blobs()) == [bundle, state, model, test]


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "9", "x" * 63])
def test_names_that_may_be(name: str) -> None:
    assert check_name("device", name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 64, ".x", "-x", "_x", "a/b", "a b", "+", "#", "a\n", "ä", "a@1", "$SYS", "a\0"]
)
def test_names_that_may_not_be(name: str) -> None:
    with pytest.raises(ValueError, match=r"device name .* is not allowed"):
        check_name("device", name)
