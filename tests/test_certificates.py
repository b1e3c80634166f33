"""Whether `converged_` is true: held to optima that were found in another way, far more accurately."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, F64, dense_design, halves, objective_of, table
from scipy.sparse import csr_array
from scipy.special import logsumexp
from sklearn.model_selection import StratifiedKFold

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._runtime.linalg import root_cholesky
from torchlogreg._solvers.line_search import Descent, dot
from torchlogreg._solvers.preconditioners.base import hidden
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.starts import nearer


def losses_and_root(X1, codes, W):
    """Losses (n,), residuals (n, K), and roots (n K, K d) of second derivatives of the rows, without cancellation."""
    n, K = len(X1), max(2, len(W))
    eta = X1 @ W.T
    if len(W) == 1:
        eta = np.column_stack([np.zeros(n), eta])
    rows = np.arange(n)
    over = eta - eta[rows, codes][:, None]
    over[rows, codes] = -np.inf
    proba = np.exp(eta - logsumexp(eta, axis=1, keepdims=True))
    others = proba @ (1 - np.eye(K))
    residual = proba.copy()
    residual[rows, codes] = -others[rows, codes]
    root = -proba[:, :, None] * np.ones(K)
    root[:, np.arange(K), np.arange(K)] = others
    root = (root * np.sqrt(proba)[:, None]).transpose(0, 2, 1)  # (n, M, K)
    if len(W) == 1:
        root, residual = root[..., 1:], residual[:, 1:]
    J = root[..., None] * X1[:, None, None, :]
    return np.logaddexp(0, logsumexp(over, axis=1)), residual, J.reshape(n * K, -1)


def value_at(X, y, W, C):
    """F at W (K, d), from its definition."""
    losses, *_ = losses_and_root(np.column_stack([X, np.ones(len(X))]), np.unique(y, return_inverse=True)[1], W)
    return losses.mean() + (W[:, :-1] ** 2).sum() / (2 * C * len(X))


def optimum(X, y, W, C):
    """The least F, by Newton's method from W, whose systems are solved by orthogonal factors of scaled columns."""
    codes, X1 = np.unique(y, return_inverse=True)[1], np.column_stack([X, np.ones(len(X))])
    l2 = np.full(X1.shape[1], 1 / (C * len(X)))
    l2[-1] = 0.0
    value = value_at(X, y, W, C)
    for _ in range(300):
        _, residual, J = losses_and_root(X1, codes, W)
        gradient = (residual.T @ X1) / len(X) + l2 * W
        J = np.vstack([J / np.sqrt(len(X)), np.diag(np.tile(np.sqrt(l2), len(W)))])
        scale = np.sqrt((J**2).sum(axis=0))
        scale[scale == 0] = 1
        _, singular, V = np.linalg.svd(np.linalg.qr(J / scale, mode="r"))
        along, kept = V @ (gradient.ravel() / scale), singular > 1e-14 * singular[0]
        step = -(V[kept].T @ (along[kept] / singular[kept] ** 2) / scale).reshape(W.shape)
        decrement, t = (along[kept] ** 2 / singular[kept] ** 2).sum(), 1.0
        while t > 1e-12 and value_at(X, y, W + t * step, C) > value - 1e-4 * t * decrement:
            t /= 2
        if t > 1e-12:
            W = W + t * step
            value = value_at(X, y, W, C)
        if t <= 1e-12 or decrement < 1e-8 * value:  # half of it is left, next to which a gap of 1e-4 is large
            break
    return value


def gap(X, y, W, C):
    best = optimum(X, y, W, C)
    return value_at(X, y, W, C) / best - 1


