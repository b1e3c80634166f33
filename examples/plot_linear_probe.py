"""
Train a linear probe on embeddings
==================================

What information do the embeddings of a frozen network contain? A linear probe tells. Embeddings in half precision are
used as they are, C is chosen by cross-validation, and the fitted model becomes the last layer of the network. Nothing
is downloaded here: the network is small and its filters are random. With a pretrained one, only the first block
changes.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch.nn import Conv2d, Flatten, LazyBatchNorm1d, MaxPool2d, ReLU, Sequential

from torchlogreg import ScorePathDisplay, TorchSoftmaxClassifierCV

torch.set_num_threads(1)  # a second thread does not pay off on so few rows
torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
images = torch.tensor(X / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
train, test = train_test_split(np.arange(len(y)), train_size=400, stratify=y, random_state=0)


def standardised(*layers):
    """Freeze the layers, and add one that standardises their output on the training images."""
    network = Sequential(*layers, Flatten(), LazyBatchNorm1d(affine=False, momentum=None))
    with torch.no_grad():
        network(images[train])  # the statistics
    return network.eval().requires_grad_(False)


# %%
# 256 numbers in float16 for each image of 64 pixels. They stay in half precision in memory and are upcast block by
# block. The baseline is a probe on the pixels themselves.
filters = Conv2d(1, 32, 3, padding=1), ReLU(), MaxPool2d(2), Conv2d(32, 64, 3, padding=1), ReLU(), MaxPool2d(2)
networks = {"pixels": standardised(), "random filters": standardised(*filters)}
_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
accuracies = []
for (name, network), colour in zip(networks.items(), ("#0072B2", "#D55E00"), strict=True):
    E = network(images).half()
    probe = TorchSoftmaxClassifierCV(Cs=[0.01, 0.1, 1, 10], cv=3, max_iter=200).fit(E[train], y[train])
    accuracies.append((probe.predict(E[test]) == y[test]).mean())
    print(f"{name:15} {E.shape[1]:3} features in {E.dtype}, chosen C {probe.C_:g}, test accuracy {accuracies[-1]:.3f}")
    ScorePathDisplay.from_estimator(
        probe,
        ax=ax,
        line_kw={"c": colour, "label": name},
        fill_between_kw={"color": colour},
        chosen_kw={"visible": False},
    )
ax.set_title("Score against C, on pixels and on embeddings"), ax.legend(handles=ax.lines[::2], loc="lower right")
assert accuracies[1] > accuracies[0] + 0.01

# %%
# scikit-learn finds the same coefficients, from a copy of the embeddings in float64.
peer = LogisticRegression(C=probe.C_, tol=1e-6, max_iter=1000).fit(E[train].double(), y[train])
difference = np.abs(peer.coef_ - probe.coef_).max() / np.abs(peer.coef_).max()
print(f"coefficients differ by {difference:.0e} of the largest")
assert difference < 1e-2

# %%
# ``to_torch`` turns the fitted model into a layer. Together with the network it classifies images. The embeddings are
# then float32, which changes probabilities by less than 0.01.
classifier = Sequential(network, probe.to_torch())
with torch.no_grad():
    p = classifier(images[test]).numpy()
assert np.allclose(p, probe.predict_proba(E[test]), rtol=0, atol=0.01)
print(f"test accuracy of the whole network {(p.argmax(axis=1) == y[test]).mean():.3f}")
