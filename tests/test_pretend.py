"""Everything on pretend accelerators, each answer compared with the CPU's: what `pretend` makes of torch raises where a
transfer is missing.
"""

import copy
import inspect
import os
import sys
import textwrap
from zlib import crc32

import numpy as np
import pretend
import pretend_fits  # noqa: F401 - its cases, as those of the next one
import pretend_surface  # noqa: F401
import pytest
import torch
from pretend_cases import (
    BINARY,
    CASES,
    CV,
    SINGLE,
    SOFTMAX,
    X3,
    Y3,
    Place,
    bound_of,
    expected,
    flat,
    large,
    table,
    tuned,
)

from torchlogreg._data import device, training_data
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.device_cost import Work
from torchlogreg._data.streamed import StreamedDesign
from torchlogreg._estimators import fitting
from torchlogreg._model_selection import fit_and_score, scoring
from torchlogreg._monitoring.monitors import Validation
from torchlogreg._solvers.prox_newton import ProxNewton
from torchlogreg._solvers.sgd import class_major

PRETEND = os.environ.get("TORCHLOGREG_PRETEND", "")
EVERYWHERE = PRETEND == "everywhere"
pytestmark = [
    pytest.mark.skipif(not EVERYWHERE and PRETEND != "", reason="all tests run on a pretend device"),
    pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not()),
    pytest.mark.usefixtures("one_thread", "no_windows"),
]

# --- The comparison.


def places_of(name):
    """Where a case runs: every other one at one place, as if drawn by lot, and a few on XPU, too.

    All of them everywhere take a quarter of an hour: TORCHLOGREG_PRETEND=everywhere.
    """
    lot = crc32(name.encode())
    places = [(("cuda", "mps")[lot % 5 > 2], lot % 7 > 2)] if lot % 2 else []
    places += [("xpu", lot % 7 > 2)] if lot % 11 == 0 else []
    if EVERYWHERE:
        places = [(kind, as_tensors) for kind in ("cuda", "mps", "xpu") for as_tensors in (True, False)]
    # Under dispatch scikit-learn asks torch for a library of XPU's that it is not linked with here.
    return [place for place in places if "dispatch" not in name or place != ("xpu", True)]


RUNS = [
    pytest.param(name, kind, as_tensors, id=f"{name} {kind} {'tensors' if as_tensors else 'arrays'}")
    for name in CASES
    for kind, as_tensors in places_of(name)
]


def on_device(name, at):
    """The results of a case on a device, which has had a part in them."""
    with pretend.devices(at.device) as machine:
        before = machine.n_operations
        results = flat(CASES[name](at))
        assert machine.n_operations > before or not results or name.startswith(("errors", "sparse_rows"))
    return results


@pytest.mark.parametrize(("name", "kind", "as_tensors"), RUNS)
def test_as_on_the_cpu(name, kind, as_tensors):
    single = kind in SINGLE
    reference = expected(name, as_tensors, single)
    actual = on_device(name, Place(kind, as_tensors, single))
    bound = bound_of(name, single)
    for a, b in zip(actual, reference, strict=True):
        if a.dtype.kind in "USb":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


# --- Memory that runs out.

ROWS = table(5000, 12, 3, 0.5)
# By what is done: the room in sizes of X, X included.
ROOM = {"newton-cholesky": 3.0, "lbfgs": 5.0, "search": 9.0, "partial_fit": 2.2}


def work(at, what):
    """Results of what takes memory of the device."""
    X, y = at.X(ROWS[0]), at.y(ROWS[1])
    if what == "search":
        model = at.model(CV[SOFTMAX], Cs=[0.1, 1.0], cv=2, scoring="neg_log_loss", solver="newton-cholesky").fit(X, y)
        return [model.scores_, model.coef_]
    if what == "partial_fit":
        return [at.model(SOFTMAX, random_state=0).partial_fit(X, y, classes=[0, 1, 2]).coef_]
    return [at.model(SOFTMAX, solver=what).fit(X, y).coef_]


