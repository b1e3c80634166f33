"""Rows in several processes give the model of one process: to 1e-10, with the same iterations and passes."""

import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, redirect_stdout
from functools import cache
from io import StringIO
from itertools import pairwise
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import as_file, objective
from rank_processes import on_ranks
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._data import tuning
from torchlogreg.callbacks import EarlyStopping
from torchlogreg.distributed import shared_rows

# Tables, of more numbers than are gathered in one process unless they are meant to be


@cache
def table(n=28_000, p=20, K=2, seed=0):
    """Correlated features, labels drawn from a softmax model, and integer weights, some of them zero."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + rng.standard_normal((p, p)) / np.sqrt(p))
    y = (X @ rng.standard_normal((p, K)) + 4 * rng.gumbel(size=(n, K))).argmax(axis=1)
    return X, y, rng.integers(0, 4, n).astype(float)


def float32(K=2):
    X, y, w = table(K=K)
    return X.astype(np.float32), y, w


def single_precision_of_steps():
    X, y, w = table()
    return (np.round(X * 8) / 8).astype(np.float32), y, w


def rare():
    """Indicators, the rarest of which are in no row of most processes."""
    X, y, w = table()
    indicators = np.random.default_rng(1).random((len(X), 20)) < np.logspace(-4, -1, 20)
    return np.hstack([X, indicators]), y, w


def wide():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((150, 700))
    return X, (X[:, :3].sum(axis=1) + rng.standard_normal(150) > 0).astype(int), rng.integers(0, 4, 150).astype(float)


def separable():
    X, _, w = table()
    return X, (X[:, 0] > 0).astype(int), w


def words(n=40_000, p=1500):
    """Sparse counts; the last columns are empty."""
    rng = np.random.default_rng(3)
    X = sp.random(n, p, density=0.01, format="csr", random_state=rng).astype(float)
    X = X @ sp.diags(np.r_[np.ones(p // 2), np.zeros(p - p // 2)])
    y = (X @ rng.standard_normal(p) + 0.5 * rng.standard_normal(n) > 0).astype(int)
    return sp.csr_array(X), y, rng.integers(0, 4, n).astype(float)


def dense_words():
    X, y, w = words(n=4000)
    return X.toarray(), y, w


def full_words():
    """Sparse, with numbers in all columns, so that none is left out."""
    rng = np.random.default_rng(4)
    X = sp.csr_array(sp.random(90_000, 300, density=0.02, format="csr", random_state=rng))
    return X, (X.sum(axis=1) + 0.3 * rng.standard_normal(90_000) > 3).astype(int), np.ones(90_000)


def texts():
    X, y, w = table(K=3)
    return X, np.array(["pear", "apple", "fig"])[y], w


def frame():
    X, y, w = table()
    return pd.DataFrame(X, columns=[f"f{j}" for j in range(X.shape[1])]), y, w


def in_order_of_classes(K=3):
    X, y, w = table(K=K)
    order = np.argsort(y, kind="stable")
    return X[order], y[order], w[order]


def mapped():
    X, y, w = table()
    return as_file(X, os.path.join(tempfile.mkdtemp(), "X")), y, w


class Case(NamedTuple):
    data: Callable[[], tuple]
    parameters: dict[str, Any] = {}
    split: str = "even"
    weighted: str = "no"
    kind: Any = TorchSoftmaxClassifier
    arguments: dict[str, Any] = {}  # of `fit`
    how: str = ""  # what else is done, in `fitted`
    tuned: dict[str, Any] = {}
    same_way: bool = True  # whether iterations and passes are the same, too
    tolerance: float = 1e-10


EXACT = {"tol": 1e-10}
L1 = {"l1_ratio": 0.5, "C": 0.02}
STREAM = {"parameters": EXACT, "how": "stream", "same_way": False, "tolerance": 1e-8}
WEIGHTS = {f"f{j}": float(j % 3) for j in range(5)}
BOUNDS = {"f1": (0.0, 0.3), "f2": (-0.1, np.inf)}
START = np.linspace(-0.2, 0.2, 20)[None]

CASES = {
    "auto": Case(table),
    "binary estimator": Case(table, kind=TorchLogisticRegression, weighted="all"),
    "lbfgs": Case(table, {"solver": "lbfgs"}),
    "newton": Case(table, {"solver": "newton-cholesky"}),
    "newton weighted": Case(table, {"solver": "newton-cholesky"}, "sliver", "all"),
    "3 classes": Case(lambda: table(K=3)),
    "3 classes newton": Case(lambda: table(K=3), {"solver": "newton-cholesky"}, weighted="all"),
    "12 classes": Case(lambda: table(K=12), split="sliver"),
    "12 classes lbfgs": Case(lambda: table(K=12), {"solver": "lbfgs", "class_weight": "balanced"}),
    "no intercept": Case(table, {"fit_intercept": False}),
    "l1": Case(table, L1),
    "l1 3 classes": Case(lambda: table(K=3), L1, "sliver", "all"),
    "lasso": Case(table, {"l1_ratio": 1.0, "C": 0.003}, "first"),
    "bounds": Case(frame, {"coef_bounds": BOUNDS, "penalty_weights": WEIGHTS}),
    "bounds where rank 0 has no rows": Case(frame, {"coef_bounds": BOUNDS, "penalty_weights": WEIGHTS}, "last"),
    "bounds for all": Case(table, {"coef_bounds": (0, np.inf), **L1}),
    "infinite weight": Case(table, {"penalty_weights": np.r_[np.inf, np.ones(19)]}),
    "weights": Case(table, weighted="all"),
    "weights in one process": Case(table, weighted="one rank"),
    "no weight in one process": Case(table, weighted="none in the last"),
    "weights of one number": Case(table, weighted="two"),
    "balanced": Case(lambda: table(K=3), {"class_weight": "balanced"}),
    "balanced weights": Case(in_order_of_classes, {"class_weight": "balanced"}, weighted="all"),
    "class weights": Case(lambda: table(K=3), {"class_weight": {0: 3, 1: 0.5, 2: 0}}),
    "rare": Case(rare),
    "rare lbfgs": Case(rare, {"solver": "lbfgs"}, "sliver", "all"),
    "wide": Case(wide),
    "wide l1": Case(wide, {"l1_ratio": 1.0, "C": 0.5}, "sliver", "all"),
    "tiny": Case(lambda: table(n=200)),
    "tiny where rank 0 has no rows": Case(lambda: table(n=200, K=3), split="last", weighted="all"),
    "smallest": Case(lambda: (np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 0]), np.ones(3))),
    "sparse": Case(words),
    "sparse weighted": Case(words, {"solver": "lbfgs"}, "sliver", "all"),
    "sparse where rank 0 has no rows": Case(words, split="last"),
    "sparse in all columns": Case(full_words),
    "sparse l1": Case(words, {"l1_ratio": 1.0, "C": 0.5}),
    "sparse 3 classes": Case(lambda: (full_words()[0], np.arange(90_000) % 3, np.ones(90_000)), weighted="all"),
    "mostly zero": Case(dense_words),
    "sparse, better dense": Case(lambda: (sp.csr_array(table()[0]), *table()[1:])),
    "no penalty": Case(table, {"C": np.inf}),
    "no penalty, separable": Case(separable, {"C": np.inf, "max_iter": 30}, tolerance=1e-7),
    "float32": Case(float32, tolerance=1e-5),
    "float32 3 classes where rank 0 has no rows": Case(lambda: float32(3), split="last", tolerance=1e-5),
    "float32 where rank 0 has no rows": Case(
        lambda: (np.float32(table()[0]), *table()[1:]), EXACT, "last", tolerance=1e-5
    ),
    "text": Case(texts, split="sliver"),
    "text where rank 0 has no rows": Case(texts, split="last"),
    "classes in order": Case(in_order_of_classes),
    "classes in order, 2": Case(lambda: in_order_of_classes(2), L1),
    "first": Case(table, split="first"),
    "last": Case(table, split="last"),
    "sliver": Case(table, split="sliver"),
    "validation": Case(lambda: table(K=3), EXACT, how="validation"),
    "weighted validation": Case(table, {"class_weight": "balanced"}, weighted="all", how="validation"),
    "validation in one process": Case(table, how="validation in one process"),
    "tiny validation": Case(lambda: table(n=300), how="validation"),
    "early stopping": Case(lambda: table(K=3), EXACT, how="early stopping"),
    "loss of training": Case(lambda: table(K=3), split="last", how="train_loss"),
    "verbose": Case(table, {"verbose": 1}, how="printed"),
    "warm start": Case(table, {"warm_start": True, "max_iter": 2, "solver": "lbfgs"}, how="twice"),
    "start": Case(table, arguments={"coef_init": START, "intercept_init": [0.3]}),
    "stream": Case(table, **STREAM),
    "stream 3 classes": Case(lambda: table(K=3), weighted="all", split="sliver", **STREAM),
    "stream where rank 0 has none": Case(texts, split="last", **STREAM),
    "stream balanced": Case(in_order_of_classes, **{**STREAM, "parameters": {**EXACT, "class_weight": "balanced"}}),
    "stream l1": Case(table, **{**STREAM, "parameters": {**EXACT, **L1}}),
    "file": Case(mapped, tuned={"MIN_STREAMED_NUMBERS": 2**16}, **{**STREAM, "how": ""}),
    "file in uneven parts": Case(
        mapped, split="sliver", tuned={"MIN_STREAMED_NUMBERS": 2**16}, **{**STREAM, "how": ""}
    ),
    "small file": Case(mapped),
}
ON_THREE = ["auto", "3 classes newton", "l1 3 classes", "balanced weights", "rare", "sparse", "sparse in all columns",
            "text", "classes in order", "last", "validation", "stream", "weights in one process", "smallest", "wide",
            "file in uneven parts", "mostly zero"]  # fmt: skip
ON_FIVE = [
    "auto",
    "12 classes",
    "l1",
    "sparse l1",
    "classes in order",
    "stream 3 classes",
    "weighted validation",
    "smallest",
]


def parts(case, n, size):
    """The rows of each process."""
    ends = [n * r // size for r in range(size + 1)]
    if case.split == "first":
        ends = [0] + [n] * size
    elif case.split == "last":
        ends = [0] * size + [n]
    elif case.split == "sliver":
        k = max(1, n * 3 // 1000)
        ends = [0] + [k + (n - k) * r // (size - 1) for r in range(size)]
    return [slice(a, b) for a, b in pairwise(ends)]


def weights(case, w, rows):
    """The weights of all rows as one process gives them."""
    if case.weighted == "no":
        return None
    if case.weighted == "two":
        return np.full(len(w), 2.0)
    out = w.copy()
    if case.weighted == "one rank":
        out[rows[0]] = 1.0
        out[rows[1].stop :] = 1.0
    elif case.weighted == "none in the last":
        out[rows[-1]] = 0.0
    return out


def fitted(name, rank, size, here):
    """The model of a case, and what was printed; `here` for one process that has all rows."""
    case = CASES[name]
    with ExitStack() as stack:
        for constant, value in case.tuned.items():
            stack.enter_context(patch.object(tuning, constant, value))
        X, y, w = case.data()
        rows = parts(case, len(y), size)
        w = weights(case, w, rows)
        if not here:
            own = rows[rank]
            X, y = X.iloc[own] if hasattr(X, "iloc") else X[own], y[own]
            w = None if w is None or (case.weighted == "one rank" and rank != 1) else w[own]
            w = 2.0 if case.weighted == "two" else w
        model = case.kind(**case.parameters)
        arguments = {"sample_weight": w, **case.arguments, **validation(case, 0 if here else rank, 1 if here else size)}
        if case.how in ("early stopping", "train_loss"):
            monitor = "validation_loss" if case.how == "early stopping" else "train_loss"
            model.set_callbacks(EarlyStopping(monitor, patience=2))
        data = X, y
        if case.how == "stream":
            cuts = range(0, len(y), 700)
            w = arguments.pop("sample_weight")
            data = ([(X[a : a + 700], y[a : a + 700], *([] if w is None else [w[a : a + 700]])) for a in cuts],)
        printed = stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(nullcontext() if here else shared_rows())
        for _ in range(1 + (case.how == "twice")):
            model.fit(*data, **arguments)
    return model, printed.getvalue()


def validation(case, rank, size):
    """The arguments of validation data that each process has a part of, in two of three cases."""
    if "validation" not in case.how and case.how != "early stopping":
        return {}
    X, y, w = table(n=1001, K=len(np.unique(case.data()[1])), seed=1)
    if case.how == "validation in one process" and size > 1:
        return {} if rank == 0 else {"X_val": X, "y_val": y} if rank == 1 else {}
    own = slice(len(y) * rank // size, len(y) * (rank + 1) // size)
    more = {"sample_weight_val": w[own]} if case.weighted == "all" else {}
    return {"X_val": X[own], "y_val": y[own], **more}


def shared_fit(rank, size, name):
    model, printed = fitted(name, rank, size, here=False)
    return pickle.dumps(model), printed


def bits(model):
    """All fitted attributes, as bytes."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else repr(value)
        for name, value in vars(model).items()
        if name.endswith("_") or name == "_seen"
    }


