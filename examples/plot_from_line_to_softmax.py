"""
From a linear function to probabilities
=======================================

Logistic regression with one feature, then with the eight of the diabetes table, each as a torch loop and as one call of
``fit``. Then a deeper network, which does worse. :doc:`plot_a_line` comes before, :doc:`plot_softmax_on_images` after.
"""

import os
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from torchlogreg import ProbabilityCurveDisplay, TorchLogisticRegression
from torchlogreg.datasets import fetch_diabetes


def train(X, y, n_steps, optimizer_of):
    """Train a linear model from zero; return its weights, its intercept and the loss before the last step."""
    w, b = (torch.zeros(size, dtype=X.dtype, requires_grad=True) for size in (X.shape[1], 1))
    optimizer = optimizer_of([w, b])

    def closure():
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(X @ w + b, y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(n_steps)]
    return [*w.tolist(), b.item(), losses[-1]]


def compare(title, theirs, ours, atol=1e-6):
    """Print the numbers of the loop above those of the estimator."""
    print(title, "\n  loop", *(f"{v:10.6f}" for v in theirs), "\n  fit ", *(f"{v:10.6f}" for v in ours))
    assert np.allclose(theirs, ours, rtol=0, atol=atol)


# %%
# One feature, two classes: 500 steps on the mean loss, then a prediction at 0.5 and at 7.
x, y = torch.tensor([[0.6], [1.0], [3.5], [4.0]]), torch.tensor([0.0, 0.0, 1.0, 1.0])
theirs = train(x, y, 500, partial(torch.optim.SGD, lr=0.01))
settings = {"solver": "sgd", "batch_size": None, "momentum": 0, "learning_rate": 0.01, "tol": 0, "max_iter": 500}
model = TorchLogisticRegression(C=np.inf, **settings).fit(x, y)
compare("one feature: w, b, loss", theirs, [*model.coef_[0], *model.intercept_, model.loss_curve_[-1]], atol=1e-5)
assert model.predict([[0.5], [7.0]]).tolist() == [0, 1]
ProbabilityCurveDisplay.from_estimator(model, x, y, grid=np.linspace(0, 7, 101)).ax_.set_title("Probability of class 1")

# %%
# Eight features. Both solvers run until they reach the optimum, and neither needs a learning rate.
X, y = 20 * load_diabetes().data[:, :8], (load_diabetes().target > 160).astype(int)  # scikit-learn's table
if "TORCHLOGREG_DATA" in os.environ:
    X, y = fetch_diabetes()  # the table of the lesson
lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=0)
theirs = train(torch.tensor(X), torch.tensor(y).double(), 20, lbfgs)
model = TorchLogisticRegression(C=np.inf, tol=1e-9).fit(X, y)
compare("diabetes: w, b, loss", theirs, [*model.coef_[0], *model.intercept_, model.objective_])
print(f"mean loss {model.objective_:.8f}, accuracy {model.score(X, y):.6f}")
if "TORCHLOGREG_DATA" in os.environ:
    assert np.allclose([model.objective_, model.score(X, y)], [0.47167073, 0.769433], rtol=0, atol=1e-6)

# %%
# Three layers could represent more, but after 100 steps of 0.1 they still predict the share of positive rows for all.
torch.manual_seed(0), torch.set_num_threads(1)
features, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(y).float()[:, None]
sizes = ((8, 6), (6, 4), (4, 1))
deep = torch.nn.Sequential(*(layer for size in sizes for layer in (torch.nn.Linear(*size), torch.nn.Sigmoid())))
optimizer = torch.optim.SGD(deep.parameters(), lr=0.1)
for _ in range(100):
    optimizer.zero_grad()
    (loss := binary_cross_entropy(deep(features), labels)).backward()
    optimizer.step()
same = log_loss(y, np.full(len(y), y.mean()))
print(f"three layers: mean loss {loss:.3f}; the same probability for all: {same:.3f}")
assert abs(loss.item() - same) < 0.02
