"""
What the penalty does to the weights of pixels
==============================================

The weights of a class have one value for each pixel, so they can be shown as an image. Fitted to the optimum on few
images with a weak penalty, they look like noise. A stronger penalty gives visible shapes, and better predictions.
"""

import os

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from torchlogreg import CoefficientDisplay, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

if "TORCHLOGREG_DATA" in os.environ:
    X, y, X_test, y_test = fetch_mnist()
    X, y = X[:2000], y[:2000]
else:
    print("TORCHLOGREG_DATA is not set: the small digits of scikit-learn (8 x 8 pixels) instead of MNIST")
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split((X / 16).astype(np.float32), y, random_state=0)

# %%
# Three strengths of the penalty, each solved to the optimum, on 2000 images of MNIST. With a weak penalty (large C),
# all training images are classified correctly, but fewer test images than with the strength in the middle.
Cs = (0.001, 0.1, 10)
models = [TorchSoftmaxClassifier(C=C, max_iter=200).fit(X, y) for C in Cs]
scores = [(model.score(X, y), model.score(X_test, y_test)) for model in models]
for model, (train, test) in zip(models, scores, strict=True):
    largest = np.abs(model.coef_).max()
    print(f"C = {model.C:<6g} accuracy {train:.4f}, on test images {test:.4f}, largest weight {largest:.2f}")
    assert model.converged_
assert scores[0][0] < scores[1][0] < scores[2][0]
if "TORCHLOGREG_DATA" in os.environ:
    assert scores[2][0] == 1
    assert max(test for _, test in scores) == scores[1][1]

# %%
# Five of the classes. Red pixels are evidence for a class, blue pixels against it, white ones have no influence. Each
# row of images is scaled to its own largest weight. In the top row there are shapes. In the bottom row, the weights of
# neighbouring pixels are hardly related, which is a sign of overfitting.
side = int(X.shape[1] ** 0.5)
pictures = [model.coef_.reshape(10, side, side) for model in models]
correlations = [np.corrcoef(p[:, :, 1:].ravel(), p[:, :, :-1].ravel())[0, 1] for p in pictures]
print("correlation of neighbouring weights:", ", ".join(f"{c:.2f}" for c in correlations))
assert correlations == sorted(correlations, reverse=True) or side == 8
display = CoefficientDisplay(
    coef=np.concatenate([model.coef_[:5] / np.abs(model.coef_[:5]).max() for model in models]),
    labels=[f"{k}, C = {C:g}" for C in Cs for k in range(5)],
    image_shape=(side, side),
).plot()
display.figure_.set_size_inches(7, 5.6)
display.image_.colorbar.set_label("share of the largest weight")
