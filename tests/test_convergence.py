"""Whether a fit tells the truth about where it ended, and ends at all."""

import warnings

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, SOLVERS, Interrupt, dense_design, gradient_norm, objective_of, table
from scipy.optimize import linprog
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.separation import is_separated


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_too_few_iterations(solver):
    X, y = table("wine", True)
    message = rf"solver='{solver}' did not converge.*Raise max_iter \(now 2\)"
    with pytest.warns(ConvergenceWarning, match=message) as record:
        model = TorchSoftmaxClassifier(solver=solver, max_iter=2).fit(X, y)
    assert record[0].filename == __file__  # the warning points at the caller
    assert not model.converged_
    assert model.n_iter_[0] == 2
    assert gradient_norm(model, X, y) > model.tol


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("estimator", [TorchLogisticRegression, TorchSoftmaxClassifier])
def test_separable_data_without_a_penalty(estimator, solver):
    X = np.array([[-2.0], [-1.0], [1.0], [2.0], [4.0], [5.0]])
    y = [0, 0, 1, 1, 1, 1] if estimator is TorchLogisticRegression else [0, 0, 1, 1, 2, 2]
    if estimator is TorchSoftmaxClassifier:
        X = np.column_stack([X, X**2])
    with pytest.warns(ConvergenceWarning, match=r"perfectly separated.*Use a finite C"):
        model = estimator(C=np.inf, solver=solver).fit(X, y)
    assert model.n_iter_[0] < 100  # of which many would be a wait
    assert not model.converged_
    assert np.isfinite(model.coef_).all()
    assert model.score(X, y) == 1


def partly_separated(kind):
    """Rows some of which a plane separates, while the others hold it in place."""
    rng = np.random.default_rng(0)
    if kind == "one column":
        return np.array([[-1.0], [0.0], [0.0], [1.0]]), np.array([0, 0, 1, 1])
    if kind == "one class of three":
        X = rng.normal(size=(150, 2))
        X[100:] += 10.0
        return X, np.repeat([0, 1, 2], 50)
    n = 20_000 if kind == "rare category" else 300
    category, x = rng.integers(10, size=n), rng.normal(size=n)
    category[:5] = 10
    y = (x + rng.logistic(size=n) > 0).astype(int)
    y[category == 10] = 1
    return np.column_stack([np.eye(11)[category], x, 50 + 2 * x]), y


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("container", [np.array, np.float32, csr_array, "stream"])
@pytest.mark.parametrize("kind", ["one column", "one class of three", "category", "rare category"])
def test_rows_that_are_separated_without_a_penalty(kind, container, solver):
    X, y = partly_separated(kind)
    data = [(X[::2], y[::2]), (X[1::2], y[1::2])] if container == "stream" else container(X)
    with pytest.warns(ConvergenceWarning, match=r"some of their rows, are perfectly separated.*Use a finite C"):
        model = TorchSoftmaxClassifier(C=np.inf, solver=solver).fit(data, None if container == "stream" else y)
    assert not model.converged_
    assert TorchSoftmaxClassifier(C=1e3, solver=solver, max_iter=300).fit(X, y).converged_


def separation(X, y, weight=None, *, intercept=True, seed=0):
    """`is_separated`, from random coefficients."""
    loss = loss_of(int(y.max()) + 1)
    weight = np.ones(len(y)) if weight is None else weight
    targets = loss.targets(torch.from_numpy(y), torch.float64)
    problem = objective_of(dense_design(X, targets, weight[:, None], intercept), loss, 0.0)
    W = np.random.default_rng(seed).normal(size=(1, X.shape[1] + intercept, loss.n_logits))
    return is_separated(problem, torch.from_numpy(W))


def separation_by_linear_programming(X, y, weight, intercept):
    X, (classes, y) = X[weight > 0], np.unique(y[weight > 0], return_inverse=True)
    X = np.column_stack([X, np.ones(len(X))]) if intercept else X
    margins = np.array(
        [
            np.kron(np.eye(len(classes))[own] - other, x)
            for x, own in zip(X, y, strict=True)
            for other in np.eye(len(classes))
            if not other[own]
        ]
    )
    margins /= np.abs(margins).max(axis=0, initial=1e-300)
    if len(classes) < 2:
        return False
    precision = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(-margins.sum(axis=0), -margins, np.zeros(len(margins)), bounds=(-1, 1), options=precision)
    return -found.fun > 1e-6


