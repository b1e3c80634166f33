"""What users are told when something cannot be used: the same in every place that takes it, with the remedy."""

import datetime
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import DETERMINISTIC, SOLVERS, table
from scipy import sparse
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

pa = pytest.importorskip("pyarrow")
X, Y = table("iris", True)
NAMES = np.array(["a", "b", "c"])[Y]
FITTED = TorchSoftmaxClassifier().fit(X, NAMES)
FITTED_CV = TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(X, NAMES)


def search(estimator, X, y):
    name = "C" if isinstance(estimator, TorchSoftmaxClassifier) else "torchsoftmaxclassifier__C"
    return TorchGridSearchCV(estimator, {name: [0.1, 1.0]}, cv=2, error_score="raise").fit(X, y)


# Every place that takes rows and labels, and what the labels are called there.
PLACES = {
    "fit": lambda X, y: TorchSoftmaxClassifier().fit(X, y),
    "sgd": lambda X, y: TorchSoftmaxClassifier(solver="sgd", random_state=0).fit(X, y),
    "cv": lambda X, y: TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(X, y),
    "search": lambda X, y: search(TorchSoftmaxClassifier(), X, y),
    "search, sgd": lambda X, y: search(TorchSoftmaxClassifier(solver="sgd"), X, y),
    "stream": lambda X, y: TorchSoftmaxClassifier().fit([(X, y), (X, y)]),
    "partial_fit": lambda X, y: TorchSoftmaxClassifier().partial_fit(X, y, classes=["a", "b", "c"]),
    "X_val": lambda X_val, y: TorchSoftmaxClassifier().fit(X, NAMES, X_val=X_val, y_val=y),
}
SCORES = {
    "score": lambda X, y: FITTED.score(X, y),
    "score of cv": lambda X, y: FITTED_CV.score(X, y),
}
LABELS_ONLY = {
    "search in a pipeline": lambda X, y: search(make_pipeline(StandardScaler(), TorchSoftmaxClassifier()), X, y),
    "classes": lambda X, y: TorchSoftmaxClassifier().partial_fit(X, NAMES, classes=y),
}
CALLED = {"X_val": "y_val", "classes": "classes"}
PREDICTING = {
    "predict": lambda X, _: FITTED.predict(X),
    "predict_proba": lambda X, _: FITTED_CV.predict_proba(X),
}


def three(*values):
    """So many labels, these in turn."""
    return list(values) * 50


def values(*given, dtype=object):
    return np.array(three(*given), dtype=dtype)


NAN = float("nan")
MISSING = {
    "None in a list": three("a", "b", None),
    "NaN in a list": three("a", "b", NAN),  # which NumPy would make the class "nan"
    "NaN in a tuple": tuple(three("a", "b", np.float32(NAN))),
    "None among numbers": three(0, 1, None),
    "None among booleans": three(True, False, None),
    "in a column": [[label] for label in three("a", "b", None)],
    "None": values("a", "b", None),
    "NaN": values("a", "b", NAN),
    "NA": values("a", "b", pd.NA),
    "NaT": values("a", "b", pd.NaT),
    "a decimal": values("a", "b", Decimal("nan")),
    "float64": values(0, 1, NAN, dtype=np.float64),
    "float16": values(0, 1, NAN, dtype=np.float16),
    "complex": values(0, 1, NAN, dtype=complex),
    "dates": values("2020-01-01", "2020-01-02", "NaT", dtype="datetime64[D]"),
    "spans of time": values(1, 2, "NaT", dtype="timedelta64[D]"),
    "masked": np.ma.masked_array(three("a", "b", "c"), mask=three(False, False, True)),
    **{
        f"pandas {dtype}": pd.Series(three("a", "b", None), dtype=dtype)
        for dtype in (object, "str", "string", "string[pyarrow]", "category", pd.ArrowDtype(pa.string()))
    },
    **{
        f"pandas {dtype} of numbers": pd.Series(three(0, 1, None), dtype=dtype)
        for dtype in ("float64", "Int64", "Float64", "category", pd.ArrowDtype(pa.int64()))
    },
    "pandas boolean": pd.Series(three(True, False, None), dtype="boolean"),
    "pandas dates": pd.Series(pd.to_datetime(three("2020-01-01", "2020-01-02", None))),
    "pandas frame": pd.DataFrame({"y": three("a", "b", None)}),
    "pandas index": pd.Index(three("a", "b", None)),
    "pandas array": pd.array(three(0, 1, None), dtype="Int64"),
    "pandas Categorical": pd.Categorical(three("a", "b", None)),
    **{
        f"polars {dtype}": pl.Series(three("a", "b", None), dtype=dtype)
        for dtype in (pl.String, pl.Categorical, pl.Enum(["a", "b"]))
    },
    "polars numbers": pl.Series(three(0, 1, None)),
    "polars booleans": pl.Series(three(True, False, None)),
    "polars NaN": pl.Series(three(0.0, 1.0, NAN)),
    "polars dates": pl.Series(three(datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), None)),
    "polars frame": pl.DataFrame({"y": three("a", "b", None)}),
    "pyarrow": pa.array(three("a", "b", None)),
    "pyarrow numbers": pa.array(three(0, 1, None)),
    "pyarrow booleans": pa.array(three(True, False, None)),
    "pyarrow chunks": pa.chunked_array([three("a", "b", None)]),
    "pyarrow dictionary": pa.array(three("a", "b", None)).dictionary_encode(),
    "tensor": torch.tensor(three(0.0, 1.0, NAN)),
    "tensor in half precision": torch.tensor(three(0.0, 1.0, NAN)).half(),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_called_so_everywhere(kind):
    for place, use in {**PLACES, **SCORES, **LABELS_ONLY}.items():
        message = f"Input {CALLED.get(place, 'y')} contains NaN. Leave out the rows without a label"
        for assume_finite in (False, True):
            with config_context(assume_finite=assume_finite), pytest.raises(ValueError, match=message):
                use(X, MISSING[kind])


