"""Grids of folds and values of C: the same as one fit after the other, and as scikit-learn's searches."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
import torch
from helpers import DETERMINISTIC, Callback, dense_design, objective_of, table
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import brier_score_loss, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import torchlogreg._model_selection.batched_fits as fits_module
import torchlogreg._model_selection.grid_search as search_module
import torchlogreg._solvers.preconditioners.policy as policy_module
from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._objective.losses import Multinomial
from torchlogreg._objective.objective import Objective
from torchlogreg._solvers.subsampling import sample_rows

CS = [1e-3, 0.1, 10.0]
TIGHT = {"tol": 1e-10, "max_iter": 1000}
SINGLE = {2: TorchLogisticRegression, 3: TorchSoftmaxClassifier}
CV = {2: TorchLogisticRegressionCV, 3: TorchSoftmaxClassifierCV}
PEER = {"l1_ratios": (0,), "use_legacy_attributes": False, **TIGHT}


def data(n_classes, n=100, p=6, seed=0, **more):
    return make_classification(
        n, p, n_informative=4, n_classes=n_classes, flip_y=0.2, random_state=seed, shift=1.0, scale=2.0, **more
    )


def splitters(n):
    rng = np.random.default_rng(0)
    return {
        "KFold": KFold(4, shuffle=True, random_state=0),
        "StratifiedKFold": StratifiedKFold(5),
        "GroupKFold": GroupKFold(3),
        "RepeatedStratifiedKFold": RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0),
        "ShuffleSplit": ShuffleSplit(3, test_size=0.4, random_state=0),
        "LeaveOneOut": LeaveOneOut(),
        "TimeSeriesSplit": TimeSeriesSplit(3),
        "PredefinedSplit": PredefinedSplit(rng.integers(-1, 3, n)),
    }


def close(a, b, rel=1e-6):
    return np.linalg.norm(a - b) <= rel * max(np.linalg.norm(b), 1e-3)


def assert_equals_single_fits(model, single, X, y, splits, weight=None, rel=1e-6):
    """Coefficients and log losses of every fold and C are those of a fit of its own."""
    for f, (train, test) in enumerate(splits):
        for q, C in enumerate(model.Cs_):
            one = clone(single).set_params(C=C).fit(X[train], y[train], None if weight is None else weight[train])
            together = model.coefs_paths_[f, 0, q]
            alone = np.column_stack([one.coef_, one.intercept_])[:, : together.shape[1]]
            assert close(together, alone, rel), (f, C)
            log_proba = one.predict_log_proba(X[test])[np.arange(len(test)), np.searchsorted(one.classes_, y[test])]
            score = np.average(log_proba, weights=None if weight is None else weight[test])
            assert model.scores_[f, 0, q] == pytest.approx(score, rel=1e-6, abs=1e-9), (f, C)


# The same as single fits, and as scikit-learn


@pytest.mark.parametrize("name", splitters(100))
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_splitter(name, n_classes):
    X, y = data(n_classes, n=40 if name == "LeaveOneOut" else 100)
    splitter, groups = splitters(len(y))[name], None
    params = {}
    if name == "GroupKFold":
        groups = np.arange(len(y)) // 5
        params["groups"] = groups
    with sklearn.config_context(enable_metadata_routing=name == "GroupKFold"):
        model = CV[n_classes](Cs=CS, cv=splitter, **TIGHT).fit(X, y, **params)
        splits = list(splitter.split(X, y, groups))
        assert_equals_single_fits(model, SINGLE[n_classes](**TIGHT), X, y, splits)
        newton = LogisticRegression(solver="newton-cholesky", **TIGHT)  # its lbfgs stops at 1e-6
        peer = GridSearchCV(newton, {"C": CS}, cv=splits, scoring=_log_loss_of(y)).fit(X, y)
    assert model.converged_
    assert peer.best_params_ == {"C": model.C_}
    assert close(model.coef_, peer.best_estimator_.coef_)
    assert model.coefs_paths_.shape == (len(splits), 1, 3, len(model.coef_), 7)
    np.testing.assert_allclose(model.cv_results_["mean_test_score"], peer.cv_results_["mean_test_score"], rtol=1e-6)
    assert set(model.cv_results_) == set(peer.cv_results_)


def _log_loss_of(y):
    return make_scorer(
        sklearn.metrics.log_loss, greater_is_better=False, response_method="predict_proba", labels=np.unique(y)
    )


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_every_solver(solver, n_classes, intercept):
    X, y = data(n_classes, n=400)
    options = {"solver": solver, "fit_intercept": intercept, **TIGHT}
    model = CV[n_classes](Cs=[1e-3, 1.0, 1e4], cv=3, **options).fit(X, y)
    assert_equals_single_fits(model, SINGLE[n_classes](**options), X, y, list(StratifiedKFold(3).split(X, y)))
    assert model.solver_ == solver


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_rows_than_a_block(n_classes):
    X, y = data(n_classes, n=30_000, p=20)
    model = CV[n_classes](Cs=[1e-4, 1.0], cv=2, **TIGHT).fit(X, y)
    assert model.solver_ == "lbfgs"
    assert_equals_single_fits(model, SINGLE[n_classes](**TIGHT), X, y, list(StratifiedKFold(2).split(X, y)))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5}])
def test_weights(n_classes, class_weight):
    X, y = data(n_classes, n=150)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    options = {"class_weight": class_weight, **TIGHT}
    model = CV[n_classes](Cs=CS, cv=3, **options).fit(X, y, weight)
    assert_equals_single_fits(model, SINGLE[n_classes](**options), X, y, list(StratifiedKFold(3).split(X, y)), weight)


def test_wide_data_is_read_by_its_inner_products():
    X, y = data(2, n=60, p=300)
    model = TorchLogisticRegressionCV(Cs=CS, cv=3, **TIGHT).fit(X, y)
    assert_equals_single_fits(model, TorchLogisticRegression(**TIGHT), X, y, list(StratifiedKFold(3).split(X, y)))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32(n_classes):
    X, y = data(n_classes, n=500)
    X = X.astype(np.float32)
    model = CV[n_classes](Cs=CS, cv=3, solver="lbfgs").fit(X, y)
    wide = CV[n_classes](Cs=CS, cv=3, **TIGHT).fit(X.astype(np.float64), y)
    assert model.coef_.dtype == model.coefs_paths_.dtype == np.float32
    assert model.converged_
    np.testing.assert_allclose(model.scores_, wide.scores_, rtol=1e-4)
    tight = CV[n_classes](Cs=CS, cv=3, solver="lbfgs", tol=1e-6, max_iter=1000).fit(X, y)
    assert close(tight.coefs_paths_, wide.coefs_paths_, 1e-3)


def test_columns_of_any_scale():
    X, y = data(2, n=2000)
    X = X * np.logspace(-4, 4, X.shape[1])
    for solver in DETERMINISTIC:
        model = TorchLogisticRegressionCV(Cs=CS, cv=3, solver=solver, **TIGHT).fit(X, y)
        reference = TorchLogisticRegression(C=CS[2], solver="newton-cholesky", **TIGHT)
        train, _ = next(StratifiedKFold(3).split(X, y))
        reference.fit(X[train], y[train])
        scale = np.append(np.logspace(-4, 4, X.shape[1]), 1.0)
        alone = np.append(reference.coef_, reference.intercept_)
        assert close(scale * model.coefs_paths_[0, 0, 2, 0], scale * alone, 1e-6)


def test_batches_of_any_size_give_the_same(monkeypatch):
    X, y = data(3, n=300)
    for solver in DETERMINISTIC:
        model = TorchSoftmaxClassifierCV(Cs=CS, cv=4, solver=solver, **TIGHT)
        together = model.fit(X, y).coefs_paths_
        with monkeypatch.context() as context:
            context.setattr(fits_module.BatchedFits, "_n_affordable", lambda self: 5)
            assert close(clone(model).fit(X, y).coefs_paths_, together, 1e-7)


@pytest.mark.parametrize(
    "scoring", [None, "accuracy", "neg_log_loss", "neg_brier_score", "balanced_accuracy", "roc_auc_ovr"]
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_are_those_of_logistic_regression_cv(scoring, n_classes):
    X, y = data(n_classes)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(y))
    model = CV[n_classes](Cs=CS, cv=4, scoring=scoring, **TIGHT).fit(X, y, weight)
    peer = LogisticRegressionCV(Cs=CS, cv=4, scoring=scoring, **PEER).fit(X, y, weight)
    np.testing.assert_allclose(model.scores_, peer.scores_, rtol=1e-6, atol=1e-8)
    assert model.C_ == peer.C_
    assert model.score(X, y) == pytest.approx(peer.score(X, y), rel=1e-6)
    for name in ("Cs_", "coefs_paths_", "scores_", "n_iter_", "l1_ratios_", "coef_", "intercept_"):
        assert np.shape(getattr(model, name)) == np.shape(getattr(peer, name)), name


def test_a_callable_scores_a_fitted_estimator():
    X, y = data(2)
    seen = []

    def score(estimator, X, y):
        seen.append((type(estimator).__name__, len(X)))
        assert estimator.predict(X[:3]).shape == (3,)  # rows it was not scored on before
        return -brier_score_loss(y, estimator.predict_proba(X)[:, 1])

    model = TorchLogisticRegressionCV(Cs=CS, cv=4, scoring=score, **TIGHT).fit(X, y)
    peer = LogisticRegressionCV(Cs=CS, cv=4, scoring="neg_brier_score", **PEER).fit(X, y)
    np.testing.assert_allclose(model.scores_, peer.scores_, rtol=1e-6)
    assert set(seen) == {("TorchLogisticRegression", 25)}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_refit_the_folds_are_averaged(n_classes):
    X, y = data(n_classes)
    model = CV[n_classes](Cs=CS, cv=4, refit=False, **TIGHT).fit(X, y)
    peer = LogisticRegressionCV(Cs=CS, cv=4, refit=False, scoring="neg_log_loss", **PEER).fit(X, y)
    np.testing.assert_allclose(model.C_, peer.C_)
    assert close(model.coef_, peer.coef_)
    assert not hasattr(model, "objective_")


def test_strings_as_labels_and_grids_by_number():
    X, y = data(3)
    labels = np.array(["fox", "hen", "owl"])[y]
    model = TorchSoftmaxClassifierCV(Cs=4, cv=3).fit(X, labels)
    np.testing.assert_allclose(model.Cs_, np.logspace(-4, 4, 4))
    assert set(model.predict(X)) <= set(labels)
    np.testing.assert_allclose(model.scores_, TorchSoftmaxClassifierCV(Cs=4, cv=3).fit(X, y).scores_, rtol=1e-8)


# Folds that lack a class


def test_a_fold_may_lack_one_of_three_classes():
    X, y = data(3, n=120)
    order = np.argsort(y == 2, kind="stable")  # all of class 2 in the last rows
    X, y = X[order], y[order]
    model = TorchSoftmaxClassifierCV(Cs=CS, cv=KFold(3), max_iter=1000).fit(X, y)
    peer = LogisticRegressionCV(Cs=CS, cv=KFold(3), scoring="neg_log_loss", **{**PEER, "tol": 1e-4}).fit(X, y)
    assert model.coefs_paths_.shape == peer.coefs_paths_.shape
    lacking = 2  # the fold that is tested on class 2
    assert 2 not in y[next(t for i, (t, _) in enumerate(KFold(3).split(X)) if i == lacking)]
    assert (model.coefs_paths_[lacking, 0, :, 2, -1] < model.coefs_paths_[lacking, 0, :, :2, -1].min(axis=1)).all()
    np.testing.assert_allclose(model.scores_[:lacking], peer.scores_[:lacking], rtol=1e-2)
    accuracy = {"scoring": "accuracy", "cv": KFold(3)}
    ours = TorchSoftmaxClassifierCV(Cs=CS, **accuracy).fit(X, y).scores_
    theirs = LogisticRegressionCV(Cs=CS, **accuracy, **PEER).fit(X, y).scores_
    np.testing.assert_allclose(ours, theirs, atol=0.03)


def test_a_fold_may_have_a_single_class():
    X, y = data(2, n=90)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    half = [(np.flatnonzero(y == 0), np.flatnonzero(y == 1)), (np.arange(0, 90, 2), np.arange(1, 90, 2))]
    model = TorchLogisticRegressionCV(Cs=CS, cv=half, scoring="accuracy").fit(X, y)
    np.testing.assert_array_equal(model.scores_[0], 0.0)
    assert (model.coefs_paths_[0, 0, :, 0, -1] < -5).all()


# Contracts


# The check of `sparsify` has three rows of a class; scikit-learn has its LogisticRegressionCV checked with cv=3, too.
@parametrize_with_checks([TorchLogisticRegressionCV(Cs=3, cv=3), TorchSoftmaxClassifierCV(Cs=3, cv=3)])
def test_check_estimator(estimator, check):
    check(estimator)


def test_clone_pickle_and_nested_cross_validation():
    X, y = data(2)
    model = TorchLogisticRegressionCV(Cs=3, cv=3).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert not any(isinstance(value, torch.Tensor) for value in vars(again).values())
    scores = cross_val_score(make_pipeline(StandardScaler(), clone(model)), X, y, cv=3)
    assert scores.shape == (3,)
    assert (scores < 0).all()  # log losses


def test_a_failed_fit_leaves_the_model_as_it_was():
    X, y = data(2)
    model = TorchLogisticRegressionCV(Cs=3, cv=3).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.where(X > 2, np.nan, X), y)
    assert vars(model) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Cs": [1.0, -1.0]}, "positive"),
        ({"Cs": []}, "positive"),
        ({"Cs": [[1.0]]}, "positive"),
        ({"Cs": 0}, "Cs"),
        ({"solver": "sgd"}, "solver"),
        ({"cv": []}, "no splits|empty"),
        ({"cv": [(np.array([], dtype=int), np.arange(5))]}, "no training row"),
    ],
)
def test_invalid_parameters(changes, message):
    X, y = data(2)
    with pytest.raises(ValueError, match=message):
        TorchLogisticRegressionCV(**changes).fit(X, y)


def test_unconverged_models_are_counted():
    X, y = data(2, n=300)
    with pytest.warns(ConvergenceWarning, match=r"\d+ of \d+ models did not converge"):
        model = TorchLogisticRegressionCV(Cs=[1e-3, 1e6], cv=3, max_iter=1, tol=1e-12).fit(X, y)
    assert not model.converged_


def test_progress(capsys):
    pytest.importorskip("rich", reason="the progress bar needs rich")
    X, y = data(2)
    counter = Counter()
    model = TorchLogisticRegressionCV(Cs=3, cv=4).set_callbacks(counter, ProgressBar()).fit(X, y)
    assert counter.begun == counter.ended == {"fit": 1, "model": 3 * 5 + 1}
    assert model.C_ in model.Cs_
    assert "TorchLogisticRegressionCV" in capsys.readouterr().out


class Counter(Callback):
    """A callback that counts tasks by name."""

    def __init__(self):
        self.begun, self.ended = {}, {}

    def on_fit_task_begin(self, estimator, context, **kwargs):
        self.begun[context.task_name] = self.begun.get(context.task_name, 0) + 1

    def on_fit_task_end(self, estimator, context, **kwargs):
        self.ended[context.task_name] = self.ended.get(context.task_name, 0) + 1


def test_routed_weights_reach_the_scores_on_request():
    X, y = data(2)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        plain = make_scorer(sklearn.metrics.accuracy_score)
        scores = {}
        for requested in (True, False):
            scorer = plain.set_score_request(sample_weight=requested)
            model = TorchLogisticRegressionCV(Cs=CS, cv=4, scoring=scorer, **TIGHT).set_fit_request(sample_weight=True)
            peer = LogisticRegressionCV(Cs=CS, cv=4, scoring=scorer, **PEER).set_fit_request(sample_weight=True)
            scores[requested] = model.fit(X, y, sample_weight=weight).scores_
            np.testing.assert_allclose(scores[requested], peer.fit(X, y, sample_weight=weight).scores_, rtol=1e-8)
    assert not np.allclose(scores[True], scores[False])


def test_score_routes_weights_as_scikit_learns():
    X, y = data(2)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    passed = [{}, {"sample_weight": weight}, {"other": weight}]
    with sklearn.config_context(enable_metadata_routing=True):
        for requested in (None, True, False, "other"):
            scorer = make_scorer(sklearn.metrics.accuracy_score).set_score_request(sample_weight=requested)
            model = TorchLogisticRegressionCV(Cs=CS, cv=3, scoring=scorer, **TIGHT).fit(X, y)
            peer = LogisticRegressionCV(Cs=CS, cv=3, scoring=scorer, **PEER).fit(X, y)
            for params in passed:
                answers = []
                for estimator in (model, peer):
                    try:
                        answers.append(round(estimator.score(X, y, **params), 9))
                    except (TypeError, ValueError) as error:
                        answers.append((type(error), str(error).replace("Torch", "")))
                assert answers[0] == answers[1], (requested, list(params))
        model.set_params(scoring=scorer.set_score_request(sample_weight=False))
        with pytest.raises(TypeError, match="not routed to any object"):
            model.score(X, y, sample_weight=weight)
    np.testing.assert_allclose(
        model.set_params(scoring="accuracy").score(X, y, sample_weight=weight),
        np.average(model.predict(X) == y, weights=weight),
    )


@pytest.mark.parametrize("labels", [["no", "yes"], [1, 2], [False, True], [-1, 1]])
@pytest.mark.parametrize("scoring", ["f1", "recall", "neg_brier_score", "d2_brier_score", "jaccard", "neg_log_loss"])
def test_score_uses_the_positive_class_that_fit_used(scoring, labels):
    X, y = data(2)
    y = np.where(np.random.default_rng(0).uniform(size=len(y)) < 0.3, 0, y)
    zero_one = TorchLogisticRegressionCV(Cs=CS, cv=3, scoring=scoring).fit(X, y)
    labelled = np.array(labels)[y]
    model = TorchLogisticRegressionCV(Cs=CS, cv=3, scoring=scoring).fit(X, labelled)
    np.testing.assert_allclose(model.scores_, zero_one.scores_)
    assert model.score(X, labelled) == pytest.approx(zero_one.score(X, y), rel=1e-9)
    if scoring.startswith("neg"):  # which rows of one class have as well
        assert np.isfinite(model.score(X[y == 0], labelled[y == 0]))


# TorchGridSearchCV


@pytest.fixture
def batches(monkeypatch):
    """How many batches were fitted."""
    made = []
    original = search_module.fit_all

    def counted(*arguments, **more):
        made.append(1)
        return original(*arguments, **more)

    monkeypatch.setattr(search_module, "fit_all", counted)
    return made


def assert_same_search(ours, theirs, rtol=1e-6):
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    for key, value in theirs.cv_results_.items():
        if "test" in key or "train" in key:
            np.testing.assert_allclose(ours.cv_results_[key], value, rtol=rtol, atol=1e-9, err_msg=key)
        elif key.startswith("param"):
            assert np.array_equal(ours.cv_results_[key], value), key
    for name in ("best_params_", "best_index_", "n_splits_", "multimetric_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.best_score_ == pytest.approx(theirs.best_score_, rel=rtol)
    assert set(vars(ours)) - {"device_reason_"} == set(vars(theirs))  # which a batch has besides


PLAIN_GRID = {"C": CS, "fit_intercept": [True, False], "class_weight": [None, "balanced", {0: 2.0, 1: 1.0}]}


@pytest.mark.parametrize(
    "scoring", [None, "neg_log_loss", "roc_auc", ["accuracy", "f1"], lambda e, X, y: float(e.predict(X) @ y)]
)
def test_search_over_a_plain_estimator(scoring, batches):
    X, y = data(2)
    options = {"scoring": scoring, "refit": "f1" if isinstance(scoring, list) else True, "return_train_score": True}
    options["cv"] = 5 if scoring is None else 2
    estimator = TorchLogisticRegression(**TIGHT)
    ours = TorchGridSearchCV(estimator, PLAIN_GRID, **options).fit(X, y)
    theirs = GridSearchCV(estimator, PLAIN_GRID, **options).fit(X, y)
    assert len(batches) == 1
    assert_same_search(ours, theirs)
    np.testing.assert_array_equal(ours.best_estimator_.coef_, theirs.best_estimator_.coef_)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scoring", ["neg_log_loss", lambda e, X, y: float(e.score(X, y))])
def test_search_over_a_pipeline(n_classes, scoring, batches):
    X, y = data(n_classes)
    pipeline = make_pipeline(StandardScaler(), SINGLE[n_classes](**TIGHT))
    name = pipeline.steps[-1][0]
    grid = {f"{name}__C": CS, f"{name}__fit_intercept": [True, False], "standardscaler__with_std": [True, False]}
    ours = TorchGridSearchCV(pipeline, grid, cv=3, scoring=scoring, return_train_score=True).fit(X, y)
    theirs = GridSearchCV(pipeline, grid, cv=3, scoring=scoring, return_train_score=True).fit(X, y)
    assert len(batches) == 3 * 2  # folds and settings of the scaler
    assert_same_search(ours, theirs)


def test_the_search_is_that_of_logistic_regression():
    X, y = load_iris(return_X_y=True)
    grid = {"logisticregression__C": np.logspace(-3, 3, 7)}
    peer = LogisticRegression(solver="newton-cholesky", **TIGHT)
    theirs = GridSearchCV(make_pipeline(StandardScaler(), peer), grid, scoring="neg_log_loss")
    ours = TorchGridSearchCV(
        make_pipeline(StandardScaler(), TorchSoftmaxClassifier(**TIGHT)),
        {"torchsoftmaxclassifier__C": np.logspace(-3, 3, 7)},
        scoring="neg_log_loss",
    )
    ours.fit(X, y), theirs.fit(X, y)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6)
    assert ours.best_index_ == theirs.best_index_


def test_weights_of_a_search(batches):
    X, y = data(2)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    for scoring in ("accuracy", "roc_auc"):
        search = {"param_grid": {"C": CS}, "cv": 3, "scoring": scoring}
        ours = TorchGridSearchCV(TorchLogisticRegression(**TIGHT), **search).fit(X, y, sample_weight=weight)
        theirs = GridSearchCV(TorchLogisticRegression(**TIGHT), **search).fit(X, y, sample_weight=weight)
        assert_same_search(ours, theirs)
    assert len(batches) == 2
    step = {"torchlogisticregression__sample_weight": weight}
    pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression(**TIGHT))
    search = {"param_grid": {"torchlogisticregression__C": CS}, "cv": 3}
    ours = TorchGridSearchCV(pipeline, **search).fit(X, y, **step)
    assert_same_search(ours, GridSearchCV(pipeline, **search).fit(X, y, **step))
    assert len(batches) == 5


def test_frames_groups_and_other_settings(batches):
    import pandas as pd

    X, y = data(3)
    X = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    search = {"param_grid": [{"C": CS}, {"tol": [1e-9, 1e-10], "C": [1.0]}], "cv": GroupKFold(3), "n_jobs": 2}
    groups = np.arange(len(y)) % 7
    ours = TorchGridSearchCV(TorchSoftmaxClassifier(**TIGHT), **search).fit(X, y, groups=groups)
    theirs = GridSearchCV(TorchSoftmaxClassifier(**TIGHT), **search).fit(X, y, groups=groups)
    assert len(batches) == 2  # by tol
    assert_same_search(ours, theirs)
    assert list(ours.feature_names_in_) == list(X.columns)


@pytest.mark.parametrize(
    ("estimator", "grid", "n_batches"),
    [
        (TorchLogisticRegression(solver="sgd", max_iter=3, tol=0, random_state=0), {"C": CS}, 0),
        (LogisticRegression(), {"C": CS}, 0),
        (TorchLogisticRegression(), {"C": [1.0, -1.0]}, 0),
        (TorchLogisticRegression(), {"solver": ["lbfgs", "newton-cholesky"], "C": CS}, 2),
        (TorchLogisticRegression(solver="lbfgs"), {"l1_ratio": [0.0, 0.5]}, 0),
    ],
)
def test_everything_else_is_scikit_learns(estimator, grid, n_batches, batches):
    X, y = data(2)
    searches = []
    for kind in (TorchGridSearchCV, GridSearchCV):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's about fits that failed
            searches.append(kind(estimator, grid, cv=3, scoring="neg_log_loss").fit(X, y))
    assert_same_search(*searches, rtol=1e-4)
    assert len(batches) == n_batches


def test_errors_are_raised_or_scored_as_asked(batches):
    X, y = data(2)
    search = TorchGridSearchCV(TorchLogisticRegression(), {"C": [1.0, -1.0]}, error_score="raise")
    with pytest.raises(ValueError, match="'C' parameter"):
        search.fit(X, y)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TorchGridSearchCV(TorchLogisticRegression(), {"C": CS}, error_score="raise").fit(X, y)
    order = np.argsort(y, kind="stable")
    X, y = np.nan_to_num(X)[order], y[order]
    with pytest.raises(ValueError, match="All the 6 fits failed"):
        TorchGridSearchCV(TorchLogisticRegression(), {"C": CS}, cv=KFold(2)).fit(X, y)
    assert not batches


def test_search_without_refit_and_with_a_rule_for_the_best():
    X, y = data(2)
    search = {"estimator": TorchLogisticRegression(), "param_grid": {"C": CS}, "cv": 3}
    ours = TorchGridSearchCV(**search, refit=False).fit(X, y)
    assert not hasattr(ours, "best_estimator_")
    ours = TorchGridSearchCV(**search, refit=lambda results: 1).fit(X, y)
    assert ours.best_params_ == {"C": CS[1]}
    assert not hasattr(ours, "best_score_")


def test_callbacks_of_a_search(batches):
    X, y = data(2)
    counts = []
    for kind in (TorchGridSearchCV, GridSearchCV):
        counter = Counter()
        kind(TorchLogisticRegression(), {"C": CS}, cv=3).set_callbacks(counter).fit(X, y)
        counts.append(counter)
    assert counts[0].begun == counts[0].ended
    assert counts[0].begun == counts[1].begun
    assert len(batches) == 1
    inner = TorchLogisticRegression().set_callbacks(Counter())
    TorchGridSearchCV(inner, {"C": CS}, cv=3).fit(X, y)  # which wants to see every fit
    assert len(batches) == 1


def test_nested_search():
    X, y = table("breast_cancer", scaled=True)
    search = TorchGridSearchCV(TorchLogisticRegression(), {"C": np.logspace(-3, 3, 5)}, scoring="neg_log_loss")
    scores = cross_val_score(search, X, y, cv=3)
    np.testing.assert_allclose(
        scores,
        cross_val_score(GridSearchCV(search.estimator, search.param_grid, scoring="neg_log_loss"), X, y, cv=3),
        rtol=1e-3,
    )


# Found by trying to break it


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_wide_data_that_newton_does_not_solve(n_classes, dtype):
    X, y = data(n_classes, n=120, p=400)
    options = {"solver": "lbfgs", "tol": 1e-9 if dtype == np.float64 else 1e-5, "max_iter": 1000}
    model = CV[n_classes](Cs=CS, cv=3, **options).fit(X.astype(dtype), y)
    train, _ = next(StratifiedKFold(3).split(X, y))
    for q, C in enumerate(CS):
        alone = SINGLE[n_classes](C=C, **TIGHT).fit(X[train], y[train])
        assert close(model.coefs_paths_[0, 0, q][:, :-1], alone.coef_, 1e-5 if dtype == np.float64 else 1e-2)


def test_blocks_that_all_remaining_models_hold_out():
    X, _ = data(3, n=20_000, p=30)
    y = X[:, :3].argmax(axis=1)  # separable: the last models are few and slow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchSoftmaxClassifierCV(Cs=[1.0, 1e4], cv=3).fit(X, y)
    assert model.score(X, y) > -0.05


def test_metrics_from_rows_in_doubt_save_iterations(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 40)) * np.logspace(0, -1, 40)
    logits = 5.0 * X @ rng.standard_normal((40, 5))  # most rows are classified beyond doubt
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    model = TorchSoftmaxClassifierCV(Cs=[1, 30, 1000, 30_000], cv=3, solver="lbfgs", max_iter=200).fit(X, y)
    monkeypatch.setattr(policy_module, "sample_where_curved", lambda problem, W, size, g: sample_rows(problem, size, g))
    evenly = clone(model).fit(X, y)
    assert model.converged_
    assert evenly.converged_
    assert model.n_iter_.sum() <= 0.9 * evenly.n_iter_.sum()
    np.testing.assert_allclose(model.scores_, evenly.scores_, rtol=1e-3)


@pytest.mark.parametrize("weights", [None, [None, "balanced"]])
def test_weak_penalties_are_solved_along_the_path_of_their_fold(weights, monkeypatch):
    X, y = table("digits", True)
    X, y = X[y < 5][:350], y[y < 5][:350]
    lengths, starts = [], []
    Fits, Paths = fits_module.BatchedFits, fits_module.Paths
    stages, solve = Paths.stages, Fits._solve

    def counted(self, values):
        out = stages(self, values)
        lengths.append([len(stage) for stage, _ in out])
        return out

    def seen(self, column, q, W, *arguments, **options):
        starts.append(W)
        return solve(self, column, q, W, *arguments, **options)

    monkeypatch.setattr("torchlogreg._solvers.tuning.NUMPY_LBFGS_NUMBERS", 0)  # without an optimum, the way matters
    monkeypatch.setattr(Paths, "stages", counted)
    monkeypatch.setattr(Fits, "_solve", seen)
    grid = {"C": [1e-3, np.inf, 1e-2, 10.0, 1e3]} | ({} if weights is None else {"class_weight": weights})
    model = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-6, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the classes are separable: without a penalty, no optimum
        search = TorchGridSearchCV(model, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    n = 1 if weights is None else 2
    assert lengths[0][0] >= n
    assert len(lengths[0]) >= 3
    assert sum(lengths[0]) == 5 * n
    assert all(bool(torch.isfinite(W).all()) for W in starts)
    folds = list(StratifiedKFold(3).split(X, y))
    for q, candidate in enumerate(search.cv_results_["params"]):
        if np.isfinite(candidate["C"]):
            for k, (train, test) in enumerate(folds):
                alone = TorchSoftmaxClassifier(**{**model.get_params(), **candidate}).fit(X[train], y[train])
                expected = -log_loss(y[test], alone.predict_proba(X[test]))
                assert search.cv_results_[f"split{k}_test_score"][q] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_models_that_rounding_holds_leave_without_a_hessian_for_all(dtype, monkeypatch):
    """In float32 the last models of nearly separable classes are soon stuck; float64 finishes them."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 448)
    X = (rng.standard_normal((448, 256)) + 0.5 * rng.standard_normal((5, 256))[y]).astype(dtype)
    hessians, original = [], Objective.second_order

    def seen(self, W):
        hessians.append(W.shape)
        return original(self, W)

    monkeypatch.setattr(Objective, "second_order", seen)
    model = TorchSoftmaxClassifierCV(Cs=[1e2, 1e3, 1e4], cv=5, max_iter=200).fit(X, y)
    assert model.converged_
    assert len(hessians) <= 1


