"""OnnxModel with a real onnxruntime: shapes, types, several outputs, classifier maps."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.contract.errors import AuthorError
from edge_agent.sdk import state
from edge_agent.sdk.filter import apply, construct, parameters_of
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.onnx_model import OnnxModel

FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
WEIGHTS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)


def save(path, nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8
    )
    onnx.save(model, path)
    return path


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def identity(path, kind=FLOAT, shape=(None, 3), out=None):
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path / "identity.onnx", [node], [info("x", kind, shape)], [info("y", kind, out or shape)])


@pytest.fixture
def linear(tmp_path):
    constant = helper.make_tensor("w", FLOAT, [3, 2], WEIGHTS.ravel())
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return save(
        tmp_path / "linear.onnx", [node], [info("x", FLOAT, [None, 3])], [info("y", FLOAT, [None, 2])], [constant]
    )


def classifier(path, labels):
    """What skl2onnx makes of a LogisticRegression by default: label and a list of maps."""
    text = isinstance(labels[0], str)
    names = {"classlabels_strings": labels} if text else {"classlabels_ints": labels}
    zipped = {"classlabels_strings": labels} if text else {"classlabels_int64s": labels}
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "p"],
            domain="ai.onnx.ml",
            coefficients=[5.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 5.0],
            intercepts=[0.0, 0.0, 0.0],
            multi_class=1,
            post_transform="SOFTMAX",
            **names,
        ),
        helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", **zipped),
    ]
    kind = STRING if text else INT64
    mapped = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(FLOAT, []))
    outputs = [
        info("label", kind, [None]),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(mapped)),
    ]
    return save(path / "classifier.onnx", nodes, [info("x", FLOAT, [None, 3])], outputs)


def run(path, x, **options):
    return apply(OnnxModel(path, **options), x if isinstance(x, Frame) else Frame.of(x)).values


def test_float64_rows_run_through_a_float32_model(linear):
    x = np.arange(6.0).reshape(2, 3)
    found = run(linear, x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x @ WEIGHTS)
    np.testing.assert_allclose(run(linear, x.tolist()), x @ WEIGHTS)


def test_integer_labels_stand_before_the_probabilities_of_sorted_classes(tmp_path):
    found = run(classifier(tmp_path, [20, 3, 10]), np.eye(3))
    assert found[:, 0].tolist() == [20, 3, 10]
    # columns: label, p(3), p(10), p(20)
    assert np.argmax(found[:, 1:], axis=1).tolist() == [2, 0, 1]
    np.testing.assert_allclose(found[:, 1:].sum(axis=1), 1, rtol=1e-6)


def test_text_labels_make_rows_of_mixed_type(tmp_path):
    found = run(classifier(tmp_path, ["walk", "run", "stand"]), np.eye(3))
    assert [row[0] for row in found] == ["walk", "run", "stand"]
    assert [int(np.argmax(row[1:])) for row in found] == [2, 0, 1]
    assert {type(cell) for row in found for cell in row} == {str, float}


def test_outputs_can_be_chosen(tmp_path):
    path = classifier(tmp_path, ["walk", "run", "stand"])
    assert run(path, np.eye(3), outputs=["probabilities"]).shape == (3, 3)
    assert run(path, np.eye(3), outputs=["label"]) == [["walk"], ["run"], ["stand"]]
    with pytest.raises(ValueError, match=r"classifier.onnx has no output 'nothing'; it has label, probabilities"):
        run(path, np.eye(3), outputs=["nothing"])


def test_an_output_without_one_value_for_each_row_is_refused(tmp_path):
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    path = save(tmp_path / "sum.onnx", [node], [info("x", FLOAT, [None, 3])], [info("y", FLOAT, [])])
    with pytest.raises(ValueError, match=r"model output 'y' is \[\] for 2 rows, not one for each: .*outputs="):
        run(path, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("wanted", "given", "arrives"),
    [
        ([None, 3], (4, 3), (4, 3)),
        ([None, 6], (4, 2, 3), (4, 6)),
        ([None, 1, 3], (4, 3), (4, 1, 3)),
        ([None, 2, 3], (4, 6), (4, 2, 3)),
        ([None, 2, None], (4, 6), (4, 2, 3)),
        ([None, None, None], (4, 2, 3), (4, 2, 3)),
        ([None, None, 3], (4, 3), (4, 1, 3)),
        ([None, 1, 2, 3], (4, 2, 3), (4, 1, 2, 3)),
        (["N"], (4, 1), (4, 1)),
        (None, (4, 3), (4, 3)),
    ],
)
def test_rows_are_flattened_or_given_axes_of_one(tmp_path, wanted, given, arrives):
    x = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    found = run(identity(tmp_path, shape=wanted), x)
    assert found.shape == arrives
    assert found.ravel().tolist() == x.ravel().tolist()


@pytest.mark.parametrize(
    ("wanted", "given", "message"),
    [
        ([None, 3], (4, 2), r"'x' wants rows of shape \[3\], got \[2\]"),
        ([None, 3, 2], (4, 2, 3), r"wants rows of shape \[3, 2\], got \[2, 3\]: transpose"),
        ([None, 4, 3], (4, 2, 6), r"wants rows of shape \[4, 3\]"),
        ([None, 4, None], (4, 6), r"wants rows of shape \[4, any\], got \[6\]"),
    ],
)
def test_axes_are_never_swapped_nor_rows_cut(tmp_path, wanted, given, message):
    with pytest.raises(ValueError, match=message):
        run(identity(tmp_path, shape=wanted), np.zeros(given))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_a_fixed_batch_size_is_served_piece_by_piece(tmp_path, rows):
    x = np.arange(rows * 3.0).reshape(rows, 3)
    np.testing.assert_array_equal(run(identity(tmp_path, shape=(2, 3)), x), x)


def test_a_fixed_batch_size_with_mixed_rows(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    inputs, outputs = [info("x", STRING, [1, 2])], [info("y", STRING, [1, 2]), info("z", STRING, [1, 2])]
    path = save(tmp_path / "text.onnx", nodes, inputs, outputs)
    assert run(path, Frame.of([["a", "b"], ["c", "d"]])) == [["a", "b"] * 2, ["c", "d"] * 2]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (DOUBLE, np.float64),
        (INT64, np.int64),
        (TensorProto.INT32, np.int32),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
        (TensorProto.FLOAT16, np.float16),
    ],
)
def test_rows_become_the_model_s_type(tmp_path, kind, dtype):
    found = run(identity(tmp_path, kind), np.array([[0.0, 1.0, 1.0]]))
    assert found.dtype == dtype
    assert found.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("cell", [0.5, np.nan])
def test_fractions_are_not_cut_off(tmp_path, cell):
    with pytest.raises(ValueError, match=r"'x' is a tensor\(int64\), but the rows hold fractions or NaN: round first"):
        run(identity(tmp_path, INT64), np.array([[cell, 1.0, 2.0]]))


def test_rows_that_are_no_numbers_are_refused(linear):
    with pytest.raises(ValueError, match=r"'x' is a tensor\(float\), but the rows hold <U1"):
        run(linear, Frame.of([["a", "b", "c"]]))


def test_an_input_that_rows_cannot_become_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'x' is a tensor\(complex64\)|tensor\(bfloat16\)"):
        run(identity(tmp_path, TensorProto.BFLOAT16), np.zeros((1, 3)))


def test_one_input_for_each_column(tmp_path):
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    inputs = [info("a", FLOAT, [None, 1]), info("b", FLOAT, [None, 1])]
    path = save(tmp_path / "two.onnx", nodes, inputs, [info("y", FLOAT, [None, 1])])
    x = np.array([[5.0, 2.0], [7.0, 1.0]])
    assert run(path, x).tolist() == [[3], [6]]
    assert run(path, Frame.of(x, columns=["b", "a"])).tolist() == [[-3], [-6]]
    with pytest.raises(ValueError, match=r"two.onnx has 2 inputs \(a, b\): give it one column for each, not \(3,\)"):
        run(path, np.zeros((2, 3)))


def test_several_arrays_stand_side_by_side(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("ArgMax", ["x"], ["z"], axis=1, keepdims=0)]
    outputs = [info("y", FLOAT, [None, 3]), info("z", INT64, [None])]
    path = save(tmp_path / "pair.onnx", nodes, [info("x", FLOAT, [None, 3])], outputs)
    assert run(path, np.eye(3)[:2]).tolist() == [[1, 0, 0, 0], [0, 1, 0, 1]]


def test_an_image_like_output_keeps_its_shape(tmp_path):
    assert run(identity(tmp_path, shape=(None, 2, 3)), np.zeros((4, 2, 3))).shape == (4, 2, 3)


# --- files, state and life --------------------------------------------------------------------------------------------


def test_the_path_is_relative_to_the_file_that_constructs_the_model(tmp_path, linear):
    source = tmp_path / "authors_own.py"
    source.write_text("from edge_agent import OnnxModel\nmodel = OnnxModel('linear.onnx')\n")
    space = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    assert space["model"].path == str(linear)
    assert space["model"].files() == {"path": linear}


def test_a_missing_file_is_named_with_the_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"OnnxModel: there is no file 'gone.onnx' \(relative to .*sdk\)"):
        OnnxModel("gone.onnx")
    with pytest.raises(FileNotFoundError, match=r"there is no file '/gone.onnx'$"):
        OnnxModel("/gone.onnx")


def test_parameters_and_no_state(linear):
    model = OnnxModel(linear, threads=2, outputs=("y",))
    model.initialize()
    expected = {"path": str(linear), "outputs": ["y"], "providers": ["CPUExecutionProvider"], "threads": 2}
    assert parameters_of(model) == expected
    assert parameters_of(construct(OnnxModel, expected)) == expected
    assert state.capture(model) is None


def test_a_subclass_with_state_of_its_own(linear):
    class Thresholded(OnnxModel):
        def fit(self, x, y=None):
            self.threshold = 3.0

    model = Thresholded(linear)
    model.initialize()
    model.fit(None)
    fresh = Thresholded(linear)
    state.restore(fresh, state.capture(model))
    assert fresh.threshold == 3.0
    assert run(linear, np.eye(3)).shape == (3, 2)


def test_copies_do_not_share_the_session(linear):
    model = OnnxModel(linear)
    model.initialize()
    twin = copy.deepcopy(model)
    model.cleanup()
    assert apply(twin, Frame.of(np.eye(3))).values.tolist() == WEIGHTS.tolist()
    assert apply(model, Frame.of(np.eye(3))).values.tolist() == WEIGHTS.tolist()


def test_a_missing_provider_is_named(linear):
    with pytest.raises(RuntimeError, match=r"linear.onnx wants one of TensorrtExecutionProvider; here are .*CPU"):
        OnnxModel(linear, providers=["TensorrtExecutionProvider"]).initialize()
    OnnxModel(linear, providers=["TensorrtExecutionProvider", "CPUExecutionProvider"]).initialize()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": "y"}, TypeError, r"outputs must be a list of names: write outputs=\['y'\]"),
        ({"providers": "CPU"}, TypeError, "providers must be a list"),
        ({"threads": 0}, ValueError, "threads must be at least 1, not 0"),
        ({"threads": True}, ValueError, "threads must be at least 1"),
    ],
)
def test_misuse(linear, options, error, message):
    with pytest.raises(error, match=message):
        OnnxModel(linear, **options)


def test_misuse_is_no_fieldcast_error():
    assert not issubclass(FileNotFoundError, AuthorError)
