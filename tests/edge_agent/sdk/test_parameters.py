"""Parameters keep their type through JSON, or are refused by name."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.sdk import plain
from edge_agent.sdk.parameters import decode_parameters, encode_parameters, resolve_tunable


class Mode(enum.Enum):
    FAST = 1


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Home:
    class Inner(enum.StrEnum):
        X = "x"
        ALIAS = "x"


keys = st.text(max_size=4) | st.sampled_from(["$tuple", "$bytes", "$"]) | st.integers() | st.tuples(st.integers())
parts = st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.booleans()
floats = st.floats(allow_nan=False) | st.just(math.nan)  # JSON does not know the many kinds of NaN
values = st.recursive(
    st.none() | floats | parts | st.floats(width=32).map(np.float32),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(parts, max_size=3)
        | st.frozensets(parts, max_size=3)
        | st.lists(st.floats(), max_size=3).map(np.array)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=3))
def test_every_value_comes_back_with_its_type(parameters):
    text = encode_json(encode_parameters(parameters))
    found = decode_parameters(decode_json(text, dict[str, Any]))
    assert set(found) == set(parameters)
    for name, value in parameters.items():
        assert plain.encode(found[name]) == plain.encode(value)


def test_json_says_what_it_can_by_itself():
    plain_values = {"a": 1, "b": [1.5, None, "x", True], "c": {"d": -1}}
    assert encode_parameters(plain_values) == plain_values


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ((1, 2), {"$tuple": [1, 2]}),
        (b"\x00", {"$bytes": "AA=="}),
        (math.nan, {"$float": "nan"}),
        (-math.inf, {"$float": "-inf"}),
        (2**70, {"$int": str(2**70)}),
        ({"$tuple": 1}, {"$dict": [["$tuple", 1]]}),
        ({1: 2}, {"$dict": [[1, 2]]}),
        ({"b": 1, "a": 2}, {"$dict": [["b", 1], ["a", 2]]}),
        ({3, 1, 2}, {"$set": [1, 2, 3]}),
        (np.float32(0.5), {"$scalar": ["<f4", "AAAAPw=="]}),
        (np.array([1], np.int8), {"$array": ["|i1", [1], "AQ=="]}),
        (Mode.FAST, {"$enum": f"{__name__}:Mode:FAST"}),
        ([Bits.B | Bits.A], [{"$enum": f"{__name__}:Bits:A|B"}]),
        (Bits(0), {"$enum": f"{__name__}:Bits:"}),
        (Home.Inner.ALIAS, {"$enum": f"{__name__}:Home.Inner:X"}),
    ],
)
def test_tags(value, encoded):
    assert encode_parameters({"p": value}) == {"p": encoded}


@pytest.mark.parametrize("value", [Mode.FAST, Bits.A, Bits.A | Bits.B, Bits(0), Home.Inner.X, {Mode.FAST: (Bits.B,)}])
def test_enums_come_back_as_they_were(value):
    again = decode_parameters(decode_json(encode_json(encode_parameters({"p": value})), dict[str, Any]))["p"]
    assert again == value
    assert type(again) is type(value)


def test_whoever_reads_says_where_an_enum_is():
    asked = []

    def resolve(module, name):
        asked.append((module, name))
        return Mode

    assert decode_parameters({"p": [{"$enum": "theirs:Outer.Mode:FAST"}]}, resolve) == {"p": [Mode.FAST]}
    assert asked == [("theirs", "Outer.Mode")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path("x"), r"parameter p is a \w*Path, .*files\(\)"),
        (lambda: 0, "parameter p is a function, .*code belongs into the class"),
        (object(), "parameter p is a object, .*plain values"),
        (np.array([object()]), "parameter p is a ndarray"),
        (enum.IntEnum("N", "ONE").ONE, "parameter p is <N.ONE: 1>, which cannot be shipped: an enum must stand in"),
        (Bits.A | 64, "parameter p is <Bits.A|64"),
    ],
)
def test_refused_by_name(value, message):
    with pytest.raises(TypeError, match=message):
        encode_parameters({"p": value})


def test_a_cycle_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contains itself"):
        encode_parameters({"p": loop})


@pytest.mark.parametrize(
    "value",
    [
        {"$new": 1},
        {"$bytes": "?"},
        {"$array": ["|O", [1], "AAAAAAAAAAA="]},
        {"$array": ["<f8", [2], "AA=="]},
        {"$array": 3},
        {"$int": "x"},
        {"$set": [[1]]},
        {"$enum": "nowhere.at.all:Mode:FAST"},
        {"$enum": "enum:Nothing:FAST"},
        {"$enum": "pathlib:Path:FAST"},
        {"$enum": f"{__name__}:Mode:SLOW"},
        {"$enum": "no colons"},
    ],
)
def test_damaged_parameters_are_named(value):
    with pytest.raises(ValueError, match="parameter 'p' cannot be read"):
        decode_parameters({"p": value})


STAGES = {"window": ["size", "hop"], "detect": ["threshold"], "detect-2": ["threshold"]}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("size", ("window", "size")),
        ("window.size", ("window", "size")),
        ("detect-2.threshold", ("detect-2", "threshold")),
    ],
)
def test_tunables_resolve(name, found):
    assert resolve_tunable(name, STAGES) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("threshold", "could mean detect.threshold or detect-2.threshold: write the stage too"),
        ("treshold", "'treshold' is no parameter of any stage: did you mean 'threshold'"),
        ("xyz", "there are detect-2.threshold, "),
    ],
)
def test_tunables_that_mean_nothing_are_refused_with_the_choices(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_tunable(name, STAGES)


def test_tunables_without_parameters():
    with pytest.raises(ValueError, match="there are no parameters"):
        resolve_tunable("x", {"a": []})
