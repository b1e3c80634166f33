"""How much memory methods take beside X: the high-water mark of a process of its own, measured."""

import subprocess
import sys

import pytest
from helpers import STEADY_HEAP

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc"),
    pytest.mark.slow,
]

# X holds 80 MB of float32, of which a copy in float64 would take 160 MB. Arrays of that size are given back to the
# system when they are freed, so one process can measure several things.
SCRIPT = """
import sys, warnings
import numpy as np, torch
from torchlogreg import *
warnings.simplefilter("ignore")
n, p = 400_000, 50
rng = np.random.default_rng(0)
X = rng.standard_normal((n, p), dtype=np.float32)
y = (X[:, 0] + rng.standard_normal(n, dtype=np.float32) > 0) + ({n_classes} - 2) * (X[:, 1] > 1)

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def grown(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    before = status("VmRSS")
    exec(work, globals())
    return (status("VmHWM") - before) / (n * p * 4)

for prepare, work in {cases}:
    exec(prepare, globals())
    print(grown(work))
"""


def growth(*cases, n_classes=2):
    """The high-water mark beside X, in bytes of X in float32, of each of `cases`: what to prepare, and what to do."""
    script = SCRIPT.format(cases=repr(cases), n_classes=n_classes)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=STEADY_HEAP)
    assert out.returncode == 0, out.stderr
    return [float(line) for line in out.stdout.split()]


MODELS = """
model = TorchSoftmaxClassifier().fit(X[:2000], y[:2000])
cv = TorchSoftmaxClassifierCV(Cs=[1.0], cv=2).fit(X[:2000], y[:2000])
TorchSoftmaxClassifier().partial_fit(X[:2000], y[:2000], classes=np.unique(y))
"""
COPY = 2.0  # what one in float64 would take
WORK = {
    "TorchSoftmaxClassifier(solver='lbfgs').fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='lbfgs', tol=1e-8).fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='newton-cholesky').fit(X, y)": 1.0,
    "TorchSoftmaxClassifier(solver='sgd', max_iter=1, tol=0).fit(X, y)": 1.0,
    "TorchSoftmaxClassifier().partial_fit(X, y, classes=np.unique(y))": 1.0,
    "TorchSoftmaxClassifier().fit(torch.from_numpy(X), torch.from_numpy(y))": 1.0,
    "model.predict(X)": 0.5,
    "model.predict_proba(X)": 0.5,
    "model.score(X, y)": 0.5,
    # scikit-learn's way to score a fold takes a copy of its rows, in float32.
    "TorchSoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3).fit(X, y)": 1.9,
    "cv.score(X, y)": 1.0,
    "TorchGridSearchCV(TorchSoftmaxClassifier(), {'C': [0.1, 1.0]}, cv=3).fit(X, y)": 1.9,
}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_float32_is_never_copied_to_float64(n_classes):
    *measured, copy = growth((MODELS, "None"), *(("", work) for work in WORK), ("", "Z = X.astype(np.float64)"),
                             n_classes=n_classes)[1:]  # fmt: skip
    assert copy == pytest.approx(COPY, abs=0.1)  # the measurement sees one
    for (work, limit), share in zip(WORK.items(), measured, strict=True):
        assert share < limit < COPY, work


def test_half_precision_is_not_copied_as_a_whole():
    """A copy of all rows in float32 would take 1 besides what a fit takes anyway, about 0.4 for float32 rows."""
    dtypes, solvers = ("bfloat16", "float16"), ("lbfgs", "newton-cholesky", "sgd")
    cases = [
        (
            f"half = torch.from_numpy(X).to(torch.{dtype})",
            f"TorchSoftmaxClassifier(solver='{solver}', max_iter=3, tol=1e-3).fit(half, y).predict(half)",
        )
        for dtype in dtypes
        for solver in solvers
    ]
    for (_, work), share in zip(cases, growth((MODELS, "None"), *cases, n_classes=3)[1:], strict=True):
        assert share < 0.9, work


FRAMES = {
    "pd.DataFrame(X)": 1,
    "pd.DataFrame(X.astype(np.float64))": 2,
    "pd.DataFrame({str(i): X[:, i].astype(np.float64) for i in range(p)})": 2,
    "pd.DataFrame({str(i): X[:, i].astype([np.float32, np.float64][i % 2]) for i in range(p)})": 2,
    "pl.DataFrame(X)": 1,
    "pl.DataFrame(X.astype(np.float64))": 2,
}


def test_a_frame_is_copied_at_most_once():
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    warm = "import pandas as pd, polars as pl; [TorchLogisticRegression().fit(f(X[:2000]), y[:2000]) for f in "
    warm += "(pd.DataFrame, pl.DataFrame)]"
    work = "TorchLogisticRegression(max_iter=5, tol=0.1).fit(frame, y)"
    cases = [("frame = None; frame = " + make, work) for make in FRAMES]
    for (make, copy), share in zip(FRAMES.items(), growth((warm, "None"), *cases)[1:], strict=True):
        assert share < 1.6 * copy, make
