"""Fitted attributes: from coefficients, and onto an estimator."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from torchlogreg._data.training_data import TrainingData


def model_attributes(W: torch.Tensor, data: TrainingData, intercept: bool) -> dict[str, Any]:
    """What a model needs to predict, by attribute name, from W (1, d, K)."""
    coef = W[0].numpy(force=True).T.astype(data.dtype, order="C")  # (K, d)
    n_features = data.X.shape[1]
    return {
        **data.schema,
        "coef_": data.space.array(np.ascontiguousarray(coef[:, :n_features])),
        "intercept_": data.space.array(coef[:, -1].copy() if intercept else np.zeros(len(coef), data.dtype)),
    }


def storage_rounding(data: TrainingData) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What rounds float64 coefficients to the dtype of `coef_`; None where that is float64."""
    return _to_float32 if data.dtype == np.float32 else None


def _to_float32(W: torch.Tensor) -> torch.Tensor:
    return W.float().to(W.dtype)


def replace_attributes(
    estimator: Any, attributes: dict[str, Any], stale: Iterable[str], then: Callable[[], Any]
) -> None:
    """Set fitted attributes and delete `stale` ones that are not among them.

    If `then`, which runs callbacks, raises an error, the estimator is what it was before.
    """
    before = dict(vars(estimator))
    for name in stale:
        vars(estimator).pop(name, None)
    vars(estimator).update(attributes)
    try:
        then()
    except BaseException:
        estimator.__dict__ = before
        raise
