"""Rows that are gathered for one step of SGD, the intercept's column of ones written out.

Coefficients are flat here, (K, d).
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, hstack

from torchlogreg._data.csr_tensor import CSR, CSRTensor
from torchlogreg._data.products import csr_product


class DenseMiniBatch(NamedTuple):
    """Rows of a dense X."""

    X: torch.Tensor  # (b, d)

    def logits(self, flat: torch.Tensor) -> torch.Tensor:
        """Of the rows, (K, b)."""
        return torch.mm(flat, self.X.T)

    def add_products(self, out: torch.Tensor, residual: torch.Tensor, beta: float, alpha: float) -> None:
        """out := beta out + alpha residual X, in place, with out (K, d) and residual (K, b)."""
        out.addmm_(residual, self.X, beta=beta, alpha=alpha)


class SparseMiniBatch(NamedTuple):
    """Rows of a sparse X, without the columns that are empty in them."""

    X: CSR  # (b, u)
    columns: torch.Tensor  # (u,) index among the d columns, the intercept's as last

    @classmethod
    def of(cls, X: CSRTensor, intercept: bool) -> "SparseMiniBatch":
        """From rows of X."""
        csr = X.csr
        used, inverse = np.unique(csr.indices, return_inverse=True)
        out: CSR = csr_array((csr.data, inverse, csr.indptr), shape=(csr.shape[0], len(used)))
        if intercept:
            out = hstack([out, np.ones((out.shape[0], 1), out.dtype)], format="csr")
            used = np.append(used, csr.shape[1])
        return cls(out, torch.from_numpy(used.astype(np.int64)))

    def logits(self, flat: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(csr_product(self.X, flat[:, self.columns].T.numpy())).T

    def add_products(self, out: torch.Tensor, residual: torch.Tensor, beta: float, alpha: float) -> None:
        products = torch.from_numpy(csr_product(self.X.T, residual.T.numpy())).T
        out.mul_(beta).index_add_(1, self.columns, products, alpha=alpha)


MiniBatch = DenseMiniBatch | SparseMiniBatch
