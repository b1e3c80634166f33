"""Where things are computed: whatever torch's default device is, and however `device` is given."""

import ast
import pickle
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, table
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone

import torchlogreg
from torchlogreg import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    ScorePathDisplay,
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
    to_torch,
)
from torchlogreg._data.device import choose_device
from torchlogreg._model_selection.batches import batches_of
from torchlogreg.callbacks import Checkpoint, EarlyStopping, LiveBoundary

# What makes a tensor on the default device, unless it is told another one. `as_tensor` even moves one there.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty", "empty_permuted"),
    *("empty_strided", "eye", "fft.fftfreq", "fft.rfftfreq", "frombuffer", "full", "Generator", "hamming_window"),
    *("hann_window", "kaiser_window", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm"),
    *("range", "scalar_tensor", "sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_compressed_tensor"),
    *("sparse_coo_tensor", "sparse_csc_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}


def test_every_tensor_that_is_made_names_its_device():
    package, nameless = Path(torchlogreg.__file__).parent, []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).removeprefix("torch.")
            if name in FACTORIES and ast.unparse(node.func) != name:
                placed = any(keyword.arg == "device" for keyword in node.keywords)
                if not (placed or (name == "Generator" and node.args)):
                    nameless.append(f"{path.relative_to(package)}:{node.lineno}: {ast.unparse(node)}")
    assert not nameless
    assert [name for name in FACTORIES if not hasattr(torch, name.split(".")[0])] == []


X, Y = table("wine", True)
DIGITS = tuple(array[:600] for array in table("digits", True))
X2, Y2 = table("breast_cancer", True)
PLANE = np.ascontiguousarray(X2[:, :2])
WIDE = np.ascontiguousarray(X2[:20]), Y2[:20]
BLOCKS = [(X2[i : i + 100], Y2[i : i + 100]) for i in range(0, len(X2), 100)]
WEIGHTED = [(X, y, np.arange(len(y)) % 3 + 1.0) for X, y in BLOCKS]
SGD = {"solver": "sgd", "tol": 0, "max_iter": 3, "random_state": 0}


def answers(model, X=X2):
    return [model.predict(X), model.predict_proba(X), model.predict_log_proba(X), model.decision_function(X)]


def solved(solver):
    return lambda _: answers(TorchSoftmaxClassifier(solver=solver).fit(*DIGITS), DIGITS[0])


def streamed(blocks, **options):
    return lambda _: answers(TorchLogisticRegression(**options).fit(blocks))


def in_blocks(_):
    model = TorchSoftmaxClassifier(random_state=0)
    for part in np.array_split(np.arange(len(X)), 3):
        model.partial_fit(X[part], Y[part], classes=np.arange(3))
    return answers(model, X)


def searched(scoring):
    def run(_):
        search = TorchGridSearchCV(TorchSoftmaxClassifier(), {"C": [0.01, 1.0]}, cv=3, scoring=scoring).fit(X, Y)
        return [search.cv_results_["mean_test_score"], *answers(search, X)]

    return run


def validated(_):
    model = TorchLogisticRegression(early_stopping=True, **SGD).fit(X2, Y2)
    fitted = TorchLogisticRegression().fit(X2, Y2, X_val=X2[:50], y_val=Y2[:50])
    return [*answers(model), fitted.history_["train_loss"], fitted.history_["validation_accuracy"]]


def kept(folder):
    model = TorchSoftmaxClassifier().fit(X, Y)
    model.save(folder / "model")
    pickled = pickle.loads(pickle.dumps(model))
    module = to_torch(model)
    assert module.linear.weight.device.type == "cpu"
    proba = module(torch.tensor(X, device="cpu")).detach().numpy()
    return [*answers(TorchSoftmaxClassifier.load(folder / "model"), X), *answers(pickled, X), proba]


def resumed(folder):
    for solver in ("lbfgs", "sgd"):
        options = {**SGD, "solver": solver}
        with pytest.raises(KeyboardInterrupt):
            TorchLogisticRegression(**options).set_callbacks(Checkpoint(folder / "x", every=1), Last()).fit(X2, Y2)
        model = TorchLogisticRegression(**options).set_callbacks(Checkpoint(folder / "x", every=1))
        with pytest.warns(match="Raise max_iter") if solver == "lbfgs" else no_warning():
            yield from answers(model.fit(X2, Y2))


@contextmanager
def no_warning():
    yield


class Last(EarlyStopping):
    """Ends the process, as good as, after the second iteration."""

    def __init__(self):
        super().__init__("objective", threshold=0)

    def on_fit_task_end(self, estimator, context):
        progress = getattr(context, "progress", None)
        if progress is not None and len(progress.history["objective"]) == 2:
            raise KeyboardInterrupt


def drawn(folder):
    model = TorchLogisticRegression().set_callbacks(LiveBoundary(100, path=folder / "x.gif")).fit(PLANE, Y2)
    LossCurveDisplay.from_estimator(model)
    CoefficientDisplay.from_estimator(model)
    ProbabilityCurveDisplay.from_estimator(TorchLogisticRegression().fit(PLANE[:, :1], Y2), PLANE[:, :1], Y2)
    cv = TorchLogisticRegressionCV(Cs=3, cv=3).fit(X2, Y2)
    ScorePathDisplay.from_estimator(cv)
    CoefficientPathDisplay.from_estimator(cv)
    return answers(model, PLANE)


def in_torch(_):
    with config_context(array_api_dispatch=True):
        rows, labels = torch.tensor(X, device="cpu"), torch.tensor(Y, device="cpu")
        model = TorchSoftmaxClassifier().fit(rows, labels)
        cv = TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(rows, labels)
        return [v.numpy() for m in (model, cv) for v in [*answers(m, rows), m.coef_]]


WORK = {
    **{solver: solved(solver) for solver in DETERMINISTIC},
    "sgd": lambda _: answers(TorchLogisticRegression(**SGD).fit(X2, Y2)),
    "sgd, steady rate": lambda _: answers(TorchLogisticRegression(learning_rate=0.1, **SGD).fit(X2, Y2)),
    "partial_fit": in_blocks,
    "stream": streamed(BLOCKS),
    "weighted stream": streamed(WEIGHTED, class_weight="balanced"),
    "stream, newton": streamed(WEIGHTED, solver="newton-cholesky"),
    "stream, sgd": streamed(WEIGHTED, **SGD),
    "tensors": lambda _: answers(TorchSoftmaxClassifier().fit(torch.tensor(X, device="cpu").half(), Y), X),
    "sparse": lambda _: answers(
        TorchSoftmaxClassifier().fit(
            sparse.random_array((3000, 500), density=0.01, rng=0).tocsr(), np.arange(3000) % 3
        ),
        np.eye(500),
    ),
    "wide": lambda _: answers(TorchLogisticRegression().fit(*WIDE)),
    "cv": lambda _: answers(TorchLogisticRegressionCV(Cs=4, cv=3).fit(X2, Y2)),
    "softmax cv": lambda _: answers(TorchSoftmaxClassifierCV(Cs=[0.01, 1.0], cv=3, scoring="f1_macro").fit(X, Y), X),
    "search": searched("neg_log_loss"),
    "search by other scores": searched("roc_auc_ovr"),
    "validation": validated,
    "keeping": kept,
    "checkpoint": resumed,
    "pictures": drawn,
    "dispatch": in_torch,
}


@contextmanager
def default(device):
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None if before.type == "cpu" else before)


