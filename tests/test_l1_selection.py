"""Cross-validation and grid search over l1_ratio: the same as single fits, and as scikit-learn's searches."""

import warnings

import numpy as np
import pytest
import torch
from helpers import table
from scipy import sparse
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import l1_min_c

import torchlogreg._model_selection.batched_fits as fits_module
import torchlogreg._model_selection.grid_search as search_module
import torchlogreg._model_selection.tuning as selection_tuning
from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
    smallest_useful_C,
)
from torchlogreg._data.dense import DenseDesign
from torchlogreg._model_selection.paths import Candidates
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, PerFeature
from torchlogreg._solvers.preconditioners.shared import Centre
from torchlogreg._solvers.prox_newton import ProxNewton
from torchlogreg._solvers.working_sets import WorkingSets

CS = [0.1, 0.5, 3.0]
RATIOS = np.array([0.0, 0.4, 1.0])
TIGHT = {"tol": 1e-9, "max_iter": 1000}
SAGA = {"solver": "saga", "random_state": 0, "tol": 1e-8, "max_iter": 20_000}
SINGLE = {2: TorchLogisticRegression, 3: TorchSoftmaxClassifier}
CV = {2: TorchLogisticRegressionCV, 3: TorchSoftmaxClassifierCV}


def data(n_classes, n=120, p=6, seed=0):
    X, y = make_classification(n, p, n_informative=4, n_classes=n_classes, flip_y=0.2, random_state=seed)
    return StandardScaler().fit_transform(X), y


def centred(paths):
    """Paths whose intercepts of several classes, the last coefficients, have no constant, which changes nothing."""
    paths = paths.copy()
    if paths.shape[3] > 1:
        paths[..., -1] -= paths[..., -1].mean(axis=3, keepdims=True)
    return paths


