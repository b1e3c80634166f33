"""The callbacks: fits that stop in time, that survive being killed, and that are seen."""

import io
import os
import pickle
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import SOLVERS, Callback, run_program, serial, table
from scipy.sparse import csr_array, hstack, random_array
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_blobs
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
)
from torchlogreg._monitoring.checkpoint import MAGIC
from torchlogreg._solvers import STATES
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.eigenbasis import EigenbasisPreconditioner
from torchlogreg._solvers.preconditioners.frequent_columns import FrequentColumnsPreconditioner
from torchlogreg.callbacks import Checkpoint, EarlyStopping, LiveBoundary


def normal(n, p, n_classes=2, seed=0, dtype=np.float64):
    """Rows with correlated columns of different scales, and labels that a noisy linear model gives them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * rng.uniform(0.1, 3, p) / np.sqrt(p)
    y = (X @ rng.normal(size=(p, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X.astype(dtype), y


def text(n=3000, p=2000, seed=0):
    """Sparse rows, some columns of which are much heavier than others, and some empty."""
    rng = np.random.default_rng(seed)
    X = hstack([random_array((n, m), density=d, random_state=rng) for m, d in ((50, 0.5), (p - 50, 0.01))], "csr")
    y = (X @ rng.normal(size=p) + rng.logistic(size=n) > 0).astype(int)
    return hstack([csr_array((n, p // 2)), X], "csr"), y


def two_clouds():
    torch.manual_seed(10)
    centre = torch.full((100, 2), 1.7)
    X = torch.cat([torch.normal(centre, 1) + 1, torch.normal(-centre, 1) + 1])
    return X, torch.tensor([0.0, 1.0]).repeat_interleave(100)


DESCENT = {"solver": "sgd", "C": np.inf, "batch_size": None, "learning_rate": 0.01, "tol": 0, "max_iter": 1000}
START = {"coef_init": [[-0.0459, -0.4516]], "intercept_init": [0.1329]}

# EarlyStopping


def test_two_clouds_stop_as_soon_as_the_accuracy_exceeds_99_percent():
    X, y = two_clouds()
    model = TorchLogisticRegression(**DESCENT).set_callbacks(EarlyStopping("train_accuracy", threshold=0.99))
    model.fit(X, y, **START)
    assert model.n_iter_[0] == 376
    accuracy = model.history_["train_accuracy"]
    assert accuracy[-1] == 0.995 == model.score(X, y)
    assert accuracy[:-1].max() == 0.99  # which does not exceed it


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("monitor", "threshold"), [("train_accuracy", 0.95), ("train_loss", 0.2), ("objective", 0.25)])
def test_a_threshold_ends_the_fit_at_the_first_iterate_that_is_beyond_it(solver, monitor, threshold):
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(solver=solver, C=0.1, random_state=0, tol=1e-9 if solver != "sgd" else 0)
    free = clone(model).set_callbacks(EarlyStopping(monitor, threshold=2.0 if monitor == "train_accuracy" else 0.0))
    free.set_params(max_iter=20).fit(X, y) if solver == "sgd" else free.fit(X, y)
    stopped = model.set_params(max_iter=free.max_iter).set_callbacks(EarlyStopping(monitor, threshold=threshold))
    stopped.fit(X, y)
    beyond = free.history_[monitor] > threshold if "accuracy" in monitor else free.history_[monitor] < threshold
    assert beyond.any()
    assert stopped.n_iter_[0] == 1 + np.argmax(beyond)
    np.testing.assert_array_equal(stopped.history_[monitor], free.history_[monitor][: stopped.n_iter_[0]])


def test_patience_waits_for_an_improvement_of_the_validation_loss():
    X, y = table("digits", True)
    model = TorchSoftmaxClassifier(solver="lbfgs", C=1e4, tol=1e-12)
    model.set_callbacks(EarlyStopping("validation_loss", patience=4, min_delta=1e-3))
    model.fit(X[:900], y[:900], X_val=X[900:], y_val=y[900:])
    loss = model.history_["validation_loss"]
    stop = next(n for n in range(5, 100) if not loss[n - 4 : n].min() < loss[: n - 4].min() - 1e-3)
    assert model.n_iter_[0] == stop
    last = -model.predict_log_proba(X[900:])[np.arange(len(y) - 900), y[900:]].mean()  # log_loss cuts what is large
    assert last == pytest.approx(loss[-1], rel=1e-10)


def test_one_instance_watches_many_fits():
    X, y = table("iris", True)
    stop = EarlyStopping("train_accuracy", threshold=0.9)
    model = make_pipeline(StandardScaler(), TorchSoftmaxClassifier().set_callbacks(stop))
    search = GridSearchCV(model, {"torchsoftmaxclassifier__C": [1.0, 10.0]}, cv=3).fit(X, y)
    inner = search.best_estimator_[-1]
    assert inner.history_["train_accuracy"][-1] > 0.9
    assert (inner.history_["train_accuracy"][:-1] <= 0.9).all()


def test_it_goes_together_with_scikit_learns_callbacks():
    X, y = table("iris", True)
    monitor = ScoringMonitor(scoring="accuracy")
    model = TorchSoftmaxClassifier(solver="lbfgs", C=1e3, tol=1e-9)
    model.set_callbacks(monitor, EarlyStopping("train_accuracy", threshold=0.97)).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    np.testing.assert_array_equal(scores, model.history_["train_accuracy"])
    assert model.n_iter_[0] < clone(model).set_callbacks().fit(X, y).n_iter_[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": "loss", "threshold": 1}, "monitor must be one of .*'train_loss'.*got 'loss'"),
        ({"monitor": "objective"}, "Set a threshold, a patience"),
        ({"monitor": "objective", "patience": 0}, "patience must be a positive integer, got 0"),
        ({"monitor": "objective", "threshold": np.inf}, "threshold must be a finite number, got inf"),
        ({"monitor": "objective", "threshold": "low"}, "threshold must be a finite number, got 'low'"),
        ({"monitor": "objective", "patience": 2, "min_delta": -1.0}, "min_delta must be .* zero or positive, got -1.0"),
        ({"monitor": "objective", "patience": 2, "min_delta": np.nan}, "min_delta must be a finite number.*got nan"),
    ],
)
def test_what_cannot_be_watched(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


def test_what_a_fit_does_not_know_is_an_error_before_it_begins():
    X, y = table("iris", True)
    model = TorchSoftmaxClassifier().set_callbacks(EarlyStopping("validation_loss", patience=3))
    with pytest.raises(ValueError, match=r"monitor='validation_loss' needs validation data"):
        model.fit(X, y)
    assert not hasattr(model, "coef_")
    model = TorchSoftmaxClassifier(solver="sgd").set_callbacks(EarlyStopping("gradient_norm", threshold=1))
    with pytest.raises(ValueError, match="solver='sgd' computes no gradient"):
        model.fit(X, y)


@pytest.mark.parametrize("callback", [EarlyStopping("objective", threshold=1), Checkpoint("x"), LiveBoundary()])
def test_other_estimators_are_refused(callback):
    X, y = table("iris", True, binary=True)
    for other in (make_pipeline(TorchLogisticRegression()), TorchLogisticRegressionCV(Cs=2)):
        with pytest.raises(TypeError, match=f"{type(callback).__name__} watches.*set_callbacks of that estimator"):
            other.set_callbacks(callback).fit(X, y)


# Checkpoint


class Kill(Callback):
    """A callback that ends a fit with an error when an iteration begins."""

    def __init__(self, at):
        self.at, self.n_begun = at, -1

    def setup(self, estimator, context):
        self.n_begun = -1  # the fit's own task is the first

    def on_fit_task_begin(self, estimator, context):
        self.n_begun += 1
        if self.n_begun == self.at:
            raise KeyboardInterrupt


def stream_of(X, y):
    return [(X[i::7], y[i::7]) for i in range(7)]


VALIDATED = {"X_val": table("digits", True)[0][1200:], "y_val": table("digits", True)[1][1200:]}
OFF_THE_ORIGIN = 1e5 + normal(100, 500)[0], normal(100, 500)[1]
SGD = {"solver": "sgd", "max_iter": 9, "tol": 0}


def nearly_equal():
    """Rows whose label only the difference of two columns tells, which L-BFGS leaves to Newton's method."""
    z, u = np.random.default_rng(0).normal(size=(2, 300))
    return np.column_stack([z, z + 1e-9 * u]), u + np.random.default_rng(1).logistic(size=300) > 0


