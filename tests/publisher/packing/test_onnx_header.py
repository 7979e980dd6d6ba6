"""What is read of an ONNX file agrees with what the `onnx` package wrote."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from publisher.packing.onnx_header import read_opsets


def model(opsets: dict[str, int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*pair) for pair in opsets.items()])


MODELS = {
    "plain": ({"": 17}, {"": 17}),
    "two domains": ({"": 18, "ai.onnx.ml": 3}, {"": 18, "ai.onnx.ml": 3}),
    "the other spelling of the default": ({"ai.onnx": 20}, {"": 20}),
    "both spellings": ({"": 12, "ai.onnx": 20}, {"": 20}),
    "large version": ({"com.example": 2**40}, {"com.example": 2**40}),
}


@pytest.mark.parametrize("case", MODELS)
def test_operator_sets_are_read(case: str) -> None:
    given, expected = MODELS[case]
    assert read_opsets(model(given).SerializeToString()) == expected


def test_weights_in_another_file_are_refused_by_name() -> None:
    split = model({"": 17})
    split.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ValueError, match=r"weights \(w\) lie in another file.*save_as_external_data=False"):
        read_opsets(split.SerializeToString())


NO_MODELS = {
    "nothing": b"",
    "text": b"this is a text file, not a model",
    "no version": model({"": 17}).SerializeToString()[2:],
    "no operator sets": b"\x08\x08",
    "number too long": b"\x08" + b"\xff" * 11,
    "length beyond the end": b"\x08\x08\x3a\xff\x01",
    "fixed width beyond the end": b"\x08\x08\x39\x00",
    "field zero": b"\x02\x00",
    "group": b"\x08\x08\x0b",
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match="not an ONNX model"):
        read_opsets(NO_MODELS[case])


def test_fixed_width_fields_of_later_versions_are_passed_over() -> None:
    later = b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    assert read_opsets(model({"": 17}).SerializeToString() + later) == {"": 17}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_value_error(data: bytes) -> None:
    try:
        found = read_opsets(data)
    except ValueError:
        return
    assert found


def test_every_truncation_is_refused_or_loses_nothing_that_was_read() -> None:
    whole = model({"": 17}).SerializeToString()
    for length in range(len(whole)):
        try:
            assert read_opsets(whole[:length]) == {"": 17}
        except ValueError as error:
            assert "ONNX" in str(error) or "utf" in str(error)  # noqa: PT017 - either outcome is right
