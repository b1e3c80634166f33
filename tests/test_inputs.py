"""Everything that users pass as X, y and weights, and what they are told when it cannot be used."""

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, SOLVERS, halves, table
from scipy import sparse
from sklearn.model_selection import StratifiedKFold

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

X, Y = table("wine", True)
REFERENCE = TorchSoftmaxClassifier(tol=1e-8).fit(X, Y)


def frames(package):
    library = pytest.importorskip(package)
    return library.DataFrame({f"x{i}": column for i, column in enumerate(X.T)})


def misaligned(X):
    """A field of packed records: its strides are no multiple of eight bytes."""
    records = np.zeros((len(X), X.shape[1]), dtype=[("flag", "i1"), ("value", "f8")])
    records["value"] = X
    return records["value"]


CONTAINERS = {
    "list": lambda: X.tolist(),
    "C": lambda: np.ascontiguousarray(X),
    "F": lambda: np.asfortranarray(X),
    "strided": lambda: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda: X[::-1].copy()[::-1],
    "misaligned": lambda: misaligned(X),
    "big endian": lambda: X.astype(">f8"),
    "object": lambda: X.astype(object),
    "pandas": lambda: frames("pandas"),
    "polars": lambda: frames("polars"),
    "tensor": lambda: torch.tensor(X),
    "tensor with gradient": lambda: torch.tensor(X, requires_grad=True),
    "transposed tensor": lambda: torch.tensor(np.ascontiguousarray(X.T)).T,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(container):
    data = CONTAINERS[container]()
    model = TorchSoftmaxClassifier(tol=1e-8).fit(data, Y)
    np.testing.assert_allclose(model.coef_, REFERENCE.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(data), REFERENCE.predict_proba(X), atol=1e-8)
    assert hasattr(model, "feature_names_in_") == (container in ("pandas", "polars"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int32", "int64", "uint8", "bool"])
def test_dtypes_of_X(dtype):
    values = (X * 10 > 0) if dtype == "bool" else np.abs(X * 10)
    values = values.astype(dtype)
    model = TorchSoftmaxClassifier().fit(values, Y)
    same = TorchSoftmaxClassifier().fit(values.astype(np.float64), Y)
    assert model.coef_.dtype == (np.float32 if dtype == "float32" else np.float64)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32])
def test_dtypes_of_tensors(dtype):
    tensor = torch.tensor(X * 4).to(dtype)
    model = TorchSoftmaxClassifier().fit(tensor, torch.tensor(Y))
    same = TorchSoftmaxClassifier().fit(tensor.double().numpy(), Y)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-2, atol=1e-3)
    assert model.predict(tensor).shape == Y.shape


LABELS = {
    "strings": np.array(["red", "white", "rose"])[Y],
    "objects": np.array(["red", "white", "rose"], dtype=object)[Y],
    "list": [f"class {k}" for k in Y],
    "negative": Y - 5,
    "floats": Y.astype(float),
    "int8": Y.astype(np.int8),
    "tensor": torch.tensor(Y),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels(kind):
    y = LABELS[kind]
    model = TorchSoftmaxClassifier(tol=1e-8).fit(X, y)
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    np.testing.assert_array_equal(model.classes_, classes)
    np.testing.assert_array_equal(model.predict(X), classes[model.predict_proba(X).argmax(axis=1)])
    assert model.score(X, y) > 0.99
    same = TorchSoftmaxClassifier(tol=1e-8).fit(X, codes)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-9)


def test_frames_of_labels_and_weights():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    weight = np.arange(len(Y)) % 3 + 1.0
    expected = TorchSoftmaxClassifier(tol=1e-8).fit(X, Y, weight).coef_
    for library in (pd, pl):
        model = TorchSoftmaxClassifier(tol=1e-8).fit(X, library.Series(Y), library.Series(weight))
        np.testing.assert_allclose(model.coef_, expected, rtol=1e-9)
    model = TorchSoftmaxClassifier(tol=1e-8).fit(X, Y, torch.tensor(weight))
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-9)


