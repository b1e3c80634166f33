"""How much memory a call takes: the high-water mark of a process of its own, measured."""

import subprocess
import sys
from functools import cache

import pytest
from helpers import DETERMINISTIC, SOLVERS, STEADY_HEAP, serial

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from /proc"),
    serial,
]

# Arrays as large as X are given back to the system when they are freed, so one process can measure several things.
PROGRAM = """
import sys, warnings
import numpy as np, pandas as pd, polars as pl, torch
from torchlogreg import *
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def grown(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    before = status("VmRSS")
    exec(work, globals())
    return (status("VmHWM") - before) / 1e6

exec(sys.argv[1])
for prepare, work, *known in eval(sys.argv[2]):
    exec(prepare, globals())
    print(grown(work) - sum(map(eval, known)))
"""


def growth(setup, cases):
    """The high-water mark in MB, beside what was there before, of each of `cases`: what to prepare, and what to do.

    And what of it is known, if anything.
    """
    command = [sys.executable, "-c", PROGRAM, setup, repr(cases)]
    run = subprocess.run(command, capture_output=True, text=True, env=STEADY_HEAP, timeout=300)
    if "PermissionError" in run.stderr:
        pytest.skip("this system does not let a process reset its peak of memory")
    assert run.returncode == 0, run.stderr
    return [float(line) for line in run.stdout.split()]


# A table in memory: 80 MB of float32, of which a copy in float64 would take 160 MB.

MEGABYTES, COPY = 80, 2.0
TABLE = """
n, p = 400_000, 50
X = rng.standard_normal((n, p), dtype=np.float32)
y = (X[:, 0] + rng.standard_normal(n, dtype=np.float32) > 0) + ({n_classes} - 2) * (X[:, 1] > 1)
few, labels = X[:2000], y[:2000]
model = TorchSoftmaxClassifier().fit(few, labels)  # what a first call loads
cv = TorchSoftmaxClassifierCV(Cs=[1.0], cv=2).fit(few, labels)
TorchSoftmaxClassifier().partial_fit(few, labels, classes=np.unique(y))
for make in (pd.DataFrame, pl.DataFrame):
    TorchSoftmaxClassifier().fit(make(few), labels)
"""
WORK = {  # the most that it may take, in tables
    "TorchSoftmaxClassifier(solver='lbfgs').fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='lbfgs', tol=1e-8).fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='newton-cholesky', max_iter=2).fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='sgd', batch_size=1024, max_iter=1, tol=0).fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(batch_size=1024).partial_fit(X, y, classes=np.unique(y))": 1.0,
    "TorchSoftmaxClassifier().fit(torch.from_numpy(X), torch.from_numpy(y))": 1.0,
    "model.predict(X)": 0.5,
    "model.predict_proba(X)": 0.5,
    "model.score(X, y)": 0.5,
    # scikit-learn's way to score a fold takes a copy of its rows, in float32.
    "TorchSoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3, tol=1e-2).fit(X, y)": 1.9,
    "cv.score(X, y)": 1.0,
    "TorchGridSearchCV(TorchSoftmaxClassifier(tol=1e-2), {'C': [0.1, 1.0]}, cv=3).fit(X, y)": 1.9,
}
# A copy of all rows in float32 would take 1 besides what a fit takes anyway, about 0.4 for float32 rows.
HALF = {
    (
        f"half = torch.from_numpy(X).to(torch.{dtype})",
        f"TorchSoftmaxClassifier(solver='{solver}', batch_size=1024, max_iter={3 if solver == 'lbfgs' else 1})"
        ".fit(half, y).predict(half)",
    ): 0.9
    for dtype in ("bfloat16", "float16")
    for solver in SOLVERS
}
FRAMES = {  # at most one copy
    (f"half = frame = None; frame = {make}", "TorchSoftmaxClassifier(max_iter=5, tol=0.1).fit(frame, y)"): 1.6 * copy
    for make, copy in {
        "pd.DataFrame(X)": 1,
        "pd.DataFrame(X.astype(np.float64))": 2,
        "pd.DataFrame({str(i): X[:, i].astype(np.float64) for i in range(p)})": 2,
        "pd.DataFrame({str(i): X[:, i].astype([np.float32, np.float64][i % 2]) for i in range(p)})": 2,
        "pl.DataFrame(X)": 1,
        "pl.DataFrame(X.astype(np.float64))": 2,
    }.items()
}
MOST = {
    n_classes: {**{("", work): most for work, most in WORK.items()}, **(FRAMES if n_classes == 2 else HALF)}
    for n_classes in (2, 3)
}


