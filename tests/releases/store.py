"""Store models of this release beside those of the earlier ones: ``python tests/releases/store.py``, before a release.

What is there is never changed: a later release that cannot load it breaks a promise.
"""

import json
from pathlib import Path

import numpy as np

import torchlogreg
from torchlogreg import (
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

X = np.random.default_rng(0).normal(size=(12, 2)).round(2)
TWO, THREE = np.tile(["no", "yes"], 6), np.repeat([1, 2, 3], 4)


def models():
    return {
        "binary": TorchLogisticRegression(C=np.inf, class_weight={"no": 1, "yes": 2.5}).fit(X, TWO),
        "softmax": TorchSoftmaxClassifier(fit_intercept=False).fit(X.astype(np.float32), THREE),
        "sgd": TorchSoftmaxClassifier(solver="sgd", tol=0, max_iter=3, random_state=0).fit(X, THREE),
        "binary-cv": TorchLogisticRegressionCV(Cs=[0.1, 1], cv=2).fit(X, TWO),
        "softmax-cv": TorchSoftmaxClassifierCV(Cs=2, cv=2, scoring="accuracy").fit(X, THREE == 2),
    }


def plain(parameters):
    """Those that JSON has without further ado."""
    return {key: value for key, value in parameters.items() if value != np.inf and not isinstance(value, tuple | dict)}


if __name__ == "__main__":
    folder = Path(__file__).parent / torchlogreg.__version__
    folder.mkdir(exist_ok="dev" in torchlogreg.__version__)
    for name, model in models().items():
        model.save(folder / f"{name}.safetensors")
        expected = {
            "class": type(model).__name__,
            "parameters": plain(model.get_params()),
            "X": X.tolist(),
            "predict": model.predict(X).tolist(),
            "predict_proba": model.predict_proba(X).tolist(),
        }
        (folder / f"{name}.json").write_text(json.dumps(expected) + "\n")
        print(folder / f"{name}.safetensors")
