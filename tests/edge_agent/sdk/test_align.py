"""Align gives what a slow and obvious reading of its rules gives, however the rows were cut into batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import Align, Filter, Input, Output, Parallel, Pipeline, Window
from edge_agent.sdk import selftest
from edge_agent.sdk.filter import apply, parameters_of
from edge_agent.sdk.frame import NANOSECONDS, Frame

NAN = float("nan")
MS = 1_000_000
EPOCH_MS = 1_700_000_000_000  # a whole second
Row = tuple[int, list[float]]
Given = tuple[int, int, int, list[float]]


def stream(rows: Sequence[Row], start: int = 0, numbers: Sequence[int] | None = None) -> Frame:
    """Return rows of (milliseconds, values) as a frame."""
    width = len(rows[0][1]) if rows else 2
    values = np.array([row for _, row in rows], float).reshape(len(rows), width)
    counted = list(range(start, start + len(rows))) if numbers is None else numbers
    times = np.array([(EPOCH_MS + time) * MS for time, _ in rows], np.int64)
    return Frame(values, times, np.array(counted, np.int64), None, tuple("abcdefgh"[:width]))


def rows_of(align: Align, *frames: Frame) -> list[Given]:
    """What comes out, as plain values: milliseconds, sequence, first, values."""
    return [
        (int(out.timestamps[i]) // MS - EPOCH_MS, int(out.sequences[i]), int(out.firsts[i]), out.values[i].tolist())
        for out in (apply(align, frame) for frame in frames)
        for i in range(len(out))
    ]


def chopped(frame: Frame, cuts: Sequence[int]) -> list[Frame]:
    edges = [0, *sorted(cut % (len(frame) + 1) for cut in cuts), len(frame)]
    return [frame.take(slice(*pair)) for pair in pairwise(edges)]


def obvious(rows: Sequence[Row], period: int, tolerance: int) -> list[Given]:
    """The rules, sample by sample, in milliseconds; for numbers that rise."""
    held: dict[int, tuple[int, float]] = {}
    front = passed = mark = None
    behind: int | None = None
    found: list[Given] = []
    for number, (time, values) in enumerate(rows):
        if front is not None and time < front - tolerance:
            behind = time if behind is None else min(time, behind)
            if time - behind <= tolerance:
                continue
            front = None
        behind = None
        if front is None:
            held, front, passed, mark = {}, time, (time - 1) // period, number - 1
        assert passed is not None
        assert mark is not None
        now: list[tuple[int, list[float]]] = []
        place = passed + 1
        while place * period < time and held and place * period < time:
            at = place * period
            if len(held) == len(values) and all(stamp >= at - tolerance for stamp, _ in held.values()):
                now.append((at, [held[column][1] for column in range(len(values))]))
            elif at > front + tolerance:
                break
            place += 1
        last = max(passed, (time - 1) // period)
        for column, value in enumerate(values):
            if not np.isnan(value) and time >= held.get(column, (-(10**18), 0.0))[0]:
                held[column] = (time, value)
        front = max(front, time)
        whole = len(held) == len(values) and all(stamp == front for stamp, _ in held.values())
        if whole and not front % period and front // period > last:
            last = front // period
            now.append((front, [held[column][1] for column in range(len(values))]))
        numbered = [(number - len(now) + 1 + at, *one) for at, one in enumerate(now)]
        kept = [one for one in numbered if one[0] > mark]
        for at, (sequence, when, cells) in enumerate(kept):
            found.append((when, sequence, mark + 1 if at == 0 else sequence, cells))
        if last > passed:
            passed, mark = last, number
    return found


def test_two_rates_meet_on_the_grid() -> None:
    fast = [(10 * n + 3, [float(n), NAN]) for n in range(12)]
    slow = [(50 * n + 1, [NAN, 100.0 + n]) for n in range(3)]
    found = rows_of(Align(20, 0.1), stream(sorted(fast + slow, key=lambda row: row[0])))
    assert found == [(50, 6, 0, [4.0, 100.0]), (100, 12, 7, [9.0, 101.0])]


def test_a_grid_time_is_told_at_once_when_every_column_has_a_value_of_that_time() -> None:
    rows = [(0, [1.0, NAN]), (0, [NAN, 2.0]), (1000, [3.0, NAN]), (1000, [NAN, 4.0])]
    assert rows_of(Align(1, 0.5), stream(rows)) == [(0, 1, 0, [1.0, 2.0]), (1000, 3, 2, [3.0, 4.0])]


def test_nothing_is_invented_for_a_column_without_a_recent_value() -> None:
    rows = [(0, [1.0, 1.0]), *((100 * n + 1, [2.0, NAN]) for n in range(12))]
    times = [time for time, *_ in rows_of(Align(10, 0.5), stream(rows))]
    assert times == [0, 100, 200, 300, 400, 500]
    assert rows_of(Align(10, 0.5), stream([(time, [1.0, NAN]) for time, _ in rows])) == []


def test_a_long_gap_gives_no_more_rows_than_the_tolerance_holds() -> None:
    rows = [(n, [1.0]) for n in range(100)] + [(10**9, [2.0]), (10**9 + 11, [3.0])]
    found = rows_of(Align(100, 0.03), stream(rows))
    assert [time for time, *_ in found] == [*range(0, 130, 10), 10**9, 10**9 + 10]
    assert found[-2:] == [(10**9, 100, 100, [2.0]), (10**9 + 10, 101, 101, [2.0])]


def test_numbers_are_given_once_and_there_are_never_more_rows_than_samples() -> None:
    found = rows_of(Align(100, 1.0), stream([(50 * n + 5, [float(n)]) for n in range(10)]))
    assert [(sequence, first) for _, sequence, first, _ in found] == [(n, n) for n in range(10)]
    assert [time for time, *_ in found] == [40, *(50 * n for n in range(1, 10))], "of five each, the newest"
    jittered = rows_of(Align(50, 1.0), stream([(time, [0.0]) for time in (1, 21, 39, 61, 79, 101)]))
    assert [(time, sequence, first) for time, sequence, first, _ in jittered] == [
        (20, 1, 0),
        (40, 2, 2),
        (60, 3, 3),
        (80, 4, 4),
        (100, 5, 5),
    ]


def test_the_grid_is_anchored_in_1970_and_exact_for_rates_that_divide_no_second() -> None:
    start = 1_700_000_000_123_456_789
    for rate in (3, 7, 0.3, 30, 60, 33.3, 1000):
        period = NANOSECONDS / Fraction(str(rate))
        times = start + np.arange(200) * int(period * Fraction(2, 5))
        out = apply(Align(rate, 10 / rate), Frame(np.ones((200, 1)), times, np.arange(200)))
        places = [int(time // period) for time in out.timestamps.tolist()]
        assert places == list(range(places[0], places[0] + len(places)))
        assert out.timestamps.tolist() == [-(-place * period // 1) for place in places]
        assert 75 < len(out) <= 80


def test_a_clock_that_was_set_back_starts_anew_and_a_straggler_does_not() -> None:
    usual = [(10 * n + 1, [float(n)]) for n in range(20)]
    straggler = [*usual[:10], (-5000, [-1.0]), *usual[10:]]
    plain = [(time, cells) for time, _, _, cells in rows_of(Align(50, 0.05), stream(usual))]
    assert [(time, cells) for time, _, _, cells in rows_of(Align(50, 0.05), stream(straggler))] == plain
    back = [*usual, *((time - 5000, [-value for value in cells]) for time, cells in usual)]
    found = rows_of(Align(50, 0.05), stream(back))
    assert found[: len(plain)] == rows_of(Align(50, 0.05), stream(usual))
    assert [time for time, *_ in found[len(plain) :]] == list(range(-4920, -4800, 20))


def test_numbers_that_fall_while_time_goes_on_start_anew() -> None:
    frame = stream([(10 * n + 1, [float(n)]) for n in range(20)], numbers=[*range(10, 20), *range(10)])
    found = rows_of(Align(50, 0.05), frame)
    assert [sequence for _, sequence, _, _ in found] == [12, 14, 16, 18, 2, 4, 6, 8]
    assert all(first <= sequence for _, sequence, first, _ in found)


SAMPLES = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.tuples(*[st.sampled_from([NAN, NAN, 1.0, 2.0, 3.0]) for _ in range(2)]),
        st.sampled_from([0, 0, 0, 0, -7, -40, 400]),
    ),
    max_size=40,
)


def built(samples: Sequence[tuple[int, tuple[float, ...], int]]) -> list[Row]:
    time, rows = 0, []
    for step, values, jump in samples:
        time += step if jump >= 0 else 0
        rows.append((time + jump, list(values)))
    return rows


@settings(max_examples=150, deadline=None)
@given(
    samples=SAMPLES,
    cuts=st.lists(st.integers(0, 100), max_size=6),
    shape=st.sampled_from([(20, 50), (10, 30), (50, 20)]),
)
def test_any_split_of_the_rows_gives_what_the_rules_say(
    samples: list[Any], cuts: list[int], shape: tuple[int, int]
) -> None:
    period, tolerance = shape
    rows = built(samples)
    frame = stream(rows)
    align = Align(1000 / period, tolerance / 1000)
    whole = rows_of(align, frame)
    align.reset()
    assert rows_of(align, *chopped(frame, cuts)) == whole
    assert whole == obvious(rows, period, tolerance)
    assert len({sequence for _, sequence, _, _ in whole}) == len(whole)
    assert all(first <= sequence for _, sequence, first, _ in whole)


@settings(max_examples=60, deadline=None)
@given(delays=st.lists(st.integers(0, 60), min_size=40, max_size=40))
def test_arrival_out_of_order_within_the_tolerance_loses_no_grid_time(delays: list[int]) -> None:
    """Two inputs every 20 and 50 ms, each sample up to 60 ms late: never older than 110 ms when it is wanted."""
    sent = [(20 * n, [float(20 * n), NAN]) for n in range(28)] + [(50 * n, [NAN, float(50 * n)]) for n in range(12)]
    arrived = [row for _, row in sorted(zip(delays, sent, strict=True), key=lambda pair: pair[0] + pair[1][0])]
    found = rows_of(Align(25, 0.12), stream(arrived))
    times = [time for time, *_ in found]
    assert times == list(range(times[0], times[-1] + 1, 40))
    assert times[0] <= 160
    assert times[-1] >= 400
    assert all(0 <= time - cell <= 120 for time, _, _, cells in found for cell in cells)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(60, 140))
def test_a_worker_warmed_with_history_goes_on_where_the_old_one_was(cut: int) -> None:
    fast, slow = [(7 * n, [float(n), NAN]) for n in range(160)], [(90 * n + 2, [NAN, 1.0 * n]) for n in range(12)]
    frame = stream(sorted(fast + slow, key=lambda row: row[0]))
    old, fresh = Align(50, 0.2, samples_per_row=5), Align(50, 0.2, samples_per_row=5)
    after = rows_of(old, frame.take(slice(cut)), frame.take(slice(cut, None)))
    rows_of(fresh, frame.take(slice(max(0, cut - fresh.warmup_rows), cut)))
    later = rows_of(fresh, frame.take(slice(cut, None)))
    assert later == after[-len(later) :]
    assert later[0][1] >= cut


def test_state_does_not_travel() -> None:
    align = Align(10, 1.0, samples_per_row=4)
    apply(align, stream([(0, [1.0])]))
    twin = copy.deepcopy(align)
    assert parameters_of(twin) == {"rate_hz": 10, "tolerance": 1.0, "samples_per_row": 4}
    assert rows_of(twin, stream([(101, [2.0])], start=1)) == []
    assert rows_of(align, stream([(101, [2.0])], start=1)) == [(100, 1, 1, [1.0])]
    align.initialize()
    assert rows_of(align, stream([(201, [2.0])], start=2)) == []


def test_a_reused_receive_buffer_does_not_show() -> None:
    align, buffer = Align(10, 1.0), np.array([[1.0]])
    apply(align, Frame(buffer, [EPOCH_MS * MS + 1], [0]))
    buffer[:] = 99
    assert rows_of(align, stream([(150, [2.0])], start=1))[0][3] == [1.0]


def test_empty_batches() -> None:
    align = Align(10, 1.0)
    assert rows_of(align, stream([]), stream([(1, [1.0, NAN])]), stream([], start=1)) == []
    assert apply(align, stream([])).values.shape == (0, 2)


@pytest.mark.parametrize(
    ("rate_hz", "tolerance", "rest", "words"),
    [
        (0, 1, {}, "rate_hz must be above 0"),
        (NAN, 1, {}, "rate_hz must be above 0"),
        (True, 1, {}, "rate_hz must be above 0"),
        (10, 0, {}, "tolerance must be above 0"),
        (10, "1", {}, "tolerance must be above 0"),
        (1000, 3600, {}, "3600000 times at 1000 Hz: 10000 at the most"),
        (10, 1, {"samples_per_row": 0}, "samples_per_row must be a number of samples"),
    ],
)
def test_what_cannot_be_meant_is_refused(rate_hz: Any, tolerance: Any, rest: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Align(rate_hz, tolerance, **rest)


@pytest.mark.parametrize("values", [["a", "b"], [[1.0], [2.0, 3.0]], np.ones(2), np.ones((2, 1, 1))])
def test_what_are_no_rows_of_numbers_is_refused(values: Any) -> None:
    with pytest.raises(TypeError, match="Align takes rows of numbers"):
        apply(Align(10, 1), Frame(values, [0, 1], [0, 1]))


def test_another_number_of_columns_within_a_stream_is_refused() -> None:
    align = Align(10, 1)
    apply(align, stream([(0, [1.0])]))
    with pytest.raises(ValueError, match="holds 1 columns, got rows of 2"):
        apply(align, stream([(1, [1.0, 2.0])]))


class Means(Filter):
    def predict(self, x: Any) -> Any:
        return x.mean(axis=1)


def test_history_reaches_as_many_samples_as_rows_behind_it_are_made_of() -> None:
    alone = Pipeline("p", [Align(10, 1.0, samples_per_row=4)], input=Input(["a", "b"]))
    assert alone.history == (10 + 2) * 4
    windows = Pipeline("p", [Align(10, 1.0, samples_per_row=4), Window(20, hop=40)], input=Input(["a", "b"]))
    assert windows.history == 48 + 20 * 4 + 40
    inside = Pipeline("inside", [Align(10, 1.0, samples_per_row=4)])
    nested = Pipeline("p", [inside, Parallel({"l": Window(20, hop=40), "r": Window(10, hop=40)})], input=Input(["a"]))
    assert nested.history >= 48 + 20 * 4 + 40


def test_behind_it_windows_are_as_on_any_rows_and_the_self_test_takes_nan() -> None:
    pipeline = Pipeline(
        "p", [Align(10, 1.0), Window(5, hop=22), Means()], input=Input(["a", "b"]), output=Output(["a", "b"])
    )
    fast, slow = [(50 * n + 1, [float(n), NAN]) for n in range(100)], [(500 * n + 2, [NAN, 7.0]) for n in range(10)]
    frame = stream(sorted(fast + slow, key=lambda row: row[0]))
    pipeline.initialize()
    result = pipeline.run(frame)
    assert len(result) == 4
    assert np.isfinite(np.asarray(result.values)).all()
    pipeline.reset()
    blob = selftest.build(pipeline, frame)
    assert selftest.check(pipeline, blob).startswith("110 rows in, 4 out")
