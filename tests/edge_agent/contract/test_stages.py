"""Stages made of stages: every walk over a manifest reaches them, and their form is checked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.contract.compatibility import Profile, judge
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.manifest import (
    CONTAINERS,
    FORMAT,
    STAGE_DEPTH_MAX,
    InputSpec,
    Manifest,
    ModelRef,
    OutputSpec,
    Stage,
    encode_manifest,
    parse_manifest,
)

PARALLEL, PIPELINE = CONTAINERS


def leaf(name: str, **more: Any) -> Stage:
    more.setdefault("target", "edge_agent.sdk.standardize:Standardize")
    return Stage(name=name, fingerprint="f", **more)


def parallel(name: str, **branches: list[Stage]) -> Stage:
    return leaf(name, target=PARALLEL, branches=branches)


def nested(name: str, *stages: Stage) -> Stage:
    return leaf(name, target=PIPELINE, branches={"": list(stages)})


def manifest(*stages: Stage) -> Manifest:
    return Manifest(
        format=FORMAT,
        pipeline="p",
        stages=list(stages),
        input=InputSpec(columns=["x"]),
        output=OutputSpec(columns=["y"]),
    )


def ref(text: str) -> BlobRef:
    return BlobRef.of(text.encode())


TREE = manifest(
    leaf("a", target="mine:A", bundle=ref("a")),
    parallel(
        "b",
        one=[nested("c", leaf("d", target="mine:D", bundle=ref("d"), tag="cp39-none-any"))],
        two=[leaf("e", state=ref("e"), models={"path": ModelRef(blob=ref("m"), name="m", opsets={"": 99})})],
    ),
    leaf("f"),
)


def test_every_stage_is_reached_parents_first():
    assert [stage.name for stage in TREE.every_stage()] == ["a", "b", "c", "d", "e", "f"]


def test_blobs_of_branches_are_among_the_manifests():
    assert list(TREE.blobs()) == [ref("a"), ref("d"), ref("e"), ref("m")]


def test_branches_survive_encoding():
    assert parse_manifest(encode_manifest(TREE)) == TREE
    assert b"branches" not in encode_manifest(manifest(leaf("a")))


def test_stages_in_branches_are_judged_too():
    profile = Profile(python="3.11.2", machine="x", tags=["py3-none-any"], distributions={}, opsets={"": 21})
    assert [(one.code, one.where) for one in judge(TREE, profile)] == [
        (ReasonCode.INTERPRETER, "d"),
        (ReasonCode.MODEL, "e.path"),
    ]


def deep(levels: int) -> Stage:
    stage = leaf("leaf")
    for level in range(levels):
        stage = nested(f"n{level}", stage)
    return stage


FAULTS = {
    "name twice": (manifest(leaf("a"), nested("b", leaf("a"))), "stage name 'a' is used twice", "$.stages"),
    "foreign leaf": (
        manifest(parallel("b", one=[leaf("a", target="mine:A")])),
        "mine:A is not part of the agent",
        "$.stages[0].branches.one[0].bundle",
    ),
    "leaf with branches": (
        manifest(leaf("a", branches={"x": [leaf("b")]})),
        "Standardize has branches, which only",
        "$.stages[0].branches",
    ),
    "bundle with branches": (
        manifest(leaf("a", target=PARALLEL, bundle=ref("a"), branches={"x": []})),
        "has branches, which only",
        "$.stages[0].branches",
    ),
    "container without": (manifest(leaf("a", target=PARALLEL)), "has no branches", "$.stages[0].branches"),
    "two in a pipeline": (
        manifest(leaf("a", target=PIPELINE, branches={"": [leaf("b")], "x": []})),
        'one branch, named ""',
        "$.stages[0].branches",
    ),
    "unnamed in a parallel": (
        manifest(leaf("a", target=PARALLEL, branches={"": [leaf("b")]})),
        'one branch, named ""',
        "$.stages[0].branches",
    ),
    "branch name": (manifest(parallel("a", **{"x/y": []})), "branch name 'x/y' is not", "$.stages[0].branches"),
    "too deep": (manifest(deep(STAGE_DEPTH_MAX)), "deep or deeper in others", None),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_the_place(case):
    given, words, where = FAULTS[case]
    with pytest.raises(UpdateRejected) as caught:
        parse_manifest(encode_manifest(given))
    assert [one.code for one in caught.value.reasons] == [ReasonCode.MALFORMED]
    assert words in str(caught.value)
    assert where is None or caught.value.reasons[0].where == where


def test_as_deep_as_allowed():
    assert parse_manifest(encode_manifest(manifest(deep(STAGE_DEPTH_MAX - 1))))


def test_absurd_depth_is_malformed_not_a_crash():
    head = {"name": "n", "target": PIPELINE, "fingerprint": "f"}
    text = json.dumps({**head, "target": "edge_agent.sdk.x:Y"})
    for level in range(2000):
        text = json.dumps({**head, "name": f"n{level}"})[:-1] + f', "branches": {{"": [{text}]}}}}'
    document = {"format": 1, "pipeline": "p", "stages": [], "input": {"columns": []}, "output": {"columns": []}}
    data = json.dumps(document).replace('"stages": []', f'"stages": [{text}]').encode()
    with pytest.raises(UpdateRejected) as caught:
        parse_manifest(data)
    assert caught.value.reasons[0].code in (ReasonCode.MALFORMED, ReasonCode.SIZE)
