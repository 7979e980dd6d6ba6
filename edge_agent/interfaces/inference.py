"""The Open Inference Protocol v2 (KServe "V2 REST") over slots whose source is `inference`; a model is such a slot.

It turns requests into questions and their answers into responses, and says what is wrong with a request in words. Which
release answers, the data path decides; here it is only named: `model_version` is its sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import msgspec

import edge_agent
from edge_agent.config.tables import hint, listing
from edge_agent.interfaces.http import Request, Response, error, json_response
from edge_agent.interfaces.listener import Reply, Wait
from edge_agent.interfaces.tensors import (
    MATRIX,
    BadTensor,
    Tensor,
    datatype_of,
    input_metadata,
    rows_of,
    takes_matrix,
    tensors_of,
)
from edge_agent.runtime.inference import Crowded, InferenceSource, Question, Running

__all__ = ["Inference"]

ID_CHARACTERS_MAX = 256
PLATFORM = "fieldcast"
_AGAIN = ("retry-after", "1")
_BINARY = "binary tensors are not supported: send and ask for JSON (binary_data = false)"


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    parameters: dict[str, Any] = {}


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a request to infer."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Wanted] = []


class _Refused(Exception):
    """The request gets this response and nothing else."""

    def __init__(self, status: int, words: str, *headers: tuple[str, str]) -> None:
        super().__init__(words)
        self.response = error(status, words, *headers)


class _BadRequest(_Refused):
    """What the client has to mend."""


class Inference:
    """Answers `/v2/…`; `models` are the slots' sources by name. `handle` is called by the listener's
    thread only."""

    def __init__(self, models: Mapping[str, InferenceSource]) -> None:
        self._models = models
        self._seen: dict[str, tuple[str, dict[str, str]]] = {}

    def handle(self, request: Request, path: list[str], reply: Reply) -> Wait | None:
        """Answer a request for `path`, the parts after `/v2`."""
        try:
            return self._route(request, path, reply)
        except _Refused as refused:
            reply(refused.response)
        except BadTensor as bad:
            reply(error(400, str(bad)))
        return None

    def _route(self, request: Request, path: list[str], reply: Reply) -> Wait | None:
        if path[:1] == ["models"] and len(path) > 1:
            return self._model(request, path[1], path[2:], reply)
        _require(request, "GET")
        if not path:
            reply(json_response(200, {"name": PLATFORM, "version": edge_agent.__version__, "extensions": []}))
        elif path == ["health", "live"]:
            reply(json_response(200, {"live": True}))
        elif path == ["health", "ready"]:
            waiting = [name for name, model in self._models.items() if not _ready(model.running)]
            words = f"no release is ready in slot {listing(waiting)}"
            reply(error(503, words, _AGAIN) if waiting else json_response(200, {"ready": True}))
        else:
            raise _Refused(404, f"there is no /v2/{'/'.join(path)[:80]}: ask /v2, /v2/health/… or /v2/models/NAME/…")
        return None

    def _model(self, request: Request, name: str, path: list[str], reply: Reply) -> Wait | None:
        model = self._models.get(name)
        if model is None:
            known = f"{hint(name, self._models)}; there is: {listing(self._models)}"
            raise _Refused(404, f"there is no model {name[:80]!r}{known}")
        running, version = model.running, ""
        if path[:1] == ["versions"] and len(path) > 1:
            version, path = path[1], path[2:]
            _require_version(name, version, running)
        if path == ["infer"]:
            _require(request, "POST")
            try:
                return self._infer(request, name, model, version, reply)
            except (BadTensor, _BadRequest) as bad:
                model.refuse(str(bad))
                raise
        _require(request, "GET")
        if path == ["ready"]:
            ready = _ready(running)
            words = f"no release of {name} is ready"
            reply(json_response(200, {"name": name, "ready": True}) if ready else error(503, words, _AGAIN))
        elif not path:
            reply(json_response(200, self._metadata(name, model, running)))
        else:
            raise _Refused(404, f"model {name} has no {'/'.join(path)[:80]}: there is infer, ready, versions/V/…")
        return None

    def _metadata(self, name: str, model: InferenceSource, running: Running | None) -> dict[str, Any]:
        columns, outputs = model.config.columns, running.plan.output.columns if running is not None else []
        seen = self._datatypes(name, running)
        inputs = input_metadata(columns)
        also = {"input_matrix": f"{MATRIX} [-1, {len(columns)}] FP64"} if takes_matrix(columns) else {}
        return {
            "name": name,
            "versions": [_version(running.plan.release)] if running is not None else [],
            "platform": PLATFORM,
            "inputs": inputs,
            "outputs": [{"name": one, "datatype": seen.get(one, "FP64"), "shape": [-1]} for one in outputs],
            "parameters": {"release": running.plan.release if running else "", "rows_max": model.config.rows_max}
            | also,
        }

    def _datatypes(self, name: str, running: Running | None) -> dict[str, str]:
        """Return the datatypes by output that this release has answered with so far."""
        release, seen = self._seen.get(name, ("", {}))
        return seen if running is not None and release == running.plan.release else {}

    # --- infer ---------------------------------------------------------------------------------------------------

    def _infer(self, request: Request, name: str, model: InferenceSource, version: str, reply: Reply) -> Wait:
        asked = _parse(request)
        running = model.running
        if running is None:
            raise _Refused(503, f"no release runs in slot {name}: push one, or wait for the one on its way", _AGAIN)
        wanted = [one.name for one in asked.outputs] or running.plan.output.columns
        _require_outputs(name, wanted, running.plan.output.columns)
        rows, cells = rows_of(asked.inputs, model.config.columns)
        _require_rows(rows, model.config.rows_max)
        # Its tensors are cells by now: only what is left of the request waits with the question.
        rest = msgspec.structs.replace(asked, inputs=[])
        question = Question(rows, cells, functools.partial(self._done, reply, name, model, version, rest))
        try:
            model.ask(question)
        except Crowded as crowded:
            raise _Refused(429, f"{crowded}: try again in a moment", _AGAIN) from None
        return Wait(model.config.deadline_seconds, functools.partial(_too_late, name, model, question))

    def _done(
        self, reply: Reply, name: str, model: InferenceSource, version: str, asked: _Asked, question: Question
    ) -> None:
        """Answer; called by the data path's thread, or at once."""
        if question.closed:
            reply(error(503, "the agent stops", _AGAIN)._replace(close=True))
            return
        if question.failure:
            reply(error(500, f"the pipeline failed on this request: {question.failure}"))
            return
        reply(functools.partial(self._answered, name, model, version, asked, question))

    def _answered(self, name: str, model: InferenceSource, version: str, asked: _Asked, question: Question) -> Response:
        try:
            return self._answer(name, model, version, asked, question)
        except _Refused as refused:
            return refused.response

    def _answer(self, name: str, model: InferenceSource, version: str, asked: _Asked, question: Question) -> Response:
        running, results = model.running, question.results
        release = results[-1].release if results else running.plan.release if running is not None else ""
        if version and version not in (release, _version(release)):
            words = f"version {version} of {name} was replaced by {_version(release)} while the request waited"
            raise _Refused(404, f"{words}: ask again, or without a version")
        columns = list(results[-1].values) if results else running.plan.output.columns if running is not None else []
        wanted = [one.name for one in asked.outputs] or columns
        _require_outputs(name, wanted, columns)
        seen = self._learn(name, release, results)
        body: dict[str, Any] = {"model_name": name, "model_version": _version(release)}
        if asked.id is not None:
            body["id"] = asked.id
        body["parameters"] = {
            "release": release,
            "first_sequence": question.first,
            "last_sequence": question.last,
            "probation": any(one.probation for one in results),
        }
        body["outputs"] = tensors_of(results, wanted, seen)
        return json_response(200, body)

    def _learn(self, name: str, release: str, results: list[Any]) -> dict[str, str]:
        """Note which datatypes a release answers with: manifests do not say."""
        before, seen = self._seen.get(name, ("", {}))
        if before != release:
            seen = {}
        values = results[0].values if results else {}
        if values.keys() - seen.keys():
            # What is None may have been a number: a later answer tells.
            new = {column: datatype_of([cell]) for column, cell in values.items() if cell is not None}
            seen = new | {column: datatype for column, datatype in seen.items() if column in values}
        self._seen[name] = release, seen
        return seen


