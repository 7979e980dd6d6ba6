"""The tutorial's filters for sentiment run as they are written there, but for imports and the data wrapper (L19)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edge_agent.sdk.filter import Filter, parameters_of
from edge_agent.sdk.pipeline import Input, Output, Pipeline
from edge_agent.sdk.serializable import validate_serializable
from edge_agent.sdk.state import capture, restore


class TextPreprocessor(Filter):
    """Custom text preprocessing for your domain."""

    def __init__(self, lowercase: bool = True, remove_punctuation: bool = True):
        super().__init__(lowercase=lowercase, remove_punctuation=remove_punctuation)

    def predict(self, x):
        texts = x

        if self.lowercase:
            texts = [t.lower() for t in texts]

        if self.remove_punctuation:
            import string

            texts = [t.translate(str.maketrans("", "", string.punctuation)) for t in texts]

        return np.array(texts)


class DomainEmbedding(Filter):
    """Custom embeddings trained on your domain."""

    def __init__(self, vocab_size: int = 10000, embedding_dim: int = 128):
        super().__init__(vocab_size=vocab_size, embedding_dim=embedding_dim)
        self._embeddings = None

    def fit(self, x, y=None):
        # Your custom embedding training logic
        self._embeddings = np.random.randn(self.vocab_size, self.embedding_dim)

    def predict(self, x):
        # Transform texts to embeddings
        return np.array([self._lookup_embedding(text) for text in x])

    def _lookup_embedding(self, text):
        # Simplified - real implementation would tokenize properly
        return self._embeddings[hash(text) % self.vocab_size]


class SentimentClassifier(Filter):
    """Final classification layer."""

    def __init__(self, num_classes: int = 3):
        super().__init__(num_classes=num_classes)
        self._model = None

    def fit(self, x, y):
        from sklearn.linear_model import LogisticRegression

        self._model = LogisticRegression()
        self._model.fit(x, y)

    def predict(self, x):
        return self._model.predict(x)


TEXTS = ["Great stuff!", "Terrible.", "It is; fine", "great STUFF", "terrible", "it is fine"] * 5
LABELS = [2, 0, 1] * 10


@pytest.fixture
def pipeline() -> Pipeline:
    pytest.importorskip("sklearn")
    stages = [
        TextPreprocessor(lowercase=True, remove_punctuation=True),
        DomainEmbedding(vocab_size=1000, embedding_dim=16),
        SentimentClassifier(num_classes=3),
    ]
    made = Pipeline("sentiment", stages, input=Input(["text"]), output=Output(["sentiment"]))
    return made.fit(TEXTS, LABELS)


@pytest.mark.parametrize("kind", [list, np.array])
def test_the_three_run_fitted(pipeline: Pipeline, kind):
    found = pipeline.predict(kind(["TERRIBLE!", "great, stuff"]))
    assert found.tolist() == [[0], [2]]
    assert pipeline.evaluate(kind(TEXTS), kind(LABELS)) == {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1}
    predicted = pipeline.predict(kind(TEXTS))
    assert pipeline.evaluate(TEXTS, LABELS, predicted, metrics=["accuracy"]) == {"accuracy": 1}


def test_their_state_is_found_whatever_its_name(pipeline: Pipeline):
    assert validate_serializable(pipeline) == []
    _, embedding, _ = (member for _, member in pipeline.stages)
    data = capture(embedding)
    assert data is not None
    again = DomainEmbedding(**parameters_of(embedding))
    restore(again, data)
    np.testing.assert_array_equal(again.predict(["a", "b"]), embedding.predict(["a", "b"]))


def test_salted_hashes_differ_between_processes_so_preflight_can_find_them():
    code = "print(hash('great stuff') % 1000)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) > 1