FITS = {
    "newton, tiny": (TorchSoftmaxClassifier(tol=1e-10), table("wine", True), {}),
    "newton": (TorchSoftmaxClassifier(solver="newton-cholesky", tol=1e-12), normal(3000, 12, 5), {}),
    "newton from afar": (
        TorchLogisticRegression(solver="newton-cholesky", C=100.0),
        normal(2000, 5),
        {"coef_init": np.full((1, 5), 30.0)},
    ),
    "lbfgs, one logit": (TorchLogisticRegression(solver="lbfgs", tol=1e-7), normal(20_000, 30), {}),
    "lbfgs, hybrid metric": (TorchSoftmaxClassifier(solver="lbfgs"), table("digits", True), {}),
    "lbfgs, text": (TorchLogisticRegression(solver="lbfgs", C=10.0), text(), {}),
    "lbfgs, text, validated": (
        TorchLogisticRegression(C=1e3, early_stopping=True, n_iter_no_change=3),
        text(),
        {"X_val": text(seed=1)[0], "y_val": text(seed=1)[1]},
    ),
    "lbfgs, wide": (TorchLogisticRegression(solver="lbfgs", tol=1e-7), normal(100, 500), {}),
    "lbfgs, wide, off the origin": (TorchLogisticRegression(solver="lbfgs"), OFF_THE_ORIGIN, {}),
    "lbfgs, float32": (TorchLogisticRegression(solver="lbfgs", tol=1e-7), normal(5000, 40, dtype=np.float32), {}),
    "lbfgs, validated": (TorchSoftmaxClassifier(solver="lbfgs", early_stopping=True), table("digits", True), VALIDATED),
    "lbfgs, stream": (TorchLogisticRegression(solver="lbfgs", tol=1e-7), (stream_of(*normal(9000, 10)), None), {}),
    "lbfgs, nearly equal columns": (TorchLogisticRegression(solver="lbfgs", C=np.inf), nearly_equal(), {}),
    "sgd": (TorchSoftmaxClassifier(**SGD, learning_rate=0.1), table("wine", True), {}),
    "sgd, seeded": (TorchSoftmaxClassifier(**SGD, nesterov=True, random_state=3), table("wine", True), {}),
    "sgd, float32": (TorchLogisticRegression(**SGD, random_state=0), normal(900, 20, dtype=np.float32), {}),
    "sgd, rate until it stands still": (
        TorchSoftmaxClassifier(solver="sgd", max_iter=40, tol=1e-2, random_state=0),
        table("iris", True),
        {},
    ),
    "sgd, its own rule": (
        TorchSoftmaxClassifier(solver="sgd", learning_rate=0.1, tol=1e-2, random_state=0),
        table("iris", True),
        {},
    ),
    "sgd, held out": (
        TorchSoftmaxClassifier(solver="sgd", early_stopping=True, tol=1e-3, n_iter_no_change=4, random_state=0),
        table("wine", True),
        {},
    ),
}


