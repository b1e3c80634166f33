"""
Inspect a model: convergence, coefficients, penalty
===================================================

Three plots of models for one table, 569 tumours with thirty measurements each: how the solvers converge, which
measurements indicate a class, and how the penalty shrinks the coefficients.
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
# How far above its minimum is the objective after each iteration? On a logarithmic axis, a straight line means that
# each iteration closes the same fraction of the gap; Newton's method does better than that. The minimum comes from a
# fit with a very small ``tol``. For mini-batch SGD, the curve is the mean over each epoch, including its noise.
best = TorchLogisticRegression(tol=1e-12).fit(X, diagnosis).objective_
_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for solver in ("newton-cholesky", "lbfgs", "sgd"):
    model = TorchLogisticRegression(solver=solver, tol=0 if solver == "sgd" else 1e-6, max_iter=30, random_state=0)
    model.fit(X, diagnosis)
    LossCurveDisplay.from_estimator(model, ax=ax, minimum=best, name=solver)
ax.set_title("Three solvers converge to the same minimum")

# %%
# C is chosen by cross-validation with ten folds. Standardised features make coefficients comparable: red bars indicate
# a malignant tumour, blue ones a benign one.
model = TorchLogisticRegressionCV(Cs=13, cv=10, max_iter=200).fit(X, diagnosis)
display = CoefficientDisplay.from_estimator(model, max_features=12)
display.ax_.set_title(f"Benign or malignant, C = {model.C_:.2g}")
print(f"chosen C {model.C_:.3g}, cross-validated log loss {-model.scores_.mean(axis=0).max():.4f}")

# %%
# The same coefficients for each C, averaged over the folds. On the left, the penalty shrinks them to zero. On the
# right, coefficients of correlated measurements grow with opposite signs, so that a single one says little about a
# tumour.
display = CoefficientPathDisplay.from_estimator(model)
display.figure_.set_size_inches(8, 4.5)
display.ax_.set_title("Coefficients against C")
