"""What a fit leaves behind: a plain model, and nothing else."""

import ctypes
import os
import pickle
import pickletools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, SOLVERS, Callback, Interrupt, halves, in_turn, run_program, table
from sklearn.datasets import make_classification
from threadpoolctl import threadpool_info, threadpool_limits

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._runtime import thread_counts
from torchlogreg._runtime.out_of_memory import divisor
from torchlogreg._runtime.threads import fit_arithmetic, in_threads, n_workers

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
        "MKL threads": getattr(ctypes.CDLL(torch._C.__file__), "MKL_Get_Max_Threads", int)(),  # torch's
    }


@pytest.mark.usefixtures("two_threads", "two_blas_threads")
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


@pytest.mark.usefixtures("two_threads", "two_blas_threads")
@pytest.mark.parametrize("n_own", [None, 1, 3])
def test_nothing_changes_in_a_thread_whatever_it_has_set_and_even_if_the_fit_ends_early(n_own):
    X, y = make_classification(20_000, 20, n_classes=3, n_informative=5, random_state=0)

    def numbers():
        if n_own is not None:
            thread_counts.set_torch_threads(n_own, 2)
        before = globals_of_torch_and_numpy()
        TorchSoftmaxClassifier().fit(X, y).predict(X)
        with pytest.raises(KeyboardInterrupt):
            TorchSoftmaxClassifier().set_callbacks(Interrupt("iteration")).fit(X, y)
        assert globals_of_torch_and_numpy() == before
        return before["threads"]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(numbers).result() == (n_own or 2)


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
    for solver in DETERMINISTIC:
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


def test_a_thread_that_first_uses_torch_during_a_fit_gets_the_number_of_the_process(two_threads):
    def number_in_new_thread(_):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    with fit_arithmetic(torch.zeros(100, 100)):
        assert torch.get_num_threads() == 1
        assert number_in_new_thread(None) == 2
        assert in_threads(number_in_new_thread, "ab") == [2, 2]


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads():
    """Two threads for NumPy's BLAS, which no thread has limited."""
    libraries = thread_counts._blas_libraries().of_process
    before = [library.get_num_threads() for library in libraries]
    for library in libraries:
        thread_counts._limit(library, 2)
    yield
    for library, n_threads in zip(libraries, before, strict=True):
        thread_counts._limit(library, n_threads)


def fits():
    """Enter and leave a fit."""
    fit = fit_arithmetic(torch.zeros(100, 100))
    return fit.__enter__, lambda: fit.__exit__(None, None, None)


def test_whichever_fit_ends_last_gives_the_threads_of_blas_back(two_blas_threads):
    (enter, leave), (enter_other, leave_other) = fits(), fits()
    steps = ("a", enter), ("b", enter_other), ("a", leave), ("c", blas_threads), ("b", leave_other), ("c", blas_threads)
    *_, during, _, after = in_turn(*steps)
    assert set(during) == {1}
    assert set(after) == {2}


def test_after_a_fit_any_thread_may_limit_blas(two_blas_threads):
    def limited():
        with threadpool_limits(1, user_api="blas"):
            return blas_threads()

    enter, leave = fits()
    *_, during, after = in_turn(("a", enter), ("a", leave), ("b", limited), ("a", blas_threads))
    assert set(during) == {1}
    assert set(after) == {2}


def test_a_limit_that_is_set_within_a_fit_outlasts_it(two_blas_threads):
    with threadpool_limits(2, user_api="blas"):
        with fit_arithmetic(torch.zeros(100, 100)):
            assert set(blas_threads()) == {1}
            threadpool_limits(3, user_api="blas")
        assert set(blas_threads()) == {3}


@pytest.mark.parametrize("n", [1, 3])
def test_a_limit_that_another_thread_sets_during_a_fit_outlasts_it(n, two_blas_threads):
    enter, leave = fits()
    limit = lambda: threadpool_limits(n, user_api="blas")  # noqa: E731
    *_, after = in_turn(("a", enter), ("b", limit), ("a", leave), ("a", blas_threads))
    assert set(after) == {n}


def test_a_blas_whose_number_is_that_of_a_thread_is_set_in_each(monkeypatch, two_threads):
    class Library(threading.local):  # as MKL, and OpenBLAS with OpenMP
        number = 5

        def get_num_threads(self):
            return self.number

        def set_num_threads(self, number):
            self.number = number

    library = Library()
    monkeypatch.setattr(thread_counts, "_blas_libraries", lambda: thread_counts._Libraries([library], []))
    with fit_arithmetic(torch.zeros(100, 100)):
        assert in_threads(lambda _: library.get_num_threads(), "ab") == [1, 1]
        assert in_turn(("other", library.get_num_threads)) == [5]
    assert library.get_num_threads() == 5


