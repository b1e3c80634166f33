"""Rows that come block by block: the same answers as in memory, few reads, little memory, clear errors."""

import re

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, LOSSES, SOLVERS, Blocks, as_file, generator, objective_of
from scipy.sparse import csr_array
from sklearn.callback import ProgressBar
from sklearn.feature_extraction import FeatureHasher
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
)
from torchlogreg._data import scanned_stream, stream_sample, stream_statistics, training_data, tuning
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.targets import encoded
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.smoothness import loss_bounds
from torchlogreg._solvers import tuning as solver_tuning

KINDS = {2: TorchLogisticRegression, 3: TorchSoftmaxClassifier}


def data(n_classes, n=12_000, p=6, dtype=np.float64, seed=0):
    """Correlated features; enough rows for a fit to start from a sample."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + rng.standard_normal((p, p)) / 2)
    y = (X @ rng.standard_normal((p, n_classes)) + 2 * rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X.astype(dtype), y, rng.integers(0, 4, n).astype(float)


@pytest.fixture
def all_files_are_large(monkeypatch):
    monkeypatch.setattr(tuning, "MIN_STREAMED_NUMBERS", 1)
    monkeypatch.setattr(tuning, "MAPPED_BLOCK_BYTES", 2**15)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", KINDS)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_stream_and_file_give_the_answer_of_memory(solver, n_classes, weighted, tmp_path, all_files_are_large):
    X, y, weight = data(n_classes)
    weight = weight if weighted else None
    make = KINDS[n_classes]
    options = {"solver": solver, "tol": 1e-10, "C": 0.01}
    expected = make(**options).fit(X, y, weight)
    stream = Blocks(X, y, weight)
    streamed = make(**options).fit(stream)
    mapped = make(**options).fit(as_file(X, tmp_path / "X"), y, weight)
    for model in (streamed, mapped):
        assert model.converged_
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
        np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=0, atol=1e-8)
        assert model.objective_ == pytest.approx(expected.objective_, rel=1e-13)
        assert model.n_features_in_ == X.shape[1]
        assert model.solver_ == expected.solver_
    # Samples count as a fraction of a read, but come from the rows that the opening scan has kept.
    assert stream.n_passes <= streamed.n_passes_ < stream.n_passes + 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", KINDS)
@pytest.mark.parametrize("rate", ["auto", 0.01])
def test_sgd_takes_mini_batches_in_the_order_of_the_stream(n_classes, weighted, rate, tmp_path):
    X, y, weight = data(n_classes, n=3001)
    weight = weight if weighted else None
    options = {"solver": "sgd", "tol": 0, "max_iter": 3, "learning_rate": rate, "batch_size": 64, "random_state": 0}
    expected = KINDS[n_classes](shuffle=False, **options).fit(X, y, weight)
    stream = Blocks(X, y, weight, size=100)
    model = KINDS[n_classes](**options).fit(stream)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-10)
    assert stream.n_passes == model.n_passes_
    # A file has its rows at hand, so they are shuffled as those of an array are.
    shuffled, mapped = (KINDS[n_classes](**options).fit(x, y, weight) for x in (X, as_file(X, tmp_path / "X")))
    np.testing.assert_array_equal(mapped.coef_, shuffled.coef_)


def test_mini_batches_may_be_larger_than_blocks_and_than_the_stream(monkeypatch):
    monkeypatch.setattr(tuning, "MAX_JOINED_BLOCK_NUMBERS", 1)
    X, y, _ = data(2, n=400)
    for batch_size in (1, 133, 5000):
        options = {"solver": "sgd", "tol": 0, "max_iter": 2, "batch_size": batch_size, "random_state": 0}
        expected = TorchLogisticRegression(shuffle=False, **options).fit(X, y)
        model = TorchLogisticRegression(**options).fit(Blocks(X, y, size=50))
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_gradient_and_hessian_are_those_of_memory(loss, monkeypatch):
    monkeypatch.setattr(tuning, "MAX_JOINED_BLOCK_NUMBERS", 1)
    n_classes = max(2, loss.n_logits)
    X, y, weight = data(n_classes, n=500)
    estimator = TorchSoftmaxClassifier()
    problems = []
    for arguments in ((X, y, weight), (Blocks(X, y, weight, size=90), None, None)):
        rows = training_data.design_of(training_data.fit_data(estimator, *arguments), loss, intercept=True)
        problems.append(objective_of(rows, loss, 0.3))
    W = torch.randn(1, X.shape[1] + 1, loss.n_logits, dtype=torch.float64, generator=generator())
    expected, actual = (problem.second_order(W) for problem in problems)
    for name in ("value", "gradient", "hessian"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(problems[1].diagonal(W), problems[0].diagonal(W), rtol=1e-12)
    np.testing.assert_allclose(loss_bounds(problems[1]), loss_bounds(problems[0]), rtol=1e-12)


def test_the_order_of_rows_and_the_size_of_blocks_may_change_between_passes():
    X, y, weight = data(3)
    expected = TorchSoftmaxClassifier(tol=1e-10).fit(X, y, weight)
    model = TorchSoftmaxClassifier(tol=1e-10).fit(Blocks(X, y, weight, order=np.random.default_rng(1)))
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("small", [False, True])
def test_a_source_may_write_every_block_where_the_last_one_was(small, monkeypatch):
    monkeypatch.setattr(tuning, "MAX_JOINED_BLOCK_NUMBERS", 2**40 if small else 1)
    X, y, weight = data(2)

    class Buffered(Blocks):
        def __iter__(self):
            buffers = np.empty((1500, 6)), np.empty(1500, dtype=int), np.empty(1500)
            for block in super().__iter__():
                views = [buffer[: len(new)] for buffer, new in zip(buffers, block, strict=True)]
                for view, new in zip(views, block, strict=True):
                    view[:] = new
                yield tuple(views)
                for view in views:
                    view[:] = 0

    expected = TorchLogisticRegression(tol=1e-10).fit(Blocks(X, y, weight))
    model = TorchLogisticRegression(tol=1e-10).fit(Buffered(X, y, weight))
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-9)


def exchanged(array, i, j):
    """A copy with two of its items in each other's place."""
    array = array.copy()
    array[[i, j]] = array[[j, i]]
    return array


