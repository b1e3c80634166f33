"""The two real data sets of the examples, benchmarks and tests, from a local folder or from OpenML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
from sklearn.datasets import fetch_openml

FOLDER_VARIABLE = "TORCHLOGREG_DATA"


class Images(NamedTuple):
    """MNIST with its official split; pixels in [0, 1]."""

    X_train: np.ndarray  # (60000, 784) float32
    y_train: np.ndarray  # (60000,) int64
    X_test: np.ndarray  # (10000, 784) float32
    y_test: np.ndarray  # (10000,) int64


def fetch_mnist() -> Images:
    """Load the MNIST digits.

    They come from ``mnist.npz`` in the folder that the environment variable ``TORCHLOGREG_DATA`` names or, if it is
    not set, from OpenML (``mnist_784``), which needs a network once. A printed line says which of the two it was.

    Returns
    -------
    images : Images
        Named tuple of ``X_train`` (60000, 784), ``y_train``, ``X_test`` (10000, 784) and ``y_test``; pixels are
        float32 in [0, 1], labels int64.

    References
    ----------
    .. [1] Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits.

    Examples
    --------
    >>> from torchlogreg.datasets import fetch_mnist
    >>> X_train, y_train, X_test, y_test = fetch_mnist()  # doctest: +SKIP
    """
    path = _local("mnist.npz")
    if path:
        with np.load(path) as file:
            arrays = [file[name] for name in ("X_train", "y_train", "X_test", "y_test")]
    else:
        X, y = _download("mnist_784")
        arrays = [X[:60000], y[:60000], X[60000:], y[60000:]]
    X_train, y_train, X_test, y_test = arrays
    return Images(_pixels(X_train), y_train.astype(np.int64), _pixels(X_test), y_test.astype(np.int64))


def fetch_diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Load the Pima diabetes table.

    It comes from ``diabetes.csv.gz`` in the folder that the environment variable ``TORCHLOGREG_DATA`` names (759 rows,
    features scaled to [-1, 1]) or, if it is not set, from OpenML (``diabetes`` version 1: 768 rows, not scaled). A
    printed line says which of the two it was.

    Returns
    -------
    X : ndarray of shape (n_samples, 8)
        Features, float64.

    y : ndarray of shape (n_samples,)
        Labels 0 and 1, int64, as the table has them; on OpenML, 1 is a positive test.

    Examples
    --------
    >>> from torchlogreg.datasets import fetch_diabetes
    >>> X, y = fetch_diabetes()  # doctest: +SKIP
    """
    path = _local("diabetes.csv.gz")
    if path:
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    X, y = _download("diabetes")
    return X.astype(np.float64), (y == "tested_positive").astype(np.int64)


def _local(name: str) -> Path | None:
    """Path of a file in the local folder, or None if no folder is set; says where the data comes from."""
    folder = os.environ.get(FOLDER_VARIABLE)
    print(f"{name.split('.')[0]}: {'from ' + FOLDER_VARIABLE if folder else 'from OpenML'}")
    return Path(folder) / name if folder else None


def _download(name: str) -> Any:
    try:
        return fetch_openml(name, version=1, as_frame=False, return_X_y=True)
    except URLError:
        raise OSError(f"{name} cannot be downloaded: set {FOLDER_VARIABLE} to a folder that holds the data.") from None


def _pixels(X: np.ndarray) -> np.ndarray:
    return X.astype(np.float32) / 255.0
