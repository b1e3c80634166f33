"""`partial_fit`: SGD over blocks of rows, held to `fit`, to scikit-learn's conventions and to real data."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import needs_data, objective, table
from joblib import parallel_backend
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.model_selection import LearningCurveDisplay, learning_curve

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

LOOP = {"solver": "sgd", "shuffle": False, "learning_rate": 0.01, "tol": 0, "batch_size": 32}
CASES = {
    "binary": (TorchLogisticRegression, "breast_cancer", {}),
    "three classes": (TorchSoftmaxClassifier, "wine", {}),
    "nesterov": (TorchSoftmaxClassifier, "wine", {"nesterov": True}),
    "no intercept": (TorchSoftmaxClassifier, "wine", {"fit_intercept": False}),
    "no penalty": (TorchSoftmaxClassifier, "wine", {"C": np.inf}),
    "one batch": (TorchSoftmaxClassifier, "wine", {"batch_size": None}),
    "class weights": (TorchSoftmaxClassifier, "wine", {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}),
}


def same_model(a, b, **tolerance):
    np.testing.assert_allclose(a.coef_, b.coef_, **tolerance)
    np.testing.assert_allclose(a.intercept_, b.intercept_, **tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_calls_with_all_rows_are_the_epochs_of_fit(case, dtype):
    estimator, name, options = CASES[case]
    X, y = table(name, True)
    X, weight = X.astype(dtype), 1.0 + np.arange(len(y)) % 3
    model = estimator(**{**LOOP, **options})
    whole = clone(model).set_params(max_iter=4).fit(X, y, weight)
    for _ in range(4):
        model.partial_fit(X, y, classes=np.unique(y), sample_weight=weight)
    same_model(model, whole, rtol=1e-12 if dtype == np.float64 else 1e-5, atol=1e-12 if dtype == np.float64 else 1e-6)
    np.testing.assert_allclose(model.loss_curve_, whole.loss_curve_, rtol=1e-6)
    assert model.coef_.dtype == dtype
    assert model.n_iter_[0] == 4
    assert not model.converged_


def test_blocks_are_an_epoch_of_their_rows():
    X, y = table("digits", True)
    X, y = X[:1792], y[:1792]
    model = TorchSoftmaxClassifier(**{**LOOP, "C": np.inf})
    whole = clone(model).set_params(max_iter=1).fit(X, y)
    for block in np.split(np.arange(len(X)), 7):
        model.partial_fit(X[block], y[block], classes=range(10))
    same_model(model, whole, rtol=1e-9, atol=1e-12)


def test_weights_are_those_of_the_stream_and_not_of_the_block():
    X, y = table("wine", True)
    y, block = np.roll(y, 60), np.split(np.arange(128), 4)
    heavy = np.ones(128)
    heavy[block[1]] = 5.0
    light, twice = TorchSoftmaxClassifier(**LOOP), TorchSoftmaxClassifier(**LOOP)
    for b in block:
        light.partial_fit(X[b], y[b], classes=range(3), sample_weight=heavy[b])
        twice.partial_fit(X[b], y[b], classes=range(3), sample_weight=1e6 * heavy[b])
    twice.set_params(C=1.0)
    uniform = TorchSoftmaxClassifier(**LOOP)
    for b in block:
        uniform.partial_fit(X[b], y[b], classes=range(3))
    assert np.abs(light.coef_ - uniform.coef_).max() > 1e-3
    # Scaling all weights is scaling C.
    scaled = TorchSoftmaxClassifier(**{**LOOP, "C": 1e6})
    for b in block:
        scaled.partial_fit(X[b], y[b], classes=range(3), sample_weight=heavy[b])
    same_model(scaled, twice, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize(
    ("name", "size", "n_epochs"), [("iris", 50, 20), ("wine", 50, 20), ("breast_cancer", 50, 20), ("digits", 300, 60)]
)
def test_epochs_approach_the_optimum_of_fit(name, size, n_epochs, in_blocks):
    X, y = table(name, True)
    order = np.random.default_rng(0).permutation(len(y))
    blocks = np.array_split(order, len(y) // size if in_blocks else 1)
    optimum = TorchSoftmaxClassifier(tol=1e-8, max_iter=1000).fit(X, y).objective_
    model = TorchSoftmaxClassifier(random_state=0)
    gaps = []
    for _ in range(n_epochs):
        for block in blocks:
            model.partial_fit(X[block], y[block], classes=np.unique(y))
        gaps.append(objective(model, X, y) / optimum - 1)
    assert min(gaps) >= 0
    assert gaps[-1] < 0.2
    assert gaps[-1] < 0.15 * gaps[0]
    assert model._seen["weight_before"] == len(y)  # blocks that come again are counted once


def test_a_stream_that_does_not_repeat_itself_counts_every_row():
    X, y = table("digits", True)
    model = TorchSoftmaxClassifier()
    for start in range(0, 1200, 300):
        model.partial_fit(X[start : start + 300], y[start : start + 300], classes=range(10))
    assert model._seen["weight"] == 1200
    fitted = TorchSoftmaxClassifier().fit(X[:600], y[:600]).partial_fit(X[600:900], y[600:900])
    assert fitted._seen["weight"] == 900


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_the_automatic_rate_is_safe_at_every_scale(name, scale):
    X, y = table(name, True)
    X = scale * X
    model = TorchSoftmaxClassifier(random_state=0)
    for _ in range(5):
        for block in np.array_split(np.random.default_rng(0).permutation(len(y)), 6):
            model.partial_fit(X[block], y[block], classes=np.unique(y))
    at_zero = np.log(len(np.unique(y)))  # which at the smallest scales is near the optimum
    assert objective(model, X, y) < at_zero * (0.5 if scale == 1.0 else 1.01)


def test_a_block_that_demands_a_lower_rate_gets_it():
    X, y = table("wine", True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order].copy(), y[order]
    X[100:] *= 1000.0
    model = TorchSoftmaxClassifier(random_state=0).partial_fit(X[:1], y[:1], classes=range(3))
    model.partial_fit(X[1:100], y[1:100])
    before, longest = objective(model, X[100:], y[100:]), model._seen["longest"]
    for _ in range(200):
        model.partial_fit(X[100:], y[100:])
    assert model._seen["longest"] > 1e5 * longest
    assert objective(model, X[100:], y[100:]) < 0.7 * before


def test_a_first_block_of_one_row_does_not_slow_the_rest():
    X, y = table("digits", True)
    one = TorchSoftmaxClassifier(random_state=0).partial_fit(10 * X[:1], y[:1], classes=range(10))
    for _ in range(10):
        one.partial_fit(X, y)
    assert one.score(X, y) > 0.9


def test_a_rate_that_overflows_is_named_and_leaves_the_model_alone():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(learning_rate=0.01).partial_fit(X, y, classes=range(3))
    before = dict(vars(model))
    with pytest.raises(ValueError, match=r"overflowed in partial_fit\. Lower learning_rate"):
        model.set_params(learning_rate=1e300).partial_fit(X, y)
    model.set_params(learning_rate=0.01)
    assert all(value is before[name] for name, value in vars(model).items() if name != "learning_rate")


def test_weights_whose_sum_overflows_are_named_and_leave_the_model_alone():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(C=1e-306, random_state=0)
    model.partial_fit(X, y, classes=range(3), sample_weight=np.full(len(y), 1e305))
    before = dict(vars(model))
    for weight in (np.full(len(y), 1e306), 1e307):
        with pytest.raises(ValueError, match="sum of the sample weights so far overflows"):
            model.partial_fit(X + 1, y, sample_weight=weight)
        assert vars(model) == before
    model.fit(X, y, 1e307)  # which has no need of the sum
    with pytest.raises(ValueError, match="sum of the sample weights so far overflows"):
        model.partial_fit(X, y)


def test_state_survives_pickle_and_deepcopy_and_holds_no_tensor():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(random_state=0).partial_fit(X[::2], y[::2], classes=range(3))
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model]
    for one in copies:
        one.partial_fit(X[1::2], y[1::2])
        same_model(one, copies[0], rtol=0)
    assert b"torch" not in pickle.dumps(vars(model)["_seen"])
    assert all(type(value) in (np.ndarray, int, float) for value in model._seen.values())
    assert not hasattr(clone(model), "_seen")


def test_fit_starts_afresh_and_partial_fit_goes_on_from_it():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(tol=1e-8)
    fresh = clone(model).fit(X, y)
    again = clone(model).partial_fit(X[:50], y[:50], classes=range(3)).fit(X, y)
    same_model(again, fresh, rtol=0)
    assert again.n_iter_[0] == fresh.n_iter_[0]
    start = objective(fresh, X, y)
    gone_on = clone(model).set_params(learning_rate=1e-5).fit(X, y).partial_fit(X, y)
    assert 0 < np.abs(gone_on.coef_ - fresh.coef_).max() < 1e-3
    assert gone_on.n_iter_[0] == fresh.n_iter_[0] + 1 == len(gone_on.loss_curve_)
    assert objective(gone_on, X, y) == pytest.approx(start, rel=1e-4)
    for name in ("objective_", "gradient_norm_", "optimality_gap_", "n_passes_"):
        assert hasattr(fresh, name)
        assert not hasattr(gone_on, name)
    warm = clone(model).set_params(warm_start=True, max_iter=300).partial_fit(X, y, classes=range(3)).fit(X, y)
    np.testing.assert_allclose(warm.coef_, fresh.coef_, atol=1e-5)


def test_classes_are_asked_for_and_checked():
    X, y = table("iris", True)
    model = TorchSoftmaxClassifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"not among the classes \[0, 1\]: \[2\]"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least two classes"):
        model.partial_fit(X, 0 * y, classes=[0])
    assert not hasattr(model, "coef_")
    model.partial_fit(X[:50], y[:50], classes=[2, 1, 0])  # one class is in the block
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.coef_.shape == (3, 4)
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit, was"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"^Only binary classification is supported\. .*TorchSoftmaxClassifier"):
        TorchLogisticRegression().partial_fit(X[:50], y[:50], classes=[0, 1, 2])
    names = np.array(["setosa", "versicolor", "virginica"])
    text = TorchSoftmaxClassifier(random_state=0).partial_fit(X, names[y], classes=names.astype(object))
    assert set(text.predict(X)) <= set(names)


def test_what_partial_fit_refuses():
    X, y = table("iris", True, binary=True)
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported for partial_fit"):
        TorchLogisticRegression(class_weight="balanced").partial_fit(X, y, classes=[1, 2])
    with pytest.raises(ValueError, match="early_stopping=False"):
        TorchLogisticRegression(early_stopping=True).partial_fit(X, y, classes=[1, 2])
    with pytest.raises(ValueError, match="sample weights are zero"):
        TorchLogisticRegression().partial_fit(X, y, classes=[1, 2], sample_weight=0 * y)
    with pytest.raises(ValueError, match="leaves no row of this block"):
        TorchLogisticRegression(class_weight={1: 0.0}).partial_fit(X[y == 1], y[y == 1], classes=[1, 2])
    with pytest.raises(ValueError, match="NaN"):
        TorchLogisticRegression().partial_fit(np.where(X > 0, np.nan, X), y, classes=[1, 2])


def test_feature_names_are_kept_and_checked():
    pd = pytest.importorskip("pandas")
    X, y = table("iris", True)
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = TorchSoftmaxClassifier().partial_fit(frame, y, classes=range(3))
    assert model.feature_names_in_.tolist() == list("abcd")
    model.partial_fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(frame.rename(columns={"a": "z"}), y)
    with pytest.raises(ValueError, match="expecting 4 features"):
        TorchSoftmaxClassifier().partial_fit(X, y, classes=range(3)).partial_fit(X[:, :2], y)


def test_tensors_give_what_numpy_gives_and_small_blocks_work():
    X, y = table("wine", True)
    a, b = TorchSoftmaxClassifier(random_state=0), TorchSoftmaxClassifier(random_state=0)
    for i in range(20):
        a.partial_fit(X[i : i + 1], y[i : i + 1], classes=range(3))
        b.partial_fit(torch.tensor(X[i : i + 1]), torch.tensor(y[i : i + 1]), classes=torch.arange(3))
    same_model(a, b, rtol=0)
    half = torch.tensor(X).bfloat16()
    a = TorchSoftmaxClassifier(random_state=0).partial_fit(half, y, classes=range(3))
    b = TorchSoftmaxClassifier(random_state=0).partial_fit(half.float(), y, classes=range(3))
    same_model(a, b, rtol=1e-5, atol=1e-6)
    assert a.coef_.dtype == np.float32


def test_the_seed_decides_the_order_of_the_rows():
    X, y = table("wine", True)

    def coef(seed):
        model = TorchSoftmaxClassifier(random_state=seed)
        return model.partial_fit(X, y, classes=range(3)).partial_fit(X, y).coef_

    np.testing.assert_array_equal(coef(0), coef(0))
    assert not np.array_equal(coef(0), coef(1))


def test_callbacks_are_left_alone_and_verbose_prints_a_line(capsys):
    pytest.importorskip("rich")
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(verbose=1).set_callbacks(ProgressBar())
    model.partial_fit(X, y, classes=range(3))
    assert capsys.readouterr().out.startswith("partial_fit    1  objective ")


def test_learning_curves_by_increments():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    X, y = table("digits", True)
    model = TorchSoftmaxClassifier(random_state=0)
    display = LearningCurveDisplay.from_estimator(
        model, X, y, exploit_incremental_learning=True, cv=3, train_sizes=[0.1, 0.5, 1.0]
    )
    assert display.test_scores.shape == (3, 3)
    assert display.test_scores[-1].mean() > 0.85
    with parallel_backend("threading"):
        with_jobs = learning_curve(model, X, y, exploit_incremental_learning=True, cv=3, train_sizes=[0.5], n_jobs=2)
    assert with_jobs[2].mean() > 0.8
    plt.close("all")


@needs_data
def test_one_epoch_of_mnist_in_blocks_of_512():
    X, y, X_test, y_test = fetch_mnist()
    model = TorchSoftmaxClassifier(random_state=0)
    for start in range(0, len(X), 512):
        model.partial_fit(X[start : start + 512], y[start : start + 512], classes=range(10))
    assert model.n_iter_[0] == 118
    assert model.score(X_test, y_test) >= 0.90
