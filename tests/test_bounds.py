"""Strengths and bounds for each feature, held to SciPy's optimisers, to rescaled columns and to columns left out."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import DETERMINISTIC, Callback, halves, table
from scipy import sparse
from scipy.optimize import Bounds, minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._solvers import takes_kinks
from torchlogreg._solvers.matrices import FactoredMatrix
from torchlogreg.callbacks import Checkpoint

INF = np.inf
NON_NEGATIVE = (0, INF)
SMOOTH = [name for name in DETERMINISTIC if not takes_kinks(name)]
TIGHT = {"tol": 1e-9, "max_iter": 1000}


def data(n=300, p=8, K=2, seed=0):
    g = np.random.default_rng(seed)
    X = g.normal(size=(n, p))
    X[:, 1] = X[:, 0] + 0.5 * X[:, 1]
    y = (X @ g.normal(size=(p, K)) + g.gumbel(size=(n, K))).argmax(axis=1)
    return X, y


def as_function(X, y, C=1.0, weights=1.0, sample_weight=None, l1_ratio=0.0):
    """F, and its gradient where that exists, as a function of (K, p + 1) coefficients; and K."""
    X, s = np.column_stack([X, np.ones(len(X))]), np.ones(len(X)) if sample_weight is None else sample_weight
    n_classes = y.max() + 1
    K = 1 if n_classes == 2 else n_classes
    strength = np.append(np.broadcast_to(weights, X.shape[1] - 1), 0.0) / C

    def F(w):
        W = w.reshape(K, -1)
        eta = X @ W.T
        both = np.column_stack([np.zeros(len(eta)), eta]) if K == 1 else eta
        total = np.logaddexp.reduce(both, axis=1)
        residual = np.exp(both - total[:, None]) - (y[:, None] == np.arange(n_classes))
        value = s @ (total - both[np.arange(len(y)), y])
        value += (strength * (0.5 * (1 - l1_ratio) * W**2 + l1_ratio * np.abs(W))).sum()
        slope = (s[:, None] * residual)[:, -K:].T @ X + strength * ((1 - l1_ratio) * W + l1_ratio * np.sign(W))
        return value / s.sum(), slope.ravel() / s.sum()

    return F, K


def by_scipy(X, y, lower, upper, method="L-BFGS-B", **problem):
    """The least F within bounds, and the coefficients there."""
    F, K = as_function(X, y, **problem)
    p = X.shape[1]
    lower, upper = (
        np.tile(np.append(np.broadcast_to(np.asarray(side, float), p), infinity), K)
        for side, infinity in ((lower, -INF), (upper, INF))
    )
    tight = {"gtol": 1e-10, "maxiter": 20_000}
    tight |= {"ftol": 1e-16, "maxfun": 10**6} if method == "L-BFGS-B" else {"xtol": 1e-13, "barrier_tol": 1e-12}
    start = np.clip(np.zeros(len(lower)), lower, upper)
    found = minimize(F, start, jac=True, bounds=Bounds(lower, upper), method=method, options=tight)
    return found.fun, found.x.reshape(K, -1)[:, :-1]


BOUNDS = {
    "non-negative": NON_NEGATIVE,
    "box": (-0.2, 0.3),
    "without zero": (0.1, 0.5),
    "one at most": (-INF, np.r_[0.05, np.full(7, INF)]),
    "arrays": (np.linspace(-1, 0, 8), np.linspace(0, 1, 8)),
}


@pytest.mark.parametrize("C", [0.1, 10.0, INF])
@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", BOUNDS)
def test_within_bounds_it_finds_what_l_bfgs_b_finds(name, K, C):
    X, y = data(K=K)
    lower, upper = BOUNDS[name]
    model = TorchSoftmaxClassifier(C=C, coef_bounds=BOUNDS[name], **TIGHT).fit(X, y)
    value, coef = by_scipy(X, y, lower, upper, C=C)
    assert model.solver_ == "prox-newton"
    assert model.converged_
    assert model.objective_ == pytest.approx(value, abs=1e-10)
    if C < INF or K == 2:  # a softmax without a penalty has more than one minimum
        np.testing.assert_allclose(model.coef_, coef, atol=1e-5)
    assert (model.coef_ >= lower).all()
    assert (model.coef_ <= upper).all()
    assert name == "one at most" or ((model.coef_ == lower) | (model.coef_ == upper)).any()
    assert model.optimality_gap_ >= model.objective_ - value - 1e-10
    if C < INF:
        assert model.optimality_gap_ <= 1e-7


@pytest.mark.parametrize("K", [2, 3])
def test_within_bounds_it_finds_what_trust_constr_finds(K):
    X, y = data(K=K, p=4)
    model = TorchSoftmaxClassifier(coef_bounds=(-0.3, 0.2), **TIGHT).fit(X, y)
    value, coef = by_scipy(X, y, -0.3, 0.2, method="trust-constr")
    assert model.objective_ == pytest.approx(value, abs=1e-7)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-3)


@pytest.mark.parametrize("K", [2, 3])
def test_an_l1_norm_and_bounds(K):
    X, y = data(K=K)
    model = TorchSoftmaxClassifier(C=0.05, l1_ratio=0.7, coef_bounds=NON_NEGATIVE, **TIGHT).fit(X, y)
    # Where coefficients are not negative, an L1 norm is a linear function.
    value, coef = by_scipy(X, y, 1e-300, INF, C=0.05, l1_ratio=0.7)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-5)
    assert model.objective_ == pytest.approx(value, abs=1e-10)
    assert model.optimality_gap_ <= 1e-7
    assert (model.coef_ == 0).any()
    pure = TorchSoftmaxClassifier(C=0.05, l1_ratio=1.0, coef_bounds=NON_NEGATIVE, **TIGHT).fit(X, y)
    assert pure.objective_ == pytest.approx(by_scipy(X, y, 1e-300, INF, C=0.05, l1_ratio=1.0)[0], abs=1e-10)
    assert pure.optimality_gap_ <= 1e-5


@pytest.mark.parametrize("bounds", [(-0.3, 0.3), NON_NEGATIVE], ids=str)
def test_bounds_of_features_that_have_no_penalty(bounds):
    X, y = data(n=30_000, K=3)  # too many rows for NumPy; along the flat direction a step would leave the bounds
    weights = np.r_[np.zeros(3), np.ones(5)]
    model = TorchSoftmaxClassifier(penalty_weights=weights, coef_bounds=bounds, **TIGHT).fit(X, y)
    value, coef = by_scipy(X, y, *bounds, weights=weights)
    assert bounds[0] <= model.coef_.min() <= model.coef_.max() <= bounds[1]
    assert model.objective_ == pytest.approx(value, abs=1e-9)
    differences = model.coef_ - model.coef_[0], coef - coef[0]  # above a lower bound, all classes may move together
    np.testing.assert_allclose(*differences, atol=1e-4)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("K", [2, 3])
def test_weights_of_an_l2_penalty_are_a_scale_of_the_columns(K, solver):
    X, y = data(K=K)
    weights = np.geomspace(1e-2, 1e2, 8)
    model = TorchSoftmaxClassifier(penalty_weights=weights, solver=solver, **TIGHT).fit(X, y)
    theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(X / np.sqrt(weights), y)
    np.testing.assert_allclose(model.coef_, theirs.coef_ / np.sqrt(weights), atol=1e-5)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=1e-5)
    assert model.converged_


@pytest.mark.parametrize("K", [2, 3])
def test_weights_of_an_l1_penalty_are_a_scale_of_the_columns(K):
    X, y = data(K=K)
    weights = np.geomspace(0.1, 10, 8)
    model = TorchSoftmaxClassifier(C=0.3, l1_ratio=1.0, penalty_weights=weights, **TIGHT).fit(X, y)
    same = TorchSoftmaxClassifier(C=0.3, l1_ratio=1.0, **TIGHT).fit(X / weights, y)
    theirs = LogisticRegression(C=0.3, l1_ratio=1.0, solver="saga", random_state=0, tol=1e-10, max_iter=100_000).fit(
        X / weights, y
    )
    for other in (same, theirs):
        np.testing.assert_allclose(model.coef_, other.coef_ / weights, atol=1e-5)


def test_weights_of_the_same_size_are_those_of_glmnet_up_to_its_scale():
    # glmnet scales penalty.factor to a mean of 1, so that a common factor changes nothing. Here it is one of C.
    X, y = data(K=3)
    weights = np.linspace(0.5, 3, 8)
    one = TorchSoftmaxClassifier(penalty_weights=4.0 * weights, C=4.0, **TIGHT).fit(X, y)
    other = TorchSoftmaxClassifier(penalty_weights=weights, **TIGHT).fit(X, y)
    np.testing.assert_allclose(one.coef_, other.coef_, atol=1e-8)
    ones = TorchSoftmaxClassifier(penalty_weights=np.ones(8), **TIGHT).fit(X, y)
    np.testing.assert_array_equal(ones.coef_, TorchSoftmaxClassifier(**TIGHT).fit(X, y).coef_)


@pytest.mark.parametrize("solver", ["auto", *DETERMINISTIC])
@pytest.mark.parametrize("K", [2, 3])
def test_a_weight_of_zero_leaves_a_feature_unpenalised(K, solver):
    X, y = data(K=K)
    weights = np.r_[0.0, 0.0, np.ones(6)]
    model = TorchSoftmaxClassifier(C=0.01, penalty_weights=weights, solver=solver, **TIGHT).fit(X, y)
    value, _ = by_scipy(X, y, -INF, INF, C=0.01, weights=weights)
    assert model.converged_
    assert model.objective_ == pytest.approx(value, abs=1e-10)
    assert model.optimality_gap_ == INF


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("K", [2, 3])
def test_an_infinite_weight_leaves_a_feature_out(K, l1_ratio):
    X, y = data(K=K)
    out = np.isin(np.arange(8), [1, 4])
    model = TorchSoftmaxClassifier(l1_ratio=l1_ratio, penalty_weights=np.where(out, INF, 1.0), **TIGHT).fit(X, y)
    without = TorchSoftmaxClassifier(l1_ratio=l1_ratio, **TIGHT).fit(X[:, ~out], y)
    assert not model.coef_[:, out].any()
    np.testing.assert_allclose(model.coef_[:, ~out], without.coef_, atol=1e-6)
    assert model.objective_ == pytest.approx(without.objective_, abs=1e-12)
    assert model.optimality_gap_ <= 1e-7
    nothing = TorchSoftmaxClassifier(penalty_weights=np.full(8, INF), **TIGHT).fit(X, y)
    assert not nothing.coef_.any()
    np.testing.assert_allclose(nothing.predict_proba(X).mean(axis=0), np.bincount(y) / len(y), atol=1e-6)


@pytest.mark.parametrize("K", [2, 3])
def test_unequal_strengths_of_wide_data(K):
    X, y = data(40, 200, K)
    weights = np.geomspace(0.1, 10, 200)
    model = TorchSoftmaxClassifier(penalty_weights=weights, **TIGHT).fit(X, y)
    scaled = TorchSoftmaxClassifier(**TIGHT).fit(X / np.sqrt(weights), y)  # in the span of its rows
    np.testing.assert_allclose(model.coef_, scaled.coef_ / np.sqrt(weights), atol=1e-5)
    assert model.converged_
    assert model.solver_ in SMOOTH
    equal = TorchSoftmaxClassifier(penalty_weights=np.full(200, 2.0), **TIGHT).fit(X, y)
    np.testing.assert_allclose(equal.coef_, TorchSoftmaxClassifier(C=0.5, **TIGHT).fit(X, y).coef_, atol=1e-7)


@pytest.mark.parametrize("K", [2, 3])
def test_bounds_of_wide_data(K):
    X, y = data(40, 200, K)
    model = TorchSoftmaxClassifier(coef_bounds=NON_NEGATIVE, **TIGHT).fit(X, y)
    value, coef = by_scipy(X, y, 0, INF)
    assert model.objective_ == pytest.approx(value, abs=1e-10)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-5)


@pytest.mark.parametrize(("n", "p"), [(60, 200), (300, 120)])
def test_what_an_l1_norm_pulls_away_from_a_bound(n, p):
    """So many coefficients that quadratic models are about some of them."""
    X, y = data(n, p, 3)
    model = TorchSoftmaxClassifier(l1_ratio=1, coef_bounds=(-0.05, 0.05), **TIGHT).fit(X, y)
    assert model.converged_
    assert model.gradient_norm_ < 1e-8


@pytest.mark.parametrize(
    "held", [{"coef_bounds": NON_NEGATIVE}, {"penalty_weights": np.repeat([1.0, INF], [400, 800])}]
)
def test_working_sets_pass_over_columns_that_bounds_hold_at_zero(held):
    X, y = data(60, 1200)
    X[:, 400:] = (1 - 2 * y[:, None]) + 0.6 * np.random.default_rng(1).normal(size=(60, 800))
    model = TorchSoftmaxClassifier(l1_ratio=1.0, **held, **TIGHT).fit(X, y)
    assert model.converged_
    free = TorchSoftmaxClassifier(l1_ratio=1.0, coef_bounds=held.get("coef_bounds"), **TIGHT).fit(X[:, :400], y)
    assert model.objective_ == pytest.approx(free.objective_, rel=1e-8)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("K", [2, 3])
def test_unpenalised_features_of_wide_data(K, intercept):
    X, y = data(50, 400, K)
    weights = np.repeat([0.0, 1.0], [3, 397])
    model = TorchSoftmaxClassifier(penalty_weights=weights, l1_ratio=0.7, fit_intercept=intercept, **TIGHT).fit(X, y)
    assert model.converged_
    if intercept:
        slope = as_function(X, y, weights=weights, l1_ratio=0.7)[0](np.column_stack([model.coef_, model.intercept_]))[1]
        assert np.abs(slope.reshape(len(model.coef_), -1)[:, :3]).max() < 1e-8


@pytest.mark.parametrize("p", [400, 2000])  # in the second there are more candidates than a quadratic model takes
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("K", [2, 3])
def test_an_l1_norm_takes_coefficients_off_their_bounds(K, l1_ratio, p):
    X, y = data(80, p, K)
    model = TorchSoftmaxClassifier(C=3.0, l1_ratio=l1_ratio, coef_bounds=(0, 0.3), **TIGHT).fit(X, y)
    assert model.converged_
    assert (model.coef_ == 0.3).any()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_left_out_features_have_no_part_in_the_hessian_of_all_classes():
    X, y = data(50, 400, 3)
    weights = np.repeat([0.0, 1.0, INF], [3, 396, 1])
    bounded = {"penalty_weights": weights, "coef_bounds": (-0.5, 0.5)}
    assert TorchSoftmaxClassifier(C=3.0, l1_ratio=0.5, **bounded, **TIGHT).fit(X, y).converged_


def test_an_eigenbasis_knows_of_unequal_strengths():
    X, y = data(6000, 60, 6)
    weights = np.geomspace(1e-4, 1e6, 60)
    model = TorchSoftmaxClassifier(penalty_weights=weights, solver="lbfgs").fit(X, y)
    plain = TorchSoftmaxClassifier(solver="lbfgs").fit(X, y)
    assert model.converged_
    assert model.n_passes_ <= 1.5 * plain.n_passes_


@pytest.mark.parametrize("K", [2, 3])
def test_sparse_rows_and_their_empty_columns(K):
    X, y = data(200, 6, K)
    X[np.abs(X) < 1] = 0
    wide = np.zeros((200, 30))
    wide[:, 3:9] = X
    lower, upper, weights = np.full(30, -0.2), np.full(30, 0.3), np.geomspace(0.1, 10, 30)
    few = {"coef_bounds": (lower[3:9], upper[3:9]), "penalty_weights": weights[3:9], **TIGHT}
    few = TorchSoftmaxClassifier(**few).fit(X, y)
    left_out = TorchSoftmaxClassifier(coef_bounds=(lower, upper), penalty_weights=weights, **TIGHT)
    left_out.fit(sparse.csr_array(wide), y)
    np.testing.assert_allclose(left_out.coef_[:, 3:9], few.coef_, atol=1e-7)
    assert not np.delete(left_out.coef_, np.arange(3, 9), axis=1).any()
    assert left_out.objective_ == pytest.approx(few.objective_, abs=1e-12)
    # Bounds that exclude zero: the one nearest zero, whose penalty counts.
    lower[0], upper[1], weights[2] = 0.1, -0.15, 0.0
    model = TorchSoftmaxClassifier(coef_bounds=(lower, upper), penalty_weights=weights, **TIGHT)
    model.fit(sparse.csr_array(wide), y)
    dense = clone(model).fit(wide, y)
    np.testing.assert_allclose(model.coef_, dense.coef_, atol=1e-7)
    np.testing.assert_array_equal(model.coef_[:, :3], np.tile([0.1, -0.15, 0.0], (len(model.coef_), 1)))
    assert model.objective_ == pytest.approx(by_scipy(wide, y, lower, upper, weights=weights)[0], abs=1e-10)


@pytest.mark.parametrize("kind", ["float32", "stream", "tensor", "weights", "warm start"])
@pytest.mark.parametrize("K", [2, 3])
def test_other_ways_to_the_same_minimum(K, kind):
    X, y = data(K=K)
    settings = {"coef_bounds": (-0.1, 0.7), "penalty_weights": np.linspace(0.5, 2, 8), "tol": 1e-6, "max_iter": 1000}
    model, s = TorchSoftmaxClassifier(**settings), None
    if kind == "float32":
        model.fit(X.astype(np.float32), y)
    elif kind == "stream":
        model.fit(halves(X, y))
    elif kind == "tensor":
        model.fit(torch.from_numpy(X), torch.from_numpy(y))
    elif kind == "weights":
        s = np.random.default_rng(1).integers(0, 4, len(y)).astype(float)
        model.fit(X, y, sample_weight=s)
    else:
        model = TorchSoftmaxClassifier(warm_start=True, C=1e3).fit(X, y)
        assert np.abs(model.coef_).max() > 1.0
        model.set_params(C=1.0, **settings).fit(X, y)
    value, coef = by_scipy(X, y, -0.1, 0.7, weights=settings["penalty_weights"], sample_weight=s)
    assert model.converged_
    assert model.objective_ == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-3)
    bounds = np.asarray((-0.1, 0.7), model.coef_.dtype)
    assert bounds[0] <= model.coef_.min()
    assert model.coef_.max() <= bounds[1]


def test_sgd_keeps_to_bounds():
    X, y = table("iris", scaled=True)
    value, _ = by_scipy(X, y, 0, INF, weights=[1, 2, 3, 4])
    settings = {"coef_bounds": NON_NEGATIVE, "penalty_weights": [1, 2, 3, 4], "solver": "sgd", "random_state": 0}
    model = TorchSoftmaxClassifier(**settings).fit(X, y)
    assert model.coef_.min() == 0.0
    assert value <= model.objective_ <= value + 0.01
    step_by_step = TorchSoftmaxClassifier(**settings)
    for _ in range(50):
        step_by_step.partial_fit(X, y, classes=[0, 1, 2])
        assert step_by_step.coef_.min() >= 0.0
    F, _ = as_function(X, y, weights=[1, 2, 3, 4])
    reached, _ = F(np.column_stack([step_by_step.coef_, step_by_step.intercept_]).ravel())
    assert value <= reached <= value + 0.02


def test_names_of_features():
    X, y = data()
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(8)])
    by_number = TorchLogisticRegression(
        penalty_weights=[1, 3, INF, 1, 1, 1, 1, 1],
        coef_bounds=(np.r_[np.full(5, -INF), 0.0, -INF, -1.0], np.r_[np.full(7, INF), 0.1]),
    ).fit(X, y)
    weights = {"x1": 3, "x2": INF}
    pairs = TorchLogisticRegression(penalty_weights=weights, coef_bounds={"x5": NON_NEGATIVE, "x7": (-1, 0.1)})
    sides = TorchLogisticRegression(penalty_weights=weights, coef_bounds=({"x5": 0, "x7": -1}, {"x7": 0.1}))
    for model in (pairs, sides):
        np.testing.assert_array_equal(model.fit(frame, y).coef_, by_number.coef_)


MESSAGES = {
    "wrong length": ({"penalty_weights": [1, 2]}, "penalty_weights has 2 values, but X has 8 features"),
    "wrong shape": ({"coef_bounds": (np.zeros((1, 8)), 1)}, r"coef_bounds has shape \(1, 8\), but X has 8 features"),
    "unknown": ({"penalty_weights": {"heigth": 2}}, "names 'heigth', which is no feature of X. Did you mean 'height'"),
    "unlike any": ({"coef_bounds": {"zzz": (0, 1)}}, r"names 'zzz'.*The features are 'height', 'x1'"),
    "negative": ({"penalty_weights": {"height": -1}}, r"from 0 to infinity; feature 0 \('height'\) has -1"),
    "NaN": ({"penalty_weights": [np.nan] * 8}, "from 0 to infinity; feature 0"),
    "NaN bound": ({"coef_bounds": (np.nan, 1)}, r"with lower <= upper; feature 0 \('height'\) has \(nan, 1\)"),
    "crossed": ({"coef_bounds": {"x3": (2, 1)}}, r"with lower <= upper; feature 3 \('x3'\) has \(2, 1\)"),
    "nothing between": ({"coef_bounds": (INF, INF)}, "leave no finite number"),
    "no pair": ({"coef_bounds": [0, 1, 2]}, r"must be a pair \(lower, upper\), such as \(0, np.inf\)"),
    "no pair by name": ({"coef_bounds": {"x1": 1}}, r"coef_bounds\['x1'\] must be a pair"),
    "text": ({"penalty_weights": ["a"] * 8}, "penalty_weights must hold numbers"),
    "left out of its bounds": ({"penalty_weights": {"x1": INF}, "coef_bounds": (1, 2)}, "coef_bounds exclude 0"),
    "scalar": ({"penalty_weights": 2.0}, "The 'penalty_weights' parameter of TorchLogisticRegression must be"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_refused(name):
    X, y = data()
    frame = pd.DataFrame(X, columns=["height", *(f"x{j}" for j in range(1, 8))])
    parameters, message = MESSAGES[name]
    with pytest.raises(ValueError, match=message):
        TorchLogisticRegression(**parameters).fit(frame, y)


def test_a_dict_needs_names():
    X, y = data()
    with pytest.raises(
        ValueError, match=r"the features of X have no names: pass a data frame.*or an array of 8 values"
    ):
        TorchLogisticRegression(penalty_weights={"x0": 2}).fit(X, y)


@pytest.mark.parametrize("solver", SMOOTH)
def test_solvers_without_bounds_refuse_them_by_name(solver):
    X, y = data()
    remedy = f"solver='{solver}' takes no bounds: use solver='auto', 'prox-newton' or 'sgd' with"
    with pytest.raises(ValueError, match=f"{remedy} coef_bounds"):
        TorchLogisticRegression(solver=solver, coef_bounds=NON_NEGATIVE).fit(X, y)
    with pytest.raises(ValueError, match=f"{remedy} infinite penalty_weights"):
        TorchLogisticRegression(solver=solver, penalty_weights=[INF] * 8).fit(X, y)
    TorchLogisticRegression(solver=solver, coef_bounds=(-INF, INF)).fit(X, y)


def test_an_unpenalised_feature_that_separates_is_reported():
    X, y = data()
    X[:, 3] = 2.0 * y - 1.0
    with pytest.warns(ConvergenceWarning, match=r"perfectly separated.*Raise the penalty_weights that are 0"):
        TorchLogisticRegression(penalty_weights=np.where(np.arange(8) == 3, 0.0, 1.0)).fit(X, y)
    TorchLogisticRegression(penalty_weights=np.where(np.arange(8) == 2, 0.0, 1.0)).fit(X, y)  # another column
    with pytest.warns(ConvergenceWarning, match=r"perfectly separated.*Use a finite C"):
        TorchLogisticRegression(C=INF, coef_bounds=NON_NEGATIVE).fit(X, y)
    assert TorchLogisticRegression(C=INF, coef_bounds=(-INF, 2)).fit(X, y).converged_


def test_keeping_and_copying(tmp_path):
    X, y = data(K=3)
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(8)])
    model = TorchSoftmaxClassifier(penalty_weights=np.linspace(0, 2, 8), coef_bounds={"x1": NON_NEGATIVE})
    model.fit(frame, y)
    model.save(tmp_path / "model.safetensors")
    loaded = TorchSoftmaxClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.penalty_weights, model.penalty_weights)
    assert loaded.coef_bounds == model.coef_bounds
    for copy in (loaded, clone(model), TorchSoftmaxClassifier().set_params(**model.get_params())):
        np.testing.assert_array_equal(copy.fit(frame, y).coef_, model.coef_)
    assert "coef_bounds" in repr(model)
    with pytest.warns(UserWarning, match="has no penalty_weights and no coef_bounds: the converted model predicts"):
        theirs = model.to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(frame), model.predict_proba(frame))


OWN = {
    "weights": {"penalty_weights": np.linspace(0.0, 3.0, 8)},
    "weights, L-BFGS": {"penalty_weights": np.linspace(0.0, 3.0, 8), "solver": "lbfgs"},
    "by name": {"penalty_weights": {"c": 0.1, "f": INF}, "coef_bounds": {"a": (0, INF), "h": (0.25, 0.5)}},
    "bounds": {"coef_bounds": (-0.1, INF)},
    "bounds that exclude zero": {"coef_bounds": (0.05, 0.3)},
}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("K", [2, 3])
def test_cross_validation_is_a_loop(own, K):
    X, y = data(K=K)
    X, settings = pd.DataFrame(X, columns=list("abcdefgh")), {**OWN[own], **TIGHT}
    single, cv = (
        (TorchLogisticRegression, TorchLogisticRegressionCV)
        if K == 2
        else (TorchSoftmaxClassifier, TorchSoftmaxClassifierCV)
    )
    ratios = (0.0,) if "solver" in settings else (0.0, 0.7)
    model = cv(Cs=[0.01, 1.0], l1_ratios=ratios, cv=3, **settings).fit(X, y)
    assert model.converged_
    for f, (train, _) in enumerate(StratifiedKFold(3).split(X, y)):
        for r, l1_ratio in enumerate(ratios):
            for c, C in enumerate((0.01, 1.0)):
                alone = single(C=C, l1_ratio=l1_ratio, **settings).fit(X.iloc[train], y[train])
                found = model.coefs_paths_[f, r, c, :, :8]
                if "penalty_weights" in settings and K > 2:  # a constant on a row without a penalty changes nothing
                    found, alone.coef_ = (W - W.mean(axis=0) * (np.abs(W) > 0) for W in (found, alone.coef_))
                np.testing.assert_allclose(found, alone.coef_, atol=1e-5)
    best = single(C=model.C_, l1_ratio=model.l1_ratio_, **settings).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), best.predict_proba(X), atol=1e-6)
    search = TorchGridSearchCV(single(**settings), {"C": [0.01, 1.0], "l1_ratio": ratios}, cv=3, scoring="neg_log_loss")
    search.fit(X, y)
    assert search.device_reason_  # as one batch
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"].reshape(2, -1).T, model.scores_.mean(axis=0), rtol=1e-6
    )


def test_cross_validation_of_what_is_empty_or_wide():
    X, y = data(n=120, p=40)
    sparse_X = sparse.csr_array(np.hstack([np.zeros((120, 80)), X * (np.abs(X) > 1), np.zeros((120, 300))]))
    wide = np.hstack([X, np.random.default_rng(1).normal(size=(120, 500))])
    for rows, weights in ((sparse_X, np.linspace(0.5, 2.0, 420)), (wide, np.linspace(0.5, 2.0, 540))):
        settings = {"penalty_weights": weights, "coef_bounds": (-0.2, 0.2), "tol": 1e-7}
        model = TorchLogisticRegressionCV(Cs=[0.1, 1.0], l1_ratios=(0.0, 0.5), cv=2, **settings).fit(rows, y)
        train, _ = next(StratifiedKFold(2).split(rows, y))
        for r, l1_ratio in enumerate((0.0, 0.5)):
            alone = TorchLogisticRegression(C=1.0, l1_ratio=l1_ratio, **settings).fit(rows[train], y[train])
            np.testing.assert_allclose(model.coefs_paths_[0, r, 1, 0, :-1], alone.coef_[0], atol=1e-4)


def test_where_a_path_begins():
    X, y = data(K=3)
    weights = np.linspace(1.0, 2.0, 8)
    for bounds in (None, (0, INF)):
        settings = {"penalty_weights": weights, "coef_bounds": bounds}
        Cs = TorchSoftmaxClassifierCV(Cs=3, l1_ratios=(0.5,), cv=2, **settings).fit(X, y).Cs_
        assert not TorchSoftmaxClassifier(C=0.999 * Cs[0], l1_ratio=0.5, **settings).fit(X, y).coef_.any()
        assert TorchSoftmaxClassifier(C=1.01 * Cs[0], l1_ratio=0.5, **settings).fit(X, y).coef_.any()
    for settings in ({"penalty_weights": weights - 1}, {"coef_bounds": (0.1, 0.2)}):  # never are all of them zero
        model = TorchSoftmaxClassifierCV(Cs=3, l1_ratios=(0.5,), cv=2, **settings).fit(X, y)
        np.testing.assert_allclose(model.Cs_, [1e-4, 1.0, 1e4])


def test_what_cross_validation_refuses():
    X, y = data()
    with pytest.raises(ValueError, match="takes no bounds"):
        TorchLogisticRegressionCV(coef_bounds=NON_NEGATIVE, solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="penalty_weights has 3 values, but X has 8 features"):
        TorchLogisticRegressionCV(penalty_weights=np.ones(3)).fit(X, y)


def test_a_search_over_C_and_over_weights():
    X, y = data()
    model = make_pipeline(StandardScaler(), TorchLogisticRegression(coef_bounds=NON_NEGATIVE))
    search = TorchGridSearchCV(model, {"torchlogisticregression__C": [0.01, 1.0]}, cv=3).fit(X, y)
    assert search.device_reason_  # as one batch
    assert search.best_estimator_[-1].coef_.min() == 0.0
    alone = clone(model).set_params(**search.best_params_).fit(X, y)
    np.testing.assert_array_equal(search.best_estimator_[-1].coef_, alone[-1].coef_)
    grid = {"penalty_weights": [None, np.ones(8), np.linspace(0, 1, 8)]}
    search = TorchGridSearchCV(TorchLogisticRegression(C=0.01), grid, cv=3).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


class Stop(Callback):
    """Ends a fit by force after its second iteration."""

    n_ended = 0

    def on_fit_task_end(self, estimator, context, **_):
        self.n_ended += context.task_name == "iteration"
        if self.n_ended == 2:
            raise KeyboardInterrupt


def test_a_checkpoint_belongs_to_weights_and_bounds(tmp_path):
    X, y = data(K=3)
    path, weights = tmp_path / "checkpoint", np.linspace(1, 2, 8)
    settings = {"penalty_weights": weights, "coef_bounds": (-0.5, 0.5), "tol": 1e-9}
    with pytest.raises(KeyboardInterrupt):
        TorchSoftmaxClassifier(**settings).set_callbacks(Checkpoint(path, every=1), Stop()).fit(X, y)
    for change in ({"penalty_weights": weights + 1e-9 * (np.arange(8) == 3)}, {"coef_bounds": (-0.5, 0.6)}):
        with pytest.raises(ValueError, match="other penalty_weights or coef_bounds"):
            TorchSoftmaxClassifier(**settings).set_params(**change).set_callbacks(Checkpoint(path)).fit(X, y)
    resumed = TorchSoftmaxClassifier(**settings).set_callbacks(Checkpoint(path)).fit(X, y)
    np.testing.assert_allclose(resumed.coef_, TorchSoftmaxClassifier(**settings).fit(X, y).coef_, atol=1e-7)


@pytest.mark.parametrize("bounds", [(0, np.inf), (-0.02, 0.02), (-0.05, 0.5)])
def test_more_columns_than_rows(bounds):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 300))
    y = (X[:, :5].sum(axis=1) + rng.logistic(size=40) > 0).astype(int)
    model = TorchLogisticRegression(coef_bounds=bounds, **TIGHT).fit(X, y)
    assert model.converged_
    value, _ = by_scipy(X, y, *bounds)
    assert model.objective_ == pytest.approx(value, abs=1e-9)


def test_products_of_columns_solve_for_many_rows():
    rng = np.random.default_rng(0)
    Z, ridge = rng.normal(size=(50, 8)), rng.uniform(0.1, 1.0, 50)
    ridge[[3, 7]] = 0.0
    whole, free, shift = Z @ Z.T + np.diag(ridge), np.r_[0:8, 20:45], rng.uniform(size=50)
    r = rng.normal(size=len(free))
    for extra in (None, shift):
        part = (whole if extra is None else whole + np.diag(extra))[np.ix_(free, free)]
        np.testing.assert_allclose(FactoredMatrix(Z, ridge).solve(free, r, extra), np.linalg.solve(part, r), rtol=1e-9)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_columns_of_a_large_mean_on_wide_data(offset):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 800))
    y = (X[:, :5].sum(axis=1) + rng.logistic(size=40) > 0).astype(int)
    bounded = {"coef_bounds": (-0.05, 0.05), "tol": 1e-6}
    model = TorchLogisticRegression(**bounded).fit(X + offset, y)
    assert model.converged_
    assert model.objective_ == pytest.approx(TorchLogisticRegression(**bounded).fit(X, y).objective_, rel=1e-6)
