"""What a fit tells about itself: its history, on validation data too, and the lines that it prints."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import SOLVERS, Callback, table
from scipy.sparse import csr_array, hstack, random_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import TorchGridSearchCV, TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg.callbacks import EarlyStopping

SGD = {"solver": "sgd", "tol": 0, "random_state": 0}
SCORES = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]


def halves(name="wine", binary=False):
    """Rows to train on, and rows to validate on."""
    X, y = table(name, True, binary)
    return X[::2], y[::2], {"X_val": X[1::2], "y_val": y[1::2]}


class Models(Callback):
    """A callback that keeps the model after every iteration."""

    def setup(self, estimator, context):
        self.models = []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name != "fit":
            self.models.append(fitted_estimator)


def watched(model, *data, **options):
    """A fitted clone, and the models after each of its iterations."""
    models = Models()
    return clone(model).set_callbacks(models).fit(*data, **options), models.models


def mean_loss(model, X, y, weight=None):
    """The objective without its penalty; log_loss would cut what is large."""
    losses = -model.predict_log_proba(X)[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return np.average(losses, weights=weight)


def assert_noted(fitted, models, name, X, y):
    """The history has loss and accuracy of each model on some rows; returns the accuracies."""
    loss = [mean_loss(model, X, y) for model in models]
    np.testing.assert_allclose(fitted.history_[f"{name}_loss"], loss, rtol=1e-9)
    accuracy = [model.score(X, y) for model in models]
    np.testing.assert_array_equal(fitted.history_[f"{name}_accuracy"], accuracy)
    return accuracy


# History


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_fit_has_a_history(solver, dtype):
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(solver=solver, random_state=0, max_iter=100 if solver != "sgd" else 7)
    model.set_params(tol=1e-4 if solver != "sgd" else 0).fit(X.astype(dtype), y)
    expected = ["epoch", "objective", "seconds"]
    if solver != "sgd":
        expected = ["iteration", "objective", "gradient_norm", "seconds"]
        assert model.history_["gradient_norm"][-1] == pytest.approx(model.gradient_norm_, rel=0.1, abs=1e-6)
    assert list(model.history_) == expected
    assert {type(column) for column in model.history_.values()} == {np.ndarray}
    assert {column.shape for column in model.history_.values()} == {(model.n_iter_[0],)}
    np.testing.assert_array_equal(model.history_["objective"], model.loss_curve_)
    np.testing.assert_array_equal(model.history_[expected[0]], np.arange(1, model.n_iter_[0] + 1))
    seconds = model.history_["seconds"]
    assert 0 < seconds[0] < 60
    assert (np.diff(seconds) > 0).all()
    assert pickle.loads(pickle.dumps(model)).history_.keys() == model.history_.keys()


def test_the_history_of_no_iterations():
    X, y, validation = halves()
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        model = TorchSoftmaxClassifier(max_iter=0).fit(X, y, **validation)
    assert list(model.history_) == ["iteration", "objective", "gradient_norm", "seconds", *SCORES]
    assert all(len(column) == 0 for column in model.history_.values())


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_history_reads_nothing(solver, monkeypatch):

    def fail(*arguments):
        raise AssertionError("the rows were looked at although nobody asked")

    X, y, validation = halves("digits")
    settings = {"solver": solver, "random_state": 0, "max_iter": 3 if solver == "sgd" else 100}
    model = TorchSoftmaxClassifier(**settings, tol=0 if solver == "sgd" else 1e-4)
    with_validation = clone(model).fit(X, y, **validation)
    monkeypatch.setattr("torchlogreg._monitoring.monitors._means", fail)
    model.fit(X, y)
    np.testing.assert_array_equal(model.coef_, with_validation.coef_)  # which only looks
    # Where the logits of the training rows are at hand, not even validation reads them.
    more = model.n_iter_[0] if solver == "sgd" else 0
    assert with_validation.n_passes_ == pytest.approx(model.n_passes_ + more)


def test_partial_fit_ends_the_history():
    X, y, _ = halves()
    model = TorchSoftmaxClassifier().fit(X, y)
    assert not hasattr(model.partial_fit(X, y), "history_")


def test_a_file_keeps_the_history(tmp_path):
    pytest.importorskip("safetensors")
    X, y, validation = halves()
    model = TorchSoftmaxClassifier().fit(X, y, **validation)
    model.save(tmp_path / "model")
    history = TorchSoftmaxClassifier.load(tmp_path / "model").history_
    assert list(history) == list(model.history_)
    for name, column in history.items():
        np.testing.assert_array_equal(column, model.history_[name])
        assert column.dtype == model.history_[name].dtype


def test_the_history_is_numpys_whatever_the_library_of_X():
    X, y, validation = halves()
    with sklearn.config_context(array_api_dispatch=True):
        model = TorchSoftmaxClassifier().fit(torch.from_numpy(X.copy()), torch.from_numpy(y.copy()), **validation)
    assert isinstance(model.coef_, torch.Tensor)
    assert {type(column) for column in model.history_.values()} == {np.ndarray}


# Validation data


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_accuracies_are_those_of_the_iterates(solver, binary, weighted):
    X, y, validation = halves("digits", binary)
    cls = TorchLogisticRegression if binary else TorchSoftmaxClassifier
    rng = np.random.default_rng(0)
    s, s_val, factor = None, None, dict.fromkeys(np.unique(y), 1.0)
    if weighted:
        s, s_val = rng.uniform(0, 2, len(y)), rng.uniform(0, 2, len(validation["y_val"]))
        factor = {label: 1.0 + label for label in factor}
        validation = {**validation, "sample_weight_val": s_val}
    model = cls(solver=solver, max_iter=6 if solver == "sgd" else 50, random_state=0)
    model.set_params(tol=0 if solver == "sgd" else 1e-2)
    model.set_params(class_weight=factor if weighted else None)
    fitted, models = watched(model, X, y, sample_weight=s, **validation)
    assert list(fitted.history_)[-4:] == SCORES
    assert len(models) == fitted.n_iter_[0]
    for i, then in enumerate(models):
        found = {name: fitted.history_[name][i] for name in SCORES}
        for name, rows, labels, weight in (("train", X, y, s), ("validation", *list(validation.values())[:2], s_val)):
            accuracy = accuracy_score(labels, then.predict(rows), sample_weight=weight)
            by_class = np.array([factor[label] for label in labels])
            both = by_class if weight is None else by_class * weight
            assert found[f"{name}_loss"] == pytest.approx(mean_loss(then, rows, labels, both), rel=1e-9)
            if weighted:
                assert found[f"{name}_accuracy"] == pytest.approx(accuracy, rel=1e-12)
            else:
                assert found[f"{name}_accuracy"] == accuracy
    unpenalised = fitted.objective_ - (fitted.coef_**2).sum() / (2 * sum(both_of(y, s, factor)))
    assert fitted.history_["train_loss"][-1] == pytest.approx(unpenalised, rel=1e-9)


def both_of(y, s, factor):
    """Sample weight times class weight."""
    by_class = np.array([factor[label] for label in y])
    return by_class if s is None else by_class * s


def test_the_last_numbers_are_those_of_scikit_learn():
    X, y, validation = halves("breast_cancer")
    ours = TorchLogisticRegression(tol=1e-10).fit(X, y, **validation)
    theirs = LogisticRegression(tol=1e-10, max_iter=1000).fit(X, y)
    last = {name: column[-1] for name, column in ours.history_.items()}
    for name, rows, labels in (("train", X, y), ("validation", validation["X_val"], validation["y_val"])):
        assert last[f"{name}_loss"] == pytest.approx(log_loss(labels, theirs.predict_proba(rows)), rel=1e-6)
        assert last[f"{name}_accuracy"] == theirs.score(rows, labels)


CONTAINERS = {
    "list": lambda X: X.tolist(),
    "sparse": csr_array,
    "tensor": lambda X: torch.from_numpy(X.copy()),
    "half": lambda X: torch.from_numpy(X.copy()).half(),
    "float32": lambda X: X.astype(np.float32),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("intercept", [False, True])
def test_whatever_predict_takes_is_validated_on(name, intercept):
    X, y, validation = halves()
    model = TorchSoftmaxClassifier(fit_intercept=intercept)
    expected = clone(model).fit(X, y, **validation).history_
    X_val = CONTAINERS[name](validation["X_val"])
    fitted = model.fit(X, y, X_val=X_val, y_val=validation["y_val"])
    assert fitted.history_["validation_accuracy"][-1] == fitted.score(X_val, validation["y_val"])
    rtol = {"half": 1e-2, "float32": 1e-5}.get(name, 1e-10)
    np.testing.assert_allclose(fitted.history_["validation_loss"], expected["validation_loss"], rtol=rtol)


def test_a_large_file_is_validated_on_part_by_part(tmp_path, monkeypatch):
    from torchlogreg._data import tuning

    X, y, validation = halves("digits")
    path = tmp_path / "X_val"
    rows = np.memmap(path, dtype=np.float32, mode="w+", shape=validation["X_val"].shape)
    rows[:] = validation["X_val"]
    expected = TorchSoftmaxClassifier().fit(X, y, X_val=np.array(rows), y_val=validation["y_val"]).history_
    monkeypatch.setattr(tuning, "MIN_STREAMED_NUMBERS", 1000)
    monkeypatch.setattr(tuning, "MAPPED_BLOCK_BYTES", 2**14)
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    with pytest.warns(UserWarning, match="does not have valid feature names") as warned:
        model = TorchSoftmaxClassifier().fit(frame, y, X_val=rows, y_val=validation["y_val"])
    assert len(warned) == 1
    np.testing.assert_allclose(model.history_["validation_loss"], expected["validation_loss"], rtol=1e-5)
    np.testing.assert_array_equal(model.history_["validation_accuracy"], expected["validation_accuracy"])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", [None, {0: 1.0, 1: 3.0, 2: 0.5}])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stream_is_watched_as_an_array_is(weighted, class_weight, solver):
    X, y, validation = halves()
    s = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    settings = {"solver": solver, "class_weight": class_weight, "shuffle": False, "max_iter": 5, "random_state": 0}
    model = TorchSoftmaxClassifier(**settings, learning_rate=0.1, tol=0 if solver == "sgd" else 0.1)
    stream = [(X[i : i + 32], y[i : i + 32], *([] if s is None else [s[i : i + 32]])) for i in range(0, len(y), 32)]
    expected = clone(model).fit(X, y, s, **validation).history_
    found = clone(model).fit(stream, **validation).history_
    for name in SCORES:
        n = min(len(found[name]), len(expected[name]))
        assert n
        np.testing.assert_allclose(found[name][-1], expected[name][-1], rtol=1e-6 if solver == "sgd" else 0.02)
    fitted, models = watched(model, stream, **validation)
    accuracy = [accuracy_score(y, then.predict(X), sample_weight=s) for then in models]
    np.testing.assert_allclose(fitted.history_["train_accuracy"], accuracy, rtol=1e-12)


def test_weights_whose_bits_sum_to_zero_are_weights():
    X, y, _ = halves()
    s = np.where(np.arange(len(y)) % 2, 2.0, 0.0)  # 2.0 is the pattern 2**62
    assert s.view(np.int64).sum(dtype=np.int64) == 0
    stream = [(X[i : i + 32], y[i : i + 32], s[i : i + 32]) for i in range(0, len(y), 32)]
    model = TorchSoftmaxClassifier(C=1e-2, class_weight="balanced").set_callbacks(
        EarlyStopping("train_accuracy", threshold=2.0)
    )
    found = model.fit(stream).history_["train_accuracy"][-1]
    assert found == pytest.approx(accuracy_score(y, model.predict(X), sample_weight=s), rel=1e-12)
    assert found != accuracy_score(y, model.predict(X))


def test_sparse_rows_are_watched_among_all_features():
    rng = np.random.default_rng(0)
    filled = random_array((3000, 1000), density=0.02, format="csr", random_state=rng)
    X = hstack([csr_array((3000, 500)), filled], "csr")  # empty columns are left out of the fit
    y = (filled @ rng.normal(size=1000) + 0.1 * rng.logistic(size=3000) > 0).astype(int)
    model = TorchLogisticRegression(C=1e3, early_stopping=True, n_iter_no_change=2, tol=1e-3)
    fitted, models = watched(model, X[:2000], y[:2000], X_val=X[2000:], y_val=y[2000:])
    assert_noted(fitted, models, "train", X[:2000], y[:2000])
    accuracy = assert_noted(fitted, models, "validation", X[2000:], y[2000:])
    assert fitted.score(X[2000:], y[2000:]) == max(accuracy) > accuracy[-1]


def test_wide_data_are_watched_among_the_features():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 400)), rng.integers(2, size=80)
    model = TorchLogisticRegression(solver="lbfgs", tol=1e-6)
    fitted, models = watched(model, X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert_noted(fitted, models, "train", X[:60], y[:60])
    assert_noted(fitted, models, "validation", X[60:], y[60:])


WRONG = {
    "no labels": ({"y_val": None}, r"Validation data needs both.*: y_val must be given"),
    "no rows": ({"X_val": None}, r"Validation data needs both.*: X_val must be given"),
    "weights alone": ({"X_val": None, "y_val": None, "sample_weight_val": 1.0}, "X_val and y_val must be given"),
    "fewer labels": ({"y_val": [1]}, "X_val has 89 rows and y_val 1 labels: pass one label for each row"),
    "fewer features": ({"X_val": np.ones((89, 3))}, "X has 3 features, but TorchSoftmaxClassifier is expecting 13"),
    "NaN": ({"X_val": np.full((89, 13), np.nan)}, "Input X contains NaN"),
    "an unknown label": (
        {"y_val": np.repeat([1, 7], [88, 1])},
        r"y_val holds labels that are not among.*7",
    ),
    "other labels": ({"y_val": np.repeat(["a"], 89)}, "y_val holds labels that are not among the classes"),
    "continuous labels": ({"y_val": np.linspace(0, 1, 89)}, "Unknown label type"),
    "negative weights": ({"sample_weight_val": np.full(89, -1)}, "Negative values in sample_weight_val"),
    "no weight": ({"sample_weight_val": np.zeros(89)}, "All sample weights are zero"),
    "weights of other rows": ({"sample_weight_val": np.ones(3)}, r"sample_weight_val has shape \(3,\)"),
    "a stream": ({"X_val": iter([])}, "X_val must be a table"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_validation_data_leave_the_model_as_it_was(name):
    X, y, validation = halves()
    model = TorchSoftmaxClassifier().fit(X, y)
    before = dict(vars(model))
    change, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, **{**validation, **change})
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is before[key] for key in before)


def test_features_are_checked_by_name():
    X, y, validation = halves()
    names = [f"x{i}" for i in range(13)]
    frame, other = pd.DataFrame(X, columns=names), pd.DataFrame(validation["X_val"], columns=names[::-1])
    with pytest.raises(ValueError, match="feature names should match"):
        TorchSoftmaxClassifier().fit(frame, y, X_val=other, y_val=validation["y_val"])
    model = TorchSoftmaxClassifier().fit(X, y)  # without names, whatever a model had before
    model.fit(frame, y, X_val=other[names], y_val=validation["y_val"])


def test_rows_of_a_class_without_weight_are_in_no_loss():
    X, y, validation = halves()
    model = TorchSoftmaxClassifier(class_weight={0: 1.0, 1: 1.0, 2: 0.0})
    keep = validation["y_val"] < 2
    fitted = model.fit(X, y, **validation)
    loss = mean_loss(fitted, validation["X_val"][keep], validation["y_val"][keep])
    assert fitted.history_["validation_loss"][-1] == pytest.approx(loss, rel=1e-9)
    with pytest.raises(ValueError, match="class_weight leaves no row of X_val"):
        model.fit(X, y, X_val=validation["X_val"][~keep], y_val=validation["y_val"][~keep])


def test_a_pipeline_transforms_the_validation_data():
    X, y = table("wine", False)
    validation = {"X_val": X[1::2], "y_val": y[1::2], "sample_weight_val": np.linspace(1, 2, len(y[1::2]))}
    with sklearn.config_context(enable_metadata_routing=True):
        model = TorchSoftmaxClassifier().set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        steps = [("scale", StandardScaler()), ("model", model)]
        pipeline = Pipeline(steps, transform_input=["X_val"]).fit(X[::2], y[::2], **validation)
    history = pipeline[-1].history_
    weight = validation["sample_weight_val"]
    assert history["validation_accuracy"][-1] == pytest.approx(pipeline.score(X[1::2], y[1::2], sample_weight=weight))
    loss = mean_loss(pipeline, X[1::2], y[1::2], weight)
    assert history["validation_loss"][-1] == pytest.approx(loss, rel=1e-9)


def test_a_search_passes_validation_data_on():
    X, y, validation = halves()
    search = TorchGridSearchCV(TorchSoftmaxClassifier(), {"C": [0.1, 1.0]}, cv=3).fit(X, y, **validation)
    best = search.best_estimator_
    assert best.history_["validation_accuracy"][-1] == best.score(validation["X_val"], validation["y_val"])


# Early stopping


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rate", ["auto", 0.05])
def test_early_stopping_restores_the_best_iterate(solver, rate):
    X, y, validation = halves("digits")
    model = TorchSoftmaxClassifier(solver=solver, learning_rate=rate, C=1e4, early_stopping=True, random_state=0)
    model.set_params(n_iter_no_change=3, tol=1e-3, max_iter=200)
    fitted, models = watched(model, X, y, **validation)
    accuracy, loss = (fitted.history_[f"validation_{what}"] for what in ("accuracy", "loss"))
    best = min(range(fitted.n_iter_[0]), key=lambda i: (-accuracy[i], loss[i]))
    assert best < fitted.n_iter_[0] - 1 or (solver, rate) == ("sgd", "auto")  # so there is something to restore
    np.testing.assert_array_equal(fitted.coef_, models[best].coef_)
    np.testing.assert_array_equal(fitted.intercept_, models[best].intercept_)
    assert fitted.score(*validation.values()) == accuracy.max()
    assert fitted.objective_ == pytest.approx(
        fitted.history_["train_loss"][best] + (fitted.coef_**2).sum() / (2 * fitted.C * len(y)), rel=1e-9
    )
    stale, highest = [], -np.inf
    for now in accuracy:
        stale.append(now < highest + 1e-3)
        highest = max(highest, now)
    runs = [all(stale[i - 3 : i]) for i in range(3, len(stale) + 1)]
    assert runs == [False] * (len(runs) - 1) + [True]  # the first three in a row that brought nothing
    assert fitted.converged_ == (solver == "sgd" or fitted.gradient_norm_ <= 1e-3)


def test_early_stopping_of_sgd_holds_out_rows_and_restores_the_best():
    X, y = table("digits", True)
    model = TorchSoftmaxClassifier(solver="sgd", learning_rate=0.1, early_stopping=True, tol=1e-3, random_state=0)
    fitted, models = watched(model, X, y)
    train, held_out = next(StratifiedShuffleSplit(1, test_size=0.1, random_state=0).split(X, y))
    for name, rows in (("train", train), ("validation", held_out)):
        scores = [then.score(X[rows], y[rows]) for then in models]
        np.testing.assert_array_equal(fitted.history_[f"{name}_accuracy"], scores)
        losses = [mean_loss(then, X[rows], y[rows]) for then in models]
        np.testing.assert_allclose(fitted.history_[f"{name}_loss"], losses, rtol=1e-9)
    assert fitted.score(X[held_out], y[held_out]) == fitted.history_["validation_accuracy"].max()


def test_given_rows_are_used_in_place_of_held_out_ones():
    X, y, validation = halves("digits")
    model = TorchSoftmaxClassifier(**{**SGD, "early_stopping": True, "max_iter": 5}).fit(X, y, **validation)
    # All rows are trained on: the mean of the training objective is over all of them.
    loss = mean_loss(model, X, y) + (model.coef_**2).sum() / (2 * len(y))
    assert model.objective_ == pytest.approx(loss, rel=1e-9)


def test_a_stream_may_stop_early_by_given_rows():
    X, y, validation = halves("digits")
    stream = [(X[i : i + 64], y[i : i + 64]) for i in range(0, len(y), 64)]
    model = TorchSoftmaxClassifier(solver="sgd", learning_rate=0.1, early_stopping=True, tol=1e-2)
    model.fit(stream, **validation)
    assert model.n_iter_[0] < 100
    assert model.score(*validation.values()) == model.history_["validation_accuracy"].max()


def test_without_rows_to_validate_on_the_other_solvers_use_all_rows():
    X, y, _ = halves()
    model = TorchSoftmaxClassifier(solver="lbfgs")
    np.testing.assert_array_equal(clone(model).set_params(early_stopping=True).fit(X, y).coef_, model.fit(X, y).coef_)


def test_separable_classes_without_a_penalty_may_stop_early_in_silence():
    X, y = table("iris", True)
    keep = y < 2
    model = TorchLogisticRegression(solver="lbfgs", C=np.inf, early_stopping=True, n_iter_no_change=2)
    model.fit(X[keep], y[keep], X_val=X[keep], y_val=y[keep])
    assert model.score(X[keep], y[keep]) == 1.0
    assert not model.converged_


# Lines

LINE = re.compile(
    r"(?P<solver>\S+) +(?P<n>\d+)/(?P<max>\d+)  objective (?P<objective>\S+) +"
    r"(max\|gradient\| (?P<gradient_norm>\S+)  )?passes (?P<passes>\S+) +"
    r"(validation accuracy (?P<accuracy>\S+)  )?(?P<seconds>\S+) s"
)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("validated", [False, True])
def test_verbose_prints_one_line_an_iteration(solver, validated, capsys):
    X, y, validation = halves("digits")
    model = TorchSoftmaxClassifier(solver=solver, verbose=1, random_state=0, max_iter=100 if solver != "sgd" else 11)
    model.set_params(tol=1e-4 if solver != "sgd" else 0).fit(X, y, **(validation if validated else {}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_[0]
    found = [LINE.fullmatch(line).groupdict() for line in lines]
    for i, row in enumerate(found):
        assert (row["solver"], int(row["n"]), int(row["max"])) == (solver, i + 1, model.max_iter)
        assert float(row["objective"]) == pytest.approx(model.history_["objective"][i], rel=1e-7)
        assert float(row["seconds"]) == pytest.approx(model.history_["seconds"][i], abs=0.006)
        if solver != "sgd":
            assert float(row["gradient_norm"]) == pytest.approx(model.history_["gradient_norm"][i], rel=0.06)
        if validated:
            accuracy = model.history_["validation_accuracy"][i]
            assert float(row["accuracy"]) == pytest.approx(accuracy, abs=5.1e-5)
    passes = [float(row["passes"]) for row in found]
    assert passes == sorted(passes)
    assert model.n_passes_ - 2.06 <= passes[-1] <= model.n_passes_ + 0.06  # the result is looked at once more
    assert {line.index("objective") for line in lines} == {lines[0].index("objective")}
    assert {line.index("passes") for line in lines} == {lines[0].index("passes")}


def test_a_callback_that_needs_an_accuracy_adds_it_to_the_history():
    X, y, _ = halves()
    model = TorchSoftmaxClassifier().set_callbacks(EarlyStopping("train_accuracy", threshold=2.0)).fit(X, y)
    assert list(model.history_) == ["iteration", "objective", "gradient_norm", "seconds", *SCORES[:2]]
    assert model.history_["train_accuracy"][-1] == model.score(X, y)


def test_inside_a_pipeline_without_routing_rows_are_given_transformed():
    X, y, validation = halves()
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier())
    pipeline.fit(X, y, **{f"torchsoftmaxclassifier__{name}": value for name, value in validation.items()})
    assert pipeline[-1].history_["validation_accuracy"][-1] == pipeline[-1].score(*validation.values())
