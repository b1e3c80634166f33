"""The estimators inside scikit-learn: its checks, meta-estimators, displays and callbacks."""

from inspect import signature

import numpy as np
import pytest
from helpers import SOLVERS, Callback, objective, table
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import RocCurveDisplay
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchlogreg import (
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

ESTIMATORS = [TorchLogisticRegression, TorchSoftmaxClassifier]
ALL = [*ESTIMATORS, TorchLogisticRegressionCV, TorchSoftmaxClassifierCV]


@parametrize_with_checks(
    [
        *(estimator(solver=solver) for estimator in ESTIMATORS for solver in SOLVERS),
        *(estimator(l1_ratio=0.5) for estimator in ESTIMATORS),
    ]
)
@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",  # some checks set max_iter to 1 or 5
    "ignore::sklearn.exceptions.SkipTestWarning",  # the array API checks need an environment variable
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture
def frame():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"age": rng.normal(40, 10, 200), "income": rng.lognormal(10, 1, 200), "town": list("abcd") * 50})
    y = np.where(X["age"] + 10 * (X["town"] == "a") + rng.normal(0, 5, 200) > 45, "yes", "no")
    return X, y


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_pipeline_column_transformer_and_grid_search(frame, estimator, n_jobs):
    X, y = frame
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["age", "income"]), ("towns", OneHotEncoder(), ["town"])]
    )
    grid = {"clf__C": [0.1, 1.0, 10.0]}
    ours, theirs = (
        GridSearchCV(
            Pipeline([("columns", clone(columns)), ("clf", clf)]),
            grid,
            cv=3,
            scoring="neg_log_loss",
            n_jobs=n_jobs,
        ).fit(X, y)
        for clf in (estimator(tol=1e-8), LogisticRegression(solver="newton-cholesky", tol=1e-8))
    )
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6)
    assert list(ours.predict(X)) == list(theirs.predict(X))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_val_score(n_jobs):
    X, y = table("wine", True)
    ours = cross_val_score(TorchSoftmaxClassifier(tol=1e-8), X, y, cv=3, n_jobs=n_jobs, scoring="neg_log_loss")
    theirs = cross_val_score(LogisticRegression(tol=1e-10), X, y, cv=3, scoring="neg_log_loss")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: CalibratedClassifierCV(clf, cv=3),
        OneVsRestClassifier,
        lambda clf: AdaBoostClassifier(clf, n_estimators=5, random_state=0),
    ],
    ids=["CalibratedClassifierCV", "OneVsRestClassifier", "AdaBoostClassifier"],
)
@pytest.mark.parametrize(
    ("estimator", "name"), [(TorchLogisticRegression, "breast_cancer"), (TorchSoftmaxClassifier, "wine")]
)
def test_meta_estimators_give_what_they_give_with_scikit_learns_own(wrap, estimator, name):
    X, y = table(name, True)
    ours = wrap(estimator(tol=1e-10)).fit(X, y)
    theirs = wrap(LogisticRegression(solver="newton-cholesky", tol=1e-10)).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)


def rare():
    """Sixty rows, of which three are positive: a bootstrap often has none of them."""
    rng = np.random.default_rng(0)
    y = np.repeat([1, 0], [3, 57])
    return rng.normal(size=(60, 4)) + 2.0 * y[:, None], y


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: BaggingClassifier(clf, 8, random_state=5),  # one bag has no positive row
        lambda clf: BaggingClassifier(clf, 8, max_samples=0.3, random_state=1),  # two have none
        lambda clf: CalibratedClassifierCV(clf, cv=3),
        lambda clf: CalibratedClassifierCV(clf, cv=3, method="isotonic"),
        lambda clf: CalibratedClassifierCV(clf, cv=3, ensemble=False),
        lambda clf: AdaBoostClassifier(clf, n_estimators=5, random_state=0),
    ],
    ids=["bagging", "small bags", "calibration", "isotonic", "calibration without ensemble", "boosting"],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ensembles_over_a_rare_class(wrap, estimator):
    X, y = rare()
    theirs = wrap(LogisticRegression(tol=1e-8)).fit(X, y)
    for solver in SOLVERS:
        ours = wrap(estimator(solver=solver, tol=1e-4 if solver == "sgd" else 1e-8, random_state=0)).fit(X, y)
        assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=0.06 if solver == "sgd" else 1e-12)
        if solver != "sgd":
            np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-3)


def test_calibration_where_a_class_has_no_weight():
    X, y = rare()
    weight = (y == 0).astype(float)
    wrapped = [CalibratedClassifierCV(clf, cv=3) for clf in (TorchLogisticRegression(), LogisticRegression())]
    ours, theirs = (model.fit(X, y, sample_weight=weight) for model in wrapped)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-3)
    balanced = BaggingClassifier(TorchLogisticRegression(class_weight="balanced"), 20, random_state=0).fit(X, y)
    assert balanced.score(X, y) > 0.9


