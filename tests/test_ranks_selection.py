"""What is chosen, scaled, refused and resumed where the rows are in several processes."""

import numpy as np
import pytest
import torch
from rank_processes import on_ranks
from scipy.sparse import csr_array
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
    smallest_useful_C,
)
from torchlogreg._data import tuning
from torchlogreg.callbacks import Checkpoint, EarlyStopping
from torchlogreg.distributed import scaler_over_shards, shared_rows

SIZES = [600, 60_000]  # rows that are gathered, and rows that are not


def table(n, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 10)) * 3.0 + 1.0
    y = (X @ rng.standard_normal((10, n_classes)) + 3.0 * rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, np.array(["no", "yes", "perhaps"])[y], rng.integers(0, 4, n).astype(float)


def part(n, rank, size):
    """Ever larger parts, of which the first is small."""
    ends = [int(n * (r / size) ** 2) for r in range(size + 1)]
    return slice(ends[rank], ends[rank + 1])


def test_the_sizes_are_on_both_sides():
    n_numbers = [n * 11 for n in SIZES]
    assert n_numbers[0] <= tuning.GATHERED_NUMBERS < n_numbers[1]


def cross_validated(rank, size, n, n_classes, options, weighted):
    X, y, weight = table(n, n_classes)
    own = part(n, rank, size)
    estimator = TorchLogisticRegressionCV if n_classes == 2 else TorchSoftmaxClassifierCV
    with shared_rows():
        model = estimator(**options).fit(X[own], y[own], weight[own] if weighted else None)
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


CROSS_VALIDATIONS = {
    "numbers": ({"Cs": 3, "cv": 3}, False),
    "accuracy, no refit": ({"Cs": [0.01, 1], "scoring": "accuracy", "refit": False, "class_weight": "balanced"}, True),
    "shuffled": ({"Cs": [0.1], "cv": KFold(3, shuffle=True, random_state=1)}, True),
    "elastic net": ({"Cs": 3, "l1_ratios": [0.5], "cv": 3}, False),
    "bounds, one fold": ({"Cs": [0.01, 1.0], "coef_bounds": (-0.3, 0.3), "cv": ShuffleSplit(1, random_state=0)}, False),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("case", CROSS_VALIDATIONS)
def test_cross_validation_is_that_of_all_rows(n, n_classes, case):
    options, weighted = CROSS_VALIDATIONS[case]
    answers = on_ranks(2, cross_validated, n, n_classes, options, weighted)
    X, y, weight = table(n, n_classes)
    estimator = TorchLogisticRegressionCV if n_classes == 2 else TorchSoftmaxClassifierCV
    expected = vars(estimator(**options).fit(X, y, weight if weighted else None))
    for found in answers:
        assert found.keys() == {name for name in expected if name.endswith("_")}
        np.testing.assert_allclose(found["scores_"], expected["scores_"], rtol=1e-10)
        for name in ("coef_", "intercept_", "coefs_paths_"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["n_iter_"], expected["n_iter_"])
        assert found["classes_"].tolist() == expected["classes_"].tolist()
        assert found["C_"] == pytest.approx(expected["C_"], rel=1e-12)
    assert answers[0]["coef_"].tobytes() == answers[1]["coef_"].tobytes()


def searched(rank, size, n, options, weighted):
    X, y, weight = table(n, 3)
    own = part(n, rank, size)
    grid = {"C": [0.01, 1.0], "class_weight": [None, "balanced"]}
    params = {"sample_weight": weight[own]} if weighted else {}
    with shared_rows():
        search = TorchGridSearchCV(TorchSoftmaxClassifier(), grid, **options).fit(X[own], y[own], **params)
    return search.cv_results_, search.best_params_, search.best_estimator_.coef_


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_grid_search_is_that_of_all_rows(n, weighted):
    options = {"cv": 3, "scoring": "neg_log_loss", "return_train_score": True}
    X, y, weight = table(n, 3)
    params = {"sample_weight": weight} if weighted else {}
    grid = {"C": [0.01, 1.0], "class_weight": [None, "balanced"]}
    expected = TorchGridSearchCV(TorchSoftmaxClassifier(), grid, **options).fit(X, y, **params)
    for results, best, coef in on_ranks(3, searched, n, options, weighted):
        for name in ("mean_test_score", "mean_train_score", "split2_test_score"):
            np.testing.assert_allclose(results[name], expected.cv_results_[name], rtol=1e-10)
        assert best == expected.best_params_
        np.testing.assert_allclose(coef, expected.best_estimator_.coef_, rtol=1e-7, atol=1e-9)


def pipelined(rank, size):
    X, y, _ = table(60_000, 3)
    own = part(len(X), rank, size)
    grid = {"torchsoftmaxclassifier__C": [0.01, 1.0]}
    with shared_rows():
        scaler = scaler_over_shards(X[own])
        pipeline = make_pipeline(FrozenEstimator(scaler), Normalizer(), TorchSoftmaxClassifier())
        search = TorchGridSearchCV(pipeline, grid, cv=3).fit(X[own], y[own])
    return scaler.mean_, scaler.scale_, scaler.n_samples_seen_, search.best_score_, search.predict(X[:100]).tolist()


def test_a_pipeline_whose_steps_know_all_rows():
    X, y, _ = table(60_000, 3)
    scaler = StandardScaler().fit(X)
    pipeline = make_pipeline(FrozenEstimator(scaler), Normalizer(), TorchSoftmaxClassifier())
    expected = TorchGridSearchCV(pipeline, {"torchsoftmaxclassifier__C": [0.01, 1.0]}, cv=3).fit(X, y)
    for mean, scale, n, score, labels in on_ranks(2, pipelined):
        np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-12)
        np.testing.assert_allclose(scale, scaler.scale_, rtol=1e-12)
        assert n == len(X)
        assert score == pytest.approx(expected.best_score_, rel=1e-3)  # there, each fold is fitted by itself
        assert labels == expected.predict(X[:100]).tolist()


def scaled(rank, size, kind):
    X, _, weight = table(900, 2)
    X[:, 4] = 7.0
    own = slice(0, 0) if rank == 0 else part(len(X), rank - 1, size - 1)
    with shared_rows():
        if kind == "stream":
            blocks = [(X[own][i : i + 50], None) for i in range(0, len(X[own]), 50)]
            return vars(scaler_over_shards(blocks))
        return vars(scaler_over_shards(X[own], weight[own] if kind == "weighted" else None))


@pytest.mark.parametrize("kind", ["plain", "weighted", "stream"])
def test_a_scaler_over_shards_is_that_of_all_rows(kind):
    X, _, weight = table(900, 2)
    X[:, 4] = 7.0
    expected = StandardScaler().fit(X, sample_weight=weight if kind == "weighted" else None)
    for found in on_ranks(3, scaled, kind):
        for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
            np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-10, atol=1e-12)