def test_booleans_are_two_classes():
    model = TorchLogisticRegression().fit(X, Y == 1)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    assert model.decision_function(X).shape == (len(X),)
    assert model.predict_proba(X).shape == (len(X), 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_arguments_are_left_as_they_were(solver):
    data, labels, weight = X.copy(), Y.copy(), np.ones(len(Y))
    start = np.zeros((3, X.shape[1]))
    model = TorchSoftmaxClassifier(
        solver=solver, class_weight="balanced", max_iter=30, tol=0 if solver == "sgd" else 1e-4
    )
    model.fit(data, labels, weight, coef_init=start).predict_proba(data)
    np.testing.assert_array_equal(data, X)
    np.testing.assert_array_equal(labels, Y)
    assert (weight == 1).all()
    assert not start.any()
    for array in (data, labels, weight, start):
        array.flags.writeable = False
    model.fit(data, labels, weight, coef_init=start)


def changed(index, value):
    data = X.copy()
    data[index] = value
    return data


one = np.ones(len(Y))
BAD = {
    "NaN in X": ((changed((3, 1), np.nan), Y), ValueError, "Input X contains NaN"),
    "infinity in X": ((changed((3, 1), np.inf), Y), ValueError, "Input X contains infinity"),
    "NaN in y": ((X, np.where(Y == 1, np.nan, Y)), ValueError, "y contains NaN"),
    "complex": ((X * 1j, Y), ValueError, "Complex data not supported"),
    "text": ((np.full(X.shape, "a"), Y), ValueError, "could not convert string to float"),
    "NaN in sparse X": ((sparse.csr_array(changed((3, 1), np.nan)), Y), ValueError, "Input X contains NaN"),
    "empty": ((np.zeros((0, 3)), []), ValueError, "Found array with 0 sample"),
    "no columns": ((np.zeros((5, 0)), [0, 1, 0, 1, 0]), ValueError, "0 feature"),
    "one-dimensional X": ((X[:, 0], Y), ValueError, "Expected 2D array"),
    "no labels": ((X, None), ValueError, "requires y to be passed"),
    "too few labels": ((X, Y[:-1]), ValueError, "inconsistent numbers of samples"),
    "one class": ((X, np.zeros(len(Y))), ValueError, "at least two classes.*only one class: 0.0"),
    "continuous labels": ((X, X[:, 0]), ValueError, "Unknown label type"),
    "negative weights": ((X, Y, -one), ValueError, "zero or positive"),
    "zero weights": ((X, Y, 0 * one), ValueError, "sample weights are zero"),
    "weights of another length": ((X, Y, one[:-1]), ValueError, r"expected one weight for each row, \(178,\)"),
    "NaN weights": ((X, Y, one * np.nan), ValueError, "sample_weight contains NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_leaves_a_fitted_model_alone(case):
    arguments, error, message = BAD[case]
    names = [f"x{i}" for i in range(X.shape[1])]
    pd = pytest.importorskip("pandas")
    model = TorchSoftmaxClassifier().fit(pd.DataFrame(X, columns=names), Y)
    before = dict(vars(model))
    with pytest.raises(error, match=message):
        model.fit(*arguments)
    assert vars(model) == before
    assert all(value is before[name] for name, value in vars(model).items())


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({0: -1.0}, "finite weights, zero or positive"),
        ({0: np.inf}, "finite weights"),
        ({7: 1.0}, r"The classes, \[0, 1, 2\], are not in class_weight, .* no classes: \[7\]"),
        ({"0": 1.0, "1": 2.0}, r"\[0, 1, 2\], are not in class_weight, .*'1'"),
        ({0: 0.0, 1: 0, 2: 0.0}, "class_weight leaves no row"),
    ],
)
def test_bad_class_weights(class_weight, message):
    with pytest.raises(ValueError, match=message):
        TorchSoftmaxClassifier(class_weight=class_weight).fit(X, Y)


# The labels of three classes, and other spellings of them that are the same keys.
KEYS = {
    "numbers as text": (["1", "10", "2"], np.str_),
    "text that is the same number": (["01", "1", "1.0"], str),
    "text": (["a", "b", "c"], np.str_),
    "objects": (np.array(["1", "b", "c"], dtype=object), np.str_),
    "integers": ([-3, 0, 10**12], np.int64),
    "small integers": (np.array([0, 1, 200], dtype=np.uint8), np.float32),
    "floats": ([-1.0, 0.0, 2.0], int),
}
FACTORS = np.array([1.0, 5.0, 0.25])


@pytest.mark.parametrize("labels", KEYS)
def test_class_weights_are_found_by_the_labels_themselves(labels):
    labels, spelt = KEYS[labels]
    y, rows = np.asarray(labels)[Y], [slice(0, 178, 2), slice(1, 178, 2)]
    given = {spelt(label): factor for label, factor in zip(labels, FACTORS, strict=True)}
    weight = FACTORS[Y]
    own, all_ = {"class_weight": given}, {"tol": 1e-8}
    expected = TorchSoftmaxClassifier(**all_).fit(X, y, weight)
    stream = [(X[part], y[part]) for part in rows]
    for data in ((X, y), (stream,)):
        model = TorchSoftmaxClassifier(**own, **all_).fit(*data)
        np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), atol=1e-6)
    steps = {"random_state": 0}
    expected = TorchSoftmaxClassifier(**steps).partial_fit(X, y, labels, sample_weight=weight)
    model = TorchSoftmaxClassifier(**own, **steps).partial_fit(X, y, labels)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-9)
    folds = {"cv": 3, "scoring": "accuracy"}  # which depends on the fits alone
    single = TorchGridSearchCV(TorchSoftmaxClassifier(**all_), {"class_weight": [given], "C": [0.1, 1.0]}, **folds)
    model = TorchSoftmaxClassifierCV(Cs=[0.1, 1.0], **folds, **own, **all_).fit(X, y)
    np.testing.assert_allclose(single.fit(X, y).cv_results_["split0_test_score"], model.scores_[0, 0])
    train, _ = next(StratifiedKFold(3).split(X, y))
    of_fold = TorchSoftmaxClassifier(**all_).fit(X[train], y[train], weight[train])
    np.testing.assert_allclose(model.coefs_paths_[0, 0, 1, :, :-1], of_fold.coef_, atol=1e-5)


