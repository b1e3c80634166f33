"""What a fit leaves behind: a plain model, and nothing else."""

import os
import pickle
import pickletools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import Callback, table
from sklearn.datasets import make_classification
from threadpoolctl import threadpool_info, threadpool_limits

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._rows import divisor
from torchlogreg._threads import fit_arithmetic, in_threads, n_readers

SOLVERS = ["auto", "lbfgs", "newton-cholesky", "sgd"]
SETTINGS = {"max_iter": 20, "random_state": 0}


def model(solver):
    return TorchSoftmaxClassifier(solver=solver, tol=0 if solver == "sgd" else 1e-2, **SETTINGS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pickle_holds_no_torch(solver):
    X, y = table("wine", True)
    fitted = model(solver).fit(X, y)
    data = pickle.dumps(fitted)
    words = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert not [word for word in words if word == "torch" or word.startswith("torch.")]
    allowed = (np.ndarray, str, int, float, bool, type(None))
    stream = vars(fitted).pop("_seen")  # what `partial_fit` goes on from: a dict of the same
    history = vars(fitted).pop("history_")  # and so is this
    values = [*vars(fitted).values(), *stream.values(), *history.values()]
    assert all(isinstance(value, allowed) for value in values)
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), fitted.predict_proba(X))


def globals_of_torch_and_numpy():
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "torch RNG": torch.get_rng_state().tolist(),
        "NumPy RNG": str(np.random.get_state()),  # noqa: NPY002 - the global state is what must not change
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "TF32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "NumPy errors": np.geterr(),
        "BLAS threads": blas_threads(),
    }


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_global_changes(solver):
    X, y = table("wine", True)
    before = globals_of_torch_and_numpy()
    fitted = model(solver).fit(X, y)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        getattr(fitted, method)(X)
    with pytest.raises(ValueError, match="NaN"):
        fitted.fit(X * np.nan, y)
    assert globals_of_torch_and_numpy() == before


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "float16", "meta", "medium", "autocast"])
def test_the_users_global_settings_do_not_change_the_answer(solver, state):
    X, y = table("wine", True)
    X = X.astype(np.float32) if state in ("medium", "autocast") else X
    expected = model(solver).fit(X, y).predict_proba(X)

    def answer():
        return model(solver).fit(X, y).predict_proba(X)

    if state == "no_grad":
        with torch.no_grad():
            actual = answer()
    elif state == "inference_mode":
        with torch.inference_mode():
            actual = answer()
    elif state == "autocast":
        with torch.autocast("cpu"):
            actual = answer()
    elif state == "meta":
        with torch.device("meta"):
            actual = answer()
    elif state == "float16":
        torch.set_default_dtype(torch.float16)
        try:
            actual = answer()
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        torch.set_float32_matmul_precision("medium")
        try:
            actual = answer()
        finally:
            torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(actual, expected, atol=1e-6 if X.dtype == np.float32 else 1e-12)


def test_the_same_seed_gives_the_same_fit_and_another_seed_another():
    X, y = table("wine", True)
    first, again = (model("sgd").fit(X, y).coef_ for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, model("sgd").set_params(random_state=1).fit(X, y).coef_)
    for solver in ("lbfgs", "newton-cholesky"):
        np.testing.assert_array_equal(
            model(solver).fit(X, y).coef_, model(solver).set_params(random_state=1).fit(X, y).coef_
        )


def test_fits_in_threads():
    X, y = table("breast_cancer", True)
    threads = torch.get_num_threads()
    expected = TorchLogisticRegression().fit(X, y).coef_
    with ThreadPoolExecutor(4) as pool:
        for coef in pool.map(lambda _: TorchLogisticRegression().fit(X, y).coef_, range(16)):
            np.testing.assert_array_equal(coef, expected)
    assert torch.get_num_threads() == threads


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_products_of_numpy_take_one_thread_as_long_as_any_fit_runs():
    X = torch.zeros(100, 100)
    with threadpool_limits(2, user_api="blas"):
        first, second = fit_arithmetic(X), fit_arithmetic(X)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert set(blas_threads()) == {2}
        with fit_arithmetic(X):
            threadpool_limits(3, user_api="blas")  # what others set meanwhile stays
        assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("two_threads")
def test_threads_end_with_the_fit():
    X, y = make_classification(100_000, 40, random_state=0)
    before = threading.active_count()
    seen = set()

    class Watch(Callback):
        def on_fit_task_end(self, estimator, context):
            seen.add(threading.active_count())

    TorchLogisticRegression().set_callbacks(Watch()).fit(X, y)
    assert max(seen) == before + 1
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_threads")
def test_readers_see_the_settings_of_the_fit_and_divide_no_further():
    token = divisor.set(8)
    try:
        with fit_arithmetic(torch.zeros(100, 100)):
            assert n_readers() == 2
            assert in_threads(lambda part: (part, divisor.get(), n_readers()), "ab") == [("a", 8, 1), ("b", 8, 1)]
            assert n_readers() == 2
    finally:
        divisor.reset(token)


def test_predicting_writes_nothing_to_the_model():
    X, y = table("wine", True)
    fitted = model("auto").fit(X, y)
    before = dict(vars(fitted))
    fitted.predict_proba(X)
    assert vars(fitted) == before


IMPORT = """
import time, torch, sklearn.linear_model, sklearn.model_selection, sklearn.callback, sklearn.utils.estimator_checks
start = time.perf_counter()
import torchlogreg
print(time.perf_counter() - start)
assert not torch.cuda.is_initialized()
"""


def test_importing_is_cheap_and_creates_no_context():
    command = [sys.executable, "-c", IMPORT]
    compiled = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds = [1.0]
    for _ in range(6):  # the fastest: the machine may be busy, the import cannot be faster than it is
        if min(seconds) < 0.05:
            break
        run = subprocess.run(command, capture_output=True, check=True, text=True, env=compiled)
        seconds.append(float(run.stdout))
    assert min(seconds) < 0.05
