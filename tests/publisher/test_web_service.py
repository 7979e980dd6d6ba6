"""A web service of the user's own around a rebuilt pipeline (L20): FastAPI, in a fresh process, without the sources."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.simulators.workshop import Workshop

WORDS = """
    import asyncio

    import numpy as np
    from edge_agent import Filter


    class Lower(Filter):
        def predict(self, x):
            return [text.lower() for text in x]


    class Count(Filter):
        '''How often the words that were learned occur.'''

        def __init__(self):
            super().__init__()
            self.words = []

        def fit(self, x):
            self.words = sorted({word for text in x for word in text.split()})

        def predict(self, x):
            return np.array([[text.split().count(word) for word in self.words] for text in x], float)


    class Score(Filter):
        async def predict(self, x):
            await asyncio.sleep(0)
            return x.sum(axis=1)
    """
AUTHOR = """
    import json
    import sys
    from pathlib import Path

    from edge_agent import Input, Output, Pipeline
    from publisher import Registry
    from words import Count, Lower, Score

    columns = Input(["text"], dtype="string")
    pipeline = Pipeline("mood", [Lower(), Count(), Score()], input=columns, output=Output(["score"]))
    pipeline.fit(["good", "Very GOOD"])
    Path(sys.argv[2]).write_text(json.dumps(pipeline.to_manifest(Registry(sys.argv[1]))))
    print(json.dumps(pipeline.predict(["a very good day", "bad"]).tolist()))
    """
SERVICE = """
    import os
    from pathlib import Path

    from fastapi import FastAPI, HTTPException

    from edge_agent import Pipeline
    from publisher import Registry

    pipeline = Pipeline.from_manifest(Path(os.environ["MANIFEST"]).read_text(), Registry(os.environ["REGISTRY"]))
    pipeline.initialize()
    app = FastAPI()


    @app.post("/predict")
    async def predict(texts: list[str]) -> list[float]:
        try:
            return pipeline.predict(texts)[:, 0].tolist()
        except ValueError as error:
            raise HTTPException(400, str(error))
    """
# Speaks ASGI to the service as a web server does, several requests at once; prints the answers as JSON.
CLIENT = """
    import asyncio
    import json
    import sys

    from service import app


    async def post(body):
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
                 "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("x", 80)}
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent[1:]))


    async def main():
        return await asyncio.gather(*(post(body.encode()) for body in sys.argv[1:]))


    print(json.dumps(asyncio.run(main())))
    """


def test_a_service_of_fastapi_answers_posted_texts_with_a_rebuilt_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, elsewhere = Workshop(tmp_path / "author"), Workshop(tmp_path / "elsewhere")
    author.write({"words.py": WORDS, "main.py": AUTHOR})
    elsewhere.write({"service.py": SERVICE, "client.py": CLIENT})
    registry, manifest = str(tmp_path / "registry"), str(tmp_path / "manifest.json")
    expected = [row[0] for row in json.loads(author.run("main.py", registry, manifest))]
    assert expected == [2.0, 0.0]
    shutil.rmtree(author.root)

    monkeypatch.setenv("REGISTRY", registry)
    monkeypatch.setenv("MANIFEST", manifest)
    texts = json.dumps(["a very good day", "bad"])
    answers = json.loads(elsewhere.run("client.py", *[texts] * 5, "[1]", '["GOOD"]'))
    assert answers[:5] == [[200, expected]] * 5
    assert answers[5][0] == 422, "what is no text is refused by the service"
    assert answers[6] == [200, [1.0]]
    assert "words" not in sys.modules
