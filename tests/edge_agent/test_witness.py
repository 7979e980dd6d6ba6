"""A witness answers as the device's worker does, and leaves what each stage gave, however the self-test ends."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import Filter, Input, Output, Pipeline, witness
from edge_agent.sdk import plain, selftest
from edge_agent.sdk.selftest import SelfTestFailed
from edge_agent.sdk.trace import decode
from edge_agent.witness import Witness


class Times(Filter):
    def __init__(self, by: float = 2.0) -> None:
        super().__init__(by=by)

    def predict(self, x: Any) -> Any:
        return x * self.by


def pipeline(by: float) -> Pipeline:
    return Pipeline("p", [("first", Times()), ("second", Times(by))], input=Input(["x"]), output=Output(["y"]))


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours


@pytest.mark.parametrize("by", [3.0, 4.0])
def test_it_judges_as_a_worker_does_and_writes_down_what_it_saw(sock: socket.socket, tmp_path: Path, by: float) -> None:
    data = selftest.build(pipeline(3.0), [[1.0]])
    made = Witness(sock, (tmp_path / "outputs").open("wb", buffering=0))
    if by == 3.0:
        assert made.judge(pipeline(by), data) == "1 rows in, 1 out, equal within 1e-04"
    else:
        with pytest.raises(SelfTestFailed, match="expected 6, got 8"):
            made.judge(pipeline(by), data)
    seen = decode((tmp_path / "outputs").read_bytes())
    assert [(one.stage, plain.decode(one.values).tolist()) for one in seen] == [
        ("first", [[2.0]]),
        ("second", [[2.0 * by]]),
    ]


def test_the_program_serves_with_the_file_it_was_given(
    sock: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Callable[[socket.socket], Witness]] = []
    monkeypatch.setattr(sys, "argv", ["witness", str(tmp_path / "outputs"), "42"])
    monkeypatch.setattr(witness, "serve", served.append)
    witness.main()
    served[0](sock).judge(pipeline(3.0), selftest.build(pipeline(3.0), [[1.0]]))
    assert (tmp_path / "outputs").is_file()
    assert sys.argv == ["witness", "42"], "the parent's number is where a worker looks for it"
