"""What is read of an ONNX file agrees with what the `onnx` package wrote."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from publisher.packing.onnx_header import Header, read_header


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
    assert read_header(model(given).SerializeToString()) == Header(expected)


def elsewhere(tensor: TensorProto, location: str | None) -> TensorProto:
    """Say that a tensor's weights lie in another file; None leaves the file's name out."""
    tensor.data_location = TensorProto.EXTERNAL
    if location is not None:
        for key, value in (("location", location), ("offset", "0"), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
    return tensor


def test_files_of_weights_are_found_wherever_tensors_are() -> None:
    def weights(name: str) -> TensorProto:
        return elsewhere(helper.make_tensor("", TensorProto.FLOAT, [1], [1.0]), name)

    split = model({"": 17})
    elsewhere(split.graph.initializer[0], "weights/a.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=weights("c.bin"))], "inner", [], [])
    inner.initializer.append(weights("./b.bin"))
    inner.sparse_initializer.add(values=weights("d.bin"), indices=weights("e.bin"), dims=[1])
    split.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    body = [helper.make_node("Constant", [], ["y"], value=weights("f.bin"))]
    split.functions.append(helper.make_function("d", "F", [], ["y"], body, [helper.make_opsetid("", 17)]))
    names = ("b.bin", "c.bin", "d.bin", "e.bin", "f.bin", "weights/a.bin")
    assert read_header(split.SerializeToString()) == Header({"": 17}, names)


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "a/../../w.bin",
        "/etc/passwd",
        "",
        None,
        ".",
        "a//b",
        "a/",
        "a/b/c/d/e",
        "nul\0l",
        "*/_ORT_MEM_ADDR_/*/..",
    ],
)
def test_weights_outside_the_models_directory_are_refused_by_name(location: str | None) -> None:
    split = model({"": 17})
    elsewhere(split.graph.initializer[0], location)
    with pytest.raises(ValueError, match=r"keeps its weights \(w\) in .*its own directory.*save_as_external_data=True"):
        read_header(split.SerializeToString())


def test_weights_in_too_many_files_are_refused() -> None:
    split = model({"": 17})
    for number in range(65):
        split.graph.initializer.append(elsewhere(helper.make_tensor("", TensorProto.FLOAT, [1], [1.0]), f"{number}"))
    with pytest.raises(ValueError, match="in 65 files, 64 at the most"):
        read_header(split.SerializeToString())


def test_graphs_in_graphs_without_end_are_refused() -> None:
    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number << 3 | 2, size & 127 | 128, size >> 7]) + content

    graph = b""
    for _ in range(30):  # each a graph in an attribute of a node
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ValueError, match="more than 64 deep"):
        read_header(b"\x08\x08" + field(7, graph))


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
        read_header(NO_MODELS[case])


def test_fixed_width_fields_of_later_versions_are_passed_over() -> None:
    later = b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    assert read_header(model({"": 17}).SerializeToString() + later) == Header({"": 17})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_value_error(data: bytes) -> None:
    try:
        found = read_header(data).opsets
    except ValueError:
        return
    assert found


def test_every_truncation_is_refused_or_loses_nothing_that_was_read() -> None:
    whole = model({"": 17}).SerializeToString()
    for length in range(len(whole)):
        try:
            assert read_header(whole[:length]).opsets == {"": 17}
        except ValueError as error:
            assert "ONNX" in str(error) or "utf" in str(error)  # noqa: PT017 - either outcome is right
