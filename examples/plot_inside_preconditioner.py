"""
What a preconditioner does
==========================

Gradient descent is slow if features are correlated or have different scales. The Hessian of a small sample of rows is
enough to correct that. :doc:`/how-it-works` uses this picture.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit

from torchlogreg import TorchLogisticRegression


def value_and_gradient(w, X, y):
    """Return the mean loss, with the penalty for C = 1, and its gradient: one pass over X."""
    z = X @ w
    value = np.logaddexp(0, z).mean() - y @ z / len(y) + w @ w / (2 * len(y))
    return value, X.T @ (expit(z) - y) / len(y) + w / len(y)


rng = np.random.default_rng(0)

# %%
# Two correlated features make a narrow valley, in which gradient descent crawls. The Hessian of 200 of the 5000 rows
# describes the shape of the valley. In coordinates in which this Hessian is the identity, the valley is round.
X = rng.standard_normal((5000, 2)) @ np.array([[1.0, 0.9], [0.0, 0.3]])
y = (rng.random(5000) < expit(X @ [1.5, -1.0])).astype(float)
sample = TorchLogisticRegression(fit_intercept=False).fit(X[:200], y[:200]).predict_proba(X[:200])[:, 1]
R = np.linalg.cholesky((X[:200].T * (sample * (1 - sample))) @ X[:200] / 200).T
best = TorchLogisticRegression(fit_intercept=False, tol=1e-12).fit(X, y)
step = 7 / np.linalg.eigvalsh(X.T @ X / 5000)[-1]  # from 8 on, descent may diverge
gaps = []
_, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
for ax, A, size, n_steps, name in ((axes[0], np.eye(2), step, 30, "w"), (axes[1], R, 1.0, 4, "R w")):
    preconditioner, path = np.linalg.inv(A.T @ A) * size, [np.zeros(2)]
    for _ in range(n_steps):
        path.append(path[-1] - preconditioner @ value_and_gradient(path[-1], X, y)[1])
    gaps.append(value_and_gradient(path[-1], X, y)[0] / best.objective_ - 1)
    path, end = np.array(path) @ A.T, A @ best.coef_[0]
    reach = 1.4 * np.abs(path - end).max()
    grid = np.stack(np.meshgrid(*(end[:, None] + np.linspace(-reach, reach, 81))))
    F = [[value_and_gradient(np.linalg.solve(A, point), X, y)[0] for point in row] for row in np.moveaxis(grid, 0, -1)]
    ax.contour(*grid, np.array(F) - best.objective_, levels=np.geomspace(1e-3, 1, 10), colors="0.6", linewidths=1)
    ax.plot(*path.T, "o-", c="#D55E00", ms=4, label="gradient descent")
    ax.plot(*end, "*", c="#0072B2", ms=15, label="minimum")
    ax.set(
        title=f"{n_steps} steps: gap {gaps[-1]:.0e}",
        xlabel=f"first of {name}",
        ylabel=f"second of {name}",
    )
    ax.set_aspect("equal"), ax.legend(loc="upper right")
assert gaps[0] > 1e-3 > 1e-8 > gaps[1]