def interrupted(model, at, path, data, options):
    """Whether a fit was ended by force when its iteration number `at` began, counted from 1."""
    try:
        clone(model).set_callbacks(Checkpoint(path, every=1), Kill(at)).fit(*data, **options)
    except KeyboardInterrupt:
        return True
    return False


def assert_same_fit(model, expected, rtol=0.0):
    for name in ("coef_", "intercept_", "loss_curve_"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), rtol=rtol, atol=rtol, err_msg=name)
    assert model.n_iter_[0] == expected.n_iter_[0]
    assert model.converged_ == expected.converged_
    assert model.history_.keys() == expected.history_.keys()
    for name, column in model.history_.items():
        if name != "seconds":
            np.testing.assert_allclose(column, expected.history_[name], rtol=1e-7, err_msg=name)
    assert (np.diff(model.history_["seconds"]) > 0).all()


def moments(n_iter):
    """Iterations, counted from 1, before which a fit is interrupted."""
    return {2, 1 + n_iter // 2, n_iter}


@pytest.mark.parametrize("name", FITS)
def test_an_interrupted_fit_goes_on_to_the_same_end(name, tmp_path):
    model, data, options = FITS[name]
    path = tmp_path / "fit.checkpoint"
    if model.solver == "sgd" and model.random_state is None:  # an order that only the checkpoint knows
        model = clone(model).set_params(shuffle=False)
    whole = clone(model).fit(*data, **options)
    for at in moments(whole.n_iter_[0]):
        assert interrupted(model, at, path, data, options)
        assert path.exists() == (at > 1)
        resumed = clone(model).set_callbacks(Checkpoint(path)).fit(*data, **options)
        assert_same_fit(resumed, whole, 1e-13)
        assert not path.exists()


def state_in(path):
    """What a checkpoint says of the solver, and in which stage of the fit it was."""
    content = path.read_bytes()[len(MAGIC) + 32 :].split(b"\n", 1)[1]
    with torch.serialization.safe_globals(STATES):
        stage, state = torch.load(io.BytesIO(content), weights_only=True)["solver"]
    return state, stage


@pytest.mark.parametrize(
    ("name", "metric", "stages"),
    [
        ("lbfgs, one logit", CholeskyPreconditioner, {"first"}),
        ("lbfgs, hybrid metric", EigenbasisPreconditioner, {"first"}),
        ("lbfgs, text", FrequentColumnsPreconditioner, {"first"}),
        ("lbfgs, float32", CholeskyPreconditioner, {"first", "exact"}),
        ("lbfgs, wide, off the origin", CholeskyPreconditioner, {"first", "exact"}),
        ("lbfgs, nearly equal columns", None, {"last"}),
    ],
)
def test_the_fits_come_to_what_they_are_to_show(name, metric, stages, tmp_path):
    model, data, options = FITS[name]
    path = tmp_path / "fit.checkpoint"
    metrics, seen, n_pairs, n_iter = set(), set(), 0, clone(model).fit(*data, **options).n_iter_[0]
    for at in moments(n_iter):
        assert interrupted(model, at, path, data, options)
        state, stage = state_in(path)
        path.unlink()
        seen.add(stage)
        if stage == "last":  # by Newton's method, which has neither
            continue
        metrics.add(type(state.preconditioner))
        _, order, *arrays = state.memory
        n_pairs += len(order)
        for array in arrays:  # no spare rows
            assert array.shape[1] == len(order)
            assert array.untyped_storage().nbytes() == array.numel() * array.element_size()
    assert seen == stages
    assert metric is None or (metric in metrics and n_pairs)


def test_it_really_goes_on_where_it_was(tmp_path):
    model, data, options = FITS["lbfgs, one logit"]
    path = tmp_path / "fit.checkpoint"
    n_iter = clone(model).fit(*data).n_iter_[0]
    assert interrupted(model, n_iter, path, data, options)
    rest = Kill(-1)
    resumed = clone(model).set_callbacks(Checkpoint(path), rest).fit(*data)
    assert resumed.n_iter_[0] == n_iter
    assert rest.n_begun == 1


def test_a_link_to_a_checkpoint_stays_a_link(tmp_path):
    model, data, options = FITS["sgd, seeded"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    assert interrupted(model, 3, tmp_path / "link", data, options)
    assert os.listdir(tmp_path / "folder") == ["file"]
    clone(model).set_callbacks(Checkpoint(tmp_path / "link")).fit(*data, **options)
    assert (tmp_path / "link").is_symlink()
    assert not os.listdir(tmp_path / "folder")


def test_an_order_of_rows_without_a_seed_goes_on(tmp_path):
    X, y = table("wine", True)
    path = tmp_path / "fit.checkpoint"
    model = TorchSoftmaxClassifier(solver="sgd", learning_rate=0.1, tol=0, max_iter=8)
    assert interrupted(model, 5, path, (X, y), {})
    content = path.read_bytes()
    first = clone(model).set_callbacks(Checkpoint(path)).fit(X, y)
    path.write_bytes(content)
    second = clone(model).set_callbacks(Checkpoint(path)).fit(X, y)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    assert len(first.loss_curve_) == 8


def test_more_iterations_may_be_asked_for(tmp_path):
    model, data, options = FITS["newton"]
    path = tmp_path / "fit.checkpoint"
    assert interrupted(clone(model).set_params(max_iter=3), 3, path, data, options)
    resumed = clone(model).set_params(max_iter=50, verbose=0).set_callbacks(Checkpoint(path)).fit(*data)
    assert_same_fit(resumed, clone(model).fit(*data))


def test_a_checkpoint_beyond_max_iter_is_refused(tmp_path):
    model, data, _ = FITS["newton"]
    path = tmp_path / "fit.checkpoint"
    assert interrupted(model, 5, path, data, {})
    with pytest.raises(ValueError, match="has 4 iterations, more than max_iter=3 allows"):
        clone(model).set_params(max_iter=3).set_callbacks(Checkpoint(path)).fit(*data)


def test_a_stop_by_another_callback_is_the_same(tmp_path):
    X, y = two_clouds()
    path = tmp_path / "fit.checkpoint"
    model = TorchLogisticRegression(**DESCENT)
    stop = EarlyStopping("train_accuracy", threshold=0.95)
    whole = clone(model).set_callbacks(stop).fit(X, y, **START)
    for at in (2, whole.n_iter_[0]):
        with pytest.raises(KeyboardInterrupt):
            clone(model).set_callbacks(Checkpoint(path, every=1), stop, Kill(at)).fit(X, y, **START)
        resumed = clone(model).set_callbacks(Checkpoint(path, every=1), stop).fit(X, y, **START)
        assert_same_fit(resumed, whole)


def test_it_is_written_when_it_is_due(tmp_path):
    model, data, _ = FITS["newton"]
    path = tmp_path / "fit.checkpoint"
    for at, there in ((3, False), (4, True), (5, True)):
        with pytest.raises(KeyboardInterrupt):
            clone(model).set_callbacks(Checkpoint(path, every=3), Kill(at)).fit(*data)
        assert path.exists() == there
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def checkpoint(tmp_path):
    """That of a model on some data, interrupted at its third iteration."""
    model, data, options = FITS["sgd, seeded"]
    path = tmp_path / "fit.checkpoint"
    assert interrupted(model, 3, path, data, options)
    return path, model, data


FOREIGN = {
    "a parameter": (lambda m, X, y: (m.set_params(C=2.0), X, y), {}, r"another fit: C was 1.0 and is 2.0\. Delete it"),
    "epochs of sgd": (lambda m, X, y: (m.set_params(max_iter=20), X, y), {}, "max_iter was 9 and is 20"),
    "one number": (lambda m, X, y: (m, X + 1e-9 * (np.arange(X.size) == 77).reshape(X.shape), y), {}, "other data"),
    "one label": (lambda m, X, y: (m, X, np.where(np.arange(len(y)) == 5, 2, y)), {}, "other data"),
    "another order": (lambda m, X, y: (m, X[::-1], y[::-1]), {}, "other data"),
    "other classes": (lambda m, X, y: (m, X, y + 1), {}, r"classes was \[0, 1, 2\] and is \[1, 2, 3\]"),
    "fewer rows": (lambda m, X, y: (m, X[:-1], y[:-1]), {}, "shape of X was"),
    "weights": (lambda m, X, y: (m, X, y, np.linspace(1, 2, len(y))), {}, "other data or weights"),
    "uniform weights": (lambda m, X, y: (m, X, y, np.full(len(y), 100.0)), {}, "other data or weights"),
    "a monitor": (
        lambda m, X, y: (m.set_callbacks(EarlyStopping("train_loss", threshold=0.0)), X, y),
        {},
        "train_loss in history_ was False and is True",
    ),
    "float32": (lambda m, X, y: (m, X.astype(np.float32), y), {}, "dtype of coef_ was float64 and is float32"),
    "a start": (lambda m, X, y: (m, X, y), {"intercept_init": [1, 0, 0]}, "other start"),
    "validation data": (lambda m, X, y: (m, X, y), {"X_val": np.ones((1, 13)), "y_val": [1]}, "other validation data"),
    "a seed": (lambda m, X, y: (m.set_params(random_state=4), X, y), {}, "random_state was 3 and is 4"),
    "another solver": (lambda m, X, y: (m.set_params(solver="lbfgs"), X, y), {}, "solver_ was sgd and is lbfgs"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_checkpoint_of_another_fit_is_refused(name, checkpoint):
    path, model, data = checkpoint
    change, options, message = FOREIGN[name]
    model, *data = change(clone(model), *data)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        model.set_callbacks(Checkpoint(path), *vars(model).get("_skl_callbacks", ())).fit(*data, **options)
    assert not hasattr(model, "coef_")
    assert path.read_bytes() == before


def test_another_class_and_another_version_are_refused(checkpoint, monkeypatch):
    path, _, (X, y) = checkpoint
    with pytest.raises(ValueError, match="estimator was TorchSoftmaxClassifier and is TorchLogisticRegression"):
        TorchLogisticRegression(solver="sgd").set_callbacks(Checkpoint(path)).fit(X[y > 0], y[y > 0])
    monkeypatch.setattr("torchlogreg._estimators.fingerprint.version", lambda _: "99.0")
    with pytest.raises(ValueError, match=r"version was \S+ and is 99.0"):
        clone(FITS["sgd, seeded"][0]).set_callbacks(Checkpoint(path)).fit(X, y)


def test_a_torn_file_is_an_error_wherever_it_is_torn(checkpoint):
    path, model, data = checkpoint
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, 10, 30, *rng.integers(len(content), size=20)):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"is damaged|is not a checkpoint"):
            clone(model).set_callbacks(Checkpoint(path)).fit(*data)
    for position in rng.integers(len(content), size=20):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ValueError, match=r"is damaged|is not a checkpoint.*Delete it to start afresh"):
            clone(model).set_callbacks(Checkpoint(path)).fit(*data)
    path.write_bytes(pickle.dumps(model))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        clone(model).set_callbacks(Checkpoint(path)).fit(*data)


def test_what_a_checkpoint_cannot_do(tmp_path):
    X, y = table("wine", True)
    with pytest.raises(ValueError, match="every must be a positive integer"):
        Checkpoint("x", every=0)
    with pytest.raises(FileNotFoundError, match="folder of the checkpoint is missing"):
        TorchSoftmaxClassifier().set_callbacks(Checkpoint(tmp_path / "missing" / "x")).fit(X, y)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        TorchSoftmaxClassifier().set_callbacks(Checkpoint(tmp_path / "pipe")).fit(X, y)
    assert (tmp_path / "pipe").is_fifo()
    model = TorchSoftmaxClassifier(solver="sgd", early_stopping=True).set_callbacks(Checkpoint(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"Other rows would be held out.*random_state"):
        model.fit(X, y)


@pytest.mark.parametrize("search", [GridSearchCV, TorchGridSearchCV])
def test_a_search_is_refused_and_a_pipeline_is_not(search, tmp_path):
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier().set_callbacks(Checkpoint(tmp_path / "x", every=1))
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    assert pipeline.score(X, y) > 0.99
    for inner, grid in ((model, {"C": [0.1, 1.0]}), (pipeline, {"torchsoftmaxclassifier__C": [0.1, 1.0]})):
        with pytest.raises(ValueError, match=r"belongs to one fit, and \w*GridSearchCV runs many"):
            search(inner, grid, cv=2, error_score="raise").fit(X, y)
    assert not list(tmp_path.iterdir())


class Last(Callback):
    """A callback that does something when the fit has ended."""

    def __init__(self, act):
        self.act = act

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "fit":
            self.act()


def test_the_file_outlives_an_end_that_another_callback_undoes(tmp_path):
    def fail():
        raise RuntimeError("full")

    X, y = table("wine", True)
    path = tmp_path / "fit.checkpoint"
    model = TorchSoftmaxClassifier()
    with pytest.raises(RuntimeError, match="full"):
        model.set_callbacks(Checkpoint(path, every=1), Last(fail)).fit(X, y)
    assert path.exists()
    assert not hasattr(model, "coef_")
    resumed = model.set_callbacks(Checkpoint(path)).fit(X, y)
    assert_same_fit(resumed, TorchSoftmaxClassifier().fit(X, y), 1e-13)
    assert not path.exists()


def test_a_fit_that_overflows_leaves_no_file(tmp_path):
    X, y = table("iris", False)
    path = tmp_path / "fit.checkpoint"
    seen = Kill(-1)
    model = TorchSoftmaxClassifier(solver="sgd", learning_rate=1e40, C=1e-3, batch_size=None)
    model.set_callbacks(Checkpoint(path, every=1), seen)
    with pytest.raises(ValueError, match=r"overflowed.*Lower learning_rate"):
        model.fit(X, y)
    assert seen.n_begun > 1  # so there was one
    assert not path.exists()
    model.set_params(learning_rate="auto", tol=0.1).fit(X, y)  # as the message advises


def test_what_a_task_knows_does_not_outlive_its_hooks():
    kept = []

    class Keeper(Kill):
        def on_fit_task_begin(self, estimator, context):
            kept.append(context)

        def on_fit_task_end(self, estimator, context):
            assert context.task_name == "fit" or context.progress.attributes() is not None

    TorchSoftmaxClassifier().set_callbacks(Keeper(-1)).fit(*table("wine", True))
    assert len(kept) > 3
    assert not any(hasattr(context, "progress") for context in kept)


def test_names_that_other_callbacks_may_have_mean_nothing_here():
    class Foreign(Kill):
        monitors = {"validation_loss"}

        def resume(self):
            raise AssertionError

    model = TorchSoftmaxClassifier().set_callbacks(Foreign(-1)).fit(*table("wine", True))
    assert "train_loss" not in model.history_


DRIVER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])  # where the tests are
import numpy as np
import torch
torch.set_num_threads(1)  # so that a process may fork
from test_callbacks import FITS
from torchlogreg.callbacks import Checkpoint

