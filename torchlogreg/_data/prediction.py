"""Designs for the methods that predict."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from torchlogreg._data import tuning
from torchlogreg._data.array_blocks import ArrayBlocks
from torchlogreg._data.device import Placement, available_devices
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.products import product_dtype
from torchlogreg._data.storage import dense_if_pays, design_of_stored, stays_on_host
from torchlogreg._data.validation import checked_X, is_no_table


def prediction_design(estimator, X, dtype: torch.dtype) -> InMemoryDesign:
    """Rows without labels for the methods that predict, with products in `dtype` or wider.

    X stays where it is, in its own dtype: it is cast, and moved to the device, block by block.
    """
    if is_no_table(X):
        raise ValueError("Predict the blocks of a stream one by one: for X, *_ in stream: model.predict(X).")
    X = checked_X(estimator, X, reset=False)
    X = dense_if_pays(X)
    device = X.device
    is_available = estimator.device != "auto" and str(estimator.device) in available_devices()
    if device.type == "cpu" and is_available and not stays_on_host(X):
        device = torch.device(estimator.device)
    nothing = torch.empty(len(X), 0, device=X.device)
    compute_dtype = torch.promote_types(product_dtype(X), dtype) if device.type != "mps" else torch.float32
    return design_of_stored(X, nothing, nothing, intercept=True, compute=Placement(device, compute_dtype))


def prediction_parts(estimator, X, dtype: torch.dtype) -> tuple[int, Iterable[InMemoryDesign]]:
    """How many rows there are, and their `prediction_design`.

    That of a large array comes in parts, because checking all of it at once would copy it.
    """
    if _is_large_array(X):
        validate_data(estimator, X, reset=False, skip_check_array=True)  # so that it warns of names once
        nameless = copy.copy(estimator)
        vars(nameless).pop("feature_names_in_", None)
        return len(X), (prediction_design(nameless, part, dtype) for part, *_ in ArrayBlocks(X))
    design = prediction_design(estimator, X, dtype)
    return design.shape[0], (design,)


def _is_large_array(X) -> bool:
    is_array = isinstance(X, np.ndarray) or (isinstance(X, torch.Tensor) and X.layout == torch.strided)
    return is_array and X.ndim == 2 and X.shape[0] * X.shape[1] >= tuning.MIN_STREAMED_NUMBERS