@pytest.mark.parametrize("kind", ["plain", "ties", "categories", "collinear", "offsets", "indicators"])
def test_separation_is_what_linear_programming_says(kind):
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, p, K = rng.integers(6, 50), rng.integers(1, 6), rng.integers(2, 5)
        X = rng.normal(size=(n, p))
        X = {
            "plain": X,
            "ties": X.round(),
            "categories": np.column_stack([np.eye(3)[rng.integers(3, size=n)], np.eye(4)[rng.integers(4, size=n)], X]),
            "collinear": np.column_stack([X, X[:, 0] - 2 * X[:, -1]]) * 10.0 ** rng.integers(-6, 6, size=p + 1),
            "offsets": X + 10.0 ** rng.integers(6, size=p),
            "indicators": (X > 1).astype(float),
        }[kind]
        scores = X[:, :1] * rng.normal(size=K) * rng.choice([0, 1, 5]) + rng.gumbel(size=(n, K)) * rng.choice([0.1, 1])
        y = np.unique(scores.argmax(axis=1), return_inverse=True)[1]
        if not y.any():
            continue
        weight = np.where(rng.random(n) < rng.choice([0, 0.3]), 0.0, 1.0 + rng.random(n))
        weight[y == 0] *= rng.random() > 0.1  # a class may weigh nothing, which is no separation
        intercept = bool(seed % 2)
        expected = separation_by_linear_programming(X, y, weight, intercept)
        assert separation(X, y, weight, intercept=intercept, seed=seed) == expected, seed
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize("n", [300, 200_000])  # of many rows a sample tells
def test_one_row_is_enough_to_overlap(n):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(n, 3)), 100 + rng.normal(size=n), np.eye(3)[rng.integers(3, size=n)]])
    eta = X @ [1.0, -1.0, 0.5, 3.0, 1.0, 0.0, 0.0] - 300
    y = (eta > 0).astype(int)
    assert separation(X, y)
    y[eta.argmax()] = 0
    assert not separation(X, y)
    y[eta.argmax()] = 1
    boundary = X[[eta.argmin()]] + (X[eta.argmax()] - X[eta.argmin()]) * eta.min() / (eta.min() - eta.max())
    X, y = np.vstack([X, boundary, boundary]), np.append(y, [0, 1])
    assert separation(X, y)  # the plane has to pass through two rows in one place
    X[-1] += 1e-7 * (X[eta.argmin()] - X[-1])
    assert not separation(X, y)


def test_wide_rows_are_looked_at_in_their_span():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 200))
    y = np.arange(40) % 2
    assert separation(X, y)
    assert separation(np.vstack([X, X[:5]]), np.append(y, 1 - y[:5]))
    assert not separation(np.vstack([X, X]), np.append(y, 1 - y))
    for labels in (y, np.append(y, 1 - y[:5])):
        with pytest.warns(ConvergenceWarning, match="perfectly separated"):
            TorchLogisticRegression(C=np.inf).fit(np.vstack([X, X])[: len(labels)], labels)


def test_folds_that_are_separated_do_not_converge():
    X, y = partly_separated("category")
    with pytest.warns(ConvergenceWarning, match="5 of 11 models did not converge"):
        model = TorchLogisticRegressionCV(Cs=[1e-3, np.inf], cv=5, scoring="neg_log_loss").fit(X, y)
    assert not model.converged_
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        TorchGridSearchCV(TorchLogisticRegression(), {"C": [np.inf], "fit_intercept": [False]}).fit(X, y)
    y[:3] = 0
    assert (
        TorchLogisticRegressionCV(Cs=[1e-3, np.inf], cv=3, scoring="neg_log_loss").fit(X[5:, 10:11], y[5:]).converged_
    )


@pytest.mark.parametrize("solver", DETERMINISTIC)
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


