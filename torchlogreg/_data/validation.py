"""From the containers that users pass to a checked X: the only file that knows containers.

NumPy arrays, lists, data frames, sparse matrices, tensors and streams come in; tensors and compressed rows go out.
Nothing is copied that need not be, and nothing the user owns is written to.
"""

import copy
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils.validation import validate_data

from torchlogreg._data.array_api import numpy_of, tensor_of
from torchlogreg._data.finite import check_finite, is_seen_finite
from torchlogreg._data.products import product_dtype
from torchlogreg._data.storage import StoredX, densified, stored

# What has one of these attributes is a table.
TABLE_ATTRIBUTES = "shape", "__array__", "__array_interface__", "__dataframe__", "__dlpack__"


def is_stream(X) -> bool:
    """Whether X is something to iterate over that is no table of numbers."""
    return hasattr(X, "__iter__") and not any(hasattr(X, name) for name in TABLE_ATTRIBUTES)


def is_no_table(X) -> bool:
    """Whether X can be nothing but a stream: a list may also hold the rows of a table, unless it holds tables."""
    if not isinstance(X, (list, tuple)):
        return is_stream(X)
    block = X[0] if len(X) else None
    return isinstance(block, (list, tuple)) and len(block) > 0 and len(getattr(block[0], "shape", ())) == 2


def plain(model):
    """A copy of a fitted model with dense NumPy arrays, whatever library X came from and however `coef_` is stored."""
    out = copy.copy(model)
    arrays = {name: value for name, value in vars(model).items() if name.endswith("_") and hasattr(value, "shape")}
    vars(out).update({name: dense_coefficients(v) for name, v in arrays.items() if not isinstance(v, np.generic)})
    return out


def dense_coefficients(coef) -> np.ndarray:
    """`coef_` as NumPy's array, whether or not it was made sparse."""
    return numpy_of(densified(coef))


def checked_X(estimator, X, *, reset: bool, may_be_empty: bool = False) -> StoredX:
    """X as a finite (n, p) tensor, or `CSRTensor`; sets or checks feature names and their number.

    Only where it `may_be_empty` can it be without rows.
    """
    tensor = tensor_of(X)
    if tensor is not None:
        return checked_tensor(estimator, tensor, reset=reset, may_be_empty=may_be_empty)
    _check_columns(X)
    # scikit-learn checks pandas' dtypes alone: it would make a polars frame of float32 one of float64.
    is_single = {str(dtype) for dtype in _dtypes(X)} == {"Float32"}
    dtype = np.float32 if is_single else [np.float64, np.float32]
    least = 0 if may_be_empty else 1
    checked = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=dtype,
        accept_sparse="csr",
        ensure_min_samples=least,
        ensure_all_finite=not is_seen_finite(X),
    )
    return stored(checked)


def _dtypes(X):
    """The dtypes of a frame's columns. A pandas Series, which has no columns, has a `dtypes` that is only one."""
    return getattr(X, "dtypes", ()) if hasattr(X, "columns") else ()


def _check_columns(X):
    """Raise for columns of a frame that NumPy would make numbers of though they are none, or that it has no number for.

    A column of Python objects may hold numbers; NumPy says so if it does not.
    """

    def is_number(dtype):
        kind = getattr(dtype, "kind", None)  # pandas
        if kind is not None:
            return kind in "biufc" or str(dtype) == "object"
        return not hasattr(dtype, "is_numeric") or dtype.is_numeric() or str(dtype) == "Boolean"  # polars

    odd = [name for name, dtype in zip(getattr(X, "columns", ()), _dtypes(X), strict=False) if not is_number(dtype)]
    if odd:
        names = ", ".join(map(repr, odd[:10])) + (", ..." if len(odd) > 10 else "")
        raise ValueError(
            f"Columns that are no numbers: {names}. Encode them, with sklearn.preprocessing.OneHotEncoder in a "
            "ColumnTransformer for example, or leave them out."
        )


def checked_tensor(estimator, X: torch.Tensor, *, reset: bool, may_be_empty: bool = False) -> torch.Tensor:
    """The checks of validate_data for a tensor, made where it is.

    Half precision and small integers stay as they are: `DenseDesign` casts them block by block.
    """
    if X.layout != torch.strided or X.is_quantized:
        raise TypeError(
            f"X is a tensor of layout {X.layout} and dtype {X.dtype}; pass a dense one (X.to_dense(), X.dequantize())."
        )
    if X.device.type == "meta":
        raise ValueError("X is on the meta device, where tensors have a shape but no values. Move X to a real device.")
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got a tensor of shape {tuple(X.shape)} instead. Reshape it to (n_samples, n_features)."
        )
    for count, what in zip(X.shape, ("sample(s)", "feature(s)"), strict=True):
        if not count and not (may_be_empty and what == "sample(s)"):
            raise ValueError(f"Found array with 0 {what} (shape={tuple(X.shape)}) while a minimum of 1 is required.")
    if X.is_complex():
        raise ValueError("Complex data not supported: pass the real and the imaginary parts as features.")
    tensor: Any = X
    validate_data(estimator, tensor, reset=reset, skip_check_array=True)
    X = X.resolve_neg()
    wide = product_dtype(X)
    if X.element_size() >= wide.itemsize:
        X = X.to(wide)
    if not get_config()["assume_finite"]:
        check_finite(X)
    return X