CHANGES = {
    "fewer rows": (lambda X, y, w: (X[:-1], y[:-1], w[:-1]), "11999 rows, and had 12000 before"),
    "no rows": (lambda X, y, w: (X[:0], y[:0], w[:0]), "0 rows, and had 12000"),
    "a number": (lambda X, y, w: (np.where(np.arange(6) == 4, np.nextafter(X, 9), X), y, w), "other rows"),
    "NaN": (lambda X, y, w: (X + np.where(np.arange(6) == 0, np.nan, 0), y, w), "other rows"),
    "a column of zeros of another sign": (lambda X, y, w: (np.where(np.arange(6) == 3, -X, X), y, w), "other rows"),
    "signs of two columns": (lambda X, y, w: (np.where(np.arange(6) < 2, -X, X), y, w), "other rows"),
    "columns": (lambda X, y, w: (exchanged(X.T, 1, 2).T, y, w), "other rows"),
    "order of a column": (lambda X, y, w: (np.where(np.arange(6) == 5, np.roll(X, 1, 0), X), y, w), "other rows"),
    "parts of two rows": (lambda X, y, w: (np.c_[X[:, :3], exchanged(X[:, 3:], 5, 9)], y, w), "other rows"),
    "labels": (lambda X, y, w: (X, np.roll(y, 1), w), "other rows"),
    "two labels": (lambda X, y, w: (X, exchanged(y, y.argmax(), y.argmin()), w), "other rows"),
    "one label": (lambda X, y, w: (X, np.where(np.arange(len(y)) == 7, 1 - y, y), w), "other labels"),
    "a new label": (lambda X, y, w: (X, np.where(y == 1, 5, y), w), "the label .*5.*, which it had not"),
    "weights": (lambda X, y, w: (X, y, w + (np.arange(len(w)) == 11)), "other rows"),
    "order of weights": (lambda X, y, w: (X, y, np.roll(w, 1)), "other rows"),
    "two weights": (lambda X, y, w: (X, y, exchanged(w, w.argmax(), w.argmin())), "other rows"),
    "features": (lambda X, y, w: (X[:, :5], y, w), "X has 5 features"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stream_that_changes_between_passes(change, solver):
    later, message = CHANGES[change]
    X, y, weight = data(2)
    X[:, 3] = 0  # a constant in the middle, as pictures have
    model = TorchLogisticRegression(solver=solver, random_state=0).fit(X[:50, :3], y[:50])
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(Blocks(X, y, weight, later=later))
    assert vars(model) == before


def fingerprint(X, y, weight=None, size=None):
    """What a read leaves behind, of blocks of `size` rows."""
    tally, size = stream_statistics.StreamStatistics(), size or len(X)
    for start in range(0, len(X), size):
        part = slice(start, start + size)
        tally.add(scanned_stream.Block(X[part], *encoded(y[part]), None if weight is None else weight[part]))
    return tally.fingerprint


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 5, 16, 41])
def test_the_checksum_depends_on_the_rows_alone(p, dtype, monkeypatch):
    """Not on their order, nor on blocks, layout in memory, alignment and device."""
    rng = np.random.default_rng(p)
    n = 200
    X = torch.tensor(rng.standard_normal((n, p)) * 9).to(dtype)
    y, weight = rng.integers(0, 3, n), rng.integers(0, 4, n).astype(float)
    expected = fingerprint(X, y, weight)
    order = rng.permutation(n)
    assert fingerprint(X[order], y[order], weight[order], size=7) == expected
    apart = torch.zeros(2 * n, 3 * p + 1, dtype=dtype)
    apart[::2, 1::3] = X
    shifted = torch.empty(n * p + 1, dtype=dtype)[1:].view(n, p).copy_(X)
    for same in (X.T.contiguous().T, apart[::2, 1::3], shifted):
        assert fingerprint(same, y, weight) == expected
    same_rows = torch.zeros(1, p, dtype=dtype)
    assert fingerprint(same_rows.expand(n, p), y, weight) == fingerprint(same_rows.repeat(n, 1), y, weight)
    keys = stream_statistics._keys(-(-p * X.element_size() // 8)).view(np.int64)
    products = stream_statistics._host_products(shifted, keys)
    for chunk in (1, 100, 2**20):
        monkeypatch.setattr(tuning, "HASHED_BYTES", chunk)
        monkeypatch.setattr(tuning, "ACCELERATOR_HASHED_BYTES", chunk)
        np.testing.assert_array_equal(stream_statistics._host_products(X, keys), products)
        np.testing.assert_array_equal(stream_statistics._device_products(shifted, keys), products)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_reads_have_one_checksum_if_and_only_if_they_have_the_same_rows(dtype):
    """Of few numbers, so that many exchanges leave the rows what they were."""
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        n, p = rng.integers(2, 5, 2)
        values = torch.tensor([0.0, 1.0, -1.0, 2.0][: rng.integers(2, 5)]).to(dtype)
        before = values[rng.integers(0, len(values), (n, p))], rng.integers(0, 2, n), rng.integers(1, 3, n) * 1.0
        X, y, weight = before[0].clone(), before[1].copy(), before[2].copy()
        for _ in range(rng.integers(1, 3)):
            i, j, k, m = *rng.integers(0, n, 2), *rng.integers(0, p, 2)
            what = rng.integers(6)
            if what == 0:  # two numbers
                X[[i, j], [k, m]] = X[[j, i], [m, k]]
            elif what == 1:
                X[:, [k, m]] = X[:, [m, k]]
            elif what == 2:
                X[[i, j]] = X[[j, i]]
            elif what == 3 and dtype != torch.bool:
                X[i] = -X[i]
            elif what == 4:
                y[[i, j]] = y[[j, i]]
            else:
                weight[[i, j]] = weight[[j, i]]
        rows = [sorted((bytes(r.view(torch.uint8)), c, w) for r, c, w in zip(*read, strict=True))
                for read in (before, (X, y, weight))]  # fmt: skip
        same = rows[0] == rows[1]
        assert (fingerprint(*before) == fingerprint(X, y, weight)) == same
        outcomes.add(same)
    assert outcomes == {True, False}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int32])
