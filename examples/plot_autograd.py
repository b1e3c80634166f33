"""
What autograd does
==================

Leaf tensors, gradients of many losses, accumulated gradients and second derivatives: the main features of
``torch.autograd``, each shown on the loss of logistic regression, with what it means for ``fit``.
"""

import matplotlib.pyplot as plt
import torch

from torchlogreg import TorchLogisticRegression

torch.set_num_threads(1)  # a second thread does not pay off on so few rows
torch.manual_seed(10)
X = torch.cat([torch.randn(100, 2) + 2.7, torch.randn(100, 2) - 0.7]).double()  # two clouds
A, y = torch.column_stack([X, torch.ones(200)]), torch.tensor([0.0, 1.0]).repeat_interleave(100).double()


def losses_of(w):
    """Return log(1 + exp(z)) - y z of each row, without overflow. The last weight is the intercept."""
    z = A @ w
    return torch.logaddexp(z, torch.zeros_like(z)) - y * z


# %%
# **Leaf tensors.** ``w`` is a leaf: it was created directly, not computed from other tensors. ``backward`` stores
# gradients in leaves only. The result is the same as by hand, the mean of (p - y) x.
w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
losses = losses_of(w)
losses.mean().backward()
assert (w.is_leaf, losses.is_leaf) == (True, False)
assert torch.allclose(w.grad, A.T @ (torch.sigmoid(A @ w) - y) / 200, rtol=0, atol=1e-12)

# %%
# **The gradient of many losses.** A vector does not have a single gradient, so ``backward`` asks for a weight for each
# entry and computes the gradient of the weighted sum. ``sample_weight`` means the same in ``fit``. ``grad`` returns it.
weights = torch.linspace(0, 2, 200, dtype=torch.float64)
before, (g,) = w.grad.clone(), torch.autograd.grad(weights @ losses_of(w), w)
losses_of(w).backward(gradient=weights)
assert torch.allclose(w.grad, before + g, rtol=0, atol=1e-12)


# %%
# The last assertion expects a sum, because **gradients accumulate**: ``backward`` adds to what is stored. A loop that
# never resets it takes the steps of momentum 1, like a ball without friction that rolls past the minimum and back.
def descend(*, forget=False, momentum=0.0):
    """Take 300 steps on the mean loss plus the penalty for C = 0.05; return the objective before each."""
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
print(f"above the minimum after 300 steps: {zeroed[-1] - best:.1e} reset, {forgotten[-50:].max() - best:.1e} not")

_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
ax.plot(forgotten - best, c="#D55E00", lw=2, label="never reset")
ax.plot(zeroed - best, c="#0072B2", lw=2, label="reset")
ax.set(xlabel="step", ylabel="objective above its minimum", title="Gradients that are never reset", yscale="log")
ax.grid(alpha=0.3), ax.legend()

# %%
# **Second derivatives.** With ``create_graph=True`` a gradient has a graph of its own and can be differentiated again.
# The curvature of the loss is largest at z = 0, where it is 1/4. :doc:`plot_autograd_newton` makes use of curvature.
z = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(torch.logaddexp(z, 0 * z).sum(), z, create_graph=True)
(curvature,) = torch.autograd.grad(slope.sum(), z)
print("curvature of log(1 + exp(z)):", *(f"{c:.3f}" for c in curvature))
assert curvature.max() == curvature[3] == 0.25