def single_fits(model, single, X, y, splits, weight=None):
    """Coefficients and intercepts of a fit of its own for every fold, l1_ratio and C, as `coefs_paths_`."""
    out = np.empty_like(model.coefs_paths_)
    for f, (train, _) in enumerate(splits):
        for r, l1_ratio in enumerate(model.l1_ratios_):
            for c, C in enumerate(model.Cs_):
                one = single.set_params(C=C, l1_ratio=l1_ratio)
                one.fit(X[train], y[train], None if weight is None else weight[train])
                out[f, r, c] = np.column_stack([one.coef_, one.intercept_])[:, : out.shape[-1]]
    return out


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_everything_is_as_in_scikit_learn(n_classes, refit):
    X, y = data(n_classes)
    settings = {"Cs": CS, "l1_ratios": RATIOS, "cv": 3, "scoring": "neg_log_loss", "refit": refit}
    ours = CV[n_classes](**settings, **TIGHT).fit(X, y)
    theirs = LogisticRegressionCV(**settings, **SAGA, use_legacy_attributes=False).fit(X, y)
    assert ours.converged_
    assert ours.coefs_paths_.shape == theirs.coefs_paths_.shape == (3, 3, 3, n_classes if n_classes > 2 else 1, 7)
    assert ours.scores_.shape == theirs.scores_.shape == ours.n_iter_.shape == (3, 3, 3)
    np.testing.assert_array_equal(ours.l1_ratios_, RATIOS)
    np.testing.assert_allclose((ours.C_, ours.l1_ratio_), (theirs.C_, theirs.l1_ratio_))
    for name in ("scores_", "coef_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(centred(ours.coefs_paths_), centred(theirs.coefs_paths_), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"fit_intercept": False}, {"class_weight": "balanced"}], ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("together", [1, 2, 20])
def test_a_batch_is_a_loop(n_classes, options, together, monkeypatch):
    if together > 1:  # also models so small that they are solved one by one
        monkeypatch.setattr(fits_module.BatchedFits, "_go_alone", lambda self: False)
        monkeypatch.setattr(selection_tuning, "PATH_MODELS", together)
    X, y = data(n_classes, n=200)
    weight = np.random.default_rng(0).uniform(0.0, 2.0, len(y)).round(1)
    settings = {**options, **TIGHT}
    model = CV[n_classes](Cs=CS, l1_ratios=RATIOS, cv=3, **settings).fit(X, y, weight)
    splits = list(StratifiedKFold(3).split(X, y))
    alone = single_fits(model, SINGLE[n_classes](**settings), X, y, splits, weight)
    np.testing.assert_allclose(centred(model.coefs_paths_), centred(alone), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.coefs_paths_[..., :6] == 0, alone[..., :6] == 0)


@pytest.mark.parametrize("n_folds", [1, 2])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_rows_than_a_block(n_classes, n_folds, monkeypatch):
    monkeypatch.setattr(selection_tuning, "PATH_MODELS", 2)
    X, y = data(n_classes, n=20_000, p=30)
    splits = list(StratifiedKFold(2).split(X, y))[:n_folds]
    model = CV[n_classes](Cs=[1e-3, 1e-2, 0.03, 1.0], l1_ratios=(0.02, 0.9), cv=splits, **TIGHT).fit(X, y)
    alone = single_fits(model, SINGLE[n_classes](**TIGHT), X, y, splits)
    np.testing.assert_allclose(centred(model.coefs_paths_), centred(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["text", "wide"])
def test_a_path_of_a_single_fold(kind, monkeypatch):
    monkeypatch.setattr(selection_tuning, "PATH_MODELS", 3)
    rng = np.random.default_rng(0)
    if kind == "wide":
        X = rng.standard_normal((80, 900))
        logits = X[:, 0] - X[:, 1]
    else:
        X = sparse.random_array((2000, 1500), density=0.004, format="csr", random_state=0)
        X = sparse.hstack([X, sparse.random_array((2000, 40), density=0.3, format="csr", random_state=1)], format="csr")
        logits = 3 * (X[:, [-1]] - X[:, [-2]]).toarray()[:, 0]
    y = (logits + rng.logistic(size=X.shape[0]) > 0).astype(int)
    train, test = np.arange(len(y) // 4, len(y)), np.arange(len(y) // 4)
    settings = {"tol": 1e-7, "max_iter": 1000}
    Cs = smallest_useful_C(X[train], y[train]) * np.geomspace(1, 150, 5)
    search = TorchLogisticRegressionCV(Cs=Cs, l1_ratios=(0.8, 1.0), cv=[(train, test)], refit=False, **settings)
    search.fit(X, y)
    assert search.converged_
    sizes = []
    for r, l1_ratio in enumerate((0.8, 1.0)):
        for c, C in enumerate(search.Cs_):
            alone = TorchLogisticRegression(C=C, l1_ratio=l1_ratio, **settings).fit(X[train], y[train])
            w = np.append(alone.coef_[0], alone.intercept_)
            np.testing.assert_allclose(search.coefs_paths_[0, r, c, 0], w, atol=2e-4 * max(1.0, np.abs(w).max()))
            sizes.append(np.count_nonzero(alone.coef_))
    assert min(sizes) < 2 < 20 < max(sizes)


@pytest.mark.parametrize("container", [np.float32, sparse.csr_array, torch.from_numpy])
def test_any_container(container):
    X, y = data(3)
    settings = {"Cs": CS, "l1_ratios": (0.3, 1.0), "cv": 3, "tol": 1e-5, "max_iter": 1000}
    model = TorchSoftmaxClassifierCV(**settings).fit(container(X), y)
    reference = TorchSoftmaxClassifierCV(**settings | TIGHT).fit(X, y)
    assert model.converged_
    assert (model.C_, model.l1_ratio_) == (reference.C_, reference.l1_ratio_)
    np.testing.assert_allclose(model.scores_, reference.scores_, rtol=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_features_than_rows(n_classes):
    X, y = data(n_classes, n=60, p=400)
    model = CV[n_classes](Cs=[0.1, 1.0], l1_ratios=(0.0, 0.5, 1.0), cv=2, tol=1e-7, max_iter=1000).fit(X, y)
    assert model.converged_
    alone = single_fits(model, SINGLE[n_classes](tol=1e-7), X, y, list(StratifiedKFold(2).split(X, y)))
    features = model.coefs_paths_[..., :-1], alone[..., :-1]
    np.testing.assert_allclose(*features, atol=1e-4)
    # the penalty of l1_ratio=0 is smooth, and solved as without the others
    single = CV[n_classes](Cs=[0.1, 1.0], cv=2, tol=1e-7, max_iter=1000).fit(X, y)
    np.testing.assert_array_equal(model.coefs_paths_[:, :1], single.coefs_paths_)


def test_a_path_starts_from_the_weakest_of_its_own_kind():
    C, ratio = (values.ravel() for values in np.meshgrid(np.logspace(-3, 1, 50), [0.01, 0.1, 1.0], indexing="ij"))
    C, ratio = torch.from_numpy(C), torch.from_numpy(ratio)
    intercept, weighting = torch.ones(150, dtype=torch.bool), torch.zeros(150, dtype=torch.long)
    intercept[-3:] = False  # of the largest C
    candidates = Candidates((1 - ratio) / C, ratio / C, ratio, intercept, weighting, PerFeature())
    order = candidates.strength.argsort(descending=True, stable=True)
    known, q = order[:120], order[120:]
    place, is_like = candidates.nearest(q, known)
    assert is_like.tolist() == intercept[q].tolist()
    for i, found in zip(q.tolist(), known[place].tolist(), strict=True):
        same = [k for k in known.tolist() if ratio[k] == ratio[i]]
        assert C[found] == C[same].max()
        assert ratio[found] == ratio[i]


def test_working_sets_end_without_the_centre():
    """All columns are solved for from where the working sets got to, by the models that are left."""
    X, y = torch.randn(20, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.ones(20)
    design = DenseDesign(X, y.double(), torch.full((20, 1), 0.05, dtype=torch.float64), intercept=True)
    W, l1 = torch.zeros(1, 201, 1, dtype=torch.float64), torch.ones(1, 201, 1, dtype=torch.float64)
    l1[:, -1] = 0.0
    objective = Objective.of(design, loss_of(2), ElasticNet(0.0 * l1, l1))
    solver = ProxNewton().around(Centre(objective, W, torch.zeros(3, dtype=torch.long))).specialised(objective, W)
    assert isinstance(solver, WorkingSets)
    assert solver.whole == ProxNewton()


def test_a_fold_without_a_class():
    X, y = data(3)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    model = TorchSoftmaxClassifierCV(Cs=CS, l1_ratios=(0.5, 1.0), cv=KFold(3), scoring="accuracy").fit(X, y)
    assert model.converged_
    assert np.isfinite(model.scores_).all()
    n, n_first = len(y), int((y == 0).sum())  # the rows of the first class come first
    splits = [(np.arange(n_first), np.arange(n_first, n)), (np.arange(9, n), np.arange(9))]  # the first has one class
    two = TorchLogisticRegressionCV(Cs=CS, l1_ratios=(1.0,), cv=splits, scoring="accuracy").fit(X, y > 0)
    assert not two.coefs_paths_[0, ..., :-1].any()
    assert two.converged_


@pytest.fixture
def batches(monkeypatch):
    fit_all, seen = search_module.fit_all, []

    def counted(*args):
        seen.append(1)
        return fit_all(*args)

    monkeypatch.setattr(search_module, "fit_all", counted)
    return seen


def test_grid_search(batches):
    X, y = data(3)
    grid = {"C": CS[::2], "l1_ratio": RATIOS, "fit_intercept": [True, False]}
    scorings = ["neg_log_loss", "roc_auc_ovr", "accuracy"]
    search = {"param_grid": grid, "cv": 3, "scoring": scorings, "refit": "roc_auc_ovr"}
    ours = TorchGridSearchCV(TorchSoftmaxClassifier(**TIGHT), **search).fit(X, y)
    assert len(batches) == 1
    theirs = GridSearchCV(TorchSoftmaxClassifier(**TIGHT), **search).fit(X, y)
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    assert ours.best_params_ == theirs.best_params_
    for name in (f"{kind}_test_{scoring}" for kind in ("mean", "std", "split2") for scoring in scorings):
        np.testing.assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ours.best_estimator_.coef_, theirs.best_estimator_.coef_, rtol=1e-6, atol=1e-9)


def test_grid_search_over_a_pipeline_and_as_scikit_learn(batches):
    X, y = table("breast_cancer", scaled=False)
    name = "torchlogisticregression__"
    grid = {name + "C": [0.01, 0.1], name + "l1_ratio": [0.2, 1.0]}
    pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression(**TIGHT))
    ours = TorchGridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert len(batches) == 2  # one a fold
    peer = make_pipeline(StandardScaler(), LogisticRegression(**SAGA))
    grid = {"logisticregression__C": [0.01, 0.1], "logisticregression__l1_ratio": [0.2, 1.0]}
    theirs = GridSearchCV(peer, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert ours.best_index_ == theirs.best_index_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-5)


def test_the_solver_is_that_of_the_penalty_that_was_chosen():
    X, y = data(2)
    for l1_ratios, solver in (((0.0,), "newton-cholesky"), ((0.5, 1.0), "prox-newton")):
        model = TorchLogisticRegressionCV(Cs=CS, l1_ratios=l1_ratios, cv=3).fit(X, y)
        assert model.solver_ == solver
    both = TorchLogisticRegressionCV(Cs=CS, l1_ratios=(0.0, 1.0), cv=3).fit(X, y)
    assert both.solver_ == ("prox-newton" if both.l1_ratio_ else "newton-cholesky")
    with pytest.raises(ValueError, match="solver='lbfgs' takes no L1 norm"):
        TorchLogisticRegressionCV(l1_ratios=(0.0, 1.0), solver="lbfgs").fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = TorchGridSearchCV(TorchLogisticRegression(solver="lbfgs"), {"l1_ratio": [0.0, 1.0]}, cv=2).fit(X, y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]


@pytest.mark.parametrize("l1_ratios", [(), (-0.1,), (0.5, 1.1), [[0.5]], (np.nan,)])
def test_l1_ratios_that_are_none(l1_ratios):
    X, y = data(2)
    with pytest.raises(ValueError, match="l1_ratios must hold numbers from 0 to 1"):
        TorchLogisticRegressionCV(l1_ratios=l1_ratios).fit(X, y)


def test_no_penalty_is_smooth_whatever_its_l1_ratio():
    X, y = data(2)
    model = TorchLogisticRegressionCV(Cs=[1.0, np.inf], l1_ratios=(1.0,), cv=3, **TIGHT).fit(X, y)
    plain = TorchLogisticRegressionCV(Cs=[np.inf], cv=3, **TIGHT).fit(X, y)
    np.testing.assert_allclose(model.coefs_paths_[:, 0, 1], plain.coefs_paths_[:, 0, 0], rtol=1e-6)


# Where the first coefficient enters


@pytest.mark.parametrize("options", [{}, {"fit_intercept": False}, {"class_weight": "balanced"}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_smallest_useful_C(n_classes, l1_ratio, weighted, options):
    X, y = data(n_classes)
    X = X + 0.5
    weight = np.random.default_rng(1).uniform(0.0, 2.0, len(y)).round(1) if weighted else None
    C = smallest_useful_C(X, y, l1_ratio=l1_ratio, sample_weight=weight, **options)
    model = SINGLE[n_classes](l1_ratio=l1_ratio, tol=1e-12, max_iter=1000, **options)
    assert not model.set_params(C=C * (1 - 1e-9)).fit(X, y, weight).coef_.any()
    assert model.set_params(C=C * 1.001).fit(X, y, weight).coef_.any()


def test_smallest_useful_C_of_other_data():
    X, y = data(3)
    C = smallest_useful_C(X, y)
    for other in (sparse.csr_array(X), torch.from_numpy(X), X.astype(np.float32)):
        assert smallest_useful_C(other, y) == pytest.approx(C, rel=1e-6)
    assert smallest_useful_C(X, np.array(list("abc"))[y], l1_ratio=0.5) == pytest.approx(0.5 * C)
    assert smallest_useful_C(np.ones((120, 2)), y) == np.inf  # no column tells the classes apart
    assert smallest_useful_C(np.column_stack([np.full(120, 1e6), np.full(120, 0.1)]), y) == np.inf
    for constant in (1e6, 0.1):
        assert smallest_useful_C(np.column_stack([X, np.full(len(X), constant)]), y) == pytest.approx(C)
    assert smallest_useful_C(np.zeros((120, 2)), y) == np.inf
    X, y = data(2)
    signs = X[:, [0]], y
    assert smallest_useful_C(*signs, fit_intercept=False) == pytest.approx(
        l1_min_c(*signs, loss="log", fit_intercept=False)
    )
    for l1_ratio in (0, -1, 2):
        with pytest.raises(ValueError, match="l1_ratio"):
            smallest_useful_C(X, y, l1_ratio=l1_ratio)


@pytest.mark.parametrize("l1_ratios", [(1.0,), (0.2, 0.5)])
def test_a_number_of_Cs_begins_where_the_first_coefficient_enters(l1_ratios):
    X, y = data(3)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(y))
    settings = {"class_weight": "balanced", "fit_intercept": False}
    model = TorchSoftmaxClassifierCV(Cs=5, l1_ratios=l1_ratios, cv=3, **settings).fit(X, y, weight)
    first = smallest_useful_C(X, y, l1_ratio=min(l1_ratios), sample_weight=weight, **settings)
    np.testing.assert_allclose(model.Cs_, first * np.logspace(0, 4, 5))
    wide = TorchLogisticRegressionCV(Cs=3, l1_ratios=l1_ratios, cv=3, max_iter=500).fit(*data(2, n=40, p=100))
    np.testing.assert_allclose(wide.Cs_ / wide.Cs_[0], [1, 10, 100])


def test_a_number_of_Cs_is_scikit_learns_with_l2():
    X, y = data(2)
    for l1_ratios in ((0.0,), (0.0, 1.0)):
        model = TorchLogisticRegressionCV(Cs=3, l1_ratios=l1_ratios, cv=2, max_iter=1000).fit(X, y)
        np.testing.assert_allclose(model.Cs_, [1e-4, 1, 1e4])
    constant = TorchLogisticRegressionCV(Cs=3, l1_ratios=(1.0,), cv=2).fit(np.zeros_like(X), y)
    np.testing.assert_allclose(constant.Cs_, [1e-4, 1, 1e4])


# What was selected, elsewhere


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("refit", [True, False])
def test_the_chosen_model_is_kept_and_converted(n_classes, refit, tmp_path):
    X, y = data(n_classes)
    model = CV[n_classes](Cs=CS, l1_ratios=(0.5, 1.0), cv=3, refit=refit).fit(X, y)
    converted = model.to_sklearn()
    assert (converted.C, converted.l1_ratio, converted.solver) == (model.C_, model.l1_ratio_, "saga")
    np.testing.assert_allclose(converted.predict_proba(X), model.predict_proba(X), rtol=1e-12)
    back = SINGLE[n_classes].from_sklearn(converted)
    assert (back.C, back.l1_ratio, back.solver) == (model.C_, model.l1_ratio_, "auto")
    np.testing.assert_array_equal(model.to_torch().linear.weight.numpy(force=True), model.coef_)
    model.save(tmp_path / "model.safetensors")
    loaded = type(model).load(tmp_path / "model.safetensors")
    assert loaded.l1_ratio_ == model.l1_ratio_
    for name in ("scores_", "coefs_paths_", "l1_ratios_", "coef_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    peer = LogisticRegressionCV(Cs=CS, l1_ratios=RATIOS[1:], cv=3, scoring="accuracy", use_legacy_attributes=False)
    theirs = peer.set_params(**SAGA | {"tol": 1e-4}).fit(X, y)
    assert SINGLE[n_classes].from_sklearn(theirs).l1_ratio == theirs.l1_ratio_
