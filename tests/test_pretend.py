"""Everything on pretend accelerators, each answer compared with the CPU's: what `pretend` makes of torch raises where a
transfer is missing.
"""

import copy
import inspect
import io
import os
import pickle
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pretend
import pytest
import torch
from helpers import DETERMINISTIC, Interrupt, as_file
from scipy import sparse
from sklearn import clone, config_context
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    ScorePathDisplay,
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
    to_torch,
)
from torchlogreg._data import device, training_data, tuning
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.device_cost import Work
from torchlogreg._data.streamed import StreamedDesign
from torchlogreg._estimators import fitting
from torchlogreg._model_selection import fit_and_score, scoring
from torchlogreg._monitoring.monitors import Validation
from torchlogreg._solvers.sgd import class_major
from torchlogreg.callbacks import Checkpoint, EarlyStopping, LiveBoundary

PRETEND = os.environ.get("TORCHLOGREG_PRETEND", "")
EVERYWHERE = PRETEND == "everywhere"
pytestmark = [
    pytest.mark.skipif(not EVERYWHERE and PRETEND != "", reason="all tests run on a pretend device"),
    pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not()),
    pytest.mark.usefixtures("one_thread", "no_windows"),
]

BINARY, SOFTMAX = TorchLogisticRegression, TorchSoftmaxClassifier
CV = {BINARY: TorchLogisticRegressionCV, SOFTMAX: TorchSoftmaxClassifierCV}
EPOCHS = {"solver": "sgd", "tol": 0, "max_iter": 3, "random_state": 0}
SOLVERS = DETERMINISTIC


@cache
def table(n, p, n_classes, separation=1.0):
    X, y = make_classification(
        n, p, n_informative=max(4, p // 2), n_redundant=0, n_classes=n_classes, n_clusters_per_class=1,
        class_sep=separation, flip_y=0.1, random_state=0,
    )  # fmt: skip
    X.flags.writeable = y.flags.writeable = False
    return X, y


def small(cls):
    return table(300, 6, 2) if cls is BINARY else table(400, 7, 3)


def large(cls):
    """So many rows that solvers look at samples of them."""
    return table(9000, 8, 2, 0.5) if cls is BINARY else table(9000, 10, 4, 0.5)


def wide(cls):
    return table(60, 200, 2 if cls is BINARY else 3)


X3, Y3 = small(SOFTMAX)
X2, Y2 = small(BINARY)
WEIGHT = np.random.default_rng(0).random(len(Y3)) * (np.arange(len(Y3)) % 7 > 0)


class Place(NamedTuple):
    """Where the data of a case is, and as what it is passed."""

    device: str
    as_tensors: bool  # tensors on the device; otherwise arrays of the host, and device=
    single: bool  # no float64

    def X(self, array, dtype="float64"):
        dtype = "float32" if self.single and dtype == "float64" else dtype
        tensor = torch.tensor(np.ascontiguousarray(array), dtype=getattr(torch, dtype), device="cpu")
        if self.as_tensors:
            return tensor.to(self.device)
        return tensor.numpy() if dtype in ("float32", "float64") else tensor

    def y(self, array):
        return torch.tensor(array, device="cpu").to(self.device) if self.as_tensors else array

    def index(self, array):
        return self.y(array)

    @property
    def options(self):
        return {} if self.as_tensors else {"device": self.device}

    def model(self, cls, dtype="float64", **options):
        """As precise as the dtype allows."""
        tol = 1e-9 if dtype == "float64" and not self.single else 1e-4
        return cls(**{"tol": tol, **options, **self.options})

    def fitted(self, cls, data=None, dtype="float64", **options):
        X, y = data or small(cls)
        model = self.model(cls, dtype, **options).fit(self.X(X, dtype), self.y(y))
        assert model.device_.startswith(self.device)
        return model


def numpy(value):
    return value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)


def answers(model, X):
    values = [model.coef_, model.intercept_, model.predict_proba(X), model.predict_log_proba(X)]
    return [*map(numpy, [*values, model.decision_function(X)]), model.converged_]


CASES: dict[str, Callable] = {}


def case(*parameters):
    """Name a function a case, or one case for each tuple of parameters after the place."""

    def register(function):
        for values in parameters or [()]:
            values = values if isinstance(values, tuple) else (values,)
            words = [getattr(value, "__name__", str(value)) for value in values]
            name = " ".join([function.__name__, *words])
            CASES[name] = lambda at, values=values: function(at, *values)
        return function

    return register


def each(*groups):
    """All combinations."""
    out = [()]
    for group in groups:
        out = [(*head, value) for head in out for value in group]
    return out


# --- Fits.


@case(
    *each(SOLVERS, ("float64", "float32", "float16"), (BINARY, SOFTMAX)),
    *(("lbfgs", "bfloat16", SOFTMAX), ("auto", "float64", BINARY), ("auto", "float64", SOFTMAX)),
)
def fit(at, solver, dtype, cls):
    return answers(at.fitted(cls, dtype=dtype, solver=solver), at.X(small(cls)[0], dtype))


@case(*each(("float64", "float16"), (BINARY, SOFTMAX), ("auto", 0.05)))
def sgd(at, dtype, cls, rate):
    options = {**EPOCHS, "learning_rate": rate, "nesterov": rate != "auto"}
    return answers(at.fitted(cls, dtype=dtype, **options), at.X(small(cls)[0], dtype))


