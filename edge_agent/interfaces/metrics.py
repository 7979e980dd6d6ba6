"""What Prometheus is told: the agent's status, the slots' latencies, and the listener's own requests.

Labels are names from the configuration, of stages and of kinds of fault: closed, bounded sets, no value that came from
outside. It reads and judges nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from edge_agent.contract.digest import decode_json
from edge_agent.interfaces.exposition import CONTENT_TYPE, Exposition
from edge_agent.interfaces.http import Request, Response, error
from edge_agent.interfaces.listener import Reply, Wait
from edge_agent.runtime.lane import Lane
from edge_agent.runtime.latency import BUCKETS_SECONDS, Histogram
from edge_agent.runtime.probation import Mode

__all__ = ["AskStatus", "Metrics", "Ring", "exposition"]

STATUS_SECONDS = 5.0
_COUNTERS = {
    "samples": ("fieldcast_samples_total", "Samples taken from the input."),
    "outputs": ("fieldcast_outputs_total", "Results handed to the output."),
    "errors": ("fieldcast_frame_errors_total", "Frames that the pipeline failed."),
    "skipped": ("fieldcast_samples_skipped_total", "Samples without an answer, because their frame failed."),
    "crashes": ("fieldcast_worker_crashes_total", "Workers of the active release that ended by themselves."),
    "alarms": ("fieldcast_health_alarms_total", "Times a committed release was found failing."),
    "stepped_in": ("fieldcast_hedged_frames_total", "Frames that the old release answered for one in probation."),
    "dropped": ("fieldcast_samples_dropped_total", "Samples that nobody took in time, dropped by the overflow policy."),
    "rejected": ("fieldcast_inputs_rejected_total", "What came in and became no sample, of all kinds."),
    "refused": ("fieldcast_outputs_refused_total", "Results that the output gave up, of all kinds."),
}
# Who serves and who does not, by who answers now.
_MODES = {Mode.IDLE: ("active", "candidate"), Mode.SHADOW: ("active", "shadow"), Mode.LIVE: ("standby", "live")}


class Ring(Protocol):
    """Takes the status once it is composed, from another thread."""

    def put(self, status: bytes) -> None:
        """Take it."""
        ...


AskStatus = Callable[[Ring], None]


class Metrics:
    """Answers `/metrics`. `ask` has the status composed by who may read the store; `requests` are ours, by status."""

    def __init__(self, lanes: Mapping[str, Lane], ask: AskStatus, requests: Counter[int]) -> None:
        self._lanes, self._ask, self._requests = lanes, ask, requests
        self._since = time.time()

    def handle(self, request: Request, path: list[str], reply: Reply) -> Wait | None:
        """Answer a scrape."""
        if path or request.method != "GET":
            status = 405 if not path else 404
            reply(error(status, "metrics are at GET /metrics", *([("allow", "GET")] if not path else [])))
            return None
        self._ask(_Scrape(self, reply))
        return Wait(STATUS_SECONDS, lambda: error(503, f"the agent was busy for {STATUS_SECONDS:g} s"))

    def response(self, status: bytes) -> Response:
        """Return everything as text."""
        found = exposition(decode_json(status, dict[str, Any]), self._lanes)
        _process(found, self._since)
        for code, count in sorted(self._requests.items()):
            words = "Requests to the local interfaces that were answered, by HTTP status."
            found.counter("fieldcast_interface_requests_total", words, count, code=str(code))
        return Response(200, found.text.encode(), CONTENT_TYPE)


class _Scrape:
    """One scrape that waits for the status."""

    def __init__(self, metrics: Metrics, reply: Reply) -> None:
        self._metrics, self._reply = metrics, reply

    def put(self, status: bytes) -> None:
        """Reply with it, on the listener's thread."""
        self._reply(lambda: self._metrics.response(status))


def exposition(status: Mapping[str, Any], lanes: Mapping[str, Lane]) -> Exposition:
    """Return what the status and the lanes say."""
    found = Exposition()
    _device(found, status)
    for name, channel in status.get("channels", {}).items():
        _channel(found, name, channel)
    for slot in status.get("slots", []):
        lane = lanes[slot["pipeline"]]
        _slot(found, slot, lane)
        _faults(found, slot["pipeline"], lane)
        _latency(found, slot["pipeline"], lane)
    return found


def _device(found: Exposition, status: Mapping[str, Any]) -> None:
    words = "What this device is and which agent runs on it."
    told = {name: str(status.get(name, "")) for name in ("fleet", "device", "agent")}
    found.gauge("fieldcast_agent_info", words, 1, fleet=told["fleet"], device=told["device"], version=told["agent"])
    connected = status.get("connection") == "connected"
    found.gauge("fieldcast_broker_connected", "Whether the agent is connected to its broker.", int(connected))
    words = "Whether the disk refuses something now."
    found.gauge("fieldcast_disk_trouble", words, int(bool(status.get("trouble"))))