def refused(rank, size, kind):
    X, y, _ = table(300, 2)
    own = part(len(X), rank + 1, size + 1)
    X, y, plain = X[own], y[own], TorchLogisticRegression()
    actions = {
        "GridSearchCV": lambda: GridSearchCV(plain, {"C": [1.0]}).fit(X, y),
        "cross_val_score": lambda: cross_val_score(plain, X, y),
        "OneVsRestClassifier": lambda: OneVsRestClassifier(plain).fit(X, y),
        "StandardScaler": lambda: make_pipeline(StandardScaler(), plain).fit(X, y),
        "roc_auc": lambda: TorchLogisticRegressionCV(scoring="roc_auc").fit(X, y),
        "scoring='roc_auc'": lambda: TorchGridSearchCV(plain, {"C": [1.0]}, scoring="roc_auc").fit(X, y),
        "'sgd'": lambda: TorchGridSearchCV(plain, {"solver": ["sgd"]}).fit(X, y),
        "last step": lambda: TorchGridSearchCV(make_pipeline(Normalizer(), plain), {"normalizer__norm": ["l1"]}).fit(
            X, y
        ),
    }
    with shared_rows():
        actions[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "GridSearchCV",
        "cross_val_score",
        "OneVsRestClassifier",
        "StandardScaler",
        "roc_auc",
        "scoring='roc_auc'",
        "'sgd'",
        "last step",
    ],
)
def test_what_would_see_the_rows_of_one_process_is_refused(kind):
    for failure in on_ranks(2, refused, kind):
        assert failure.kind == "NotImplementedError", failure
        assert kind in failure.text
        assert failure.seconds < 5


