"""Cases for pretend accelerators: fits of all kinds of data, from tables, streams and blocks."""

import io
import tempfile
import warnings
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Interrupt, as_file
from pretend_cases import (
    BINARY,
    CV,
    EPOCHS,
    PENALTIES,
    SOFTMAX,
    SOLVERS,
    WEIGHT,
    X2,
    X3,
    Y2,
    Y3,
    answers,
    case,
    each,
    kinked,
    large,
    numpy,
    small,
    stream_of,
    table,
    tuned,
    wide,
)
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import (
    TorchSoftmaxClassifier,
)
from torchlogreg.callbacks import Checkpoint, EarlyStopping

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


@case(*each(PENALTIES, (BINARY, SOFTMAX)))
def kinks(at, penalty, cls):
    X, y = kinked(cls)
    model = at.fitted(cls, (X, y), warm_start=True, **PENALTIES[penalty])
    first = answers(model, at.X(X[:20]))
    return [*first, *answers(model.set_params(C=0.05).fit(at.X(X), at.y(y)), at.X(X[:20]))]


@case(*each(("sgd", "stream", "blocks"), PENALTIES, (BINARY, SOFTMAX)))
def kinks_by(at, what, penalty, cls):
    X, y = kinked(cls)
    model = at.model(cls, **(EPOCHS if what == "sgd" else {"random_state": 0}), **PENALTIES[penalty])
    if what == "blocks":
        for X_block, y_block in stream_of(at, X, y, size=1000):
            model.partial_fit(X_block, y_block, classes=at.y(np.unique(y)))
    else:
        model.fit(*([stream_of(at, X, y, size=1000)] if what == "stream" else [at.X(X), at.y(y)]))
    return answers(model, at.X(X[:20]))


@case(*each((0.5, 1.0), (None, (-0.05, 0.3)), (BINARY, SOFTMAX)))
def kinks_of_a_wide_table(at, l1_ratio, bounds, cls):
    """On the host its columns come in working sets."""
    return answers(at.fitted(cls, wide(cls), C=0.2, l1_ratio=l1_ratio, coef_bounds=bounds), at.X(wide(cls)[0]))


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


# --- Streams, files, blocks.


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
