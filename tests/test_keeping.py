"""Kept models are the same models, and a file can do no harm."""

import copy
import importlib
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import run_program, serial, table
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

import torchlogreg
import torchlogreg._export.safetensors as model_files
import torchlogreg._runtime.files as files
from torchlogreg import (
    SKOPS_TRUSTED_TYPES,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

safetensors = pytest.importorskip("safetensors.numpy")
RELEASES = Path(__file__).parent / "releases"


def wine(labels=None, dtype=np.float64):
    X, y = table("wine", True)
    return X[:, :4].astype(dtype), y if labels is None else np.asarray(labels)[y]


def two(labels=None, dtype=np.float64):
    X, y = table("wine", True)
    X, y = X[y > 0, :4], y[y > 0] - 1
    return X.astype(dtype), y if labels is None else np.asarray(labels)[y]


def frame():
    X, y = wine()
    return pd.DataFrame(X, columns=["alcohol", "malic acid", "ash", "alcalinité"]), y


MODELS = {
    "binary": lambda: TorchLogisticRegression().fit(*two()),
    "softmax, float32": lambda: TorchSoftmaxClassifier().fit(*wine(dtype=np.float32)),
    "softmax of two": lambda: TorchSoftmaxClassifier(fit_intercept=False).fit(*two()),
    "names": lambda: TorchSoftmaxClassifier().fit(*frame()),
    "parameters": lambda: TorchSoftmaxClassifier(
        C=np.inf,
        class_weight={"a": 1, "b": np.float32(2.5), "c": 0.1},
        max_iter=np.int64(500),
        solver="lbfgs",
        random_state=2**31,
        device=torch.device("cpu"),
    ).fit(*wine(["a", "b", "c"])),
    "sgd": lambda: TorchLogisticRegression(
        solver="sgd", tol=0, max_iter=5, momentum=0.5, batch_size=None, random_state=0, early_stopping=True
    ).fit(*two()),
    "cv": lambda: TorchLogisticRegressionCV(Cs=2, cv=2, device="cpu").fit(*two()),
    "softmax cv": lambda: TorchSoftmaxClassifierCV(Cs=np.array([0.1, 1.0]), l1_ratios=[0.0], cv=2).fit(*wine()),
    "cv, given folds": lambda: TorchSoftmaxClassifierCV(
        Cs=[0.1, 1], cv=[(np.arange(0, 178, 2), np.arange(1, 178, 2))], refit=False
    ).fit(*wine()),
    "from scikit-learn": lambda: TorchSoftmaxClassifier.from_sklearn(LogisticRegression().fit(*frame())),
}
ROWS = wine()[0]


def assert_same(a, b):
    """Equal values of equal types, down to the dtype."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, strict=True)
    else:
        assert a == b


def predictions(model):
    return model.predict(ROWS).tolist(), model.predict_proba(ROWS).tolist()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_saved_model_comes_back_whole(name, tmp_path):
    model = MODELS[name]()
    model.save(tmp_path / "model.safetensors")
    loaded = type(model).load(str(tmp_path / "model.safetensors"))
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in vars(model).items()}
    if name == "parameters":
        plain["class_weight"] = {"a": 1, "b": 2.5, "c": 0.1}
    plain.pop("_seen", None)  # what `partial_fit` goes on from is not in the file
    assert_same(plain, {key: vars(loaded)[key] for key in plain})
    assert vars(loaded).keys() == plain.keys()
    assert predictions(loaded) == predictions(model)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.safetensors", "model.safetensors"]


LABELS = {
    "bool": [False, True],
    "int8": np.array([-1, 1], "int8"),
    "uint64": np.array([0, 2**64 - 1], "uint64"),
    "int64": [-(2**62), 2**62 + 1],
    "float32": np.array([0, 1], "float32"),
    "float64": [-1.0, 3.0],
    "str": ["no", "ÿës\ud800\n\"'"],
    "object": np.array(["no", "yes"], object),
    "swapped": np.array([0, 1], ">i4"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_keep_value_and_dtype(kind, tmp_path):
    X, y = two(LABELS[kind])
    model = TorchLogisticRegression().fit(X, y)
    model.save(tmp_path / "model")
    loaded = TorchLogisticRegression.load(tmp_path / "model")
    assert_same(loaded.classes_, model.classes_)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_bytes_that_an_earlier_version_fitted_keep_value_and_dtype(tmp_path):
    model = TorchLogisticRegression().fit(*two())
    model.classes_ = np.array([b"no", b"\xff"])
    model.save(tmp_path / "model")
    assert_same(TorchLogisticRegression.load(tmp_path / "model").classes_, model.classes_)


def test_the_file_is_what_others_can_read(tmp_path):
    model = MODELS["names"]()
    model.save(tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    content = json.loads(header["__metadata__"]["torchlogreg"])
    assert content["format"] == 1
    assert content["torchlogreg"] == torchlogreg.__version__
    assert content["parameters"].keys() == model.get_params().keys()
    assert content["attributes"]["classes_"]["array"][2] == [0, 1, 2]
    assert content["attributes"]["feature_names_in_"]["array"][2] == model.feature_names_in_.tolist()
    np.testing.assert_array_equal(safetensors.load(data)["coef_"], model.coef_)


def test_a_loaded_model_can_go_on(tmp_path):
    X, y = wine()
    model = TorchSoftmaxClassifier(warm_start=True, tol=1e-10).fit(X, y)
    model.save(tmp_path / "model")
    again = TorchSoftmaxClassifier.load(tmp_path / "model").fit(X, y)
    assert again.n_iter_[0] < model.n_iter_[0]
    np.testing.assert_allclose(again.coef_, model.coef_, atol=1e-8)


def test_histories_of_arrays(tmp_path):
    model = MODELS["binary"]()
    model.history_ = {"loss": np.arange(3.0), "epoch": np.arange(3), "é.\ud800": [np.ones(1, np.float32)], "": None}
    model.history_ |= {"a": {"b": np.zeros(1)}, "a.b": np.ones(2), "flags": (True, np.array([True, False]))}
    model.save(tmp_path / "model")
    assert_same(TorchLogisticRegression.load(tmp_path / "model").history_, model.history_)


def test_memory_order_of_the_coefficients_does_not_matter(tmp_path):
    model = MODELS["names"]()
    model.coef_ = np.asfortranarray(model.coef_)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(TorchSoftmaxClassifier.load(tmp_path / "model").coef_, model.coef_)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Bytes of a tiny file."""
    path = tmp_path_factory.mktemp("saved") / "model"
    TorchLogisticRegression(class_weight={0: 1.0, 1: 2.0}).fit([[0.0], [1.0], [2.0]], [0, 1, 0]).save(path)
    return path.read_bytes()


def test_no_byte_can_change(saved, tmp_path):
    path = tmp_path / "model"
    for i in range(len(saved)):
        path.write_bytes(saved[:i] + bytes([saved[i] ^ 1]) + saved[i + 1 :])
        with pytest.raises(ValueError, match=str(path)):
            TorchLogisticRegression.load(path)


def test_no_part_is_missing(saved, tmp_path):
    path = tmp_path / "model"
    for end in [*range(0, len(saved), 7), len(saved) - 1]:
        path.write_bytes(saved[:end])
        with pytest.raises(ValueError, match="damaged"):
            TorchLogisticRegression.load(path)
    path.write_bytes(saved + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        TorchLogisticRegression.load(path)


def forged(saved, path, edit):
    """Write the file with edited content and tensors, and the digest that belongs to them."""
    header = json.loads(saved[8 : 8 + int.from_bytes(saved[:8], "little")])
    content, tensors = json.loads(header["__metadata__"]["torchlogreg"]), safetensors.load(saved)
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    del content["sha256"]
    edit(content, content["parameters"], content["attributes"], tensors)
    text = json.dumps({**content, "sha256": model_files._digest(content, tensors)})
    path.write_bytes(safetensors.save(tensors, {"torchlogreg": text}))


def put(where, name, value):
    """An edit of one entry."""
    index = ["content", "parameters", "attributes", "tensors"].index(where)
    return lambda *parts: parts[index].__setitem__(name, value)


def drop(where, name):
    index = ["content", "parameters", "attributes", "tensors"].index(where)
    return lambda *parts: parts[index].pop(name)


def labels(dtype, values):
    return put("attributes", "classes_", {"array": [dtype, [len(values)], values]})


FORGED = {
    "a later format": (put("content", "format", 2), "format 2.*install"),
    "an odd format": (put("content", "format", True), "format True"),
    "another format": (put("content", "format", "1"), "format '1'"),
    "another class": (put("content", "class", "TorchSoftmaxClassifier"), "TorchSoftmaxClassifier.load"),
    "a foreign class": (put("content", "class", "os.system"), "holds a os.system: use"),
    "no parameters": (drop("content", "parameters"), "valid"),
    "parameters as a list": (put("content", "parameters", []), "valid"),
    "an unknown parameter": (put("parameters", "penalty", "l2"), "penalty.*no parameters"),
    "an invalid parameter": (put("parameters", "C", -1), "'C' parameter"),
    "a parameter of another type": (put("parameters", "C", "__import__('os')"), "'C' parameter"),
    "a parameter from a file": (put("parameters", "random_state", {"open": "/etc/passwd"}), "'open' is no kind"),
    "no such device": (put("parameters", "device", {"device": "abacus"}), "valid"),
    "two kinds": (put("parameters", "C", {"float": "inf", "tuple": []}), "valid"),
    "no such float": (put("parameters", "C", {"float": "1e3"}), "no float"),
    "no such tensor": (put("attributes", "coef_", {"tensor": "coefficients"}), "valid"),
    "a pickle": (put("attributes", "coef_", {"pickle": "gASVBQ=="}), "'pickle' is no kind"),
    "a method": (put("attributes", "predict", "x"), "predict.*no fitted attributes"),
    "a private attribute": (put("attributes", "_known", "x"), "_known.*no fitted attributes"),
    "a special attribute": (put("attributes", "__class__", "x"), "__class__.*no fitted attributes"),
    "no coefficients": (drop("attributes", "coef_"), "coef_ is missing"),
    "a number as coefficients": (put("attributes", "coef_", 1.0), "must be arrays"),
    "too wide": (put("tensors", "coef_", np.ones((1, 2))), r"coef_ has shape \(1, 2\); 2 classes and 1 features"),
    "too high": (put("tensors", "coef_", np.ones((2, 1))), r"coef_ has shape \(2, 1\)"),
    "flat": (put("tensors", "coef_", np.ones(1)), r"coef_ has shape \(1,\)"),
    "too many intercepts": (put("tensors", "intercept_", np.ones(2)), r"intercept_ has shape \(2,\)"),
    "not a number": (put("tensors", "coef_", np.array([[np.nan]])), "coef_ contains NaN"),
    "infinite": (put("tensors", "intercept_", np.array([np.inf])), "intercept_ contains NaN or infinity"),
    "half precision": (put("tensors", "coef_", np.ones((1, 1), np.float16)), "same dtype"),
    "two precisions": (put("tensors", "coef_", np.ones((1, 1), np.float32)), "same dtype"),
    "a tensor of integers": (put("tensors", "coef_", np.ones((1, 1), np.int64)), "not written by torchlogreg"),
    "one class": (labels("<i8", [0]), "at least two"),
    "three classes": (labels("<i8", [0, 1, 2]), "two classes, got 3"),
    "a class twice": (labels("<i8", [1, 1]), "ascending"),
    "the wrong order": (labels("<i8", [1, 0]), "ascending"),
    "mixed labels": (labels("O", [1, "a"]), "valid"),
    "lists as labels": (labels("O", [[1], [2]]), "something other"),
    "labels of another dtype": (labels("<i8", ["0", "1"]), "do not fit"),
    "labels that overflow": (labels("|i1", [0, 1000]), "valid"),
    "labels of a structured dtype": (labels("i4,O", [0, 1]), "something other"),
    "labels a gigabyte wide": (labels("<U268435456", ["a", "b"]), "something other"),
    "labels that NumPy would make a gigabyte wide": (
        labels("U", ["a" * 2**15] + [""] * 2**14),
        "more than a gigabyte",
    ),
    "labels of the wrong shape": (put("attributes", "classes_", {"array": ["<i8", [3], [0, 1]]}), "valid"),
    "features as text": (put("attributes", "n_features_in_", "1"), "positive integer"),
    "no features": (put("attributes", "n_features_in_", 0), "positive integer"),
    "too many names": (put("attributes", "feature_names_in_", {"array": ["O", [2], ["a", "b"]]}), "1 strings"),
    "numbers as names": (put("attributes", "feature_names_in_", {"array": ["O", [1], [5]]}), "1 strings"),
    "a mask of another size": (
        put(
            "attributes",
            "loss_curve_",
            {"masked": [{"array": ["O", [1], ["x"]]}, {"array": ["|b1", [2], [True, True]]}]},
        ),
        "valid",
    ),
    "a tuple without end": (
        put("parameters", "class_weight", {"tuple": {"array": ["<f8", [10**12, 0], []]}}),
        "given as a list",
    ),
    "a list as key": (put("parameters", "class_weight", {"dict": [[[0], 1]]}), "valid"),
}


@pytest.mark.parametrize("name", FORGED)
def test_whatever_a_file_says_is_checked(name, saved, tmp_path):
    edit, message = FORGED[name]
    forged(saved, tmp_path / "model", lambda *_: None)
    TorchLogisticRegression.load(tmp_path / "model")  # a forgery that changes nothing is a good file
    forged(saved, tmp_path / "model", edit)
    with pytest.raises(ValueError, match=message):
        TorchLogisticRegression.load(tmp_path / "model")


def test_an_older_file_may_lack_a_newer_parameter(saved, tmp_path):
    forged(saved, tmp_path / "model", drop("parameters", "device"))
    assert TorchLogisticRegression.load(tmp_path / "model").device == "auto"


def write_metadata(path, metadata):
    path.write_bytes(safetensors.save({"x": np.ones(2)}, metadata))


def test_foreign_files(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError):
        TorchLogisticRegression.load(path)
    with pytest.raises(IsADirectoryError):
        TorchLogisticRegression.load(tmp_path)
    path.write_bytes(pickle.dumps(MODELS["binary"]()))
    with pytest.raises(ValueError, match="damaged, or no"):
        TorchLogisticRegression.load(path)
    for metadata in (None, {"format": "pt"}, {"torchlogreg": "{}", "more": "x"}):
        write_metadata(path, metadata)
        with pytest.raises(ValueError, match="not written by torchlogreg"):
            TorchLogisticRegression.load(path)
    for text in ("", "{}", "[]", "null", '"a"', "{'a': 1}", "[" * 100_000, '{"format": ' + "9" * 5000):
        write_metadata(path, {"torchlogreg": text})
        with pytest.raises(ValueError, match="not that of a model"):
            TorchLogisticRegression.load(path)
    deep = '{"format": 1, "torchlogreg": "1", "class": "TorchLogisticRegression", "parameters": {"C": %s}}'
    for depth in (*range(100, 1000, 50), 10_000):
        write_metadata(path, {"torchlogreg": deep % ("[" * depth + "]" * depth)})
        with pytest.raises(ValueError, match=str(path)):
            TorchLogisticRegression.load(path)


def test_the_class_must_be_the_one_that_was_saved(tmp_path):
    MODELS["binary"]().save(tmp_path / "model")
    for cls in (TorchSoftmaxClassifier, TorchLogisticRegressionCV):
        with pytest.raises(ValueError, match=r"use TorchLogisticRegression\.load"):
            cls.load(tmp_path / "model")


X2, Y2 = two()
UNSAVED = {
    "not fitted": (TorchLogisticRegression(), NotFittedError, "not fitted"),
    "a generator": (
        TorchLogisticRegression(random_state=np.random.RandomState(0)).fit(X2, Y2),
        TypeError,
        "random_state is a RandomState.*set_params",
    ),
    "a function": (
        TorchLogisticRegressionCV(Cs=2, cv=2, scoring=lambda model, X, y: 0.5).fit(X2, Y2),
        TypeError,
        "scoring is a function.*skops",
    ),
    "a splitter": (TorchLogisticRegressionCV(Cs=2, cv=StratifiedKFold(2)).fit(X2, Y2), TypeError, "cv is a Strat"),
    "callbacks": (TorchLogisticRegression().fit(X2, Y2).set_callbacks(ProgressBar()), TypeError, "set_callbacks"),
    "a parameter that became invalid": (TorchLogisticRegression().fit(X2, Y2).set_params(C=0), ValueError, "'C'"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_cannot_be_saved_leaves_the_file_as_it_was(name, tmp_path):
    model, error, message = UNSAVED[name]
    (tmp_path / "model").write_text("before")
    with pytest.raises(error, match=message):
        model.save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "before"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coefficients_that_are_not_finite_are_not_saved(value, tmp_path):
    model = MODELS["binary"]()
    model.coef_[0, 1] = value
    with pytest.raises(ValueError, match="coef_ contains NaN or infinity"):
        model.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_without_callbacks_it_can_be_saved(tmp_path):
    model = TorchLogisticRegression().set_callbacks(ProgressBar()).fit(*two())
    model.set_callbacks().save(tmp_path / "model")
    assert TorchLogisticRegression.load(tmp_path / "model").n_iter_[0] == model.n_iter_[0]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_file(failing, saved, tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(saved)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        MODELS["binary"]().save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == saved
    assert os.listdir(tmp_path) == ["model"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "model")
    for _ in range(2):
        MODELS["binary"]().save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        TorchLogisticRegression.load(tmp_path / "folder" / "model")


def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        # A reader that is there from the beginning, and neither waits for a writer nor keeps one waiting.
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            MODELS["binary"]().save(path)
            content = os.read(reader, 2**16)
        finally:
            os.close(reader)
        (tmp_path / "model").write_bytes(content)
        assert predictions(TorchLogisticRegression.load(tmp_path / "model")) == predictions(MODELS["binary"]())
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert sorted(os.listdir(tmp_path)) == ["link", "model", "pipe"]
        (tmp_path / "model").unlink()


def test_what_is_special():
    """Devices too, which a test that fails must not be able to replace."""
    assert files.is_special(os.devnull)
    assert not files.is_special(__file__)


def test_a_pipe_cannot_be_loaded_and_says_so(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    both_ends = os.open(tmp_path / "pipe", os.O_RDWR)  # so that nobody waits
    try:
        with pytest.raises(ValueError, match="pipe is not a regular file"):
            TorchLogisticRegression.load(tmp_path / "pipe")
    finally:
        os.close(both_ends)


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing/model", FileNotFoundError), ("file/model", NotADirectoryError), ("folder", IsADirectoryError)],
)
def test_errors_name_the_path_that_was_given(name, error, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name)):
        with pytest.raises(error) as caught:
            MODELS["binary"]().save(path)
        assert str(caught.value).endswith(f": '{name}'")
        assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "model"
    MODELS["binary"]().save(path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    path.chmod(0o600)
    MODELS["binary"]().save(path)
    assert path.stat().st_mode & 0o777 == 0o600


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    MODELS["binary"]().save(tmp_path / ("m" * 255))


WRITER = """
import sys
from importlib import util
spec = util.spec_from_file_location("persistence", sys.argv[1])
module = util.module_from_spec(spec)
spec.loader.exec_module(module)  # without torch, so that it starts soon
contents = [bytes([i]) * 2_000_000 for i in range(2)]
print(flush=True)
while True:
    for content in contents:
        module.replace_file(sys.argv[2], content)
"""


@serial
def test_a_killed_process_leaves_no_torn_file(tmp_path):
    path = tmp_path / "model"
    contents = [bytes([i]) * 2_000_000 for i in range(2)]
    path.write_bytes(contents[0])
    random = np.random.default_rng(0)
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, files.__file__, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            n_looks = random.integers(1, 300)  # a reader, too, sees the one or the other
            seen = [path.read_bytes() in contents for _ in range(n_looks)]
            process.kill()
        assert all([*seen, path.read_bytes() in contents])


def test_the_error_without_safetensors_names_the_extra(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    (tmp_path / "model").write_bytes(saved)
    with pytest.raises(ImportError, match=r"pip install 'torchlogreg\[save\]'"):
        TorchLogisticRegression.load(tmp_path / "model")
    with pytest.raises(ImportError, match=r"pip install 'torchlogreg\[save\]'"):
        MODELS["binary"]().save(tmp_path / "other")


# What is stored for each release: files that `save` wrote then, and what their models predicted.


def stored():
    return sorted(RELEASES.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", stored(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_model_of_each_release_stays_loadable(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    model = getattr(torchlogreg, expected["class"]).load(path)
    X = np.array(expected["X"])
    assert model.predict(X).tolist() == expected["predict"]
    np.testing.assert_allclose(model.predict_proba(X), expected["predict_proba"], rtol=1e-12)
    assert model.get_params().items() >= expected["parameters"].items()
    assert model.n_iter_.dtype == np.int32
    assert model.n_iter_.shape == ((2, 1, 2) if "cv" in path.stem else (1,))


def test_models_of_this_release_are_stored():
    assert torchlogreg.__version__ in {path.parent.name for path in stored()}, "run python tests/releases/store.py"
    classes = {json.loads(path.with_suffix(".json").read_text())["class"] for path in stored()}
    assert {name.rsplit(".", 1)[1] for name in SKOPS_TRUSTED_TYPES if name.startswith("torchlogreg.")} == classes


# pickle, joblib, skops, copies

UNPICKLE = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    models = pickle.load(file)
for model, X, proba in models:
    assert (model.predict_proba(X) == proba).all()
    print(type(model).__name__)
"""
CLASSES = ["binary", "softmax, float32", "cv", "softmax cv"]


def test_pickles_cross_processes(tmp_path):
    models = [MODELS[name]() for name in CLASSES]
    (tmp_path / "models").write_bytes(pickle.dumps([(model, ROWS, model.predict_proba(ROWS)) for model in models]))
    printed = run_program(UNPICKLE, tmp_path / "models")
    assert printed.split() == [type(model).__name__ for model in models]


@pytest.mark.parametrize("options", [{}, {"mmap_mode": "r"}], ids=str)
def test_joblib(options, tmp_path):
    for name in CLASSES:
        model = MODELS[name]()
        joblib.dump(model, tmp_path / "model.joblib")
        loaded = joblib.load(tmp_path / "model.joblib", **options)
        assert predictions(loaded) == predictions(model)
        loaded.to_torch()
        loaded.to_sklearn()
        loaded.save(tmp_path / "model.safetensors")
        assert predictions(type(model).load(tmp_path / "model.safetensors")) == predictions(model)


def test_skops_with_exactly_the_trusted_types():
    skops = pytest.importorskip("skops.io")
    from skops.io.exceptions import UntrustedTypesFoundException

    found = set()
    for make in MODELS.values():
        model = make()
        data = skops.dumps(model)
        types = skops.get_untrusted_types(data=data)
        assert set(types) <= set(SKOPS_TRUSTED_TYPES)
        found.update(types)
        loaded = skops.loads(data, trusted=SKOPS_TRUSTED_TYPES)
        if not hasattr(model, "feature_names_in_"):
            assert predictions(loaded) == predictions(model)
        with pytest.raises(UntrustedTypesFoundException):
            skops.loads(data, trusted=[])
    assert sorted(found) == SKOPS_TRUSTED_TYPES[:5]  # the others are of older files


@pytest.mark.parametrize("name", CLASSES)
def test_copies(name):
    model = MODELS[name]()
    copied = copy.deepcopy(model)
    assert_same(vars(copied), vars(model))
    copied.coef_ += 1
    assert not np.array_equal(copied.coef_, model.coef_)
    fresh = clone(model)
    assert not hasattr(fresh, "coef_")
    assert str(fresh) == str(model)


def test_a_model_keeps_to_the_cpu_and_its_threads(tmp_path):
    model = MODELS["binary"]()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    model.save(tmp_path / "model")
    TorchLogisticRegression.load(tmp_path / "model").to_torch()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_pickles_hold_public_paths_and_those_of_the_version_before_are_found():
    for module, name in (
        ("_estimators", "TorchLogisticRegression"),
        ("_estimators", "TorchSoftmaxClassifier"),
        ("_cv", "TorchLogisticRegressionCV"),
        ("_cv", "TorchSoftmaxClassifierCV"),
        ("_search", "TorchGridSearchCV"),
        ("_conversion", "LogisticModule"),
    ):
        kind = getattr(torchlogreg, name)
        assert kind.__module__ == "torchlogreg"
        assert getattr(importlib.import_module(f"torchlogreg.{module}"), name) is kind


def test_partial_fit_goes_on_from_a_pickle_of_the_version_before():
    X, y = two()
    model = TorchLogisticRegression(random_state=0).partial_fit(X, y, classes=np.unique(y))
    before = copy.deepcopy(model)
    before._seen["mark"] = before._seen.pop("fingerprint")
    np.testing.assert_array_equal(before.partial_fit(X, y).coef_, model.partial_fit(X, y).coef_)
