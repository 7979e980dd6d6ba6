"""Rules by which branches are joined."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.sdk.frame import Frame
from edge_agent.sdk.join import JOINS, Part, join_parts

A = Frame.of([[1.0, 5.0], [2.0, 6.0]], columns=("x", "y"))
B = A.with_values(np.array([[3.0, 7.0], [2.0, 0.0]]))
C = A.with_values(np.array([[5.0, 7.0], [4.0, 0.0]]))

RULES = {
    "columns": [[1, 5, 3, 7, 5, 7], [2, 6, 2, 0, 4, 0]],
    "first": [[1, 5], [2, 6]],
    "mean": [[3, 19 / 3], [8 / 3, 2]],
    "median": [[3, 7], [2, 0]],
    "sum": [[9, 19], [8, 6]],
    "min": [[1, 5], [2, 0]],
    "max": [[5, 7], [4, 6]],
    "vote": [[1, 7], [2, 0]],
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_on_numbers(rule):
    joined = join_parts(rule, [Part("a", A), Part("b", B), Part("c", C)])
    np.testing.assert_allclose(joined.values, RULES[rule])
    assert joined.sequences.tolist() == [0, 1]
    assert joined.columns == (("a.x", "a.y", "b.x", "b.y", "c.x", "c.y") if rule == "columns" else ("x", "y"))


def test_every_rule_is_tried_here():
    assert {*RULES, "dict"} == set(JOINS)


def test_dict_keeps_each_branch_apart():
    joined = join_parts("dict", [Part("a", A), Part("b", A.with_values(["u", "v"]))])
    assert [row["b"] for row in joined.values] == ["u", "v"]
    assert joined.values[1]["a"].tolist() == [2, 6]


def test_columns_of_text_and_numbers_become_lists():
    words = A.with_values(["u", "v"], ("word",))
    joined = join_parts("columns", [Part("a", A), Part("b", words), Part("c", A.with_values(np.array(["p", "q"])))])
    assert joined.values == [[1, 5, "u", "p"], [2, 6, "v", "q"]]
    assert joined.columns == ("x", "y", "word", "c")


def test_unnamed_columns_are_called_after_their_branch():
    flat, wide = A.with_values(np.zeros(2)), A.with_values(np.zeros((2, 3)))
    joined = join_parts("columns", [Part("flat", flat), Part("wide", wide), Part("x", A)])
    assert joined.columns == ("flat", "wide.0", "wide.1", "wide.2", "x", "y")


def test_windows_are_joined_along_columns():
    windows = A.with_values(np.zeros((2, 4, 3)))
    assert join_parts("columns", [Part("a", windows), Part("b", windows)]).values.shape == (2, 4, 6)


def test_vote_of_labels_and_of_whole_numbers():
    def labels(*words):
        return A.with_values([[word] for word in words])

    joined = join_parts("vote", [Part("a", labels("u", "v")), Part("b", labels("w", "w")), Part("c", labels("u", "w"))])
    assert joined.values == [["u"], ["w"]]
    whole = join_parts("vote", [Part("a", A.with_values(np.array([1, 2]))), Part("b", A.with_values(np.array([1, 3])))])
    assert whole.values.dtype == np.int64
    assert whole.values.tolist() == [[1], [2]]


def test_rows_meet_by_their_numbers():
    late = Frame(np.array([[9.0], [8.0]]), [30, 20], [3, 2], [2, 1])
    early = Frame(np.array([[1.0], [2.0], [3.0]]), [10, 20, 30], [1, 2, 3])
    joined = join_parts("columns", [Part("a", early), Part("b", late)])
    assert joined.values.tolist() == [[2, 8], [3, 9]]
    assert joined.sequences.tolist() == [2, 3]
    assert joined.firsts.tolist() == [1, 2]
    assert joined.timestamps.tolist() == [20, 30]


def test_first_fills_what_an_earlier_branch_has_not():
    early = Frame(np.array([[1.0], [3.0]]), [10, 30], [1, 3])
    other = Frame(np.array([[20.0], [30.0]]), [20, 30], [2, 3])
    nothing = early.take(slice(0, 0))
    joined = join_parts("first", [Part("a", early), Part("none", nothing), Part("b", other)])
    assert joined.values.tolist() == [[1], [20], [3]]
    assert joined.timestamps.tolist() == [10, 20, 30]
    words = other.with_values(["p", "q"])
    assert join_parts("first", [Part("a", early), Part("b", words)]).values == [[1.0], "p", [3.0]]
    assert join_parts("first", [Part("a", nothing), Part("b", other)]).values.tolist() == [[20], [30]]
    assert len(join_parts("first", [Part("a", nothing), Part("b", nothing)])) == 0


@pytest.mark.parametrize("rule", sorted(JOINS))
def test_nothing_yet_joins_to_nothing(rule):
    nothing = A.take(slice(0, 0))
    assert len(join_parts(rule, [Part("a", nothing), Part("b", nothing.with_values(np.empty((0, 2))))])) == 0


FAULTS = {
    "mean of text": ("mean", A.with_values(["u", "v"]), "branch 'b' gives no array of numbers"),
    "mean of widths": (
        "mean",
        A.with_values(np.zeros((2, 3))),
        r"branch 'b' gives shape \(2, 3\), branch 'a' \(2, 2\)",
    ),
    "vote of widths": ("vote", A.with_values(np.zeros((2, 3))), "rows of other lengths"),
    "rows of one sample": (
        "columns",
        Frame(np.zeros(2), [0, 0], [1, 1]),
        "branch 'b' gives several rows of one sample",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit_names_the_branch(case):
    rule, other, words = FAULTS[case]
    with pytest.raises(ValueError, match=words):
        join_parts(rule, [Part("a", A), Part("b", other)])