@pytest.mark.parametrize(("what", "kind"), [*((what, "cuda") for what in ROOM), ("lbfgs", "xpu")])
def test_smaller_blocks_where_memory_runs_out(what, kind):
    reference = work(Place("cpu", True, False), what)
    short, warned = pretend.memory(int(ROOM[what] * ROWS[0].nbytes)), pytest.warns(RuntimeWarning, match="smaller")
    with pretend.devices(kind), short, warned:
        actual = work(Place(kind, True, False), what)
    for a, b in zip(actual, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_models_that_are_solved_twice_are_reported_once(capsys):
    with pretend.devices("cuda"), pretend.memory(9 * ROWS[0].nbytes), pytest.warns(match="smaller"):
        CV[SOFTMAX](Cs=[0.1, 1.0], cv=2, solver="newton-cholesky", verbose=1, device="cuda").fit(*ROWS)
    counts = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert counts == sorted(set(counts))
    assert counts[-1] == 7  # two values of C on two folds and on all rows, and the refit


def test_predictions_in_smaller_blocks():
    X, y = ROWS
    expected = SOFTMAX().fit(X, y)
    with pretend.devices("cuda"):
        model = copy.copy(expected).set_params(device="cuda")
        with pretend.memory(X.nbytes // 4), pytest.warns(RuntimeWarning, match="smaller blocks"):
            proba = model.predict_proba(X)
    np.testing.assert_allclose(proba, expected.predict_proba(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("what", ["search", "partial_fit"])
def test_too_little_memory_says_so(what):
    with pretend.devices("cuda"), pretend.memory(ROWS[0].nbytes // 2), pytest.raises(MemoryError, match="the device"):
        work(Place("cuda", False, False), what)


def test_an_array_that_does_not_fit_is_read_in_blocks():
    X, y = large(BINARY)
    sizes = {"MAPPED_BLOCK_BYTES": 80_000, "MAX_JOINED_BLOCK_NUMBERS": 1000, "STREAM_SAMPLE_BYTES": 2**17}
    with tuned(ACCELERATOR_BLOCK_NUMBERS=2**14, **sizes):
        reference = BINARY(solver="newton-cholesky", tol=1e-9).fit(X, y)
        with pretend.devices("cuda"), pretend.memory(X.nbytes - 1), pytest.warns(match="block by block"):
            model = BINARY(solver="newton-cholesky", tol=1e-9, device="cuda").fit(X, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-7, atol=1e-7)


# --- What the harness is good for: a transfer that is taken out of the package is noticed.

# Of each: a function, what is taken out, what takes its place, and a case on a device that needs it. Many transfers are
# made twice, because blocks are moved where they are used: those would not be missed.
FIT, SGD = "fit lbfgs float64 TorchSoftmaxClassifier", "sgd float64 TorchSoftmaxClassifier auto"
L1_RATIOS = "cross_validation_of_l1_ratios TorchLogisticRegression kinked True"
MUTATIONS = [
    (training_data.design_of, "codes.to(X.device)", "codes", SGD, "cuda tensors"),
    (training_data._moved, "X.to(device)", "X", FIT, "cuda arrays"),
    (StreamedDesign._design, "X.to(self.device, non_blocking=True)", "X", "stream_from arrays", "cuda arrays"),
    (
        StreamedDesign._design,
        "copied_to(self.device, torch.from_numpy(codes))",
        "torch.from_numpy(codes)",
        "stream_from sgd",
        "cuda arrays",
    ),
    (DenseDesign.whole.fget, "self.y.to(X.device)", "self.y", FIT, "mps tensors"),
    (class_major, "device=rows.compute.device, ", "", SGD, "mps tensors"),
    (Validation._pieces, "self.codes[at].to(eta.device)", "self.codes[at]", "validation lbfgs None", "cuda tensors"),
    (fitting.fitted_attributes, "numpy(force=True)", "numpy()", FIT, "cuda tensors"),
    (fit_and_score.as_splits, "numpy_of(index)", "index", "cross_validation_with splits", "cuda tensors"),
    (
        fit_and_score._batched_fits,
        "device=accumulation.device",
        'device="cpu"',
        "cross_validation_with Cs",
        "xpu tensors",
    ),
    (scoring._summed, ".to(values)", "", "grid_with routed device", "cuda tensors"),
    (ProxNewton.select, "index.cpu()", "index", L1_RATIOS, "cuda arrays"),
]


@pytest.mark.parametrize(
    ("function", "old", "new", "name", "place"), MUTATIONS, ids=[f"{m[0].__name__} {m[1]}" for m in MUTATIONS]
)
def test_a_transfer_that_is_missing_is_noticed(function, old, new, name, place, monkeypatch):
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source
    defined = {}
    source = source.replace("@property\n", "").replace(old, new)
    exec(compile(source, function.__code__.co_filename, "exec"), vars(sys.modules[function.__module__]), defined)
    monkeypatch.setattr(function, "__code__", defined[function.__name__].__code__)
    kind, container = place.split()
    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        on_device(name, Place(kind, container == "tensors", kind in SINGLE))


def test_waits_and_kernels_are_counted():
    with pretend.devices("cuda"), pretend.counted() as tally:
        float((torch.ones(3, device="cuda") + 1).sum())
    assert tally.waits == {"outside": 1}
    assert tally.kernels == {"outside": 3}  # ones, +, sum


def test_xpu_is_offered():
    with pretend.devices("xpu"):
        assert device.available_devices()[:3] == ["cpu", "xpu", "xpu:0"]
        assert device.choose_device("auto", torch.zeros(1, 1), Work(1e12, 1e12, 1.0, 1.0, 4)).device.type == "xpu"
        assert SOFTMAX(device="xpu").fit(X3, Y3).device_ == "xpu:0"