def hostile(kind, rng):
    """Random rows and labels of two or more classes."""
    if kind == "digits":
        X, y = table("digits", True)
        index = rng.permutation(np.flatnonzero(y > 5))[: rng.integers(60, 160)]
        return X[index, ::2], y[index]
    n, p, K = int(rng.integers(40, 300)), int(rng.integers(2, 20)), int(rng.choice([2, 3, 5]))
    X = rng.normal(size=(n, p))
    if kind == "collinear":
        k = max(1, p // 3)
        X[:, :k] = X[:, -k:] @ rng.normal(size=(k, k)) + 10.0 ** rng.uniform(-14, -1) * rng.normal(size=(n, k))
    elif kind == "scales":
        X *= 10.0 ** rng.uniform(-8, 8, p)
    eta = X @ (rng.normal(size=(p, K)) * 10.0 ** rng.uniform(-1, 1) / np.abs(X).mean(axis=0)[:, None])
    y = (eta + (rng.gumbel(size=(n, K)) if kind != "nearly separable" else 0.0)).argmax(axis=1)
    y[rng.integers(0, n, 3)] = rng.integers(0, K, 3)
    y[: 4 * K] = np.arange(4 * K) % K
    return X, y


def coefficients(model):
    return np.column_stack([model.coef_, model.intercept_]).astype(np.float64)


KINDS = ["collinear", "nearly separable", "scales", "digits"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_says_converged_is_within_its_tolerance(kind, solver, dtype):
    rng = np.random.default_rng([KINDS.index(kind), DETERMINISTIC.index(solver), np.dtype(dtype).itemsize])
    n_converged = 0
    for C in 10.0 ** rng.uniform(-3, 9, 4):
        X, y = hostile(kind, rng)
        X = X.astype(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = TorchSoftmaxClassifier(C=C, solver=solver, max_iter=300).fit(X, y)
        n_converged += model.converged_
        if model.converged_:
            assert gap(X.astype(np.float64), y, coefficients(model), C) <= 1.001e-4
    assert n_converged >= (2 if dtype == np.float64 or kind != "scales" else 0)  # not by saying it of none


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_that_says_converged_is_within_its_tolerance(kind, solver, dtype):
    rng = np.random.default_rng([KINDS.index(kind), len(solver), np.dtype(dtype).itemsize])
    X, y = hostile(kind, rng)
    X, Cs, cv = X.astype(dtype), 10.0 ** rng.uniform(-4, 8, 3), StratifiedKFold(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = TorchSoftmaxClassifierCV(Cs=Cs, cv=cv, solver=solver, max_iter=300).fit(X, y)
    if model.converged_:
        X = X.astype(np.float64)
        for paths, (train, _) in zip(model.coefs_paths_, cv.split(X, y), strict=True):
            for W, C in zip(paths[0].astype(np.float64), Cs, strict=True):
                assert gap(X[train], y[train], W, C) <= 1.001e-4
        assert gap(X, y, coefficients(model), model.C_) <= 1.001e-4


def test_folds_whose_classes_are_nearly_separable_end_at_their_optimum():
    X, y = table("digits", True)
    X, y, Cs, cv = X[y < 5][:450], y[y < 5][:450], [1e-4, 1.0, 1e8], StratifiedKFold(3)
    model = TorchSoftmaxClassifierCV(Cs=Cs, cv=cv, max_iter=300).fit(X, y)
    assert model.converged_
    for paths, (train, _) in zip(model.coefs_paths_, cv.split(X, y), strict=True):
        assert gap(X[train], y[train], paths[0, -1], Cs[-1]) <= 1.001e-4


@pytest.mark.parametrize("container", ["dense", "sparse", "grid"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_what_only_the_difference_of_two_columns_tells_is_found(solver, n_classes, container):
    rng = np.random.default_rng(0)
    z, u = rng.normal(size=(2, 300))
    y = np.digitize(u + 0.7 * rng.logistic(size=300), [0] if n_classes == 2 else [-1, 1])
    apart = TorchSoftmaxClassifier(C=np.inf, tol=1e-8).fit(np.column_stack([z, u]), y)
    X = np.column_stack([z, z + 1e-9 * u])
    model = TorchSoftmaxClassifier(C=np.inf, solver=solver)
    if container == "grid":
        model = TorchGridSearchCV(model, {"fit_intercept": [True]}, cv=3)
    model = model.fit(csr_array(X) if container == "sparse" else X, y)
    model = getattr(model, "best_estimator_", model)
    assert model.converged_
    assert model.objective_ == pytest.approx(apart.objective_, rel=2e-4)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("C", [np.inf, 1e8])
def test_columns_that_depend_on_one_another_exactly_hide_nothing(C, solver):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 4))
    y = (X @ [1, -1, 0.5, 0] + rng.logistic(size=400) > 0).astype(int)
    model = TorchLogisticRegression(C=C, solver=solver).fit(X, y)
    twice = TorchLogisticRegression(C=C, solver=solver).fit(np.column_stack([X, X[:, 0] + X[:, 1], np.ones(400)]), y)
    assert twice.converged_
    assert twice.objective_ == pytest.approx(model.objective_, rel=1e-4)
    assert np.abs(twice.coef_).max() < 10


def problem_of(K, n=300, p=4, l2=1e-3, X=None):
    torch.manual_seed(0)
    X = torch.randn(n, p, dtype=F64) if X is None else X
    loss = loss_of(K)
    y = loss.targets(torch.randint(0, K, (n,)), F64)
    return objective_of(dense_design(X, y, torch.rand(n, 1, dtype=F64) + 0.1), loss, l2)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("K", [2, 4])
def test_a_root_of_the_hessian_is_one(K, l2):
    problem = problem_of(K, n=1200, l2=l2)
    W = torch.randn(1, 5, problem.loss.n_logits, dtype=F64)
    root, hessian = problem.root(W), problem.second_order(W).hessian[0, 0]
    direction = problem.centred(torch.randn_like(W)).mT.flatten()  # where nothing is lifted
    torch.testing.assert_close(root.T @ (root @ direction), hessian @ direction)
    torch.testing.assert_close(root.triu(), root)
    scale, factor, shift = root_cholesky(root)
    torch.testing.assert_close(factor @ factor.T, scale[:, None] * root.T @ root * scale, rtol=1e-9, atol=1e-9)
    assert not shift.any()


def test_a_root_sees_what_sums_of_products_lose():
    z, u = torch.randn(2, 300, dtype=F64, generator=torch.Generator().manual_seed(0))
    problem = problem_of(2, p=2, l2=0.0, X=torch.stack([z, z + 1e-9 * u], dim=1))
    W = torch.zeros(1, 3, 1, dtype=F64)
    small = torch.linalg.svdvals(problem.root(W))[-1]
    along = torch.tensor([[[-1.0], [1.0], [0.0]]], dtype=F64)
    logits = problem.design.matvec(along)[:, 0, 0]
    exact = (0.25 * problem.design.weight[:, 0] * (logits - logits.mean()) ** 2).sum().sqrt() / 2**0.5
    assert float(small) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("l2", [1e-6, 1e-2])
def test_what_a_raised_factor_hides_is_bounded(l2, K):
    problem = problem_of(K, l2=l2)
    point = problem.second_order(0.1 * torch.randn(1, 5, problem.loss.n_logits, dtype=F64))
    preconditioner = CholeskyPreconditioner.of(
        point.hessian + 0.05 * torch.diag_embed(point.hessian.diagonal(dim1=2, dim2=3))
    )
    preconditioner = replace(preconditioner, shift=torch.full_like(preconditioner.shift, 0.05 / 1.05))
    seen = Descent(point, preconditioner, -preconditioner.solve(point.gradient)).gap
    exact = CholeskyPreconditioner.of(point.hessian).solve(point.gradient)
    whole = 0.5 * dot(point.gradient, exact) / point.value
    hides = hidden(problem, preconditioner, point)
    assert bool((whole > 1.001 * seen).all())
    assert bool((seen + hides >= whole).all())


STARTS = {"shrunk rows": None, "far intercept": 200.0, "farther": -500.0, "farthest": 1e300}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("start", STARTS)
def test_a_start_in_saturated_losses_ends_where_zero_does(start, solver, dtype):
    X, y = table("breast_cancer", start != "shrunk rows")
    X = X.astype(dtype)
    model = TorchLogisticRegression(solver=solver)
    cold = TorchLogisticRegression(solver=solver).fit(X, y)
    if start == "shrunk rows":
        model.set_params(warm_start=True).fit(X / 10, y).fit(X, y)
    else:
        model.fit(X, y, intercept_init=[STARTS[start]])
    assert model.converged_
    assert model.objective_ == pytest.approx(cold.objective_, rel=2e-4)


@pytest.mark.parametrize("container", ["dense", "sparse", "wide", "stream"])
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_any_start_ends_where_zero_does(n_classes, solver, container):
    rng = np.random.default_rng(n_classes)
    n, p = (40, 100) if container == "wide" else (200, 6)
    X = rng.normal(size=(n, p))
    y = (X[:, :n_classes] + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    data = {"sparse": (csr_array(X), y), "stream": (halves(X, y),)}.get(container, (X, y))
    model = TorchSoftmaxClassifier(solver=solver, max_iter=300)
    value = model.fit(*data).objective_
    K = len(model.coef_)
    for size in 10.0 ** np.array([0.0, 2.0, 5.0, 12.0]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if size > 1e6 else "error")  # rounding of such logits may remain
            model.fit(*data, coef_init=size * rng.normal(size=(K, p)), intercept_init=size * rng.normal(size=K))
        assert model.objective_ == pytest.approx(value, rel=2e-4), size


def test_no_iterations_leave_a_far_start_where_it_is():
    X, y = table("iris", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for solver in DETERMINISTIC:
            model = TorchSoftmaxClassifier(solver=solver, max_iter=0).fit(X, y, intercept_init=[0.0, 100.0, 200.0])
            np.testing.assert_array_equal(model.intercept_, [0.0, 100.0, 200.0])


def test_the_best_point_on_the_way_to_zero():
    problem = problem_of(3)
    W = torch.stack([1e4 * torch.ones(5, 3, dtype=F64).cumsum(dim=1), torch.zeros(5, 3, dtype=F64)])
    both = Objective(problem.design, problem.loss, problem.penalty, problem.passes)
    found = nearer(both, both.value_and_gradient(W))
    assert float(both.value_and_gradient(found).value[0]) <= problem.loss.at_zero
    assert not found[1].any()
