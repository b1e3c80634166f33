"""A sparse X on the host: compressed rows that answer what is asked of a tensor."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array

CSR = Any  # a `csr_array`, for most of whose attributes type checkers know no types


def compressed(kind, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]):
    """A `csr_array` or `csc_array` over these parts; scipy's constructor copies views of much larger arrays."""
    out = kind(shape, dtype=data.dtype)
    out.data, out.indices, out.indptr = data, indices, indptr
    return out


class CSRTensor:
    """A CSR array with a tensor's interface; `numel` counts the numbers that are stored."""

    device = torch.device("cpu")

    def __init__(self, csr: CSR):
        self.csr = csr
        self.shape: tuple[int, int] = csr.shape

    @classmethod
    def of(cls, matrix) -> "CSRTensor":
        """A CSR matrix or array, without a copy unless numbers are stored twice, which then are added."""
        csr = csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        return cls(csr)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> "CSRTensor":
        """The rows at a slice, without a copy, or at an index."""
        if not isinstance(rows, slice):
            return CSRTensor(self.csr[np.asarray(rows)])
        start, stop, _ = rows.indices(len(self))
        indptr = self.csr.indptr[start : stop + 1]
        part = slice(indptr[0], indptr[-1])
        shape = stop - start, self.shape[1]
        return CSRTensor(compressed(csr_array, self.csr.data[part], self.csr.indices[part], indptr - indptr[0], shape))

    @property
    def transposed(self) -> Any:
        """X' as a CSC array over the same memory."""
        return compressed(csc_array, self.csr.data, self.csr.indices, self.csr.indptr, (self.shape[1], self.shape[0]))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.csr.dtype == np.float32 else torch.float64

    def square(self) -> "CSRTensor":
        """The squares of the numbers; indices are shared."""
        csr = self.csr
        return CSRTensor(compressed(csr_array, np.square(csr.data), csr.indices, csr.indptr, csr.shape))

    def numel(self) -> int:
        return self.csr.nnz

    def element_size(self) -> int:
        return self.csr.dtype.itemsize

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "CSRTensor":
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(
                f"Products with a sparse X run on the CPU; device={str(device)!r} takes X.toarray() or device='cpu'."
            )
        if dtype in (None, self.dtype):
            return self
        return CSRTensor(self.csr.astype(np.float32 if dtype == torch.float32 else np.float64))

    def dense(self, columns: torch.Tensor | None = None) -> torch.Tensor:
        """The tensor of all columns, or of those at an index."""
        return torch.from_numpy((self.csr if columns is None else self.csr[:, columns.numpy()]).toarray())

    def stored(self) -> Iterator[torch.Tensor]:
        """The numbers that are stored, as one tensor of one column."""
        yield torch.from_numpy(self.csr.data)[:, None]