@case(*each(("lbfgs", "newton-cholesky"), (BINARY, SOFTMAX)))
def large_table(at, solver, cls):
    return answers(at.fitted(cls, large(cls), solver=solver), at.X(large(cls)[0][:9]))


@case(*each(SOLVERS, (BINARY, SOFTMAX)))
def wide_table(at, solver, cls):
    return answers(at.fitted(cls, wide(cls), solver=solver, C=0.01), at.X(wide(cls)[0]))


@case(SOFTMAX)
def wide_table_from_a_start(at, cls):
    model = at.fitted(cls, wide(cls), C=0.01, warm_start=True, fit_intercept=False).set_params(C=0.02)
    return answers(model.fit(at.X(wide(cls)[0]), at.y(wide(cls)[1])), at.X(wide(cls)[0]))


@case(*each((*SOLVERS, "sgd"), (None, "balanced", {0: 2.0, 1: 1.0, 2: 0.5}), ("device", "host")))
def weights(at, solver, class_weight, where):
    options = EPOCHS if solver == "sgd" else {"solver": solver}
    weight = at.X(WEIGHT) if where == "device" else WEIGHT
    X, y = at.X(X3), at.y(Y3)
    model = at.model(SOFTMAX, class_weight=class_weight, **options).fit(X, y, sample_weight=weight)
    return [*answers(model, X), model.score(X, y, sample_weight=weight)]


@case(BINARY, SOFTMAX)
def no_penalty(at, cls):
    data = table(800, 5, 2 if cls is BINARY else 3, 0.3)
    return [answers(at.fitted(cls, data, C=np.inf, solver=s), at.X(data[0]))[2:] for s in SOLVERS]


@case(*each(("lbfgs", "newton-cholesky"), (BINARY, SOFTMAX)))
def weak_penalty(at, solver, cls):
    """Softmax has a flat direction, along which nothing may drift."""
    return answers(at.fitted(cls, table(800, 5, 2 if cls is BINARY else 3, 0.3), C=1e4, solver=solver), at.X(X3[:, :5]))


@case(*SOLVERS)
def separable(at, solver):
    X = np.random.default_rng(0).standard_normal((300, 3))
    y = (X[:, 0] > 0).astype(int)
    X[:, 0] += np.sign(X[:, 0])
    with pytest.warns(ConvergenceWarning):
        model = at.fitted(BINARY, (X, y), C=np.inf, solver=solver)
    return [model.converged_, model.predict(at.X(X))]


@case(*SOLVERS, "sgd")
def from_a_start(at, solver):
    options = EPOCHS if solver == "sgd" else {"solver": solver}
    model = at.fitted(SOFTMAX, warm_start=True, **options).set_params(C=2.0)
    X, y = at.X(X3), at.y(Y3)
    given = at.model(SOFTMAX, **options).fit(
        X, y, coef_init=at.X(np.full((3, 7), 0.1)), intercept_init=at.X(np.ones(3))
    )
    return [*answers(model.fit(X, y), X), *answers(given, X)]


@case("rare")
def rare_columns(at, _):
    X, y = large(SOFTMAX)
    X = np.hstack([X, np.zeros((9000, 2))])
    X[:5, -1], X[5:12, -2] = 1, 3
    return answers(at.fitted(SOFTMAX, (X, y), solver="lbfgs"), at.X(X[20:40]))[2:]


@case(BINARY, SOFTMAX)
def mostly_zero(at, cls):
    X, y = table(1500, 12, 2 if cls is BINARY else 3)
    X = np.hstack([X, np.zeros((1500, 400))])
    X[:, 12:][np.random.default_rng(0).random((1500, 400)) < 0.02] = 1.0
    return answers(at.fitted(cls, (X, y), solver="lbfgs"), at.X(X[:20]))


@case("int64", "int8", "bool", "uint8")
def whole_numbers(at, dtype):
    X = at.X(np.abs(np.round(X3).clip(-3, 3)), dtype)
    model = at.model(SOFTMAX, dtype="float32").fit(X, at.y(Y3))
    search = CV[SOFTMAX](Cs=2, cv=2, **at.options).fit(X, at.y(Y3))
    return [*answers(model, X), search.scores_, *answers(SOFTMAX(**EPOCHS, **at.options).fit(X, at.y(Y3)), X)]


@case("transposed", "every other", "autograd", "inference", "autocast")
def unusual_tensors(at, what):
    X = at.X(X3)
    if isinstance(X, np.ndarray):
        return []
    if what == "transposed":
        X = at.X(X3.T).T
    if what == "every other":
        X = at.X(np.repeat(X3, 2, axis=1))[:, ::2]
    if what == "autograd":
        X = X.requires_grad_()
    context = torch.inference_mode() if what == "inference" else nullcontext()
    context = torch.autocast(at.device, dtype=torch.bfloat16) if what == "autocast" else context
    with context:
        return answers(at.model(SOFTMAX, solver="lbfgs").fit(X, at.y(Y3)), X)


@case("strings", "float", "bool", "int8", "column")
def labels(at, kind):
    X, y = (X2, Y2) if kind == "bool" else (X3, Y3)
    if kind == "strings":
        given = np.array(list("abc"))[y]
    else:
        given = y[:, None] if kind == "column" else y.astype(kind)
        given = at.y(given)
    with pytest.warns(match="column") if kind == "column" else nullcontext():
        model = at.model(SOFTMAX).fit(at.X(X), given)
    return [*answers(model, at.X(X)), model.classes_ == np.unique(numpy(given))]


