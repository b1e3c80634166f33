"""
Softmax on images
=================

Ten digits, 784 pixels, mini-batches of 64: the loop over a ``DataLoader``, then the estimator. The data moves to its
device once, not batch by batch; and ``score`` cannot count wrongly.
"""

import os
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from torchlogreg import CoefficientDisplay, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

if "TORCHLOGREG_DATA" in os.environ:
    X, y, X_test, y_test = fetch_mnist()
else:
    print("TORCHLOGREG_DATA is not set: the small digits of scikit-learn (8 x 8 pixels) instead of MNIST")
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split((X / 16).astype(np.float32), y, random_state=0)

# %%
# One epoch by hand. Cross entropy takes the logits: the layer has no softmax.
start = time.perf_counter()
layer = torch.nn.Linear(X.shape[1], 10)
torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
for rows, labels in DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=64):
    loss = torch.nn.functional.cross_entropy(layer(rows), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
seconds = time.perf_counter() - start
with torch.no_grad():
    accuracy = (layer(torch.from_numpy(X_test)).argmax(dim=1).numpy() == y_test).mean()

# %%
# The same epoch as one ``fit``: the same batches in the same order, the same weights.
model = TorchSoftmaxClassifier(
    solver="sgd", C=np.inf, batch_size=64, learning_rate=0.01, momentum=0.9, shuffle=False, tol=0, max_iter=1
)
start = time.perf_counter()
model.fit(X, y)
ours = time.perf_counter() - start
print(f"one epoch by hand: test accuracy {accuracy:.4f}, {seconds:.2f} s")
print(f"one epoch by fit:  test accuracy {model.score(X_test, y_test):.4f}, {ours:.2f} s")
difference = np.abs(layer.weight.detach().numpy() - model.coef_).max()
print(f"largest difference of the weights: {difference:.1e}")
assert difference < 1e-4
assert abs(accuracy - model.score(X_test, y_test)) < 1e-3

# %%
# A few more epochs, in a new random order each.
start = time.perf_counter()
model.set_params(shuffle=True, max_iter=5, random_state=0).fit(X, y)
print(
    f"5 epochs by fit: test accuracy {model.score(X_test, y_test):.4f}, {(time.perf_counter() - start) / 5:.2f} s each"
)

# %%
# The weights of a class are a picture: pixels that speak for it in red, against it in blue.
side = int(X.shape[1] ** 0.5)
CoefficientDisplay.from_estimator(model, image_shape=(side, side))
