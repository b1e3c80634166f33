"""Where features meet: containers with persistence, conversion, pictures and streams."""

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale

from torchlogreg import CoefficientDisplay, TorchSoftmaxClassifier, TorchSoftmaxClassifierCV, to_torch

X, y = load_wine(return_X_y=True)
X = scale(X)


def dispatched():
    with config_context(array_api_dispatch=True):
        return TorchSoftmaxClassifier().fit(torch.from_numpy(X.astype(np.float32)), torch.from_numpy(y))


MODELS = {"sparse coefficients": lambda: TorchSoftmaxClassifier().fit(X, y).sparsify(), "tensors": dispatched}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.usefixtures("no_windows")
def test_models_of_any_storage_are_kept_converted_and_drawn(make, tmp_path):
    model = make()
    coef = np.asarray(model.coef_.toarray() if sparse.issparse(model.coef_) else model.coef_)
    reference = TorchSoftmaxClassifier().fit(X.astype(coef.dtype), y)
    np.testing.assert_allclose(coef, reference.coef_, rtol=1e-6, atol=1e-7)
    expected = reference.predict_proba(X.astype(coef.dtype))
    model.save(tmp_path / "model.safetensors")
    loaded = TorchSoftmaxClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(X), expected, rtol=1e-4)
    np.testing.assert_allclose(model.to_sklearn().predict_proba(X), expected, rtol=1e-4)
    for module in (model.to_torch(), to_torch(model)):
        assert module.linear.weight.numpy(force=True).dtype == coef.dtype
        np.testing.assert_array_equal(module.linear.weight.numpy(force=True), coef)
    display = CoefficientDisplay.from_estimator(model)
    assert "tensor" not in "".join(text.get_text() for text in display.ax_.get_xticklabels())


def test_a_stream_that_yields_none_is_refused():
    with pytest.raises(ValueError, match="must yield tuples"):
        TorchSoftmaxClassifier().fit([(X[:100], y[:100]), None, (X[100:], y[100:])])


def test_blocks_of_a_few_rows_that_are_alike_are_no_new_pass():
    rows = np.random.default_rng(0).integers(0, 2, (60, 4)).astype(float)
    model = TorchSoftmaxClassifier()
    for i in range(60):
        model.partial_fit(rows[i : i + 1], [i % 2], classes=[0, 1])
    assert model._seen["weight"] == 60


def test_recognising_a_block_makes_no_sparse_row_dense(monkeypatch):
    monkeypatch.setattr("torchlogreg._data.csr_tensor.CSRTensor.dense", lambda *_: pytest.fail("made dense"))
    wide = sparse.random_array((200, 2**16), density=1e-3, rng=np.random.default_rng(0), format="csr")
    labels = np.arange(200) % 2
    model = TorchSoftmaxClassifier()
    for _ in range(2):
        model.partial_fit(wide, labels, classes=[0, 1])
    assert model._seen["weight_before"] == 200


@pytest.mark.parametrize(
    "fit",
    [
        lambda: TorchSoftmaxClassifier().fit(X, y),
        lambda: TorchSoftmaxClassifier().partial_fit(X, y, classes=[0, 1, 2]),
        lambda: TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(X, y),
    ],
    ids=["fit", "partial_fit", "cv"],
)
def test_memory_that_runs_out_on_the_host_is_a_memory_error(fit, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1000 bytes.")

    for module in ("_estimators.problem", "_estimators.partial_fit", "_model_selection.rows"):
        monkeypatch.setattr(f"torchlogreg.{module}.design_of", fail)
    with pytest.raises(MemoryError, match="1000 bytes"):
        fit()


def test_large_sparse_tensors_are_refused_by_the_methods_that_predict(monkeypatch):
    monkeypatch.setattr("torchlogreg._data.tuning.MIN_STREAMED_NUMBERS", 100)
    model = TorchSoftmaxClassifier().fit(X, y)
    with pytest.raises(TypeError, match="to_dense"):
        model.predict(torch.from_numpy(X).to_sparse())


def test_rows_without_labels_are_no_stream():
    with pytest.raises(ValueError, match="requires y"):
        TorchSoftmaxClassifier().fit([[1.0, 2.0], [3.0, 4.0]])


def test_a_tensor_of_one_weight_weighs_every_row():
    one, other = (TorchSoftmaxClassifier().fit(X, y, sample_weight=weight) for weight in (torch.tensor(2.0), 2.0))
    np.testing.assert_array_equal(one.coef_, other.coef_)


def test_names_are_missed_once_however_large_the_array(monkeypatch):
    monkeypatch.setattr("torchlogreg._data.tuning.MIN_STREAMED_NUMBERS", 100)
    monkeypatch.setattr("torchlogreg._data.tuning.MAPPED_BLOCK_BYTES", 8 * 64 * X.shape[1])
    model = TorchSoftmaxClassifier().fit(pandas.DataFrame(X, columns=list("abcdefghijklm")), y)
    with pytest.warns(UserWarning, match="valid feature names") as caught:
        labels = model.predict(X)
    assert len(caught) == 1
    np.testing.assert_array_equal(labels, TorchSoftmaxClassifier().fit(X, y).predict(X))
