"""Tensors, arrays of other libraries and frames: the answers of NumPy, and with `array_api_dispatch` in kind."""

import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers import SOLVERS, gradient_norm, objective, run_program, table
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_array_api_input_and_values, check_array_api_mixed_inputs

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.products import PRODUCT_DTYPES

strict = pytest.importorskip("array_api_strict")
SGD = {"max_iter": 20, "tol": 0, "random_state": 0}
HALF = [torch.float16, torch.bfloat16]
DATA = {"binary": (TorchLogisticRegression, "breast_cancer"), "multiclass": (TorchSoftmaxClassifier, "wine")}


class Capsule:
    """An array of a library that torch knows nothing of: no more than DLPack."""

    def __init__(self, array):
        self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, array.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __len__(self):
        return len(self.array)


class Sub(torch.Tensor):
    """A subclass, as users and libraries make them."""


CONTAINERS = {
    "tensor": torch.tensor,
    "tensor with gradient": lambda X: torch.tensor(X, requires_grad=True),
    "transposed": lambda X: torch.tensor(np.ascontiguousarray(X.T)).T,
    "strided": lambda X: torch.tensor(np.repeat(X, 2, axis=1))[:, ::2],
    "expanded": lambda X: torch.tensor(X)[None].expand(3, -1, -1)[1],
    "negative view": lambda X: torch.complex(torch.zeros(X.shape, dtype=torch.float64), -torch.tensor(X)).conj().imag,
    "subclass": lambda X: torch.tensor(X).as_subclass(Sub),
    "parameter": lambda X: torch.nn.Parameter(torch.tensor(X)),
    "array-api-strict": lambda X: strict.asarray(X.copy()),
    "DLPack": lambda X: Capsule(X.copy()),
    "pandas": lambda X: pytest.importorskip("pandas").DataFrame(X.copy()),
    "polars": lambda X: pytest.importorskip("polars").DataFrame(X.copy(), schema=[f"x{i}" for i in range(X.shape[1])]),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", DATA)
def test_every_container_gives_the_coefficients_of_numpy(case, solver):
    estimator, name = DATA[case]
    X, y = table(name, True)
    weight = 1.0 + np.arange(len(y)) % 3
    model = estimator(solver=solver, **(SGD if solver == "sgd" else {"tol": 1e-9}))
    expected = model.fit(X, y, weight)
    coef, proba, score = expected.coef_, expected.predict_proba(X), expected.score(X, y)
    for container, make in CONTAINERS.items():
        data = make(X)
        labels, weights = (torch.tensor(y), torch.tensor(weight)) if "tensor" in container else (y, weight)
        fitted = clone(model).fit(data, labels, weights)
        np.testing.assert_allclose(fitted.coef_, coef, rtol=0, atol=1e-8, err_msg=container)
        np.testing.assert_allclose(fitted.predict_proba(data), proba, atol=1e-8, err_msg=container)
        assert type(fitted.coef_) is type(fitted.classes_) is type(fitted.predict(data)) is np.ndarray
        assert fitted.score(data, labels) == score


def test_the_negative_view_is_one():
    assert CONTAINERS["negative view"](table("wine", True)[0].copy()).is_neg()


def test_dlpack_shares_the_memory():
    from torchlogreg._data.array_api import tensor_of

    X = np.ones((3, 2))
    for make in (Capsule, strict.asarray, torch.from_numpy):
        assert tensor_of(make(X)).data_ptr() == X.ctypes.data
    assert tensor_of(X) is None
    assert tensor_of([[1.0]]) is None


@pytest.mark.parametrize("dtype", [*HALF, torch.float8_e4m3fn])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", DATA)
def test_half_precision_is_a_float64_fit_on_the_rounded_values(case, solver, dtype):
    estimator, name = DATA[case]
    X, y = table(name, True)
    half = torch.tensor(X).to(dtype)
    settings = {"tol": 1e-6} if solver != "sgd" else SGD
    model = estimator(solver=solver, **settings).fit(half, y)
    same = estimator(solver=solver, **settings).fit(half.double().numpy(), y)
    atol = 1e-5 if solver == "sgd" else 1e-4  # the same steps in float32; or until the gradient is at most tol
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=0, atol=atol)
    np.testing.assert_allclose(model.predict_proba(half), same.predict_proba(half.double()), atol=atol)
    assert model.coef_.dtype == np.float32
    assert gradient_norm(model, half.double().numpy(), y) == pytest.approx(model.gradient_norm_, rel=1e-6, abs=1e-12)


