"""Whether a fit tells the truth about where it ended, and ends at all."""

import time
import warnings

import numpy as np
import pytest
from conftest import Callback, gradient_norm, table
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier

SOLVERS = ["auto", "lbfgs", "newton-cholesky"]


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
def test_too_few_iterations(solver):
    X, y = table("wine", True)
    message = rf"solver='{solver}' did not converge.*Raise max_iter \(now 2\)"
    with pytest.warns(ConvergenceWarning, match=message) as record:
        model = TorchSoftmaxClassifier(solver=solver, max_iter=2).fit(X, y)
    assert record[0].filename == __file__  # the warning points at the caller
    assert not model.converged_
    assert model.n_iter_[0] == 2
    assert gradient_norm(model, X, y) > model.tol


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("estimator", [TorchLogisticRegression, TorchSoftmaxClassifier])
def test_separable_data_without_a_penalty(estimator, solver):
    X = np.array([[-2.0], [-1.0], [1.0], [2.0], [4.0], [5.0]])
    y = [0, 0, 1, 1, 1, 1] if estimator is TorchLogisticRegression else [0, 0, 1, 1, 2, 2]
    if estimator is TorchSoftmaxClassifier:
        X = np.column_stack([X, X**2])
    start = time.perf_counter()
    with pytest.warns(ConvergenceWarning, match=r"perfectly separated.*Use a finite C"):
        model = estimator(C=np.inf, solver=solver).fit(X, y)
    assert time.perf_counter() - start < 5
    assert not model.converged_
    assert np.isfinite(model.coef_).all()
    assert model.score(X, y) == 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tolerance_below_rounding_is_named_as_such(solver):
    X, y = table("breast_cancer", False)
    with pytest.warns(ConvergenceWarning, match="more than float64 rounding. Standardise X or raise tol"):
        model = TorchLogisticRegression(solver=solver, tol=1e-30, max_iter=1000).fit(X, y)
    assert not model.converged_
    assert model.n_iter_[0] < 200


def test_float32_coefficients_that_cannot_express_the_optimum():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)).astype(np.float32)
    y = X[:, 0] + rng.normal(size=500) > 0
    X[:, 1] = 2000 + 5 * X[:, 1]
    X[:, 2] *= 1e5
    with pytest.warns(ConvergenceWarning, match="Coefficients in float32 cannot express"):
        model = TorchLogisticRegression(tol=1e-7).fit(X, y)
    exact = TorchLogisticRegression(tol=1e-6).fit(X.astype(np.float64), y)
    assert model.objective_ == pytest.approx(exact.objective_, rel=1e-5)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
@pytest.mark.parametrize("kind", ["income", "scales", "offset"])
def test_float32_products_hand_over_to_float64_in_time(kind, solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30_000, 30))
    y = X[:, 0] + rng.normal(size=30_000) > 0
    if kind == "income":
        X[:, 3] = 5e4 * np.exp(X[:, 3])
    elif kind == "scales":
        X *= 10.0 ** np.linspace(-3, 5, 30)
    else:
        X += 100.0
    X = X.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticRegression(solver=solver, max_iter=500).fit(X, y)
    exact = TorchLogisticRegression(solver="newton-cholesky", tol=1e-6).fit(X.astype(np.float64), y)
    assert model.n_iter_[0] < 60
    assert model.objective_ == pytest.approx(exact.objective_, rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_hostile_shapes_end_quickly_at_the_optimum(solver):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 5))
    cases = {
        "two rows": (noise[:2], [0, 1]),
        "one column": (noise[:, :1], rng.integers(0, 2, 200)),
        "one row of a class": (noise, np.arange(200) // 199),
        "offset": (noise + (1e4 if solver == "lbfgs" else 1e6), rng.integers(0, 3, 200)),
        "fifty classes": (noise, np.arange(200) % 50),
        "more columns than rows": (rng.normal(size=(30, 400)), np.arange(30) % 3),
        "no signal": (np.zeros((20, 3)), np.arange(20) % 2),
    }
    for name, (X, y) in cases.items():
        start = time.perf_counter()
        model = TorchSoftmaxClassifier(solver=solver, max_iter=500).fit(X, y)
        assert model.converged_, name
        assert gradient_norm(model, X, np.asarray(y)) <= 1.001e-4, name
        assert time.perf_counter() - start < 10, name


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
def test_a_few_weighted_rows_among_many(solver):
    X = np.random.default_rng(0).normal(size=(100_000, 2))
    y, weight = np.arange(100_000) % 2, np.zeros(100_000)
    weight[:6] = 1
    model = TorchLogisticRegression(solver=solver, tol=1e-9).fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, TorchLogisticRegression(tol=1e-9).fit(X[:6], y[:6]).coef_, rtol=1e-6)


def test_overflow_is_an_error_that_says_what_to_do():
    X, y = np.array([[1e200, 1.0], [-1e200, 2.0], [1e199, 0.0]]), [0, 1, 0]
    model = TorchLogisticRegression().fit(np.eye(3)[:, :2], y)
    before = model.coef_
    for solver in ("newton-cholesky", "lbfgs"):
        with pytest.raises(ValueError, match="Standardise X"):
            model.set_params(solver=solver).fit(X, y)
    assert model.coef_ is before
    data = table("wine", False)
    with pytest.raises(ValueError, match=r"overflowed after 1 iterations.*Lower learning_rate"):
        TorchSoftmaxClassifier(solver="sgd", learning_rate=1e300).fit(*data)


class Interrupt(Callback):
    """A callback that raises, in a task or at the end of the fit."""

    def __init__(self, where):
        self.where = where

    def on_fit_task_end(self, estimator, context):
        if context.task_name == self.where:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["iteration", "fit"])
def test_an_interrupted_fit_leaves_the_model_as_it_was(where):
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier().fit(X, y).set_callbacks(Interrupt(where))
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:, :3], y)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)


def test_verbose_prints_a_line_an_iteration_and_silence_is_the_default(capsys):
    X, y = table("iris", True)
    TorchSoftmaxClassifier().fit(X, y)
    assert capsys.readouterr().out == ""
    model = TorchSoftmaxClassifier(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_[0]
    assert "objective" in lines[0]
    assert "max|gradient|" in lines[0]


def test_auto_picks_by_size():
    import torch

    from torchlogreg._rows import Rows
    from torchlogreg.solvers import choose

    def rows(n, d):
        return Rows(torch.zeros(1).expand(n, d - 1), None, None, intercept=True)

    assert choose(rows(150, 5), 3) == "newton-cholesky"
    assert choose(rows(2000, 11), 1) == "newton-cholesky"
    assert choose(rows(100_000, 20), 1) == "lbfgs"
    assert choose(rows(1797, 65), 10) == "lbfgs"
    assert choose(rows(60_000, 785), 10) == "lbfgs"
    assert choose(rows(500, 20_001), 1) == "lbfgs"
