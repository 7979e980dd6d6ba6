"""Windows depend on sequence numbers alone: not on batches, not on when the process was started."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.sdk.filter import apply, parameters_of
from edge_agent.sdk.frame import NANOSECONDS, Frame
from edge_agent.sdk.window import Window


def stream(numbers, seconds=None):
    numbers = np.asarray(numbers, np.int64)
    times = numbers * NANOSECONDS if seconds is None else np.asarray(seconds) * NANOSECONDS
    values = np.column_stack([numbers, -numbers]).astype(float)
    return Frame(values, np.asarray(times, np.int64), numbers, None, ("up", "down"))


def windows_of(window, frames):
    """What comes out, as one plain value: (sequence, first, timestamp, values) for each window."""
    return [
        (int(out.sequences[i]), int(out.firsts[i]), int(out.timestamps[i]), out.values[i].tolist())
        for out in (apply(window, frame) for frame in frames)
        for i in range(len(out))
    ]


def chopped(frame, cuts):
    edges = [0, *sorted(cut % (len(frame) + 1) for cut in cuts), len(frame)]
    return [frame.take(slice(*pair)) for pair in pairwise(edges)]


def test_tumbling():
    out = apply(Window(3), stream(range(7)))
    assert out.values.shape == (2, 3, 2)
    assert out.values[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert out.sequences.tolist() == [2, 5]
    assert out.firsts.tolist() == [0, 3]
    assert out.timestamps.tolist() == [2 * NANOSECONDS, 5 * NANOSECONDS]
    assert out.columns == ("up", "down")


def test_overlapping():
    out = apply(Window(4, hop=2), stream(range(8)))
    assert out.values[:, :, 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert out.firsts.tolist() == [2, 4, 6]


def test_hop_beyond_size_leaves_samples_out():
    out = apply(Window(2, hop=5), stream(range(12)))
    assert out.values[:, :, 0].tolist() == [[3, 4], [8, 9]]
    assert out.firsts.tolist() == [3, 8]


def test_nothing_yet_has_the_shape_of_windows():
    out = apply(Window(5), stream(range(3)))
    assert out.values.shape == (0, 5, 2)
    assert len(apply(Window(5), stream([]))) == 0


def test_lost_samples_move_no_boundary():
    found = windows_of(Window(3), [stream([0, 1, 3, 4, 5, 7, 8])])
    assert [(sequence, [row[0] for row in values]) for sequence, _, _, values in found] == [
        (3, [0, 1, 3]),  # the block of 0–2 is over as soon as 3 arrives
        (5, [3, 4, 5]),
        (8, [5, 7, 8]),
    ]


def test_a_gap_in_time_starts_anew():
    frame = stream(range(8), seconds=[0, 1, 2, 3, 20, 21, 22, 23])
    assert [one[0] for one in windows_of(Window(3, hop=1, max_gap=5), [frame])] == [2, 3, 6, 7]
    assert [one[0] for one in windows_of(Window(3, hop=1), [frame])] == [2, 3, 4, 5, 6, 7]
    assert [one[0] for one in windows_of(Window(3, hop=1, max_gap=5), chopped(frame, [4]))] == [2, 3, 6, 7]


def test_a_resent_sample_is_passed_over():
    assert windows_of(Window(3), [stream([0, 1, 1, 2]), stream([2, 3, 4, 5])]) == windows_of(
        Window(3), [stream(range(6))]
    )


def test_a_stream_that_begins_again_starts_anew():
    window = Window(3)
    apply(window, stream(range(10, 15)))
    assert windows_of(window, [stream(range(3))]) == windows_of(Window(3), [stream(range(3))])


def test_reset_and_initialize_forget():
    for forget in (Window.reset, Window.initialize):
        window = Window(3)
        apply(window, stream(range(2)))
        forget(window)
        assert windows_of(window, [stream([2])]) == []


def test_copies_share_no_samples_and_carry_no_state():
    window = Window(3, hop=1, max_gap=2.5)
    apply(window, stream(range(2)))
    twin = copy.deepcopy(window)
    assert parameters_of(twin) == {"size": 3, "hop": 1, "max_gap": 2.5}
    assert windows_of(twin, [stream([2])]) == []
    assert len(windows_of(window, [stream([2])])) == 1


def test_a_reused_receive_buffer_does_not_show():
    window = Window(2)
    buffer = np.array([[1.0], [0.0]])
    apply(window, Frame(buffer[:1], [0], [0]))
    buffer[:] = 99
    assert apply(window, Frame(np.array([[2.0]]), [1], [1])).values.tolist() == [[[1.0], [2.0]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a number of samples, at least 1, not 0"),
        ({"size": 2.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"size": 3, "hop": 0}, "hop must be"),
        ({"size": 3, "max_gap": 0}, "max_gap must be above 0"),
        ({"size": 3, "max_gap": float("nan")}, "max_gap must be above 0"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Window(**arguments)


def test_what_has_no_rows_and_rows_that_change_shape_are_refused():
    with pytest.raises(TypeError, match="Window needs rows, got a dict"):
        Window(2).predict({}, frame=Frame.of([[1.0]]))
    window = Window(2)
    apply(window, stream([0]))
    with pytest.raises(ValueError, match=r"holds rows of shape \(2,\), got \(3,\)"):
        apply(window, Frame.of(np.zeros((1, 3)), start=1))


def rows_of(window, *batches):
    found = [window.predict(values, frame=Frame.of(values, start=start)) for start, values in batches]
    return [(frame.values, frame.sequences.tolist(), frame.firsts.tolist()) for frame in found]


def test_rows_that_are_not_numbers_become_lists_of_rows():
    window = Window(2, 1)
    assert rows_of(window, (0, ["a"]), (1, ["b", "c"])) == [
        ([], [], []),
        ([["a", "b"], ["b", "c"]], [1, 2], [1, 2]),
    ]
    rows = [["a", {"k": [1]}], ["b", {}]]
    assert rows_of(Window(2), (0, rows)) == [([rows], [1], [0])]
    assert rows_of(Window(2), (0, [[[1], "x"], [[1, 2], "y"]]))[0][0] == [[[[1], "x"], [[1, 2], "y"]]]


def test_how_rows_that_are_not_numbers_are_cut_makes_no_difference():
    rows = [[place, {"p": place}] if place % 3 else [place, place] for place in range(20)]
    whole = rows_of(Window(4, 2), (0, rows))[0]
    window = Window(4, 2)
    pieces = rows_of(window, *((start, rows[start : start + 1]) for start in range(20)))
    assert [one for values, _, _ in pieces for one in values] == whole[0]
    assert [one for _, numbers, _ in pieces for one in numbers] == whole[1]


windows = st.builds(
    lambda size, hop, gap: {"size": size, "hop": hop, "max_gap": gap},
    st.integers(1, 6),
    st.integers(1, 8),
    st.none() | st.integers(1, 3),
)
# Steps between sequence numbers: mostly 1, sometimes lost (2…4), resent (0, -1) or begun again (-30).
steps = st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 4, 0, -1, -30]), max_size=40)
pauses = st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, 5, -4]), min_size=40, max_size=40)
cuts = st.lists(st.integers(0, 100), max_size=8)


@given(windows, steps, pauses, cuts, st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_any_chopping_gives_the_same_windows(parameters, steps, pauses, cuts, start):
    numbers = 60 + start + np.cumsum([0, *steps])
    frame = stream(np.maximum(numbers, 0), seconds=np.cumsum([0, *pauses])[: len(numbers)])
    assert windows_of(Window(**parameters), chopped(frame, cuts)) == windows_of(Window(**parameters), [frame])


@given(windows, st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 9]), min_size=40, max_size=60), pauses, cuts, st.data())
@settings(max_examples=200, deadline=None)
def test_a_second_window_warmed_with_history_agrees(parameters, steps, pauses, cuts, data):
    numbers = np.cumsum([0, *steps])
    seconds = np.cumsum(np.resize(np.abs(pauses), len(numbers)))
    frame = stream(numbers, seconds=seconds)
    history = parameters["size"] + parameters["hop"]
    now = data.draw(st.integers(history, len(frame)))
    old, fresh = Window(**parameters), Window(**parameters)
    windows_of(old, chopped(frame.take(slice(0, now)), cuts))
    windows_of(fresh, [frame.take(slice(now - history, now))])
    rest = frame.take(slice(now, None))
    assert windows_of(old, chopped(rest, cuts)) == windows_of(fresh, [rest])


@given(windows, st.integers(0, 30), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_an_unbroken_stream_agrees_with_the_definition(parameters, start, length):
    size, hop = parameters["size"], parameters["hop"]
    numbers = range(start, start + length)
    expected = [n for n in numbers if (n + 1) % hop == 0 and n - start + 1 >= size]
    found = windows_of(Window(size, hop), [stream(numbers)])
    assert [one[0] for one in found] == expected
    assert [[row[0] for row in one[3]] for one in found] == [list(range(n - size + 1, n + 1)) for n in expected]
    assert [one[1] for one in found] == [max(n - hop + 1, n - size + 1) for n in expected]
