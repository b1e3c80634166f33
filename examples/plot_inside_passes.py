"""
How close each pass over the data gets to the optimum
=====================================================

Nearly all the time of a fit is spent on passes over X. How close to the minimum does each pass get?
:doc:`/how-it-works` uses this picture.
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
    """Return the mean loss, with the penalty for C = 1, and its gradient: one pass over X."""
    z = X @ w
    value = np.logaddexp(0, z).mean() - y @ z / len(y) + w @ w / (2 * len(y))
    return value, X.T @ (expit(z) - y) / len(y) + w / len(y)


# %%
# Gradient descent and SciPy's L-BFGS start from zero. Each value with its gradient takes one pass; both get a hundred.
descent, lbfgs, w = [], [], np.zeros(30)
step = 4 / np.linalg.eigvalsh(X.T @ X / len(X))[-1]
for _ in range(100):
    value, gradient = value_and_gradient(w, X, y)
    descent.append(value / lowest - 1)
    w = w - step * gradient


def counted(w):
    """Return the value and the gradient, and record the value."""
    value, gradient = value_and_gradient(w, X, y)
    lbfgs.append(value / lowest - 1)
    return value, gradient


minimize(counted, np.zeros(30), jac=True, method="L-BFGS-B", options={"maxfun": 100, "ftol": 0})

# %%
# The estimator starts with a sample of the rows, whose Hessian is its preconditioner. ``n_passes_`` counts a sample as
# a fraction of a pass. Fits with a small ``max_iter`` show how close each iteration gets.
passes, gaps = [], []
for k in range(1, 5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticRegression(**settings, tol=1e-8, max_iter=k).fit(X, y)
    passes.append(model.n_passes_)
    gaps.append(model.objective_ / lowest - 1)
print(f"{passes[0]:.1f} passes: {gaps[0]:.0e} above the minimum; {passes[2]:.1f} passes: {gaps[2]:.0e}")
print(f"100 passes: L-BFGS {min(lbfgs):.0e}, gradient descent {min(descent):.0e}")
assert gaps[0] < min(lbfgs) < min(descent)
assert gaps[2] < 1e-6

_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
ax.plot(np.arange(1, len(descent) + 1), descent, c="#0072B2", lw=2, label="gradient descent")
ax.plot(np.arange(1, len(lbfgs) + 1), np.minimum.accumulate(lbfgs), "--", c="#E69F00", lw=2, label="SciPy's L-BFGS")
ax.plot(passes, np.maximum(gaps, 1e-15), "o-", c="#D55E00", lw=2, label='solver="lbfgs"')
ax.set(xscale="log", yscale="log", xlabel="passes over X", ylabel="objective above its minimum, relative")
ax.set_title("Distance to the minimum after each pass"), ax.grid(alpha=0.3), ax.legend(loc="center right")
