"""
Why training loops are slow and report wrong accuracies
=======================================================

Readers of lessons on softmax regression report that a GPU is slower than the CPU, because almost all time is spent on
moving batches, and that the printed accuracies are wrong. Both are measured here, on scikit-learn's digits and on the
CPU that built this page; times differ on other machines. :doc:`plot_similar_losses` is about a third frequent mistake.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from torch.utils.data import DataLoader, TensorDataset

from torchlogreg import TorchSoftmaxClassifier

torch.set_num_threads(1)  # a second thread does not pay off on so few rows
X, y = load_digits(return_X_y=True)
X, t = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
loader = DataLoader(TensorDataset(X, t), batch_size=64)

# %%
# **Time for batches.** The usual loop, with a clock in it.
layer = torch.nn.Linear(64, 10)
torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
batches, arithmetic, mark = 0.0, 0.0, time.perf_counter()
for _ in range(30):
    for rows, labels in loader:
        got = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(rows), labels).backward()
        optimizer.step()
        batches, arithmetic, mark = batches + got - mark, arithmetic + time.perf_counter() - got, time.perf_counter()

# %%
# A ``DataLoader`` picks rows one by one and stacks them, in Python. A GPU has to wait for the copy as well. ``fit``
# moves the data once. It takes the same steps and finds the same weights.
settings = {"solver": "sgd", "batch_size": 64, "momentum": 0, "learning_rate": 0.5, "shuffle": False, "tol": 0}
start = time.perf_counter()
model = TorchSoftmaxClassifier(C=np.inf, max_iter=30, **settings).fit(X, t)
ours = time.perf_counter() - start
share = batches / (batches + arithmetic)
print(f"30 epochs by hand: {batches + arithmetic:.2f} s, {share:.0%} of it for batches; by fit: {ours:.2f} s")
assert np.allclose(layer.weight.detach(), model.coef_, rtol=0, atol=1e-3)

_, ax = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
ax.barh("by hand", batches, color="#E69F00", hatch="//", edgecolor="white", label="getting batches")
ax.barh("by hand", arithmetic, left=batches, color="#0072B2", label="gradients and steps")
ax.barh("fit", ours, color="#009E73", label="everything")
ax.set(xlabel="seconds", title="Time of 30 epochs"), ax.invert_yaxis(), ax.legend(loc="lower right")

# %%
# **Accuracies.** The last batch has five rows, the others 64. Four wrong ways to compute the accuracy, and ``score``.
right = np.array([(layer(rows).argmax(dim=1) == labels).sum().item() for rows, labels in loader])
sizes = np.array([len(labels) for _, labels in loader])
assert (sizes[:-1] == 64).all()
assert sizes[-1] == 5
wrong = {
    "integer division": right.sum() // sizes.sum(),
    "divided by the number of batches": right.sum() / len(sizes),
    "every batch counted as full": right.sum() / (64 * len(sizes)),
    "mean over batches": (right / sizes).mean(),
}
score = model.score(X, t)
print(*(f"{name:34}{value:8.4f}" for name, value in {**wrong, "score": score}.items()), sep="\n")
assert score == accuracy_score(y, model.predict(X)) == right.sum() / len(y)
assert min(abs(value - score) for value in wrong.values()) > 1e-4
