"""How a checked X is stored: as a tensor or as compressed rows. Only this file tells the two apart."""

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse

from torchlogreg._data import tuning
from torchlogreg._data.csr_tensor import CSR, CSRTensor, compressed
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.device import Placement
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.products import PRODUCT_DTYPES
from torchlogreg._data.sparse import SparseDesign

StoredX = torch.Tensor | CSRTensor


def stored(X) -> StoredX:
    """NumPy's array over the same memory, or scipy's CSR matrix as it is stored best."""
    if not issparse(X):
        return as_tensor(X)
    return torch.from_numpy(X.toarray()) if pays_dense(X) else CSRTensor.of(X)


def design_of_stored(
    X: StoredX, y: torch.Tensor, sample_weights: torch.Tensor, *, intercept: bool, compute: Placement | None = None
) -> InMemoryDesign:
    """The design of X."""
    design = SparseDesign if isinstance(X, CSRTensor) else DenseDesign
    return design(X, y, sample_weights, intercept=intercept, compute=compute)


def stays_on_host(X: StoredX) -> bool:
    """Whether products with X run on the host whatever device is asked for."""
    return isinstance(X, CSRTensor)


def densified(array):
    """A dense array of a sparse one; anything else as it is."""
    return array.toarray() if issparse(array) else array


def rows_as_csr(X: StoredX, index: torch.Tensor) -> CSR:
    """The rows at an index without stored zeros, the same however X is stored."""
    rows = X[index.to(X.device)]
    csr = rows.csr.copy() if isinstance(rows, CSRTensor) else csr_array(rows.to("cpu", torch.float64).numpy())
    csr.eliminate_zeros()
    return csr


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory; NumPy's read-only arrays and negative strides included."""
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    if array.flags.writeable:
        return torch.from_numpy(array)
    try:
        return torch.from_dlpack(array)  # from_numpy would warn
    except (BufferError, RuntimeError):
        return torch.from_numpy(array.copy())


def as_tensors(*arrays: np.ndarray | None) -> list[Any]:
    """Tensors over the same memory; None stays None."""
    return [None if array is None else as_tensor(array) for array in arrays]


def pays_dense(csr) -> bool:
    """Whether a sparse matrix is better stored as a dense array."""
    n_numbers = csr.shape[0] * csr.shape[1]
    return n_numbers <= tuning.MAX_SMALL_NUMBERS or csr.nnz >= tuning.MIN_DENSE_DENSITY * n_numbers


def sparsify_if_mostly_zero(X: StoredX) -> StoredX:
    """X for a fit: a sparse copy where nearly all of a dense X is zero, as indicators and word counts are."""
    if isinstance(X, CSRTensor) or X.device.type != "cpu" or X.dtype not in PRODUCT_DTYPES:
        return X
    if X.numel() <= tuning.MAX_SMALL_NUMBERS:
        return X
    n, p = X.shape
    probed = X[np.linspace(0, n - 1, max(1, tuning.PROBED_NUMBERS // p), dtype=int)]
    if int(probed.count_nonzero()) > tuning.MAX_SPARSE_COPY_DENSITY * probed.numel():
        return X
    copy = _sparse_copy(X, int(tuning.MAX_SPARSE_COPY_DENSITY * X.numel()))
    return X if copy is None else copy


def _sparse_copy(X: torch.Tensor, most: int) -> CSRTensor | None:
    """X as compressed rows; None if more than `most` numbers are not zero."""
    n, p = X.shape
    dtype = np.int32 if max(most, p) < 2**31 else np.int64
    data, indices, counts, left = [], [], [np.zeros(1, dtype)], most
    for rows in X.split(max(1, tuning.CPU_BLOCK_NUMBERS // p)):
        rows = np.ascontiguousarray(rows.numpy())
        is_stored = rows != 0
        places = np.flatnonzero(is_stored)
        left -= len(places)
        if left < 0:
            return None
        data.append(rows.ravel()[places])
        indices.append((places % p).astype(dtype))
        counts.append(np.count_nonzero(is_stored, axis=1).astype(dtype))
    indptr = np.concatenate(counts).cumsum(dtype=dtype)
    return CSRTensor(compressed(csr_array, np.concatenate(data), np.concatenate(indices), indptr, (n, p)))
