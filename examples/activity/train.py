"""Train the three models on the training half and write them as ONNX.

    python train.py aeon-1.6.0-py3-none-any.whl

Needs scikit-learn and skl2onnx, on the workstation only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from basic_motions import read_half
from cadence import TimeDomainAndCadence
from features import TimeDomain
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
OPSET = {"": 17, "ai.onnx.ml": 3}


def raw(windows: np.ndarray) -> np.ndarray:
    return windows.reshape(len(windows), -1)


def with_cadence(windows: np.ndarray) -> np.ndarray:
    # scikit-learn wants no gaps: where nobody steps, the cadence is zero.
    return np.nan_to_num(TimeDomainAndCadence().predict(windows))


MODELS = {
    "mlp_raw.onnx": (raw, MLPClassifier((16,), alpha=1e-2, max_iter=2000, random_state=1)),
    "logistic_54.onnx": (TimeDomain().predict, LogisticRegression(C=10.0, max_iter=5000)),
    "logistic_55.onnx": (with_cadence, LogisticRegression(C=10.0, max_iter=5000)),
}


def main(source: Path) -> None:
    windows, labels = read_half(source, "TRAIN")
    held_out, truth = read_half(source, "TEST")
    for name, (features, estimator) in MODELS.items():
        model = make_pipeline(StandardScaler(), estimator).fit(features(windows), labels)
        shape = [("x", FloatTensorType([None, model.n_features_in_]))]
        graph = to_onnx(
            model, initial_types=shape, target_opset=OPSET, options={id(model): {"zipmap": False}}, name="activity"
        )
        (HERE / name).write_bytes(graph.SerializeToString())
        print(f"{name}: {model.score(features(held_out), truth):.3f} of the test half right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