@case("nan", "inf", "one class", "too large")
def errors(at, what):
    X, y = X3.copy(), Y3
    X[3, 2] = {"nan": np.nan, "inf": np.inf}.get(what, 1.0)
    X, y = X * (1e160 if what == "too large" else 1), y * 0 if what == "one class" else y
    if what == "too large" and at.single:
        return []
    with pytest.raises(ValueError, match=r"\w") as error:
        at.model(SOFTMAX, solver="lbfgs").fit(at.X(X), at.y(y))
    return [str(error.value).split(".")[0]]


# --- Validation, callbacks, checkpoints.


@case(*each((BINARY, SOFTMAX), ("held out", "device", "host tensors", "numpy")))
def early_stopping(at, cls, what):
    X, y = small(cls)
    given = {"device": (at.X(X[:50]), at.y(y[:50])), "numpy": (X[:50], y[:50])}
    given["host tensors"] = torch.tensor(X[:50], device="cpu"), torch.tensor(y[:50], device="cpu")
    extra = dict(zip(("X_val", "y_val"), given[what], strict=True)) if what in given else {}
    if what == "device":
        extra["sample_weight_val"] = at.X(np.ones(50))
    model = at.model(cls, **{**EPOCHS, "early_stopping": True, "n_iter_no_change": 2}, learning_rate=0.05)
    model.fit(at.X(X), at.y(y), **extra)
    history = model.history_
    return [*answers(model, at.X(X)), *(history[k] for k in ("train_loss", "validation_loss", "validation_accuracy"))]


@case(*each(SOLVERS, (None, "balanced")))
def validation(at, solver, class_weight):
    X, y, weight = at.X(X3), at.y(Y3), at.X(WEIGHT)
    model = at.model(SOFTMAX, solver=solver, class_weight=class_weight, early_stopping=True)
    given = {"X_val": at.X(X3[:50]), "y_val": at.y(Y3[:50]), "sample_weight_val": at.X(WEIGHT[:50])}
    model.fit(X, y, sample_weight=weight, **given)
    return [model.history_[name][-1] for name in ("train_loss", "validation_loss", "validation_accuracy")]


@case("wide", "sparse", "stream")
def validation_of_other_rows(at, what):
    X, y = wide(SOFTMAX) if what == "wide" else (X3, Y3)
    rows = (stream_of(at, X, y),) if what == "stream" else (at.X(X), at.y(y))
    X_val = sparse.csr_array(X[:50]) if what == "sparse" else at.X(X[:50])
    y_val = y[:50] if what == "sparse" else at.y(y[:50])
    model = at.model(SOFTMAX, C=0.01).fit(*rows, X_val=X_val, y_val=y_val)
    return [*answers(model, at.X(X)), model.history_["validation_loss"][-1]]


@case(*each(("lbfgs", "sgd"), ("objective", "train_loss", "train_accuracy")), ("lbfgs", "gradient_norm"))
def monitored(at, solver, monitor):
    model = at.model(SOFTMAX, **{**EPOCHS, "solver": solver, "max_iter": 5, "tol": 1e-3})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them stop it before it has converged
        model.set_callbacks(EarlyStopping(monitor, patience=2)).fit(at.X(X3), at.y(Y3))
    return [*answers(model, at.X(X3)), model.history_["objective"]]


@case(*each((*SOLVERS, "sgd"), ("table", "wide", "stream")))
def checkpoints(at, solver, what):
    X, y = wide(SOFTMAX) if what == "wide" else (X3, Y3)
    options = {"C": 0.1, "random_state": 0, **({**EPOCHS, "max_iter": 4} if solver == "sgd" else {"solver": solver})}

    def rows():
        return (stream_of(at, X, y),) if what == "stream" else (at.X(X), at.y(y))

    with tempfile.TemporaryDirectory() as folder:
        model = at.model(SOFTMAX, **options)
        with suppress(KeyboardInterrupt):
            model.set_callbacks(Checkpoint(Path(folder, "c"), every=1), Interrupt("iteration", 2)).fit(*rows())
        model = at.model(SOFTMAX, **options).set_callbacks(Checkpoint(Path(folder, "c"), every=1)).fit(*rows())
    whole = at.model(SOFTMAX, **options).fit(*rows())
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    return answers(model, at.X(X))


@case("verbose")
def verbose(at, _):
    with redirect_stdout(io.StringIO()):
        at.fitted(SOFTMAX, verbose=1)
        CV[SOFTMAX](Cs=2, cv=2, verbose=1, **at.options).fit(at.X(X3), at.y(Y3))
        SOFTMAX(verbose=1, random_state=0, **at.options).partial_fit(at.X(X3), at.y(Y3), classes=[0, 1, 2])
    return []


# --- Cross-validation and searches.


@case(
    *each((BINARY, SOFTMAX), SOLVERS, ("float64",), ("neg_log_loss", "accuracy", "roc_auc_ovr")),
    *each((SOFTMAX,), ("lbfgs", "newton-cholesky"), ("float32", "float16"), ("neg_log_loss", None)),
)
def cross_validation(at, cls, solver, dtype, scoring):
    X, y = at.X(small(cls)[0], dtype), at.y(small(cls)[1])
    model = at.model(CV[cls], dtype, Cs=[0.01, 1.0, 100.0], cv=3, solver=solver, scoring=scoring).fit(X, y)
    return [*answers(model, X), model.scores_, model.C_, model.score(X, y)]


