"""Penalties with an L1 norm: scikit-learn's answers, exact zeros, gaps that are rigorous, and hostile data."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import F64, Blocks, objective, table
from scipy.optimize import minimize
from scipy.sparse import csr_array, issparse
from scipy.special import xlogy
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._cd_fast import enet_coordinate_descent_gram

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._solvers import tuning
from torchlogreg._solvers.block_pivoting import minimise_quadratic
from torchlogreg._solvers.curvature import BlockCurvature
from torchlogreg._solvers.kinks import Kinks, flat, kinks_of
from torchlogreg._solvers.matrices import BlockMatrix, DenseMatrix
from torchlogreg.callbacks import Checkpoint

SPARSE = {"l1_ratio": 1.0, "tol": 1e-9, "max_iter": 300}


def rows(n=200, p=8, n_classes=2, seed=0):
    """Rows of classes that some of the columns tell apart, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1))
    logits = X[:, : p // 2] @ rng.normal(size=(p // 2, n_classes)) + rng.gumbel(size=(n, n_classes))
    y = logits.argmax(axis=1)
    y[: 2 * n_classes] = np.arange(2 * n_classes) % n_classes
    return X, y


def weights(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.exponential(size=n) * (rng.random(n) < 0.8)


# scikit-learn's answers


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.3, 0.8, 1.0])
def test_elastic_net_has_the_minimiser_of_saga(l1_ratio, n_classes, intercept):
    X, y = rows(n_classes=n_classes)
    for C in (1e-3, 1e-2, 0.1, 1.0, 1e2):
        options = {"C": C, "l1_ratio": l1_ratio, "fit_intercept": intercept}
        theirs = LogisticRegression(solver="saga", random_state=0, tol=1e-10, max_iter=50_000, **options).fit(X, y)
        model = TorchSoftmaxClassifier(tol=1e-9, **options).fit(X, y)
        assert model.converged_
        assert model.solver_ == "prox-newton"
        if not theirs.coef_.any():  # then SAGA stops wherever its intercepts are
            assert not model.coef_.any()
            assert model.objective_ <= objective(theirs, X, y) * (1 + 1e-12)
            continue
        assert model.objective_ == pytest.approx(objective(theirs, X, y), rel=1e-9)
        np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)
        intercepts = (m.intercept_ - m.intercept_.mean() if n_classes > 2 else m.intercept_ for m in (model, theirs))
        np.testing.assert_allclose(*intercepts, rtol=1e-6, atol=1e-6)
        assert not model.coef_[theirs.coef_ == 0].any()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_weights_are_those_of_saga(class_weight, n_classes):
    X, y = rows(n_classes=n_classes)
    s = weights(len(y))
    options = {"C": 0.1, "l1_ratio": 0.7, "class_weight": class_weight}
    theirs = LogisticRegression(solver="saga", random_state=0, tol=1e-10, max_iter=20_000, **options).fit(X, y, s)
    model = TorchSoftmaxClassifier(tol=1e-9, **options).fit(X, y, s)
    assert model.converged_
    np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "digits"])