@pytest.mark.parametrize("room", [3, 2])
def test_hessians_of_a_batch_are_made_only_where_there_is_room_for_all(room, monkeypatch):
    X, y = table("digits", True)
    monkeypatch.setattr("torchlogreg._solvers.tuning.ALL_PRECONDITIONERS_NUMBERS", room * 650**2)
    rows = dense_design(X, y)
    problem = objective_of(rows, Multinomial(10))
    policy = policy_module.PreconditionerPolicy(problem, 10)
    point = problem.value_and_gradient(torch.zeros(3, 65, 10, dtype=torch.float64))
    assert (policy.with_hessian(point).hessian is not None) == (room == 3)
    slow, pays = policy_module.Refresh(), []
    for _ in range(100):
        slow = slow.seen(1.0)
        pays.append(policy.hessian_pays(slow, 3))
    assert any(pays) == (room == 3)


@pytest.mark.parametrize("p", [12, 30])
def test_no_penalty_and_columns_that_depend_on_others(p):
    X, y = make_classification(2000, p, n_informative=6, n_redundant=4, n_classes=3, flip_y=0.1, random_state=0)
    model = TorchSoftmaxClassifierCV(Cs=[np.inf], cv=3, solver="lbfgs").fit(X, y)
    assert model.converged_
    assert model.n_iter_.max() < 40
    newton = TorchSoftmaxClassifierCV(Cs=[np.inf], cv=3, solver="newton-cholesky").fit(X, y)
    np.testing.assert_allclose(model.scores_, newton.scores_, rtol=1e-4)