def test_class_weights_of_booleans_and_of_fractions():
    y = Y == 1
    expected = TorchLogisticRegression(tol=1e-8).fit(X, y, 1.0 + 4.0 * y)
    for key in (True, np.True_, 1):
        model = TorchLogisticRegression(tol=1e-8, class_weight={key: 5.0}).fit(X, y)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-7)
    zero = {"fractions": (np.where(y, "1/2", "1/3"), "1/3"), "text": (np.where(y, "1", "01"), "01")}
    for labels, key in zero.values():
        model = TorchLogisticRegression(class_weight={key: 0.0}).fit(halves(X, labels))
        assert set(model.predict(X)) == set(labels[y])
    TorchLogisticRegressionCV(class_weight={"01": 2.0, "1": 3.0}, Cs=2, cv=3).fit(X, labels)


def test_unavailable_devices_are_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"device='cuda:99' is not available here\. Choose 'auto' or one of \['cpu'"):
        TorchLogisticRegression(device="cuda:99").fit(X, Y == 1)


def test_a_model_for_another_device_predicts_here():
    model = TorchLogisticRegression(device="cpu").fit(X, Y == 1)
    model.device = "cuda:99"  # as if it had been fitted elsewhere
    np.testing.assert_array_equal(model.predict(X), TorchLogisticRegression().fit(X, Y == 1).predict(X))


def test_the_choice_of_a_device(monkeypatch):
    from torchlogreg._data.device import available_devices, choose_device
    from torchlogreg._data.device_cost import Work

    little, much = Work(1.0, 1.0, 1.0, 1.0, 8), Work(1e12, 1e12, 1.0, 1.0, 8)
    host = torch.zeros(1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert available_devices()[:4] == ["cpu", "cuda", "cuda:0", "cuda:1"]
    assert choose_device("auto", host, little).device.type == "cpu"
    assert choose_device("auto", host, much).device.type == "cuda"
    assert choose_device("auto", host, None).device.type == "cpu"
    assert choose_device("cpu", host, much).device.type == "cpu"
    assert choose_device("cuda:1", host, little).device == torch.device("cuda", 1)


def test_a_tensor_on_an_accelerator_is_checked_there():
    from torchlogreg._data.validation import checked_tensor  # on the CPU: the checks are the same on any device

    model = TorchLogisticRegression()
    assert checked_tensor(model, torch.tensor([[1, 2]]), reset=True).dtype == torch.float64
    assert model.n_features_in_ == 2
    for tensor, message in (
        (torch.tensor([[1.0, torch.nan]]), "Input X contains NaN"),
        (torch.ones(2), "Expected 2D array"),
        (torch.ones(1, 2) * 1j, "Complex"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_tensor(TorchLogisticRegression(), tensor, reset=True)
    with pytest.raises(ValueError, match="expecting 2 features"):
        checked_tensor(model, torch.ones(1, 3), reset=False)


def test_starting_points():
    model = TorchSoftmaxClassifier(max_iter=0, solver="newton-cholesky", tol=1e9)
    model.fit(X, Y, coef_init=REFERENCE.coef_, intercept_init=REFERENCE.intercept_)
    np.testing.assert_array_equal(model.coef_, REFERENCE.coef_)
    np.testing.assert_array_equal(model.intercept_, REFERENCE.intercept_)
    assert model.n_iter_[0] == 0
    assert model.loss_curve_.shape == (0,)
    again = TorchSoftmaxClassifier(tol=1e-6).fit(X, Y, coef_init=REFERENCE.coef_, intercept_init=REFERENCE.intercept_)
    assert again.n_iter_[0] <= 1
    with pytest.raises(ValueError, match=r"coef_init has shape \(2, 2\); expected \(3, 13\)"):
        model.fit(X, Y, coef_init=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="coef_init contains NaN"):
        model.fit(X, Y, coef_init=np.full((3, 13), np.nan))
    with pytest.raises(ValueError, match="fit_intercept=False"):
        TorchSoftmaxClassifier(fit_intercept=False).fit(X, Y, intercept_init=np.zeros(3))


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_warm_start(solver):
    model = TorchSoftmaxClassifier(solver=solver, warm_start=True).fit(X, Y)
    assert model.n_iter_[0] > 1
    assert model.fit(X, Y).n_iter_[0] <= 1
    with pytest.raises(ValueError, match="warm_start=True needs the classes and the number of features"):
        model.fit(X[:, :5], Y)
    with pytest.raises(ValueError, match="Set warm_start=False"):
        model.fit(X, Y == 1)


def test_without_an_intercept():
    model = TorchSoftmaxClassifier(fit_intercept=False).fit(X, Y)
    assert model.intercept_.tolist() == [0, 0, 0]