def test_numbers_that_differ_in_their_highest_bits_alone(dtype):
    """Every pair of columns exchanged, and with other signs, in a single row of whole numbers."""
    p = 40
    row = (1 + torch.arange(p) % 2).to(dtype)[None]
    seen = {fingerprint(row, np.zeros(1))["rows (features, label and weight together)"]}
    n_changes = 0
    for i in range(p):
        for j in range(i):
            for change in ({i: row[0, j], j: row[0, i]}, {i: -row[0, i], j: -row[0, j]}, {i: 2**5, j: 2**5}):
                other = row.clone()
                for column, value in change.items():
                    other[0, column] = value
                if (other != row).any():
                    n_changes += 1
                    seen.add(fingerprint(other, np.zeros(1))["rows (features, label and weight together)"])
    assert len(seen) == n_changes + 1


def test_equal_labels_and_weights_of_another_type_are_no_change():
    X, y, _ = data(2, n=2000)

    class Fickle(Blocks):
        def __iter__(self):
            for k, (X, y) in enumerate(super().__iter__()):
                kinds = [(y.astype(bool), None), (y.astype(float), np.ones(len(y))), (y.astype(np.int8), 1)]
                yield X, *kinds[(self.n_passes + k) % 3]

    expected = TorchLogisticRegression(tol=1e-10).fit(X, y)
    model = TorchLogisticRegression(tol=1e-10).fit(Fickle(X, y, size=100))
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("read", [1, 2, 4])
@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, KeyboardInterrupt])
def test_a_stream_that_raises(read, kind):
    X, y, _ = data(2)

    class Broken(Blocks):
        def __iter__(self):
            for k, block in enumerate(super().__iter__()):
                if self.n_passes == read and k == 3:
                    raise kind("the disk is gone")
                yield block

    model = TorchLogisticRegression()
    with pytest.raises(kind, match="the disk is gone") as caught:
        model.fit(Broken(X, y))
    assert not [name for name in vars(model) if name.endswith("_") and not name.startswith("_")]
    if kind is not KeyboardInterrupt:
        assert "in block 3 of the stream" in caught.value.__notes__[0]