@case(*each((BINARY, SOFTMAX), ("lbfgs", "newton-cholesky"), ("mean", "weights", "no intercept", "wide", "large")))
def cross_validation_of(at, cls, solver, what):
    X, y = {"wide": wide, "large": large}.get(what, small)(cls)
    options = {"refit": what != "mean", "fit_intercept": what != "no intercept"}
    weight = at.X(np.random.default_rng(1).random(len(y))) if what == "weights" else None
    model = at.model(CV[cls], Cs=[0.001, 0.01], cv=3, solver=solver, scoring="neg_log_loss", **options)
    model.set_params(class_weight="balanced" if what == "weights" else None)
    model.fit(at.X(X), at.y(y), sample_weight=weight)
    return [*answers(model, at.X(X)), model.scores_, model.coefs_paths_]


@case("Cs", "splits", "groups", "weighted scorer", "weighted")
def cross_validation_with(at, what):
    X, y, weight, extra, context = at.X(X3), at.y(Y3), at.X(WEIGHT), {}, nullcontext()
    model = at.model(CV[SOFTMAX], Cs=[0.1, 1.0], cv=2, scoring="neg_log_loss")
    if what == "Cs":
        model.Cs = at.X([0.1, 1.0])
    if what == "splits":
        even, odd = at.index(np.arange(0, len(Y3), 2)), at.index(np.arange(1, len(Y3), 2))
        model.cv = [(even, odd), (odd, even)]
    if what == "groups":
        context, model.cv, extra = config_context(enable_metadata_routing=True), GroupKFold(2), {"groups": y}
        extra["groups"] = at.y(np.arange(len(Y3)) % 5)
    if what == "weighted scorer":
        context, extra = config_context(enable_metadata_routing=True), {"sample_weight": weight}
        with context:
            scorer = get_scorer("roc_auc_ovr").set_score_request(sample_weight=True)
            model.set_fit_request(sample_weight=True).set_params(scoring=scorer)
        context = config_context(enable_metadata_routing=True)
    if what == "weighted":
        extra = {"sample_weight": weight}
    with context:
        model.fit(X, y, **extra)
    return [*answers(model, X), model.scores_]


@case("follow")
def folds_that_follow_a_path(at, _):
    """Nearly separable, with many classes."""
    rng = np.random.default_rng(0)
    y = np.arange(900) % 6
    X = 2 * np.eye(6)[y] @ rng.standard_normal((6, 30)) + rng.standard_normal((900, 30))
    model = CV[SOFTMAX](Cs=[0.01, 1.0, 100.0], cv=3, solver="lbfgs", tol=1e-6, **at.options).fit(at.X(X), at.y(y))
    return [model.scores_, model.C_]


def score(estimator, X, y):
    return estimator.score(X, y)


@case(
    *each((BINARY, SOFTMAX), SOLVERS, ("neg_log_loss", None)),
    (SOFTMAX, "lbfgs", "roc_auc_ovr"),
    (SOFTMAX, "lbfgs", score),
)
def grid(at, cls, solver, scoring):
    X, y = at.X(small(cls)[0]), at.y(small(cls)[1])
    values = {"C": [0.01, 1.0], "class_weight": [None, "balanced"], "fit_intercept": [True, False]}
    options = {"cv": 3, "scoring": scoring, "return_train_score": True}
    search = TorchGridSearchCV(at.model(cls, solver=solver), values, **options).fit(X, y)
    scores = [search.cv_results_[name] for name in ("mean_test_score", "mean_train_score")]
    return [*scores, *answers(search.best_estimator_, X)]


@case(*each(("weights", "routed", "routed scorer", "splits"), ("device", "host")))
def grid_with(at, what, where):
    X, y, weight = at.X(X3), at.y(Y3), at.X(WEIGHT)
    y = Y3 if where == "host" else y
    options = {"cv": 2, "scoring": "neg_log_loss"}
    if what == "splits":
        even, odd = at.index(np.arange(0, len(Y3), 2)), at.index(np.arange(1, len(Y3), 2))
        options["cv"] = [(even, odd), (odd, even)]
    with config_context(enable_metadata_routing=what.startswith("routed")):
        model = at.model(SOFTMAX)
        if what.startswith("routed"):
            model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            options.pop("scoring")
        if what == "routed scorer":
            options["scoring"] = get_scorer("roc_auc_ovr").set_score_request(sample_weight=True)
        search = TorchGridSearchCV(model, {"C": [0.1, 1.0]}, **options)
        search.fit(X, y, **({} if what == "splits" else {"sample_weight": weight}))
    return [search.cv_results_["mean_test_score"], *answers(search.best_estimator_, X)]


@case(*each(("sgd", "scikit-learn"), ("device", "host")))
def grid_one_by_one(at, what, where):
    X, y = at.X(X3), at.y(Y3) if where == "device" else Y3
    if what == "sgd":
        search = TorchGridSearchCV(SOFTMAX(**EPOCHS, **at.options), {"C": [0.1, 1.0]}, cv=2).fit(X, y)
    elif where == "device" and at.as_tensors:
        return []  # scikit-learn's own search takes no labels of a device
    else:
        search = GridSearchCV(at.model(SOFTMAX), {"C": [0.1, 1.0]}, cv=2).fit(X, y)
    return [search.cv_results_["mean_test_score"], *answers(search.best_estimator_, X)]