def test_classes_that_weigh_nothing():
    X, y = data(2)
    for light in ({1: 0.0}, {0: 0.0}, {0: 0, 1: 1e300}):
        model = TorchLogisticRegressionCV(Cs=[*CS, np.inf], cv=3, class_weight=light).fit(X, y)
        assert model.converged_
        assert (model.predict(X) == 1 - min(light)).all()
        assert np.isfinite(model.coefs_paths_).all()
    with pytest.raises(ValueError, match="class_weight leaves no row"):
        TorchLogisticRegressionCV(Cs=CS, cv=3, class_weight={0: 0.0, 1: 0.0}).fit(X, y)
    halves = [(np.flatnonzero(y == k), np.flatnonzero(y != k)) for k in (0, 1)]
    with pytest.raises(ValueError, match="class_weight leaves no training row of fold 1"):
        TorchLogisticRegressionCV(Cs=CS, cv=halves, class_weight={1: 0.0}).fit(X, y)


@pytest.mark.parametrize("n", [100, 3000])  # Newton's method and L-BFGS, with metrics that the folds share
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_search_in_which_a_class_of_a_fold_weighs_nothing_is_scikit_learns(n, solver, batches):
    X, y = data(2, n=n)
    weight = np.ones(n)
    train, _ = next(StratifiedKFold(3).split(X, y))
    weight[train[y[train] == 1]] = 0.0
    grids = [
        ({"class_weight": [None, {0: 0.0}, {1: 0.0}, {0: 2.0}], "fit_intercept": [True, False]}, {}),
        ({"C": [*CS, np.inf]}, {"sample_weight": weight}),
    ]
    for grid, fit_params in grids:
        estimator = TorchLogisticRegression(solver=solver, tol=1e-8)
        searches = [
            kind(estimator, grid, cv=3, scoring="accuracy").fit(X, y, **fit_params)
            for kind in (TorchGridSearchCV, GridSearchCV)
        ]
        assert_same_search(*searches)
    assert len(batches) == len(grids)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n", [120, 3000])
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_fold_with_one_class_beside_others(n, n_classes, solver):
    X, y = data(n_classes, n=n)
    train, test = next(StratifiedKFold(3).split(X, y))
    folds = [(train[y[train] == 0], test), (train, test), (test, train)]
    model = CV[n_classes](Cs=[0.01, 1.0, np.inf], cv=folds, solver=solver, scoring="accuracy").fit(X, y)
    assert model.converged_
    np.testing.assert_allclose(model.scores_[0], np.mean(y[test] == 0))
    logits = model.coefs_paths_[0, 0, ..., -1]  # (n_cs, n_classes)
    assert (logits[:, 0] < -18 if n_classes == 2 else (logits[:, :1] - logits[:, 1:] > 18).all(axis=1)).all()
    for f in (1, 2):
        alone = CV[n_classes](Cs=[0.01, 1.0, np.inf], cv=folds[f : f + 1], solver=solver, scoring="accuracy").fit(X, y)
        np.testing.assert_allclose(alone.scores_[0], model.scores_[f], atol=0.01)