def _channel(found: Exposition, name: str, channel: Mapping[str, Any]) -> None:
    if "expires" in channel:
        words = "When the channel's signed metadata ends, seconds since 1970."
        found.gauge("fieldcast_trust_expiry_timestamp_seconds", words, channel["expires"], channel=name)
        words = "For how long the channel's metadata has been expired; 0 while it is fresh."
        stale = max(0.0, time.time() - channel["stale_since"]) if "stale_since" in channel else 0.0
        found.gauge("fieldcast_trust_stale_seconds", words, round(stale, 3), channel=name)
    words = "Whether the last envelope of the channel was refused."
    found.gauge("fieldcast_trust_refused", words, int(bool(channel.get("refused"))), channel=name)


def _slot(found: Exposition, slot: Mapping[str, Any], lane: Lane) -> None:
    name = slot["pipeline"]
    for role, mode in zip(("active", "candidate"), _MODES[lane.mode], strict=True):
        if slot.get(role):
            sequence = slot[role].rpartition("@")[2]
            words = "Which releases there are on a slot, and in which part."
            labels = {"slot": name, "release": slot[role], "sequence": sequence, "mode": mode}
            found.gauge("fieldcast_release_info", words, 1, **labels)
    if slot.get("state"):
        words = "What became of the release that the slot was offered last."
        labels = {"slot": name, "release": slot.get("last", ""), "state": slot["state"]}
        found.gauge("fieldcast_deployment_info", words, 1, **labels)
    words = "Whether a candidate is on probation, shadowing or live."
    found.gauge("fieldcast_probation", words, int(lane.mode is not Mode.IDLE), slot=name)
    for key, words in (("stuck", "every permitted release is condemned here"), ("held", "an operator holds updates")):
        found.gauge(f"fieldcast_slot_{key}", f"Whether {words}.", int(bool(slot.get(key))), slot=name)
    words = "Number of the slot's newest incident, as the device counts them; 0 for none."
    found.gauge("fieldcast_incident_newest", words, slot.get("incident", 0), slot=name)
    if "input_spooled" in slot:
        words = "Samples that wait on disk to be taken."
        found.gauge("fieldcast_spooled_samples", words, slot["input_spooled"], slot=name)
    counters = dict(slot.get("counters", {}))
    for counter, (metric, words) in _COUNTERS.items():
        found.counter(metric, words, counters.pop(counter, 0), slot=name)
    for counter, count in sorted(counters.items()):
        words = "What else happened in the data path, by name."
        if counter.endswith("_max"):
            found.gauge("fieldcast_slot_peak", "Highest values seen in the data path, by name.", count, slot=name,
                        peak=counter)  # fmt: skip
        else:
            found.counter("fieldcast_slot_events_total", words, count, slot=name, event=counter)


def _faults(found: Exposition, name: str, lane: Lane) -> None:
    for end, metric, plug in (
        ("input", "fieldcast_input_faults_total", lane.source),
        ("output", "fieldcast_output_faults_total", lane.sink),
    ):
        for kind, count in sorted(dict(plug.faults).items()):
            found.counter(metric, f"Faults of the {end}, by kind.", count, slot=name, kind=kind)
        problem = int(bool(plug.problem))
        found.gauge(f"fieldcast_{end}_problem", f"Whether the {end} is out of reach.", problem, slot=name)
    pending = getattr(lane.source, "pending", None)
    if isinstance(pending, int):  # files wait where they are
        found.gauge("fieldcast_queue_samples", "Samples that wait to be taken, spooled ones too.", pending, slot=name)


def _latency(found: Exposition, name: str, lane: Lane) -> None:
    latency = lane.latency
    if latency is None:
        return
    if latency.memory_bytes:
        words = "Resident memory of the worker that answers."
        found.gauge("fieldcast_worker_memory_bytes", words, latency.memory_bytes, slot=name)
    for metric, words, histogram in _histograms(lane):
        found.histogram(f"fieldcast_{metric}_seconds", words, *_told(histogram), slot=name)
    for stage, histogram in list(latency.stages.items()):
        words = "Time of a frame in one stage, of a few frames a second."
        found.histogram("fieldcast_stage_seconds", words, *_told(histogram), slot=name, stage=stage)


def _histograms(lane: Lane) -> Iterator[tuple[str, str, Histogram]]:
    latency = lane.latency
    assert latency is not None
    yield "frame", "Time from giving a frame to a worker to having its results.", latency.frame
    yield "end_to_end", "Time from the timestamp of a frame's newest sample to its results.", latency.end_to_end
    yield "worker", "Time of a frame in the worker that answered.", latency.worker


def _told(histogram: Histogram) -> tuple[tuple[float, ...], list[int], float]:
    return BUCKETS_SECONDS, histogram.counts.tolist(), histogram.sum


def _process(found: Exposition, since: float) -> None:
    """Add what Prometheus' own clients call it, of the agent's process."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page
    found.gauge("process_resident_memory_bytes", "Resident memory of the agent.", resident)
    found.counter("process_cpu_seconds_total", "Processor time of the agent.", round(time.process_time(), 3))
    found.gauge("process_start_time_seconds", "When the agent started, seconds since 1970.", round(since, 3))
    found.gauge("process_open_fds", "Open file descriptors of the agent.", len(os.listdir("/proc/self/fd")))  # noqa: PTH208
