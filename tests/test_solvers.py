"""The pieces of the solvers, and what they do on data that is hard for a reason."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import (
    DETERMINISTIC,
    F64,
    LOSSES,
    TABLE,
    Callback,
    dense_design,
    generator,
    halves,
    objective,
    objective_of,
    random_design,
    random_objective,
    table,
)
from scipy.sparse import csr_array, random_array
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._data import kernels, moments
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.sparse import SparseDesign
from torchlogreg._data.targets import encoded
from torchlogreg._data.tuning import CPU_BLOCK_NUMBERS
from torchlogreg._objective.losses import Binomial, Multinomial
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.reparametrisation import RowSpace
from torchlogreg._objective.sampling import effective_rows, leverages, sampled, second_moments
from torchlogreg._runtime.threads import fit_arithmetic, in_threads
from torchlogreg._solvers import solver_class
from torchlogreg._solvers.driver import Settings, minimise
from torchlogreg._solvers.lbfgs import LBFGS
from torchlogreg._solvers.lbfgs_memory import LBFGSMemory
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.eigenbasis import eigenbasis_preconditioner
from torchlogreg._solvers.preconditioners.policy import PreconditionerPolicy
from torchlogreg._solvers.subsampling import _importance_sample, _is_unrepresentative, sample_rows


def random_point(problem, seed=3):
    B, d, K = 1, problem.design.shape[1], problem.loss.n_logits
    return torch.randn(B, d, K, generator=generator(seed), dtype=F64)


# The choice


def test_auto_picks_by_size():
    def rows(n, d):
        return DenseDesign(torch.zeros(1).expand(n, d - 1), None, None, intercept=True)

    assert solver_class("auto", rows(150, 5), 3).name == "newton-cholesky"
    assert solver_class("auto", rows(2000, 11), 1).name == "newton-cholesky"
    assert solver_class("auto", rows(100_000, 20), 1).name == "lbfgs"
    assert solver_class("auto", rows(1797, 65), 10).name == "lbfgs"
    assert solver_class("auto", rows(60_000, 785), 10).name == "lbfgs"
    assert solver_class("auto", rows(500, 20_001), 1).name == "lbfgs"


def normal(n, p):
    X = np.random.default_rng(0).normal(size=(n, p))
    return X, np.arange(n) % 3


# What other tests fit, and the solver that "auto" is for it: they ask for that one by its name.
KINDS = {
    "iris": (lambda: table("iris", True), "newton-cholesky"),
    "wine": (lambda: table("wine", True), "newton-cholesky"),
    "breast_cancer": (lambda: table("breast_cancer", True), "newton-cholesky"),
    "digits": (lambda: table("digits", True), "lbfgs"),
    "wide": (lambda: normal(60, 500), "newton-cholesky"),
    "float32": (lambda: (normal(300, 3)[0].astype(np.float32), normal(300, 3)[1]), "newton-cholesky"),
    "many rows": (lambda: normal(20_000, 3), "lbfgs"),
    "sparse": (lambda: (random_array((3000, 500), density=0.01, format="csr", rng=0), np.arange(3000) % 3), "lbfgs"),
    "mostly zero": (lambda: (random_array((6000, 100), density=0.05, rng=0).toarray(), np.arange(6000) % 3), "lbfgs"),
    "small stream": (lambda: (halves(*table("wine", True)), None), "newton-cholesky"),
    "stream": (lambda: (halves(*normal(20_000, 3)), None), "lbfgs"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_auto_is_the_solver_that_it_names(kind):
    make, name = KINDS[kind]
    X, y = make()
    model, named = (TorchSoftmaxClassifier(solver=solver).fit(X, y) for solver in ("auto", name))
    assert model.solver_ == name
    np.testing.assert_array_equal(model.coef_, named.coef_)
    np.testing.assert_array_equal(model.loss_curve_, named.loss_curve_)
    assert model.n_passes_ == named.n_passes_


# Pieces


def test_pairs_are_the_two_loop_recursion():
    B, d, K, memory = 2, 4, 3, 5
    g = generator()
    preconditioner = CholeskyPreconditioner.of(torch.eye(d * K, dtype=F64).expand(B, 1, -1, -1) * 2.0)
    pairs, listed = LBFGSMemory.empty(B, d * K, memory, random_design().accumulation), []
    for i in range(8):  # more than the memory holds
        s = torch.randn(B, d, K, generator=g, dtype=F64)
        y = s + 0.1 * torch.randn(B, d, K, generator=g, dtype=F64)
        usable = torch.tensor([True, i != 6])  # the second model did not move in iteration 6
        pairs = pairs.appended(s, y, usable)
        listed = [*listed, (s, y, usable)][-memory:]
    gradient, gamma = torch.randn(B, d, K, generator=g, dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)
    for b in range(B):
        q, alphas = gradient[b].clone(), []
        mine = [(s[b], y[b]) for s, y, usable in listed if usable[b]]
        for s, y in reversed(mine):
            alphas.append((s * q).sum() / (s * y).sum())
            q -= alphas[-1] * y
        r = gamma[b] * q / 2.0
        for (s, y), alpha in zip(mine, reversed(alphas), strict=True):
            r += (alpha - (y * r).sum() / (s * y).sum()) * s
        torch.testing.assert_close(pairs.solve(gradient, gamma, preconditioner)[b], r, rtol=1e-10, atol=1e-12)
    pairs = pairs.cleared()
    torch.testing.assert_close(pairs.solve(gradient, gamma, preconditioner)[1], gradient[1])


@pytest.mark.parametrize("intercept", [True, False])
def test_a_hybrid_metric_that_leads_everywhere_is_the_hessian(intercept):
    problem = random_objective(Multinomial(3), n=60, p=5, intercept=intercept)
    W = random_point(problem)
    hessian = problem.second_order(W).hessian
    gradient = problem.centred(random_point(problem, seed=4))
    whole = problem.centred(CholeskyPreconditioner.of(hessian).solve(gradient))
    preconditioner = eigenbasis_preconditioner(problem, W, r=5)
    torch.testing.assert_close(problem.centred(preconditioner.solve(gradient)), whole, rtol=1e-8, atol=1e-10)
    again = eigenbasis_preconditioner(problem, W, r=5, before=preconditioner)
    torch.testing.assert_close(again.solve(gradient), preconditioner.solve(gradient), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("n_models", [1, 2])
def test_a_hybrid_metric_is_symmetric_and_positive(r, n_models):
    rows = random_design(80, 6, n_models, loss=Multinomial(3))
    problem = objective_of(rows, Multinomial(3), 0.3)
    W = torch.randn(n_models, 7, 3, generator=generator(5), dtype=F64)
    preconditioner = eigenbasis_preconditioner(problem, W, r)
    columns = torch.eye(21, dtype=F64).view(21, 3, 7).mT.contiguous()
    for b in range(n_models):
        inverse = torch.stack(
            [preconditioner.solve(column.expand(n_models, -1, -1))[b].mT.flatten() for column in columns], dim=1
        )
        torch.testing.assert_close(inverse, inverse.T, rtol=1e-9, atol=1e-11)
        assert float(torch.linalg.eigvalsh(inverse).min()) > 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_the_logits_of_two_points_give_the_objective_between_them(loss):
    problem = random_objective(loss, B=2)
    d, K = problem.design.shape[1], loss.n_logits
    start, end = (problem.value_and_gradient(torch.randn(2, d, K, generator=generator(s), dtype=F64)) for s in (1, 2))
    read = problem.passes.total
    t = torch.tensor([0.25, 0.7], dtype=F64)
    between = problem.between(start, end, t)
    assert problem.passes.total == read
    there = problem.value_and_gradient(start.W + t[:, None, None] * (end.W - start.W))
    torch.testing.assert_close(between, there.value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.usefixtures("two_threads")
def test_reading_in_parts_changes_nothing_but_rounding(loss):
    n = 9 * CPU_BLOCK_NUMBERS // 20
    rows = random_design(n, 20, 1, loss=loss, n_classes=max(2, loss.n_logits))
    problem = objective_of(rows, loss)
    W = random_point(problem)
    whole = problem.value_and_gradient(W)
    parts = problem.design.parts(2)
    assert [len(part.X) for part in parts] == [n // 2, n - n // 2]

    def read(part):
        return Objective(
            part, loss, problem.penalty.divided([torch.tensor([1e300])]), problem.passes
        ).value_and_gradient(W)

    with fit_arithmetic(rows.X):
        points = in_threads(read, parts)
    torch.testing.assert_close(
        sum(point.gradient for point in points) + problem.penalty.gradient(W), whole.gradient, rtol=1e-10, atol=1e-14
    )
    for failing in parts:  # in the caller's thread, in another one
        with fit_arithmetic(rows.X), pytest.raises(ZeroDivisionError):
            in_threads(lambda part, failing=failing: 1 / (part is not failing), parts)


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_span_of_the_rows_holds_the_same_problem(intercept, n_classes):
    loss = Binomial() if n_classes == 1 else Multinomial(3)
    problem = random_objective(loss, n=12, p=40, intercept=intercept)
    rotated = RowSpace(problem)
    U = torch.randn(1, 12 + intercept, loss.n_logits, generator=generator(1), dtype=F64)
    inside = rotated.objective.value_and_gradient(U)
    outside = rotated.leave_point(inside)
    torch.testing.assert_close(outside.value, inside.value, rtol=1e-11, atol=0)
    direct = problem.value_and_gradient(outside.W)
    torch.testing.assert_close(outside.gradient, direct.gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outside.value, direct.value, rtol=1e-11, atol=0)
    torch.testing.assert_close(rotated.enter(outside.W), U, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(rotated.leave(U), outside.W, rtol=1e-12, atol=1e-14)


def test_a_drawn_sample_keeps_the_objective_on_average_and_leaves_out_weightless_rows():
    rows = random_design(5000, 3, 1, loss=Binomial(), n_classes=2)
    rows = rows.reweighted(torch.where(rows.X[:, :1] > 0, rows.weight, 0.0))
    problem = objective_of(rows, Binomial())
    sample = sample_rows(problem, 500, generator())
    assert sample.design.shape[0] == 500
    assert bool((sample.design.weight > 0).all())
    assert float(sample.design.weight.sum()) == pytest.approx(1.0)
    W = torch.zeros(1, 4, 1, dtype=F64)
    assert float(sample.value_and_gradient(W).value) == pytest.approx(np.log(2.0))
    assert sample_rows(problem, 5000, generator()) is problem


def with_rare_categories(n=30_000, n_classes=2):
    """Numbers and indicators of categories, some of which only a few rows are in."""
    rng = np.random.default_rng(0)
    shares = np.array([0.9, 0.09, 0.009, 0.0009, 0.0001])
    levels = rng.choice(5, size=(n, 4), p=shares)
    X = np.hstack([rng.normal(size=(n, 6)), *(levels[:, [g]] == np.arange(5) for g in range(4))])
    logits = 2 * X @ rng.normal(size=(X.shape[1], n_classes))
    return X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("n_weights", [1, 2])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_leverages_are_shares_of_the_second_moments(kind, intercept, n_weights):
    X, y = with_rare_categories(3000)
    weight = torch.rand(len(X), n_weights, generator=generator(), dtype=F64)
    weight[:5] = 0.0
    dense = dense_design(X, y.astype(float), weight, intercept)
    rows = dense if kind == "dense" else SparseDesign(CSRTensor.of(csr_array(X)), dense.y, weight, intercept=intercept)
    problem = objective_of(rows, Binomial())
    X = np.hstack([X, np.ones((len(X), 1))]) if intercept else X
    weight = problem.design.sample_weights.amax(dim=1).numpy()
    added = weight[:, None] * X**2
    total = added.sum(axis=0)
    before = problem.passes.total
    np.testing.assert_allclose(second_moments(problem), total, rtol=1e-12)
    np.testing.assert_allclose(leverages(problem).own, (added / np.where(total, total, 1.0)).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(leverages(problem).total, np.count_nonzero(total), rtol=1e-12)
    assert problem.passes.total == before + 2


@pytest.mark.parametrize("intercept", [True, False])
def test_a_column_rests_on_the_rows_that_are_unlike_most(intercept):
    X, y = with_rare_categories(3000)
    X = np.hstack([X, np.ones((len(X), 1))])
    weight = torch.rand(len(X), 2, generator=generator(), dtype=F64)
    rows = dense_design(X, y.astype(float), weight, intercept)
    standardised = DenseDesign(torch.from_numpy(3.0 - 2.0 * X), rows.y, weight, intercept=intercept)
    stored = csr_array(X + 2.0)  # with zeros
    stored.data -= 2.0
    sparse = SparseDesign(CSRTensor.of(stored), rows.y, weight, intercept=intercept)
    of_row = weight.amax(dim=1).numpy()
    rare = (X.mean(axis=0) < 0.5) & X.any(axis=0) & (X.max(axis=0) == 1)
    unlike = (X != 0)[:, rare]
    expected = (of_row @ unlike) ** 2 / (of_row**2 @ unlike)
    assert 0 < expected.min() < 5 < expected.max()
    counts = [effective_rows(Objective(some, Binomial(), None, None)) for some in (rows, standardised, sparse)]
    for count in counts:
        np.testing.assert_allclose(count[: X.shape[1]][rare], expected, rtol=1e-12)
    assert counts[0][X.shape[1] - 1] == counts[1][X.shape[1] - 1] == 0


@pytest.mark.parametrize("n_weights", [1, 6])
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, 1.0), (-0.01, 100.0)])
def test_a_column_misleads_where_only_its_sample_is_constant(low, high, n_weights):
    X, y = with_rare_categories(20_000)
    X = np.hstack([X[:, :6], np.where(np.arange(len(X)) < 2, high, low)[:, None]])
    weight = torch.ones(len(X), n_weights, dtype=F64)
    for fold in range(n_weights - 1):
        weight[fold :: n_weights - 1, 1 + fold] = 0.0
    rows = dense_design(X, 2.0 * y - 1, weight)
    problem = objective_of(rows, Binomial(), 1e-3)
    sample = sampled(problem, torch.randint(2, len(X), (2000,), generator=generator()))
    assert _is_unrepresentative(sample, problem) == (low != high)


@pytest.mark.parametrize("loss", [Binomial(), Multinomial(3)])
def test_leverages_at_a_point_are_what_rows_add_to_the_curvature(loss):
    problem = random_objective(loss, B=2)
    W = torch.randn(2, 5, loss.n_logits, generator=generator(3), dtype=F64)
    X = torch.cat([problem.design.X, torch.ones(len(problem.design.X), 1, dtype=F64)], dim=1)
    eta = problem.design.matvec(W)

    def curvature_of(i, b):
        return torch.autograd.functional.hessian(
            lambda logits: loss.value(logits[None, None], problem.design.y[i : i + 1]).sum(), eta[i, b]
        ).trace()

    each = [[curvature_of(i, b) for b in range(2)] for i in range(len(eta))]
    curvature = torch.tensor(each, dtype=F64)
    expected = (problem.design.weight * curvature).sum(dim=1) * (X.square() / second_moments(problem)).sum(dim=1)
    np.testing.assert_allclose(leverages(problem, W).own, expected, rtol=1e-10)
    before = problem.passes.total
    leverages(problem, W)
    assert problem.passes.total == before + 1


def test_a_model_that_has_gone_below_its_floor_leaves_the_batch():
    problem = random_objective(Binomial(), B=2)
    W, floor = torch.zeros(2, 5, 1, dtype=F64), problem.loss.at_zero - 1e-3
    floors = torch.tensor([-math.inf, floor], dtype=F64)
    alone, early = (
        minimise(problem, TABLE["newton-cholesky"](), W, Settings(1e-9, 50, floor=f)) for f in (None, floors)
    )
    assert alone.converged.all()
    assert early.n_iter[0] == alone.n_iter[0] > early.n_iter[1] == 1
    torch.testing.assert_close(early.point.value[0], alone.point.value[0])
    assert alone.point.value[1] < early.point.value[1] < floor
    assert not early.converged[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_below_its_floor_is_not_finished_in_float64(dtype):
    rows = random_design(loss=Binomial(), n_classes=2)
    rows = DenseDesign(rows.X.to(dtype), rows.y, rows.sample_weights, intercept=True)
    problem = objective_of(rows, Binomial(), 0.3)
    W, floor = torch.zeros(2, 5, 1, dtype=F64), torch.full((2,), problem.loss.at_zero - 1e-3, dtype=F64)
    found = minimise(problem, TABLE["newton-cholesky"](), W, Settings(1e-9, 50, floor=floor))
    assert found.n_iter.tolist() == [1, 1]
    assert problem.passes.total == (2 if dtype == torch.float64 else 3)  # one to judge the result in float64


def test_a_sample_by_leverage_keeps_second_moments_on_average_and_has_every_column():
    X, y = with_rare_categories()
    rows = dense_design(X, 2.0 * y - 1)
    problem = objective_of(rows, Binomial(), 1e-3)
    g = generator()
    samples = [sample_rows(problem, 2000, g) for _ in range(100)]
    assert problem.passes.total == 2
    mean = sum(moments.second_moments(sample.design) for sample in samples) / len(samples)
    np.testing.assert_allclose(mean, moments.second_moments(problem.design), rtol=0.1)
    assert min(int((sample.design.X != 0).sum(dim=0).min()) for sample in samples) > 5
    evenly = [sample_rows(problem, 2000, g, evenly=True) for _ in range(100)]
    assert min(int((sample.design.X != 0).sum(dim=0).min()) for sample in evenly) == 0


@pytest.mark.parametrize(("n_classes", "n"), [(2, 30_000), (3, 100_000)])
def test_rare_categories_cost_no_iterations(n_classes, n, monkeypatch):
    X, y = with_rare_categories(n, n_classes)
    estimator = TorchLogisticRegression if n_classes == 2 else TorchSoftmaxClassifier
    model = estimator(C=100, solver="lbfgs").fit(X, y)
    monkeypatch.setattr("torchlogreg._solvers.tuning.MIN_EFFECTIVE_ROWS", 0.0)
    evenly = estimator(C=100, solver="lbfgs").fit(X, y)
    assert model.n_iter_[0] <= 0.5 * evenly.n_iter_[0]
    assert model.n_passes_ < evenly.n_passes_
    np.testing.assert_allclose(model.objective_, evenly.objective_, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e170])
def test_squares_that_overflow_or_vanish_leave_an_even_sample(scale):
    X, y = with_rare_categories(3000)
    rows = DenseDesign(
        torch.from_numpy(X * scale), torch.from_numpy(2.0 * y - 1), torch.ones(len(X), 1, dtype=F64), intercept=False
    )
    problem = objective_of(rows, Binomial(), 0.0)
    assert (_importance_sample(problem, leverages(problem), 500, generator()) is None) == (scale != 1.0)
    assert torch.isfinite(sample_rows(problem, 500, generator()).design.sample_weights).all()


@pytest.mark.parametrize(
    "y",
    [
        [3, -2, 3, 7],
        [True, False, True],
        [0, 10**12],
        np.array([250, 3, 3], dtype=np.uint8),
        np.array([-100, 100] * 150, dtype=np.int8),
        np.array([2**63 + 1, 2**63], dtype=np.uint64),
        ["b", "a"],
        [0.5, 1.5],
    ],
    ids=lambda y: f"{np.asarray(y).dtype}-{len(y)}",
)
def test_labels_are_encoded_as_numpy_does(y):
    y = np.asarray(y)
    classes, codes = encoded(y)
    expected, expected_codes = np.unique(y, return_inverse=True)
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(codes, expected_codes)
    assert classes.dtype == y.dtype


# Fits


def drawn(Z, seed=0):
    rng = np.random.default_rng(seed)
    logits = Z @ rng.standard_normal(Z.shape[1])
    return (rng.random(len(Z)) < expit(2.0 * logits / logits.std() + 0.5)).astype(int)


def hard(name, n=20_000):
    """X, y and C."""
    rng = np.random.default_rng(1)
    Z = rng.standard_normal((n, 30))
    if name == "isotropic":
        return Z, drawn(Z), 1.0
    if name == "correlated":
        X = rng.standard_normal((n, 5)) @ rng.standard_normal((5, 30)) + 0.1 * Z
        return X, drawn(X), 1.0
    if name == "lognormal":
        X = np.exp(Z)
        return X, drawn(X), 1.0
    if name == "scales":
        return Z * np.logspace(-4, 4, 30), drawn(Z), 1.0
    if name == "offsets":
        return Z + np.logspace(0, 4, 30), drawn(Z), 1.0
    if name == "outliers":
        X, y = Z.copy(), drawn(Z)
        X[:5] *= 1e4
        return X, y, 1.0
    if name == "rare categories":
        X = np.eye(40)[np.minimum(rng.geometric(0.2, n) - 1, 39)]
        return np.hstack([X, Z[:, :5]]), drawn(np.hstack([X, Z[:, :5]])), 1e4
    if name == "rare class":
        y = np.zeros(n, dtype=int)
        y[np.argsort(Z[:, 0] + rng.standard_normal(n))[-8:]] = 1
        return Z, y, 1.0
    if name == "sorted":
        y = np.sort(drawn(Z))
        return Z + y[:, None] * 0.3, y, 1.0
    raise AssertionError(name)


HARD = [
    "isotropic",
    "correlated",
    "lognormal",
    "scales",
    "offsets",
    "outliers",
    "rare categories",
    "rare class",
    "sorted",
]


@pytest.mark.parametrize("name", HARD)
def test_hard_data_takes_few_reads(name):
    X, y, C = hard(name)
    reference = TorchLogisticRegression(C=C, solver="newton-cholesky", tol=1e-9, max_iter=100).fit(X, y)
    model = TorchLogisticRegression(C=C, tol=1e-5, max_iter=100).fit(X, y)
    assert model.solver_ == "lbfgs"
    assert model.converged_
    assert model.objective_ <= reference.objective_ * (1 + 1e-6)
    assert model.n_passes_ <= 20


def test_small_values_of_float32_products_are_told_apart():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 30)).astype(np.float32)
    logits = 60.0 * X @ rng.standard_normal((30, 2))  # hardly any row is in doubt
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    narrow, wide = (TorchLogisticRegression(solver="lbfgs", C=1e4).fit(x, y) for x in (X, X.astype(np.float64)))
    assert wide.objective_ < 0.003
    assert narrow.converged_
    assert narrow.n_passes_ <= wide.n_passes_ + 2  # none was lost to being stuck


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_sample_of_rows_is_the_same_in_every_fit(n_classes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 8))
    y = (X @ rng.standard_normal((8, n_classes)) + rng.gumbel(size=(20_000, n_classes))).argmax(axis=1)
    fits = [TorchSoftmaxClassifier(solver="lbfgs", random_state=seed).fit(X, y) for seed in (None, None, 0, 1)]
    assert fits[0].n_passes_ < 10
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)
    np.testing.assert_allclose(fits[0].coef_, fits[3].coef_, rtol=0, atol=1e-2)
    assert (fits[0].coef_ != fits[3].coef_).any()


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_wide_data_takes_two_reads(solver, n_classes, fit_intercept):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 500)), np.arange(60) % n_classes
    settings = {"fit_intercept": fit_intercept, "C": 0.1}
    model = TorchSoftmaxClassifier(solver=solver, tol=1e-9, **settings).fit(X, y)
    reference = LogisticRegression(tol=1e-10, max_iter=5000, **settings).fit(X, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, reference.intercept_, rtol=0, atol=1e-5)
    assert model.converged_
    assert model.n_passes_ <= 3 + 1  # one more bounds the gap
    again = TorchSoftmaxClassifier(solver=solver, tol=1e-6, **settings)
    again.fit(X, y, coef_init=model.coef_, intercept_init=model.intercept_ if fit_intercept else None)
    assert again.n_iter_[0] <= 1


def test_wide_float32_data_is_as_good_as_float64():
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 500)).astype(np.float32), np.arange(60) % 2
    single, double = (TorchLogisticRegression(tol=1e-6).fit(X.astype(t), y) for t in (np.float32, np.float64))
    np.testing.assert_allclose(single.coef_, double.coef_, rtol=0, atol=1e-6)
    assert single.coef_.dtype == np.float32


@pytest.mark.parametrize("kind", ["offset", "repeated rows", "zero weights"])
def test_wide_data_that_is_hard(kind):
    rng = np.random.default_rng(2)
    X, y, weight = rng.standard_normal((40, 300)), np.arange(40) % 2, np.ones(40)
    if kind == "offset":
        X += 1e3
    elif kind == "repeated rows":
        X[20:], y[20:] = X[:20], y[:20]
    else:
        weight[::3] = 0.0
    model = TorchLogisticRegression(tol=1e-6, max_iter=500).fit(X, y, weight)
    used = weight > 0
    alone = TorchLogisticRegression(tol=1e-6, max_iter=500, solver="lbfgs").fit(X[used], y[used])
    assert model.converged_
    assert model.objective_ == pytest.approx(objective(model, X, y, weight), rel=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), rtol=0, atol=1e-3)


class FitHistory(Callback):
    """A callback that keeps the coefficients it is shown."""

    def __init__(self):
        self.shapes = []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator is not None and context.task_name == "iteration":
            self.shapes.append(fitted_estimator.coef_.shape)


def test_a_callback_sees_coefficients_of_the_features_in_a_wide_fit():
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((30, 200)), np.arange(30) % 2
    watch = FitHistory()
    TorchLogisticRegression().set_callbacks(watch).fit(X, y)
    assert watch.shapes
    assert set(watch.shapes) == {(1, 200)}


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("settings", [{"tol": 0.1}, {"tol": 1e-4}, {"solver": "lbfgs", "max_iter": 3}], ids=str)
def test_the_bound_on_the_gap_holds_and_is_of_its_order(settings, fit_intercept):
    X, y, _ = hard("isotropic", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticRegression(fit_intercept=fit_intercept, **settings).fit(X, y)
    optimum = TorchLogisticRegression(fit_intercept=fit_intercept, tol=1e-11).fit(X, y).objective_
    assert model.objective_ - optimum - 1e-14 <= model.optimality_gap_ <= 1000 * (model.objective_ - optimum) + 1e-10


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_the_bound_on_the_gap_holds_far_from_the_optimum_and_for_rare_classes(max_iter, n_classes):
    X, _, _ = hard("isotropic", 600)
    y = np.where(np.arange(600) % 100 < n_classes, np.arange(600) % 100, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchSoftmaxClassifier(max_iter=max_iter, solver="newton-cholesky").fit(X, y)
    optimum = TorchSoftmaxClassifier(tol=1e-11).fit(X, y).objective_
    assert model.objective_ - optimum <= model.optimality_gap_ < np.inf


def test_the_bound_on_the_gap_is_infinite_where_there_is_none():
    X, y, _ = hard("isotropic", 500)
    assert TorchLogisticRegression(C=np.inf).fit(X, y).optimality_gap_ == np.inf
    assert TorchLogisticRegression(C=np.inf).fit(0 * X, y).optimality_gap_ == np.inf
    with pytest.warns(ConvergenceWarning, match="perfectly separated"):
        saturated = TorchLogisticRegression(C=np.inf).fit([[-1.0], [1.0]], [0, 1], coef_init=[[1e6]])
    assert saturated.optimality_gap_ == np.inf
    with pytest.warns(ConvergenceWarning):
        saturated = TorchLogisticRegression(max_iter=0).fit(X, y, coef_init=np.full((1, 30), 1e6))
    assert saturated.optimality_gap_ > 1e9


def test_reads_are_counted():
    X, y, _ = hard("isotropic", 2000)
    model = TorchLogisticRegression(solver="newton-cholesky", fit_intercept=False).fit(X, y)
    assert model.n_passes_ == model.n_iter_[0] + 1  # the start is an evaluation, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticRegression(solver="sgd", learning_rate=0.01, max_iter=3, fit_intercept=False).fit(X, y)
    assert model.n_passes_ == 3 + 1  # the objective of the result


@pytest.mark.parametrize("seed", range(4))
def test_samples_without_one_of_the_classes_do_no_harm(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30_000, 10))
    y = np.zeros(30_000, dtype=int)
    y[:6] = 1
    X[:6] += 2.0
    model = TorchLogisticRegression(random_state=seed).fit(X, y)
    reference = TorchLogisticRegression(solver="newton-cholesky", tol=1e-9).fit(X, y)
    assert model.converged_
    assert model.n_passes_ <= 20
    assert model.objective_ <= reference.objective_ * (1 + 1e-4)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_many_classes(fit_intercept):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2500, 20))  # the Hessian of 200 classes has 18 million numbers
    y = (X @ rng.standard_normal((20, 200)) + rng.gumbel(size=(2500, 200))).argmax(axis=1)
    model = TorchSoftmaxClassifier(fit_intercept=fit_intercept, C=0.1).fit(X, y)
    assert model.converged_
    assert model.objective_ == pytest.approx(objective(model, X, y), rel=1e-8)


def test_the_hessian_of_all_rows_stays_once_it_took_over():
    problem = random_objective(Multinomial(3), n=60, p=5)
    solver = LBFGS()
    state = solver.init(problem, torch.zeros(1, 6, 3, dtype=F64))
    assert state.refresh.due == 10
    point = PreconditionerPolicy(problem, 3).with_hessian(state.point)
    state = solver._renewed(None, state, point, True)
    assert isinstance(state.preconditioner, CholeskyPreconditioner)
    assert state.point.hessian is None
    assert state.refresh.is_newton
    assert state.refresh.due == math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_large_data_is_read_in_threads_with_the_same_result(fit_intercept, order, dtype):
    X = np.asarray(hard("isotropic", 9 * CPU_BLOCK_NUMBERS // 30)[0], dtype=dtype, order=order)
    y = drawn(X)
    model = TorchLogisticRegression(fit_intercept=fit_intercept, tol=1e-6).fit(X, y)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = TorchLogisticRegression(fit_intercept=fit_intercept, tol=1e-6).fit(X, y)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(model.coef_, alone.coef_, rtol=0, atol=1e-6)
    assert model.objective_ == pytest.approx(objective(model, X, y), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_fast_read_of_one_logit_is_the_general_one(order, dtype):
    n = 3 * CPU_BLOCK_NUMBERS // 20
    rows = random_design(n, 20, 1, loss=Binomial(), n_classes=2, order=order)
    rows = DenseDesign(rows.X.to(dtype), rows.y, rows.weight, intercept=True)
    problem = objective_of(rows, Binomial())
    W = random_point(problem)
    assert kernels.takes_one_logit_kernel(problem.design, W)
    fast, general = problem.value_and_gradient(W), problem.second_order(W)
    tolerance = {"rtol": 1e-11, "atol": 1e-14} if dtype == F64 else {"rtol": 1e-4, "atol": 1e-6}
    for name in ("value", "gradient", "eta"):
        torch.testing.assert_close(getattr(fast, name), getattr(general, name), **tolerance)
