"""What Prometheus is told can be parsed by its own client, adds up, and holds no secret."""

from __future__ import annotations

import math
import queue
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.config import Column
from edge_agent.config.plugs import InferenceInput
from edge_agent.interfaces.exposition import Exposition
from edge_agent.interfaces.http import Request, Response
from edge_agent.interfaces.metrics import Metrics, exposition
from edge_agent.runtime import wire
from edge_agent.runtime.answers import Answer, Batch
from edge_agent.runtime.inference import AnsweringSink, InferenceSource
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.latency import BUCKETS_SECONDS, STAGES_MAX, Histogram, Latency
from edge_agent.runtime.samples import Samples
from tests.simulators.serving import Serving, configuration

STATUS: dict[str, Any] = {
    "fleet": "f",
    "device": "d1",
    "agent": "0.1.0",
    "connection": "connected",
    "trouble": "the disk is full",
    "channels": {"staging": {"expires": 100.0, "stale_since": 100.0}, "new": {"refused": [{"code": "x"}]}},
    "slots": [
        {
            "pipeline": "act",
            "active": "act@1",
            "candidate": "act@2",
            "last": "act@2",
            "state": "probation",
            "held": True,
            "incident": 3,
            "input_spooled": 0,
            "counters": {"samples": 7, "errors": 1, "late": 2, "stamps_backward_ms_max": 40, "rejected": 1},
        }
    ],
}


