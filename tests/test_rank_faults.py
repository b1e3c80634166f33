"""Faults of processes that fit together: all of them end with an error that says what and where, and can go on."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import cache, partial
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from helpers import Callback, serial
from rank_processes import Failure, Group, on_ranks
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from torchlogreg import TorchGridSearchCV, TorchLogisticRegression, TorchSoftmaxClassifier, TorchSoftmaxClassifierCV
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._runtime.desk import Desk
from torchlogreg._runtime.out_of_memory import divisor
from torchlogreg.distributed import shared_rows

P = 20
NAMES = [f"feature {j}" for j in range(P)]
SOON = 8.0  # seconds that are far from the group's timeout, on a busy machine


@cache
def table(rank, n=15_000):
    """Rows of a rank."""
    rng = np.random.default_rng([0, rank])
    X = rng.standard_normal((n, P))
    return X, (X[:, :3].sum(axis=1) + 2 * rng.standard_normal(n) > 0).astype(int)


class Stream:
    """Blocks, and something that happens in the middle of a later pass."""

    def __init__(self, rank, event=None, at=3):
        self.blocks = [*zip(*(np.split(array, 5) for array in table(rank)), strict=True)]
        self.event, self.at, self.n_passes = event, at, 0

    def __iter__(self):
        self.n_passes += 1
        for number, block in enumerate(self.blocks):
            if self.event is not None and self.n_passes == self.at and number == 2:
                self.event()
            yield block


def raises(error):
    def event():
        raise error

    return event


def interrupts():
    os.kill(os.getpid(), signal.SIGINT)


def kills():
    os.kill(os.getpid(), signal.SIGKILL)


class At(Callback):
    """Raises an error in one hook."""

    def __init__(self, hook, error):
        self.hook, self.error = hook, error

    def setup(self, estimator, context):
        self._maybe("setup")

    def teardown(self, estimator, context):
        self._maybe("teardown")

    def on_fit_task_begin(self, estimator, context):
        self._maybe(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self._maybe(f"end {context.task_name}")

    def _maybe(self, hook):
        if hook == self.hook:
            raise self.error


# What `fit` is called with, by rank: (estimator, arguments)


def plain(rank, *, kind=TorchSoftmaxClassifier, how=lambda X: X, labels=lambda y: y, options=None, **parameters):
    X, y = table(rank)
    return kind(**parameters), {"X": how(X), "y": labels(y), **(options or {})}


def only_in(culprit, first=None, **changes):
    """`changes` in one rank, and in all others `first`."""
    return lambda rank: plain(rank, **(changes if rank == culprit else first or {}))


def with_callback(hook, error=None, **parameters):
    def arguments(rank):
        model, options = plain(rank, **{"solver": "lbfgs", **parameters})
        return model.set_callbacks(At(hook, error or ValueError("not now"))), options

    return arguments


def stream(event, culprit=1, **parameters):
    return lambda rank: (
        TorchSoftmaxClassifier(**parameters),
        {"X": Stream(rank, event if rank == culprit else None)},
    )


def with_nan(X):
    X = X.copy()
    X[7, 3] = np.nan
    return X


def searched(rank, culprit):
    model, arguments = only_in(culprit, how=with_nan)(rank)
    return TorchGridSearchCV(make_pipeline(Normalizer(), model), {"torchsoftmaxclassifier__C": [1.0, 2.0]}), arguments


def frame(X):
    return pd.DataFrame(X, columns=NAMES)


def renamed(X):
    return frame(X).rename(columns={NAMES[12]: "another"})


def fitted_before(rank):
    model = TorchSoftmaxClassifier(warm_start=True)
    model.fit(*table(rank, 500))
    return model, dict(zip("Xy", table(rank), strict=True))


def of_other_weights(rank):
    lower = np.full(P, -1.0) if rank else np.r_[np.full(P - 1, -1.0), -2.0]
    return plain(rank, coef_bounds=(lower, 1.0))


DISAGREEMENTS = {  # each with what the message says
    "features": (only_in(1, how=lambda X: X[:, 1:]), ["number of features", "20 in rank 0", "19 in rank 1"]),
    "features without rows": (only_in(1, how=lambda X: X[:0, 1:], labels=lambda y: y[:0]), ["20 in rank 0", "19 in"]),
    "features of rank 0 without rows": (
        only_in(0, how=lambda X: X[:0, 1:], labels=lambda y: y[:0]),
        ["19 in rank 0", "20 in rank 1"],
    ),
    "dtype": (only_in(1, how=np.float32), ["dtype of X", "float64 in rank 0", "float32 in rank 1"]),
    "sparse": (only_in(0, how=sp.csr_array), ["kind of X", "a sparse matrix in rank 0", "a table in rank 1"]),
    "streamed": (
        lambda rank: (TorchSoftmaxClassifier(), {"X": Stream(0)}) if rank == 0 else plain(rank),
        ["kind of X", "a stream in rank 0", "a table in rank 1"],
    ),
    "labels": (only_in(1, labels=lambda y: np.array(["a", "b"])[y]), ["0 in rank 0", "'a' in rank 1"]),
    "names": (only_in(1, {"how": frame}, how=renamed), ["feature names", "'feature 12'", "'another'", "rank 1"]),
    "no names": (only_in(1, {"how": frame}), ["feature names", "none in rank 1"]),
    "C": (only_in(1, C=2.0), ["parameter C", "1.0 in rank 0", "2.0 in rank 1"]),
    "solver": (only_in(0, solver="lbfgs"), ["parameter solver", "'lbfgs' in rank 0", "'auto' in rank 1"]),
    "estimator": (only_in(1, kind=TorchLogisticRegression), ["the estimator", "TorchLogisticRegression in rank 1"]),
    "class weights": (only_in(1, class_weight={0: 1, 1: 3}), ["parameter class_weight", "None in rank 0", "3.0"]),
    "bounds": (of_other_weights, ["parameter coef_bounds", "rank 0", "rank 1"]),
    "start": (only_in(1, options={"coef_init": np.ones((1, P))}), ["coefficients to start from", "rank 1"]),
    "fitted before": (fitted_before, ["coefficients to start from", "rank 0", "rank 1"]),
}
SAME = {  # the same error in all ranks
    "one class": (partial(plain, labels=np.zeros_like), ValueError, "only one class"),
    "no weight": (partial(plain, options={"sample_weight": 0.0}), ValueError, "All sample weights are zero"),
    "no rows": (partial(plain, how=lambda X: X[:0], labels=lambda y: y[:0]), ValueError, "No process has any row"),
    "no blocks": (lambda rank: (TorchSoftmaxClassifier(), {"X": []}), ValueError, "No process has any row"),
    "no weight by class": (partial(plain, class_weight={0: 0, 1: 0}), ValueError, "class_weight leaves no row"),
    "three classes": (
        partial(plain, kind=TorchLogisticRegression, labels=lambda y: np.arange(len(y)) % 3),
        ValueError,
        "Only binary classification",
    ),
    "invalid everywhere": (partial(plain, C=-1.0), ValueError, "C"),
    "sgd": (partial(plain, solver="sgd"), NotImplementedError, "solver='auto'"),
    "sgd with early stopping": (partial(plain, solver="sgd", early_stopping=True), NotImplementedError, "X_val"),
    "no weight to validate": (
        partial(plain, options={"X_val": np.ones((5, P)), "y_val": [0, 1, 0, 1, 1], "sample_weight_val": 0.0}),
        ValueError,
        "X_val",
    ),
}
ONE_RANK = {  # an error of one rank: the others hear of it
    "invalid parameter": (only_in(1, C=-1.0), 1, ValueError, "C"),
    "invalid parameter of rank 0": (only_in(0, tol="tight"), 0, ValueError, "tol"),
    "invalid combination": (only_in(1, l1_ratio=0.5, solver="lbfgs"), 1, ValueError, "takes no L1 norm"),
    "sgd in one": (only_in(1, solver="sgd"), 1, NotImplementedError, "solver='auto'"),
    "device": (only_in(1, device="cuda:77"), 1, Exception, "cuda"),
    "NaN": (only_in(1, how=with_nan), 1, ValueError, "NaN"),
    "NaN in rank 0": (only_in(0, how=with_nan), 0, ValueError, "NaN"),
    "negative weight": (
        only_in(1, options={"sample_weight": np.r_[-1.0, np.ones(14_999)]}),
        1,
        ValueError,
        "Negative values in sample_weight",
    ),
    "too few weights": (only_in(0, options={"sample_weight": np.ones(3)}), 0, ValueError, "sample_weight has shape"),
    "too few labels": (only_in(1, labels=lambda y: y[:-1]), 1, ValueError, "inconsistent"),
    "no labels": (only_in(1, labels=lambda y: None), 1, ValueError, "requires y"),
    "weights that overflow": (
        lambda rank: plain(
            rank, class_weight={0: 1e200, 1: 1.0}, options={"sample_weight": 1e200 if rank == 1 else None}
        ),
        1,
        ValueError,
        "overflows",
    ),
    "labels to validate": (
        only_in(1, options={"X_val": np.ones((2, P)), "y_val": [0, 5]}),
        1,
        ValueError,
        "not among the classes",
    ),
    "half of the data to validate": (only_in(0, options={"y_val": [0, 1]}), 0, ValueError, "needs both"),
    "read only once": (
        lambda rank: (TorchSoftmaxClassifier(), {"X": iter(Stream(1)) if rank == 1 else Stream(rank)}),
        1,
        ValueError,
        "read only once",
    ),
    "stream": (stream(raises(OSError("the disk is gone"))), 1, OSError, "the disk is gone"),
    "stream of rank 0": (stream(raises(OSError("the disk is gone")), 0), 0, OSError, "the disk is gone"),
    "first pass": (
        lambda rank: (
            TorchSoftmaxClassifier(),
            {"X": Stream(rank, raises(OSError("no disk")) if rank == 1 else None, 1)},
        ),
        1,
        OSError,
        "no disk",
    ),
    "stream of bytes": (
        stream(raises(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))),
        1,
        UnicodeDecodeError,
        "invalid start byte",
    ),
    "stream of torch": (stream(raises(RuntimeError("a kernel failed"))), 1, RuntimeError, "a kernel failed"),
    "stream without memory": (stream(raises(MemoryError("no room"))), 1, MemoryError, "no room"),
    "interrupt in a block": (stream(raises(KeyboardInterrupt())), 1, KeyboardInterrupt, ""),
    "interrupt in a block of rank 0": (stream(raises(KeyboardInterrupt()), 0), 0, KeyboardInterrupt, ""),
    "Ctrl-C": (stream(interrupts), 1, KeyboardInterrupt, ""),
    "Ctrl-C in rank 0": (stream(interrupts, 0), 0, KeyboardInterrupt, ""),
    "exit": (stream(raises(SystemExit(3))), 1, SystemExit, "3"),
    "callback": (with_callback("end iteration"), 0, ValueError, "not now"),
    "callback that begins": (with_callback("begin fit"), 0, ValueError, "not now"),
    "callback that is set up": (with_callback("setup"), 0, ValueError, "not now"),
    "callback that ends": (with_callback("end fit"), 0, ValueError, "not now"),
    "interrupt in a callback": (with_callback("end iteration", KeyboardInterrupt()), 0, KeyboardInterrupt, ""),
    "interrupt at the end": (with_callback("end fit", KeyboardInterrupt()), 0, KeyboardInterrupt, ""),
    "NaN before a search": (lambda rank: searched(rank, 1), 1, ValueError, "NaN"),
    "NaN before cross-validation": (
        only_in(1, {"kind": TorchSoftmaxClassifierCV}, kind=TorchSoftmaxClassifierCV, how=with_nan),
        1,
        ValueError,
        "NaN",
    ),
    "invalid parameter of cross-validation": (
        only_in(0, {"kind": TorchSoftmaxClassifierCV}, kind=TorchSoftmaxClassifierCV, tol=-1.0),
        0,
        ValueError,
        "tol",
    ),
    "callback that ends cross-validation": (
        lambda rank: with_callback("end fit", kind=TorchSoftmaxClassifierCV, Cs=2, cv=2)(rank),
        0,
        ValueError,
        "not now",
    ),
    "warning that is an error": (partial(plain, solver="lbfgs", max_iter=1), 0, ConvergenceWarning, "did not converge"),
}
OVERFLOW = {
    "huge": partial(plain, how=lambda X: X * 1e200, C=np.inf),
    "huge, streamed": lambda rank: (
        TorchSoftmaxClassifier(C=np.inf),
        {"X": [(X * 1e200, y) for X, y in Stream(rank).blocks]},
    ),
    "large": partial(plain, how=lambda X: X * 1e155, solver="newton-cholesky", C=np.inf),
}
CASES = {**DISAGREEMENTS, **SAME, **ONE_RANK}


def of_two_and_three(names):
    """All cases with two processes, and some of them with three."""
    return [*((2, name) for name in names), *((3, name) for name in [*names][::4])]


class Outcome(NamedTuple):
    failure: Failure | None
    is_unchanged: bool  # the estimator
    again: bytes  # coefficients of a fit afterwards


def attempt(rank, size, name):
    """A fit that fails, and one that does not."""
    model, arguments = (OVERFLOW[name] if name in OVERFLOW else CASES[name][0])(rank)
    before, failure = dict(vars(model)), None
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(), shared_rows():
            warnings.simplefilter("error" if name == "warning that is an error" else "ignore")
            model.fit(**arguments)
    except BaseException as error:
        notes = list(getattr(error, "__notes__", ()))
        failure = Failure(type(error).__name__, str(error), notes, time.perf_counter() - began)
        kinds = [kind.__name__ for kind in type(error).__mro__]
        failure = failure._replace(kind=" ".join(kinds))
    is_unchanged = set(vars(model)) == set(before) and all(vars(model)[key] is before[key] for key in before)
    with shared_rows():
        again = TorchSoftmaxClassifier().fit(*table(rank))
    return Outcome(failure, is_unchanged, again.coef_.tobytes())


@cache
def expected(size):
    """The coefficients of a fit that no fault precedes."""
    return on_ranks(size, well)[0]


def well(rank, size):
    with shared_rows():
        return TorchSoftmaxClassifier().fit(*table(rank)).coef_.tobytes()


def outcomes(size, name):
    out = on_ranks(size, attempt, name, seconds=40)
    for outcome in out:
        assert isinstance(outcome, Outcome), outcome
        assert outcome.failure is not None, name
        assert outcome.is_unchanged
        assert outcome.failure.seconds < SOON
        assert np.allclose(np.frombuffer(outcome.again), np.frombuffer(expected(size)), rtol=0, atol=1e-12)
    return [outcome.failure for outcome in out]


@pytest.mark.parametrize(("size", "name"), of_two_and_three(DISAGREEMENTS))
def test_ranks_that_disagree(size, name):
    failures = outcomes(size, name)
    assert all("ValueError" in failure.kind for failure in failures)
    assert len({failure.text for failure in failures}) == 1
    for words in DISAGREEMENTS[name][1]:
        assert words in failures[0].text
    assert len(failures[0].text) < 700


@pytest.mark.parametrize("name", SAME)
def test_the_same_error_everywhere(name):
    _, kind, words = SAME[name]
    failures = outcomes(2, name)
    assert len({failure.text for failure in failures}) == 1
    assert words in failures[0].text
    assert all(kind.__name__ in failure.kind.split() for failure in failures)


@pytest.mark.parametrize(("size", "name"), of_two_and_three(ONE_RANK))
def test_an_error_in_one_rank(size, name):
    _, culprit, kind, words = ONE_RANK[name]
    failures = outcomes(size, name)
    own = failures[culprit]
    assert kind.__name__ in own.kind.split()
    assert words in own.text
    assert not own.text.startswith("In rank")
    if kind in (ValueError, OSError, MemoryError, RuntimeError) and "callback" not in name:
        assert f"This happened in rank {culprit}." in own.notes
    for rank, other in enumerate(failures):
        if rank != culprit:
            assert other.text.startswith(f"In rank {culprit}: ")
            assert words in other.text
            if kind in (ValueError, OSError, MemoryError, NotImplementedError):
                assert kind.__name__ in other.kind.split()


@pytest.mark.parametrize("name", OVERFLOW)
def test_an_objective_that_overflows(name):
    failures = outcomes(2, name)
    assert all("ValueError" in failure.kind for failure in failures)
    assert "Standardise X" in failures[0].text
    assert failures[0].text in failures[1].text


def parted(rank, size):
    with shared_rows(), pytest.raises(NotImplementedError, match="inside shared_rows use fit"):
        TorchSoftmaxClassifier().partial_fit(*table(rank), classes=[0, 1])


def test_partial_fit_is_refused():
    assert on_ranks(2, parted) == [None, None]


def torn_down(rank, size):
    model, arguments = with_callback("teardown")(rank)
    try:
        with shared_rows():
            model.fit(**arguments)
    except ValueError as error:
        return str(error)
    return model.coef_.tobytes()


def test_a_callback_that_fails_after_the_fit():
    first, second = on_ranks(2, torn_down, seconds=20)
    assert first == "not now"
    assert isinstance(second, bytes)


def without_room(rank, size, culprits):
    """A fit where some processes have memory for small blocks alone, and how many things are kept at most."""
    chunks, do, most = InMemoryDesign.chunks, Desk.do, 0

    def checked(design, size=1):
        if rank in culprits and divisor.get() < 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return chunks(design, size)

    def counted(desk, message):
        nonlocal most
        most = max(most, len(desk.shared))
        return do(desk, message)

    patches = patch.object(InMemoryDesign, "chunks", checked), patch.object(Desk, "do", counted)
    with patches[0], patches[1], warnings.catch_warnings(record=True) as caught, shared_rows():
        warnings.simplefilter("always")
        model = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-8).fit(*table(rank, 40_000))
    return model.coef_, most, [str(w.message) for w in caught]


@pytest.mark.parametrize("culprits", [(), (0,), (1,), (0, 1)])
def test_memory_of_a_device_that_runs_out(culprits):
    answers = on_ranks(2, without_room, culprits)
    for rank, (coef, most, said) in enumerate(answers):
        np.testing.assert_allclose(coef, on_ranks(2, without_room, ())[0][0], rtol=0, atol=1e-10)
        assert most < 40  # what is no longer needed is forgotten
        assert len(said) == (rank in culprits), said


def smallest(rank, size):
    """Every kind of fit in a group of one process."""
    X, y = table(0)
    with shared_rows() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        models = [
            TorchSoftmaxClassifier().fit(X, y),
            TorchSoftmaxClassifier(solver="sgd", early_stopping=True, random_state=0).fit(X, y),
            TorchSoftmaxClassifier(l1_ratio=1.0, C=0.1).fit([(X, y)]),
            TorchSoftmaxClassifier(random_state=0).partial_fit(X, y, classes=[0, 1]),
        ]
    return [model.coef_ for model in models]


def test_a_group_of_one():
    X, y = table(0)
    (coefs,) = on_ranks(1, smallest)
    assert not isinstance(coefs, Failure), coefs
    np.testing.assert_allclose(coefs[0], TorchSoftmaxClassifier().fit(X, y).coef_, rtol=0, atol=1e-12)
    sgd = TorchSoftmaxClassifier(solver="sgd", early_stopping=True, random_state=0).fit(X, y)
    np.testing.assert_allclose(coefs[1], sgd.coef_, rtol=0, atol=1e-8)


class Timed(TorchSoftmaxClassifier):
    """Starts a clock when the fit has begun."""

    def _validate_params(self):
        self.clock.start()
        super()._validate_params()


def interrupted(rank, size, culprit, delays):
    """Fits during each of which one process gets an interrupt at some moment."""
    out = []
    for delay in delays:
        model = Timed(solver="lbfgs", tol=1e-9)
        model.clock = threading.Timer(delay, interrupts if rank == culprit else int)
        try:
            with shared_rows():
                model.fit(*table(rank))
            model.clock.join()
            time.sleep(0.2 * (rank == culprit))  # for the interrupt to be heard
        except KeyboardInterrupt:
            out.append(rank == culprit)
        except RuntimeError as error:
            out.append(str(error) == f"In rank {culprit}: KeyboardInterrupt")
    with shared_rows():
        TorchSoftmaxClassifier().fit(*table(rank))
    return out


@pytest.mark.parametrize("culprit", [0, 1])
def test_interrupts_at_any_moment(culprit):
    answers = on_ranks(2, interrupted, culprit, np.geomspace(0.003, 0.1, 10).tolist())
    assert all(isinstance(answer, list) and all(answer) for answer in answers), answers
    assert len(answers[culprit]) > 5  # Python loses those that come inside a finalizer


# Processes that end or sleep


def mid_pass(rank, size, event):
    model, arguments = stream(event)(rank)
    try:
        with shared_rows():
            model.fit(**arguments)
    finally:
        assert not hasattr(model, "coef_")


def sleeps():
    time.sleep(4.5)


@serial
@pytest.mark.parametrize("size", [2, 3])
def test_a_process_that_is_killed(size):
    group = Group(size, seconds=3)
    try:
        answers = group.run(mid_pass, kills, seconds=20)
    finally:
        group.close()
    assert answers.pop(1) is None
    for answer in answers:
        assert answer.kind == "BrokenGroup"
        assert "No model was fitted" in answer.text


@serial
def test_a_process_that_sleeps():
    group = Group(2, seconds=3)
    try:
        answers = group.run(mid_pass, sleeps, seconds=20)
    finally:
        group.close()
    for answer in answers:
        assert answer.kind == "BrokenGroup"
        assert "within the group's timeout" in answer.text


UNDER_TORCHRUN = """
import os, pathlib, signal
import numpy as np
import torch.distributed as dist
from torchlogreg import TorchLogisticRegression
from torchlogreg.distributed import shared_rows

dist.init_process_group("gloo")
rank = dist.get_rank()

class Stream:
    n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        yield np.eye(4), np.array([0, 1, 1, 0])
        if rank == 1 and self.n_passes == 3:
            os.kill(os.getpid(), signal.SIGKILL)

try:
    with shared_rows():
        TorchLogisticRegression().fit(Stream())
except RuntimeError as error:
    pathlib.Path(f"error of {rank}").write_text(str(error))
    raise
pathlib.Path(f"model of {rank}").touch()
"""


@serial
def test_torchrun_ends_with_an_error(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(UNDER_TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert not list(tmp_path.glob("model of *"))
    assert "No model was fitted" in (tmp_path / "error of 0").read_text(), done.stderr