def big(n_classes, n=25_000, p=40):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, p, generator=generator)
    W = torch.randn(p, n_classes, generator=generator) / p**0.5
    return X, (X @ W + torch.randn(n, n_classes, generator=generator)).argmax(dim=1)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("n_classes", [2, 3, 30])
def test_half_precision_in_many_blocks(n_classes, dtype):
    """Samples and preconditioners in an eigenbasis: paths that small tables do not take."""
    X, y = big(n_classes)
    half = X.to(dtype)
    model = TorchSoftmaxClassifier(tol=1e-5).fit(half, y)
    same = TorchSoftmaxClassifier(tol=1e-7).fit(half.double(), y)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=0, atol=1e-3 if n_classes == 30 else 2e-4)
    assert model.objective_ == pytest.approx(same.objective_, rel=1e-6)


def test_half_precision_with_outliers_and_rare_rows():
    """Samples that the fit gives up, and a problem that is its own sample."""
    X, y = big(3, n=3000, p=30)
    X[::500] *= 300
    X[:, 5] = 0
    X[7, 5] = 100.0
    weight = torch.zeros(3000, dtype=torch.float64)
    weight[:40] = 1.0
    half = X.bfloat16()
    for w in (None, weight):
        for C in (1.0, np.inf) if w is None else (1.0,):
            separated = pytest.warns(ConvergenceWarning, match="perfectly separated")  # the row that has a column alone
            with separated if np.isinf(C) else nullcontext():
                model = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-5, C=C, max_iter=500).fit(half, y, w)
                same = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-5, C=C, max_iter=500).fit(half.double(), y, w)
            assert model.objective_ == pytest.approx(same.objective_, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_and_booleans_are_lifted_to_float64(dtype):
    X, y = (array[:600] for array in table("digits", False))
    tensor = (torch.tensor(X) > 7) if dtype == torch.bool else torch.tensor(X).to(dtype)
    for solver in ("lbfgs", "sgd"):
        model = TorchSoftmaxClassifier(solver=solver, tol=1e-3, max_iter=30 if solver == "sgd" else 500, random_state=0)
        model.set_params(tol=0 if solver == "sgd" else 1e-3).fit(tensor, y)
        same = TorchSoftmaxClassifier(**model.get_params()).fit(tensor.double(), y)
        np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-6, atol=1e-9)
        assert model.coef_.dtype == np.float64


@pytest.mark.parametrize("dtype", [*HALF, torch.uint8, torch.int32])
def test_what_rows_store_is_lifted_in_blocks_only(dtype):
    X = (torch.rand(20_000, 50) * 100).to(dtype)
    rows = DenseDesign(X, torch.zeros(20_000), torch.ones(20_000, 1), intercept=True)
    assert rows.X.data_ptr() == X.data_ptr()
    for block in rows.blocks():
        assert block.X.dtype in PRODUCT_DTYPES
        assert block.X.numel() < X.numel() / 2
    assert rows.take(slice(10)).X.dtype in PRODUCT_DTYPES
    W = torch.rand(2, 51, 3, dtype=torch.float64)
    exact = torch.cat([X.double(), torch.ones(20_000, 1)], dim=1)
    expected = torch.einsum("nd,bdk->nbk", exact, W)
    actual = torch.cat([block.matvec(W) for block in rows.blocks()]).double()
    assert torch.allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", [TorchLogisticRegressionCV, TorchSoftmaxClassifierCV])
def test_cross_validation_on_half_precision(estimator):
    X, y = table("breast_cancer", True)
    half = torch.tensor(X).bfloat16()
    cv = estimator(Cs=[0.1, 1.0], cv=3, tol=1e-6).fit(half, torch.tensor(y))
    same = estimator(Cs=[0.1, 1.0], cv=3, tol=1e-6).fit(half.double().numpy(), y)
    np.testing.assert_allclose(cv.coefs_paths_, same.coefs_paths_, atol=1e-5)
    np.testing.assert_allclose(cv.scores_, same.scores_, atol=1e-5)
    search = TorchGridSearchCV(TorchSoftmaxClassifier(), {"C": [0.1, 1.0]}, cv=3).fit(half, torch.tensor(y))
    assert search.best_estimator_.coef_.dtype == np.float32