@cache
def of_the_table(n_classes):
    """What each case takes, in tables, and what a copy in float64 does."""
    # The copy comes first, for polars gives its memory back whenever it likes.
    cases = [("", "Z = X.astype(np.float64); del Z"), *MOST[n_classes]]
    copy, *taken = (megabytes / MEGABYTES for megabytes in growth(TABLE.format(n_classes=n_classes), cases))
    return dict(zip(cases[1:], taken, strict=True)), copy


@pytest.mark.parametrize("n_classes", MOST)
def test_the_measurement_sees_a_copy(n_classes):
    assert of_the_table(n_classes)[1] == pytest.approx(COPY, abs=0.1)


@pytest.mark.parametrize(("n_classes", "case"), [(K, ("", work)) for K in MOST for work in WORK])
def test_float32_is_never_copied_to_float64(n_classes, case):
    assert of_the_table(n_classes)[0][case] < MOST[n_classes][case] < COPY


@pytest.mark.parametrize("case", HALF)
def test_half_precision_is_not_copied_as_a_whole(case):
    assert of_the_table(3)[0][case] < HALF[case]


@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_is_copied_at_most_once(case):
    assert of_the_table(2)[0][case] < FRAMES[case]


# Streams, files and predictions

PASSING = """
tile = rng.standard_normal((1000, 100), dtype=np.float32)

def filled(X):
    X.reshape(-1, 1000, 100)[:] = tile
    return X

def labelled(X):
    return X[:, 0] > X[:, 1] ** 2 - 1

class Made:
    "Blocks that nothing keeps."
    def __init__(self, n_rows, n_blocks):
        self.n_rows, self.n_blocks = n_rows, n_blocks
    def __iter__(self):
        for _ in range(self.n_blocks):
            X = filled(np.empty((self.n_rows, 100), dtype=np.float32))
            yield X, labelled(X)
            del X

def fit(data, *labels, **options):
    most = 2 if options.get("solver") == "newton-cholesky" else 100  # each iteration takes the same
    return TorchLogisticRegression(C=1e-3, max_iter=most, **options).fit(data, *labels)

for solver in {solvers}:
    fit(Made(60_000, 1), solver=solver)  # what a first fit loads
path, n_rows = {path}, 800_000
X = filled(np.memmap(path, dtype=np.float32, mode="w+", shape=(n_rows, 100)))
X.flush()
X, y = np.memmap(path, dtype=np.float32, mode="r", shape=(n_rows, 100)), labelled(X).astype(np.int8)
model = fit(np.array(X[:60_000]), y[:60_000])

small = rng.standard_normal((3000, 100))
models = {{K: TorchSoftmaxClassifier(device="cpu").fit(small, rng.integers(0, K, 3000)) for K in (2, 10)}}

def rows(dtype, kind):
    X = np.empty((400_000, 100), dtype=dtype)
    X[:] = small[0]
    return torch.from_numpy(X) if kind == "tensor" else X
"""
STREAMS = {
    ("", f"fit(Made({megabytes} * 10**6 // 400, 6), solver='{solver}')"): 4 * megabytes + 64
    for megabytes in (8, 48)
    for solver in DETERMINISTIC
}
FILE = {
    ("", "model = fit(X, y); assert X.nbytes == 320e6 and model.n_passes_ <= 8"): 4 * 17 + 64,
    ("", "model.predict_proba(X)"): 13 + 2 * 17 + 20,
}
METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
KINDS = [
    ("float64", 2, "array"),
    ("float32", 10, "array"),
    ("float16", 2, "array"),
    ("int8", 2, "array"),
    ("float16", 10, "tensor"),
]


# A block of 16 MB as float64, its check, and its logits, beyond the answer.
PREDICTIONS = {
    (
        f"Z = out = None; Z = rows('{dtype}', '{kind}'); models[{K}].{method}(Z[:20_000])",
        f"out = models[{K}].{method}(Z)",
        "out.nbytes / 1e6",
    ): 45
    for dtype, K, kind in KINDS
    for method in METHODS
}


@cache
def of_passing_rows(path):
    cases = [*STREAMS, *FILE, *PREDICTIONS]
    setup = PASSING.format(solvers=DETERMINISTIC, path=repr(str(path)))
    return dict(zip(cases, growth(setup, cases), strict=True))


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    return of_passing_rows(tmp_path_factory.mktemp("memory") / "X")


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_takes_four_blocks_of_memory_at_most(case, taken):
    assert taken[case] < STREAMS[case]


@pytest.mark.parametrize("case", FILE)
def test_a_file_is_not_pulled_into_memory(case, taken):
    assert taken[case] < FILE[case]


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions_take_their_output_and_a_bounded_block(case, taken):
    assert taken[case] < PREDICTIONS[case]
