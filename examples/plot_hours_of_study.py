"""
A probability from a single feature
===================================

Three students studied for 1, 2 and 3 hours; only the last one passed. How long should the next one study? Logistic
regression with a single feature, from a random starting point.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchlogreg import ProbabilityCurveDisplay, TorchLogisticRegression

torch.set_num_threads(1)  # a second thread does not pay off on so few rows

hours = torch.tensor([[1.0], [2.0], [3.0]])
passed = torch.tensor([0.0, 0.0, 1.0])


# %%
# By hand: a linear layer, the *sum* of the losses, and a thousand steps of ``torch.optim.SGD``.
def by_hand(layer):
    """Train the layer; return its weight and its bias."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(1000):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(hours)[:, 0], passed, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer.weight.item(), layer.bias.item()


# %%
# With the estimator, from two random starting points. It averages the loss over three rows, so the same step needs
# three times the learning rate.
model = TorchLogisticRegression(
    solver="sgd", C=np.inf, batch_size=None, momentum=0, learning_rate=0.03, tol=0, max_iter=1000
)
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
grid = np.linspace(0, 10, 201)
print(f"{'seed':>4}  {'':9}{'w':>11}{'b':>11}{'boundary in hours':>20}")
for seed, style in ((0, "-"), (1, "--")):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(1, 1)
    model.fit(hours, passed, coef_init=layer.weight.tolist(), intercept_init=layer.bias.tolist())
    ours = model.coef_.item(), model.intercept_.item()
    theirs = by_hand(layer)
    for name, (w, b) in (("by hand", theirs), ("estimator", ours)):
        print(f"{seed:4}  {name:9}{w:11.6f}{b:11.6f}{-b / w:20.6f}")
    assert np.allclose(ours, theirs, rtol=0, atol=1e-4)
    curve = ProbabilityCurveDisplay.from_estimator(
        model, hours, passed if seed else None, grid=grid, ax=ax, name=f"start {seed}", line_kw={"ls": style, "lw": 2}
    )
    assert 2.4 < curve.boundary_ < 2.5

# %%
# The probability of passing. Both runs end at nearly the same curve. A thousand steps do not reach an optimum, because
# there is none: the classes are separable, so without a penalty the curve would become steeper forever.
ax.set(xlim=(0, 10), xlabel="hours of study", ylabel="probability of passing", title="Who passes?")
