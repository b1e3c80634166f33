"""
How twenty models share each pass over the data
===============================================

Five folds and four values of C make twenty models. Each one is a column: of the coefficients, of the logits, and of the
sample weights, which are zero for the rows that a fold holds out. :doc:`/how-it-works` uses this picture.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import KFold
from sklearn.preprocessing import scale

from torchlogreg import TorchLogisticRegression, TorchLogisticRegressionCV

X, y = load_breast_cancer(return_X_y=True)
X, y, Cs, folds = scale(X)[:80], y[:80], [0.01, 0.1, 1, 10], KFold(5)
cv = TorchLogisticRegressionCV(Cs=Cs, cv=folds, tol=1e-8, max_iter=300).fit(X, y)
W = cv.coefs_paths_[:, 0, :, 0].reshape(20, 31)  # folds times Cs, and the intercept last
weights = np.ones((80, 20))
for fold, (_, held_out) in enumerate(folds.split(X)):
    weights[held_out, 4 * fold : 4 * fold + 4] = 0
logits = X @ W[:, :30].T + W[:, 30]

# %%
# Each column agrees with a separate fit to the training rows of its fold, with its C.
for k in range(20):
    rows = weights[:, k] > 0
    alone = TorchLogisticRegression(C=Cs[k % 4], tol=1e-8).fit(X[rows], y[rows])
    assert np.allclose(alone.coef_[0], W[k, :30], rtol=0, atol=1e-5)

# %%
# One product of X with all coefficients gives all logits, so one pass over X serves twenty models. White rows have
# weight zero.
fig, axes = plt.subplots(1, 3, figsize=(7.5, 4.4), width_ratios=[30, 20, 20], layout="constrained")
pictures = {
    "X: 80 rows, 30 features": (X, "gray", 3),
    "coefficients of 20 models": (W[:, :30].T, "RdBu_r", np.abs(W).max()),
    "their logits": (np.where(weights > 0, logits, np.nan), "RdBu_r", 10),
}
for ax, (title, (values, colours, limit)) in zip(axes, pictures.items(), strict=True):
    ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set(title=title, xticks=[], yticks=[])
for ax in axes[1:]:
    ax.set_xticks(np.arange(5) * 4 + 1.5, [f"fold {k}" for k in range(1, 6)], rotation=45)
    ax.vlines(np.arange(1, 5) * 4 - 0.5, *ax.get_ylim(), color="k", lw=0.8)
axes[0].set(ylabel="rows", xlabel="features"), axes[1].set_ylabel("features"), axes[2].set_ylabel("rows")
