"""Weighted second moments of the rows of a sparse X, and their inner products, in float64.

They come from sparse products where X is sparse enough, otherwise from dense pieces of X that stay in cache.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import numpy as np
import torch
from scipy.sparse import diags_array, hstack

from torchlogreg._data import tuning
from torchlogreg._data.blocking import block_numbers, rows_per_block, slices_of_size
from torchlogreg._data.csr_tensor import CSR, CSRTensor
from torchlogreg._data.products import csr_product


def is_sparse_enough(X: CSRTensor) -> bool:
    """Whether sparse products give second moments sooner than dense pieces of X."""
    return X.numel() < tuning.MAX_SPARSE_GRAM_DENSITY * X.shape[0] * X.shape[1]


def gram(X: CSRTensor, weight: torch.Tensor, intercept: bool, size: int) -> torch.Tensor:
    """What `gram.gram` returns, from sparse products of `size` rows at a time."""
    pieces = list(_with_ones(X, intercept, size))
    out = [sum((X.T @ (diags_array(w[rows]) @ X)).toarray() for rows, X in pieces) for w in weight.double().T.numpy()]
    return torch.from_numpy(np.stack(out))


def gram_of_copies(X: CSRTensor, factor: torch.Tensor, intercept: bool, size: int) -> torch.Tensor:
    """What `gram.gram_of_copies` returns, from sparse products of `size` rows at a time."""
    pieces = list(_with_ones(X, intercept, size))
    out = []
    for f in factor.double().unbind(1):
        total = 0.0
        for rows, piece in pieces:
            copies = hstack([diags_array(f[rows, k].numpy()) @ piece for k in range(f.shape[1])], format="csr")
            total = total + (copies.T @ copies).toarray()
        out.append(torch.from_numpy(total))
    return torch.stack(out)


def gram_of_dense_pieces(
    kernel: Callable[..., torch.Tensor], X: CSRTensor, values: torch.Tensor, intercept: bool, dtype: torch.dtype
) -> torch.Tensor:
    """The sum of a kernel of `gram` over dense pieces of X in `dtype`; `values` are its weights or factors."""
    numbers = block_numbers(X.device)
    rows = slices_of_size(len(X), rows_per_block(tuning.CPU_BLOCK_NUMBERS, X.shape[1]))
    return reduce(add, (kernel(X[r].to(dtype=dtype).dense(), values[r], intercept, numbers).double() for r in rows))


def _with_ones(X: CSRTensor, intercept: bool, size: int) -> Iterator[tuple[slice, CSR]]:
    """Slices of `size` rows and their X in float64, with the column of ones."""
    for rows in slices_of_size(len(X), size):
        piece = X[rows].to(dtype=torch.float64).csr
        yield rows, hstack([piece, np.ones((piece.shape[0], 1))], format="csr") if intercept else piece


def gram_diagonal(X: CSRTensor, weight: torch.Tensor, intercept: bool) -> torch.Tensor:
    """The diagonals of `gram`: (n, M) -> (M, d)."""
    out = torch.from_numpy(csr_product(X.square().transposed, weight.to(X.dtype).numpy())).double()
    return torch.cat([out, weight.sum(dim=0, dtype=out.dtype)[None]]).T if intercept else out.T


def inner_products(X: CSRTensor) -> torch.Tensor:
    """X X' (n, n); an X in another dtype is upcast in parts."""
    n = len(X)
    size = n if X.dtype == torch.float64 else -(-n // tuning.UPCAST_PARTS)
    pieces = list(slices_of_size(n, size))
    out = np.zeros((n, n))
    for i in pieces:
        left = X[i].to(dtype=torch.float64).csr
        for j in pieces:
            out[i, j] = (left @ X[j].to(dtype=torch.float64).csr.T).toarray()
    return torch.from_numpy(out)
