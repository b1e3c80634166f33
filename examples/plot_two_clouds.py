"""
Stop training at a target accuracy
==================================

Gradient descent with momentum on two Gaussian clouds, with two callbacks: one stops as soon as the training accuracy
exceeds 0.99, the other draws the decision boundary. How do the means and offsets of the clouds change the result?
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchlogreg import TorchLogisticRegression
from torchlogreg.callbacks import EarlyStopping, LiveBoundary

torch.set_num_threads(1)  # a second thread does not pay off on so few rows

W, B = [[-0.0459, -0.4516]], [0.1329]  # the starting point
SETTINGS = {"solver": "sgd", "C": np.inf, "batch_size": None, "learning_rate": 0.01, "momentum": 0.9, "tol": 0}


def clouds(mean, bias):
    """Two hundred points, the first half around mean + bias, the second around bias - mean."""
    torch.manual_seed(10)
    centre = torch.full((100, 2), float(mean))
    X = torch.cat([torch.normal(centre, 1) + bias, torch.normal(-centre, 1) + bias])
    return X, torch.tensor([0.0, 1.0]).repeat_interleave(100)


def by_hand(X, y, n_steps, enough):
    """Descend until the accuracy after a step is more than `enough`."""
    step, accuracy, w, b = 0, 0, torch.tensor(W, requires_grad=True), torch.tensor(B, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], lr=0.01, momentum=0.9)
    while step < n_steps and accuracy <= enough:
        loss = torch.nn.functional.binary_cross_entropy_with_logits((X @ w.T + b)[:, 0], y)
        optimizer.zero_grad()  # without this line gradients accumulate
        loss.backward()
        optimizer.step()
        step, accuracy = step + 1, (((X @ w.T + b)[:, 0] > 0) == y).double().mean().item()
    return step, loss.item(), accuracy, *w[0].tolist(), b.item()


# %%
# First 991 steps without early stopping, then five settings with it. The lesson reports 991 steps; with a check after
# every step, the accuracy exceeds 0.99 at step 376 already. Each loss is the one before the last step, as in the loop.
runs = [(1.7, 1, 991, 1), *((*s, 1000, 0.99) for s in ((1.7, 1), (1, 1), (5, 1), (1.7, 5), (1.7, -1)))]
_, axes = plt.subplots(2, 3, figsize=(14, 8.4), layout="constrained")
for ax, (mean, bias, n_steps, enough) in zip(axes.flat, runs, strict=True):
    X, y = clouds(mean, bias)
    model = TorchLogisticRegression(**SETTINGS, max_iter=n_steps)
    # In a notebook or a window, `every=1` without `ax` shows every step; `path="clouds.gif"` saves an animation.
    model.set_callbacks(EarlyStopping("train_accuracy", threshold=enough), LiveBoundary(every=1000, ax=ax))
    model.fit(X, y, coef_init=W, intercept_init=B)
    assert model.history_["train_accuracy"][-1] == model.score(X, y)
    found = model.n_iter_[0], model.loss_curve_[-1], model.score(X, y), *model.coef_[0], *model.intercept_
    rows = {"by hand": by_hand(X, y, n_steps, enough), "estimator": found}
    for name, row in rows.items():
        text = "step {}: loss {:.5f}, accuracy {:.3f}\nw = ({:.4f}, {:.4f}), b = {:.4f}".format(*row)
        print(f"mean {mean}, bias {bias}, {name:9} {text}".replace("\n", ", "))
    assert np.allclose(*rows.values(), rtol=0, atol=1e-4)
    ax.set_title(f"mean {mean}, bias {bias}, stop above {enough}\n{text}")

# %%
# Clouds that are close to each other (mean 1) overlap and never reach the target. Distant ones (mean 5) are separated
# after one step. A common offset does not change how separable the clouds are, but the intercept has to compensate for
# it, which takes gradient descent many steps.