class Slow:
    def __init__(self, pipe, n_killed): self.pipe, self.n_killed, self.n_begun = pipe, n_killed, -1  # the fit is one
    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context):
        self.n_begun += 1
        if self.n_killed < 3:
            time.sleep(300 if self.n_killed == 0 and self.n_begun == 4 else 0.02)  # however late it is killed
    def on_fit_task_end(self, estimator, context):
        os.write(self.pipe, b"i" if context.task_name != "fit" else b"f")

def begin(name, path, n_killed):
    'A process that fits, and a pipe from which its iterations can be heard.'
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        model, data, options = FITS[name]
        model.set_callbacks(Checkpoint(path, every=1), Slow(told, n_killed)).fit(*data, **options)
        np.savez(path + ".npz", model.coef_, model.intercept_, model.loss_curve_, model.n_iter_[0])
        os._exit(0)
    os.close(told)
    return pid, heard

folder, rng = sys.argv[2], np.random.default_rng(0)
for name in sys.argv[3:]:
    path = os.path.join(folder, name)
    n_killed, code = 0, None
    while code != 0:
        pid, heard = begin(name, path, n_killed)
        if n_killed < 3:
            assert os.read(heard, 1) == b"i"  # in the midst of the fit
            time.sleep(rng.uniform(0.0, 0.04))  # into the write, the pause or the arithmetic that come next
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        n_killed += code != 0
    assert n_killed, name
    assert not os.path.exists(path)
    print(name, n_killed)