@pytest.mark.parametrize("n_folds", [1, 3])
@pytest.mark.parametrize("refit", [True, False])
def test_progress_ends_with_all_models(n_folds, refit, capsys):
    X, y = data(2)
    folds = list(StratifiedKFold(3).split(X, y))[:n_folds]
    model = TorchLogisticRegressionCV(Cs=2, l1_ratios=(0.0, 0.5), cv=folds, refit=refit, verbose=1).fit(X, y)
    n_models = 4 * n_folds + 4 * (n_folds > 1) + refit  # on all rows as well, where those of several folds start
    assert capsys.readouterr().out.splitlines()[-1] == f"{n_models} of {n_models} models done"
    assert model.converged_


def test_the_refit_must_converge_too():
    X, y = data(2, n=150)
    X[100:] *= 10.0
    settings = {"Cs": [1.0], "cv": [(np.arange(50), np.arange(50, 100))], "tol": 1e-8, "solver": "lbfgs"}
    n_iter = int(TorchLogisticRegressionCV(**settings).fit(X, y).n_iter_.max())  # that the fold needs, and no more
    with pytest.warns(ConvergenceWarning, match="1 of 2 models"):
        model = TorchLogisticRegressionCV(**settings, max_iter=n_iter).fit(X, y)
    assert not model.converged_
    with pytest.warns(ConvergenceWarning, match="4 of 4 models"):
        TorchLogisticRegressionCV(Cs=[np.inf], cv=3).fit(X[:100], (X[:100, 0] > 0).astype(int))


