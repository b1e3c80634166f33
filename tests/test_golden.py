"""Coefficients of forty fits, stored: what changes the structure of the package may not change its answers.

`python tests/test_golden.py` stores them anew, where an answer is meant to change.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import table
from scipy.sparse import csr_array

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

STORED_SOLVERS = "sgd", "lbfgs", "newton-cholesky"
STORED = Path(__file__).with_name("golden.npz")


@cache
def tall(n_classes):
    """More rows than a sample takes, so that L-BFGS draws one."""
    rng = np.random.default_rng(n_classes)
    X = rng.normal(size=(12_000, 12)) @ rng.normal(size=(12, 12))
    W = rng.normal(size=(12, n_classes)) / 4
    return X, (X @ W + rng.gumbel(size=(12_000, n_classes))).argmax(axis=1)


@cache
def wide(n_classes):
    rng = np.random.default_rng(n_classes)
    X = rng.normal(size=(60, 300))
    return X, (X[:, :n_classes] + rng.gumbel(size=(60, n_classes))).argmax(axis=1)


@cache
def text(n_classes):
    """Sparse rows, some of whose columns are empty."""
    rng = np.random.default_rng(n_classes)
    X = rng.poisson(1 / (1 + np.arange(400)), size=(2000, 400)).astype(float)
    X[:, 350:] = 0
    W = rng.normal(size=(400, n_classes))
    return csr_array(X), (X @ W + rng.gumbel(size=(2000, n_classes))).argmax(axis=1)


def settings(solver):
    if solver == "sgd":
        return {"solver": solver, "max_iter": 5, "tol": 0, "random_state": 0, "learning_rate": 0.01}
    return {"solver": solver, "tol": 1e-10, "max_iter": 500}


def fits():
    """Functions that fit, by name."""
    out = {}
    for solver in STORED_SOLVERS:
        how = settings(solver)
        for K in (2, 3):
            for kind, data in {"tall": tall, "wide": wide, "sparse": text}.items():
                out[f"{kind} {K} {solver}"] = lambda data=data, K=K, how=how: TorchSoftmaxClassifier(**how).fit(
                    *data(K)
                )
        out[f"float32 {solver}"] = lambda how=how: TorchSoftmaxClassifier(**{**how, "tol": 1e5 * how["tol"]}).fit(
            tall(3)[0].astype(np.float32), tall(3)[1]
        )
        out[f"stream {solver}"] = lambda how=how: TorchLogisticRegression(**how).fit(
            [(X, y) for X, y in zip(*(np.array_split(a, 7) for a in tall(2)), strict=True)]
        )
        out[f"weights {solver}"] = lambda how=how: TorchLogisticRegression(class_weight="balanced", **how).fit(
            *tall(2), sample_weight=1.0 + np.arange(12_000) % 3
        )
        out[f"no intercept {solver}"] = lambda how=how: TorchLogisticRegression(fit_intercept=False, **how).fit(
            *tall(2)
        )
    for solver in STORED_SOLVERS[1:]:
        how = settings(solver)
        out[f"no penalty {solver}"] = lambda how=how: TorchSoftmaxClassifier(C=np.inf, **how).fit(*tall(3))
        grid = {"Cs": [0.01, 1, 100], "cv": 3, **how}
        out[f"cv {solver}"] = lambda grid=grid: TorchLogisticRegressionCV(**grid).fit(*tall(2))
        out[f"cv digits {solver}"] = lambda grid=grid: TorchSoftmaxClassifierCV(**{**grid, "tol": 1e-8}).fit(
            *table("wine", True)
        )
    half = torch.from_numpy(tall(2)[0]).half()
    out["half precision"] = lambda: TorchLogisticRegression(tol=1e-5).fit(half, tall(2)[1])
    out["integers"] = lambda: TorchLogisticRegression(tol=1e-9).fit(
        table("digits", False)[0][:500].astype(np.int8) > 7, table("digits", False)[1][:500] > 4
    )
    out["auto, iris"] = lambda: TorchSoftmaxClassifier(tol=1e-9).fit(*table("iris", True))
    search = {"C": [0.1, 1], "fit_intercept": [True, False]}
    out["search"] = lambda: TorchGridSearchCV(TorchLogisticRegression(tol=1e-9), search, cv=3).fit(*tall(2))
    return out


def numbers(model):
    """All coefficients of a fitted model."""
    model = getattr(model, "best_estimator_", model)
    paths = np.ravel(getattr(model, "coefs_paths_", ()))
    return np.concatenate([np.ravel(model.coef_), np.ravel(model.intercept_), paths]).astype(np.float64)


@pytest.mark.parametrize("name", fits())
def test_a_fit_gives_what_it_gave(name, monkeypatch):
    monkeypatch.setattr("torchlogreg._solvers.tuning.NUMPY_LBFGS_NUMBERS", 0)  # the file is older than that solver
    stored = np.load(STORED)[name]
    found = numbers(fits()[name]())
    single = "float32" in name or name == "half precision"
    np.testing.assert_allclose(found, stored, rtol=0, atol=(2e-4 if single else 1e-9) * np.abs(stored).max())


if __name__ == "__main__":
    np.savez_compressed(STORED, **{name: numbers(fit()) for name, fit in fits().items()})