@case("pipeline")
def grid_of_a_pipeline(at, _):
    model = make_pipeline(StandardScaler(), at.model(SOFTMAX).set_params(device=at.device))
    X = at.X(X3) if not at.as_tensors else X3.astype(np.float32 if at.single else float)
    search = TorchGridSearchCV(model, {"torchsoftmaxclassifier__C": [0.1, 1.0]}, cv=3, scoring="neg_log_loss")
    return [search.fit(X, Y3).cv_results_["mean_test_score"], cross_val_score(model, X, Y3, cv=2)]


# --- Streams, files, blocks.


def stream_of(at, X, y, dtype="float64", weight=None, size=100):
    parts = [slice(start, start + size) for start in range(0, len(y), size)]
    extra = [() if weight is None else (at.X(weight[part]),) for part in parts]
    return [(at.X(X[part], dtype), at.y(y[part]), *more) for part, more in zip(parts, extra, strict=True)]


@case(*each((*SOLVERS, "sgd"), (BINARY, SOFTMAX), ("float64", "float16"), ("weighted", "plain")))
def stream(at, solver, cls, dtype, weighted):
    X, y = small(cls)
    weight = WEIGHT[: len(y)] if weighted == "weighted" else None
    options = EPOCHS if solver == "sgd" else {"solver": solver}
    model = at.model(cls, dtype, class_weight="balanced" if weighted == "weighted" else None, **options)
    return answers(model.fit(stream_of(at, X, y, dtype, weight)), at.X(X, dtype))


@case(BINARY, SOFTMAX)
def long_stream(at, cls):
    X, y = large(cls)
    return answers(at.model(cls, solver="lbfgs").fit(stream_of(at, X, y, size=2000)), at.X(X[:9]))


@case("arrays", "loader", "strings", "one label a block", "sgd")
def stream_from(at, what):
    X = X3.astype(np.float32 if at.single else float)
    blocks = [(X[start : start + 100], Y3[start : start + 100]) for start in range(0, 400, 100)]
    if what == "loader":
        data = torch.utils.data.TensorDataset(torch.tensor(X, device="cpu"), torch.tensor(Y3, device="cpu"))
        blocks = torch.utils.data.DataLoader(data, batch_size=64)
    if what == "strings":
        blocks = [(at.X(X), np.array(list("abc"))[y]) for X, y in blocks]
    if what == "one label a block":
        order = np.argsort(Y3, kind="stable")
        blocks = stream_of(at, X3[order], Y3[order], size=40)
    model = at.model(SOFTMAX, **(EPOCHS if what == "sgd" else {})).set_params(device=at.device)
    return answers(model.fit(blocks), at.X(X3))


@contextmanager
def tuned(**values):
    before = {name: getattr(tuning, name) for name in values}
    try:
        for name, value in values.items():
            setattr(tuning, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(tuning, name, value)


@case("float64", "float32")
def file(at, dtype):
    dtype, (X, y) = "float32" if at.single else dtype, large(SOFTMAX)
    with tempfile.TemporaryDirectory() as folder, tuned(MIN_STREAMED_NUMBERS=1000, MAPPED_BLOCK_BYTES=2**17):
        rows = as_file(X.astype(dtype), Path(folder, "x"))
        model = at.model(SOFTMAX, dtype, solver="lbfgs").set_params(device=at.device)
        return answers(model.fit(rows, y), rows)


@case("tensors")
def prediction_in_parts(at, _):
    with tuned(MIN_STREAMED_NUMBERS=1000, MAPPED_BLOCK_BYTES=2**12):
        model = at.fitted(SOFTMAX, solver="lbfgs")
        validated = at.model(SOFTMAX).fit(at.X(X3), at.y(Y3), X_val=at.X(X3), y_val=at.y(Y3))
        return [*answers(model, at.X(X3)), *answers(model, X3), validated.history_["validation_loss"][-1]]


@case(*each((BINARY, SOFTMAX), ("float64", "float16"), ("auto", 0.05), ("weighted", "plain")))
def blocks(at, cls, dtype, rate, weighted):
    X, y = small(cls)
    model = cls(learning_rate=rate, random_state=0, **at.options)
    for X_block, y_block, weight in 2 * stream_of(at, X, y, dtype, WEIGHT[: len(y)] + 0.1):
        extra = {"sample_weight": weight} if weighted == "weighted" else {}
        model.partial_fit(X_block, y_block, classes=at.y(np.unique(y)), **extra)
    return answers(model, at.X(X, dtype))


@case("fit first", "fit last")
def blocks_and_fit(at, what):
    X, y = at.X(X3), at.y(Y3)
    model = at.model(SOFTMAX, random_state=0, warm_start=True)
    if what == "fit first":
        model.fit(X, y).partial_fit(X[:100], y[:100])
    else:
        model.partial_fit(X[:100], y[:100], classes=[0, 1, 2]).fit(X, y)
    return answers(model, X)


@case("sparse")
def sparse_rows(at, _):
    X, y = table(2000, 12, 3)
    X = sparse.hstack([sparse.csr_array(X), sparse.random_array((2000, 1000), density=0.005, rng=0)]).tocsr()
    X = X.astype(np.float32) if at.single else X
    model = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-4 if at.single else 1e-7).fit(X, y)
    return answers(model.set_params(device=at.device), X)  # a sparse X is read on the host