X_SMALL, Y_SMALL, W_SMALL = data(2, n=60)


class OwnIterator:
    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


BAD = {
    "empty": (lambda: [], "The stream is empty"),
    "blocks without rows": (lambda: [(X_SMALL[:0], Y_SMALL[:0])], "The stream is empty"),
    "generator": (lambda: (b for b in [(X_SMALL, Y_SMALL)]), "generator can be read only once: pass a list"),
    "iterator": (OwnIterator, "OwnIterator can be read only once"),
    "no labels": (lambda: [(X_SMALL,)], r"must yield tuples \(X, y\)"),
    "None as labels": (lambda: [(X_SMALL, None)], r"must yield tuples \(X, y\)"),
    "arrays": (lambda: [X_SMALL, X_SMALL], r"must yield tuples \(X, y\)"),
    "dict": (lambda: [{"X": X_SMALL, "y": Y_SMALL}], r"must yield tuples \(X, y\)"),
    "rows of numbers": (lambda: X_SMALL.tolist(), "fit requires y to be passed, but the target y is None"),
    "one row at a time": (lambda: [*zip(X_SMALL, Y_SMALL, strict=True)], "Expected 2D array"),
    "NaN": (lambda: [(X_SMALL, Y_SMALL), (X_SMALL * np.nan, Y_SMALL)], "contains NaN"),
    "other features": (lambda: [(X_SMALL, Y_SMALL), (X_SMALL[:, :2], Y_SMALL)], "X has 2 features, but"),
    "too few labels": (lambda: [(X_SMALL, Y_SMALL[:3])], "inconsistent numbers of samples"),
    "continuous labels": (lambda: [(X_SMALL, X_SMALL[:, 0])], "Unknown label type: continuous"),
    "kinds of labels": (lambda: [(X_SMALL, Y_SMALL), (X_SMALL, Y_SMALL.astype(str))], "numbers in some blocks"),
    "negative weights": (lambda: [(X_SMALL, Y_SMALL, -W_SMALL)], "Negative values in sample_weight"),
    "zero weights": (lambda: [(X_SMALL, Y_SMALL, 0 * W_SMALL)], "All sample weights are zero"),
    "huge weights": (lambda: 2 * [(X_SMALL, Y_SMALL, W_SMALL + 1e307)], "sum of the sample weights overflows"),
    "one class": (lambda: [(X_SMALL, 0 * Y_SMALL)], "only one class: 0"),
    "three classes": (lambda: [(X_SMALL, Y_SMALL), (X_SMALL, Y_SMALL + 1)], "TorchSoftmaxClassifier"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_streams(bad):
    make, message = BAD[bad]
    model = TorchLogisticRegression()
    with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
        model.fit(make())
    assert not hasattr(model, "coef_")


def test_a_class_of_a_stream_may_weigh_nothing():
    for stream in (
        [(X_SMALL, Y_SMALL, 1.0 * Y_SMALL)],
        [(X_SMALL[k == Y_SMALL], Y_SMALL[k == Y_SMALL], W_SMALL[k == Y_SMALL] * k) for k in (0, 1)],
    ):
        model = TorchLogisticRegression().fit(stream)
        assert model.converged_
        assert model.predict_proba(X_SMALL)[:, 0].max() < 1e-6


def test_what_a_stream_cannot_do_says_so():
    stream = [(X_SMALL, Y_SMALL)]
    with pytest.raises(ValueError, match=r"let it yield \(X, y, sample_weight\)"):
        TorchLogisticRegression().fit(stream, sample_weight=W_SMALL)
    with pytest.raises(ValueError, match="early_stopping=False and a batch_size other than None"):
        TorchLogisticRegression(solver="sgd", early_stopping=True).fit(stream)
    with pytest.raises(ValueError, match="early_stopping=False and a batch_size other than None"):
        TorchLogisticRegression(solver="sgd", batch_size=None).fit(stream)
    with pytest.raises(ValueError, match=r"fit\(stream\), without y"):
        TorchLogisticRegression().fit(Blocks(X_SMALL, Y_SMALL), Y_SMALL)
    with pytest.raises(ValueError, match="fitted by TorchLogisticRegression and TorchSoftmaxClassifier alone"):
        TorchLogisticRegressionCV().fit(stream)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        TorchLogisticRegression().fit(X_SMALL)
    model = TorchLogisticRegression().fit(stream)
    with pytest.raises(ValueError, match="Predict the blocks of a stream one by one"):
        model.predict(Blocks(X_SMALL, Y_SMALL))


def test_blocks_of_every_kind():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    X, y, _ = data(3, n=1200)
    names = [f"x{i}" for i in range(6)]
    parts, labels = X.reshape(4, 300, 6), np.array(["red", "white", "rosé"], dtype=object)[y].reshape(4, 300)
    expected = TorchSoftmaxClassifier(tol=1e-10).fit(X, labels.ravel())
    frames = TorchSoftmaxClassifier(tol=1e-10)
    frames.fit([(pd.DataFrame(a, columns=names), pd.Series(b)) for a, b in zip(parts, labels, strict=True)])
    assert frames.feature_names_in_.tolist() == names
    mixed = TorchSoftmaxClassifier(tol=1e-10).fit(
        [
            [torch.tensor(parts[0], requires_grad=True), labels[0].tolist()],
            (pl.DataFrame(parts[1]).to_numpy(), pl.Series(labels[1].tolist())),
            (np.asfortranarray(parts[2]), labels[2].astype("U9"), None),
            (parts[3][:0], labels[3][:0]),
            (parts[3][::-1].tolist(), labels[3][::-1], 1.0),
        ]
    )
    for model in (frames, mixed):
        assert model.classes_.tolist() == ["red", "rosé", "white"]
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)


def test_empty_blocks_are_skipped():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    X, y, weight = data(2, n=300)
    nothing = [
        [],
        (),
        np.array([]),
        np.empty((0, 6)),
        np.empty((0, 0)),
        torch.tensor([]),
        torch.empty(0, 6),
        csr_array((0, 6)),
        pd.DataFrame(),
        pd.DataFrame(X[:0]),
        pl.DataFrame(),
    ]
    expected = TorchLogisticRegression(tol=1e-10).fit(X, y, weight)
    for empty in nothing:
        for block in ((empty, []), (empty, y[:0], []), [empty, torch.tensor([]), None]):
            stream = [block, (X[:100], y[:100], weight[:100]), block, (X[100:], y[100:], weight[100:]), block]
            model = TorchLogisticRegression(tol=1e-10).fit(stream)
            np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            TorchLogisticRegression().fit([(X, y), (empty, y)])
    with pytest.raises(ValueError, match="0 feature"):
        TorchLogisticRegression().fit([([[]], [0])])


def test_blocks_are_no_table():
    """Nowhere is a list of blocks, or a stream, taken for rows."""
    blocks = [(X_SMALL[start : start + 12], Y_SMALL[start : start + 12]) for start in range(0, 60, 12)]
    loader = Blocks(X_SMALL, Y_SMALL)
    alone = "fitted by TorchLogisticRegression and TorchSoftmaxClassifier alone"
    estimators = [TorchLogisticRegression(), TorchSoftmaxClassifier(solver="sgd"), TorchLogisticRegressionCV()]
    for stream in (blocks, tuple(blocks), loader):
        for estimator in estimators:
            name, grid = type(estimator).__name__.lower(), {"tol": [0.1, 0.01]}
            search = TorchGridSearchCV(estimator, grid)
            for labels in (None, Y_SMALL, Y_SMALL[:5]):
                with pytest.raises(ValueError, match=alone):
                    search.fit(stream, labels)
            piped = TorchGridSearchCV(make_pipeline(StandardScaler(), estimator), {f"{name}__tol": [0.1]})
            with pytest.raises(ValueError, match=alone):
                piped.fit(stream)
            assert not hasattr(search, "cv_results_")
        for labels in (None, Y_SMALL, Y_SMALL[:5]):
            with pytest.raises(ValueError, match=alone):
                TorchLogisticRegressionCV().fit(stream, labels)
            with pytest.raises(ValueError, match="blocks of a stream one by one"):
                TorchLogisticRegression().partial_fit(stream, labels, classes=[0, 1])
        for labels in (Y_SMALL, Y_SMALL[:5]):
            with pytest.raises(ValueError, match=alone):
                TorchLogisticRegression().fit(stream, labels)
        model = TorchLogisticRegression().fit(X_SMALL, Y_SMALL)
        with pytest.raises(ValueError, match="blocks of a stream one by one"):
            model.predict(stream)
        with pytest.raises(ValueError, match="a stream cannot be validation data"):
            model.fit(X_SMALL, Y_SMALL, X_val=stream, y_val=Y_SMALL)
    # A table may be a list, and a pipeline may begin with anything.
    table = TorchGridSearchCV(TorchLogisticRegression(), {"C": [0.1, 1]}).fit(X_SMALL.tolist(), Y_SMALL.tolist())
    assert table.best_score_ > 0.5
    pairs = [[(f"x{j}", value) for j, value in enumerate(row)] for row in X_SMALL]
    grid = {"torchlogisticregression__C": [0.1, 1]}
    hashed = make_pipeline(FeatureHasher(8, input_type="pair"), TorchLogisticRegression())
    assert TorchGridSearchCV(hashed, grid).fit(pairs, Y_SMALL).best_score_ > 0.5


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_loader(shuffle):
    X, y, weight = (torch.tensor(array) for array in data(2, n=2000))
    dataset = torch.utils.data.TensorDataset(X, y, weight)
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=96, shuffle=shuffle, generator=generator)
    expected = TorchLogisticRegression(tol=1e-10).fit(X, y, weight)
    model = TorchLogisticRegression(tol=1e-10).fit(loader)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float16, bool])
