"""
Which features does an L1 penalty keep?
=======================================

With an L1 norm in the penalty, a coefficient is exactly zero unless C is large enough for its feature to matter. A path
over C shows in which order features enter, and cross-validation how many are worth keeping. Samples of the rows show
how much of that choice is chance.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

from torchlogreg import CoefficientPathDisplay, TorchLogisticRegression, TorchLogisticRegressionCV, smallest_useful_C

data = load_breast_cancer()
X, y, names = scale(data.data), data.target, data.feature_names

# %%
# Up to the smallest useful C all coefficients are zero, so a path begins there. A line leaves the axis where its
# feature enters on one of the five folds. The numbers above the picture count the features.
smallest = smallest_useful_C(X, y)
model = TorchLogisticRegressionCV(Cs=smallest * np.geomspace(1, 300, 20), l1_ratios=[1.0], cv=5).fit(X, y)
n_best = np.count_nonzero(model.coef_)
print(f"smallest useful C {smallest:.4f}, best C {model.C_:.2f}, which keeps {n_best} of {len(names)} features")
assert model.converged_
display = CoefficientPathDisplay.from_estimator(model, feature_names=names)
display.figure_.set_size_inches(9, 4.5)

# %%
# The best cross-validated log loss needs about half of the features. A stronger penalty keeps far fewer, and the model
# is nearly as accurate.
C = 0.05
few = TorchLogisticRegression(C=C, l1_ratio=1).fit(X, y)
kept = few.coef_[0] != 0
print(f"C = {C}: accuracy {few.score(X, y):.3f} with {', '.join(names[kept])}")
print(f"C = {model.C_:.2f}: accuracy {np.mean(model.predict(X) == y):.3f} with {n_best} features")
assert kept.sum() < n_best / 2

# %%
# Six features measure the size of nuclei, and are nearly the same (all correlations exceed 0.9). The L1 norm alone
# keeps one of them. An elastic net, in which the L1 norm has half of the penalty, keeps all six and shares the effect
# among them.
sizes = [j for j, name in enumerate(names) if name.endswith(("radius", "perimeter", "area"))]
assert np.corrcoef(X[:, sizes].T).min() > 0.9
net = TorchLogisticRegression(C=C, l1_ratio=0.5).fit(X, y)
print(f"{'':16}   L1   elastic net")
print(*(f"{names[j]:16}{few.coef_[0, j]:6.2f}{net.coef_[0, j]:10.2f}" for j in sizes), sep="\n")
assert np.count_nonzero(few.coef_[0, sizes]) == 1
assert np.count_nonzero(net.coef_[0, sizes]) == 6

# %%
# Selection is not inference. A hundred samples of the rows, with replacement, each select features at the same C. A few
# features are in nearly every selection; others come and go, and one that is left out may only be the twin of another.
rng = np.random.default_rng(0)
samples = rng.integers(0, len(y), (100, len(y)))
selected = np.array([few.fit(X[rows], y[rows]).coef_[0] != 0 for rows in samples])
n_selections = len(np.unique(selected, axis=0))
print(f"{len(samples)} samples gave {n_selections} different selections")
assert n_selections > 25
share = selected.mean(axis=0)
ever = np.flatnonzero(share)[np.argsort(share[share > 0])]
_, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.barh(names[ever], share[ever], color=np.where(kept[ever], "#0072B2", "0.7"))
ax.set(xlabel="share of the samples in which it is selected", title="Blue: selected on all rows", xlim=(0, 1))
