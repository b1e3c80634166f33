"""
Activation functions, and the loss made of two of them
======================================================

relu, sigmoid, tanh and softplus, with the derivatives that autograd computes. Logistic regression needs only two of
them: its probability is a sigmoid and its loss a softplus.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import logsigmoid, softplus

from torchlogreg import TorchLogisticRegression

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
z = torch.linspace(-5, 5, 401, dtype=torch.float64, requires_grad=True)
_, axes = plt.subplots(2, 2, figsize=(6.5, 5.5), sharex=True, layout="constrained")
slopes = {}
for ax, f in zip(axes.flat, (torch.relu, torch.sigmoid, torch.tanh, softplus), strict=True):
    (slopes[f],) = torch.autograd.grad(f(z).sum(), z)
    ax.plot(z.detach(), f(z).detach(), c=BLUE, lw=2.5, label="function")
    ax.plot(z.detach(), slopes[f], "--", c=ORANGE, lw=2, label="derivative")
    ax.set(title=f.__name__), ax.grid(alpha=0.3)
axes[0, 0].legend()
axes[1, 0].set_xlabel("z"), axes[1, 1].set_xlabel("z")

# %%
# These functions are related. The derivative of softplus is the sigmoid. tanh is a stretched sigmoid. softplus is a
# smooth relu and exceeds it by at most log 2. The slope of the sigmoid is at most 1/4.
p = torch.sigmoid(z)
assert torch.allclose(slopes[softplus], p, rtol=0, atol=1e-12)
assert torch.allclose(torch.tanh(z), 2 * torch.sigmoid(2 * z) - 1, rtol=0, atol=1e-12)
assert (softplus(z) > torch.relu(z)).all()
assert (softplus(z) <= torch.relu(z) + np.log(2)).all()
assert slopes[torch.sigmoid].max() <= 0.25

# %%
# Logistic regression predicts that class 1 has the probability sigmoid(z). Its loss is minus the logarithm of the
# probability of the true class: softplus(-z) for class 1, softplus(z) for class 0. In one formula, softplus(z) - y z.
for y in (0, 1):
    loss = -torch.log(p if y else 1 - p)
    for same in (softplus(-z if y else z), softplus(z) - y * z, -logsigmoid(z if y else -z)):
        assert torch.allclose(loss, same, rtol=0, atol=1e-12)

# %%
# The derivative of softplus(z) - y z is sigmoid(z) - y, the predicted probability minus the label. So gradients never
# blow up, and a row that is predicted correctly with certainty has none. At z = 0 the loss is log 2, which is also what
# ``fit`` reports for its first epoch from zero.
model = TorchLogisticRegression(solver="sgd", batch_size=None, learning_rate=0.1, tol=0, max_iter=1)
model.fit([[-1.0], [1.0]], [0, 1])
assert np.isclose(model.loss_curve_[0], np.log(2))

# %%
# Above z = 20, torch's softplus returns z itself, with derivative 1. In float32 this makes no difference; in float64
# the result is too small by up to 2e-9. The formula written out would overflow instead. ``logaddexp(z, 0)`` and
# ``logsigmoid`` have neither problem.
steep = torch.linspace(0, 40, 401, dtype=torch.float64)
error = (softplus(steep) - torch.logaddexp(steep, torch.zeros_like(steep))).abs()
print(f"softplus, float64: largest error up to 20 {error[:201].max():.0e}, beyond {error.max():.0e}")
assert error[:201].max() < 1e-14
assert 1e-9 < error.max() < 2.1e-9
assert torch.log(1 + torch.exp(torch.tensor(100.0))) == torch.inf
assert -logsigmoid(torch.tensor(-100.0)) == 100

_, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), layout="constrained")
left.plot(z.detach(), softplus(-z).detach(), c=ORANGE, lw=2.5, label="class 1: softplus(-z)")
left.plot(z.detach(), softplus(z).detach(), "--", c=BLUE, lw=2.5, label="class 0: softplus(z)")
left.set(xlabel="z", ylabel="loss of a row", title="Loss of each class"), left.legend(loc="upper center")
right.semilogy(steep, error.clamp(min=1e-16), c=GREEN, lw=2)
right.set(xlabel="z", ylabel="absolute error", title="torch's softplus in float64")
for ax in (left, right):
    ax.grid(alpha=0.3)