def test_the_lasso_has_the_minimiser_of_liblinear(name):
    X, y = table(name, True, binary=True)
    # Its intercept is a coefficient like the others, of a column of ones.
    ones = np.column_stack([X, np.ones(len(y))])
    for C in (1e-3, 1e-2, 0.1, 1.0):
        theirs = LogisticRegression(
            solver="liblinear", random_state=0, l1_ratio=1, C=C, tol=1e-12, max_iter=100_000
        ).fit(X, y)
        model = TorchLogisticRegression(C=C, fit_intercept=False, **SPARSE).fit(ones, y)
        assert model.converged_
        joined = np.append(theirs.coef_, theirs.intercept_)
        assert model.objective_ <= objective(theirs, X, y) + np.abs(theirs.intercept_).sum() / (C * len(y)) + 1e-12
        np.testing.assert_allclose(model.coef_[0], joined, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", [TorchLogisticRegression, TorchSoftmaxClassifier])
def test_a_share_of_zero_is_the_ridge_penalty(estimator):
    X, y = rows(n_classes=2 if estimator is TorchLogisticRegression else 3)
    ridge = estimator(solver="lbfgs", tol=1e-9).fit(X, y)
    model = estimator(solver="prox-newton", l1_ratio=0.0, tol=1e-9).fit(X, y)
    assert model.converged_
    np.testing.assert_allclose(model.coef_, ridge.coef_, atol=1e-7)
    hardly = estimator(l1_ratio=1e-9, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(hardly.coef_, ridge.coef_, atol=1e-6)


# What mathematics says


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_all_coefficients_are_zero_up_to_the_smallest_useful_C(l1_ratio, n_classes):
    X, y = rows(n_classes=n_classes)
    share = (y[:, None] == np.arange(n_classes)).astype(float)
    slope = np.abs(X.T @ (share - share.mean(axis=0))).max()
    for factor, expected in ((0.999, False), (1.001, True)):
        model = TorchSoftmaxClassifier(C=factor * l1_ratio / slope, l1_ratio=l1_ratio, tol=1e-8).fit(X, y)
        assert model.converged_
        assert model.coef_.any() == expected
        if not expected:
            np.testing.assert_allclose(model.predict_proba(X[:1])[0], share.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("size", [100.0, 1e300])
def test_on_wide_data_a_start_worse_than_zero_is_left_at_once(size):
    X, y = rows(60, 1500, n_classes=3)
    model = TorchSoftmaxClassifier(**SPARSE).fit(X, y)
    far = size * np.random.default_rng(1).normal(size=(3, 1500))
    started = clone(model).fit(X, y, coef_init=far, intercept_init=np.zeros(3))
    np.testing.assert_array_equal(started.coef_, model.coef_)


def test_where_all_coefficients_are_zero_few_rows_need_no_step():
    X, y = rows()
    assert TorchLogisticRegression(C=1e-6, **SPARSE).fit(X, y).n_iter_[0] == 0


def test_a_weight_is_a_repetition_and_weight_zero_no_row():
    X, y = rows(n_classes=3)
    times = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = TorchSoftmaxClassifier(**SPARSE).fit(X, y, times)
    repeated = TorchSoftmaxClassifier(**SPARSE).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-8)
    assert weighted.objective_ == pytest.approx(repeated.objective_, rel=1e-12)


@pytest.mark.parametrize("n", [200, 20_000])  # in NumPy, and from samples
@pytest.mark.parametrize("n_classes", [2, 3])
def test_containers_agree(n_classes, n, tmp_path):
    X, y = rows(n, 20, n_classes=n_classes)
    X[np.abs(X) < 0.5] = 0.0
    model = TorchSoftmaxClassifier(C=20 / n, **SPARSE)
    expected = clone(model).fit(X, y)
    assert expected.converged_
    assert 0 < np.count_nonzero(expected.coef_) < expected.coef_.size
    for data in ((csr_array(X), y), (Blocks(X, y, size=n // 7), None), (np.asfortranarray(X), y)):
        found = clone(model).fit(*data)
        assert found.converged_
        assert found.objective_ == pytest.approx(expected.objective_, rel=1e-10)
        np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-6)
        np.testing.assert_array_equal(found.coef_ == 0, expected.coef_ == 0)
        np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-6)


@pytest.mark.parametrize("n", [200, 20_000])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32_rows_have_float32_coefficients_with_the_same_zeros(n_classes, n):
    X, y = rows(n, 20, n_classes=n_classes)
    model = TorchSoftmaxClassifier(C=20 / n, l1_ratio=1.0, tol=1e-5)
    exact, found = (clone(model).fit(X.astype(dtype), y) for dtype in (np.float64, np.float32))
    assert found.converged_
    assert found.coef_.dtype == np.float32
    assert found.objective_ == pytest.approx(exact.objective_, rel=1e-5)
    assert found.objective_ == pytest.approx(objective(found, X.astype(np.float32), y), rel=1e-9)
    np.testing.assert_array_equal(found.coef_ == 0, exact.coef_ == 0)


@pytest.mark.parametrize("n", [200, 20_000])
def test_a_warm_start_goes_on(n):
    X, y = rows(n, 20, n_classes=3)
    cold = TorchSoftmaxClassifier(C=50 / n, **SPARSE).fit(X, y)
    warm = TorchSoftmaxClassifier(C=10 / n, warm_start=True, **SPARSE).fit(X, y)
    warm.set_params(C=50 / n).fit(X, y)
    assert warm.converged_
    assert warm.objective_ == pytest.approx(cold.objective_, rel=1e-9)
    np.testing.assert_array_equal(warm.coef_ == 0, cold.coef_ == 0)
    assert warm.fit(X, y).n_iter_[0] <= 1
    far = clone(cold).fit(X, y, coef_init=np.full((3, 20), [[1e3], [-1e3], [0.0]]))
    assert far.objective_ == pytest.approx(cold.objective_, rel=1e-9)


def test_solvers_that_take_no_kinks_are_refused_by_name():
    X, y = rows()
    for solver in ("lbfgs", "newton-cholesky"):
        with pytest.raises(ValueError, match=rf"solver='{solver}' takes no L1 norm.*'prox-newton'.*l1_ratio=0.5"):
            TorchLogisticRegression(solver=solver, l1_ratio=0.5).fit(X, y)


# SGD


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_sgd_comes_near_the_optimum_and_has_exact_zeros(l1_ratio, n_classes):
    X, y = rows(2000, 20, n_classes=n_classes)
    exact = TorchSoftmaxClassifier(C=0.02, l1_ratio=l1_ratio, tol=1e-8).fit(X, y)
    model = TorchSoftmaxClassifier(C=0.02, l1_ratio=l1_ratio, solver="sgd", random_state=0).fit(X, y)
    assert model.objective_ == pytest.approx(objective(model, X, y), rel=1e-9)
    assert exact.objective_ - 1e-12 <= model.objective_ <= exact.objective_ * (1 + 4e-3)
    zero = exact.coef_ == 0
    assert (model.coef_[zero] == 0).mean() > 0.2  # the noise of mini-batches moves others off it again
    assert np.abs(model.coef_[zero]).max() < 0.05 * np.abs(model.coef_).max()


def test_partial_fit_has_the_penalty_of_fit():
    X, y = rows(4000, 20)
    exact = TorchLogisticRegression(C=0.01, l1_ratio=1.0, tol=1e-8).fit(X, y)
    model = TorchLogisticRegression(C=0.01, l1_ratio=1.0, random_state=0)
    for _ in range(10):
        for part in np.split(np.arange(4000), 4):
            model.partial_fit(X[part], y[part], classes=[0, 1])
    assert objective(model, X, y) <= exact.objective_ * (1 + 0.05)  # as with an L2 norm
    assert (model.coef_ == 0).any()


# The quadratic model


def correlated(n, p, rho):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    return X


QUADRATICS = {
    **{f"chained, many rows, {share}": (partial(correlated, 4000, 150, 0.95), share) for share in (3, 30, 1000, 30000)},
    **{f"chained, few rows, {share}": (partial(correlated, 200, 300, 0.7), share) for share in (2, 10, 100)},
    "independent": (partial(correlated, 200, 150, 0.0), 100),
    "a common part": (lambda: correlated(200, 120, 0.0) + 3 * correlated(200, 1, 0.0), 100),
    "repeated": (lambda: np.hstack([correlated(200, 40, 0.5)] * 3), 30),
}


def quadratic(make, share):
    """A lasso's model at zero: Hessian, gradient and strength, as a share of the least that leaves all at zero."""
    X = make()
    y = np.random.default_rng(1).random(len(X)) < 1 / (1 + np.exp(-X[:, :10].sum(axis=1) / 2))
    residual = (0.5 - y) / len(X)
    slope = X.T @ (residual - residual.mean())
    Z = (X - X.mean(axis=0)) * np.sqrt(0.25 / len(X))
    return Z.T @ Z, slope, np.abs(slope).max() / share


def value_of(H, slope, strength, u):
    return 0.5 * u @ H @ u + slope @ u + strength * np.abs(u).sum()


@pytest.mark.parametrize("name", QUADRATICS)
def test_block_pivoting_finds_the_minimiser_of_coordinate_descent(name):
    H, slope, strength = quadratic(*QUADRATICS[name])
    p = len(H)
    kinks = Kinks(np.full(p, strength))
    options = (0.0, np.ascontiguousarray(H), -slope, np.ones(1), 5000, 1e-13, np.random.RandomState(0), False, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # columns with a common part take it more sweeps still
        expected = enet_coordinate_descent_gram(np.zeros(p), strength, *options, False)[0]
    for start in (np.zeros(p), np.random.default_rng(2).normal(size=p) * (np.arange(p) % 2)):
        u = minimise_quadratic(DenseMatrix(H), slope + H @ start, kinks, start, share=1e-8)
        least = value_of(H, slope, strength, expected)
        assert value_of(H, slope, strength, u) <= least + 1e-9 * abs(least)
        assert np.abs(kinks.violation(u, H @ u + slope)).max() <= 1e-6 * strength
    assert (u == 0).any()


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (-0.1, 0.2)])
@pytest.mark.parametrize("name", QUADRATICS)
def test_block_pivoting_within_bounds_finds_the_minimiser_of_a_projected_gradient(name, bounds):
    H, slope, strength = quadratic(*QUADRATICS[name])
    p, (low, high) = len(H), bounds
    kinks = Kinks(np.full(p, strength), np.full(p, low), np.full(p, high))
    u = minimise_quadratic(DenseMatrix(H), slope, kinks, np.zeros(p), share=1e-8)
    assert ((u >= low) & (u <= high)).all()
    assert np.abs(kinks.violation(u, H @ u + slope)).max() <= 1e-6 * strength
    halves_of = np.concatenate([np.eye(p), -np.eye(p)], axis=1)  # a positive and a negative part

    def value_and_gradient(parts):
        v = halves_of @ parts
        return value_of(H, slope, 0.0, v) + strength * parts.sum(), halves_of.T @ (H @ v + slope) + strength

    box = [(0, high)] * p + [(0, -low)] * p
    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(value_and_gradient, np.zeros(2 * p), jac=True, method="L-BFGS-B", bounds=box, options=options)
    assert value_of(H, slope, strength, u) <= found.fun + 1e-9 * abs(found.fun)


def test_blocks_with_pairs_are_the_matrix_that_they_stand_for():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(30, 12))
    H, S = A.T @ A, rng.normal(size=(12, 3))
    Y = H @ S + 0.1 * S
    blocks = BlockMatrix([H[:5, :5].copy(), H.diagonal()[5:9].copy(), H[9:, 9:].copy()], S, Y)
    whole = np.column_stack([blocks.times(column) for column in np.eye(12)])
    np.testing.assert_allclose(whole, whole.T, atol=1e-10)
    np.testing.assert_allclose(whole @ S[:, -1], Y[:, -1], rtol=1e-8)
    np.testing.assert_allclose(blocks.diagonal(), whole.diagonal(), rtol=1e-10)
    free, r, shift = np.array([0, 2, 5, 8, 10]), rng.normal(size=5), np.arange(12.0)
    part = whole[np.ix_(free, free)]
    np.testing.assert_allclose(blocks.solve(free, r), np.linalg.solve(part, r), rtol=1e-6)
    np.testing.assert_allclose(blocks.solve(free, r, shift), np.linalg.solve(part + np.diag(shift[free]), r), rtol=1e-6)
    simple = BlockMatrix([H.copy()], S, Y)
    whole = np.column_stack([simple.times(column) for column in np.eye(12)])
    np.testing.assert_allclose(simple.simplified().times(r := rng.normal(size=12)), whole @ r, rtol=1e-9)
    empty = BlockMatrix([], np.empty((0, 2)), np.empty((0, 2))).simplified()
    assert minimise_quadratic(empty, np.empty(0), Kinks(np.empty(0)), np.empty(0)).shape == (0,)


@pytest.mark.parametrize("shift", [None, 0.1])
@pytest.mark.parametrize("make", [DenseMatrix, lambda H: BlockMatrix([H.diagonal().copy()], H[:, :2], H[:, 2:4])])
def test_what_is_kept_of_one_solution_serves_the_next_ones(make, shift):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(800, 500)) * np.exp(rng.normal(size=500))
    A[:, 499] = A[:, 0] + A[:, 1]  # dependent: in no part at once
    H = A.T @ A
    matrix, fresh = make(H), lambda: make(H)
    shift = None if shift is None else np.full(500, shift)
    free = np.arange(1, 400)
    for n_changed in (0, 1, 5, 20, 0, 300):
        changed = rng.choice(np.arange(1, 499), n_changed, replace=False)
        free = np.setxor1d(free, changed)
        r = rng.normal(size=len(free))
        found, expected = matrix.solve(free, r, shift), fresh().solve(free, r, shift)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_blocks_that_grow_are_those_that_are_made_at_once():
    rng = np.random.default_rng(0)
    X, weights = torch.from_numpy(rng.normal(size=(40, 300))), torch.from_numpy(rng.random((300, 1, 2)))
    l2 = torch.rand(1, 40, dtype=F64)
    grown = BlockCurvature(X, torch.arange(40), weights, torch.ones(1, 2, 40, dtype=F64), l2)
    for size in (50, 55, 52, 60, 20):
        index = np.sort(rng.choice(80, size, replace=False))
        order, blocks = grown.blocks(0, index)
        expected_order, expected = grown.packed().blocks(0, index)
        np.testing.assert_array_equal(order, expected_order)
        for H, other in zip(blocks, expected, strict=True):
            np.testing.assert_allclose(H, other, rtol=1e-10, atol=1e-10)
            np.testing.assert_array_equal(H, H.T)


