"""
Softmax regression on images
============================

Ten digits, 784 pixels (Fashion-MNIST has the same shapes), mini-batches of 64: first the loop over a ``DataLoader``,
then the estimator. It moves the data to the device once instead of batch by batch, and ``score`` computes the accuracy.
"""

import io
import os
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from torchlogreg import CoefficientDisplay, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

torch.set_num_threads(1)  # a second thread does not pay off on such small batches
if "TORCHLOGREG_DATA" in os.environ:
    X, y, X_test, y_test = fetch_mnist()
else:
    print("TORCHLOGREG_DATA is not set: the small digits of scikit-learn (8 x 8 pixels) instead of MNIST")
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split((X / 16).astype(np.float32), y, random_state=0)

# %%
# One epoch by hand. The layer has no softmax, because ``cross_entropy`` takes logits.
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
# The same epoch in one call of ``fit``: the same batches in the same order give the same weights.
model = TorchSoftmaxClassifier(
    solver="sgd", C=np.inf, batch_size=64, learning_rate=0.01, momentum=0.9, shuffle=False, tol=0, max_iter=1
)
start = time.perf_counter()
model.fit(X, y)
ours = time.perf_counter() - start
print(f"one epoch by hand: test accuracy {accuracy:.4f}, {seconds:.2f} s")
print(f"one epoch by fit:  test accuracy {model.score(X_test, y_test):.4f}, {ours:.2f} s")
print(f"largest difference of the weights: {np.abs(layer.weight.detach().numpy() - model.coef_).max():.1e}")
assert np.allclose(layer.weight.detach(), model.coef_, rtol=0, atol=1e-4)
assert abs(accuracy - model.score(X_test, y_test)) < 1e-3


# %%
# Five epochs in random order, with both accuracies after each of them. Then the weights are saved as a torch file.
class _Evaluate:  # a scikit-learn callback, which is given the model after each epoch
    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context): ...
    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):  # noqa: ARG002
        if context.task_name == "epoch":
            train, test = fitted_estimator.score(X, y), fitted_estimator.score(X_test, y_test)
            print(f"epoch {context.task_id + 1}: accuracy {train:.4f}, on the test images {test:.4f}")


model.set_params(shuffle=True, max_iter=5, random_state=0).set_callbacks(_Evaluate()).fit(X, y)
torch.save(model.to_torch().state_dict(), file := io.BytesIO())
print(f"{file.tell()} bytes to load with load_state_dict; fitted on: {model.device_}")

# %%
# The weights of a class form an image: red pixels are evidence for the class, blue pixels against it.
side = int(X.shape[1] ** 0.5)
CoefficientDisplay.from_estimator(model, image_shape=(side, side)).figure_.set_size_inches(7, 4)
