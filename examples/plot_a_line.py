"""
Fit a line by gradient descent
==============================

The lessons begin with linear regression on one feature. On three small tables, a thousand steps of gradient descent on
the squared loss find the same line as scikit-learn's direct solution.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_regression
from sklearn.linear_model import LinearRegression

torch.set_num_threads(1)  # a second thread does not pay off on so few rows


def by_hand(x, t):
    """Minimise the mean squared loss from zero; return the slope and the intercept."""
    w, b = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([w, b], lr=0.1)
    for _ in range(1000):
        loss = torch.nn.functional.mse_loss(x * w + b, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return w.item(), b.item()


# %%
# Three points on a line, a line with a wave on it, and a thousand points with noise.
x = np.linspace(-1, 1, 20)
X_noisy, t_noisy = make_regression(1000, 1, noise=10, random_state=0)
tables = {
    "exact": (np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])),
    "wavy": (x, 3 * x - 1 + np.sin(9 * x)),
    "noisy": (X_noisy[:, 0], t_noisy),
}
_, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, (name, (x, t)) in zip(axes, tables.items(), strict=True):
    slope, intercept = by_hand(torch.tensor(x), torch.tensor(t))
    line = LinearRegression().fit(x[:, None], t)
    print(f"{name:6} by hand {slope:10.6f} {intercept:10.6f}   solved {line.coef_[0]:10.6f} {line.intercept_:10.6f}")
    assert np.allclose([slope, intercept], [line.coef_[0], line.intercept_], rtol=0, atol=1e-6)
    ax.plot(x, slope * x + intercept, c="#D55E00", lw=2.5)
    ax.scatter(x, t, s=18, c="#0072B2", alpha=0.6, linewidth=0, zorder=3)
    ax.set(title=name, xlabel="x")

# %%
# A line is unbounded, but a probability lies between 0 and 1. :doc:`plot_from_line_to_softmax` shows how to get from
# one to the other.
