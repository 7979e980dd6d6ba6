"""Whether a release fits a slot: every reason at once, in words that name the way out."""

from __future__ import annotations

import pytest

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.manifest import InputSpec, Manifest, ModelRef, OutputSpec, Stage
from edge_agent.update.admission import SPACE_RESERVE_BYTES, admit, space

PROFILE = Profile(python="3.11.2", machine="x86_64", tags=["py3-none-any"], distributions={})
SHARED, MODEL = BlobRef.of(b"x" * 1000), BlobRef.of(b"y" * 500)


def manifest(**fields: object) -> Manifest:
    stage = Stage(
        name="a",
        target="edge_agent.sdk.window:Window",
        fingerprint="f",
        state=SHARED,
        models={"path": ModelRef(blob=MODEL, name="m.onnx"), "twin": ModelRef(blob=SHARED, name="t.onnx")},
    )
    values: dict[str, object] = {
        "format": 1,
        "pipeline": "activity",
        "stages": [stage],
        "input": InputSpec(columns=["x", "y"], units={"x": "g", "y": ""}),
        "output": OutputSpec(columns=["z"]),
        "tunable": ["threshold"],
    }
    return Manifest(**{**values, **fields})  # type: ignore[arg-type]


def reasons(
    one: Manifest,
    *,
    columns: tuple[str, ...] = ("x", "y"),
    units: dict[str, str] | None = None,
    dtypes: dict[str, str] | None = None,
    tunables: tuple[str, ...] = (),
) -> list[Reason]:
    slot = one.pipeline
    return admit(one, PROFILE, slot=slot, columns=columns, units=units or {}, dtypes=dtypes or {}, tunables=tunables)


def test_what_fits_gives_no_reason() -> None:
    assert reasons(manifest(), columns=("y", "x", "spare"), units={"x": "g", "y": "m"}, tunables=("threshold",)) == []


def test_missing_columns_are_all_named_with_the_place_to_add_them() -> None:
    (found,) = reasons(manifest(), columns=("other",))
    assert found.code is ReasonCode.COLUMNS
    assert "x, y" in found.message
    assert "maps other" in found.message
    assert "[slot.activity.input.columns]" in found.message
    (found,) = reasons(manifest(), columns=())
    assert "maps none" in found.message


def test_a_unit_that_differs_is_refused_and_one_not_told_is_trusted() -> None:
    (found,) = reasons(manifest(), units={"x": "m/s2"})
    assert found.code is ReasonCode.UNITS
    assert "column x is wanted in g, this device delivers m/s2" in found.message
    assert reasons(manifest(), units={}) == []


@pytest.mark.parametrize(
    ("delivered", "wanted", "fits"),
    [
        ({}, {}, True),
        ({"x": "string"}, {"x": "string"}, True),
        ({"x": "string", "y": "vector"}, {"x": "json", "y": "json"}, True),
        ({"x": "int64"}, {}, True),
        ({}, {"x": "string"}, False),
        ({"x": "string"}, {}, False),
        ({"x": "json"}, {"x": "string"}, False),
        ({}, {"x": "int64"}, False),
    ],
)
def test_a_dtype_that_the_device_does_not_deliver_is_refused(
    delivered: dict[str, str], wanted: dict[str, str], fits: bool
) -> None:
    found = reasons(manifest(input=InputSpec(columns=["x", "y"], dtypes=wanted)), dtypes=delivered)
    assert [one.code for one in found] == ([] if fits else [ReasonCode.COLUMNS])


def test_what_to_write_for_another_dtype_is_told() -> None:
    (found,) = reasons(manifest(input=InputSpec(columns=["x"], dtypes={"x": "string"})))
    assert "column x is wanted as string (a text), this device delivers float64" in found.message
    assert 'dtype = "string" for it under [slot.activity.input.columns]' in found.message
    (found,) = reasons(manifest(input=InputSpec(columns=["q"], dtypes={"q": "string"})))
    assert "needs the columns q" in found.message  # and is not refused for its dtype as well


def test_tunables_that_the_release_does_not_have_are_refused() -> None:
    found = reasons(manifest(), tunables=("gain", "threshold", "bias"))
    assert [one.code for one in found] == [ReasonCode.PARAMETERS] * 2
    assert "'bias'" in found[0].message
    assert "(threshold)" in found[0].message
    (found_none,) = reasons(manifest(tunable=[]), tunables=("gain",))
    assert "nothing is" in found_none.message


def test_all_reasons_come_at_once_and_blame_the_release() -> None:
    bad = manifest(requires_python=">=3.12", requires=["scipy"])
    found = reasons(bad, columns=(), units={"x": "K"}, tunables=("gain",))
    assert [one.code for one in found] == [
        ReasonCode.INTERPRETER,
        ReasonCode.REQUIREMENTS,
        ReasonCode.COLUMNS,
        ReasonCode.UNITS,
        ReasonCode.PARAMETERS,
    ]
    assert {one.blame for one in found} == {Blame.RELEASE}


def test_space_counts_each_missing_blob_twice_and_once_only() -> None:
    needed = 2 * (1000 + 500)
    assert space(manifest(), present=set(), free_bytes=needed + SPACE_RESERVE_BYTES) is None
    found = space(manifest(), present=set(), free_bytes=needed + SPACE_RESERVE_BYTES - 1)
    assert found is not None
    assert (found.code, found.blame) == (ReasonCode.SPACE, Blame.ENVIRONMENT)
    assert f"needs {needed} bytes" in found.message
    assert space(manifest(), present={SHARED.digest}, free_bytes=1000 + SPACE_RESERVE_BYTES) is None


def test_a_manifest_of_another_pipeline_is_refused_on_this_slot() -> None:
    found = admit(manifest(), PROFILE, slot="other", columns=["a"], units={}, dtypes={}, tunables=[])
    assert [reason.code for reason in found if "other" in reason.message] == [ReasonCode.MALFORMED]
