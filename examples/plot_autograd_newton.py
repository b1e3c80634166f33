"""
Newton's method with autograd
=============================

Gradient descent takes hundreds of steps, because it does not know how the slope will change. Second derivatives tell.
Autograd multiplies vectors by the Hessian, conjugate gradients turn these products into Newton's step, and ten steps
arrive at the estimator's coefficients.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

from torchlogreg import TorchLogisticRegression

X, y = load_breast_cancer(return_X_y=True)
A, t = torch.tensor(np.c_[scale(X), np.ones(len(X))]), torch.tensor(y)  # the last column is the intercept's


def objective(w):
    """Return the mean of log(1 + exp(z)) - y z, and the penalty for C = 1; the intercept has none."""
    z = A @ w
    return (torch.logaddexp(z, torch.zeros_like(z)) - t * z).mean() + (w[:-1] ** 2).sum() / (2 * len(t))


# %%
# ``create_graph=True`` gives the gradient g a graph of its own. The gradient of g'v is H v, and conjugate gradients
# need nothing else to solve H d = -g.
def newton(w):
    """Take one step of Newton's method; return w + d and the number of products with H."""
    (g,) = torch.autograd.grad(objective(w), w, create_graph=True)
    d, r, products = torch.zeros_like(g), -g.detach(), 0
    v, enough = r, 1e-8 * r.norm()
    while r.norm() > enough:
        (Hv,) = torch.autograd.grad(g, w, grad_outputs=v, retain_graph=True)
        a, before, products = (r @ r) / (v @ Hv), r @ r, products + 1
        d, r = d + a * v, r - a * Hv
        v = r + (r @ r) / before * v
    return (w + d).detach().requires_grad_(), products


newtons, products = [torch.zeros(31, dtype=torch.float64, requires_grad=True)], 0
for _ in range(10):
    w, more = newton(newtons[-1])
    newtons, products = [*newtons, w], products + more

# %%
# For so few features, the estimator's default solver is Newton's method as well. It computes H from closed formulas.
model = TorchLogisticRegression(C=1.0, tol=1e-12).fit(scale(X), y)
g = torch.autograd.grad(objective(w), w)[0].abs().max().item()
difference = np.abs(w.detach().numpy()[:-1] - model.coef_).max()
print(f"10 steps, {products} products with the Hessian; fit: {model.n_iter_[0]} iterations of {model.solver_}")
print(f"coefficients differ by {difference:.0e}; gradient {g:.0e}, and {model.gradient_norm_:.0e} after fit")
assert model.solver_ == "newton-cholesky"
assert difference < 1e-8 > max(g, model.gradient_norm_)

# %%
# Gradient descent has not converged after 300 steps. Newton's method about doubles the number of correct digits in each
# of its last steps. The price is about thirty products with H for each step.
assert 25 < products / 10 < 35
w = torch.zeros(31, dtype=torch.float64, requires_grad=True)
optimizer, descent = torch.optim.SGD([w], lr=0.25), []
for _ in range(300):
    optimizer.zero_grad()
    descent.append(objective(w))
    descent[-1].backward()
    optimizer.step()
gaps = [torch.stack(curve).detach() - model.objective_ for curve in (descent, [objective(w) for w in newtons])]
assert gaps[0][-1] > 1e-3
assert (gaps[1][7:9] < gaps[1][6:8] ** 1.5).all()
_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
ax.plot(range(1, 301), gaps[0], c="#0072B2", lw=2, label="gradient descent")
ax.plot(range(1, 12), gaps[1].clamp(min=1e-16), "o--", c="#D55E00", lw=2, label="Newton")
ax.set(xscale="log", yscale="log", xlabel="iteration", ylabel="objective above its minimum")
ax.set_title("First derivatives alone, and with second derivatives")
ax.grid(alpha=0.3)
ax.legend(loc="lower right")
