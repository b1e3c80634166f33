"""The coefficients that a fit starts from."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.training_data import TrainingData
from torchlogreg._data.validation import dense_coefficients
from torchlogreg._objective.losses import Loss


def start_coefficients(
    estimator: Any,
    data: TrainingData,
    loss: Loss,
    coef_init: ArrayLike | None = None,
    intercept_init: ArrayLike | None = None,
    *,
    continued: bool,
) -> torch.Tensor:
    """The coefficients to start from, (1, d, K) in float64: those of a fitted estimator if the fit is `continued`."""
    shape = (loss.n_logits, data.X.shape[1])
    coef, intercept = np.zeros(shape), np.zeros(shape[0])
    if continued and hasattr(estimator, "coef_"):
        coef, intercept = _fitted(estimator, shape, data.classes)
    if estimator.fit_intercept and data.mass is not None and np.count_nonzero(data.mass) == 1:
        # The probability of that class tends to one: the optimum is at infinity, and this is as good.
        only = torch.tensor([data.mass.argmax()], device="cpu")
        coef, intercept = np.zeros(shape), np.asarray(loss.certain_logits(only)[0])
    if coef_init is not None:
        coef = _checked(coef_init, shape, "coef_init")
    if intercept_init is not None:
        if not estimator.fit_intercept:
            raise ValueError("intercept_init was given, but fit_intercept=False.")
        intercept = _checked(intercept_init, shape[:1], "intercept_init")
    W = np.column_stack([coef, intercept]) if estimator.fit_intercept else np.asarray(coef)
    return torch.from_numpy(W.T[None].astype(np.float64))


def _fitted(estimator: Any, shape: tuple[int, int], classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`coef_` and `intercept_`, if they are of that shape and those classes."""
    coef, intercept, before = (
        np.asarray(dense_coefficients(value)) for value in (estimator.coef_, estimator.intercept_, estimator.classes_)
    )
    if coef.shape != shape or not np.array_equal(before, classes):
        raise ValueError(
            f"warm_start=True needs the classes and the number of features of the previous fit: they were "
            f"{before.tolist()} and {estimator.n_features_in_}, now they are {classes.tolist()} and {shape[1]}. Set "
            "warm_start=False to start afresh."
        )
    return coef, intercept


def _checked(values: ArrayLike, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(numpy_of(values), dtype=np.float64)
    if array.shape != shape and not (shape[0] == 1 and array.shape == shape[1:]):
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return array.reshape(shape)