@cache
def alone(name, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fitted(name, 0, size, here=True)


@pytest.mark.parametrize(
    ("size", "name"), [(2, n) for n in CASES] + [(3, n) for n in ON_THREE] + [(5, n) for n in ON_FIVE]
)
def test_same_answer(size, name):
    case = CASES[name]
    answers = on_ranks(size, shared_fit, name)
    for answer in answers:
        assert isinstance(answer[0], bytes), answer
    models = [pickle.loads(model) for model, _ in answers]
    for other in models[1:]:
        assert bits(other) == bits(models[0])
    (model, *_), (one, printed) = models, alone(name, size)
    assert set(vars(model)) == set(vars(one))
    assert model.solver_ == one.solver_
    np.testing.assert_array_equal(model.classes_, one.classes_)
    for attribute in "coef_", "intercept_":
        assert getattr(model, attribute).dtype == getattr(one, attribute).dtype
        np.testing.assert_allclose(getattr(model, attribute), getattr(one, attribute), rtol=0, atol=case.tolerance)
    X, y, w = case.data()
    if case.tolerance > 1e-10:
        w = weights(case, w, parts(case, len(y), size))
        if case.parameters.get("class_weight") is None and "l1_ratio" not in case.parameters:
            np.testing.assert_allclose(objective(model, X, y, w), objective(one, X, y, w), rtol=1e-11)
    if case.same_way:
        np.testing.assert_array_equal(model.n_iter_, one.n_iter_)
        assert model.n_passes_ == pytest.approx(one.n_passes_, abs=1e-9)
        assert model.optimality_gap_ == pytest.approx(one.optimality_gap_, abs=max(1e-10, 1e-3 * case.tolerance))
        assert set(model.history_) == set(one.history_)
        for key in set(one.history_) - {"seconds", "elapsed"}:
            np.testing.assert_allclose(model.history_[key], one.history_[key], rtol=1e-6, atol=1e-8, err_msg=key)
    np.testing.assert_allclose(model.predict_proba(X[:50]), one.predict_proba(X[:50]), rtol=0, atol=10 * case.tolerance)
    if hasattr(X, "columns"):
        assert models[-1].feature_names_in_.tolist() == list(X.columns)
    if case.how == "printed":
        assert [line.split()[:2] for line in answers[0][1].splitlines()] == [
            line.split()[:2] for line in printed.splitlines()
        ]
        assert not any(text for _, text in answers[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn has neither weights of features nor bounds
        converted = models[-1].to_sklearn()
    np.testing.assert_allclose(converted.predict_proba(X[:50]), model.predict_proba(X[:50]), atol=1e-6)
