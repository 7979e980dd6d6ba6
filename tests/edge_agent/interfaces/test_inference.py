"""The Open Inference Protocol over a real socket, lane and workers: answers, refusals in words, swaps underneath."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config.plugs import InferenceInput
from edge_agent.config.sections import Column
from edge_agent.runtime.inference import ABANDONED, BAD, CROWDED, WAITING_BYTES_MAX, Crowded, InferenceSource, Question
from tests.simulators.release import Releases
from tests.simulators.serving import Caller, Serving, configuration, tensor
from tests.simulators.slot import ScriptedSink
from tests.simulators.waiting import until

INFER = "/v2/models/act/infer"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[Serving]:
    """One slot that runs `act@1`, for tests that change nothing."""
    config = configuration(tmp_path_factory.mktemp("device"), more="rows_max = 2000\nwaiting_max = 4")
    with Serving(config) as made:
        made.slot.run(releases.act(1))
        yield made


@contextmanager
def served(directory: Path, record: Any = None, **options: str) -> Iterator[Serving]:
    with Serving(configuration(directory, **options), record) as made:
        yield made


def y(body: Any) -> list[Any]:
    (output,) = body["outputs"]
    assert output["name"] == "y"
    data: list[Any] = output["data"]
    return data


# --- answers -------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_by_the_release_with_its_own_rows(serving: Serving) -> None:
    caller = serving.caller()
    status, body = caller.infer(tensor("x", [1.5, 2]), id="mine")
    assert (status, caller.headers["content-type"]) == (200, "application/json")
    told = body.pop("parameters")
    assert body == {
        "model_name": "act",
        "model_version": "1",
        "id": "mine",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [3.0, 4.0]}],
    }
    assert told["release"] == "act@1"
    assert told["first_sequence"] >= 1 << 32
    assert told["last_sequence"] == told["first_sequence"] + 1
    after = caller.infer(tensor("x", [0]))[1]
    assert "id" not in after
    assert after["parameters"]["first_sequence"] == told["last_sequence"] + 1


def test_many_rows_travel_in_several_frames_and_come_back_as_one_answer(serving: Serving) -> None:
    status, body = serving.caller().infer(tensor("input", list(range(2000)), "INT32", [2000, 1]))
    assert status == 200
    assert y(body) == [2.0 * number for number in range(2000)]


def test_answers_of_many_clients_do_not_mix(serving: Serving) -> None:
    wrong: list[Any] = []

    def ask(client: int) -> None:
        caller = Caller(serving.place)
        for number in range(20):
            values = [client * 1000 + number + place / 8 for place in range(client + 1)]
            status, body = caller.infer(tensor("x", values))
            if status != 200 or y(body) != [2 * value for value in values]:
                wrong.append((status, body))
        caller.close()

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_there_is_to_know_is_told(serving: Serving) -> None:
    caller = serving.caller()
    assert caller.ask("GET", "/v2")[1]["name"] == "fieldcast"
    assert caller.ask("GET", "/v2/health/live") == (200, {"live": True})
    assert caller.ask("GET", "/v2/health/ready") == (200, {"ready": True})
    for path in ("/v2/models/act", "/v2/models/act/versions/1", "/v2/models/act/versions/act%401"):
        status, body = caller.ask("GET", path)
        assert status == 200
        assert (body["name"], body["versions"]) == ("act", ["1"])
        assert body["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1]}]
        assert body["outputs"] == [{"name": "y", "datatype": "FP64", "shape": [-1]}]
        assert body["parameters"]["release"] == "act@1"
    for path in ("/v2/models/act/ready", "/v2/models/act/versions/1/ready"):
        assert caller.ask("GET", path) == (200, {"name": "act", "ready": True})
    assert caller.infer(tensor("x", [1]), path="/v2/models/act/versions/1/infer")[0] == 200


# --- refusals ------------------------------------------------------------------------------------------------------

X = [tensor("x", [1.0])]
REFUSED: dict[str, tuple[str, str, Any, int, str]] = {
    "no JSON": ("POST", INFER, b"{", 400, "the body is no inference request"),
    "no text": ("POST", INFER, b'{"inputs": ["\xff"]}', 400, "the body is no inference request"),
    "NaN": ("POST", INFER, b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', 400,
            "the body is no inference request"),
    "nested": ("POST", INFER, b'{"inputs": ' + b"[" * 100_000, 400, "the body is no inference request"),
    "no inputs": ("POST", INFER, {}, 400, "missing required field `inputs`"),
    "wrong type": ("POST", INFER, {"inputs": [{"name": 5}]}, 400, "$.inputs[0].name"),
    "wrong name": ("POST", INFER, {"inputs": [tensor("z", [1.0])]}, 400, "there is no input 'z'"),
    "wrong datatype": ("POST", INFER, {"inputs": [tensor("x", ["a"], "BYTES")]}, 400, "float64 is needed"),
    "wrong shape": ("POST", INFER, {"inputs": [tensor("x", [1.0], shape=[2])]}, 400, "its shape [2] says 2"),
    "no rows": ("POST", INFER, {"inputs": [tensor("x", [])]}, 400, "have no rows"),
    "many rows": ("POST", INFER, {"inputs": [tensor("x", [0.0] * 2001)]}, 413, "2001 rows are too many (2000"),
    "unknown output": ("POST", INFER, {"inputs": X, "outputs": [{"name": "yy"}]}, 400, "did you mean 'y'?"),
    "output twice": ("POST", INFER, {"inputs": X, "outputs": [{"name": "y"}, {"name": "y"}]}, 400, "asked for twice"),
    "binary output": ("POST", INFER, {"inputs": X, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
                      400, "binary tensors are not supported"),
    "all outputs binary": ("POST", INFER, {"inputs": X, "parameters": {"binary_data_output": True}}, 400, "binary"),
    "long id": ("POST", INFER, {"inputs": X, "id": "i" * 300}, 400, "id has 300 characters"),
    "other model": ("POST", "/v2/models/acts/infer", {"inputs": X}, 404, "did you mean 'act'?"),
    "other version": ("POST", "/v2/models/act/versions/7/infer", {"inputs": X}, 404, "does not run here: 1 runs"),
    "other version ready": ("GET", "/v2/models/act/versions/7/ready", None, 404, "does not run here"),
    "unknown part": ("GET", "/v2/models/act/explain", None, 404, "model act has no explain"),
    "unknown path": ("GET", "/v2/repository", None, 404, "there is no /v2/repository"),
    "no model named": ("GET", "/v2/models", None, 404, "there is no /v2/models"),
    "GET to infer": ("GET", INFER, None, 405, "use POST"),
    "POST to ready": ("POST", "/v2/models/act/ready", {}, 405, "use GET"),
    "POST to health": ("POST", "/v2/health/live", {}, 405, "use GET"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_a_request_is_said_and_the_connection_goes_on(serving: Serving, case: str) -> None:
    method, path, sent, expected, words = REFUSED[case]
    caller, before = serving.caller(), serving.source.faults[BAD]
    status, body = caller.ask(method, path, sent)
    assert status == expected, body
    assert words in body["error"]
    assert serving.source.faults[BAD] == before + (expected in (400, 413))
    assert caller.infer(tensor("x", [1]))[0] == 200


def test_binary_requests_are_refused_in_words(serving: Serving) -> None:
    caller = serving.caller()
    status, body = caller.ask("POST", INFER, b"{}", {"Inference-Header-Content-Length": "2"})
    assert status == 400
    assert "binary tensors are not supported" in body["error"]


# --- what happens underneath ---------------------------------------------------------------------------------------


def test_swap_and_rollback_happen_under_a_flow_of_requests_and_none_fails(tmp_path: Path, releases: Releases) -> None:
    with served(tmp_path) as serving:
        caller = serving.caller()
        status, body = caller.infer(tensor("x", [1]))
        assert (status, caller.headers["retry-after"]) == (503, "1")
        assert "no release runs in slot act" in body["error"]
        assert caller.ask("GET", "/v2/models/act/ready")[0] == 503
        assert caller.ask("GET", "/v2/health/ready")[0] == 503
        assert caller.ask("GET", "/v2/models/act")[1]["versions"] == []
        assert caller.ask("GET", "/v2/models/act/versions/1")[0] == 404
        slot = serving.slot
        slot.run(releases.act(1))
        seen: list[tuple[int, str, list[Any]]] = []
        ending = threading.Event()

        def flow() -> None:
            client = Caller(serving.place)
            while not ending.is_set():
                code, answer = client.infer(tensor("x", [3.0]))
                seen.append((code, answer.get("model_version", answer), y(answer) if code == 200 else []))
            client.close()

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            slot.try_out(releases.act(2, factor=5.0))
            until(lambda: any(one[1] == "2" for one in seen[-1:]) and not slot.lane.progress(0), 30.0, "act@2")
            slot.try_out(releases.act(3, "exit", after=12))
            until(lambda: any(one.key == 3 and one.reason for one in slot.notices), 30.0, "the end of act@3")
            count = len(seen)
            until(lambda: len(seen) > count + 20, 20.0, "requests after it")
        finally:
            ending.set()
            thread.join()
        assert {one[0] for one in seen} == {200}, [one for one in seen if one[0] != 200]
        assert {(one[1], one[2][0]) for one in seen} <= {("1", 6.0), ("2", 15.0), ("3", 6.0)}
        turns = [one[1] for one, after in itertools.pairwise(seen) if one[1] != after[1]]
        hedged = slot.lane.counters["stepped_in"]
        assert turns[0] == "1"
        assert turns.count("1") <= 1 + hedged, "from one version to the next once, but for hedged frames"
        assert seen[-1][1] == "2"


def test_a_frame_that_fails_costs_its_own_request_and_no_other(tmp_path: Path, releases: Releases) -> None:
    with served(tmp_path) as serving:
        serving.slot.run(releases.act(1, "raise_always", after=1))
        caller = serving.caller()
        assert caller.infer(tensor("x", [1]))[0] == 200
        status, body = caller.infer(tensor("x", [1]))
        assert status == 500
        assert "the pipeline failed on this request" in body["error"]
        assert "broken filter" in body["error"]


def test_a_worker_that_dies_over_a_request_is_tried_once_more_then_it_fails(tmp_path: Path, releases: Releases) -> None:
    with served(tmp_path) as serving:
        serving.slot.run(releases.act(1, "exit"))
        status, body = serving.caller().infer(tensor("x", [1]))
        assert status == 500
        assert "two workers ended over it" in body["error"]
        assert serving.slot.lane.counters["crashes"] == 2


def test_windows_answer_with_fewer_rows_and_keep_what_is_left_over(tmp_path: Path, releases: Releases) -> None:
    with served(tmp_path) as serving:
        serving.slot.run(releases.windows(1, size=8, hop=4))
        caller = serving.caller()
        status, body = caller.infer(tensor("x", [1.0] * 6))
        assert (status, body["outputs"][0]["shape"], y(body)) == (200, [0], [])
        assert (body["model_version"], body["parameters"]["release"]) == ("1", "act@1")
        assert y(caller.infer(tensor("x", [1.0] * 6))[1]) == [8.0, 8.0]


def test_answers_are_recorded_before_they_are_given(tmp_path: Path, releases: Releases) -> None:
    record = ScriptedSink(confirms=False)
    with served(tmp_path, record, more="deadline_seconds = 20.0") as serving:
        serving.slot.run(releases.act(1))
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(serving.caller().infer(tensor("x", [1, 2]))))
        thread.start()
        until(lambda: len(record.messages) == 2, 10.0, "the record")
        time.sleep(0.1)
        assert answers == []
        record.confirm(2)
        thread.join()
        assert answers[0][0] == 200
        assert [one.sequence - (1 << 32) for one in record.messages] == [0, 1]


def test_a_deadline_that_passes_is_told_and_what_waits_is_bounded(tmp_path: Path, releases: Releases) -> None:
    record = ScriptedSink(capacity=1, confirms=False)  # it takes one result and is full
    with served(tmp_path, record, more="deadline_seconds = 0.5\nwaiting_max = 2") as serving:
        serving.slot.run(releases.act(1))
        callers = [serving.caller() for _ in range(4)]
        answers: list[Any] = []

        def ask(caller: Caller) -> None:
            answers.append((*caller.infer(tensor("x", [1])), caller.headers.get("retry-after")))

        threads = [threading.Thread(target=ask, args=(caller,)) for caller in callers]
        threads[0].start()
        until(lambda: record.messages, 10.0, "the first result")
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(one[0] for one in answers) == [429, 504, 504, 504], answers
        assert {one[2] for one in answers} == {"1"}
        assert "no answer within 0.5 s" in next(one[1]["error"] for one in answers if one[0] == 504)
        assert "2 requests wait already" in next(one[1]["error"] for one in answers if one[0] == 429)
        assert serving.source.waiting == 0, "what nobody waits for is not computed"
        assert (serving.source.faults[ABANDONED], serving.source.faults[CROWDED]) == (3, 1)
        assert serving.source.rejected == 1
        record.confirm(1)
        serving.slot.supervisor.abandon("act", 1)
        until(lambda: serving.source.running is None, 10.0, "the end of the release")
        assert callers[0].infer(tensor("x", [1]))[0] == 503


def test_who_waits_when_the_agent_stops_is_told(tmp_path: Path, releases: Releases) -> None:
    record = ScriptedSink(confirms=False)
    answers: list[Any] = []
    with served(tmp_path, record) as serving:
        serving.slot.run(releases.act(1))
        caller = Caller(serving.place)
        thread = threading.Thread(target=lambda: answers.append(caller.infer(tensor("x", [1]))))
        thread.start()
        until(lambda: record.messages, 10.0, "the result")
    thread.join()
    assert answers == [(503, {"error": "the agent stops"})]
    caller.close()


def test_texts_and_objects_go_in_and_come_out(tmp_path: Path, releases: Releases) -> None:
    columns = 's = { path = "text", dtype = "string" }, x = { path = "number", scale = 10.0 }'
    with served(tmp_path, columns=columns) as serving:
        serving.slot.run(releases.act(1))
        caller = serving.caller()
        status, body = caller.infer(tensor("text", ["ü"], "BYTES"), tensor("number", [2], "INT8"))
        assert (status, y(body)) == (200, [40.0])
        assert "is missing" in caller.infer(tensor("number", [2]))[1]["error"]


# --- the queue -----------------------------------------------------------------------------------------------------


def test_bytes_that_wait_are_bounded_and_who_asks_after_the_end_is_told() -> None:
    source = InferenceSource(InferenceInput(columns={"s": Column(path="s", dtype="string")}))
    done: list[Question] = []
    large = "x" * (WAITING_BYTES_MAX // 2)
    source.ask(Question(1, [large], done.append))
    with pytest.raises(Crowded, match="bytes of requests wait already"):
        source.ask(Question(1, [large + "y"], done.append))
    source.close()
    source.ask(Question(1, ["a"], done.append))
    assert [one.closed for one in done] == [True, True]


def test_rows_of_a_request_never_go_back_in_time() -> None:
    source = InferenceSource(InferenceInput(columns={"x": Column(path="x")}))
    source.ask(Question(1000, array("d", bytes(8000)), lambda question: None))
    source.ask(Question(1, array("d", [1.0]), lambda question: None))
    stamps = [stamp for _ in range(3) for stamp in (source.take(900) or pytest.fail("nothing")).timestamps]
    assert len(stamps) == 1001
    assert stamps == sorted(set(stamps))
    assert source.take(1) is None
    source.close()