class Interrupted(Checkpoint):
    """Fails before an iteration, as a process that is killed there would."""

    def __init__(self, path, at):
        super().__init__(path, every=2)
        self.at = at

    def on_fit_task_begin(self, estimator, context):
        super().on_fit_task_begin(estimator, context)
        progress = getattr(context, "progress", None)
        if (
            progress is not None
            and progress.state is not None
            and len(progress.history.get("objective", ())) == self.at
        ):
            raise RuntimeError("interrupted")


def fitted_with_checkpoint(rank, size, n, path, at, options):
    X, y, _ = table(n, 3)
    own = part(n, rank, size)
    callback = Checkpoint(path, every=2) if at is None else Interrupted(path, at)
    with shared_rows():
        model = TorchSoftmaxClassifier(tol=1e-8, **options).set_callbacks(callback).fit(X[own], y[own])
    return model.coef_, model.n_iter_, model.history_["objective"]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("options", [{"solver": "lbfgs"}, {"l1_ratio": 0.5, "C": 0.01}], ids=["l2", "l1"])
def test_a_fit_is_resumed_by_another_number_of_processes(tmp_path, n, options):
    path = tmp_path / "fit.checkpoint"
    for failure in on_ranks(3, fitted_with_checkpoint, n, path, 3, options):
        assert failure.kind == "RuntimeError"
        assert "interrupted" in failure.text
    assert path.exists()
    X, y, _ = table(n, 3)
    expected = TorchSoftmaxClassifier(tol=1e-8, **options).fit(X, y)
    for coef, n_iter, history in on_ranks(2, fitted_with_checkpoint, n, path, None, options):
        np.testing.assert_allclose(coef, expected.coef_, rtol=1e-6, atol=1e-8)
        assert n_iter == expected.n_iter_
        np.testing.assert_allclose(history, expected.history_["objective"], rtol=1e-10)
    assert not path.exists()


# What a search and a callback must not do


def searched_twice(rank, size):
    """Two batches, whose folds are drawn at random, are scored on the same folds."""
    X, y, _ = table(600, 3)
    own = part(len(X), rank, size)
    grid = {"tol": [1e-6, 1e-7], "C": [1.0]}
    with shared_rows():
        cv = KFold(3, shuffle=True)
        search = TorchGridSearchCV(TorchSoftmaxClassifier(), grid, cv=cv, scoring="neg_log_loss").fit(X[own], y[own])
        iterated = TorchGridSearchCV(TorchSoftmaxClassifier(), {"C": [1.0]}, cv=KFold(3).split(X)).fit(X[own], y[own])
    return [search.cv_results_[f"split{f}_test_score"] for f in range(3)], iterated.best_score_


def test_all_batches_of_a_search_have_the_same_folds():
    X, y, _ = table(600, 3)
    expected = TorchGridSearchCV(TorchSoftmaxClassifier(), {"C": [1.0]}, cv=KFold(3)).fit(X, y).best_score_
    for splits, score in on_ranks(2, searched_twice):
        for first, second in splits:
            assert first == pytest.approx(second, abs=1e-5)
        assert score == pytest.approx(expected, rel=1e-12)


def smallest(rank, size, n):
    X, y, weight = table(n, 3)
    own = part(n, rank, size)
    with shared_rows():
        return smallest_useful_C(X[own], y[own], sample_weight=weight[own])


@pytest.mark.parametrize("n", SIZES)
def test_the_smallest_useful_C_is_that_of_all_rows(n):
    X, y, weight = table(n, 3)
    expected = smallest_useful_C(X, y, sample_weight=weight)
    assert on_ranks(2, smallest, n) == [pytest.approx(expected, rel=1e-10)] * 2


def disagreed(rank, size, kind):
    X, y, _ = table(600, 2)
    own = part(len(X), rank, size)
    X, y = X[own], y[own]
    with shared_rows():
        if kind == "Cs":
            return TorchLogisticRegressionCV(Cs=[1.0, 2.0 + rank]).fit(X, y)
        if kind == "param_grid":
            return TorchGridSearchCV(TorchLogisticRegression(), {"C": [1.0] * (1 + rank)}).fit(X, y)
        return TorchLogisticRegressionCV(Cs=2, device="cuda" if rank else "cpu").fit(X, y)


