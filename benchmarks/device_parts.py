"""The parts of `on_device.py`: what each of them does with a device, and what it reports."""

import sys
import time
import traceback
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import peak_memory, synchronize, timed
from peers import as_tensors
from sklearn.datasets import load_digits

from torchlogreg import TorchLogisticRegression, TorchLogisticRegressionCV, TorchSoftmaxClassifier
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.design import Access
from torchlogreg._data.device_cost import Rates, Table, Work
from torchlogreg._objective.losses import Binomial, Multinomial
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, Strengths
from torchlogreg._runtime.threads import fit_arithmetic
from torchlogreg.datasets import fetch_mnist

SPREAD = 2.0  # standard deviation of the logits that labels are drawn from
DRAWN = 2**26  # logits that are drawn together
SHORT = 3.0  # seconds of a fit up to which it is repeated
REPEATS = {False: 3, True: 1}  # of a fit
LAST = 5.0  # seconds that the last of the tests' cases may take
REAL = 5.0  # times as far from the CPU's as on a pretend device may the results of their cases be

# (rows, features, classes), at full size and as a toy.
PASS = {False: (1_000_000, 100, 2), True: (3_000, 10, 2)}
TABLE = {False: (5_000_000, 100, 2), True: (3_000, 10, 2)}
PROBE = {False: (1_280_000, 768, 1000), True: (900, 12, 15)}
GRID = {False: (500_000, 100, 2), True: (300, 5, 2)}
MEMORY = {False: (500_000, 100, 2), True: (300, 10, 2)}
# By side, for a device is done with few rows before its kernels are launched.
ARITHMETIC = {
    False: {"host": (20_000, 256, 200), "device": (400_000, 256, 200)},
    True: {"host": (300, 12, 15), "device": (300, 12, 15)},
}
COPIED = {False: 2**30, True: 2**16}  # bytes
PARITY = {
    False: {"binary": (400, 6, 2), "softmax": (500, 8, 4), "large": (9_000, 10, 3), "wide": (60, 200, 3)},
    True: {"binary": (100, 4, 2), "wide": (30, 70, 3)},
}

SOLVERS = "auto", "lbfgs", "newton-cholesky", "sgd"
DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16
BOUNDS = {torch.float64: 1e-6}  # how far probabilities may be from the CPU's
ROUGH = 5e-3  # the same for other dtypes


