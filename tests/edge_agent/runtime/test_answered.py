"""The ring of answered messages knows the newest ones, and those alone."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.runtime import answered
from edge_agent.runtime.answered import Answered


def test_the_newest_are_known_by_identifier_and_content() -> None:
    known = Answered()
    for number in range(answered.ANSWERED_MAX + 10):
        known.add(number + 1, number)
    assert not known.has(10, 9)
    assert not known.has_content(9)
    assert known.has(11, 10)
    assert not known.has(11, 11)
    assert known.has_content(answered.ANSWERED_MAX + 9)
    known.clear()
    assert not known.has(11, 10)
    assert not known.has_content(10)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), max_size=60))
def test_it_is_a_dictionary_that_forgets_the_oldest(messages: list[tuple[int, int]]) -> None:
    limit, answered.ANSWERED_MAX = answered.ANSWERED_MAX, 4
    try:
        known, plain = Answered(), OrderedDict[int, int]()
        for packet_id, content in messages:
            known.add(packet_id, content)
            plain.pop(packet_id, None)
            plain[packet_id] = content
        newest = dict(list(plain.items())[-4:])
        for packet_id in range(1, 13):
            held = [content for content in range(6) if known.has(packet_id, content)]
            # One that came again leaves a gap, so up to that many fewer are remembered; never a wrong one.
            assert held in ([], [newest[packet_id]] if packet_id in newest else [])
        if len({packet_id for packet_id, _ in messages}) == len(messages):
            assert {one for one in range(1, 13) if known.has(one, plain.get(one, -1))} == set(newest)
    finally:
        answered.ANSWERED_MAX = limit
