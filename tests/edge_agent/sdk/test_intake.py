"""What enters a pipeline fits its columns, or is refused with both."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.contract.manifest import InputSpec
from edge_agent.sdk.frame import Frame
from edge_agent.sdk.intake import read_self_test, to_frame
from edge_agent.sdk.pipeline import Input, Pipeline
from edge_agent.sdk.place import NAMESPACE_PREFIX

SPEC = InputSpec(columns=["x", "y"], rate_hz=10)


class Table:
    """As much of a pandas DataFrame as matters."""

    def __init__(self, columns):
        self.columns = columns

    def __getitem__(self, names):
        return Table({name: self.columns[name] for name in names})

    def to_numpy(self):
        return np.column_stack([*self.columns.values()])


class TypedTable(Table):
    """The same with columns of any objects."""

    def __getitem__(self, name):
        column = np.empty(len(self.columns[name]), object)
        column[:] = self.columns[name]
        return column


def test_arrays_get_columns_rate_and_a_copy():
    given = np.zeros((3, 2))
    frame = to_frame(given, SPEC, "p")
    assert frame.columns == ("x", "y")
    assert frame.timestamps.tolist() == [0, 100_000_000, 200_000_000]
    assert not np.shares_memory(frame.values, given)
    assert to_frame(frame, SPEC, "p") is frame


def test_tables_are_read_by_name():
    frame = to_frame(Table({"y": [2, 4], "other": [0, 0], "x": [1, 3]}), SPEC, "p")
    assert frame.values.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="pipeline 'p' takes the column 'x', which the table does not have"):
        to_frame(Table({"y": [2, 4]}), SPEC, "p")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 3)), r"pipeline 'p' takes rows of 2 columns \(x, y\), got shape \(4, 3\)$"),
        (np.zeros(2), r"got shape \(2,\): for a single row write x\[None, :\]"),
        (np.zeros(5), r"got shape \(5,\)$"),
    ],
)
def test_other_shapes_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        to_frame(x, SPEC, "p")


def test_windows_and_lists_of_anything_pass():
    assert len(to_frame(np.zeros((4, 10, 2)), SPEC, "p")) == 4
    assert to_frame([{"x": 1}], SPEC, "p").values == [{"x": 1}]
    assert to_frame(np.zeros((4, 7)), InputSpec(columns=[]), "p").values.shape == (4, 7)


def test_a_csv_file_is_read_by_its_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\ufefftime,y,x\n0,2,1\n1,4.5,3\n", encoding="utf-8")
    frame = read_self_test(str(path), SPEC, "p")
    assert frame.values.tolist() == [[1, 2], [3, 4.5]]
    assert read_self_test(path, InputSpec(columns=[]), "p").values.shape == (2, 3)
    assert Pipeline("p", input=Input(["y"]), self_test=path).self_test.values.tolist() == [[2], [4.5]]


def test_a_csv_path_is_relative_to_the_author_s_file(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    source = tmp_path / "authors_own.py"
    source.write_text(
        "from edge_agent import Pipeline, Input\np = Pipeline('p', input=Input(['x', 'y']), self_test='rows.csv')\n"
    )
    space = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    assert space["p"].self_test.values.tolist() == [[1, 2]]


def test_on_a_device_the_author_s_files_may_be_missing(tmp_path):
    source = tmp_path / "authors_own.py"
    source.write_text(
        "from edge_agent import OnnxModel, Pipeline\n"
        "p = Pipeline('p', [OnnxModel('model.onnx')], self_test='rows.csv')\n"
    )
    code = compile(source.read_text(), str(source), "exec")
    space = {"__name__": f"{NAMESPACE_PREFIX}1.authors_own"}
    exec(code, space)
    assert space["p"].self_test is None
    with pytest.raises(FileNotFoundError, match=r"OnnxModel: there is no file 'model.onnx'"):
        exec(code, {"__name__": "authors_own"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,z\n1,2\n", "self_test: rows.csv has no column 'y' in its first line"),
        ("x,y\n1,2\n3,abc\n", "self_test: rows.csv, line 3: .*'abc'"),
        ("x,y\n1\n", "self_test: rows.csv, line 2"),
        ("x,y\n", "self_test: rows.csv has no rows"),
        ("", "has no column 'x'"),
    ],
)
def test_csv_faults_are_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_self_test(path, SPEC, "p")


def test_other_self_tests():
    assert read_self_test([[1, 2]], SPEC, "p").columns == ("x", "y")
    frame = Frame.of([[1, 2]])
    assert read_self_test(frame, SPEC, "p") is frame
    with pytest.raises(FileNotFoundError, match=r"self_test: there is no file 'gone.csv'"):
        read_self_test("gone.csv", SPEC, "p")


@pytest.mark.parametrize("x", [["a", "b"], [["a"], ["b"]], np.array(["a", "b"]), np.array([["a"], ["b"]], object)])
def test_texts_of_one_column_are_bare(x):
    frame = to_frame(x, InputSpec(columns=["text"]), "p")
    assert frame.values == ["a", "b"]
    assert frame.columns == ("text",)


def test_rows_that_are_not_numbers_have_a_cell_for_each_column():
    spec = InputSpec(columns=["name", "count"])
    assert to_frame([["a", 1], ("b", 2)], spec, "p").values == [["a", 1], ("b", 2)]
    assert to_frame([{"name": "a"}], spec, "p").values == [{"name": "a"}]
    with pytest.raises(ValueError, match=r"takes rows of 2 columns \(name, count\), row 1 has 3"):
        to_frame([["a", 1], ["b", 2, 3]], spec, "p")


TYPED = Input(["name", "n", "v", "e"], dtype={"name": "string", "n": "int64", "v": "vector", "e": "json"}).spec()
ROW = ["a", 1, [1, 2], {"k": None}]


@pytest.mark.parametrize(
    "x",
    [
        [ROW],
        (tuple(ROW),),
        [dict(zip(TYPED.columns, ROW, strict=True)) | {"more": 1}],
        [["a", np.int64(1), np.array([1, 2]), {"k": None}]],
        TypedTable({"e": [{"k": None}], "v": [[1, 2]], "n": [1], "name": ["a"]}),
    ],
)
def test_rows_of_dtypes_in_every_form(x):
    frame = to_frame(x, TYPED, "p")
    ((name, n, v, e),) = frame.values
    assert (name, n, v.tolist(), v.dtype, e) == ("a", 1, [1.0, 2.0], np.float64, {"k": None})
    assert frame.columns == ("name", "n", "v", "e")


@pytest.mark.parametrize(
    ("dtype", "x", "expected"),
    [
        ("int64", [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        ("int64", np.array([[1, 2], [3, 4]], np.int16), np.array([[1, 2], [3, 4]])),
        ("bool", [[True, False]], np.array([[True, False]])),
        ({"a": "int64"}, [[1, 2]], [[1, 2.0]]),
        ("string", [["x", "y"]], [["x", "y"]]),
        ("json", [[{"a": 1}, "x"]], [[{"a": 1}, "x"]]),
    ],
)
def test_the_declared_dtypes_alone_decide_the_form_of_rows(dtype, x, expected):
    values = to_frame(x, Input(["a", "b"], dtype=dtype).spec(), "p").values
    assert type(values) is type(expected)
    if isinstance(values, np.ndarray):
        assert values.dtype == expected.dtype
        assert values.tolist() == expected.tolist()
    else:
        assert values == expected
        assert [[type(cell) for cell in row] for row in values] == [[type(cell) for cell in row] for row in expected]


@pytest.mark.parametrize(
    ("dtype", "x", "expected"),
    [
        ("string", ["x"], ["x"]),
        ("string", [["x"]], ["x"]),
        ("json", [{"a": 1}], [[{"a": 1}]]),
        ("json", [{"c": {"c": 2}}], [[{"c": 2}]]),  # a dict with all columns is a row by name
        ("json", [[[1]]], [[[1]]]),
        ("json", ["x", 5], [["x"], [5]]),
        ("vector", [[1, 2]], [[[1.0, 2.0]]]),
        ("vector", np.array([[1, 2], [3, 4]]), [[[1.0, 2.0]], [[3.0, 4.0]]]),
        ("vector", [[[1, 2]]], [[[1.0, 2.0]]]),
    ],
)
def test_an_only_column_may_be_given_bare(dtype, x, expected):
    values = to_frame(x, Input(["c"], dtype=dtype).spec(), "p").values
    assert [[cell.tolist() for cell in row] for row in values] == expected if dtype == "vector" else values == expected


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([["a", 1.5, [], {}]], ValueError, "pipeline 'p', row 0, column 'n': 1.5 is not a whole number"),
        ([ROW, ["a", 1, ["x"], {}]], ValueError, "row 1, column 'v': 'x' at place 0 is not a number"),
        ([["a", 1]], ValueError, r"takes rows of 4 columns \(name, n, v, e\), row 0 has 2"),
        (["a"], ValueError, "row 0 has 1"),
        (TypedTable({"name": ["a"]}), ValueError, "takes the column 'n', which the table does not have"),
        ("abc", TypeError, "takes an array or a list of rows, not a str"),
        (np.array(5), TypeError, "not a ndarray"),
    ],
)
def test_rows_that_do_not_fit_their_dtypes_are_named(x, error, message):
    with pytest.raises(error, match=message):
        to_frame(x, TYPED, "p")


def test_giving_rows_changes_nothing_of_the_callers():
    row = ["a", 1, [1, 2], {"k": None}]
    to_frame([row], TYPED, "p")
    assert row == ["a", 1, [1, 2], {"k": None}]


def test_a_self_test_in_a_file_has_cells_of_every_dtype(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('n,name,v,e\n1,a,"[1, 2]","{""k"": null}"\n')
    assert read_self_test(path, TYPED, "p").values[0][3] == {"k": None}
    path.write_text("n,name,v,e\nx,a,[1],{}\n")
    with pytest.raises(ValueError, match=r"self_test: rows.csv, line 2: 'x' is not a whole number"):
        read_self_test(path, TYPED, "p")
    path.write_text("n,name,v,e\n1,a\n")
    with pytest.raises(ValueError, match=r"self_test: rows.csv, line 2"):
        read_self_test(path, TYPED, "p")
