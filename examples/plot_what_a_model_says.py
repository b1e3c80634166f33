"""
What a model says
=================

Three pictures of one table, 569 tumours with thirty measurements each: how the solvers get to the optimum, which
measurements speak for a class, and how the penalty holds them back.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
)

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
diagnosis = y.map({0: "malignant", 1: "benign"})
X = StandardScaler().set_output(transform="pandas").fit_transform(X)

# %%
# How far above its minimum is the objective after each iteration? On a logarithmic axis a straight line means that each
# one closes the same share of the gap; Newton's method does better than that. The measure is a fit to the last digit.
# The curve of mini-batches is a mean over each epoch, noise included.
best = TorchLogisticRegression(tol=1e-12).fit(X, diagnosis).objective_
_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for solver in ("newton-cholesky", "lbfgs", "sgd"):
    model = TorchLogisticRegression(solver=solver, tol=0 if solver == "sgd" else 1e-6, max_iter=30, random_state=0)
    model.fit(X, diagnosis)
    LossCurveDisplay.from_estimator(model, ax=ax, minimum=best, name=solver)
ax.set_title("Three ways to the same minimum")

# %%
# Ten folds' worth of models choose C. Standardised features make coefficients comparable: red bars speak for a
# malignant tumour, blue ones for a benign one.
model = TorchLogisticRegressionCV(Cs=13, cv=10, max_iter=200).fit(X, diagnosis)
display = CoefficientDisplay.from_estimator(model, max_features=12)
display.ax_.set_title(f"Benign or malignant, C = {model.C_:.2g}")
print(f"chosen C {model.C_:.3g}, cross-validated log loss {-model.scores_.mean(axis=0).max():.4f}")

# %%
# The same coefficients, means over the folds, for each C. To the left the penalty presses them to zero; to the right
# correlated measurements play against each other, and the largest ones say little about a tumour.
display = CoefficientPathDisplay.from_estimator(model)
display.figure_.set_size_inches(8, 4.5)
display.ax_.set_title("What the penalty holds back")
