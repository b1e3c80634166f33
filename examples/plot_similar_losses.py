"""
Three losses that look alike
============================

Which loss takes logits, and which takes probabilities? A training loop with the wrong one raises no error, it only
learns badly. This example shows what goes wrong, on scikit-learn's digits, and why it cannot happen with an estimator.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import softmax
from sklearn.datasets import load_digits
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier

torch.set_num_threads(1)  # a second thread does not pay off on so few rows
X, y = load_digits(return_X_y=True)
X, t = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)

# %%
# **Softmax before cross entropy.** ``cross_entropy`` takes logits and applies a softmax itself. A second softmax makes
# the gradient at zero ten times too small. Since probabilities differ by at most 1, the loss with ten classes also
# cannot fall below log(e + 9) - 1 = 1.46, however good the model is.
z, floor = torch.zeros(len(t), 10, requires_grad=True), np.log(np.e + 9) - 1
(once,) = torch.autograd.grad(cross_entropy(z, t), z)
(twice,) = torch.autograd.grad(cross_entropy(z.softmax(dim=1), t), z)
assert torch.allclose(twice, once / 10)
assert round(floor, 2) == 1.46
perfect = torch.nn.functional.one_hot(t, 10).float()
assert np.isclose(cross_entropy(perfect, t), floor)


def train(response):
    """Take 500 full-batch steps; return the loss before each, and the layer."""
    layer, losses = torch.nn.Linear(64, 10), []
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(500):
        loss = cross_entropy(response(layer(X)), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, layer


_, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
ax.axhline(floor, c="k", ls=":", label=f"floor with softmax twice, {floor:.2f}")
for name, response, colour in (
    ("softmax twice", lambda z: z.softmax(dim=1), "#D55E00"),
    ("logits", lambda z: z, "#0072B2"),
):
    losses, layer = train(response)
    accuracy = (layer(X).argmax(dim=1) == t).double().mean()
    print(f"{name:14} loss {losses[-1]:.3f}, accuracy {accuracy:.3f} after 500 steps")
    assert (losses[-1] > floor) == (name == "softmax twice")
    ax.plot(losses, c=colour, lw=2, label=name)
ax.set(xlabel="step", ylabel="loss", title="The same layer and the same steps"), ax.legend()

# %%
# **BCELoss or BCEWithLogitsLoss.** The first takes probabilities. At a logit of 20 the sigmoid rounds to 1 in float32.
# A row of class 0 then has the loss 100 instead of 20, and the gradient 0 instead of 1, so training never corrects it.
z, zero = torch.tensor(20.0, requires_grad=True), torch.tensor(0.0)
saturated, exact = binary_cross_entropy(torch.sigmoid(z), zero), binary_cross_entropy_with_logits(z, zero)
assert (saturated.item(), torch.autograd.grad(saturated, z)[0].item()) == (100, 0)
assert (exact.item(), torch.autograd.grad(exact, z)[0].item()) == (20, 1)

# %%
# **An estimator has one loss, and takes labels.** There is nothing to mix up: ``decision_function`` returns logits,
# ``predict_proba`` returns probabilities, and the estimator for two classes raises an error for ten.
model = TorchSoftmaxClassifier(C=100).fit(X, t)
assert np.allclose(softmax(model.decision_function(X), axis=1), model.predict_proba(X), rtol=0, atol=1e-6)
assert model.objective_ < 0.1
try:
    TorchLogisticRegression().fit(X, t)
except ValueError as error:
    print(error)