def test_dtypes(dtype, tmp_path, all_files_are_large):
    X, y, _ = data(2)
    X = (X * 10 > 0) if dtype is bool else (X * 4).astype(dtype)
    options = {"tol": 1e-5 if dtype == np.float32 else 1e-10, "C": 0.1}
    expected = TorchLogisticRegression(**options).fit(X, y)
    for arguments in ((Blocks(X, y),), (as_file(X, tmp_path / "X"), y)):
        model = TorchLogisticRegression(**options).fit(*arguments)
        assert model.coef_.dtype == expected.coef_.dtype == (np.float32 if dtype == np.float32 else np.float64)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-8)
    half = [(X[:4000].astype(np.float32), y[:4000]), (X[4000:].astype(np.float64), y[4000:])]
    assert TorchLogisticRegression(**options).fit(half).coef_.dtype == np.float64


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1, 1: 2.5, 2: 0.1}])
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_class_weights(class_weight, solver):
    X, y, weight = data(3)
    options = {"class_weight": class_weight, "solver": solver, "tol": 1e-10}
    expected = TorchSoftmaxClassifier(**options).fit(X, y, weight)
    model = TorchSoftmaxClassifier(**options).fit(Blocks(X, y, weight))
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)


def test_a_class_without_weight_is_not_in_the_sample():
    X, y, _ = data(3)
    y = np.where(y == 2, 2, y * (np.arange(len(y)) % 50 == 0))  # most rows are of class 0
    options = {"class_weight": {0: 0, 1: 1, 2: 1}, "tol": 1e-6}
    expected = TorchSoftmaxClassifier(**options).fit(X, y)
    model = TorchSoftmaxClassifier(**options).fit(Blocks(X, y))
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-5)  # the intercept of class 0 has no optimum
    drawn = training_data.fit_data(model, Blocks(X, y), None, None).X.sampled
    assert set(drawn[1]) == {1, 2}


