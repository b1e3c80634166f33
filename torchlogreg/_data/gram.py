"""Weighted second moments of the rows of a dense X, and their inner products.

Every sum runs over pieces of the rows that stay in cache, or that threads take. X (n, p) comes without the intercept's
column of ones, which is written out where `intercept` says so: d = p + intercept.

Products of all pairs of columns, cached for any weights, were tried: grids of bench_cv take 0.91 to 1.10 of the time
without them.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import combinations_with_replacement
from operator import add

import torch

from torchlogreg._data import tuning
from torchlogreg._data.blocking import even_slices, slices_of_size
from torchlogreg._data.device import Placement
from torchlogreg._data.products import matrix_product
from torchlogreg._runtime.threads import in_threads, n_workers


def with_ones(X: torch.Tensor, intercept: bool) -> torch.Tensor:
    """X with the intercept's column of ones, if there is an intercept."""
    return torch.cat([X, X.new_ones(len(X), 1)], dim=1) if intercept else X


def gram(X: torch.Tensor, weight: torch.Tensor, intercept: bool, block_numbers: int) -> torch.Tensor:
    """Sums of weight_im x_i x_i' over the rows, weight >= 0, a matrix for each column m: (n, M) -> (M, d, d)."""
    n_columns, d = weight.shape[1], X.shape[1] + intercept
    if n_columns == 1:
        return gram_of_copies(X, weight.sqrt()[..., None], intercept, block_numbers)

    def product(rows):
        pieces = _scaled_copies(X[rows], weight[rows], intercept, block_numbers)
        grams = (
            (with_ones(piece, intercept).T @ copies).view(d, n_columns, d).transpose(0, 1).to(weight.dtype)
            for piece, copies in pieces
        )
        return reduce(add, grams)

    return _sum_in_threads(product, len(X), n_columns * d**2)


def gram_of_copies(X: torch.Tensor, factor: torch.Tensor, intercept: bool, block_numbers: int) -> torch.Tensor:
    """Sums of (factor_i x x_i) (factor_i x x_i)', Kronecker products: (n, B, K) -> (B, K d, K d)."""
    _, n_models, n_copies = factor.shape

    def product(rows, factor=factor):
        grams = [_gram_of_one_model(X[rows], f, intercept, block_numbers) for f in factor[rows].unbind(1)]
        return grams[0][None] if len(grams) == 1 else torch.stack(grams)

    size = (n_copies * (X.shape[1] + intercept)) ** 2
    if n_models * n_workers() * size <= tuning.MAX_PARTIAL_SUM_NUMBERS:
        return _sum_in_threads(product, len(X), n_models * size)
    groups = factor.tensor_split(min(n_models, n_workers()), dim=1)  # each thread has whole sums of its own models
    return torch.cat(in_threads(lambda group: product(slice(None), group), groups))


def _gram_of_one_model(X, factor, intercept, block_numbers):
    """The sum for one model, factor (n, K) -> (K d, K d)."""
    pieces = _scaled_copies(X, factor, intercept, block_numbers)
    return reduce(add, (matrix_product(copies.T, copies).to(factor.dtype) for _, copies in pieces))


def _scaled_copies(
    X: torch.Tensor, factor: torch.Tensor, intercept: bool, block_numbers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pieces of X, each with its copies (m, K d) scaled by the columns of factor (n, K).

    A piece stays in cache with its copies, but is larger than the matrices that are summed over the pieces.
    """
    p, n_copies = X.shape[1], factor.shape[1]
    d = p + intercept
    for rows in slices_of_size(len(X), max(2 * d, block_numbers // max(1, n_copies * d))):
        piece, f = X[rows], factor[rows].to(X.dtype)
        copies = X.new_empty(len(f), n_copies, d)
        torch.mul(f[..., None], piece[:, None], out=copies[..., :p])
        copies[..., p:] = f[..., None]
        yield piece, copies.view(len(f), -1)


def _sum_in_threads(function: Callable[[slice], torch.Tensor], n: int, size: int) -> torch.Tensor:
    """The sum of function(rows), of `size` numbers, over slices of the n rows, in threads where that pays.

    A row takes `size` multiplications.
    """
    worthwhile = n * size // tuning.MIN_PRODUCTS_PER_THREAD
    n_parts = max(1, min(n_workers(), worthwhile, tuning.MAX_PARTIAL_SUM_NUMBERS // size))
    return reduce(add, in_threads(function, even_slices(n, n_parts)))


def gram_diagonal(X: torch.Tensor, weight: torch.Tensor, intercept: bool, block_numbers: int) -> torch.Tensor:
    """The diagonals of `gram`: (n, M) -> (M, d)."""

    def product(rows):
        squares = X[rows].square()
        return (weight[rows].T.to(X.dtype) @ squares).to(weight.dtype)

    out = reduce(add, map(product, slices_of_size(len(X), max(1, block_numbers // X.shape[1]))))
    return torch.cat([out, weight.sum(dim=0)[:, None]], dim=1) if intercept else out


def inner_products(X: torch.Tensor, block_numbers: int, accumulation: Placement) -> torch.Tensor:
    """X X' (n, n), accumulated in float64 from panels of columns, tile by tile in threads."""
    n, p = X.shape
    size = p if X.dtype == accumulation.dtype else max(n, block_numbers // n)
    n_threads = min(n_workers(), max(1, n * n * p // tuning.MIN_PRODUCTS_PER_THREAD))
    tiles = list(combinations_with_replacement(even_slices(n, 2 * n_threads if n_threads > 1 else 1), 2))
    out = torch.zeros(n, n, dtype=accumulation.dtype, device=accumulation.device)
    for panel in X.split(size, dim=1):
        panel = panel.to(accumulation.device).to(accumulation.dtype)

        def add_tiles(tiles, panel=panel):
            for i, j in tiles:
                out[i, j] += matrix_product(panel[i], panel[j].T)

        in_threads(add_tiles, [tiles[k::n_threads] for k in range(n_threads)])
    # Symmetric to the last bit, which a product of a matrix and its transpose is not with every BLAS.
    for i, j in tiles:
        out[j, i] = out[i, j].T if i != j else out[i, i].tril() + out[i, i].tril(-1).T
    return out