def _parse(request: Request) -> _Asked:
    if "inference-header-content-length" in request.headers:
        raise _BadRequest(400, _BINARY)
    try:
        asked = msgspec.json.decode(request.body, type=_Asked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise _BadRequest(400, f"the body is no inference request: {fault or 'nested too deeply'}") from None
    binary = [one for one in asked.outputs if one.parameters.get("binary_data")]
    if binary or asked.parameters.get("binary_data_output"):
        raise _BadRequest(400, _BINARY)
    if asked.id is not None and len(asked.id) > ID_CHARACTERS_MAX:
        raise _BadRequest(400, f"id has {len(asked.id)} characters: {ID_CHARACTERS_MAX} at the most")
    return asked


def _require(request: Request, method: str) -> None:
    if request.method != method:
        raise _Refused(405, f"{request.method[:20]} is not for {request.target[:80]}: use {method}", ("allow", method))


def _require_version(name: str, version: str, running: Running | None) -> None:
    release = running.plan.release if running is not None else ""
    if version not in (release, _version(release)) or not release:
        runs = f"{_version(release)} runs" if release else "nothing runs"
        raise _Refused(404, f"version {version[:80]!r} of {name} does not run here: {runs}")


def _require_outputs(name: str, wanted: list[str], columns: list[str]) -> None:
    for one in wanted:
        if one not in columns:
            words = f"there is no output {one[:80]!r}{hint(one, columns)}; {name} gives: {listing(columns)}"
            raise _BadRequest(400, words)
    if len(set(wanted)) != len(wanted):
        raise _BadRequest(400, "an output is asked for twice: name each once")


def _require_rows(rows: int, rows_max: int) -> None:
    if rows == 0:
        raise _BadRequest(400, "the inputs have no rows: send one at least")
    if rows > rows_max:
        raise _BadRequest(413, f"{rows} rows are too many ({rows_max} at the most): send fewer at a time")


def _too_late(name: str, model: InferenceSource, question: Question) -> Response:
    """End a request that nobody answered in time, or nobody waits for."""
    model.give_up(question)
    if model.running is None:
        return error(503, f"no release runs in slot {name} any more", _AGAIN)
    return error(504, f"no answer within {model.config.deadline_seconds:g} s", _AGAIN)


def _ready(running: Running | None) -> bool:
    return running is not None and running.loaded


def _version(release: str) -> str:
    """Return what follows the `@` of `name@sequence`."""
    return release.rpartition("@")[2]
