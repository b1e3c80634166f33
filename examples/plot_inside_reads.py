"""
Inside: what a read is worth
============================

A fit reads X again and again, and does little else. How near to the minimum does each read lead? A picture of
:doc:`/how-it-works`.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import TorchLogisticRegression

# %%
# Thirty features on scales from 0.1 to 10, correlated.
rng = np.random.default_rng(0)
X = rng.standard_normal((10_000, 30)) @ rng.standard_normal((30, 30)) * np.geomspace(0.1, 10, 30)
y = (rng.random(10_000) < expit(X @ (rng.standard_normal(30) / X.std(axis=0)) / 2)).astype(float)
settings = {"solver": "lbfgs", "fit_intercept": False}
lowest = TorchLogisticRegression(**settings, tol=1e-12).fit(X, y).objective_


def value_and_gradient(w, X, y):
    """Return the mean loss, with the penalty for C = 1, and its gradient: one read of X."""
    z = X @ w
    value = np.logaddexp(0, z).mean() - y @ z / len(y) + w @ w / (2 * len(y))
    return value, X.T @ (expit(z) - y) / len(y) + w / len(y)


# %%
# Gradient descent and SciPy's L-BFGS, from zero: a read for each value with its gradient, a hundred of them.
descent, lbfgs, w = [], [], np.zeros(30)
step = 4 / np.linalg.eigvalsh(X.T @ X / len(X))[-1]
for _ in range(100):
    value, gradient = value_and_gradient(w, X, y)
    descent.append(value / lowest - 1)
    w = w - step * gradient


def counted(w):
    """Return value and gradient, and keep the value."""
    value, gradient = value_and_gradient(w, X, y)
    lbfgs.append(value / lowest - 1)
    return value, gradient


minimize(counted, np.zeros(30), jac=True, method="L-BFGS-B", options={"maxfun": 100, "ftol": 0})

# %%
# The estimator starts with a sample of the rows, whose Hessian is its preconditioner. ``n_passes_`` counts a sample as
# the share of the rows that it is. Fits that are cut short show how far each iteration came.
reads, gaps = [], []
for k in range(1, 5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticRegression(**settings, tol=1e-8, max_iter=k).fit(X, y)
    reads.append(model.n_passes_)
    gaps.append(model.objective_ / lowest - 1)
print(f"{reads[0]:.1f} reads: {gaps[0]:.0e} above the minimum; {reads[2]:.1f} reads: {gaps[2]:.0e}")
print(f"100 reads: L-BFGS {min(lbfgs):.0e}, gradient descent {min(descent):.0e}")
assert gaps[0] < min(lbfgs) < min(descent)
assert gaps[2] < 1e-6

_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
ax.plot(np.arange(1, len(descent) + 1), descent, c="#0072B2", lw=2, label="gradient descent")
ax.plot(np.arange(1, len(lbfgs) + 1), np.minimum.accumulate(lbfgs), "--", c="#E69F00", lw=2, label="SciPy's L-BFGS")
ax.plot(reads, np.maximum(gaps, 1e-15), "o-", c="#D55E00", lw=2, label='solver="lbfgs"')
ax.set(xscale="log", yscale="log", xlabel="reads of X", ylabel="objective above its minimum, relative")
ax.set_title("What a read is worth"), ax.grid(alpha=0.3), ax.legend(loc="center right")