@pytest.mark.parametrize("solver", DETERMINISTIC)
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


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_hostile_shapes_end_quickly_at_the_optimum(solver):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 5))
    cases = {
        "two rows": (noise[:2], [0, 1]),
        "one column": (noise[:, :1], rng.integers(0, 2, 200)),
        "one row of a class": (noise, np.arange(200) // 199),
        "offset": (noise + (1e6 if solver == "newton-cholesky" else 1e4), rng.integers(0, 3, 200)),
        "fifty classes": (noise, np.arange(200) % 50),
        "more columns than rows": (rng.normal(size=(30, 400)), np.arange(30) % 3),
        "no signal": (np.zeros((20, 3)), np.arange(20) % 2),
    }
    for name, (X, y) in cases.items():
        model = TorchSoftmaxClassifier(solver=solver, max_iter=500).fit(X, y)
        assert model.converged_, name
        assert gradient_norm(model, X, np.asarray(y)) <= 1.001e-4, name
        assert model.n_iter_[0] <= 60, name


@pytest.mark.parametrize("solver", DETERMINISTIC)
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


OUT_OF_RANGE = {
    "squares overflow": ({"X": 1e160}, "Squares of the numbers of X overflow in float64"),
    "squares underflow": ({"X": 1e-170, "C": np.inf}, "Squares of the numbers of X underflow in float64"),
    "1 / C": ({"C": 1e-310}, "C=1e-310 is too small"),
    "penalty": (
        {"C": 1e-300, "weight": 1e-300},
        r"The penalty, 1 / C over the sum of the weights, overflows\. Raise C",
    ),
    "weights": ({"weight": 1e200, "class_weight": 1e200}, "sample_weight times class_weight overflows"),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    ("case", "solver", "search"),
    [
        (case, solver, search)
        for case in OUT_OF_RANGE
        for solver in SOLVERS
        for search in (False, True)
        if not (search and solver == "sgd")
    ],
)
def test_numbers_out_of_range_are_errors_that_say_so(case, solver, n_classes, search):
    options, message = OUT_OF_RANGE[case]
    X, y = table("iris", True)
    X, y = (X, y) if n_classes == 3 else (X[50:], y[50:])
    X = X * options.get("X", 1.0)
    weight = np.full(len(y), options.get("weight", 1.0))
    C, class_weight = options.get("C", 1.0), None
    if "class_weight" in options:
        class_weight = dict.fromkeys(np.unique(y).tolist(), options["class_weight"])
    if search:
        model = TorchSoftmaxClassifierCV(Cs=[C], cv=3, solver=solver, class_weight=class_weight)
    else:
        model = TorchSoftmaxClassifier(C=C, solver=solver, class_weight=class_weight)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, weight)
    assert not hasattr(model, "coef_")


def test_wide_numbers_out_of_range_are_errors_that_say_so():
    X = np.random.default_rng(0).normal(size=(20, 100))
    with pytest.raises(ValueError, match="overflow in float64"):
        TorchLogisticRegression().fit(1e160 * X, np.arange(20) % 2)
    with pytest.raises(ValueError, match="underflow in float64"):
        TorchLogisticRegression(C=np.inf).fit(1e-170 * X, np.arange(20) % 2)


def test_coefficients_may_start_where_residuals_are_tiny():
    X, y = np.array([[-1.0], [1.0], [0.0], [0.0]]), [0, 1, 0, 1]
    with pytest.warns(ConvergenceWarning, match="perfectly separated"):
        TorchLogisticRegression(C=np.inf).fit(X, y, coef_init=[[400.0]])


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


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_times_in_seconds_reach_the_optimum_and_say_so(C, solver):
    rng = np.random.default_rng(0)
    hours = rng.uniform(size=2000)
    y = hours + 0.3 * rng.logistic(size=2000) > 0.5
    seconds = 1.7e9 + 86_400.0 * hours[:, None]
    model = TorchLogisticRegression(C=C, solver=solver).fit(seconds, y)
    scaled = TorchLogisticRegression(C=C * 86_400**2, tol=1e-8).fit(hours[:, None], y)
    assert model.converged_
    assert model.objective_ == pytest.approx(scaled.objective_, rel=1e-6)
    grid = TorchLogisticRegressionCV(Cs=[C], cv=3, solver=solver).fit(seconds, y)
    assert grid.converged_
