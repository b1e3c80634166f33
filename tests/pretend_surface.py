"""Cases for pretend accelerators: what is built on fits, from cross-validation to pictures."""

import copy
import pickle
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Interrupt
from pretend_cases import (
    BINARY,
    CASES,
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
    Place,
    answers,
    case,
    each,
    kinked,
    large,
    numpy,
    small,
    stream_of,
    wide,
)
from sklearn import clone, config_context
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
    to_torch,
)
from torchlogreg.callbacks import Checkpoint, LiveBoundary

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


@case(*each((BINARY, SOFTMAX), ("kinked", "wide"), (True, False)))
def cross_validation_of_l1_ratios(at, cls, what, intercept):
    X, y = kinked(cls) if what == "kinked" else wide(cls)
    options = {"Cs": [0.02, 0.2], "l1_ratios": [0.0, 0.3, 1.0], "fit_intercept": intercept}
    model = at.model(CV[cls], cv=2, scoring="neg_log_loss", **options).fit(at.X(X), at.y(y))
    return [*answers(model, at.X(X[:20])), model.scores_, model.C_, model.l1_ratio_]


@case(*each((BINARY, SOFTMAX), ("l1", "bounds", "weights")))
def grid_of(at, cls, penalty):
    X, y = kinked(cls)
    options = {name: value for name, value in PENALTIES[penalty].items() if name not in ("C", "l1_ratio")}
    values = {"C": [0.01, 0.1], "l1_ratio": [0.0, 1.0]}
    search = TorchGridSearchCV(at.model(cls, **options), values, cv=2, scoring="neg_log_loss").fit(at.X(X), at.y(y))
    return [search.cv_results_["mean_test_score"], *answers(search.best_estimator_, at.X(X[:20]))]


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
