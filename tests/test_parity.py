"""The same answers as scikit-learn's LogisticRegression, solved to a tight tolerance."""

import warnings
from functools import cache

import numpy as np
import pytest
from helpers import DETERMINISTIC, LOADERS, objective, table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier

STRENGTHS = [1e-3, 1.0, 1e4]


def rows(name, scaled, binary):
    """A table; of the digits enough rows, for Newton's Hessian of ten classes takes long."""
    X, y = table(name, scaled, binary)
    return (X[:600], y[:600]) if name == "digits" else (X, y)


def weights(n):
    return np.random.default_rng(0).uniform(0.1, 3.0, n)


@cache
def reference(name, scaled, binary, C):
    X, y = rows(name, scaled, binary)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=10_000, C=C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1e-12 is below what rounding allows on some raw tables
        return model.fit(X, y)


def fitted(
    name, scaled, binary, solver, C, weighted=False, class_weight=None, fit_intercept=True, dtype=np.float64, tol=1e-10
):
    X, y = rows(name, scaled, binary)
    estimator = TorchLogisticRegression if binary else TorchSoftmaxClassifier
    model = estimator(
        solver=solver, C=C, tol=tol, max_iter=2000, class_weight=class_weight, fit_intercept=fit_intercept
    )
    return model.fit(X.astype(dtype), y, sample_weight=weights(len(y)) if weighted else None)


def relative(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300)


def assert_agree(ours, theirs, X, tol):
    assert relative(ours.coef_, theirs.coef_) < tol
    assert relative(ours.intercept_, theirs.intercept_) < tol or np.abs(ours.intercept_ - theirs.intercept_).max() < tol
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=tol)
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("scaled", [True, False], ids=["standardised", "raw"])
@pytest.mark.parametrize(
    ("name", "binary"),
    [(name, binary) for name in LOADERS for binary in (True, False) if binary or name != "breast_cancer"],
)
def test_coefficients(name, binary, scaled, C, solver):
    X, _ = rows(name, scaled, binary)
    assert_agree(fitted(name, scaled, binary, solver, C), reference(name, scaled, binary, C), X, 1e-6)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced", "dict"])
@pytest.mark.parametrize(("name", "binary"), [("wine", False), ("breast_cancer", True)])
def test_weights_and_intercept(name, binary, class_weight, weighted, fit_intercept, solver):
    X, y = table(name, True, binary)
    if class_weight == "dict":
        class_weight = {int(label): 1.0 + 2.0 * i for i, label in enumerate(np.unique(y))}
    theirs = LogisticRegression(
        solver="newton-cholesky", tol=1e-12, max_iter=1000, class_weight=class_weight, fit_intercept=fit_intercept
    ).fit(X, y, sample_weight=weights(len(y)) if weighted else None)
    ours = fitted(name, True, binary, solver, 1.0, weighted, class_weight, fit_intercept)
    assert_agree(ours, theirs, X, 1e-6)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("scaled", [True, False], ids=["standardised", "raw"])
def test_no_penalty_where_the_optimum_is_finite(scaled, solver):
    X, _ = table("iris", scaled, True)  # versicolor and virginica overlap
    assert_agree(fitted("iris", scaled, True, solver, np.inf), reference("iris", scaled, True, np.inf), X, 1e-6)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_no_penalty_multiclass(solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))
    y = (X @ rng.normal(size=(4, 3)) + rng.gumbel(size=(500, 3))).argmax(axis=1)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-12, C=np.inf, max_iter=1000).fit(X, y)
    ours = TorchSoftmaxClassifier(solver=solver, C=np.inf, tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(ours.coef_.sum(axis=0), 0, atol=1e-9)  # the symmetric parametrisation
    centred = theirs.coef_ - theirs.coef_.mean(axis=0)
    assert relative(ours.coef_, centred) < 1e-6
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize(
    ("name", "binary"), [("iris", False), ("wine", False), ("breast_cancer", True), ("digits", False)]
)
def test_float32(name, binary, solver):
    X, _ = rows(name, True, binary)
    ours = fitted(name, True, binary, solver, 1.0, dtype=np.float32, tol=1e-5)
    assert ours.coef_.dtype == ours.intercept_.dtype == np.float32
    proba = ours.predict_proba(X.astype(np.float32))
    assert proba.dtype == np.float32
    theirs = reference(name, True, binary, 1.0)
    assert relative(ours.coef_, theirs.coef_) < 1e-3
    np.testing.assert_allclose(proba, theirs.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_defaults_on_raw_data_are_no_worse_than_the_best_solver_of_scikit_learn(name):
    X, y = table(name, False)
    ours = TorchSoftmaxClassifier().fit(X, y)  # a warning would be an error
    assert ours.converged_
    theirs = []
    for solver in ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs.append(objective(LogisticRegression(solver=solver, random_state=0).fit(X, y), X, y))
    assert ours.objective_ <= min(theirs) * (1 + 1e-9)


def test_auto_converges_with_defaults_over_a_grid_of_C():
    for name in LOADERS:
        for C in np.logspace(-4, 4, 5):
            assert TorchSoftmaxClassifier(C=C).fit(*table(name, True)).converged_, (name, C)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits"])
def test_sgd_comes_within_a_hundredth_of_the_optimum_in_fifty_epochs(name):
    X, y = table(name, True)
    optimum = TorchSoftmaxClassifier(tol=1e-8, max_iter=1000).fit(X, y).objective_
    for seed in range(3):
        model = TorchSoftmaxClassifier(solver="sgd", max_iter=50, tol=0, random_state=seed).fit(X, y)
        assert model.n_iter_[0] == 50
        assert model.objective_ <= 1.01 * optimum


def nasty():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, 8))
    coin = rng.integers(0, 2, 300)
    yield "breast_cancer raw", *(array[::3] for array in table("breast_cancer", False))
    yield "wine raw", *table("wine", False)
    yield "scales", noise * 10.0 ** np.linspace(-8, 8, 8), (noise[:, 0] > 0).astype(int)
    yield "outliers", np.vstack([noise[:3] * 1e4, noise[3:]]), coin
    yield "lognormal", np.exp(3 * noise), rng.integers(0, 3, 300)
    yield "zeros", np.zeros((60, 3)), np.arange(60) % 2
    yield "constant", np.full((60, 3), 1e8), np.arange(60) % 2
    yield "sorted", noise, np.arange(300) // 150


@pytest.mark.parametrize(("X", "y"), [pytest.param(X, y, id=name) for name, X, y in nasty()])
@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.99}, {"nesterov": True}, {"batch_size": 1}, {"batch_size": None}]
)
@pytest.mark.parametrize("C", [1.0, 1e-6, np.inf])
def test_the_automatic_learning_rate_never_diverges(X, y, settings, C):
    model = TorchSoftmaxClassifier(solver="sgd", C=C, max_iter=5, tol=0, random_state=0, **settings).fit(X, y)
    assert model.objective_ <= np.log(len(model.classes_)) * (1 + 1e-12)