@pytest.mark.parametrize("n_rare", [0, 1, 2])
def test_held_out_rows_where_few_rows_of_a_class_weigh_something(n_rare):
    X, y = rare()
    weight = np.ones(60)
    weight[n_rare:3] = 0.0
    model = TorchLogisticRegression(solver="sgd", early_stopping=True, random_state=0).fit(X, y, weight)
    assert model.converged_
    proba = model.predict_proba(X)[:, 1]
    assert (proba.max() < 1e-6) == (n_rare == 0)
    assert (proba[0] > np.quantile(proba, 0.9)) == (n_rare > 0)  # its row was trained on
    bags = BaggingClassifier(clone(model), 20, random_state=0).fit(X, y)
    assert bags.score(X, y) >= 0.95


def test_the_binary_estimator_names_its_sibling():
    with pytest.raises(ValueError, match=r"^Only binary classification is supported\. .*TorchSoftmaxClassifier"):
        TorchLogisticRegression().fit(*table("iris", True))


def test_displays():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    X, y = table("breast_cancer", True)
    two = TorchLogisticRegression().fit(X[:, :2], y)
    boundary = DecisionBoundaryDisplay.from_estimator(two, X[:, :2], response_method="predict_proba")
    assert boundary.response.shape == (100, 100)
    assert RocCurveDisplay.from_estimator(two, X[:, :2], y).roc_auc > 0.9
    X, y = table("iris", True)
    three = TorchSoftmaxClassifier().fit(X[:, :2], y)
    assert DecisionBoundaryDisplay.from_estimator(three, X[:, :2], response_method="predict").response.max() == 2
    plt.close("all")


def test_parameters_are_validated_with_scikit_learns_messages():
    X, y = table("iris", True, binary=True)
    for name, value in {
        "C": -1.0,
        "solver": "adam",
        "momentum": 1.0,
        "batch_size": 0,
        "tol": -1.0,
        "device": 3,
    }.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter of TorchLogisticRegression must be"):
            TorchLogisticRegression(**{name: value}).fit(X, y)
    with pytest.raises(ValueError, match=r"solver='lbfgs' takes no L1 norm: use solver='auto', 'prox-newton'"):
        TorchLogisticRegression(l1_ratio=0.5, solver="lbfgs").fit(X, y)


KEYWORDS = {
    "penalty": "C=np.inf",
    "dual": "Leave it out",
    "intercept_scaling": "not penalised",
    "n_jobs": "torch.set_num_threads",
    "multi_class": "TorchSoftmaxClassifier.*OneVsRestClassifier",
    "use_legacy_attributes": "Leave it out",
}


@pytest.mark.parametrize("estimator", ALL)
def test_a_keyword_of_scikit_learns_says_what_to_use_instead(estimator):
    theirs = {*signature(LogisticRegression).parameters, *signature(LogisticRegressionCV).parameters, "multi_class"}
    others = theirs - {name for ours in ALL for name in signature(ours).parameters}
    assert others == KEYWORDS.keys()
    for name, instead in KEYWORDS.items():
        message = f"{estimator.__name__} has no parameter '{name}'.*{instead}"
        with pytest.raises(TypeError, match=message):
            estimator(**{name: None}, tol=1e-3)
        with pytest.raises(ValueError, match=message):
            estimator().set_params(tol=1e-3, **{name: None})
    with pytest.raises(TypeError, match="unexpected keyword argument 'penalties'"):
        estimator(penalties="l2")
    with pytest.raises(ValueError, match="Invalid parameter 'penalties'"):
        estimator().set_params(penalties="l2")
    with pytest.raises(ValueError, match="has no parameter 'n_jobs'"):
        make_pipeline(estimator()).set_params(**{f"{estimator.__name__.lower()}__n_jobs": 2})
    assert sorted(signature(estimator).parameters) == sorted(estimator().get_params())  # as it is written down


class Parallel(TorchLogisticRegression):
    """Somebody's subclass, with a parameter of such a name."""

    def __init__(self, *, C=1.0, n_jobs=None):
        super().__init__(C=C)
        self.n_jobs = n_jobs


def test_a_subclass_may_have_such_a_parameter():
    model = clone(Parallel(n_jobs=2)).set_params(n_jobs=3, C=2.0)
    assert model.get_params() == {"C": 2.0, "n_jobs": 3}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_number_of_iterations_is_an_array_as_scikit_learns(solver):
    X, y = table("breast_cancer", True)
    theirs = LogisticRegression().fit(X, y).n_iter_
    model = TorchLogisticRegression(solver=solver)
    for ours in (model.fit(X, y), model.partial_fit(X, y), TorchLogisticRegression().partial_fit(X, y, [0, 1])):
        assert type(ours.n_iter_) is np.ndarray
        assert (ours.n_iter_.shape, ours.n_iter_.dtype) == (theirs.shape, theirs.dtype)
        assert ours.n_iter_[0] == len(ours.loss_curve_)
        assert ours.to_sklearn().n_iter_ == ours.n_iter_
        again = TorchLogisticRegression.from_sklearn(ours.to_sklearn()).n_iter_
        assert (again.shape, again.dtype, again[0]) == (theirs.shape, theirs.dtype, ours.n_iter_[0])


