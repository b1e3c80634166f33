"""Draw the picture of the README: `python docs/readme_picture.py` writes docs/_static/at-a-glance.png.

Another path may be given as an argument.
"""

import sys
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import scale

from torchlogreg import ScorePathDisplay, TorchLogisticRegression, TorchLogisticRegressionCV

BLUE, ORANGE = "#0072B2", "#D55E00"
X, y = load_breast_cancer(return_X_y=True)


def same_coefficients(ax):
    """Draw our coefficients against scikit-learn's."""
    ours = TorchLogisticRegression(tol=1e-8).fit(X, y).coef_[0]
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y).coef_[0]
    difference = np.abs(ours - theirs).max()
    assert difference < 1e-6
    ends = [theirs.min() - 0.1, theirs.max() + 0.1]
    ax.plot(ends, ends, c="0.6", lw=1)
    ax.plot(theirs, ours, "o", c=ORANGE, ms=7, mec="white")
    ax.set(xlabel="LogisticRegression", ylabel="TorchLogisticRegression", title="The same coefficients")
    ax.text(0.05, 0.93, f"largest difference {difference:.0e}", transform=ax.transAxes, va="top")


def few_iterations(ax):
    """Draw the objective above its minimum, on features that are not scaled."""
    best = TorchLogisticRegression(tol=1e-12).fit(X, y)
    ours = best.loss_curve_ / best.objective_ - 1
    iterations = [1, 3, 10, 30, 100, 300, 1000]
    theirs = []
    for k in iterations:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # few iterations on purpose
            peer = LogisticRegression(max_iter=k).fit(X, y)
        objective = log_loss(y, peer.predict_proba(X)) + (peer.coef_**2).sum() / (2 * len(y))
        theirs.append(objective / best.objective_ - 1)
    assert ours[9] < 1e-8 < 1e-3 < min(theirs)
    ax.loglog(iterations, theirs, "s--", c=BLUE, lw=2)
    ax.loglog(np.arange(1, len(ours) + 1), np.maximum(ours, 1e-15), "o-", c=ORANGE, lw=2)
    ax.set(xlabel="iterations", ylabel="objective above its minimum", title="Few iterations on raw features")
    ax.text(1000, 0.02, "scikit-learn:\nlbfgs", c=BLUE, ha="right", va="top")
    ax.text(15, 1e-12, f"torchlogreg:\n{best.solver_}", c=ORANGE, va="center")


def grid_in_one_solve(ax):
    """Draw the scores of all folds and values of C, fitted as one batch."""
    cv = TorchLogisticRegressionCV(Cs=13, cv=10, max_iter=300).fit(scale(X), y)
    assert cv.converged_
    display = ScorePathDisplay.from_estimator(cv, ax=ax, line_kw={"color": ORANGE}, fill_between_kw={"color": ORANGE})
    ax.set_title("130 models in one batch")
    ax.legend(handles=[display.line_, display.chosen_], loc="lower left")


fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.5), layout="constrained")
for draw, ax in zip((same_coefficients, few_iterations, grid_in_one_solve), axes, strict=True):
    draw(ax)
path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_static" / "at-a-glance.png"
fig.savefig(path, dpi=150)
print(path)