def test_the_rule_at_kinks_and_bounds_is_the_same_in_torch_and_in_numpy():
    rng = np.random.default_rng(0)
    W = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(1, 200, 3))
    gradient = rng.normal(size=W.shape)
    l1, lower, upper = rng.choice([0.0, 0.7], size=(3, 1, 200, 1)) * np.array([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    W = np.clip(W, lower, upper)
    for bounds in ((None, None), (lower, upper)):
        parts = [None if part is None else torch.from_numpy(part) for part in (l1, *bounds)]
        penalty = ElasticNet(torch.ones(1, 200, 1, dtype=F64), *parts)
        least = penalty.least_subgradient(torch.from_numpy(W), torch.from_numpy(gradient))
        found = kinks_of(penalty, 3).violation(flat(W[0]), flat(gradient[0]))
        np.testing.assert_array_equal(flat(least[0].numpy()), found)


# The softmax's flat direction, and the certificate


@pytest.mark.parametrize("case", ["iris, raw", "wine", "digits, four classes"])
def test_where_the_softmax_is_flat_the_median_coefficient_is_zero(case):
    C = 1e4 if case == "iris, raw" else 10.0
    X, y = table(case.split(",")[0], case == "wine")
    if "four" in case:
        X, y = X[y < 4][:300], y[y < 4][:300]
    model = TorchSoftmaxClassifier(C=C, **SPARSE).fit(X, y)
    assert model.converged_
    # A constant on the coefficients of a feature changes their norm alone, which is least around their median.
    low, high = (
        np.quantile(model.coef_, [0.5, 0.5], axis=0, method="lower"),
        np.sort(model.coef_, axis=0)[len(model.coef_) // 2],
    )
    assert ((low <= 0) & (high >= 0)).all()
    if len(model.coef_) % 2:  # of an even number any constant between the two in the middle is as good
        assert (model.coef_ == 0).any(axis=0).all()
    assert model.intercept_.sum() == pytest.approx(0.0, abs=1e-6 * np.abs(model.intercept_).max())
    assert model.objective_ - lower_bound(model, X, y) <= 1e-6 * model.objective_


@pytest.mark.parametrize("container", ["memory", "sparse", "many rows", "wide"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_gap_is_at_least_the_true_one(intercept, n_classes, container):
    n, p = {"many rows": (20_000, 20), "wide": (50, 300)}.get(container, (300, 20))
    X, y = rows(n, p, n_classes=n_classes)
    s = weights(n)
    data = csr_array(X) if container == "sparse" else X
    for l1_ratio, C in ((1.0, 10 / n), (0.5, 100 / n)):
        model = TorchSoftmaxClassifier(C=C, l1_ratio=l1_ratio, fit_intercept=intercept, max_iter=300)
        best = clone(model).set_params(tol=1e-10).fit(data, y, s)
        assert best.converged_
        assert 0 <= best.optimality_gap_ <= 1e-8
        assert best.objective_ - lower_bound(best, X, y, s) <= 1e-8
        for tol in (1e-1, 1e-2, 1e-4):
            found = clone(model).set_params(tol=tol).fit(data, y, s)
            assert found.optimality_gap_ >= found.objective_ - best.objective_ - 1e-14
            assert found.objective_ >= best.objective_ - 1e-14
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = clone(model).set_params(max_iter=0).fit(data, y, s)
    assert found.optimality_gap_ >= found.objective_ - best.objective_


# Hostile data


def losses_and_residuals(eta, y):
    """Of the logits (n, K), or (n, 1) of two classes: the losses (n,) and their derivatives."""
    n_logits, own = (
        eta.shape[1],
        np.arange(len(y)),
    )
    eta = np.column_stack([np.zeros(len(y)), eta]) if n_logits == 1 else eta
    eta = eta - eta[own, y][:, None]  # without cancellation: the losses may be tiny
    top = eta.max(axis=1)
    proba = np.exp(eta - top[:, None])
    proba[own, y] = 0.0
    others, total = proba.sum(axis=1), proba.sum(axis=1) + np.exp(-top)
    r = proba / total[:, None]
    r[own, y] = -others / total
    return np.where(top > 0, top + np.log(total), np.log1p(others)), r[:, 1:] if n_logits == 1 else r


def value_of_fit(model, X, y, s):
    """F at the coefficients of a fitted model, for y of 0, 1, ..."""
    losses, _ = losses_and_residuals(X @ np.float64(model.coef_).T + np.float64(model.intercept_), y)
    norms = model.l1_ratio * np.abs(model.coef_).sum() + (1 - model.l1_ratio) * (model.coef_**2).sum() / 2
    return (s @ losses + norms / model.C) / s.sum()


def lower_bound(model, X, y, sample_weight=None):
    """The best value of the dual problem near a fitted model, at most F's minimum, for y of 0, 1, ..."""
    s = np.ones(len(y)) if sample_weight is None else sample_weight
    l1, l2 = model.l1_ratio / model.C, (1 - model.l1_ratio) / model.C
    eta = X @ np.float64(model.coef_).T + np.float64(model.intercept_)
    onehot = y[:, None] == (np.arange(eta.shape[1]) if eta.shape[1] > 1 else 1)
    for _ in range(60 if model.fit_intercept else 0):  # the residuals of dual points sum to zero
        _, r = losses_and_residuals(eta, y)
        p = r + onehot
        H = np.diag(s @ p) - (s[:, None] * p).T @ p + (0 if eta.shape[1] == 1 else s.sum() / eta.shape[1])
        eta = eta - np.linalg.lstsq(H, s @ r)[0]
    _, r = losses_and_residuals(eta, y)
    V = X.T @ (s[:, None] * r)
    largest, best = np.abs(V).max(), -np.inf
    inside = min(1.0, l1 / largest * (1 - 1e-15)) if largest else 1.0
    for rho in (inside, 1.0, (1 + inside) / 2, 0.0):
        moved = rho * (r if eta.shape[1] > 1 else np.column_stack([-r, r]))
        own = moved[np.arange(len(y)), y]
        entropy = -(1 + own) * np.log1p(np.maximum(own, -1 + 1e-16)) - xlogy(*[np.maximum(moved, 0)] * 2).sum(axis=1)
        beyond = np.maximum(np.abs(rho * V) - l1, 0)
        conjugate = (beyond**2).sum() / (2 * l2) if l2 else np.inf if beyond.any() else 0.0
        best = max(best, (s @ entropy - conjugate) / s.sum())
    return best


def split_minimum(model, X, y, sample_weight):
    """F's minimum from a fitted model on, by L-BFGS-B on the positive and the negative parts of the coefficients."""
    s, (k, p) = sample_weight, model.coef_.shape
    X = X.toarray() if issparse(X) else X
    size = np.maximum(np.sqrt((X**2).mean(axis=0)), 1e-12)
    l1, l2 = model.l1_ratio / model.C / size, (1 - model.l1_ratio) / model.C / size**2
    Z = X / size

    def value_and_gradient(z):
        positive, negative, intercept = z[: k * p].reshape(k, p), z[k * p : 2 * k * p].reshape(k, p), z[2 * k * p :]
        W = positive - negative
        losses, r = losses_and_residuals(Z @ W.T + (intercept if model.fit_intercept else np.zeros(k)), y)
        value = s @ losses + (l1 * (positive + negative)).sum() + (l2 * W**2).sum() / 2
        slope, own = (s[:, None] * r).T @ Z + l2 * W, s @ r if model.fit_intercept else []
        return value / s.sum(), np.concatenate([(slope + l1).ravel(), (l1 - slope).ravel(), own]) / s.sum()

    W = model.coef_ * size
    start = [np.maximum(W, 0).ravel(), np.maximum(-W, 0).ravel(), model.intercept_ if model.fit_intercept else []]
    bounds = [(0, None)] * (2 * k * p) + [(None, None)] * (k * model.fit_intercept)
    options = {"maxiter": 3000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-12, "maxcor": 30}
    start = np.concatenate(start)
    return minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun


HOSTILE = [
    "plain", "dependent", "scales", "all zero", "weak", "no penalty", "weights", "sparse and wide", "wide", "table",
    "offsets", "hidden",
]  # fmt: skip


def hostile(seed):
    """A kind of data by the seed, and random data of it: the model, X, y and the weights."""
    rng, kind = np.random.default_rng(seed), HOSTILE[seed % len(HOSTILE)]
    n, p, K = int(rng.integers(20, 400)), int(rng.integers(1, 30)), int(rng.choice([2, 2, 3, 4]))
    l1_ratio, intercept = float(rng.choice([0.05, 0.3, 0.5, 0.95, 1.0, 1.0, 1.0])), bool(rng.random() < 0.8)
    powers = {"weak": (2, 8), "all zero": (-6, -3), "no penalty": (12, 12), "table": (-3, 4), "hidden": (-1, 14)}
    C = 10.0 ** rng.uniform(*powers.get(kind, (-3, 2)))
    if kind in ("sparse and wide", "wide"):
        n, p = int(rng.integers(20, 150)), int(rng.integers(100, 600) * (4 if kind != "wide" else 1))
    X = rng.normal(size=(n, p))
    if kind == "sparse and wide":
        X *= rng.random((n, p)) < 0.03
    elif kind == "dependent":
        k = max(1, p // 2)
        X = np.column_stack([X, X[:, :k], -X[:, :k], np.ones(n), np.zeros(n), X[:, :k] @ rng.normal(size=(k, k))])
    elif kind == "scales":
        X *= 10.0 ** rng.uniform(-4, 4, p)
    elif kind == "offsets":
        X += 10.0 ** rng.uniform(0, 3, p)
    elif kind == "hidden":  # what only differences of columns tell
        p = min(p, 8)
        X = np.column_stack([X[:, :p], X[:, :p] + 10.0 ** rng.uniform(-10, -2) * rng.normal(size=(n, p))])
    spread = np.maximum(X.std(axis=0), 1e-300)
    B = rng.normal(size=(X.shape[1], K)) * (rng.random((X.shape[1], 1)) < 0.5) * 10.0 ** rng.uniform(-1, 1)
    logits = (X - X.mean(axis=0)) / spread @ B / np.sqrt(X.shape[1])
    if kind == "hidden":
        logits = (X[:, p:] - X[:, :p]) / np.maximum((X[:, p:] - X[:, :p]).std(axis=0), 1e-300) @ B[:p]
    y = (logits + rng.gumbel(size=(n, K)) * (rng.random() > 0.1)).argmax(axis=1)
    y[: 2 * K] = np.arange(2 * K) % K
    if kind == "table":
        name = str(rng.choice(["iris", "wine", "breast_cancer", "digits"]))
        X, y = table(name, bool(rng.random() < 0.7))
        if name == "digits":
            keep = rng.permutation(np.flatnonzero(y < (4 if rng.random() < 0.8 else 10)))[:300]
            X, y = X[keep], np.unique(y[keep], return_inverse=True)[1]
    s = np.ones(len(y))
    if kind == "weights" or rng.random() < 0.2:
        s = rng.exponential(size=len(y)) * (rng.random(len(y)) < 0.7)
        s[np.unique(y, return_index=True)[1]] += 0.1
    model = TorchSoftmaxClassifier(C=C, l1_ratio=l1_ratio, fit_intercept=intercept, max_iter=100, solver="prox-newton")
    return kind, model, csr_array(X) if kind == "sparse and wide" else X, y, s


def true_gap(model, X, y, s):
    """How far a fitted model is above the minimum, relative to its objective, by an independent reference."""
    value = value_of_fit(model, X, y, s)
    assert model.objective_ == pytest.approx(value, rel=1e-9, abs=1e-14)
    least = lower_bound(model, X, y, s)
    if value - least > 1e-6 * value:
        best = clone(model).set_params(tol=1e-10, max_iter=1000).fit(X, y, s)
        least = max(least, lower_bound(best, X, y, s))
        if best.objective_ - least > 1e-7 * value:  # rounding, beside so weak a penalty
            least = min(best.objective_, split_minimum(best, X, y, s))
    return (value - least) / value


def is_told_the_truth(seed, tol):
    """Whether a fit to hostile data, asked for `tol`, converged; an error unless it then is where it says."""
    _, model, X, y, s = hostile(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not model.set_params(tol=tol).fit(X, y, s).converged_:
            return False
        gap, rounding = true_gap(model, X, y, s), 1e-14 / model.objective_
    assert gap <= 1.001 * tol + rounding, (seed, gap)
    assert model.optimality_gap_ >= (gap - 1e-9 - rounding) * model.objective_, (seed, gap, model.optimality_gap_)
    return True


@pytest.mark.parametrize("tol", [1e-4, 1e-6])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_sparse_fit_that_says_converged_is_within_its_tolerance(kind, tol):
    seeds = range(HOSTILE.index(kind), 4 * len(HOSTILE), len(HOSTILE))
    converged = [is_told_the_truth(seed, tol) for seed in seeds]
    assert sum(converged) >= {"hidden": 1, "no penalty": 3}.get(kind, 4)  # not by saying it of none


def test_the_hessian_of_all_classes_needs_no_intercept():
    X, y = rows(1500, 20, n_classes=10)
    model = TorchSoftmaxClassifier(C=0.3, fit_intercept=False, **SPARSE).fit(X, y)
    assert model.converged_
    assert model.objective_ - lower_bound(model, X, y) <= 1e-6


# Where all coefficients are zero, and where the classes are nearly separable, for more rows than NumPy takes


@pytest.mark.parametrize("settings", [{"C": 1e-6, "l1_ratio": 1.0}, {"coef_bounds": (0, 0)}])
def test_models_about_no_coefficient_at_all(settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8000, 120))
    y = (X[:, 0] + rng.logistic(size=8000) > 0).astype(int)
    model = TorchLogisticRegression(fit_intercept=False, **settings).fit(X, y)
    assert model.converged_
    assert not model.coef_.any()
    assert model.objective_ == pytest.approx(np.log(2.0))


@pytest.mark.parametrize("tol", [0.05, 1e-4])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_classes_and_a_weak_norm(n_classes, tol):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8000, 40))
    y = (X @ rng.normal(size=(40, n_classes))).argmax(axis=1)
    model = TorchSoftmaxClassifier(l1_ratio=1.0, C=1e4, tol=tol, max_iter=300).fit(X, y)
    assert model.converged_
    assert model.objective_ - lower_bound(model, X, y) <= tol * model.objective_


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_sets_that_are_too_large_give_way_to_all_columns(C, monkeypatch, tmp_path):
    """Where an L2 penalty leaves few coefficients at zero; blocks are of some of them alone."""
    X, y = rows(60, 400, n_classes=3)
    model = TorchSoftmaxClassifier(C=C, l1_ratio=0.02, tol=1e-6, max_iter=300)
    expected = clone(model).fit(X, y)
    assert np.count_nonzero(expected.coef_) > 600
    monkeypatch.setattr(tuning, "MOST_SET_COEFFICIENTS", 500)
    monkeypatch.setattr(tuning, "BLOCKS_NUMBERS", 3 * 150**2)
    model.fit(X, y)
    assert model.converged_
    assert model.n_iter_ != expected.n_iter_
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-5)
    assert model.objective_ - lower_bound(model, X, y) <= 1e-5 * model.objective_
    path = tmp_path / "fit.checkpoint"
    stopped = clone(model).set_params(max_iter=6).set_callbacks(Checkpoint(path, every=2))
    with pytest.warns(ConvergenceWarning):
        stopped.fit(X, y)
    state = stopped.history_["objective"]
    np.testing.assert_allclose(model.history_["objective"][: len(state)], state)


def test_rare_columns_without_a_place_in_a_block_do_not_stall(monkeypatch):
    """A sample has no number of most of them, so that their curvature there is zero."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12_000, 300))
    X[:, 100:] *= 5.0 * (rng.random((12_000, 200)) < 2e-4)
    y = np.where(X[:, 0] + rng.normal(size=12_000) > 0, 0, rng.integers(0, 3, 12_000))
    for j in np.arange(100, 300)[rng.random(200) < 0.3]:
        y[X[:, j] != 0] = j % 3
    model = TorchSoftmaxClassifier(l1_ratio=1.0, max_iter=60)
    expected = clone(model).fit(X, y)
    monkeypatch.setattr(tuning, "BLOCKS_NUMBERS", 30_000)
    assert model.fit(X, y).converged_
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-4)