def test_labels_that_look_like_missing_ones_are_labels():
    for y in (three("nan", "None", "NA"), values("nan", "", "NaT"), pd.Series(three("null", "<NA>", "nan"))):
        assert TorchSoftmaxClassifier().fit(X, y).classes_.tolist() == sorted(set(y))


def test_infinity_is_no_label():
    with pytest.raises(ValueError, match="Input y contains infinity"):
        TorchSoftmaxClassifier().fit(X, three(0.0, 1.0, np.inf))


BYTES = {
    "list": three(b"a", b"b", b"c"),
    "array": values(b"a", b"b", b"c", dtype="S"),
    "objects": values(b"a", b"b", b"c"),
    "pandas": pd.Series(three(b"a", b"b", b"c")),
    "polars": pl.Series(three(b"a", b"b", b"c")),
    "pyarrow": pa.array(three(b"a", b"b", b"c")),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_are_refused_everywhere_as_scikit_learn_does(kind):
    with pytest.raises(TypeError, match="Support for labels represented as bytes is not supported"):
        LogisticRegression().fit(X, np.asarray(BYTES[kind]))
    for place, use in {**PLACES, **SCORES, **LABELS_ONLY}.items():
        with pytest.raises(TypeError, match=f"bytes is not supported.*label.decode.*in {CALLED.get(place, 'y')}"):
            use(X, BYTES[kind])


SERIES = {
    "pandas": pd.Series(X[:, 0]),
    "pandas Float64": pd.Series(X[:, 0], dtype="Float64"),
    "pandas array": pd.array(X[:, 0], dtype="Float64"),
    "pandas index": pd.Index(X[:, 0]),
    "polars": pl.Series(X[:, 0]),
    "pyarrow": pa.array(X[:, 0]),
    "pyarrow chunks": pa.chunked_array([X[:, 0]]),
    "array": X[:, 0],
    "tensor": torch.tensor(X[:, 0]),
}


@pytest.mark.parametrize("kind", SERIES)
def test_one_column_of_a_frame_is_no_table(kind):
    for use in {**PLACES, **SCORES, **PREDICTING}.values():
        with pytest.raises(ValueError, match=r"Expected (2D array|a 2-dimensional container)"):
            use(SERIES[kind], NAMES)


def test_a_series_of_text_is_what_scikit_learn_calls_it():
    with pytest.raises(ValueError, match="could not convert string to float"):
        TorchSoftmaxClassifier().fit(pd.Series(NAMES), NAMES)


def spoilt(value):
    """X with one number that is none, as it comes."""
    rows = X.copy()
    rows[7, 1] = value
    few = np.where(np.arange(rows.size).reshape(rows.shape) % 5 == 0, rows, 0.0)
    few[7, 1] = value
    return {
        "array": rows,
        "float32": rows.astype(np.float32),
        "half precision": torch.tensor(rows).half(),
        "sparse": sparse.csr_array(few),
        "mostly zero": few,
        "wide": np.hstack([rows[:20], np.zeros((20, 30))]),
    }


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_assume_finite_lets_through_is_found_when_a_fit_fails(solver, value, name):
    for estimator, labels in ((TorchLogisticRegression, Y == 1), (TorchSoftmaxClassifier, Y)):
        model = estimator(solver=solver, random_state=0).fit(X[:, :2], labels)
        before = dict(vars(model))
        for rows in spoilt(value).values():
            y = labels if rows.shape[0] == len(labels) else np.arange(rows.shape[0]) % len(np.unique(labels))
            with config_context(assume_finite=True), pytest.raises(ValueError, match=f"Input X contains {name}"):
                model.fit(rows, y)
        blocks = [(spoilt(value)["array"], labels)] * 2
        with config_context(assume_finite=True), pytest.raises(ValueError, match=f"Input X contains {name}"):
            model.set_params(tol=0).fit(blocks)
        assert vars(model) == {**before, "tol": 0}


@pytest.mark.parametrize("place", ["cv", "search", "search, sgd", "partial_fit"])
def test_and_in_the_other_places(place):
    with config_context(assume_finite=True), pytest.raises(ValueError, match="Input X contains NaN"):
        PLACES[place](spoilt(np.nan)["array"], NAMES)


def test_weights_are_looked_at_in_any_case():
    weight = np.where(np.arange(len(Y)) == 3, np.nan, 1.0)
    with config_context(assume_finite=True):
        for model in (TorchSoftmaxClassifier(), TorchSoftmaxClassifierCV(Cs=2, cv=2)):
            with pytest.raises(ValueError, match="Input sample_weight contains NaN"):
                model.fit(X, Y, sample_weight=weight)


def test_a_fit_that_fails_for_another_reason_says_that_one():
    with config_context(assume_finite=True), pytest.raises(ValueError, match="Lower learning_rate"):
        TorchSoftmaxClassifier(solver="sgd", learning_rate=1e300, random_state=0).fit(X, Y)


FRAME = pd.DataFrame(X, columns=["p", "q", "r", "s"])


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (FRAME, X, "X_val does not have valid feature names, but X has"),
        (FRAME, torch.tensor(X), "X_val does not have valid feature names, but X has"),
        (X, FRAME, "X_val has feature names, but X does not"),
        (X, pl.DataFrame(FRAME.to_dict("list")), "X_val has feature names, but X does not"),
    ],
)
def test_warnings_about_validation_data_call_it_by_its_name(train, validation, message):
    with pytest.warns(UserWarning, match=message) as record:
        TorchSoftmaxClassifier().fit(train, Y, X_val=validation, y_val=Y)
    assert len(record) == 1
    assert record[0].filename == __file__  # the warning points at the caller