@pytest.mark.usefixtures("two_threads")
def test_threads_end_with_the_fit():
    X, y = make_classification(100_000, 40, random_state=0)
    before = threading.active_count()
    seen = set()

    class FitHistory(Callback):
        def on_fit_task_end(self, estimator, context):
            seen.add(threading.active_count())

    TorchLogisticRegression().set_callbacks(FitHistory()).fit(X, y)
    assert max(seen) == before + 1
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_threads")
def test_readers_see_the_settings_of_the_fit_and_divide_no_further():
    token = divisor.set(8)
    try:
        with fit_arithmetic(torch.zeros(100, 100)):
            assert n_workers() == 2
            assert in_threads(lambda part: (part, divisor.get(), n_workers()), "ab") == [("a", 8, 1), ("b", 8, 1)]
            assert n_workers() == 2
    finally:
        divisor.reset(token)


SATURATED = {  # models, and tables on which many of their probabilities underflow
    "one logit, tiny": (TorchLogisticRegression(C=1e8), "wine"),
    "one logit": (TorchLogisticRegression(C=1e8), "breast_cancer"),
    "classes": (TorchSoftmaxClassifier(C=1e8, max_iter=20), "digits"),
    "newton": (TorchSoftmaxClassifier(C=1e8, solver="newton-cholesky"), "wine"),
    "sgd": (TorchLogisticRegression(solver="sgd", max_iter=3, tol=0), "breast_cancer"),
    "CV": (TorchLogisticRegressionCV(Cs=[1e-4, 1e8], cv=2), "breast_cancer"),
    "CV, classes": (TorchSoftmaxClassifierCV(Cs=[1e-4, 1e8], cv=2, scoring="accuracy"), "wine"),
    "grid": (
        TorchGridSearchCV(TorchLogisticRegression(), {"C": [1e-4, 1e8]}, cv=2, scoring="neg_log_loss"),
        "breast_cancer",
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", [*SATURATED, "stream", "partial_fit"])
def test_numpy_raises_nothing_in_a_call_whatever_it_is_told(name):
    model, data = SATURATED.get(name, (TorchLogisticRegression(C=1e8), "breast_cancer"))
    X, y = table(data, True, binary="tiny" in name)
    X = 1e3 * X
    with np.errstate(all="raise"):
        if name == "stream":
            model.fit([(X, y)])
        elif name == "partial_fit":
            model.partial_fit(X, y, classes=[0, 1]).partial_fit(X, y)
        else:
            model.fit(X, y)
        model.predict_proba(X)


marker = ContextVar("marker", default="nobody's")


def settings_seen():
    return marker.get(), np.geterr()["under"], torch.get_num_threads()


@pytest.mark.usefixtures("two_threads")
def test_a_stream_and_callbacks_run_under_the_settings_of_the_caller():
    X, y = make_classification(30_000, 20, random_state=0)
    in_stream, in_callbacks = [], []

    class Blocks:
        def __iter__(self):
            in_stream.append(settings_seen())
            for part in (slice(10_000), slice(10_000, None)):
                yield X[part], y[part]
                in_stream.append(settings_seen())

    class FitHistory(Callback):
        def on_fit_task_begin(self, estimator, context):
            in_callbacks.append(settings_seen())

        def on_fit_task_end(self, estimator, context, fitted_estimator=None):
            in_callbacks.append(settings_seen())
            if fitted_estimator is not None:
                TorchLogisticRegression().fit(X[:100], y[:100])  # another call leaves them, too
                in_callbacks.append(settings_seen())

    token = marker.set("the caller's")
    try:
        with np.errstate(under="raise"):
            TorchLogisticRegression(C=1e6).set_callbacks(FitHistory()).fit(Blocks())
            TorchLogisticRegression(C=1e6).set_callbacks(FitHistory()).fit(X, y)
            TorchLogisticRegressionCV(Cs=2, cv=2).set_callbacks(FitHistory()).fit(X, y)
    finally:
        marker.reset(token)
    assert len(in_stream) > 6
    assert len(in_callbacks) > 12
    assert set(in_stream) == set(in_callbacks) == {("the caller's", "raise", 2)}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("source", ["array", "stream"])
def test_where_no_thread_can_start_a_fit_does_without(source, monkeypatch):
    X, y = make_classification(100_000, 40, random_state=0)
    data = (X, y) if source == "array" else (halves(X, y),)
    expected = TorchLogisticRegression().fit(*data).coef_

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    np.testing.assert_allclose(TorchLogisticRegression().fit(*data).coef_, expected, rtol=1e-6)


# Each of these programs may hang where it is wrong: they have limits of time, and so has each child.
SETTING = """
import atexit, multiprocessing, os, select, signal, sys, threading, time, warnings
import joblib, torch
from sklearn.datasets import make_classification
from threadpoolctl import threadpool_info
from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier, TorchSoftmaxClassifierCV
from torchlogreg._runtime import thread_counts
torch.set_num_threads(2)
for library in thread_counts._blas_libraries().of_process:
    thread_counts._limit(library, 2)
X, y = make_classification(30_000, 20, n_classes=3, n_informative=5, random_state=0)
two = (y > 0).astype(int)

def binary():
    return TorchLogisticRegression().fit(X, two).score(X, two) > 0.5

def softmax():
    return TorchSoftmaxClassifier().fit(X, y).score(X, y) > 0.5

def stream():
    return TorchLogisticRegression().fit([(X[:15_000], two[:15_000]), (X[15_000:], two[15_000:])]).converged_

def torch_alone():
    return torch.ones(2_000_000).exp().sum().item() > 0, torch.get_num_threads()

def blas():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

def in_child(function):
    "What function() returns in a forked process, as text."
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = repr(function())
        except BaseException as error:
            answer = repr(error)
        os.write(told, answer.encode())
        os._exit(0)
    os.close(told)
    answers = bool(select.select([heard], [], [], 60)[0])
    if not answers:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return os.read(heard, 10_000).decode() if answers else "hangs"
"""


def lines_of(program, *arguments):
    """What a Python program prints that may take three minutes."""
    return run_program(SETTING + program, *arguments, warnings="ignore", timeout=180).splitlines()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

FORKS = """
def predict():
    TorchSoftmaxClassifier().fit(X[:1000], y[:1000]).predict(X)

def search():
    TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(X, y)
    TorchLogisticRegression().fit(torch.from_numpy(X), two).predict(torch.from_numpy(X))

for before in sys.argv[1:]:
    eval(before)()
    print(before)
    print(in_child(lambda: (binary(), softmax(), stream())))
    print(in_child(torch_alone) if before != "torch_alone" else "has its own threads to blame")
pool = multiprocessing.get_context("fork").Pool(1)
print(pool.apply_async(softmax).get(60))
pool.terminate()
print(joblib.Parallel(2, backend="multiprocessing", timeout=60)(joblib.delayed(softmax)() for _ in range(2)))
"""


@needs_fork
@pytest.mark.parametrize("befores", [["int", "binary", "stream", "softmax", "predict", "search"], ["torch_alone"]])
def test_a_forked_process_fits_after_whatever_came_before(befores):
    *lines, pooled, parallel = lines_of(FORKS, *befores)
    assert (pooled, parallel) == ("True", "[True, True]")
    for before, fits, torch_alone in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        assert fits == "(True, True, True)", before
        if before != "torch_alone":
            assert torch_alone == "(True, 2)", before  # as it would be without the package


FORK_DURING_A_FIT = """
reached, go_on = threading.Event(), threading.Event()

class Waits:
    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context): ...
    def on_fit_task_end(self, estimator, context):
        reached.set()
        go_on.wait(120)

print(blas())
fit = threading.Thread(target=TorchLogisticRegression().set_callbacks(Waits()).fit, args=(X, two))
fit.start()
reached.wait(60)
print(blas())
print(in_child(blas))
print(in_child(lambda: (binary(), softmax(), stream(), blas())))
go_on.set()
fit.join()
print(blas())
"""


@needs_fork
def test_a_process_that_is_forked_while_another_thread_fits_is_as_without_that_fit():
    before, during, in_child, fits, after = lines_of(FORK_DURING_A_FIT)
    assert (before, during) == ("{2}", "{1}")
    assert in_child == after == before
    assert fits == f"(True, True, True, {before})"


AT_THE_END = """
def fit():
    print(binary(), softmax(), stream(), flush=True)

def late():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    fit()

if sys.argv[1] == "thread":
    threading.Thread(target=late).start()
else:
    atexit.register(fit)
"""


@pytest.mark.parametrize("when", ["thread", "atexit"])
def test_a_fit_works_when_the_main_thread_has_ended(when):
    assert lines_of(AT_THE_END, when) == ["True True True"]


def test_predicting_writes_nothing_to_the_model():
    X, y = table("wine", True)
    fitted = model("newton-cholesky").fit(X, y)
    before = dict(vars(fitted))
    fitted.predict_proba(X)
    assert vars(fitted) == before


IMPORT = """
import sys, torch, sklearn.linear_model, sklearn.model_selection, sklearn.callback, sklearn.utils.estimator_checks
before = set(sys.modules)
import torchlogreg, torchlogreg.callbacks, torchlogreg.datasets
print(torch.cuda.is_initialized())
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "torchlogreg"))
print(sorted({"safetensors", "skops", "skl2onnx", "onnx", "matplotlib"} & set(sys.modules)))
"""


def test_an_import_loads_the_package_and_nothing_else_and_warns_of_nothing():
    """No context on a device, no extra, and no module that torch and scikit-learn have not loaded: so it is cheap."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["False", "[]", "[]"]