class Recorder(Callback):
    """A callback that notes its tasks and may stop a fit after some of them."""

    def __init__(self, stop_after=None):
        self.tasks, self.objectives, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.tasks, self.objectives = [], []

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.tasks.append(context.task_name)
        fitted_estimator.predict_proba(X)
        return self.stop_after is not None and len(self.tasks) >= self.stop_after


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_task_an_iteration_and_a_callback_can_stop(solver):
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(solver=solver, random_state=0, tol=0 if solver == "sgd" else 1e-4)
    free = clone(model).fit(X, y)
    recorder = Recorder()
    watched = clone(model).set_callbacks(recorder).fit(X, y)
    task = "epoch" if solver == "sgd" else "iteration"
    assert recorder.tasks == [task] * free.n_iter_[0] + ["fit"]
    np.testing.assert_array_equal(watched.coef_, free.coef_)
    stopped = clone(model).set_callbacks(Recorder(stop_after=3)).fit(X, y)
    assert stopped.n_iter_[0] == 3
    assert not stopped.converged_
    np.testing.assert_array_equal(stopped.loss_curve_, free.loss_curve_[:3])


def test_a_callback_sees_the_new_features_on_a_refit(frame):
    X, y = frame
    model = TorchLogisticRegression().fit(X[["age", "income"]], y)
    model.set_callbacks(Recorder()).fit(X[["age"]].to_numpy(), y)
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 1


def test_the_progress_bar_and_the_scoring_monitor():
    pytest.importorskip("rich")
    X, y = table("iris", True)
    monitor = ScoringMonitor(scoring="neg_log_loss")
    TorchSoftmaxClassifier(solver="sgd", max_iter=7, tol=0).set_callbacks(ProgressBar(), monitor).fit(X, y)
    logs = monitor.get_logs()
    assert logs


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_callbacks_inside_a_pipeline_and_a_grid_search(n_jobs):
    pytest.importorskip("rich")
    X, y = table("iris", False)
    monitor = ScoringMonitor(scoring="accuracy")
    model = TorchSoftmaxClassifier(solver="lbfgs").set_callbacks(monitor)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model), {"torchsoftmaxclassifier__C": [0.1, 1.0]}, cv=2, n_jobs=n_jobs
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    assert search.best_score_ > 0.9
    assert monitor.get_logs()


class HeldOutScores(Recorder):
    """Accuracy on some rows after every epoch."""

    def __init__(self, X, y):
        super().__init__()
        self.X, self.y, self.scores = X, y, []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.scores.append(fitted_estimator.score(self.X, self.y))


def test_early_stopping_holds_out_and_stops_as_SGDClassifier_does():
    X, y = table("digits", True)
    train, held_out = next(StratifiedShuffleSplit(1, test_size=0.1, random_state=0).split(X, y))
    scores = HeldOutScores(X[held_out], y[held_out])
    settings = {"solver": "sgd", "learning_rate": 0.01, "n_iter_no_change": 3, "tol": 1e-3, "random_state": 0}
    model = TorchSoftmaxClassifier(early_stopping=True, max_iter=200, **settings).set_callbacks(scores).fit(X, y)
    best, stale, n_iter = -np.inf, 0, 0
    for score in scores.scores:  # SGDClassifier's rule
        n_iter += 1
        stale = stale + 1 if score < best + 1e-3 else 0
        best = max(best, score)
        if stale >= 3:
            break
    assert model.n_iter_[0] == n_iter < 200
    assert model.converged_
    assert model.objective_ == pytest.approx(objective(model, X[train], y[train]), rel=1e-9)


def test_the_automatic_rate_ends_with_its_schedule_under_early_stopping():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(solver="sgd", early_stopping=True, tol=1e-9, n_iter_no_change=60, random_state=0)
    assert model.fit(X, y).n_iter_[0] <= 100


def test_tol_0_runs_every_epoch_and_nothing_is_held_out_unasked():
    X, y = table("iris", True)
    model = TorchSoftmaxClassifier(solver="sgd", tol=0, max_iter=13, random_state=0)
    assert model.fit(X, y).n_iter_[0] == 13
    assert model.objective_ == pytest.approx(objective(model, X, y), rel=1e-9)  # of all rows
    assert clone(model).set_params(early_stopping=True).fit(X, y).n_iter_[0] == 13


def test_sgd_that_still_improves_says_so():
    X, y = table("digits", True)
    with pytest.warns(ConvergenceWarning, match="Raise max_iter"):
        TorchSoftmaxClassifier(solver="sgd", max_iter=3, learning_rate=1e-4).fit(X, y)


def test_without_callbacks_no_task_is_made_for_an_iteration(monkeypatch):
    from sklearn.callback import CallbackContext

    def fail(*args, **kwargs):
        raise AssertionError("a task although nobody watches")

    monkeypatch.setattr(CallbackContext, "subcontext", fail)
    model = TorchLogisticRegression().fit(*table("breast_cancer", True))
    assert "_callback_fit_ctx" not in vars(model)