def test_frames_that_agree_are_worth_no_warning():
    TorchSoftmaxClassifier().fit(FRAME, Y, X_val=pl.DataFrame(FRAME.to_dict("list")), y_val=Y)
    with pytest.raises(ValueError, match="feature names should match"):
        TorchSoftmaxClassifier().fit(FRAME, Y, X_val=FRAME[["q", "p", "r", "s"]], y_val=Y)


def test_a_column_of_labels_is_called_by_its_name():
    for y_val in (Y[:, None], [[int(label)] for label in Y], pd.DataFrame({"y": Y})):
        with pytest.warns(DataConversionWarning, match="column-vector y_val was passed") as record:
            TorchSoftmaxClassifier().fit(X, Y, X_val=X, y_val=y_val)
        assert [w.filename for w in record] == [__file__]


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_warning_says_which_test_of_convergence_failed(solver):
    both = (
        r"max\|gradient\| is \S+ \(above tol=0.0001\).*gap to the optimum \S+ of the objective \(above (5e-05|1e-06)\)"
    )
    with pytest.warns(ConvergenceWarning, match=both):
        TorchSoftmaxClassifier(solver=solver, max_iter=1).fit(X, Y)
    # Columns of a millionth: the gradient is as small from the start.
    with pytest.warns(ConvergenceWarning, match=r"\(within tol=0.0001\).*of the objective \(above"):
        TorchSoftmaxClassifier(solver=solver, C=1e14, max_iter=1, fit_intercept=False).fit(X * 1e-6, Y)
    # Coefficients in float32, which the gradient is judged at.
    rows = (1e3 * X).astype(np.float32)
    with pytest.warns(ConvergenceWarning, match=r"\(above tol=1e-08\).*of the objective \(within"):
        TorchSoftmaxClassifier(solver=solver, tol=1e-8, max_iter=1000).fit(rows, Y)


def test_without_a_minimum_the_warning_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match=r"\(within tol=0.0001\).*perfectly separated"):
            TorchLogisticRegression(C=np.inf).fit(X[:100], Y[:100])