def parsed(text: str) -> dict[tuple[Any, ...], float]:
    """Return samples by name and labels, as Prometheus' own client reads them; each series once."""
    found: dict[tuple[Any, ...], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for one in family.samples:
            key = (one.name, *sorted(one.labels.items()))
            assert key not in found, key
            found[key] = one.value
    return found


@pytest.fixture
def lane() -> Lane:
    source = InferenceSource(InferenceInput(columns={"x": Column(path="x")}))
    source.faults.note('a "kind"\nof\\fault', "password=secret")
    made = Lane("act", "d1/act", source, AnsweringSink(source), lambda notice: None)
    made.latency = Latency()
    return made


def noted(latency: Latency, seconds: float, **note: Any) -> None:
    samples = Samples(("x",), array("q", [1]), array("q", [0]), array("d", [1.0]))
    latency.note(Batch(1, samples, 10.0), Answer(batch=1, note=wire.Note(**note)), 10.0 + seconds)


def test_everything_is_told_and_parsed(lane: Lane) -> None:
    assert lane.latency is not None
    noted(lane.latency, 0.003, micros=1500, memory_kb=2048, stages={"scale": 900})
    text = exposition(STATUS, {"act": lane}).text
    found = parsed(text)
    slot = ("slot", "act")
    assert found["fieldcast_agent_info", ("device", "d1"), ("fleet", "f"), ("version", "0.1.0")] == 1
    assert found["fieldcast_broker_connected",] == 1
    assert found["fieldcast_disk_trouble",] == 1
    assert found["fieldcast_trust_expiry_timestamp_seconds", ("channel", "staging")] == 100
    assert found["fieldcast_trust_stale_seconds", ("channel", "staging")] > 1e9
    assert found["fieldcast_trust_refused", ("channel", "new")] == 1
    for release, mode in (("1", "active"), ("2", "candidate")):
        labels = (("mode", mode), ("release", f"act@{release}"), ("sequence", release), slot)
        assert found["fieldcast_release_info", *labels] == 1
    assert found["fieldcast_deployment_info", ("release", "act@2"), slot, ("state", "probation")] == 1
    assert (found["fieldcast_slot_held", slot], found["fieldcast_slot_stuck", slot]) == (1, 0)
    assert (found["fieldcast_samples_total", slot], found["fieldcast_frame_errors_total", slot]) == (7, 1)
    assert found["fieldcast_outputs_total", slot] == 0, "what did not happen yet is 0, not absent"
    assert found["fieldcast_slot_events_total", ("event", "late"), slot] == 2
    assert found["fieldcast_slot_peak", ("peak", "stamps_backward_ms_max"), slot] == 40
    assert found["fieldcast_input_faults_total", ("kind", 'a "kind"\nof\\fault'), slot] == 1
    assert found["fieldcast_queue_samples", slot] == 0
    assert found["fieldcast_spooled_samples", slot] == 0, "an empty spool is 0, not absent"
    assert found["fieldcast_incident_newest", slot] == 3
    assert found["fieldcast_worker_memory_bytes", slot] == 2 << 20
    assert found["fieldcast_stage_seconds_count", slot, ("stage", "scale")] == 1
    assert found["fieldcast_worker_seconds_sum", slot] == 0.0015
    assert found["fieldcast_frame_seconds_sum", slot] == pytest.approx(0.003)
    assert found["fieldcast_end_to_end_seconds_bucket", ("le", "10.0"), slot] == 0
    assert found["fieldcast_end_to_end_seconds_bucket", ("le", "+Inf"), slot] == 1
    assert "secret" not in text


def test_a_slot_that_measures_nothing_has_no_histograms(lane: Lane) -> None:
    lane.latency = None
    assert "_bucket" not in exposition(STATUS, {"act": lane}).text


def test_histograms_add_up_and_bounds_are_closed(lane: Lane) -> None:
    histogram = Histogram()
    values = [0.0, 0.0005, 0.00051, 1.0, 10.0, 11.0, 1e6]
    for value in values:
        histogram.observe(value)
    found = Exposition()
    found.histogram("h_seconds", "Words.", BUCKETS_SECONDS, histogram.counts.tolist(), histogram.sum)
    series = parsed(found.text)
    for bound in (*BUCKETS_SECONDS, math.inf):
        name = "+Inf" if bound == math.inf else repr(bound)
        assert series["h_seconds_bucket", ("le", name)] == sum(value <= bound for value in values)
    assert series["h_seconds_count",] == len(values)
    assert series["h_seconds_sum",] == sum(values)


def test_names_of_stages_are_bounded_and_a_clock_set_back_counts_as_no_time() -> None:
    latency = Latency()
    noted(latency, -5.0, stages={f"stage{number}": 1 for number in range(2 * STAGES_MAX)})
    assert len(latency.stages) == STAGES_MAX
    assert latency.frame.counts[0] == 1
    noted(latency, 0.0, stages={"stage0": 1, "another": 1})
    assert latency.stages["stage0"].counts.tolist()[0] == 2
    assert len(latency.stages) == STAGES_MAX


@pytest.mark.parametrize(("method", "path", "status"), [("POST", [], 405), ("GET", ["slots"], 404)])
def test_only_get_metrics_is_answered(method: str, path: list[str], status: int) -> None:
    replies: list[Any] = []
    metrics = Metrics({}, lambda ring: None, Counter())
    assert metrics.handle(Request(method, "/metrics", {}), path, replies.append) is None
    assert replies[0].status == status


def test_an_agent_that_is_too_busy_to_tell_is_said_to_be() -> None:
    rings: queue.SimpleQueue[Any] = queue.SimpleQueue()
    metrics = Metrics({}, rings.put, Counter())
    wait = metrics.handle(Request("GET", "/metrics", {}), [], lambda answer: None)
    assert wait is not None
    late: Response = wait.end()
    assert late.status == 503
    assert b"busy" in late.body
    assert rings.qsize() == 1


def test_a_scrape_over_the_socket_tells_the_process_and_what_was_asked_before(tmp_path: Path) -> None:
    with Serving(configuration(tmp_path)) as serving:
        caller = serving.caller()
        assert caller.ask("GET", "/v2/models/none")[0] == 404
        status, text = caller.ask("GET", "/metrics")
        assert (status, caller.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        found = parsed(text.decode())
        assert found["fieldcast_interface_requests_total", ("code", "404")] == 1
        assert found["process_resident_memory_bytes",] > 1 << 20
        assert found["process_open_fds",] > 3