class Contrarian(TorchLogisticRegression):
    def predict(self, X):
        return 1 - super().predict(X)


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [(Contrarian(), "C"), (sklearn.pipeline.Pipeline([("m", TorchLogisticRegression())]), "m__C")],
)
def test_unusual_estimators_are_left_to_scikit_learn(estimator, parameter):
    X, y = data(2)
    searches = [kind(estimator, {parameter: CS}, cv=3).fit(X, y) for kind in (TorchGridSearchCV, GridSearchCV)]
    assert_same_search(*searches)


@pytest.mark.parametrize(
    "look",
    [
        lambda e, X, y: float(e.C),
        lambda e, X, y: clone(e).fit(X, y).score(X, y),
        lambda e, X, y: float(len(pickle.loads(pickle.dumps(e)).coef_)),
        lambda e, X, y: float(e.n_iter_[0] >= 0) + float(e.fit_intercept),
    ],
    ids=["parameter", "clone", "pickle", "attributes"],
)
def test_a_scorer_may_look_at_the_model(look):
    X, y = data(2)
    grid = {"C": CS, "fit_intercept": [True, False]}
    searches = [
        kind(TorchLogisticRegression(), grid, cv=3, scoring=look).fit(X, y)
        for kind in (TorchGridSearchCV, GridSearchCV)
    ]
    assert_same_search(*searches)
    TorchLogisticRegressionCV(Cs=CS, cv=3, scoring=look).fit(X, y)


