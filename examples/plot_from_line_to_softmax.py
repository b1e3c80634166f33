"""
From a line to probabilities
============================

Linear regression, logistic regression with one feature, then with the eight of the diabetes table: each as a torch loop
and as one ``fit``. Then the functions that bend a line. Softmax has its own example.
"""

import os
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from torchlogreg import TorchLogisticRegression
from torchlogreg.datasets import fetch_diabetes

torch.set_num_threads(1)  # so few rows do not repay a second thread


def train(X, y, loss_of, n_steps, optimizer_of):
    """Train a line from zero; its weights, its intercept and the loss that the last step found."""
    w, b = (torch.zeros(size, dtype=X.dtype, requires_grad=True) for size in (X.shape[1], 1))
    optimizer = optimizer_of([w, b])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(X @ w + b, y)
        loss.backward()
        return loss

    for _ in range(n_steps):
        loss = optimizer.step(closure)
    return [*w.tolist(), b.item(), loss.item()]


def compare(title, theirs, ours, atol=1e-6):
    """Print what the loop found above what the estimator found."""
    print(title, "\n  loop", *(f"{v:10.6f}" for v in theirs), "\n  fit ", *(f"{v:10.6f}" for v in ours))
    assert np.allclose(theirs, ours, rtol=0, atol=atol)


# %%
# Linear regression: squared loss, and scikit-learn has the answer without a loop.
x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
t = 3 * x[:, 0] - 1 + torch.sin(9 * x[:, 0])
line = LinearRegression().fit(x, t)
compare("line: w, b", train(x, t, mse_loss, 500, partial(torch.optim.SGD, lr=0.1))[:2], [*line.coef_, line.intercept_])

# %%
# One feature, two classes: 500 steps on the mean loss, then a prediction at 0.5 and at 7.
x, y = torch.tensor([[0.6], [1.0], [3.5], [4.0]]), torch.tensor([0.0, 0.0, 1.0, 1.0])
theirs = train(x, y, binary_cross_entropy_with_logits, 500, partial(torch.optim.SGD, lr=0.01))
settings = {"solver": "sgd", "batch_size": None, "momentum": 0, "learning_rate": 0.01, "tol": 0, "max_iter": 500}
model = TorchLogisticRegression(C=np.inf, **settings).fit(x, y)
compare("one feature: w, b, loss", theirs, [*model.coef_[0], *model.intercept_, model.loss_curve_[-1]], atol=1e-5)
assert model.predict([[0.5], [7.0]]).tolist() == [0, 1]

# %%
# Eight features. Both go all the way to the optimum, which needs no learning rate.
X, y = fetch_diabetes()
lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=0)
theirs = train(torch.tensor(X), torch.tensor(y).double(), binary_cross_entropy_with_logits, 20, lbfgs)
model = TorchLogisticRegression(C=np.inf, tol=1e-9).fit(X, y)
compare("diabetes: w, b, loss", theirs, [*model.coef_[0], *model.intercept_, model.objective_])
print(f"mean loss {model.objective_:.8f}, accuracy {model.score(X, y):.6f}")
if "TORCHLOGREG_DATA" in os.environ:  # the lesson's table; OpenML's has more rows, not scaled
    assert np.allclose([model.objective_, model.score(X, y)], [0.47167073, 0.769433], rtol=0, atol=1e-6)

# %%
# The functions that bend a line.
z = torch.linspace(-4, 4, 201)
fig, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
for ax, f in zip(axes, (torch.relu, torch.sigmoid, torch.tanh, torch.nn.functional.softplus), strict=True):
    ax.plot(z, f(z), c="#0072B2", lw=2.5)
    ax.set(title=f.__name__, xlabel="z"), ax.grid(alpha=0.4)
