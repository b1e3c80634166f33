"""A model taken elsewhere answers as before: in scikit-learn, in torch, in ONNX, and back."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import run_program, table
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from torchlogreg import (
    LogisticModule,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
    to_sklearn,
    to_torch,
)


def data(binary, dtype=np.float64, names=None):
    X, y = table("wine", False, binary)
    return X.astype(dtype), y if names is None else np.asarray(names)[y]


def model(cls, dtype=np.float64, **parameters):
    binary = cls in (TorchLogisticRegression, TorchLogisticRegressionCV)
    X, y = data(binary, dtype)
    return cls(**parameters).fit(X, y)


CV = {"Cs": [0.1, 1], "cv": 3}
FITTED = {
    "binary": lambda: model(TorchLogisticRegression),
    "binary, float32": lambda: model(TorchLogisticRegression, np.float32, tol=1e-3),
    "softmax": lambda: model(TorchSoftmaxClassifier),
    "softmax, float32": lambda: model(TorchSoftmaxClassifier, np.float32, tol=1e-3),
    "softmax of two": lambda: TorchSoftmaxClassifier().fit(*data(True)),
    "no intercept": lambda: model(TorchSoftmaxClassifier, fit_intercept=False, C=0.1, solver="lbfgs"),
    "strings": lambda: TorchSoftmaxClassifier().fit(*data(False, names=["c", "b", "a"])),
    "binary cv": lambda: model(TorchLogisticRegressionCV, **CV),
    "softmax cv": lambda: model(TorchSoftmaxClassifierCV, **CV),
}


def rows(fitted):
    return data(isinstance(fitted, TorchLogisticRegression | TorchLogisticRegressionCV))[0]


def schema(estimator):
    """Fitted attributes with their types, dtypes and shapes."""
    return {
        name: (type(value), getattr(value, "dtype", None), np.shape(value))
        for name, value in vars(estimator).items()
        if name.endswith("_") and name != "classes_"
    }


# to_sklearn


@pytest.mark.parametrize("name", FITTED)
def test_as_logistic_regression(name):
    ours = FITTED[name]()
    theirs = ours.to_sklearn()
    assert type(theirs) is LogisticRegression
    check_is_fitted(theirs)
    X = rows(ours)
    for rescaled in (X, 1000 * X, -1000 * X):  # probabilities of zero and one among them
        np.testing.assert_array_equal(theirs.predict(rescaled), ours.predict(rescaled))
        np.testing.assert_allclose(theirs.predict_proba(rescaled), ours.predict_proba(rescaled), atol=1e-12)
        expected = ours.decision_function(rescaled)
        np.testing.assert_allclose(theirs.decision_function(rescaled), expected, atol=1e-12 * abs(expected).max())
    pd.testing.assert_series_equal(pd.Series(theirs.classes_), pd.Series(ours.classes_))
    X, y = table("wine", True, binary=len(ours.classes_) == 2)
    really = LogisticRegression().fit(X.astype(ours.coef_.dtype), y)
    assert schema(theirs) == schema(really)
    for attribute in ("coef_", "intercept_", "classes_"):
        assert not np.shares_memory(getattr(theirs, attribute), getattr(ours, attribute))


def test_parameters_carry_over():
    parameters = {
        "C": 3.0,
        "fit_intercept": False,
        "class_weight": {0: 1, 1: 2, 2: 3},
        "tol": 1e-6,
        "max_iter": 1000,
        "warm_start": True,
        "random_state": 5,
        "verbose": 0,
    }
    for solver, expected in (("auto", "lbfgs"), ("lbfgs", "lbfgs"), ("newton-cholesky", "newton-cholesky")):
        ours = model(TorchSoftmaxClassifier, solver=solver, **parameters)
        theirs = ours.to_sklearn()
        assert theirs.get_params().items() >= {**parameters, "solver": expected}.items()
        X, y = data(False)
        theirs.set_params(solver="newton-cholesky").fit(X, y)  # the same objective, and it starts at its minimum
        assert theirs.n_iter_.max() <= 2
        np.testing.assert_allclose(theirs.coef_, ours.coef_, atol=1e-4)
        assert TorchSoftmaxClassifier.from_sklearn(ours.to_sklearn()).get_params().items() >= parameters.items()


def test_the_chosen_C_carries_over():
    ours = FITTED["softmax cv"]()
    assert ours.to_sklearn().C == ours.C_
    assert ours.to_sklearn().n_iter_ == ours.n_iter_.max()


def test_other_estimators_take_it():
    X, y = data(True)
    frozen = FrozenEstimator(FITTED["binary"]().to_sklearn())
    calibrated = CalibratedClassifierCV(frozen, method="sigmoid", cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9
    clone(FITTED["binary"]().to_sklearn()).set_params(max_iter=10_000).fit(X, y)


def test_names_of_features_carry_over():
    X, y = data(False)
    frame = pd.DataFrame(X, columns=[f"feature {i}" for i in range(13)])
    theirs = TorchSoftmaxClassifier().fit(frame, y).to_sklearn()
    assert theirs.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        theirs.predict(frame.rename(columns={"feature 0": "other"}))
    ours = TorchSoftmaxClassifier.from_sklearn(theirs)
    np.testing.assert_allclose(ours.predict_proba(frame), theirs.predict_proba(frame), atol=1e-12)
    with pytest.raises(ValueError, match="feature names"):
        ours.predict(frame.rename(columns={"feature 0": "other"}))


# from_sklearn

SCALED = {binary: table("wine", True, binary) for binary in (False, True)}
THEIRS = {
    "lbfgs": LogisticRegression(C=0.5),
    "newton-cholesky": LogisticRegression(solver="newton-cholesky", fit_intercept=False),
    "newton-cg": LogisticRegression(solver="newton-cg", class_weight="balanced"),
    "saga": LogisticRegression(solver="saga", random_state=0, l1_ratio=1, max_iter=5000),
    "sag": LogisticRegression(solver="sag", random_state=0, C=np.inf, max_iter=5000, tol=1e-2),
    "cv": LogisticRegressionCV(Cs=3, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"),
    "cv, legacy": LogisticRegressionCV(Cs=3, l1_ratios=(0,), use_legacy_attributes=True, scoring="accuracy"),
}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", THEIRS)
def test_from_logistic_regression_and_back(name, binary):
    X, y = SCALED[binary]
    theirs = clone(THEIRS[name]).fit(X, y)
    for cls in (TorchLogisticRegression, TorchSoftmaxClassifier) if binary else (TorchSoftmaxClassifier,):
        ours = cls.from_sklearn(theirs)
        assert type(ours) is cls
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-12)
        assert not np.shares_memory(ours.coef_, theirs.coef_)
        back = ours.to_sklearn()
        np.testing.assert_array_equal(back.coef_, theirs.coef_)
        np.testing.assert_array_equal(back.intercept_, theirs.intercept_)
        assert schema(back).items() <= {**schema(theirs), **schema(LogisticRegression().fit(X, y))}.items()
        assert not hasattr(ours, "converged_")  # scikit-learn does not say
        if name != "sag" and ours.l1_ratio == 0:
            ours.set_params(tol=1e-6, max_iter=500).fit(X, y)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_from_liblinear(fit_intercept):
    X, y = SCALED[True]
    theirs = LogisticRegression(solver="liblinear", fit_intercept=fit_intercept).fit(X, y)
    ours = TorchLogisticRegression.from_sklearn(theirs)
    assert ours.intercept_.shape == (1,)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-12)


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated:FutureWarning", "ignore:Inconsistent values")
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"penalty": None}, {"C": np.inf, "l1_ratio": 0.0}),
        ({"penalty": "l2", "C": 2}, {"C": 2.0, "l1_ratio": 0.0}),
        ({"penalty": "l1", "solver": "saga"}, {"C": 1.0, "l1_ratio": 1.0}),
        ({"penalty": "elasticnet", "solver": "saga", "l1_ratio": 0.3}, {"C": 1.0, "l1_ratio": 0.3}),
    ],
    ids=lambda value: str(value.get("penalty")),
)
def test_the_old_parameter_penalty_is_understood(parameters, expected):
    theirs = LogisticRegression(max_iter=10_000, **parameters).fit(*SCALED[False])
    assert TorchSoftmaxClassifier.from_sklearn(theirs).get_params().items() >= expected.items()


def old(multi_class, binary=False, **parameters):
    """A model as an older scikit-learn fitted it, that has outlived an upgrade in a pickle."""
    theirs = LogisticRegression(**parameters).fit(*SCALED[binary])
    theirs.multi_class = multi_class
    return theirs


def with_attributes(**attributes):
    theirs = LogisticRegression().fit(*SCALED[False])
    for name, value in attributes.items():
        setattr(theirs, name, value)
    return theirs


REFUSED = {
    "another estimator": (lambda: RidgeClassifier().fit(*SCALED[False]), TypeError, "not a RidgeClassifier"),
    "a pipeline": (lambda: make_pipeline(LogisticRegression()).fit(*SCALED[False]), TypeError, r"pipeline\[-1\]"),
    "not fitted": (LogisticRegression, NotFittedError, "not fitted"),
    "one against the rest": (lambda: old("ovr"), ValueError, "no softmax"),
    "liblinear of old": (lambda: with_attributes(solver="liblinear"), ValueError, "no softmax"),
    "two rows": (lambda: old("multinomial", binary=True), ValueError, "one logit"),
    "sparse": (lambda: LogisticRegression().fit(*SCALED[False]).sparsify(), ValueError, "densify"),
    "several C": (lambda: with_attributes(C_=np.array([1.0, 1.0, 2.0])), ValueError, "different values"),
    "not finite": (lambda: with_attributes(intercept_=np.full(3, np.nan)), ValueError, "NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_softmax_is_refused(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        TorchSoftmaxClassifier.from_sklearn(make())


def test_three_classes_need_the_softmax_classifier():
    theirs = LogisticRegression().fit(*SCALED[False])
    with pytest.raises(ValueError, match="use TorchSoftmaxClassifier"):
        TorchLogisticRegression.from_sklearn(theirs)


@pytest.mark.parametrize("multi_class", ["auto", "deprecated", "multinomial"])
def test_old_models_that_are_a_softmax_are_not_refused(multi_class):
    theirs = old(multi_class)
    proba = TorchSoftmaxClassifier.from_sklearn(theirs).predict_proba(SCALED[False][0])
    np.testing.assert_allclose(proba, theirs.predict_proba(SCALED[False][0]), atol=1e-12)


# to_torch


@pytest.mark.parametrize("name", FITTED)
def test_as_torch_module(name):
    ours = FITTED[name]()
    module = ours.to_torch()
    X = rows(ours).astype(ours.coef_.dtype)
    atol = 1e-12 if X.dtype == np.float64 else 2e-4  # raw features: logits are large
    proba, logits = module(torch.from_numpy(X)), module.logits(torch.from_numpy(X))
    assert proba.dtype == logits.dtype == (torch.float64 if X.dtype == np.float64 else torch.float32)
    assert proba.shape == (len(X), len(ours.classes_))
    np.testing.assert_allclose(proba.detach().numpy(), ours.predict_proba(X), atol=atol)
    np.testing.assert_allclose(logits.detach().numpy(), ours.decision_function(X), rtol=1e-5, atol=100 * atol)
    np.testing.assert_array_equal(ours.classes_[proba.argmax(dim=1).numpy()], ours.predict(X))
    before = ours.coef_.copy()
    with torch.no_grad():
        module.linear.weight += 1
    np.testing.assert_array_equal(ours.coef_, before)


def test_a_module_has_two_classes_or_more():
    with pytest.raises(ValueError, match="n_classes=1"):
        LogisticModule(3, 1)


def test_more_dimensions_and_single_rows():
    for ours, K in ((FITTED["binary"](), 2), (FITTED["softmax"](), 3)):
        X = torch.from_numpy(rows(ours)[:12]).unflatten(0, (3, 4))
        module = ours.to_torch()
        assert module(X).shape == (3, 4, K)
        torch.testing.assert_close(module(X[1, 2]), module(X)[1, 2])
        torch.testing.assert_close(module.logits(X[1]), module.logits(X)[1])


def test_tails_are_accurate():
    module = LogisticModule(1, 2, dtype=torch.float64)
    torch.nn.init.ones_(module.linear.weight)
    z = torch.tensor([[-1e4], [-300.0], [300.0], [1e4]], dtype=torch.float64)
    expected = torch.tensor([[1, 0], [1, np.exp(-300)], [np.exp(-300), 1], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(module(z), expected, rtol=1e-12, atol=0)


def test_probabilities_are_differentiable():
    for ours in (FITTED["binary"](), FITTED["softmax"]()):
        module = ours.to_torch()
        X = torch.from_numpy(rows(ours)[:5] / 100).requires_grad_()
        assert torch.autograd.gradcheck(module, X)
        module(X)[:, 0].sum().backward()
        p, w = ours.predict_proba(X.detach().numpy())[:, :, None], ours.coef_
        w = np.stack([0 * w[0], w[0]]) if len(w) == 1 else w
        expected = p[:, 0] * (w[0] - (p * w).sum(axis=1))  # the derivative of a softmax
        np.testing.assert_allclose(X.grad.numpy(), expected, atol=1e-12)


def test_training_can_go_on():
    X, y = SCALED[False]
    X, y = torch.tensor(X.copy(), dtype=torch.float32), torch.tensor(y.copy())
    module = LogisticModule(13, 3)
    torch.testing.assert_close(module(X), torch.full((len(X), 3), 1 / 3))
    optimizer = torch.optim.LBFGS(module.parameters(), lr=1, max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(module.logits(X), y) + (module.linear.weight**2).sum() / (2 * len(X))
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = TorchSoftmaxClassifier(tol=1e-8).fit(X.double(), y)
    np.testing.assert_allclose(module.linear.weight.detach().numpy(), expected.coef_, atol=1e-3)
    for binary, loss in ((True, binary_cross_entropy_with_logits), (False, cross_entropy)):
        X, y = SCALED[binary]
        ours = TorchSoftmaxClassifier(tol=1e-8).fit(X, y)
        y = torch.from_numpy(np.searchsorted(ours.classes_, y))
        module = ours.to_torch()
        logits = module.logits(torch.from_numpy(X.copy()))
        penalty = (module.linear.weight**2).sum() / (2 * len(X))
        (loss(logits, y.double() if binary else y) + penalty).backward()
        assert module.linear.weight.grad.abs().max() < 1e-8  # it starts at the minimum


def test_its_state_is_data(tmp_path):
    ours = FITTED["softmax"]()
    torch.save(ours.to_torch().state_dict(), tmp_path / "state.pt")
    module = LogisticModule(13, 3, dtype=torch.float64)
    module.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    X = torch.from_numpy(rows(ours))
    assert torch.equal(module(X), ours.to_torch()(X))
    plain = torch.nn.Linear(13, 3, dtype=torch.float64)  # nothing of ours is needed to read it
    plain.load_state_dict({k.removeprefix("linear."): v for k, v in module.state_dict().items()})
    assert torch.equal(plain(X), module.logits(X))


def test_a_module_is_pickled_and_exported():
    module = FITTED["binary"]().to_torch()
    X = torch.from_numpy(data(True)[0])
    assert torch.equal(pickle.loads(pickle.dumps(module))(X), module(X))
    exported = torch.export.export(module, (X,)).module()
    torch.testing.assert_close(exported(X), module(X))


@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "meta", "float16"])
def test_the_users_settings_do_not_reach_the_module(state):
    ours = FITTED["softmax"]()
    generator = torch.get_rng_state()
    if state == "no_grad":
        with torch.no_grad():
            module = ours.to_torch()
    elif state == "inference_mode":
        with torch.inference_mode():
            module = ours.to_torch()
    elif state == "meta":
        with torch.device("meta"):
            module = ours.to_torch()
    else:
        torch.set_default_dtype(torch.float16)
        try:
            module = ours.to_torch()
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), generator)
    assert module.linear.weight.device.type == "cpu"
    assert module.linear.weight.dtype == torch.float64
    module(torch.from_numpy(rows(ours)))[:, 0].sum().backward()
    assert module.linear.weight.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_an_accelerator():
    ours = FITTED["softmax"]()
    module = ours.to_torch().to("cuda")
    proba = module(torch.from_numpy(rows(ours)).cuda())
    assert proba.device.type == "cuda"
    np.testing.assert_allclose(proba.detach().cpu().numpy(), ours.predict_proba(rows(ours)), atol=1e-12)


@pytest.mark.parametrize("method", ["to_torch", "to_sklearn"])
@pytest.mark.parametrize("cls", [TorchLogisticRegression, TorchSoftmaxClassifierCV])
def test_only_fitted_models_are_converted(cls, method):
    with pytest.raises(NotFittedError):
        getattr(cls(), method)()


# Pipelines

SCALERS = {
    "standard": [StandardScaler()],
    "mean only": [StandardScaler(with_std=False)],
    "spread only": [StandardScaler(with_mean=False)],
    "neither": [StandardScaler(with_mean=False, with_std=False)],
    "minmax": [MinMaxScaler((-3, 2))],
    "maxabs": [MaxAbsScaler()],
    "robust": [RobustScaler()],
    "robust, no centre": [RobustScaler(with_centering=False)],
    "robust, no scale": [RobustScaler(with_scaling=False)],
    "passthrough": ["passthrough"],
    "several": [RobustScaler(), "passthrough", MinMaxScaler(), StandardScaler(), MaxAbsScaler()],
}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", SCALERS)
def test_scaling_is_folded_in(name, binary):
    X, y = data(binary)
    X = np.column_stack([X, np.ones(len(X)), np.zeros(len(X))])  # constant columns have no scale
    steps = [step if step == "passthrough" else clone(step) for step in SCALERS[name]]
    pipeline = make_pipeline(*steps, TorchSoftmaxClassifier(tol=1e-2)).fit(X, y)
    module = to_torch(pipeline)
    assert isinstance(module, LogisticModule)
    proba = module(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(proba, pipeline.predict_proba(X), atol=1e-11)
    theirs = to_sklearn(pipeline)
    np.testing.assert_allclose(theirs.predict_proba(X), pipeline.predict_proba(X), atol=1e-12)


def test_columns_of_any_scale_are_folded_in():
    X, y = SCALED[False]
    X = (X + 10) * np.logspace(-8, 8, 13)
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(X, y)
    proba = to_torch(pipeline)(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(proba, pipeline.predict_proba(X), atol=1e-11)


def test_the_dtype_is_that_of_the_coefficients():
    X, y = data(False, np.float32)
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(X, y)
    module = to_torch(pipeline)
    assert module.linear.weight.dtype == torch.float32
    np.testing.assert_allclose(module(torch.from_numpy(X)).detach().numpy(), pipeline.predict_proba(X), atol=1e-4)


def test_an_estimator_alone_is_a_pipeline_of_one_step():
    ours = FITTED["softmax"]()
    X = torch.from_numpy(rows(ours))
    assert torch.equal(to_torch(ours)(X), ours.to_torch()(X))
    assert torch.equal(to_torch(make_pipeline(ours))(X), ours.to_torch()(X))
    assert type(to_sklearn(ours)) is LogisticRegression
    cv = make_pipeline(StandardScaler(), TorchSoftmaxClassifierCV(**CV)).fit(*data(False))
    np.testing.assert_allclose(to_torch(cv)(X).detach().numpy(), cv.predict_proba(X.numpy()), atol=1e-12)


def test_a_converted_pipeline_is_independent():
    X, y = data(False)
    pipeline = make_pipeline(StandardScaler(), PCA(3), TorchSoftmaxClassifier(), verbose=False).fit(X, y)
    theirs = to_sklearn(pipeline)
    assert type(theirs) is Pipeline
    assert [name for name, _ in theirs.steps] == [name for name, _ in pipeline.steps]
    expected = pipeline.predict_proba(X)
    np.testing.assert_allclose(theirs.predict_proba(X), expected, atol=1e-12)
    theirs.fit(X * 2 + 1, y)
    np.testing.assert_array_equal(pipeline.predict_proba(X), expected)


def overflowing():
    X = np.random.default_rng(0).normal(size=(20, 1)).astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression()).fit(X, X[:, 0] > 0)
    pipeline[0].scale_ = np.array([1e-300])
    return pipeline


def unfitted_scaler():
    pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression()).fit(*data(True))
    return Pipeline([("scaler", StandardScaler()), pipeline.steps[1]])


NOT_FOLDED = {
    "another step": (
        lambda: make_pipeline(StandardScaler(), PCA(3), TorchSoftmaxClassifier()).fit(*data(False)),
        TypeError,
        r"'pca' is a PCA.*MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler.*pipeline\[-1\]",
    ),
    "clipping": (
        lambda: make_pipeline(MinMaxScaler(clip=True), TorchSoftmaxClassifier()).fit(*data(False)),
        ValueError,
        "'minmaxscaler' clips",
    ),
    "another classifier": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(*data(False)),
        TypeError,
        "one of torchlogreg's",
    ),
    "no classifier": (lambda: make_pipeline(StandardScaler()), TypeError, "one of torchlogreg's"),
    "not fitted": (lambda: make_pipeline(StandardScaler(), TorchLogisticRegression()), NotFittedError, "fitted"),
    "scaler not fitted": (unfitted_scaler, NotFittedError, "fitted"),
    "overflow": (overflowing, ValueError, "overflow float32"),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_what_cannot_be_folded_is_refused(name):
    make, error, message = NOT_FOLDED[name]
    with pytest.raises(error, match=message):
        to_torch(make())


def test_only_our_pipelines_are_converted():
    with pytest.raises(TypeError, match="one of torchlogreg's"):
        to_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(*data(False)))


# ONNX


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [None, ["c", "b", "a"]], ids=["numbers", "strings"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_onnx(piped, binary, labels, dtype):
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    X, y = table("wine", not piped, binary)
    y = y if labels is None else np.asarray(labels)[y]
    ours = TorchLogisticRegression() if binary else TorchSoftmaxClassifier()
    ours = (make_pipeline(StandardScaler(), ours) if piped else ours).fit(X, y)
    X = X.astype(dtype)
    onnx = skl2onnx.to_onnx(to_sklearn(ours), X[:1], options={"zipmap": False})
    session = runtime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    predicted, proba = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_array_equal(predicted, ours.predict(X))
    np.testing.assert_allclose(proba, ours.predict_proba(X), atol=1e-12 if dtype == np.float64 else 1e-5)


def test_a_module_needs_no_model_in_the_process_that_loads_it(tmp_path):
    FITTED["binary"]().save(tmp_path / "model.safetensors")
    code = (
        "import sys, safetensors.torch, torchlogreg; module = torchlogreg.LogisticModule(13, 2);"
        "state = safetensors.torch.load_file(sys.argv[1]);"
        "module.load_state_dict({'linear.weight': state['coef_'], 'linear.bias': state['intercept_']})"
    )
    run_program(code, tmp_path / "model.safetensors")