"""
KILLED = ["newton", "newton, tiny", "lbfgs, float32", "lbfgs, hybrid metric", "sgd, seeded", "sgd, held out"]


@pytest.fixture(scope="module")
def survivors(tmp_path_factory):
    """A folder with what fits came to that were killed at random moments, up to three times each, by SIGKILL."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no SIGKILL on this system")
    folder = tmp_path_factory.mktemp("killed")
    run_program(DRIVER, os.path.dirname(__file__), folder, *KILLED, warnings="default")
    return folder


@serial
@pytest.mark.parametrize("name", KILLED)
def test_a_fit_that_is_killed_goes_on_to_the_same_end(name, survivors):
    model, data, options = FITS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = clone(model).fit(*data, **options)
    finally:
        torch.set_num_threads(threads)
    with np.load(survivors / f"{name}.npz") as found:
        coef, intercept, curve, n_iter = found.values()
    np.testing.assert_allclose(coef, whole.coef_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(intercept, whole.intercept_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(curve, whole.loss_curve_, rtol=1e-10)
    assert n_iter == whole.n_iter_[0] > 4


# LiveBoundary


def frames(path):
    from PIL import Image

    with Image.open(path) as image:
        out = []
        for i in range(image.n_frames):
            image.seek(i)
            out.append(np.asarray(image.convert("RGB")))
    return out


@pytest.mark.usefixtures("no_windows")
def test_two_clouds_become_an_animation(tmp_path):
    import matplotlib.pyplot as plt

    X, y = two_clouds()
    path = tmp_path / "clouds.gif"
    model = TorchLogisticRegression(**DESCENT).set_callbacks(
        EarlyStopping("train_accuracy", threshold=0.99), LiveBoundary(every=100, path=path)
    )
    model.fit(X, y, **START)
    pictures = frames(path)
    assert len(pictures) == 5  # epochs 1, 100, 200, 300 and the last, 376
    assert all((a != b).any() for a, b in pairwise(pictures))
    assert not plt.get_fignums()


@pytest.mark.usefixtures("no_windows")
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_picture_shows_the_model(n_classes):
    import matplotlib.pyplot as plt

    X, y = make_blobs(3000, centers=n_classes, random_state=3, cluster_std=2.0)
    ax = plt.subplots()[1]
    cls = TorchLogisticRegression if n_classes == 2 else TorchSoftmaxClassifier
    model = cls().set_callbacks(LiveBoundary(ax=ax)).fit(X, y)
    assert sum(len(points.get_offsets()) for points in ax.collections[:n_classes]) <= 2000
    title = ax.get_title()
    assert f"iteration {model.n_iter_[0]}" in title
    assert f"accuracy {accuracy_score(y, model.predict(X)):.3f}" in title
    assert f"loss {log_loss(y, model.predict_proba(X)):.5f}" in title
    assert (f"b = {model.intercept_[0]:.4f}" in title) == (n_classes == 2)
    contours = [c for c in ax.collections if type(c).__name__ == "QuadContourSet"]
    assert len(contours) >= n_classes - 1
    for contour in contours:  # where the two most probable classes are equally probable
        for line in contour.get_paths():
            proba = np.sort(model.predict_proba(line.vertices), axis=1)
            np.testing.assert_allclose(proba[:, -1], proba[:, -2], atol=0.02)


@pytest.mark.usefixtures("no_windows")
@pytest.mark.parametrize("container", ["frame", "tensor", "list", "sparse"])
def test_any_table_is_drawn(container, tmp_path):
    import pandas as pd

    X, y = make_blobs(50, centers=2, random_state=0)
    X = {
        "frame": lambda: pd.DataFrame(X, columns=["width", "height"]),
        "tensor": lambda: torch.from_numpy(X),
        "list": lambda: X.tolist(),
        "sparse": lambda: csr_array(X),
    }[container]()
    model = (
        TorchLogisticRegression().set_callbacks(LiveBoundary(path=tmp_path / "x.gif")).fit(X, np.array(["a", "b"])[y])
    )
    assert len(frames(tmp_path / "x.gif")) == model.n_iter_[0]


def test_only_two_features_are_drawn():
    X, y = table("iris", True)
    model = TorchSoftmaxClassifier().set_callbacks(LiveBoundary())
    with pytest.raises(ValueError, match=r"two features, X of shape \(n_samples, 2\); got \(150, 4\)"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="two features"):
        model.fit([(X[:, :2], y)])
    assert not hasattr(model, "coef_")


@pytest.mark.usefixtures("no_windows")
def test_a_notebook_shows_one_picture_that_changes(monkeypatch):
    import types

    import matplotlib

    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    def display(figure, display_id):
        assert display_id
        shown.append(figure)
        return Handle()

    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    notebook = types.ModuleType("IPython")
    vars(notebook)["version_info"] = (9, 0)  # which the first canvas of a process asks for
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    X, y = make_blobs(50, centers=2, random_state=0)
    model = TorchLogisticRegression().set_callbacks(LiveBoundary()).fit(X, y)
    assert len(shown) == model.n_iter_[0]
    assert len(set(map(id, shown))) == 1


@pytest.mark.usefixtures("no_windows")
def test_a_window_is_redrawn(monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    calls = []
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "some", raising=False)
    monkeypatch.setattr(FigureCanvasAgg, "draw_idle", lambda self: calls.append("draw"))
    monkeypatch.setattr(FigureCanvasAgg, "flush_events", lambda self: calls.append("flush"))
    monkeypatch.setattr(Figure, "show", lambda self: calls.append("show"))
    X, y = make_blobs(50, centers=2, random_state=0)
    model = TorchLogisticRegression().set_callbacks(LiveBoundary()).fit(X, y)
    assert calls == ["show", *["draw", "flush"] * model.n_iter_[0]]


def test_a_fit_that_fails_closes_its_picture(tmp_path, no_windows):
    import matplotlib.pyplot as plt

    X, y = make_blobs(50, centers=2, random_state=0)
    live = LiveBoundary(path=tmp_path / "x.gif")
    model = TorchLogisticRegression().set_callbacks(live, Kill(3))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert len(frames(tmp_path / "x.gif")) == 2
    assert not plt.get_fignums()
    assert pickle.loads(pickle.dumps(live)).path == live.path


@pytest.mark.parametrize("fps", [0, -1, np.inf, "fast"])
def test_an_animation_needs_a_speed(fps):
    with pytest.raises(ValueError, match="fps must be a positive number"):
        LiveBoundary(fps=fps)


def test_a_missing_folder_is_an_error_before_anything_is_drawn(tmp_path, no_windows):
    import matplotlib.pyplot as plt

    X, y = make_blobs(50, centers=2, random_state=0)
    model = TorchLogisticRegression().set_callbacks(LiveBoundary(path=tmp_path / "missing" / "x.gif"), seen := Kill(-1))
    with pytest.raises(FileNotFoundError, match="folder of the animation is missing"):
        model.fit(X, y)
    assert seen.n_begun == -1
    assert not plt.get_fignums()


def test_a_writer_that_fails_leaves_no_figure(tmp_path, no_windows, monkeypatch):
    import matplotlib.pyplot as plt
    from matplotlib.animation import PillowWriter

    def setup(*arguments, **options):
        raise OSError("no room")

    monkeypatch.setattr(PillowWriter, "setup", setup)
    X, y = make_blobs(50, centers=2, random_state=0)
    with pytest.raises(OSError, match="no room"):
        TorchLogisticRegression().set_callbacks(LiveBoundary(path=tmp_path / "x.gif")).fit(X, y)
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", ["x.gif", "x.unknown"])
def test_an_animation_that_cannot_be_written_is_a_warning(name, tmp_path, no_windows):
    import matplotlib.pyplot as plt

    path = tmp_path / name
    if name == "x.gif":
        path.mkdir()
    X, y = make_blobs(50, centers=2, random_state=0)
    model = TorchLogisticRegression().set_callbacks(LiveBoundary(path=path))
    with pytest.warns(UserWarning, match=r"x\.\w+ could not be written.*fit again with a path to a \.gif file"):
        model.fit(X, y)
    assert model.score(X, y) > 0.9
    assert not plt.get_fignums()