def test_warm_starts_callbacks_and_verbosity(capsys):
    pytest.importorskip("rich")
    X, y, _ = data(2, n=15_000)
    stream = Blocks(X, y)
    model = TorchLogisticRegression(warm_start=True, verbose=1).fit(stream)
    assert "lbfgs   1/100" in capsys.readouterr().out
    first = stream.n_passes
    assert model.fit(stream).n_iter_[0] <= 1
    assert stream.n_passes <= first + 4
    model.set_params(warm_start=False, verbose=0).set_callbacks(ProgressBar()).fit(stream)
    with pytest.raises(ValueError, match="warm_start=True needs"):
        model.set_params(warm_start=True).fit([(X[:, :2], y)])


@pytest.mark.parametrize("n_classes", KINDS)
def test_more_features_than_rows(n_classes, tmp_path, all_files_are_large):
    X, y, _ = data(n_classes, n=60, p=150)
    expected = KINDS[n_classes](tol=1e-9).fit(X, y)
    stream = Blocks(X, y, size=25)
    model = KINDS[n_classes](tol=1e-9, solver="lbfgs").fit(stream)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(KINDS[n_classes](tol=1e-9).fit(as_file(X, tmp_path / "X"), y).coef_, expected.coef_)


def test_a_sample_too_small_for_a_hessian_is_not_relied_upon(monkeypatch):
    monkeypatch.setattr(tuning, "STREAM_SAMPLE_BYTES", 1000)
    for n_classes, make in KINDS.items():
        X, y, _ = data(n_classes, n=900)
        expected = make(tol=1e-10).fit(X, y)
        stream = Blocks(X, y, size=10)
        monkeypatch.setattr(tuning, "MAX_JOINED_BLOCK_NUMBERS", 1)
        model = make(tol=1e-10).fit(Blocks(X, y, size=20))
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
        rows = training_data.design_of(
            training_data.fit_data(make(), stream, None, None), loss_of(n_classes), intercept=True
        )
        assert rows.n_samplable == 6  # 1000 bytes hold thrice as many


