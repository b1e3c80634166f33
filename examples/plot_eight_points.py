"""
Gradient descent on eight points
================================

The first lesson in logistic regression: eight samples, a loss written out by hand, and a thousand steps of gradient
descent with autograd. Then the same thousand steps in one call of ``fit``.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchlogreg import TorchLogisticRegression

torch.set_num_threads(1)  # a second thread does not pay off on so few rows

X = np.array([[2.5, -1.2], [1.3, 2.5], [6.2, 3.6], [1.3, 4.0], [5.4, 3.4], [6.0, 2.3], [4.3, 7.2], [8.2, 3.9]])
y = np.array([0, 0, 1, 0, 1, 1, 1, 1])

# %%
# By hand: the loss is the sum of log(1 + exp(z)) - y z over the samples. (``torch.nn.functional.softplus`` would be
# less exact here, because it returns z itself above 20.)
w = torch.tensor([2.0, 2.0], dtype=torch.float64, requires_grad=True)
b = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
features, labels = torch.from_numpy(X), torch.from_numpy(y)
losses = []
for _ in range(1000):
    z = features @ w + b
    loss = (torch.log1p(torch.exp(z)) - labels * z).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in (w, b):
            parameter -= 0.01 * parameter.grad
            parameter.grad = None
    losses.append(loss.item())

# %%
# With the estimator: it averages the loss over the samples, so the same step needs eight times the learning rate.
# ``C=np.inf`` turns the penalty off, and ``batch_size=None`` uses every row in every step.
model = TorchLogisticRegression(
    solver="sgd", C=np.inf, batch_size=None, momentum=0, learning_rate=0.08, tol=0, max_iter=1000
)
model.fit(X, y, coef_init=[[2, 2]], intercept_init=[1])

# %%
# Both give the same numbers, up to rounding.
rows = [(f"loss before update {k}", losses[k], 8 * model.loss_curve_[k]) for k in (0, 1, 999)]
rows += [(f"w[{j}]", w[j].item(), model.coef_[0, j]) for j in (0, 1)] + [("b", b.item(), model.intercept_[0])]
print(f"{'':22}{'by hand':>20}{'estimator':>20}")
for name, by_hand, ours in rows:
    print(f"{name:22}{by_hand:20.14f}{ours:20.14f}")
    assert abs(by_hand - ours) < 1e-9

# %%
# The samples, and the line on which both classes have the same probability.
fig, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
for label, colour, marker in ((0, "#0072B2", "o"), (1, "#D55E00", "^")):
    ax.scatter(*X[y == label].T, s=90, c=colour, marker=marker, edgecolor="white", zorder=3, label=f"class {label}")
(slope, across), (intercept,) = model.coef_[0], model.intercept_
edge = np.array([-3.0, 9.0])
ax.plot(-(intercept + across * edge) / slope, edge, "k--", label="p = 0.5")
ax.set(xlim=(0, 9), ylim=(-2, 8), xlabel="first feature", ylabel="second feature", title="Eight points, one boundary")
ax.legend(loc="lower right")