X, Y = table("wine", True)
BAD = {
    "meta": (lambda: torch.tensor(X).to("meta"), ValueError, "meta device"),
    "sparse": (lambda: torch.tensor(X).to_sparse(), TypeError, r"to_dense"),
    "complex": (lambda: torch.tensor(X) * 1j, ValueError, "Complex data not supported"),
    "NaN": (lambda: torch.tensor(np.where(X > 2, np.nan, X)).bfloat16(), ValueError, "Input X contains NaN"),
    "infinity": (lambda: torch.tensor(np.where(X > 2, 1e300, X)).half(), ValueError, "Input X contains infinity"),
    "one axis": (lambda: torch.tensor(X[:, 0]), ValueError, "Expected 2D array"),
    "three axes": (lambda: torch.tensor(X)[None], ValueError, "Expected 2D array"),
    "no rows": (lambda: torch.zeros(0, 13), ValueError, "0 sample"),
    "no columns": (lambda: torch.zeros(len(Y), 0), ValueError, "0 feature"),
    "too few": (lambda: torch.tensor(X[1:]), ValueError, "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors_are_named(case):
    make, error, message = BAD[case]
    model = TorchSoftmaxClassifier().fit(X, Y)
    before = dict(vars(model))
    with pytest.raises(error, match=message):
        model.fit(make(), Y)
    assert all(value is before[name] for name, value in vars(model).items())


def test_finite_values_whose_sum_overflows_are_fine():
    tensor = torch.full((4, 3), 3e38)
    from torchlogreg._data.validation import checked_tensor

    assert checked_tensor(TorchLogisticRegression(), tensor, reset=True) is not None


def test_a_tensor_is_left_as_it_was():
    tensor = torch.tensor(X, requires_grad=True)
    before = tensor.detach().clone()
    TorchSoftmaxClassifier().fit(tensor, Y).predict_proba(tensor)
    assert torch.equal(tensor.detach(), before)
    assert tensor.grad is None
    assert tensor.requires_grad


def test_labels_and_weights_of_any_dtype():
    expected = TorchSoftmaxClassifier(tol=1e-8).fit(X, Y).coef_
    for y in (torch.tensor(Y).bfloat16(), torch.tensor(Y).float().requires_grad_(), strict.asarray(Y.copy())):
        model = TorchSoftmaxClassifier(tol=1e-8).fit(X, y, torch.ones(len(Y), dtype=torch.float16))
        np.testing.assert_allclose(model.coef_, expected, rtol=1e-9)
        assert model.score(X, y, torch.ones(len(Y)).requires_grad_()) > 0.99
    start = TorchSoftmaxClassifier(max_iter=0, solver="newton-cholesky", tol=1e9)
    assert np.array_equal(start.fit(X, Y, coef_init=torch.tensor(expected)).coef_, expected)


# Array API


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("estimator", [TorchLogisticRegression, TorchSoftmaxClassifier])
@pytest.mark.parametrize(
    ("library", "device", "dtype"),
    [
        ("torch", "cpu", "float64"),
        ("torch", "cpu", "float32"),
        ("array_api_strict", "CPU_DEVICE", "float64"),
        ("array_api_strict", "device1", "float32"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_values_under_dispatch_are_those_of_numpy(library, device, dtype, estimator, solver):
    model = estimator(solver=solver, random_state=0)
    check_array_api_input_and_values("", model, library, device, dtype, check_sample_weight=True)


@pytest.mark.parametrize("other", ["numpy", "array_api_strict", "torch"])
@pytest.mark.parametrize("own", ["numpy", "array_api_strict", "torch"])
def test_labels_and_weights_follow_X(own, other):
    from sklearn.utils._array_api import NamespaceAndDevice

    check_array_api_mixed_inputs(
        "",
        TorchSoftmaxClassifier(),
        NamespaceAndDevice(own, "cpu" if own == "torch" else None),
        NamespaceAndDevice(other, "cpu" if other == "torch" else None),
        check_values=True,
    )


LIBRARIES = {"torch": torch.asarray, "array-api-strict": strict.asarray}


@pytest.mark.parametrize("library", LIBRARIES)
def test_attributes_and_answers_under_dispatch(library):
    make = LIBRARIES[library]
    kind = type(make([1.0]))
    X_, y_ = make(X.copy()), make(Y.copy())
    expected = TorchSoftmaxClassifier(random_state=0).fit(X, Y)
    with config_context(array_api_dispatch=True):
        model = TorchSoftmaxClassifier(random_state=0).fit(X_, y_)
        for name in ("coef_", "intercept_", "classes_", "loss_curve_", "n_iter_"):
            assert type(getattr(model, name)) is kind, name
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            answer = getattr(model, method)(X_)
            assert type(answer) is kind
            np.testing.assert_allclose(np.asarray(answer), getattr(expected, method)(X), atol=1e-12)
            with pytest.raises(ValueError, match=rf"TorchSoftmaxClassifier\.{method}\(\) must use the same namespace"):
                getattr(model, method)(X)
        names = np.array(["a", "b", "c"])
        text = TorchSoftmaxClassifier().fit(X_, names[Y])
        assert list(text.predict(X_)) == list(names[expected.predict(X)])
        warm = TorchSoftmaxClassifier(warm_start=True).fit(X_, y_).fit(X_, y_)
        assert warm.n_iter_[0] <= 1
        stream = TorchSoftmaxClassifier(random_state=0).partial_fit(X_, y_, classes=make([0, 1, 2]))
        stream.partial_fit(X_, y_)
        assert type(stream.coef_) is type(stream.classes_) is type(stream.loss_curve_) is kind
    # Without dispatch the same model answers in NumPy.
    assert type(model.predict(X)) is type(model.predict_proba(X_)) is np.ndarray
    np.testing.assert_allclose(model.predict_proba(X_), expected.predict_proba(X), atol=1e-12)


def test_answers_under_dispatch_can_meet_autograd():
    with config_context(array_api_dispatch=True):
        tensor = torch.tensor(X)
        proba = TorchSoftmaxClassifier().fit(tensor, torch.tensor(Y)).predict_proba(tensor)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (proba @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc", None])
def test_cross_validation_under_dispatch(library, scoring):
    make = LIBRARIES[library]
    X, y = table("breast_cancer", True)
    expected = TorchLogisticRegressionCV(Cs=[0.1, 1.0], cv=3, scoring=scoring).fit(X, y)
    with config_context(array_api_dispatch=True):
        data, labels = make(X.copy()), make(y.copy())
        model = TorchLogisticRegressionCV(Cs=[0.1, 1.0], cv=3, scoring=scoring).fit(data, labels)
        for name in ("coef_", "scores_", "coefs_paths_", "Cs_"):
            assert type(getattr(model, name)) is type(data)
        assert model.score(data, labels) == pytest.approx(expected.score(X, y))
    np.testing.assert_allclose(np.asarray(model.scores_), expected.scores_, atol=1e-9)


@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "roc_auc", lambda m, X, y: float(m.score(X, y))])
def test_a_grid_search_under_dispatch(scoring):
    X, y = table("breast_cancer", True)
    expected = TorchGridSearchCV(TorchLogisticRegression(), {"C": [0.1, 1.0]}, cv=3, scoring=scoring).fit(X, y)
    with config_context(array_api_dispatch=True):
        search = TorchGridSearchCV(TorchLogisticRegression(), {"C": [0.1, 1.0]}, cv=3, scoring=scoring)
        search.fit(torch.tensor(X), torch.tensor(y))
        assert isinstance(search.best_estimator_.coef_, torch.Tensor)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=1e-6
    )


def test_numpy_lists_and_frames_stay_numpy_under_dispatch():
    pd = pytest.importorskip("pandas")
    with config_context(array_api_dispatch=True):
        for data in (X, X.tolist(), pd.DataFrame(X)):
            model = TorchSoftmaxClassifier().fit(data, Y.tolist())
            assert type(model.coef_) is type(model.predict(data)) is np.ndarray


WITHOUT = """
import numpy as np, os, torch, pickle, sys
from torchlogreg import TorchSoftmaxClassifier
X, y = torch.randn(60, 4), torch.arange(60) % 3
model = TorchSoftmaxClassifier().fit(X, y)
assert type(model.predict(X)) is type(model.coef_) is np.ndarray
assert "SCIPY_ARRAY_API" not in os.environ
with open(sys.argv[1], "wb") as file:
    pickle.dump(model, file)
"""


def test_nothing_needs_the_environment_variable_and_pickles_hold_no_tensor(tmp_path):
    run_program(WITHOUT, tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    assert b"torch._utils" not in data
    assert pickle.loads(data).coef_.shape == (3, 4)


# Frames


def wine_frame(package, **columns):
    library = pytest.importorskip(package)
    return library.DataFrame({**{f"x{i}": column for i, column in enumerate(X.T)}, **columns})


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_feature_names_are_kept_and_checked(package):
    frame = wine_frame(package)
    model = TorchSoftmaxClassifier().fit(frame, Y)
    assert model.feature_names_in_.tolist() == [f"x{i}" for i in range(13)]
    model.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list(frame.columns)[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(torch.tensor(X))


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_mixed_columns(package):
    extra = {"count": np.arange(len(Y)), "flag": Y == 1, "single": X[:, 0].astype(np.float32)}
    model = TorchSoftmaxClassifier(tol=1e-8).fit(wine_frame(package, **extra), Y)
    same = TorchSoftmaxClassifier(tol=1e-8).fit(np.column_stack([X, *(np.float64(v) for v in extra.values())]), Y)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_float32_columns_are_kept(package):
    library = pytest.importorskip(package)
    frame = library.DataFrame({f"x{i}": column for i, column in enumerate(X.T.astype(np.float32))})
    assert TorchSoftmaxClassifier().fit(frame, Y).coef_.dtype == np.float32
    assert TorchSoftmaxClassifier().fit(wine_frame(package), Y).coef_.dtype == np.float64


def test_nullable_columns():
    pd = pytest.importorskip("pandas")
    frame = wine_frame("pandas")
    expected = TorchSoftmaxClassifier(tol=1e-8).fit(X, Y).coef_
    np.testing.assert_allclose(TorchSoftmaxClassifier(tol=1e-8).fit(frame.astype("Float64"), Y).coef_, expected)
    frame = frame.astype("Float64")
    frame.iloc[3, 2] = pd.NA
    with pytest.raises(ValueError, match="Input X contains NaN"):
        TorchSoftmaxClassifier().fit(frame, Y)
    pl = pytest.importorskip("polars")
    with pytest.raises(ValueError, match="Input X contains NaN"):
        TorchSoftmaxClassifier().fit(pl.DataFrame({"a": [1.0, None, 2.0, 3.0]}), [0, 1, 0, 1])


def categories():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    town = np.array(["a", "b"])[Y % 2]
    return {
        "pandas category": wine_frame("pandas", town=pd.Categorical(town)),
        "pandas category of numbers": wine_frame("pandas", town=pd.Categorical(Y)),
        "pandas text": wine_frame("pandas", town=town),
        "pandas date": wine_frame("pandas", town=pd.date_range("2020", periods=len(Y))),
        "polars category": wine_frame("polars", town=pl.Series(town, dtype=pl.Categorical)),
        "polars enum": wine_frame("polars", town=pl.Series(town, dtype=pl.Enum(["a", "b"]))),
        "polars text": wine_frame("polars", town=town),
        "polars date": wine_frame("polars", town=pl.Series(range(len(Y))).cast(pl.Date)),
    }


@pytest.mark.parametrize(
    "kind",
    [f"{a} {b}" for a in ("pandas", "polars") for b in ("category", "text", "date")]
    + ["pandas category of numbers", "polars enum"],
)
def test_columns_that_are_no_numbers_are_named(kind):
    frame = categories()[kind]
    with pytest.raises(ValueError, match=r"Columns that are no numbers: 'town'.*Encode them, with .*OneHotEncoder"):
        TorchSoftmaxClassifier().fit(frame, Y)


def test_objective_of_the_rounded_data():
    half = torch.tensor(X).half()
    model = TorchSoftmaxClassifier().fit(half, Y)
    assert model.objective_ == pytest.approx(objective(model, half.double().numpy(), Y), rel=1e-9)