def test_the_sample_is_a_fair_one():
    """Rows that weigh something come up equally often, the others never, in random order, whatever the blocks."""
    n, most = 400, 50
    X = np.arange(n, dtype=float)[:, None]
    weight = (np.arange(n) % 4 > 0).astype(float)
    counts, places = np.zeros(n), np.zeros(n)
    for seed in range(400):
        sample = stream_sample.StreamSample(3 * 8 * most, seed, set())
        for start in range(0, n, 10):
            part = slice(start, start + 10)
            codes = np.zeros(10, dtype=int)
            sample.add(scanned_stream.Block(torch.from_numpy(X[part]), np.array([0]), codes, weight[part]))
        drawn, _, drawn_weight, whole, keys = sample.rows()
        assert (np.diff(keys) > 0).all()
        index = drawn[:, 0].numpy().astype(int)
        assert len(set(index)) == most
        assert (drawn_weight == 1).all()
        assert not whole
        counts[index] += 1
        places[index] += np.arange(most)
    assert not counts[weight == 0].any()
    seen = counts[weight == 1]  # binomial: 400 draws with chance 1/6
    assert abs(seen - 400 / 6).max() < 5 * np.sqrt(400 * 5 / 36)
    assert abs(places.sum() / counts.sum() - (most - 1) / 2) < 1e-9
    assert abs(places[:200].sum() / counts[:200].sum() - (most - 1) / 2) < 1
    small = stream_sample.StreamSample(3 * 8 * most, 0, set())
    small.add(scanned_stream.Block(torch.from_numpy(X[:30]), np.array([0]), np.zeros(30, dtype=int), None))
    assert small.rows().is_all


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_files_are_left_as_they_were(order, mode, tmp_path, all_files_are_large):
    X, y, _ = data(2)
    as_file(X, tmp_path / "X", order=order)
    array = np.memmap(tmp_path / "X", dtype=X.dtype, mode=mode, shape=X.shape, order=order)
    if mode != "r":
        array[17] = 3.0  # in a private map ("c") for this process alone, and not to be lost with its pages
        X[17] = 3.0
    expected = TorchLogisticRegression(tol=1e-10).fit(X[5:], y[5:])
    model = TorchLogisticRegression(tol=1e-10).fit(array[5:], y[5:])
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(array, X)
    np.testing.assert_array_equal(model.predict_proba(array), model.predict_proba(np.array(array)))


@pytest.mark.parametrize("view", ["columns", "every other row", "reversed", "transposed"])
def test_views_of_files(view, tmp_path, all_files_are_large):
    X, y, _ = data(2)
    views = {
        "columns": lambda a: a[:, 2:5],
        "every other row": lambda a: a[::2],
        "reversed": lambda a: a[::-1, ::-1],
        "transposed": lambda a: a.reshape(6, -1).T,
    }
    file, array = views[view](as_file(X, tmp_path / "X")), views[view](X)
    labels = y[: len(array)]
    expected = TorchLogisticRegression(tol=1e-10).fit(array, labels)
    model = TorchLogisticRegression(tol=1e-10).fit(file, labels)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.predict_proba(file), expected.predict_proba(array), atol=1e-8)


