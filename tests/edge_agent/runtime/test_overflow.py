"""The oldest go when the queue is full: counted, told, and acknowledged upstream in their turn."""

from __future__ import annotations

from array import array
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.runtime.input_spool import Chunk
from edge_agent.runtime.overflow import DroppingSource, Queue, counts, spooled
from edge_agent.runtime.samples import Samples
from tests.simulators.resender import Resender, ResentSource

ROWS_MAX = 16


def rows(start: int, count: int, *, texts: bool = False, marked: bool = False) -> Samples:
    numbers = array("q", range(start, start + count))
    values: object = [f"text {number}" for number in numbers] if texts else array("d", map(float, numbers))
    marks = array("q", numbers) if marked else None
    return Samples(("x",), numbers, array("q", numbers), values, ("str",) if texts else (), marks)  # type: ignore[arg-type]


class Line:
    """A peer, its source, and the lane's side of it."""

    def __init__(self, rows_max: int = ROWS_MAX, bytes_max: int = 1 << 20) -> None:
        self.peer = Resender()
        self.inner = ResentSource(self.peer)
        self.source = DroppingSource(self.inner, "s", rows_max, bytes_max)
        self.given: deque[list[int]] = deque()
        self.results: list[int] = []

    def arrive(self, count: int) -> None:
        self.inner.receive(self.peer.send(count))
        self.source.handle(1, 0.0)

    def take(self, room: int = 8) -> None:
        samples = self.source.take(room)
        if samples is not None:
            assert samples.rows <= room
            self.given.append([int(value) for value in samples.values])

    def confirm(self, count: int = 0) -> None:
        if self.given:
            batch = self.given.popleft()
            now, later = batch[: count or None], batch[count:] if count else []
            if later:
                self.given.appendleft(later)
            self.results += now
            self.source.acknowledge(len(now))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 30)),
        st.tuples(st.just("take"), st.integers(1, 12)),
        st.tuples(st.just("confirm"), st.integers(0, 5)),
    ),
    min_size=20,
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_given_dropped_and_waiting_are_what_arrived_and_acknowledgements_keep_their_order(
    steps: list[tuple[str, int]],
) -> None:
    line = Line()
    for name, count in steps:
        getattr(line, name)(count)
        taken = line.results + [one for batch in line.given for one in batch]
        assert taken == sorted(set(taken))
        assert len(taken) + line.source.dropped + line.source.waiting == line.peer.sent
        assert line.source.waiting <= ROWS_MAX
        under_way = [one for batch in line.given for one in batch]
        assert not set(line.peer.acknowledged) & set(under_way), "acknowledged before it was safe"
    while line.source.waiting or line.given:
        line.take()
        line.confirm()
    assert line.peer.acknowledged == list(range(line.peer.sent))


def test_the_newest_stay_while_nobody_takes_anything(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()
    for _ in range(40):
        line.arrive(1)
    line.take(100)
    assert list(line.given[0]) == list(range(24, 40))
    assert counts(line.source) == {"dropped": 24}
    assert spooled(line.source) == 0
    told = [record.getMessage() for record in caplog.records if "samples dropped" in record.getMessage()]
    assert [int(words.split("dropped=")[1].split()[0]) for words in told] == [1, 2, 4, 8, 16]


def test_large_texts_are_bounded_by_their_bytes() -> None:
    source = DroppingSource(inner := ResentSource(peer := Resender()), "s", 1000, bytes_max=1_000)
    inner.receive(peer.send(200))
    source.handle(1, 0.0)
    assert 0 < source.waiting < 50
    assert source.waiting + source.dropped == 200


def test_the_inner_source_is_drained_on_taking_and_its_words_are_kept() -> None:
    line = Line()
    line.inner.receive(line.peer.send(3))
    assert line.source.take(2) is not None
    assert (line.source.columns, line.source.problem, line.source.finished) == (("x",), "", False)
    assert (line.source.rejected, line.source.faults) == (0, line.inner.faults)
    line.source.close()
    assert line.inner.closed == 1
    assert counts(line.inner) == {}


def test_acknowledging_what_was_not_taken_is_misuse() -> None:
    with pytest.raises(ValueError, match="not taken"):
        Line().source.acknowledge(1)


# --- the queue


def numbers_of(queue: Queue) -> list[int]:
    found = []
    while (chunk := queue.take(1000)) is not None:
        found += list(range(chunk.start, chunk.end))
        assert list(chunk.samples.sequences) == list(range(chunk.start, chunk.end))
    assert (queue.rows, queue.bytes) == (0, 0)
    return found


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("apart", [0.0, 1.0])
@pytest.mark.parametrize(("start", "end"), [(0, 5), (3, 12), (7, 8), (15, 40), (0, 20), (30, 40)])
def test_rows_go_from_the_middle_and_the_others_keep_their_numbers(
    start: int, end: int, apart: float, texts: bool
) -> None:
    queue = Queue()
    for number in range(0, 20, 5):
        queue.add(Chunk(number, rows(number, 5, texts=texts)), number * apart)
    queue.remove(start, end)
    assert numbers_of(queue) == [number for number in range(20) if not start <= number < end]


def test_a_queue_of_single_rows_is_taken_in_large_pieces_and_remembers_the_oldest_time() -> None:
    queue = Queue()
    for number in range(100):
        queue.add(Chunk(number, rows(number, 1, marked=True)), float(number))
    queue.forget(10)
    assert (queue.start, queue.since, queue.rows) == (10, 10.0, 90)
    chunk = queue.take(50)
    assert chunk is not None
    assert (chunk.start, chunk.end, list(chunk.samples.marks)) == (10, 60, list(range(10, 60)))
    assert [copy.start for copy in queue.copies()] == list(range(60, 100))
    assert numbers_of(queue) == list(range(60, 100))


def test_marked_and_unmarked_rows_and_those_behind_a_gap_are_not_mixed() -> None:
    queue = Queue()
    queue.add(Chunk(0, rows(0, 2, marked=True)), 0.0)
    queue.add(Chunk(2, rows(2, 2)), 0.0)
    queue.add(Chunk(9, rows(9, 2)), 0.0)
    assert [(chunk.start, chunk.end) for chunk in (queue.take(9), queue.take(9), queue.take(9)) if chunk] == [
        (0, 2),
        (2, 4),
        (9, 11),
    ]
