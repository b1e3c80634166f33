"""What the cases that run on pretend accelerators have in common: their names, their data, and where these are."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from helpers import DETERMINISTIC
from sklearn.datasets import make_classification

from torchlogreg import (
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._data import tuning

SINGLE = {"mps"}  # devices without float64
BINARY, SOFTMAX = TorchLogisticRegression, TorchSoftmaxClassifier
CV = {BINARY: TorchLogisticRegressionCV, SOFTMAX: TorchSoftmaxClassifierCV}
EPOCHS = {"solver": "sgd", "tol": 0, "max_iter": 3, "random_state": 0}
SOLVERS = DETERMINISTIC
PENALTIES = {
    "l1": {"l1_ratio": 1.0, "C": 0.02},
    "bounds": {"coef_bounds": (-0.05, 0.3)},
    "weights": {"penalty_weights": np.r_[0.0, 0.5, np.inf, np.ones(9)]},
    "all": {
        "l1_ratio": 0.5,
        "C": 0.02,
        "coef_bounds": (-0.05, 0.3),
        "penalty_weights": np.r_[2.0, np.inf, np.ones(10)],
    },
}


@cache
def table(n, p, n_classes, separation=1.0):
    X, y = make_classification(
        n, p, n_informative=max(4, p // 2), n_redundant=0, n_classes=n_classes, n_clusters_per_class=1,
        class_sep=separation, flip_y=0.1, random_state=0,
    )  # fmt: skip
    X.flags.writeable = y.flags.writeable = False
    return X, y


def small(cls):
    return table(300, 6, 2) if cls is BINARY else table(400, 7, 3)


def large(cls):
    """So many rows that solvers look at samples of them."""
    return table(9000, 8, 2, 0.5) if cls is BINARY else table(9000, 10, 4, 0.5)


def kinked(cls):
    """More rows than what NumPy solves on the host."""
    return table(3000, 12, 2 if cls is BINARY else 3, 0.5)


def wide(cls):
    return table(60, 200, 2 if cls is BINARY else 3)


X3, Y3 = small(SOFTMAX)
X2, Y2 = small(BINARY)
WEIGHT = np.random.default_rng(0).random(len(Y3)) * (np.arange(len(Y3)) % 7 > 0)


class Place(NamedTuple):
    """Where the data of a case is, and as what it is passed."""

    device: str
    as_tensors: bool  # tensors on the device; otherwise arrays of the host, and device=
    single: bool  # no float64

    def X(self, array, dtype="float64"):
        dtype = "float32" if self.single and dtype == "float64" else dtype
        tensor = torch.tensor(np.ascontiguousarray(array), dtype=getattr(torch, dtype), device="cpu")
        if self.as_tensors:
            return tensor.to(self.device)
        return tensor.numpy() if dtype in ("float32", "float64") else tensor

    def y(self, array):
        return torch.tensor(array, device="cpu").to(self.device) if self.as_tensors else array

    def index(self, array):
        return self.y(array)

    @property
    def options(self):
        return {} if self.as_tensors else {"device": self.device}

    def model(self, cls, dtype="float64", **options):
        """As precise as the dtype allows."""
        tol = 1e-9 if dtype == "float64" and not self.single else 1e-4
        return cls(**{"tol": tol, **options, **self.options})

    def fitted(self, cls, data=None, dtype="float64", **options):
        X, y = data or small(cls)
        model = self.model(cls, dtype, **options).fit(self.X(X, dtype), self.y(y))
        assert model.device_.startswith(self.device)
        return model


def numpy(value):
    return value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)


def answers(model, X):
    values = [model.coef_, model.intercept_, model.predict_proba(X), model.predict_log_proba(X)]
    return [*map(numpy, [*values, model.decision_function(X)]), model.converged_]


CASES: dict[str, Callable] = {}


def case(*parameters):
    """Name a function a case, or one case for each tuple of parameters after the place."""

    def register(function):
        for values in parameters or [()]:
            values = values if isinstance(values, tuple) else (values,)
            words = [getattr(value, "__name__", str(value)) for value in values]
            name = " ".join([function.__name__, *words])
            CASES[name] = lambda at, values=values: function(at, *values)
        return function

    return register


def each(*groups):
    """All combinations."""
    out = [()]
    for group in groups:
        out = [(*head, value) for head in out for value in group]
    return out


def stream_of(at, X, y, dtype="float64", weight=None, size=100):
    parts = [slice(start, start + size) for start in range(0, len(y), size)]
    extra = [() if weight is None else (at.X(weight[part]),) for part in parts]
    return [(at.X(X[part], dtype), at.y(y[part]), *more) for part, more in zip(parts, extra, strict=True)]


@contextmanager
def tuned(**values):
    before = {name: getattr(tuning, name) for name in values}
    try:
        for name, value in values.items():
            setattr(tuning, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(tuning, name, value)


# --- The comparison.


def flat(value):
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flat(item)]
    return [np.asarray(numpy(value))]


@cache
def expected(name, as_tensors, single):
    return flat(CASES[name](Place("cpu", as_tensors, single)))


def bound_of(name, single):
    """How far results of a case may be from the CPU's."""
    if single or any(word in name for word in ("float32", "float16", "whole")):
        return 1e-2 if "mostly_zero" in name or "weak_penalty" in name else 2e-3
    return 1e-6 if "mostly_zero" in name else 1e-7  # a sparse copy on the host is solved in another way