def test_labels_and_weights_beside_a_file_may_be_lists_and_tensors(tmp_path, all_files_are_large):
    X, y, weight = data(2, n=500)
    file = as_file(X, tmp_path / "X")
    expected = TorchLogisticRegression(tol=1e-10).fit(X, y, weight)
    for labels in (y.tolist(), torch.tensor(y), y.astype(np.int8)):
        model = TorchLogisticRegression(tol=1e-10).fit(file, labels, weight.tolist())
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TorchLogisticRegression().fit(file, y[:-1])
    with pytest.raises(ValueError, match="sample_weight has shape"):
        TorchLogisticRegression().fit(file, y, weight[:-1])
    broken = X.copy()
    broken[-1, -1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        TorchLogisticRegression().fit(as_file(broken, tmp_path / "broken"), y)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
@pytest.mark.parametrize("n_classes", KINDS)
def test_predictions_part_by_part_are_those_at_once(method, n_classes, monkeypatch):
    X, y, _ = data(n_classes, n=3000)
    labels = np.array(["no", "perhaps", "yes, of course"])[y]
    model = TorchSoftmaxClassifier().fit(X, labels)
    at_once = [getattr(model, method)(x) for x in (X, X.astype(np.float32), (X * 9).astype(np.int16))]
    score = model.score(X, labels)
    monkeypatch.setattr(tuning, "MIN_STREAMED_NUMBERS", 1)
    monkeypatch.setattr(tuning, "MAPPED_BLOCK_BYTES", 2**13)
    for x, expected in zip((X, X.astype(np.float32), (X * 9).astype(np.int16)), at_once, strict=True):
        actual = getattr(model, method)(x)
        assert actual.dtype == expected.dtype
        if method == "predict":
            np.testing.assert_array_equal(actual, expected)
        else:
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    assert model.score(X, labels) == score
    with pytest.raises(ValueError, match="expecting 6 features"):
        model.predict(X[:, :5])
    X[-1, -1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.predict(X)


def run_out(monkeypatch, name, error, n_times, target=DenseDesign):
    """Make a method of Rows fail the first n_times."""
    original, calls = getattr(target, name), []

    def failing(self, *arguments, **options):
        calls.append(self.X.shape[0])
        if len(calls) <= n_times:
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(target, name, failing)
    return calls


ON_A_DEVICE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of")
ON_MPS = RuntimeError("MPS backend out of memory (MPS allocated: 17 GB, max allowed: 18 GB). Tried to allocate 3.10 GB")
ON_THE_HOST = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 123456 bytes."
)


@pytest.mark.parametrize("error", [ON_A_DEVICE, ON_MPS])
@pytest.mark.usefixtures("one_thread")
def test_a_device_without_memory_gets_smaller_blocks_and_one_warning(error, monkeypatch):
    monkeypatch.setattr(tuning, "CPU_BLOCK_NUMBERS", 2**16)
    monkeypatch.setattr(solver_tuning, "NUMPY_NEWTON_NUMBERS", 0)  # the Hessian is summed in blocks
    X, y, _ = data(2)
    expected = TorchLogisticRegression(tol=1e-10, solver="newton-cholesky").fit(X, y)
    calls = run_out(monkeypatch, "gram", error, n_times=2)
    with pytest.warns(
        RuntimeWarning, match="when (2.50 GiB|3.10 GB) were asked for on the device: starting again"
    ) as w:
        model = TorchLogisticRegression(tol=1e-10, solver="newton-cholesky").fit(X, y)
    assert len(w) == 1
    assert w[0].filename == __file__
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
    assert [calls[0] // 8, calls[0] // 64] == calls[1:3]


def test_a_device_that_never_has_enough(monkeypatch):
    monkeypatch.setattr(tuning, "CPU_BLOCK_NUMBERS", 2**16)
    monkeypatch.setattr(solver_tuning, "NUMPY_NEWTON_NUMBERS", 0)  # the Hessian is summed in blocks
    X, y, _ = data(2)
    run_out(monkeypatch, "gram", ON_A_DEVICE, n_times=10**9)
    model = TorchLogisticRegression(solver="newton-cholesky")
    with (
        pytest.warns(RuntimeWarning, match="smaller blocks"),
        pytest.raises(MemoryError, match=r"2\.50 GiB were asked for on the device, even in the smallest blocks"),
    ):
        model.fit(X, y)
    assert not hasattr(model, "coef_")


def test_the_host_without_memory_says_what_was_asked_for(monkeypatch):
    X, y, _ = data(2, n=15_000)
    model = TorchLogisticRegression().fit(X, y)
    before = dict(vars(model))
    run_out(monkeypatch, "take", ON_THE_HOST, n_times=10**9)
    with pytest.raises(MemoryError, match="Memory ran out when 123456 bytes were asked for on the host"):
        model.fit(X, y)
    assert vars(model) == before
    run_out(monkeypatch, "blocks", ON_THE_HOST, n_times=10**9)
    with pytest.raises(MemoryError, match="123456 bytes"):
        model.predict(X)
    run_out(monkeypatch, "take", RuntimeError("an unrelated failure"), n_times=10**9)
    with pytest.raises(RuntimeError, match="an unrelated failure"):
        model.fit(X, y)


def test_the_allocator_itself(monkeypatch):
    """torch's own message, for more memory than any machine has."""
    X, _, _ = data(2, n=100)
    monkeypatch.setattr(DenseDesign, "blocks", lambda *_: torch.empty(2**56, dtype=torch.float64))
    model = TorchLogisticRegression()
    model.classes_, model.coef_, model.intercept_, model.n_features_in_ = np.arange(2), np.zeros((1, 6)), np.zeros(1), 6
    with pytest.raises(MemoryError, match=re.escape(f"{8 * 2**56} bytes were asked for on the host")):
        model.predict(X)


def test_rows_that_do_not_fit_on_the_device_are_streamed_to_it(monkeypatch):
    pd = pytest.importorskip("pandas")
    X, y, weight = data(3)
    frame = pd.DataFrame(X).add_prefix("x")
    expected = TorchSoftmaxClassifier(tol=1e-10).fit(frame, y, weight)

    def no_room(*_):
        raise ON_A_DEVICE

    monkeypatch.setattr(training_data, "_moved", no_room)
    with pytest.warns(RuntimeWarning, match="does not fit in the memory of the device") as w:
        model = TorchSoftmaxClassifier(tol=1e-10).fit(frame, y, weight)
    assert w[0].filename == __file__
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8)
    assert model.feature_names_in_.tolist() == [*frame]
    with pytest.raises(MemoryError, match="on the device"):
        TorchSoftmaxClassifier(solver="sgd").fit(X, y)
