"""Sparse X: the same answer as the dense array, in whatever format it comes."""

import asyncio
import email
import json
import tracemalloc
import unittest
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, F64, LOSSES, autograd_epoch, dense_design, gradient_norm, objective, objective_of
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import torchlogreg._data.storage
from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._data import moments, sparse_gram, tuning
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.sparse import SparseDesign
from torchlogreg._data.storage import pays_dense, sparsify_if_mostly_zero
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.reparametrisation import NonEmptyColumns, is_wide
from torchlogreg._runtime.threads import fit_arithmetic
from torchlogreg._solvers.preconditioners.policy import PreconditionerPolicy
from torchlogreg._solvers.sgd import SGD


def text(n=900, p=1400, length=25, n_classes=2, seed=0):
    """Rows like documents: frequencies by Zipf's law, some rows and columns empty, zeros that are stored."""
    rng = np.random.default_rng(seed)
    probability = 1.0 / np.arange(1, p + 1)
    lengths = rng.poisson(length, n)
    lengths[:2] = 0
    words = rng.choice(p, size=lengths.sum(), p=probability / probability.sum())
    X = sparse.coo_array((np.ones(len(words)), (np.repeat(np.arange(n), lengths), words)), shape=(n, p)).tocsr()
    X.data = np.log1p(X.data)
    X.data[::50] = 0.0
    W = rng.normal(size=(p, n_classes))
    y = (X @ W + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, y


@pytest.fixture
def never_dense(monkeypatch):
    """Nothing counts as small: the sparse path on data of a test's size."""
    monkeypatch.setattr(torchlogreg._data.storage, "pays_dense", lambda n_numbers, n_stored: False)


def design_of(X, n_columns=2, intercept=True, n_classes=2):
    """Sparse and dense rows with the same labels and weights."""
    n = X.shape[0]
    rng = np.random.default_rng(1)
    y = loss_of(n_classes).targets(torch.from_numpy(rng.integers(n_classes, size=n)), F64)
    weight = torch.from_numpy(rng.uniform(size=(n, n_columns)))
    return (
        SparseDesign(CSRTensor.of(X), y, weight, intercept=intercept),
        dense_design(X.toarray(), y, weight, intercept),
    )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("B", "K"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_linear_maps_are_those_of_dense_rows(B, K, intercept):
    rng = np.random.default_rng(0)
    X, _ = text()
    ours, dense = design_of(X, B, intercept)
    W = torch.from_numpy(rng.normal(size=(B, dense.shape[1], K)))
    R = torch.from_numpy(rng.normal(size=(len(dense.X), B, K)))
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(ours.matvec(W), dense.matvec(W), **close)
    torch.testing.assert_close(ours.rmatvec(R), dense.rmatvec(R), **close)
    torch.testing.assert_close((ours.matvec(W) * R).sum(), (ours.rmatvec(R) * W).sum(), **close)
    torch.testing.assert_close(ours.gram_diagonal(R[..., 0].square()), dense.gram_diagonal(R[..., 0].square()), **close)
    scale = torch.from_numpy(rng.uniform(size=dense.shape[1]))
    torch.testing.assert_close(ours.squared_norms(scale), dense.squared_norms(scale), **close)
    for sums, expected in zip(moments.first_and_second(ours), moments.first_and_second(dense), strict=True):
        torch.testing.assert_close(sums, expected, **close)
    torch.testing.assert_close(ours.inner_products(), dense.inner_products(), **close)
    torch.testing.assert_close(ours.whole.X, dense.whole.X)
    columns = torch.tensor([3, 0, 1399])
    torch.testing.assert_close(ours.dense(columns).X, dense.X[:, columns])


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_second_moments_are_those_of_dense_rows(intercept, thin, monkeypatch):
    X, _ = text(p=40, length=3 if thin else 30)
    ours, dense = design_of(X, 2, intercept)
    assert sparse_gram.is_sparse_enough(ours.X) == thin
    weight = torch.from_numpy(np.random.default_rng(2).uniform(size=(X.shape[0], 2)))
    torch.testing.assert_close(ours.gram(weight), dense.gram(weight), rtol=1e-11, atol=1e-11)
    factor = torch.from_numpy(np.random.default_rng(3).normal(size=(X.shape[0], 2, 3)))
    torch.testing.assert_close(ours.gram_of_copies(factor), dense.gram_of_copies(factor), rtol=1e-11, atol=1e-11)
    monkeypatch.setattr(SparseDesign, "_rows_in", lambda self, n_numbers, n_columns: 64)  # several pieces
    torch.testing.assert_close(ours.gram(weight), dense.gram(weight), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours.gram_of_copies(factor), dense.gram_of_copies(factor), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.usefixtures("two_threads")
def test_blocks_and_threads_change_nothing(K, monkeypatch):
    X, _ = text()
    ours, dense = design_of(X, 1, n_classes=max(2, K))
    loss = loss_of(max(2, K))
    W = torch.from_numpy(np.random.default_rng(0).normal(size=(1, dense.shape[1], K)))
    expected = objective_of(dense, loss).value_and_gradient(W)
    monkeypatch.setattr(SparseDesign, "_rows_in", lambda self, n_numbers, n_columns: 64)
    monkeypatch.setattr("torchlogreg._data.tuning.CPU_BLOCK_NUMBERS", 500)
    monkeypatch.setattr("torchlogreg._objective.row_sums.n_workers", lambda: 3)
    problem = objective_of(ours, loss)
    parts = problem.design.parts(3)
    assert len(parts) == 3
    assert sum(part.shape[0] for part in parts) == X.shape[0]
    numbers = [part.n_numbers for part in parts]
    assert max(numbers) < 1.2 * min(numbers)
    assert len(problem.design.blocks()) == -(-X.shape[0] // 64)
    with fit_arithmetic(ours.X):
        point = problem.value_and_gradient(W)
    torch.testing.assert_close(point.value, expected.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(point.gradient, expected.gradient, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(point.eta, expected.eta, rtol=1e-11, atol=1e-11)


def of_text(n_classes, p, C, intercept):
    X, y = text(700, p, n_classes=n_classes)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    return X, y, weight, {"C": C, "fit_intercept": intercept, "tol": 1e-11, "max_iter": 1000}


@cache
def of_dense_array(*case):
    X, y, weight, settings = of_text(*case)
    return TorchSoftmaxClassifier(solver="newton-cholesky", **settings).fit(X.toarray(), y, sample_weight=weight)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("p", "C"), [(300, 0.01), (300, 1.0), (30, 0.01), (30, 1e3)])  # with a tail, and without
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_coefficients_are_those_of_the_dense_array(n_classes, solver, p, C, intercept, never_dense):
    X, y, weight, settings = of_text(n_classes, p, C, intercept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1e-11 may be beyond rounding
        ours = TorchSoftmaxClassifier(solver=solver, **settings).fit(X, y, sample_weight=weight)
        theirs = of_dense_array(n_classes, p, C, intercept)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-8 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-8 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X.toarray()), atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scikit_learns_coefficients(n_classes, never_dense):
    X, y = text(3000, 2000, n_classes=n_classes)
    ours = TorchSoftmaxClassifier(tol=1e-9, max_iter=1000).fit(X, y)
    theirs = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert gradient_norm(ours, X.toarray(), y) <= 1e-9
    assert ours.objective_ == pytest.approx(objective(ours, X.toarray(), y), rel=1e-12)


FORMATS = {
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo array": sparse.coo_array,
    "csr matrix": sparse.csr_matrix,
    "csc matrix": sparse.csc_matrix,
    "coo matrix": sparse.coo_matrix,
    "lil": sparse.lil_array,
    "dok": sparse.dok_array,
    "bsr": sparse.bsr_array,
    "float32": lambda X: X.astype(np.float32),
    "int64 indices": lambda X: with_wide_indices(X),
    "unsorted": lambda X: shuffled_in_rows(X),
    "read-only": lambda X: read_only(X),
    "duplicates": lambda X: doubled(X),
}


def with_wide_indices(X):
    X = X.copy()
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def shuffled_in_rows(X):
    X = X.copy()
    for a, b in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        X.indices[a:b], X.data[a:b] = X.indices[a:b][::-1].copy(), X.data[a:b][::-1].copy()
    X.has_sorted_indices = False
    return X


def read_only(X):
    X = X.copy()
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    return X


def doubled(X):
    """Every number as the sum of two."""
    indptr = 2 * X.indptr
    out = sparse.csr_array((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), indptr), shape=X.shape)
    out.has_canonical_format = False
    return out


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, never_dense):
    X, y = text()
    data = FORMATS[name](X)
    before = [np.array(getattr(data, part)) for part in ("data", "indices", "indptr") if name == "duplicates"]
    tol = 1e-6 if name == "float32" else 1e-9
    model = TorchLogisticRegression(tol=tol).fit(data, y)
    expected = TorchLogisticRegression(tol=1e-9).fit(X.toarray(), y)
    loose = 1e-4 if name == "float32" else 1e-7
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=loose)
    np.testing.assert_allclose(model.predict_proba(data), expected.predict_proba(X.toarray()), atol=loose)
    assert model.coef_.dtype == (np.float32 if name == "float32" else np.float64)
    for old, part in zip(before, ("data", "indices", "indptr"), strict=False):
        np.testing.assert_array_equal(getattr(data, part), old)  # what the user owns is as it was


def test_what_is_small_or_full_is_stored_dense():
    n = 2 * int(tuning.MAX_SMALL_NUMBERS**0.5)
    assert pays_dense(tuning.MAX_SMALL_NUMBERS, 0)
    assert not pays_dense(n * n, 0)
    assert pays_dense(n * n, int(1.01 * tuning.MIN_DENSE_DENSITY * n * n))
    assert not pays_dense(n * n, int(0.9 * tuning.MIN_DENSE_DENSITY * n * n))


def mostly_zero(n=6000, p=100, density=0.9 * tuning.MAX_SPARSE_COPY_DENSITY):
    return sparse.random_array((n, p), density=density, format="csr", rng=np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_dense_array_that_is_mostly_zero_is_read_as_a_sparse_one(order, dtype):
    X = mostly_zero().astype(dtype)
    thin = sparsify_if_mostly_zero(torch.from_numpy(X.toarray(order=order)))
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(thin.csr, part), getattr(X, part))
    assert thin.csr.indices.dtype == np.int32
    assert thin.csr.has_canonical_format


def test_other_dense_arrays_are_read_as_they_are():
    X = torch.from_numpy(mostly_zero().toarray())
    shifted = X.clone()
    shifted[1::2] += 1.0  # where nobody looks at first
    shifted[np.linspace(0, len(X) - 1, tuning.PROBED_NUMBERS // 100, dtype=int)] = 0.0
    small = X[: tuning.MAX_SMALL_NUMBERS // 100]
    full = torch.from_numpy(mostly_zero(density=1.1 * tuning.MAX_SPARSE_COPY_DENSITY).toarray())
    for other in (shifted, small, full, X.half(), X.to(torch.int8), X.to("meta")):
        assert sparsify_if_mostly_zero(other) is other


def labels_of(X, K):
    rng = np.random.default_rng(1)
    return (3 * X @ rng.normal(size=(X.shape[1], K)) + rng.gumbel(size=(len(X), K))).argmax(axis=1)


@pytest.mark.parametrize("K", [2, 3])
def test_zeros_do_not_change_the_answer(K, monkeypatch):
    X = mostly_zero().toarray()
    y, weight = labels_of(X, K), np.random.default_rng(2).uniform(size=len(X))
    estimator = TorchLogisticRegression if K == 2 else TorchSoftmaxClassifier
    ours = estimator(tol=1e-10).fit(X, y, weight)
    monkeypatch.setattr(torchlogreg._data.training_data, "sparsify_if_mostly_zero", lambda X, of_all=None: X)
    expected = estimator(tol=1e-10).fit(X, y, weight)
    assert (ours.coef_ != expected.coef_).any()  # it was another path
    np.testing.assert_allclose(ours.coef_, expected.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_, expected.intercept_, rtol=0, atol=1e-8)
    assert type(ours.coef_) is np.ndarray


@pytest.mark.parametrize("solver", ["newton-cholesky", "sgd"])
def test_other_solvers_read_zeros_as_they_are(solver, monkeypatch):
    def fail(X, of_all=None):
        raise AssertionError

    monkeypatch.setattr(torchlogreg._data.training_data, "sparsify_if_mostly_zero", fail)
    X = mostly_zero().toarray()
    settings = {"tol": 0, "max_iter": 2} if solver == "sgd" else {}
    TorchLogisticRegression(solver=solver, **settings).fit(X, labels_of(X, 2))


def test_rows_that_come_again_are_known_however_they_are_stored():
    X = mostly_zero().toarray()
    y = labels_of(X, 2)
    dense, thin = (TorchLogisticRegression(solver=s, tol=1e-2).fit(X, y) for s in ("newton-cholesky", "auto"))
    for model in (dense, thin):
        for again in (X, sparse.csc_array(X)):
            block = TorchLogisticRegression().partial_fit(again, y, classes=[0, 1])
            assert model._seen["fingerprint"] == block._seen["fingerprint"]


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("batch_size", [7, None])
@pytest.mark.parametrize("loss", LOSSES, ids=["binomial", "multinomial"])
def test_sgd_takes_the_steps_that_it_takes_on_dense_rows(loss, batch_size, nesterov, penalty):
    X, _ = text(50, 80, 6)
    problems = [objective_of(rows, loss, penalty) for rows in design_of(X, 1, n_classes=max(2, loss.n_logits))]
    solver = SGD(batch_size=batch_size, nesterov=nesterov)
    found = []
    for problem, epoch in zip(problems, (SGD.epoch, autograd_epoch), strict=True):
        W = torch.zeros(1, loss.n_logits, 81, dtype=F64).mT
        velocity, generator = torch.zeros_like(W), torch.Generator().manual_seed(0)
        values = [epoch(solver, problem, W, velocity, 0.05, generator) for _ in range(3)]
        found.append((W, velocity, torch.stack(values)))
    for ours, dense in zip(*found, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("learning_rate", ["auto", 0.1])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sgd_fits(n_classes, learning_rate, never_dense):
    X, y = text(400, n_classes=n_classes)
    settings = {"solver": "sgd", "learning_rate": learning_rate, "random_state": 0, "max_iter": 8, "tol": 0}
    ours = TorchSoftmaxClassifier(**settings).fit(X, y)
    dense = TorchSoftmaxClassifier(**settings).fit(X.toarray(), y)
    np.testing.assert_allclose(ours.coef_, dense.coef_, atol=1e-8)
    early = TorchSoftmaxClassifier(**settings, early_stopping=True)
    np.testing.assert_allclose(early.fit(X, y).coef_, early.fit(X.toarray(), y).coef_, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metric_is_the_hessian_of_the_head_and_the_diagonal_of_the_tail(n_classes, monkeypatch):
    X, _ = text(400, 600)
    ours, dense = design_of(X, 1, n_classes=n_classes)
    loss = loss_of(n_classes)
    K, d = loss.n_logits, dense.shape[1]
    monkeypatch.setattr("torchlogreg._solvers.tuning.DEAREST_START_PASSES", 0)
    problem = objective_of(ours, loss)
    W = torch.from_numpy(np.random.default_rng(0).normal(size=(1, d, K)))
    metric = PreconditionerPolicy(problem, K).at(problem.value_and_gradient(W), None, torch.Generator())
    head, n_frequent_columns = metric.columns, ours.n_frequent_columns(K)
    assert len(head) == n_frequent_columns + 1 < d
    assert head[-1] == 600
    whole = objective_of(dense, loss).second_order(W).hessian[0, 0]
    tail = np.setdiff1d(np.arange(600), head)
    expected = whole.diagonal().view(K, d)[:, tail]
    torch.testing.assert_close(metric.diagonal[0, tail].T, expected, rtol=1e-9, atol=1e-12)
    # The head's columns are those of the largest curvature.
    own = (whole.diagonal().view(K, d)[:, :600] - problem.penalty.l2[0, :600, 0]).sum(dim=0)
    assert float(own[head[:-1]].min()) >= float(own[tail].max()) - 1e-12
    if K == 1:  # all 400 rows are in the sample
        g = torch.from_numpy(np.random.default_rng(1).normal(size=(1, d, K)))
        block = whole[head][:, head]
        torch.testing.assert_close(metric.solve(g)[0, head, 0], torch.linalg.solve(block, g[0, head, 0]))
        torch.testing.assert_close(metric.solve(g)[0, tail, 0], g[0, tail, 0] / expected[0])


@pytest.mark.parametrize("kind", [TorchLogisticRegressionCV, TorchSoftmaxClassifierCV])
def test_cross_validation(kind, never_dense):
    X, y = text(500, 400, n_classes=2 if kind is TorchLogisticRegressionCV else 3)
    folds = list(StratifiedKFold(3).split(X, y))
    settings = {"Cs": [0.1, 1.0, 10.0], "cv": folds, "tol": 1e-9, "max_iter": 1000}
    cv = kind(**settings).fit(X, y)
    for k, (train, test) in enumerate(folds):
        for c, C in enumerate(cv.Cs_):
            alone = TorchSoftmaxClassifier(C=C, tol=1e-9, max_iter=1000).fit(X[train], y[train])
            path = np.column_stack([alone.coef_, alone.intercept_])
            np.testing.assert_allclose(cv.coefs_paths_[k, 0, c], path, atol=1e-5)
            assert cv.scores_[k, 0, c] == pytest.approx(-log_loss(y[test], alone.predict_proba(X[test])), abs=1e-7)
    assert cv.Cs_[cv.scores_.mean(axis=(0, 1)).argmax()] == cv.C_
    by_metric = kind(**settings, scoring="f1_macro")
    by_metric.fit(sparse.coo_matrix(X), y)
    expected = f1_score(y[test], alone.predict(X[test]), average="macro")
    assert by_metric.scores_[-1, 0, -1] == pytest.approx(expected, abs=1e-12)


def test_grid_search(never_dense):
    X, y = text(500, 400, n_classes=3)
    grid, metrics = {"C": [0.1, 1.0, 10.0], "fit_intercept": [True, False]}, ["accuracy", "f1_macro"]
    model = TorchSoftmaxClassifier(tol=1e-7, max_iter=1000)
    theirs = GridSearchCV(model, grid, cv=3, scoring=metrics, refit=False).fit(X, y)
    for metric in metrics:
        ours = TorchGridSearchCV(model, grid, cv=3, scoring=metric).fit(X, y)
        scores = theirs.cv_results_[f"mean_test_{metric}"]
        np.testing.assert_allclose(ours.cv_results_["mean_test_score"], scores, atol=1e-12)
        assert ours.best_params_ == theirs.cv_results_["params"][scores.argmax()]
        best = clone(model).set_params(**ours.best_params_).fit(X, y)
        np.testing.assert_array_equal(ours.predict(X), best.predict(X))


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_empty_columns_are_left_out(n_classes, solver, never_dense, monkeypatch):
    X, y = text(300, 200, n_classes=n_classes)
    n, p = X.shape
    wide = sparse.hstack([sparse.csr_array((n, 50)), X, sparse.csr_array((n, p))], format="csr")
    settings = {"solver": solver, "tol": 1e-9, "max_iter": 500}
    few, all_ = TorchSoftmaxClassifier(**settings).fit(X, y), TorchSoftmaxClassifier(**settings)
    seen = []
    original = NonEmptyColumns.of

    def filled(*arguments, **options):
        seen.append(original(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(NonEmptyColumns, "of", filled)
    all_.fit(wide, y)
    assert seen[0].design.n_features <= p
    assert seen[0].columns[-1] == 50 + 2 * p
    np.testing.assert_allclose(all_.coef_[:, 50 : 50 + p], few.coef_, atol=1e-6)
    assert not all_.coef_[:, :50].any()
    assert not all_.coef_[:, 50 + p :].any()
    np.testing.assert_allclose(all_.intercept_, few.intercept_, atol=1e-6)
    assert all_.objective_ == pytest.approx(few.objective_, rel=1e-12)
    assert all_.gradient_norm_ <= 1e-9
    # Where such a column starts from something else, the penalty takes it to zero.
    start = np.zeros_like(all_.coef_)
    start[:, 3] = 1.0
    again = TorchSoftmaxClassifier(**settings).fit(wide, y, coef_init=start)
    assert seen[-1].columns is None
    np.testing.assert_allclose(again.coef_, all_.coef_, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_empty_columns_are_left_out_of_batches(n_classes, never_dense):
    X, y = text(300, 200, n_classes=n_classes)
    n, p = X.shape
    wide = sparse.hstack([sparse.csr_array((n, 50)), X, sparse.csr_array((n, p))], format="csr")
    settings = {"Cs": [0.1, 1.0], "cv": 3, "tol": 1e-9, "max_iter": 500}
    few, all_ = (TorchSoftmaxClassifierCV(**settings).fit(A, y) for A in (X, wide))
    np.testing.assert_allclose(all_.coefs_paths_[..., 50 : 50 + p], few.coefs_paths_[..., :p], atol=1e-6)
    np.testing.assert_allclose(all_.coef_[:, 50 : 50 + p], few.coef_, atol=1e-6)


@pytest.mark.parametrize("estimator", [TorchSoftmaxClassifier, TorchSoftmaxClassifierCV])
def test_sparse_coefficients(estimator):
    X, y = load_digits(return_X_y=True)
    options = {"cv": 3, "Cs": 2} if estimator is TorchSoftmaxClassifierCV else {"warm_start": True}
    model = estimator(**options).fit(X / 16, y)
    coef, proba = model.coef_.copy(), model.predict_proba(X / 16)
    assert model.sparsify() is model
    assert sparse.issparse(model.coef_)
    np.testing.assert_array_equal(model.predict_proba(X / 16), proba)
    np.testing.assert_array_equal(model.predict_proba(sparse.csr_array(X / 16)), proba)
    assert isinstance(model.densify().coef_, np.ndarray)
    np.testing.assert_array_equal(model.coef_, coef)
    if estimator is TorchSoftmaxClassifier:
        assert model.sparsify().fit(X / 16, y).n_iter_[0] <= 1  # starts where it was


@pytest.mark.parametrize(("length", "wide"), [(300, True), (2, False)])
def test_few_rows(length, wide, never_dense):
    """They are seen by their inner products, unless these are many more than the numbers in X."""
    X, y = text(150, 5000, length)
    assert is_wide(design_of(X, 1)[0]) == wide
    ours, dense = (TorchLogisticRegression(tol=1e-10, max_iter=1000).fit(A, y) for A in (X, X.toarray()))
    np.testing.assert_allclose(ours.coef_, dense.coef_, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units(scale, never_dense):
    X, y = text()
    X = X * scale
    model = TorchLogisticRegression(C=1 / scale**2, tol=1e-9 * max(1.0, scale), max_iter=1000).fit(X, y)
    plain = TorchLogisticRegression(tol=1e-10, max_iter=1000).fit(X / scale, y)
    np.testing.assert_allclose(model.coef_ * scale, plain.coef_, atol=1e-6)


def test_without_penalty(never_dense):
    """Empty columns have no curvature at all."""
    X, y = text(3000, 60, 10)
    X = sparse.hstack([X, sparse.csr_array((3000, 5))], format="csr")
    ours = TorchLogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(X, y)
    dense = TorchLogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(X.toarray(), y)
    assert ours.converged_
    np.testing.assert_allclose(ours.coef_, dense.coef_, atol=1e-5)
    assert not ours.coef_[0, 60:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    X, y = text()
    X.data[7] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        TorchLogisticRegression().fit(X, y)


def test_an_accelerator_is_refused(never_dense, monkeypatch):
    X, y = text()
    monkeypatch.setattr(torchlogreg._data.device, "available_devices", lambda: ["cpu", "cuda"])
    with pytest.raises(ValueError, match="Products with a sparse X run on the CPU"):
        TorchLogisticRegression(device="cuda").fit(X, y)
    model = TorchLogisticRegression().fit(X, y)
    model.device = "cuda"
    assert model.predict(X).shape == y.shape


def test_lines_of_the_standard_library():
    """Which package does a line come from? Hashed n-grams, many columns empty."""
    packages = [asyncio, email, json, unittest]
    lines, names = [], []
    for package in packages:
        for path in sorted(Path(package.__file__).parent.glob("*.py")):
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if len(line.strip()) >= 20][:60]
            lines += found
            names += [package.__name__] * len(found)
    X = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=2**13).transform(lines)
    assert not pays_dense(X.shape[0] * X.shape[1], X.nnz)
    ours = TorchSoftmaxClassifier(tol=1e-9, max_iter=1000).fit(X, names)
    theirs = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=1000).fit(X, names)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert (ours.predict(X) == theirs.predict(X)).all()


def test_text_takes_few_reads_and_little_memory():
    X, y = text(20_000, 20_000, 60)
    model = TorchLogisticRegression().fit(X, y)  # what is loaded and kept at a first fit is not the fit's
    assert model.solver_ == "lbfgs"
    assert model.converged_
    assert model.n_passes_ < 40
    tracemalloc.start()
    TorchLogisticRegression().fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]  # of NumPy and scipy; torch's own arrays are vectors
    tracemalloc.stop()
    assert peak < 3 * X.data.nbytes


def test_float32_is_lifted_in_shares():
    X, y = text(8000, 20_000, 200)
    X = X.astype(np.float32)
    rows = SparseDesign(CSRTensor.of(X), torch.from_numpy(y), torch.ones(8000, 1, dtype=F64), intercept=True).exact()
    assert rows.X.csr.data is X.data or np.shares_memory(rows.X.csr.data, X.data)
    blocks = list(rows.blocks())
    assert all(block.X.dtype == F64 for block in blocks)
    assert max(block.n_numbers for block in blocks) < X.nnz
    W = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20_001, 1)))
    eta = torch.cat([block.matvec(W) for block in blocks])[:, 0, 0]
    expected = X.astype(np.float64) @ W[0, :-1, 0].numpy() + float(W[0, -1, 0])
    np.testing.assert_allclose(eta.numpy(), expected, rtol=1e-12, atol=1e-12)