def planted(sizes, dtype, device):
    """Draw normal features, and labels from a softmax model of them with normal coefficients."""
    n, p, n_classes = sizes
    options = {"device": device, "generator": torch.Generator(device).manual_seed(0)}
    exact = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    W = SPREAD / p**0.5 * torch.randn(p, n_classes, dtype=exact, **options)
    X = torch.empty(n, p, dtype=dtype, device=device)
    y = torch.empty(n, dtype=torch.int64, device=device)
    for rows, labels in zip(*(whole.split(max(1, DRAWN // n_classes)) for whole in (X, y)), strict=True):
        block = torch.randn(len(rows), p, dtype=exact, **options)
        rows.copy_(block)
        logits = block @ W
        uniform = torch.rand(logits.shape, dtype=exact, **options)
        labels.copy_((logits - uniform.log().neg().log()).argmax(dim=1))  # Gumbel's noise: a draw from the softmax
    return X, y


@cache
def mnist(toy):
    """Training images (float32, in [0, 1]) and labels; scikit-learn's small digits as a toy."""
    if toy:
        X, y = load_digits(return_X_y=True)
        return X[:150].astype(np.float32) / 16, y[:150].astype(np.int64)
    images = fetch_mnist()
    return images.X_train, images.y_train


def estimator(n_classes, **options):
    """Our classifier for so many classes."""
    return (TorchLogisticRegression if n_classes == 2 else TorchSoftmaxClassifier)(**options)


def n_bytes(X):
    return X.numel() * X.element_size()


def dtypes(device):
    """All dtypes that the device computes in."""
    return [dtype for dtype in DTYPES if not (device == "mps" and dtype == torch.float64)]


def seconds_of(device, function, repeats=5):
    """Median seconds of a call after a first one, with the device's work."""

    def call():
        out = function()
        synchronize(device)
        return out

    call()
    return median(timed(call)[0] for _ in range(repeats))


# --- The card, and the constants of the rule for device="auto".


def card(run):
    """Time the first use, copies, passes, arithmetic and calls: what the rule for device="auto" needs."""
    for name, needs, function in (
        ("first use", 5, first_use),
        ("copies", 10, copies),
        ("pass", 10, pass_over_table),
        ("arithmetic", 20, arithmetic),
        ("calls", 2, calls),
    ):
        found = run.step(name, needs, function)
        run.figures.update({key: value for key, value in (found or {}).items() if value is not None})
    run.constants = run.step("constants", 0, constants) or {}
    run.step("auto", 0, break_even)


def first_use(run):
    def context():
        torch.zeros(1, device=run.device)
        synchronize(run.device)

    def product():
        ones = torch.ones(8, 8, device=run.device)
        (ones @ ones).sum().item()

    return {"context_s": timed(context)[0], "first_product_s": timed(product)[0]}


def copies(run):
    """Bytes a second from the host, from its pinned memory, and from the device to itself (read and written)."""
    size = COPIED[run.toy]
    rows = torch.ones(size // 4, dtype=torch.float32, device="cpu")
    there = rows.to(run.device)
    pinned = rows.pin_memory() if run.device == "cuda" else None
    other = torch.empty_like(there)

    def rate(function, n):
        return n / seconds_of(run.device, function)

    return {
        "copy_from_host_bytes_per_s": rate(lambda: there.copy_(rows), size),
        "copy_pinned_bytes_per_s": rate(lambda: there.copy_(pinned), size) if pinned is not None else None,
        "device_bandwidth_bytes_per_s": rate(lambda: other.copy_(there), 2 * size),
    }


def pass_over_table(run):
    """Bytes of X a second, counted twice (logits, gradient), on both sides, in float32."""
    out = {}
    for where, device in (("host", "cpu"), ("device", run.device)):
        X, y = planted(PASS[run.toy], torch.float32, device)
        out[f"pass_{where}_bytes_per_s"] = 2 * n_bytes(X) / one_pass(X, y, 2)
    return out


def arithmetic(run):
    """Multiplications and additions a second in a pass with many classes, by side and dtype."""
    out = {}
    for where, device in (("host", "cpu"), ("device", run.device)):
        n, p, n_classes = ARITHMETIC[run.toy][where]
        for dtype in (torch.float32, torch.float64):
            if dtype in dtypes(device):
                X, y = planted((n, p, n_classes), dtype, device)
                rate = 4.0 * n * p * n_classes / one_pass(X, y, n_classes)
                out[f"{where}_flops_per_s_{dtype}".replace("torch.", "")] = rate
    return out


def calls(run, n_calls=1000):
    """Seconds of one operation on a few numbers, on both sides."""
    out = {}
    for where, device in (("host", "cpu"), ("device", run.device)):
        x = torch.zeros(8, device=device)

        def work(x=x):
            for _ in range(n_calls):
                x.add_(1.0)

        out[f"{where}_call_s"] = seconds_of(device, work) / n_calls
    return out


def constants(run):
    """Give the constants of `torchlogreg._data.tuning` that depend on the machine, by their names there."""
    f = run.figures

    def rates(where):
        return {np.dtype(name).itemsize: f.get(f"{where}_flops_per_s_{name}") for name in ("float32", "float64")}

    return {
        "HOST_BYTES_PER_S": f.get("pass_host_bytes_per_s"),
        "DEVICE_BYTES_PER_S": f.get("pass_device_bytes_per_s"),
        "HOST_FLOPS_PER_S": rates("host"),
        "DEVICE_FLOPS_PER_S": rates("device"),
        "HOST_CALL_SECONDS": f.get("host_call_s"),
        "LAUNCH_SECONDS": f.get("device_call_s"),
        "BUS_BYTES_PER_S": f.get("copy_from_host_bytes_per_s"),
        "START_SECONDS": f["context_s"] + f["first_product_s"] if "context_s" in f else None,
    }


def break_even(run):
    """Rows from which the rule with these constants takes the device, and with those that the package has."""
    c = run.constants
    host = Rates(c["HOST_BYTES_PER_S"], c["HOST_FLOPS_PER_S"], c["HOST_CALL_SECONDS"])
    device = Rates(
        c["DEVICE_BYTES_PER_S"],
        c["DEVICE_FLOPS_PER_S"],
        c["LAUNCH_SECONDS"],
        c["BUS_BYTES_PER_S"],
        c["START_SECONDS"],
    )
    out = {}
    for p, n_logits, dtype in (
        *((100, 1, dtype) for dtype in dtypes(run.device)[:2] if dtype in (torch.float32, torch.float64)),
        (768, 1000, torch.float32),
    ):

        def pays(n, *rates, p=p, n_logits=n_logits, size=dtype.itemsize):
            return Work.of(Table((n, p), n_logits, size, size), Access()).pays(*rates)

        sizes = [2**k for k in range(6, 40)]
        out[f"rows of {p}, {n_logits} logits, {dtype}".replace("torch.", "")] = {
            "with these constants": next((n for n in sizes if pays(n, host, device)), None),
            "as it is": next((n for n in sizes if pays(n)), None),
        }
    return out


def one_pass(X, y, n_classes):
    """Seconds of one evaluation of the objective and its gradient."""
    loss = Binomial() if n_classes == 2 else Multinomial(n_classes)
    accumulated = DenseDesign(X, y, y[:, None], intercept=True).accumulation
    ones = torch.ones(len(y), 1, dtype=accumulated.dtype, device=accumulated.device)
    y = loss.targets(y.to(accumulated.device), accumulated.dtype)
    design = DenseDesign(X, y, ones, intercept=True)
    penalty = ElasticNet.of(Strengths(0.0, 1.0), X.shape[1], intercept=True, accumulation=accumulated)
    with fit_arithmetic(X):
        objective = Objective.of(design, loss, penalty)
        W = torch.zeros(1, design.shape[1], loss.n_logits, dtype=accumulated.dtype, device=accumulated.device)
        return seconds_of(X.device, lambda: objective.value_and_gradient(W))


# --- Parity with the CPU.


def parity(run):
    for dtype in dtypes(run.device)[:: 2 if run.toy else 1]:
        for solver in SOLVERS:
            run.step(f"{solver} {dtype}".replace("torch.", ""), 4, agreement, solver, dtype)


def agreement(run, solver, dtype):
    """Find the largest differences from the CPU, by table, for tensors of the device and for rows of the host."""
    bound = BOUNDS.get(dtype, ROUGH)
    options = {"tol": 1e-9 if dtype == torch.float64 else 1e-4, "random_state": 0}
    if solver == "sgd":
        options |= {"tol": 0, "max_iter": 3}
    largest, objectives = {}, {}
    for name, sizes in PARITY[run.toy].items():
        X, y = planted(sizes, dtype, "cpu")
        model = estimator(sizes[2], solver=solver, C=0.1, **options)
        expected = model.set_params(device="cpu").fit(X, y).predict_proba(X)
        value = model.objective_
        there = X.to(run.device), y.to(run.device)
        for how, data, device in (("tensors", there, "auto"), ("from host", (X, y), run.device)):
            actual = model.set_params(device=device).fit(*data).predict_proba(data[0])
            largest[f"{name}, {how}"] = float(np.abs(actual - expected).max())
            objectives[f"{name}, {how}"] = abs(model.objective_ - value) / value
    agrees = all(number <= bound for number in (*largest.values(), *objectives.values()))  # NaN is not
    return {"agrees": agrees, "bound": bound, "probabilities": largest, "objective": objectives}


# --- Times.


def times(run):
    for sizes, dtype, needs in (
        *((TABLE[run.toy], dtype, 5) for dtype in dtypes(run.device)),
        *((PROBE[run.toy], dtype, 10) for dtype in (torch.float32, torch.bfloat16)),
    ):
        run.step(f"pass {named(sizes, dtype)}", needs, pass_share, sizes, dtype)
    for dtype in (torch.float32, torch.float64):
        if dtype in dtypes(run.device):
            run.step(f"fit {named(TABLE[run.toy], dtype)}", 15, fit_planted, TABLE[run.toy], dtype)
    run.step("fit MNIST", 15, fit_mnist)
    for dtype in (torch.float32, torch.bfloat16):
        run.step(f"fit {named(PROBE[run.toy], dtype)}", 40, fit_planted, PROBE[run.toy], dtype, False)
    run.step("grid of 5 folds x 20 Cs, float32", 25, fit_grid)


def named(sizes, dtype):
    n, p, n_classes = sizes
    return f"{n} x {p}, {n_classes} classes, {dtype}".replace("torch.", "")


def pass_share(run, sizes, dtype):
    """Seconds of a pass, its share of the device's bandwidth, and how much of it are the two products alone."""
    X, y = planted(sizes, dtype, run.device)
    seconds = one_pass(X, y, sizes[2])
    n_logits = 1 if sizes[2] == 2 else sizes[2]
    small = torch.ones(X.shape[1], n_logits, dtype=dtype, device=run.device)
    products = seconds_of(run.device, lambda: X.T @ (X @ small))
    return {"seconds": seconds, **share(run, X, seconds), "products_share": products / seconds}


def share(run, X, seconds, passes=1.0):
    """Share of the device's bandwidth that reading X twice in each pass takes."""
    bandwidth = run.figures.get("device_bandwidth_bytes_per_s")
    return {"bandwidth_share": 2 * n_bytes(X) * passes / seconds / bandwidth if bandwidth else None}


def fit_planted(run, sizes, dtype, from_host=True):
    """Time a default fit of a table on the device, and with the copy from the host."""
    X, y = planted(sizes, dtype, run.device)
    estimator(sizes[2]).fit(*planted((400, sizes[1], sizes[2]), dtype, run.device))  # loads its kernels
    out = {"resident": fitted(run, estimator(sizes[2]), X, y)}
    if from_host:
        X, y = X.cpu(), y.cpu()
        out["from host"] = fitted(run, estimator(sizes[2], device=run.device), X, y)
    return out


def fit_mnist(run):
    X, y = mnist(run.toy)
    there = as_tensors(X, y, run.device)
    return {
        "resident": fitted(run, TorchSoftmaxClassifier(), *there),
        "from host": fitted(run, TorchSoftmaxClassifier(device=run.device), X, y),
        "on the host": fitted(run, TorchSoftmaxClassifier(device="cpu"), X, y, repeats=1),
    }


def fit_grid(run):
    X, y = planted(GRID[run.toy], torch.float32, run.device)
    search = TorchLogisticRegressionCV(Cs=3, cv=2) if run.toy else TorchLogisticRegressionCV(Cs=20, cv=5)
    return {"resident": fitted(run, search, X, y, repeats=1), "C": float(np.ravel(search.C_)[0])}


def fitted(run, model, X, y, repeats=None):
    """Seconds of a fit, the best of some if it is short, with the memory beyond X and what it says of itself."""
    repeats = repeats or REPEATS[run.toy]
    with peak_memory(run.device) as peak:
        seconds, spent = np.inf, 0.0
        while repeats and spent <= SHORT:
            elapsed = timed(model.fit, X, y)[0]
            synchronize(run.device)
            seconds, spent, repeats = min(seconds, elapsed), spent + elapsed, repeats - 1
    out = {"seconds": seconds, "peak_bytes": peak[0] if peak else None}
    for name in ("n_passes_", "n_iter_", "gradient_norm_", "objective_", "optimality_gap_"):
        if hasattr(model, name):
            out[name.rstrip("_")] = float(np.max(getattr(model, name)))
    out["converged"] = bool(np.all(model.converged_))
    if "n_passes" in out and isinstance(X, torch.Tensor):
        out |= share(run, X, seconds, out["n_passes"])
    return out


# --- Memory.


def memory(run):
    for solver in SOLVERS:
        run.step(f"{solver}", 5, peak_of, estimator(2, solver=solver, max_iter=5, tol=0.0))
    run.step("search, 5 folds x 5 Cs", 15, peak_of, TorchLogisticRegressionCV(Cs=5, cv=5))


def peak_of(run, model):
    """Peak memory of the device beyond X, in multiples of X, from tensors there and with the copy from the host."""
    X, y = planted(MEMORY[run.toy], torch.float32, run.device)
    out = {"X_bytes": n_bytes(X)}
    for how, data, device in (("resident", (X, y), "auto"), ("from host", (X.cpu(), y.cpu()), run.device)):
        with peak_memory(run.device) as peak:
            model.set_params(device=device).fit(*data)
        out[how] = {"peak_bytes": peak[0], "multiple_of_X": peak[0] / n_bytes(X)} if peak else None
    return out


# --- The cases that the tests run on a pretend device.


def cases(run):
    run.step("cases of the tests", 60, compare_cases)


def compare_cases(run):
    """As many of them as there is time for, from tensors or from the host by turns; those that raise or differ."""
    folder = str(Path(__file__).resolve().parents[1] / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    import pretend_cases
    import pretend_fits  # noqa: F401 - its cases, as those of the next one
    import pretend_surface  # noqa: F401

    wrong, n_run = {}, 0
    for number, name in enumerate(list(pretend_cases.CASES)[:: 100 if run.toy else 1]):
        if run.stop - time.monotonic() < LAST:
            break
        n_run += 1
        if fault := fault_of(pretend_cases, name, run.device, number % 3 != 0):
            wrong[name] = fault
    return {"agrees": not wrong, "run": n_run, "of": len(pretend_cases.CASES), "wrong": wrong}


def fault_of(tests, name, device, as_tensors):
    """Say what is wrong with a case on the device, or an empty string."""
    import pytest

    single = device in tests.SINGLE
    bound = REAL * tests.bound_of(name, single)
    try:
        expected = tests.expected(name, as_tensors, single)
        actual = tests.flat(tests.CASES[name](tests.Place(device, as_tensors, single)))
        for a, b in zip(actual, expected, strict=True):
            if a.dtype.kind in "USb":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
    except pytest.skip.Exception:
        return ""
    except (Exception, pytest.fail.Exception):
        return traceback.format_exc(limit=-4)
    return ""