@pytest.mark.usefixtures("no_windows")
@pytest.mark.parametrize("name", WORK)
def test_the_default_device_does_not_matter(name, tmp_path):
    expected = [np.asarray(v) for v in WORK[name](tmp_path)]
    for elsewhere in (torch.device("meta"), default("meta")):
        with elsewhere:
            actual = [np.asarray(v) for v in WORK[name](tmp_path)]
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


CLASSES = TorchLogisticRegression, TorchSoftmaxClassifier, TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
CPU = torch.device("cpu")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_torch_device_is_as_good_as_its_name(cls, tmp_path):
    model = cls(device=CPU)
    assert model.device is CPU
    assert model.fit(X2, Y2).device is CPU
    assert model.device_ == "cpu"
    assert answers(model)[1].tolist() == answers(cls(device="cpu").fit(X2, Y2))[1].tolist()
    assert clone(model).device == CPU
    assert repr(model) == f"{cls.__name__}(device=device(type='cpu'))"
    model.save(tmp_path / "model")
    assert cls.load(tmp_path / "model").get_params()["device"] == CPU
    assert answers(model.set_params(device=torch.device("cuda:99")))[0].shape == Y2.shape  # as if fitted elsewhere
    with pytest.raises(ValueError, match=r"device='cuda:99' is not available here\. Choose 'auto' or one of \['cpu'"):
        model.fit(X2, Y2)
    with pytest.raises(ValueError, match="device='meta' is not available here"):
        model.set_params(device=torch.device("meta")).fit(X2, Y2)


def test_a_device_of_either_kind_in_every_other_place(tmp_path):
    model = TorchLogisticRegression(device=CPU, **{**SGD, "solver": "lbfgs", "max_iter": 100, "tol": 1e-4})
    model.set_callbacks(Checkpoint(tmp_path / "x", every=1), Last())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X2, Y2)
    model.set_params(device="cpu").set_callbacks(Checkpoint(tmp_path / "x")).fit(X2, Y2)  # the same fit, for all that
    np.testing.assert_array_equal(model.coef_, TorchLogisticRegression(device=CPU, solver="lbfgs").fit(X2, Y2).coef_)
    blocks = TorchLogisticRegression(device=CPU).fit(BLOCKS)
    np.testing.assert_array_equal(blocks.coef_, TorchLogisticRegression(device="cpu").fit(BLOCKS).coef_)
    assert TorchLogisticRegression(device=CPU).partial_fit(X2, Y2, classes=[0, 1]).device_ == "cpu"
    cv = TorchLogisticRegressionCV(Cs=3, cv=3, device=CPU).fit(X2, Y2)
    assert cv.score(X2, Y2) == TorchLogisticRegressionCV(Cs=3, cv=3).fit(X2, Y2).score(X2, Y2)


def test_candidates_of_a_search_stay_one_batch():
    """A search clones its estimator for each of them, and with it the device."""
    for device in (CPU, "cpu"):
        assert len(batches_of(TorchLogisticRegression(device=device), [{"C": 1.0}, {"C": 2.0}])) == 1


def test_the_device_of_a_tensor_on_an_apple_is_available_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device(torch.device("mps", 0), torch.zeros(1, 1), None).device == torch.device("mps", 0)
