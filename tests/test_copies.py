"""How much memory methods take beside X: the high-water mark of a process of its own, measured."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")

# X holds 80 MB of float32, of which a copy in float64 would take 160 MB.
SCRIPT = """
import sys, warnings
import numpy as np, torch
from sklearn import config_context
from torchlogreg import *
warnings.simplefilter("ignore")
torch.set_num_threads(2)
n, p = 400_000, 50
rng = np.random.default_rng(0)
X = rng.standard_normal((n, p), dtype=np.float32)
y = (X[:, 0] + rng.standard_normal(n, dtype=np.float32) > 0) + ({n_classes} - 2) * (X[:, 1] > 1)
{prepare}

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

small = X[:2000], y[:2000]
{warm}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # resets the high-water mark
before = status("VmRSS")
{work}
print((status("VmHWM") - before) / (n * p * 4))
"""


def growth(work, *, n_classes=2, prepare="", warm=""):
    """The high-water mark beside X, in bytes of X in float32, of what `work` does; `warm` loads what it needs."""
    script = SCRIPT.format(work=work, n_classes=n_classes, prepare=prepare, warm=warm)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return float(out.stdout)


FLOAT64 = 2.0  # what a copy in float64 would take
WORK = {
    "fit lbfgs": ("TorchSoftmaxClassifier(solver='lbfgs').fit(X, y)", 0.9),
    "fit lbfgs, tight": ("TorchSoftmaxClassifier(solver='lbfgs', tol=1e-8).fit(X, y)", 0.9),
    "fit newton": ("TorchSoftmaxClassifier(solver='newton-cholesky').fit(X, y)", 0.9),
    "fit sgd": ("TorchSoftmaxClassifier(solver='sgd', max_iter=2).fit(X, y)", 0.9),
    "partial_fit": ("TorchSoftmaxClassifier().partial_fit(X, y, classes=np.unique(y))", 0.9),
    "predict": ("model.predict(X)", 0.9),
    "predict_proba": ("model.predict_proba(X)", 0.9),
    "score": ("model.score(X, y)", 0.9),
    "tensor": ("TorchSoftmaxClassifier().fit(torch.from_numpy(X), torch.from_numpy(y))", 0.9),
    # Folds that are scored one after the other are copied in float32, as scikit-learn slices them.
    "cv": ("TorchSoftmaxClassifierCV(Cs=[0.1, 1.0], cv=3).fit(X, y)", 1.9),
    "cv score": ("cv.score(X, y)", 1.9),
    "grid search": ("TorchGridSearchCV(TorchSoftmaxClassifier(), {'C': [0.1, 1.0]}, cv=3).fit(X, y)", 1.9),
}
MODEL = "model = TorchSoftmaxClassifier().fit(X[:2000], y[:2000])"
CV = "; cv = TorchSoftmaxClassifierCV(Cs=[1.0], cv=2).fit(X[:2000], y[:2000])"


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("case", WORK)
def test_float32_is_never_copied_to_float64(case, n_classes):
    work, limit = WORK[case]
    assert growth(work, n_classes=n_classes, prepare=MODEL + CV) < limit < FLOAT64


def test_the_measurement_sees_a_copy():
    assert growth("Z = X.astype(np.float64)") == pytest.approx(FLOAT64, abs=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky", "sgd"])
def test_half_precision_is_not_copied_as_a_whole(dtype, solver):
    """A copy of all rows in float32 would take once X; the tensor itself has been made before."""
    prepare = MODEL + f"; half = torch.from_numpy(X).to(torch.{dtype}); del X"
    work = f"TorchSoftmaxClassifier(solver='{solver}', max_iter=5, tol=1e-3).fit(half, y).predict(half)"
    assert growth(work, n_classes=3, prepare=prepare.replace("; del X", "")) < 0.75


FRAMES = {
    "pandas float32": ("pandas", "pd.DataFrame(X)", 1.3),
    "pandas float64": ("pandas", "pd.DataFrame(X.astype(np.float64))", 2.3),
    "pandas columns": ("pandas", "pd.DataFrame({str(i): X[:, i].astype(np.float64) for i in range(p)})", 2.5),
    "pandas mixed": ("pandas", "pd.DataFrame({str(i): X[:, i].astype([np.float32, float][i % 2]) for i in range(p)})", 2.5),
    "polars float32": ("polars", "pl.DataFrame(X)", 1.3),
    "polars float64": ("polars", "pl.DataFrame(X.astype(np.float64))", 2.3),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_is_copied_at_most_once(case):
    package, make, limit = FRAMES[case]
    pytest.importorskip(package)
    prepare = f"import {package} as {package[0]}{'d' if package == 'pandas' else 'l'}; frame = {make}"
    warm = "TorchLogisticRegression().fit(frame[:2000], y[:2000])"
    assert growth("TorchLogisticRegression().fit(frame, y)", prepare=prepare, warm=warm) < limit
