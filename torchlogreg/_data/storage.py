"""How a checked X is stored: as a tensor or as compressed rows. Only this file tells the two apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack

from torchlogreg._data import tuning
from torchlogreg._data.csr_tensor import CSRTensor, compressed
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.device import Placement
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.products import PRODUCT_DTYPES
from torchlogreg._data.sparse import SparseDesign

StoredX = torch.Tensor | CSRTensor


def stored(X) -> StoredX:
    """NumPy's array over the same memory, or scipy's CSR matrix."""
    return CSRTensor.of(X) if issparse(X) else as_tensor(X)


def dense_if_pays(X: StoredX, n_rows: int | None = None, n_stored: int | None = None) -> StoredX:
    """X, dense where that is the better way to store it, or so many rows and numbers of which it is a part."""
    if not isinstance(X, CSRTensor):
        return X
    n_rows, n_stored = len(X) if n_rows is None else n_rows, X.numel() if n_stored is None else n_stored
    return X.dense() if pays_dense(n_rows * X.shape[1], n_stored) else X


def pays_dense(n_numbers: int, n_stored: int) -> bool:
    """Whether a sparse matrix of so many numbers, of which some are stored, is better stored as a dense array."""
    return n_numbers <= tuning.MAX_SMALL_NUMBERS or n_stored >= tuning.MIN_DENSE_DENSITY * n_numbers


def design_of_stored(
    X: StoredX, y: torch.Tensor, sample_weights: torch.Tensor, *, intercept: bool, compute: Placement | None = None
) -> InMemoryDesign:
    """The design of X."""
    design = SparseDesign if isinstance(X, CSRTensor) else DenseDesign
    return design(X, y, sample_weights, intercept=intercept, compute=compute)


def joined(designs: Sequence[InMemoryDesign], places: Sequence[torch.Tensor] | None = None) -> InMemoryDesign:
    """The rows of several designs of the same kind, one after the other, or each at its places among all rows."""
    first = designs[0]
    device = first.device
    places = None if places is None else [place.to(device) for place in places]
    y = _together([design.y.to(device) for design in designs], places)
    weights = _together([design.sample_weights.to(device) for design in designs], places)
    if isinstance(first, SparseDesign):
        csr = csr_array(vstack([design.X.csr for design in designs], format="csr"))
        X: StoredX = CSRTensor(csr if places is None else csr[torch.cat(places).argsort().numpy()])
    else:
        X = _together([design.X.to(device) for design in designs], places)
    compute = Placement(device, first.compute.dtype)
    index = None if first.weight_index is None else first.weight_index.to(device)
    return type(first)(X, y, weights, intercept=first.intercept, compute=compute, weight_index=index)


def _together(parts, places):
    """Tensors as one, each at its places."""
    if places is None:
        return torch.cat(parts)
    out = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for part, place in zip(parts, places, strict=True):
        out[place] = part
    return out


def stays_on_host(X: StoredX) -> bool:
    """Whether products with X run on the host whatever device is asked for."""
    return isinstance(X, CSRTensor)


def densified(array):
    """A dense array of a sparse one; anything else as it is."""
    return array.toarray() if issparse(array) else array


def stored_numbers(X: StoredX, index: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each row at an index begins, and the columns and values of all numbers that are not zero."""
    rows = X[index.to(X.device)]
    if isinstance(rows, CSRTensor):
        csr = rows.csr.copy()
        csr.eliminate_zeros()
        return csr.indptr, csr.indices, csr.data
    table = rows.to("cpu", torch.float64).numpy()
    places = np.nonzero(table)
    return np.append(0, np.bincount(places[0], minlength=len(table)).cumsum()), places[1], table[places]


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


def n_probed_nonzeros(X: StoredX) -> tuple[int, int]:
    """How many numbers of some rows were looked at, and how many of them are not zero; none where X stays dense."""
    if isinstance(X, CSRTensor) or X.device.type != "cpu" or X.dtype not in PRODUCT_DTYPES:
        return 0, 0
    n, p = X.shape
    probed = X[np.linspace(0, n - 1, max(1, tuning.PROBED_NUMBERS // p), dtype=int)]
    return probed.numel(), int(probed.count_nonzero())


def sparsify_if_mostly_zero(X: StoredX, of_all: tuple[int, tuple[int, int]] | None = None) -> StoredX:
    """X for a fit: a sparse copy where nearly all of a dense X is zero, as indicators and word counts are.

    Of a part of the rows, it is decided by how many numbers there are `of_all`, and what was probed of them.
    """
    n_numbers = X.numel() if of_all is None else of_all[0]
    if isinstance(X, CSRTensor) or n_numbers <= tuning.MAX_SMALL_NUMBERS:
        return X
    n_seen, n_nonzero = n_probed_nonzeros(X) if of_all is None else of_all[1]
    if not n_seen or n_nonzero > tuning.MAX_SPARSE_COPY_DENSITY * n_seen:
        return X
    copy = _sparse_copy(X, X.numel() if of_all else int(tuning.MAX_SPARSE_COPY_DENSITY * n_numbers))
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