def test_a_fallback_has_the_same_splits():
    X, y = data(2)
    first = next(StratifiedKFold(3).split(X, y))
    splits = [(np.flatnonzero(y == 0), np.arange(len(y))), first]
    for cv in (lambda: iter(splits), lambda: ShuffleSplit(2, random_state=np.random.RandomState(0))):
        grid = {"C": [1.0], "solver": ["sgd"], "tol": [0], "max_iter": [2], "random_state": [0]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            searches = [
                kind(TorchLogisticRegression(), {**grid, "solver": [solver]}, cv=cv()).fit(X, y)
                for solver in ("auto", "sgd")
                for kind in (TorchGridSearchCV, GridSearchCV)
            ]
        for ours, theirs in (searches[:2], searches[2:]):
            np.testing.assert_allclose(
                ours.cv_results_["split1_test_score"], theirs.cv_results_["split1_test_score"], atol=0.03
            )


def test_one_weight_for_all_rows_and_other_types():
    pd = pytest.importorskip("pandas")
    X, y = data(2)
    model = TorchLogisticRegressionCV(Cs=CS, cv=3)
    plain = clone(model).fit(X, y).scores_
    halved = clone(model).set_params(Cs=np.divide(CS, 2))
    np.testing.assert_allclose(halved.fit(X, y, 2.0).scores_, plain, rtol=1e-8)
    np.testing.assert_allclose(clone(model).fit(X, y, pd.Series(np.ones(len(y)))).scores_, plain, rtol=1e-8)
    splits = list(StratifiedKFold(3).split(X, y))
    for change in (
        lambda index: index.astype(np.uint8),
        lambda index: index - len(y),
        lambda index: np.isin(np.arange(len(y)), index),
        lambda index: index.tolist(),
    ):
        cv = [(change(train), change(test)) for train, test in splits]
        np.testing.assert_allclose(clone(model).set_params(cv=cv).fit(X, y).scores_, plain, rtol=1e-8)


def test_a_row_of_zeros_is_a_tie_in_a_batch_too():
    X, y = data(3)
    X[:10], y[:10] = 0.0, np.arange(10) % 3
    grid = {"C": CS, "fit_intercept": [True, False]}
    searches = [
        kind(TorchSoftmaxClassifier(**TIGHT), grid, cv=3, scoring="accuracy").fit(X, y)
        for kind in (TorchGridSearchCV, GridSearchCV)
    ]
    assert_same_search(*searches)


@pytest.mark.parametrize("solver", ["auto", "lbfgs"])
def test_what_a_candidate_needs_does_not_depend_on_its_neighbours(solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = (X[:, 0] + rng.logistic(size=200) > 1.5).astype(int)
    options = {"cv": 2, "class_weight": "balanced", "max_iter": 6, "solver": solver}
    alone = TorchLogisticRegressionCV(Cs=[1e4], **options).fit(X, y)
    # The folds of the first start at a centre that is worse for them than zero.
    beside = TorchLogisticRegressionCV(Cs=[1e-4, 1e4], **options).fit(X, y)
    np.testing.assert_array_equal(beside.n_iter_[0, :, 1], alone.n_iter_[0, :, 0])


def test_a_batch_of_one_goes_on_from_where_it_was():
    X, y = make_classification(2000, 20, random_state=0)
    X = X.astype(np.float32)  # which float64 products finish
    options = {"cv": ShuffleSplit(1, random_state=0), "solver": "lbfgs", "tol": 1e-7}
    one = TorchLogisticRegressionCV(Cs=[1.0], **options).fit(X, y)
    two = TorchLogisticRegressionCV(Cs=[1.0, 1.001], **options).fit(X, y)
    assert one.n_iter_[0, 0, 0] <= two.n_iter_[0, 0, 0]


def test_no_intercept_with_large_weights():
    X, y = data(2, n=150)
    grid = {"fit_intercept": [True, False]}
    searches = [
        kind(TorchLogisticRegression(**TIGHT), grid, cv=3, scoring="roc_auc").fit(
            X, y, sample_weight=np.full(150, 1e40)
        )
        for kind in (TorchGridSearchCV, GridSearchCV)
    ]
    assert_same_search(*searches)


@pytest.mark.parametrize("what", ["empty", "weightless"])
def test_a_fold_without_test_rows_is_an_error(what):
    X, y = data(2)
    splits = list(StratifiedKFold(3).split(X, y))
    weight = np.ones(len(y))
    if what == "empty":
        splits[0] = (splits[0][0], [])
    else:
        weight[splits[0][1]] = 0.0
    with pytest.raises(ValueError, match="Fold 0 has no test row"):
        TorchLogisticRegressionCV(Cs=CS, cv=splits).fit(X, y, weight)
