"""Writes one example of every format this version writes: `python tests/golden/make.py`.

Run it once for a new format number, into a new folder. What lies in an old folder is never written again: it is what
devices and publishers in the field hold, and must be read for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge_agent import Filter, Frame, Input, Output, Pipeline
from edge_agent.contract.bundle import build_bundle
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.dtypes import DEFAULT, DTYPES
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.contract.manifest import (
    HealthPolicy,
    InputSpec,
    Manifest,
    ModelRef,
    OutputSpec,
    Stage,
    encode_manifest,
)
from edge_agent.contract.messages import Envelope, Report, SlotReport, encode_envelope, encode_report
from edge_agent.sdk import selftest, state
from edge_agent.sdk.pass_through import PassThrough
from edge_agent.transport.chunks import split

HERE = Path(__file__).resolve().parent / "format_1"
SOURCE = b"from edge_agent import Filter\n\n\nclass Gain(Filter):\n    def predict(self, x):\n        return x * 2\n"


class Learned(Filter):
    """A filter with state of every plain kind."""

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__(scale=scale)
        self.fitted = None

    def fit(self, x: object, y: object = None) -> None:
        """Learn fixed things."""
        self.fitted = {"mean": np.arange(3.0), "names": ("a", "b"), "raw": b"\x00\xff", "seen": {1, 2}, "k": None}


def manifest() -> Manifest:
    """Return a manifest that uses every field."""
    blob = BlobRef.of(SOURCE)
    inner = Stage(name="inner", target="edge_agent.sdk.pass_through:PassThrough", fingerprint="builtin:x")
    stage = Stage(
        name="gain",
        target="gains:Gain",
        fingerprint="ab" * 32,
        bundle=blob,
        parameters={"limit": 0.5},
        state=blob,
        models={"path": ModelRef(blob=blob, name="m.onnx", opsets={"": 17})},
        providers=["CPUExecutionProvider"],
    )
    both = Stage(
        name="both",
        target="edge_agent.sdk.parallel:Parallel",
        fingerprint="builtin:edge_agent.sdk.parallel:Parallel",
        parameters={"join": "columns", "order": ["one"]},
        branches={"one": [inner]},
    )
    return Manifest(
        format=1,
        pipeline="golden",
        stages=[stage, both],
        input=InputSpec(columns=["x"], units={"x": "g"}, rate_hz=10.0),
        output=OutputSpec(columns=["y"], units={"y": "g"}, ranges={"y": (0.0, 1.0)}),
        tunable=["limit"],
        requires_python=">=3.11",
        requires=["numpy>=1.26"],
        self_test=blob,
        health=HealthPolicy(probation_seconds=3.0, probation_frames=30),
        history=100,
    )


def typed_manifest() -> Manifest:
    """Return a manifest whose input has a column of every dtype."""
    stage = Stage(name="pass", target="edge_agent.sdk.pass_through:PassThrough", fingerprint="builtin:x")
    dtypes = {one: one for one in DTYPES if one != DEFAULT}
    return Manifest(
        format=1,
        pipeline="golden",
        stages=[stage],
        input=InputSpec(columns=list(DTYPES), units={"vector": "g"}, dtypes=dtypes),
        output=OutputSpec(columns=list(DTYPES)),
    )


def typed_frame() -> Frame:
    """Return a frame with a cell of every dtype."""
    given = Input(DTYPES, dtype={one: one for one in DTYPES})
    return Pipeline("golden", [PassThrough()], input=given).frame_of(
        [[0.5, 2**60, True, "é", [1, 2.5], {"k": [None, 1]}]]
    )


def report() -> Report:
    """Return a report with a rolled back release."""
    reason = Reason(code=ReasonCode.OUTPUT, message="4 of 10 results invalid", where="gain", blame=Blame.RELEASE)
    slot = SlotReport(
        pipeline="golden",
        channel="staging",
        active="golden@1",
        active_digest=Digest.of(b"1"),
        last="golden@2",
        last_digest=Digest.of(b"2"),
        state="rolled_back",
        reasons=[reason],
        counters={"samples": 7},
        samples_per_second=9.5,
    )
    return Report(
        format=1, fleet="f", device="d", boot=2, counter=3, time=1.5, agent="0.1.0", slots=[slot], labels={"site": "x"}
    )


def examples() -> dict[str, bytes]:
    """Return every example by file name."""
    learned = Learned(scale=2.0)
    learned.fit(None)
    captured = state.capture(learned)
    assert captured is not None
    pipeline = Pipeline("golden", [PassThrough()], input=Input(["x"]), output=Output(["y"]))
    frame = Frame.of(np.arange(4.0).reshape(4, 1), columns=("x",))
    envelope = Envelope(
        format=1, fleet="f", channel="staging", metadata={"1.root.json": b"{}"}, targets={"release/golden@1": b"{}"}
    )
    return {
        "manifest.json": encode_manifest(manifest()),
        "bundle.whl": build_bundle(
            name="gains",
            version="0",
            target="gains:Gain",
            files={"gains.py": SOURCE},
            data={"gains.csv": b"1,2\n"},
            requires=["numpy"],
            requires_python=">=3.11",
        ),
        "envelope.msgpack": encode_envelope(envelope),
        "chunk.bin": split(b"golden" * 10)[0],
        "report.json": encode_report(report()),
        "state.msgpack": captured,
        "self_test.msgpack": selftest.build(pipeline, frame),
        "frame.msgpack": frame.to_bytes(),
        "typed_manifest.json": encode_manifest(typed_manifest()),
        "typed_frame.msgpack": typed_frame().to_bytes(),
    }


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, data in examples().items():
        if (HERE / name).exists():
            sys.exit(f"{HERE / name} exists: released examples are never written again")
        (HERE / name).write_bytes(data)
