"""Designs for the methods that predict."""

import copy

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from torchlogreg._data.dense import product_dtype
from torchlogreg._data.device import Placement, available_devices
from torchlogreg._data.sparse import CSRTensor
from torchlogreg._data.streamed import ArrayBlocks
from torchlogreg._data.validation import LARGE, _checked_rows, _kind, is_no_table


def prediction_design(estimator, X, dtype):
    """Rows without labels for the methods that predict, with products in `dtype` or wider.

    X stays where it is, in its own dtype: it is cast, and moved to the device, block by block.
    """
    if is_no_table(X):
        raise ValueError("Predict the blocks of a stream one by one: for X, *_ in stream: model.predict(X).")
    X = _checked_rows(estimator, X, reset=False)
    device = X.device
    to_device = estimator.device != "auto" and str(estimator.device) in available_devices()
    if device.type == "cpu" and to_device and not isinstance(X, CSRTensor):
        device = torch.device(estimator.device)
    nothing = torch.empty(len(X), 0, device=X.device)
    wide = torch.promote_types(product_dtype(X), dtype) if device.type != "mps" else torch.float32
    return _kind(X)(X, nothing, nothing, intercept=True, products=Placement(device, wide))


def prediction_parts(estimator, X, dtype):
    """How many rows there are, and their `prediction_design`; those of a large array in parts, lest checks copy it."""
    table = isinstance(X, np.ndarray) or (isinstance(X, torch.Tensor) and X.layout == torch.strided)
    if table and X.ndim == 2 and X.shape[0] * X.shape[1] >= LARGE:
        validate_data(estimator, X, reset=False, skip_check_array=True)  # what it says of names, it says once
        nameless = copy.copy(estimator)
        vars(nameless).pop("feature_names_in_", None)
        return len(X), (prediction_design(nameless, part, dtype) for part, *_ in ArrayBlocks(X))
    rows = prediction_design(estimator, X, dtype)
    return rows.shape[0], (rows,)