# --- scikit-learn's array API dispatch.


def on(at):
    return config_context(array_api_dispatch=True)


@case(*each((*SOLVERS, "sgd"), (BINARY, SOFTMAX), ("device", "host")))
def dispatch(at, solver, cls, where):
    X, y = at.X(small(cls)[0]), at.y(small(cls)[1]) if where == "device" else small(cls)[1]
    with on(at):
        model = at.model(cls, **(EPOCHS if solver == "sgd" else {"solver": solver})).fit(X, y)
        kept = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
        out = [*answers(model, X), *(numpy(other.predict_proba(X)) for other in kept), numpy(model.predict(X))]
        out += [model.score(X, y), numpy(model.to_sklearn().coef_), numpy(model.to_torch().linear.weight)]
        clone(model)
        if at.as_tensors:
            assert model.coef_.device == X.device == model.predict_proba(X).device
    return out


@case(*each(("numbers", "strings"), ("search", "grid", "pipeline", "opaque", "roc", "sgd")))
def dispatch_in(at, kind, what):
    X = at.X(X3)
    y = np.array(list("abc"))[Y3] if kind == "strings" else at.y(Y3)
    options = {"cv": 2, "scoring": {"roc": "roc_auc_ovr", "opaque": score}.get(what)}
    with on(at):
        if what == "search":
            model = at.model(CV[SOFTMAX], Cs=[0.1, 1.0], cv=3, scoring="neg_log_loss").fit(X, y)
            return [*answers(model, X), numpy(model.scores_), model.score(X, y), numpy(model.predict(X))]
        if what == "pipeline":
            model = make_pipeline(StandardScaler(), at.model(SOFTMAX)).fit(X, y)
            return [numpy(model.predict_proba(X))]
        model = SOFTMAX(**EPOCHS, **at.options) if what == "sgd" else at.model(SOFTMAX)
        search = TorchGridSearchCV(model, {"C": [0.1, 1.0]}, **options).fit(X, y)
        return [search.cv_results_["mean_test_score"]]


@case("blocks", "start", "stream", "checkpoint", "live", "validation")
def dispatch_with(at, what):
    X, y = at.X(X3), at.y(Y3)
    with on(at), tempfile.TemporaryDirectory() as folder:
        model = at.model(SOFTMAX, solver="lbfgs", warm_start=what == "start", random_state=0)
        if what == "blocks":
            for X_block, y_block in stream_of(at, X3, Y3):
                model.partial_fit(X_block, y_block, classes=at.y(np.unique(Y3)))
        elif what == "live":
            X = at.X(X2[:, :2])
            model.set_callbacks(LiveBoundary(path=Path(folder, "x.gif"), every=2)).fit(X, at.y(Y2))
        elif what == "stream":
            model.fit(stream_of(at, X3, Y3))
        elif what == "validation":
            model.fit(X, y, X_val=X, y_val=y)
            LossCurveDisplay.from_estimator(model)
        elif what == "checkpoint":
            with pytest.raises(KeyboardInterrupt):
                model.set_callbacks(Checkpoint(Path(folder, "c"), every=1), Interrupt("iteration", 2)).fit(X, y)
            model.set_callbacks(Checkpoint(Path(folder, "c"), every=1)).fit(X, y)
        else:
            model.fit(X, y).fit(X, y)
        return answers(model, X) if what != "stream" else [numpy(model.coef_)]


# --- Pictures and conversions.


@case(*each(("on", "off", "fitted under it")))
def pictures(at, dispatched):
    X, y, X_2, y_2 = at.X(X3), at.y(Y3), at.X(X2), at.y(Y2)
    with on(at) if dispatched != "off" else nullcontext():
        model, binary = at.model(SOFTMAX).fit(X, y), at.model(BINARY).fit(X_2[:, :1], y_2)
        search = CV[SOFTMAX](Cs=3, cv=2, **at.options).fit(X, y)
    with on(at) if dispatched == "on" else nullcontext():
        curves = ProbabilityCurveDisplay.from_estimator(binary, X_2[:, :1], y_2)
        ProbabilityCurveDisplay.from_estimator(binary, X_2[:, :1])
        LossCurveDisplay.from_estimator(model)
        for display in (CoefficientDisplay, ScorePathDisplay):
            display.from_estimator(search)
        CoefficientPathDisplay.from_estimator(search, target=1)
        CoefficientDisplay.from_estimator(model)
    return [numpy(curves.boundary_)]


