"""
What autograd does
==================

Leaves, a gradient for many losses, gradients that pile up, and derivatives of derivatives: what ``torch.autograd`` has
to offer, each on the loss of logistic regression, and what each has to do with ``fit``.
"""

import matplotlib.pyplot as plt
import torch

from torchlogreg import TorchLogisticRegression

torch.set_num_threads(1)  # so few rows do not repay a second thread
torch.manual_seed(10)
X = torch.cat([torch.randn(100, 2) + 2.7, torch.randn(100, 2) - 0.7]).double()  # two clouds
A, y = torch.column_stack([X, torch.ones(200)]), torch.tensor([0.0, 1.0]).repeat_interleave(100).double()


def losses_of(w):
    """Return log(1 + exp(z)) - y z of each row, without overflow. The last weight is the intercept."""
    z = A @ w
    return torch.logaddexp(z, torch.zeros_like(z)) - y * z


# %%
# **Leaves.** ``w`` is a leaf: it was made, not computed. ``backward`` leaves gradients in leaves only. What it finds is
# what paper and pencil find: the mean of (p - y) x.
w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
losses = losses_of(w)
losses.mean().backward()
assert (w.is_leaf, losses.is_leaf) == (True, False)
assert torch.allclose(w.grad, A.T @ (torch.sigmoid(A @ w) - y) / 200, rtol=0, atol=1e-12)

# %%
# **A gradient for many losses.** A vector has no one gradient, so ``backward`` asks for a weight for each entry and
# finds the gradient of their weighted sum. That is what ``sample_weight`` means to ``fit``. ``grad`` returns the same.
weights = torch.linspace(0, 2, 200, dtype=torch.float64)
before, (g,) = w.grad.clone(), torch.autograd.grad(weights @ losses_of(w), w)
losses_of(w).backward(gradient=weights)
assert torch.allclose(w.grad, before + g, rtol=0, atol=1e-12)


# %%
# The last line found a sum: **gradients pile up**, for ``backward`` adds to what is there. A loop that never zeroes
# them takes the steps of a momentum of 1: a ball without friction, past the minimum, and back, and past it.
def descend(*, forget=False, momentum=0.0):
    """Take 300 steps on the mean plus the penalty for C = 0.05; the objective before each."""
    w, curve = torch.zeros(3, dtype=torch.float64, requires_grad=True), []
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    for _ in range(300):
        objective = losses_of(w).mean() + w[:2] @ w[:2] / (2 * 0.05 * 200)
        objective.backward()
        optimizer.step()
        curve.append(objective.item())
        if not forget:
            optimizer.zero_grad()
    return torch.tensor(curve)


forgotten, zeroed = descend(forget=True), descend()
assert torch.allclose(forgotten, descend(momentum=1.0), rtol=1e-9)
best = TorchLogisticRegression(C=0.05, tol=1e-12).fit(X, y).objective_
print(f"above the minimum after 300 steps: {zeroed[-1] - best:.1e} zeroed, {forgotten[-50:].max() - best:.1e} not")

_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
ax.plot(forgotten - best, c="#D55E00", lw=2, label="never zeroed")
ax.plot(zeroed - best, c="#0072B2", lw=2, label="zeroed")
ax.set(xlabel="step", ylabel="objective above its minimum", title="Gradients that pile up", yscale="log")
ax.grid(alpha=0.3), ax.legend()

# %%
# **Derivatives of derivatives.** With ``create_graph=True`` a gradient has a graph of its own, and has derivatives. At
# even odds the loss curves by 1/4, and nowhere more. :doc:`plot_autograd_newton` makes use of curvature.
z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(torch.logaddexp(z, 0 * z).sum(), z, create_graph=True)
(curvature,) = torch.autograd.grad(slope.sum(), z)
print("curvature of log(1 + exp(z)):", *(f"{c:.3f}" for c in curvature))
assert curvature.max() == curvature[3] == 0.25
