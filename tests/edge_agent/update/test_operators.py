"""Operators are those that signed targets list, whole or not at all (T8)."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.contract.errors import ReasonCode, UpdateRejected
from edge_agent.contract.verification import OPERATORS_MAX, Operator
from edge_agent.update.verifier import answer
from tests.simulators.channel import ChannelSimulator


def entry(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"name": f"olga-{number}", "keyid": f"{number:064x}", "public": "ab" * 32, "scope": ["ping"], **changes}


def listing(*entries: Any) -> ChannelSimulator:
    channel = ChannelSimulator()
    channel.targets.unrecognized_fields["x-fieldcast"]["operators"] = list(entries)
    return channel


def test_operators_are_handed_out_as_signed() -> None:
    found = answer(listing(entry(1), entry(2, scope=[])).request()).operators
    assert found == [
        Operator(name="olga-1", keyid=f"{1:064x}", public="ab" * 32, scope=["ping"]),
        Operator(name="olga-2", keyid=f"{2:064x}", public="ab" * 32),
    ]
    assert answer(ChannelSimulator().request()).operators == []


WRONG = {
    "no key": [entry(public="")],
    "half a key": [entry(public="ab" * 16)],
    "a key in capitals": [entry(public="AB" * 32)],
    "no name": [{"keyid": "0", "public": "ab" * 32}],
    "a scope that is no list": [entry(scope="ping")],
    "no object": ["olga"],
    "too many": [entry(number) for number in range(OPERATORS_MAX + 1)],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_list_that_is_none_refuses_the_envelope(case: str) -> None:
    with pytest.raises(UpdateRejected) as caught:
        answer(listing(*WRONG[case]).request())
    (reason,) = caught.value.reasons
    assert reason.code is ReasonCode.MALFORMED
    assert reason.where == "targets.signed.x-fieldcast.operators"


def test_as_many_as_are_allowed_are_taken() -> None:
    channel = listing(*(entry(number) for number in range(OPERATORS_MAX)))
    assert len(answer(channel.request()).operators) == OPERATORS_MAX


def test_an_operator_written_into_the_envelope_by_others_is_refused() -> None:
    def planted(parts: dict[str, Any]) -> None:
        parts["metadata"]["1.targets.json"] = parts["metadata"]["1.targets.json"].replace(b"olga-1", b"evil-1")

    channel = listing(entry(1))
    with pytest.raises(UpdateRejected):
        answer(channel.request(planted))