@case("model", "search")
def conversions(at, what):
    X = at.X(X3)
    model = at.model(SOFTMAX) if what == "model" else at.model(CV[SOFTMAX], Cs=[0.1, 1.0], cv=2)
    model.fit(X, at.y(Y3))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "m"))
        kept = [type(model).load(Path(folder, "m")), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    out = [other.predict_proba(X) for other in kept]
    module = model.to_torch()
    rows = torch.tensor(X3, dtype=module.linear.weight.dtype, device="cpu")
    pipeline = to_torch(make_pipeline(StandardScaler().fit(X3), model))
    if rows.dtype == torch.float32 or not at.single:
        module, pipeline, rows = module.to(at.device), pipeline.to(at.device), rows.to(at.device)
    out += [numpy(f(rows)) for f in (module, module.logits, pipeline)]
    back = SOFTMAX.from_sklearn(model.to_sklearn()).set_params(**at.options)
    sparsified = copy.deepcopy(model).sparsify()
    return [*out, back.predict_proba(X), sparsified.predict_proba(X), sparsified.densify().predict_proba(X)]


@case("scikit-learn's")
def converted_after_dispatch(at, _):
    X = at.X(X3)
    with on(at):
        model = LogisticRegression(tol=1e-8, max_iter=500).fit(X, at.y(Y3))
    return [SOFTMAX.from_sklearn(model).predict_proba(X3)]


# --- Memory that runs out.

ROWS = table(5000, 12, 3, 0.5)
# By what is done: the room in sizes of X, X included.
ROOM = {"newton-cholesky": 3.0, "lbfgs": 5.0, "search": 9.0, "partial_fit": 2.2}


def work(at, what):
    """Results of what takes memory of the device."""
    X, y = at.X(ROWS[0]), at.y(ROWS[1])
    if what == "search":
        model = at.model(CV[SOFTMAX], Cs=[0.1, 1.0], cv=2, scoring="neg_log_loss", solver="newton-cholesky").fit(X, y)
        return [model.scores_, model.coef_]
    if what == "partial_fit":
        return [at.model(SOFTMAX, random_state=0).partial_fit(X, y, classes=[0, 1, 2]).coef_]
    return [at.model(SOFTMAX, solver=what).fit(X, y).coef_]


@pytest.mark.parametrize(("what", "kind"), [*((what, "cuda") for what in ROOM), ("lbfgs", "xpu")])
def test_smaller_blocks_where_memory_runs_out(what, kind):
    reference = work(Place("cpu", True, False), what)
    short, warned = pretend.memory(int(ROOM[what] * ROWS[0].nbytes)), pytest.warns(RuntimeWarning, match="smaller")
    with pretend.devices(kind), short, warned:
        actual = work(Place(kind, True, False), what)
    for a, b in zip(actual, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_models_that_are_solved_twice_are_reported_once(capsys):
    with pretend.devices("cuda"), pretend.memory(9 * ROWS[0].nbytes), pytest.warns(match="smaller"):
        CV[SOFTMAX](Cs=[0.1, 1.0], cv=2, solver="newton-cholesky", verbose=1, device="cuda").fit(*ROWS)
    counts = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert counts == sorted(set(counts))
    assert counts[-1] == 7  # two values of C on two folds and on all rows, and the refit


def test_predictions_in_smaller_blocks():
    X, y = ROWS
    expected = SOFTMAX().fit(X, y)
    with pretend.devices("cuda"):
        model = copy.copy(expected).set_params(device="cuda")
        with pretend.memory(X.nbytes // 4), pytest.warns(RuntimeWarning, match="smaller blocks"):
            proba = model.predict_proba(X)
    np.testing.assert_allclose(proba, expected.predict_proba(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("what", ["search", "partial_fit"])
def test_too_little_memory_says_so(what):
    with pretend.devices("cuda"), pretend.memory(ROWS[0].nbytes // 2), pytest.raises(MemoryError, match="the device"):
        work(Place("cuda", False, False), what)


def test_an_array_that_does_not_fit_is_read_in_blocks():
    X, y = large(BINARY)
    sizes = {"MAPPED_BLOCK_BYTES": 80_000, "MAX_JOINED_BLOCK_NUMBERS": 1000, "STREAM_SAMPLE_BYTES": 2**17}
    with tuned(ACCELERATOR_BLOCK_NUMBERS=2**14, **sizes):
        reference = BINARY(solver="newton-cholesky", tol=1e-9).fit(X, y)
        with pretend.devices("cuda"), pretend.memory(X.nbytes - 1), pytest.warns(match="block by block"):
            model = BINARY(solver="newton-cholesky", tol=1e-9, device="cuda").fit(X, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-7, atol=1e-7)


# --- A default device.


@case("fit", "sgd", "newton-cholesky", "wide", "stream", "weighted stream", "search", "blocks", "file", "dispatch")
def default_device(at, what):
    """Work on the host beside a device that is torch's default."""
    host = Place("cpu", at.as_tensors, at.single)
    other = {"fit": ("fit", "lbfgs", "float64", SOFTMAX), "sgd": ("sgd", "float64", BINARY, "auto")}
    other |= {"newton-cholesky": ("fit", what, "float64", SOFTMAX), "wide": ("wide_table", "lbfgs", SOFTMAX)}
    other |= {"stream": ("stream", "lbfgs", SOFTMAX, "float64", "plain"), "file": ("file", "float64")}
    other |= {"weighted stream": ("stream", "newton-cholesky", BINARY, "float64", "weighted")}
    other |= {"search": ("cross_validation", BINARY, "lbfgs", "float64", "neg_log_loss")}
    other |= {"blocks": ("blocks", SOFTMAX, "float64", "auto", "weighted")}
    other |= {"dispatch": ("dispatch", "lbfgs", SOFTMAX, "device")}
    name = " ".join(getattr(v, "__name__", str(v)) for v in other[what])
    out = []
    for place in (host, at):
        with torch.device(at.device):
            out += CASES[name](place)
    return out


# --- The comparison.

SINGLE = {"mps"}  # without float64


def places_of(name):
    """Where a case runs: every other one at one place, as if drawn by lot, and a few on XPU, too.

    All of them everywhere take a quarter of an hour: TORCHLOGREG_PRETEND=everywhere.
    """
    lot = crc32(name.encode())
    places = [(("cuda", "mps")[lot % 5 > 2], lot % 7 > 2)] if lot % 2 else []
    places += [("xpu", lot % 7 > 2)] if lot % 11 == 0 else []
    if EVERYWHERE:
        places = [(kind, as_tensors) for kind in ("cuda", "mps", "xpu") for as_tensors in (True, False)]
    # Under dispatch scikit-learn asks torch for a library of XPU's that it is not linked with here.
    return [place for place in places if "dispatch" not in name or place != ("xpu", True)]


RUNS = [
    pytest.param(name, kind, as_tensors, id=f"{name} {kind} {'tensors' if as_tensors else 'arrays'}")
    for name in CASES
    for kind, as_tensors in places_of(name)
]


def flat(value):
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flat(item)]
    return [np.asarray(numpy(value))]


@cache
def expected(name, as_tensors, single):
    return flat(CASES[name](Place("cpu", as_tensors, single)))


def on_device(name, at):
    """The results of a case on a device, which has had a part in them."""
    with pretend.devices(at.device) as machine:
        before = machine.n_operations
        results = flat(CASES[name](at))
        assert machine.n_operations > before or not results or name.startswith(("errors", "sparse_rows"))
    return results


@pytest.mark.parametrize(("name", "kind", "as_tensors"), RUNS)
def test_as_on_the_cpu(name, kind, as_tensors):
    single = kind in SINGLE
    reference = expected(name, as_tensors, single)
    actual = on_device(name, Place(kind, as_tensors, single))
    bound = 1e-6 if "mostly_zero" in name else 1e-7  # a sparse copy on the host is solved in another way
    if single or any(word in name for word in ("float32", "float16", "whole")):
        bound = 1e-2 if "mostly_zero" in name or "weak_penalty" in name else 2e-3
    for a, b in zip(actual, reference, strict=True):
        if a.dtype.kind in "USb":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


# --- What the harness is good for: a transfer that is taken out of the package is noticed.

# Of each: a function, what is taken out, what takes its place, and a case on a device that needs it. Many transfers are
# made twice, because blocks are moved where they are used: those would not be missed.
FIT, SGD = "fit lbfgs float64 TorchSoftmaxClassifier", "sgd float64 TorchSoftmaxClassifier auto"
MUTATIONS = [
    (training_data.design_of, "codes.to(X.device)", "codes", SGD, "cuda tensors"),
    (training_data._moved, "X.to(device)", "X", FIT, "cuda arrays"),
    (StreamedDesign._design, "X.to(self.device, non_blocking=True)", "X", "stream_from arrays", "cuda arrays"),
    (StreamedDesign._design, "weight.to(X.device, dtype)", "weight.to(dtype)", "stream_from sgd", "cuda arrays"),
    (DenseDesign.whole.fget, "self.y.to(X.device)", "self.y", FIT, "mps tensors"),
    (class_major, "device=rows.compute.device, ", "", SGD, "mps tensors"),
    (Validation._pieces, "self.codes[at].to(eta.device)", "self.codes[at]", "validation lbfgs None", "cuda tensors"),
    (fitting.fitted_attributes, "numpy(force=True)", "numpy()", FIT, "cuda tensors"),
    (fit_and_score.as_splits, "numpy_of(index)", "index", "cross_validation_with splits", "cuda tensors"),
    (
        fit_and_score._batched_fits,
        "device=accumulation.device",
        'device="cpu"',
        "cross_validation_with Cs",
        "xpu tensors",
    ),
    (scoring._averaged, ".to(values)", "", "grid_with routed device", "cuda tensors"),
]


@pytest.mark.parametrize(
    ("function", "old", "new", "name", "place"), MUTATIONS, ids=[f"{m[0].__name__} {m[1]}" for m in MUTATIONS]
)
def test_a_transfer_that_is_missing_is_noticed(function, old, new, name, place, monkeypatch):
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source
    defined = {}
    source = source.replace("@property\n", "").replace(old, new)
    exec(compile(source, function.__code__.co_filename, "exec"), vars(sys.modules[function.__module__]), defined)
    monkeypatch.setattr(function, "__code__", defined[function.__name__].__code__)
    kind, container = place.split()
    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        on_device(name, Place(kind, container == "tensors", kind in SINGLE))


def test_waits_and_kernels_are_counted():
    with pretend.devices("cuda"), pretend.counted() as tally:
        float((torch.ones(3, device="cuda") + 1).sum())
    assert tally.waits == {"outside": 1}
    assert tally.kernels == {"outside": 3}  # ones, +, sum


def test_xpu_is_offered():
    with pretend.devices("xpu"):
        assert device.available_devices()[:3] == ["cpu", "xpu", "xpu:0"]
        assert device.choose_device("auto", torch.zeros(1, 1), Work(1e12, 1e12, 1.0, 1.0, 4)).device.type == "xpu"
        assert SOFTMAX(device="xpu").fit(X3, Y3).device_ == "xpu:0"
