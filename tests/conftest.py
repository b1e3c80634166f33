"""Data and helpers that several test files share."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before SciPy is imported: `array_api_dispatch` asks for it
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.preprocessing import StandardScaler

LOADERS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}


@cache
def table(name, scaled, binary=False):
    """A table of scikit-learn's; `binary` keeps the last two classes."""
    X, y = LOADERS[name](return_X_y=True)
    if binary:
        keep = y >= y.max() - 1
        X, y = X[keep], y[keep]
    if scaled:
        X = StandardScaler().fit_transform(X)
    X.flags.writeable = y.flags.writeable = False
    return X, y


def objective(estimator, X, y, sample_weight=None):
    """F at the coefficients of a fitted linear classifier, from its definition, in float64."""
    coef, intercept = np.float64(estimator.coef_), np.float64(estimator.intercept_)
    s = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    eta = np.asarray(X, dtype=np.float64) @ coef.T + intercept
    codes = np.searchsorted(estimator.classes_, y)
    if len(estimator.classes_) == 2:
        losses = np.logaddexp(0, eta[:, 0]) - codes * eta[:, 0]
    else:
        losses = np.logaddexp.reduce(eta, axis=1) - eta[np.arange(len(y)), codes]
    return (s @ losses + (coef**2).sum() / (2 * estimator.C)) / s.sum()


def gradient_norm(estimator, X, y):
    """max|gradient of F| at the coefficients of a fitted estimator, from its definition, in float64."""
    X, coef = np.asarray(X, dtype=np.float64), np.float64(estimator.coef_)
    eta = X @ coef.T + np.float64(estimator.intercept_)
    onehot = y[:, None] == estimator.classes_
    if len(coef) == 1:
        residual = 1 / (1 + np.exp(-eta)) - onehot[:, 1:]
    else:
        e = np.exp(eta - eta.max(axis=1, keepdims=True))
        residual = e / e.sum(axis=1, keepdims=True) - onehot
    gradient = (residual.T @ X + coef / estimator.C) / len(y)
    both = [gradient.ravel(), residual.mean(axis=0)] if estimator.fit_intercept else [gradient.ravel()]
    return np.abs(np.concatenate(both)).max()


needs_data = pytest.mark.skipif(
    "TORCHLOGREG_DATA" not in os.environ, reason="TORCHLOGREG_DATA names no folder with MNIST and the diabetes table"
)

# For processes whose memory is measured: the C library gives freed arrays back at once. By default it moves the size
# from which on it does so, and the same work takes 7 MB beside X in one run and 49 MB in another.
STEADY_HEAP = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


class Callback:
    """A callback of scikit-learn's protocol that does nothing; the tests' own override what they need."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads():
    """Two threads for torch, however many cores there are."""
    yield from threads(2)


@pytest.fixture
def one_thread():
    """One thread, as where an accelerator reads the rows."""
    yield from threads(1)


@pytest.fixture
def no_windows():
    """Pictures are drawn without a screen, and closed."""
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)