@pytest.mark.parametrize("kind", ["Cs", "param_grid", "device"])
def test_searches_that_differ_are_refused_everywhere(kind):
    for failure in on_ranks(2, disagreed, kind):
        assert failure.kind == "ValueError", failure
        assert kind in failure.text
    assert on_ranks(2, smallest, 600)[0] > 0.0  # they still hear each other


class Fits(EarlyStopping):
    """Fits another model in each iteration, of rows that are its own."""

    def on_fit_task_end(self, estimator, context, **kwargs):
        TorchLogisticRegression().fit(*table(100, 2)[:2])
        return super().on_fit_task_end(estimator, context, **kwargs)


def fitted_in_a_callback(rank, size):
    X, y, _ = table(60_000, 3)
    own = part(len(X), rank, size)
    callback = Fits("objective", threshold=-1.0)
    with shared_rows():
        return TorchSoftmaxClassifier().set_callbacks(callback).fit(X[own], y[own]).n_iter_


def test_a_callback_may_fit_a_model_of_its_own():
    X, y, _ = table(60_000, 3)
    assert on_ranks(2, fitted_in_a_callback) == [TorchSoftmaxClassifier().fit(X, y).n_iter_] * 2


def fitted_halves(rank, size, n):
    X, y, _ = table(n, 2)
    own = part(n, rank, size)
    X = torch.from_numpy(X).bfloat16()
    with shared_rows():
        scaler = scaler_over_shards([(csr_array(np.eye(4)[: 2 + rank]), None)], with_mean=False)
        return TorchLogisticRegression().fit(X[own], y[own]).coef_, scaler.n_samples_seen_


@pytest.mark.parametrize("n", SIZES)
def test_bfloat16_and_sparse_blocks_travel(n):
    X, y, _ = table(n, 2)
    expected = TorchLogisticRegression().fit(torch.from_numpy(X).bfloat16(), y).coef_
    for coef, count in on_ranks(2, fitted_halves, n):
        np.testing.assert_allclose(coef, expected, rtol=1e-3, atol=1e-5)
        assert count == 5


class NeedsRows(KFold):
    """A splitter that says how many folds it makes only of rows."""

    def get_n_splits(self, X=None, y=None, groups=None):
        return 0 * X.shape[0] + 3


def test_a_splitter_may_need_the_rows():
    X, y, _ = table(600, 2)
    TorchLogisticRegressionCV(Cs=2, cv=NeedsRows(3)).fit(X, y)


class Raises:
    """Raises when a task of that name ends, or the whole search."""

    def __init__(self, task_name):
        self.task_name = task_name

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator=None, context=None, **kwargs):
        pass

    def on_fit_task_end(self, estimator=None, context=None, **kwargs):
        if context.task_name == self.task_name or (self.task_name == "search" and context.parent is None):
            raise RuntimeError("from the callback")

    def teardown(self, estimator, context):
        pass


def searched_with_callback(rank, size, task_name):
    X, y, _ = table(600, 2)
    own = part(len(X), rank, size)
    search = TorchGridSearchCV(TorchLogisticRegression(verbose=0), {"C": [1.0]}).set_callbacks(Raises(task_name))
    with shared_rows():
        search.fit(X[own], y[own])


@pytest.mark.parametrize("task_name", ["search", "refit-with-best-params", "candidate-split-evaluation"])
def test_an_error_at_the_end_of_a_search_is_told(task_name):
    for failure in on_ranks(2, searched_with_callback, task_name):
        assert failure.kind == "RuntimeError", failure
        assert "from the callback" in failure.text
    assert on_ranks(2, smallest, 600)[0] > 0.0  # they still hear each other


def searched_verbosely(rank, size):
    X, y, _ = table(600, 2)
    own = part(len(X), rank, size)
    estimator = TorchLogisticRegression(device="cpu" if rank else "auto")
    with shared_rows():
        return TorchGridSearchCV(estimator, {"C": [1.0]}).fit(X[own], y[own]).best_score_


def test_the_device_within_a_search_is_each_processs_own():
    first, second = on_ranks(2, searched_verbosely)
    assert first == second
