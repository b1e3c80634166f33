"""A sparse X: compressed rows on the host.

Products are scipy's, which need no second copy of X by columns (X' r scatters as quickly as X w gathers) and let other
threads run, so threads multiply parts of the rows at the same time. For 100,000 x 50,000 with 6.7 million numbers,
float64, on two Zen 4 cores, X w takes 4.0 ms and X' r 4.6 ms; torch's sparse products take 3.9 ms and, with X stored by
columns as well, 6.9 ms.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Self, final

import numpy as np
import torch
from scipy.sparse import csr_array

from torchlogreg._data import gram as dense_gram
from torchlogreg._data import sparse_gram, tuning
from torchlogreg._data.checksum import checksum
from torchlogreg._data.csr_tensor import CSRTensor, compressed
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.mini_batches import MiniBatch, SparseMiniBatch
from torchlogreg._data.products import csr_product
from torchlogreg._data.stream_statistics import checksum_of_rows, sparse_products


@final
class SparseDesign(InMemoryDesign):
    """Rows whose X is `CSRTensor`. Flat coefficients and logits are class-minor in memory, as scipy wants them."""

    X: CSRTensor

    def n_frequent_columns(self, n_logits: int) -> int:
        return n_frequent_columns(self.n_features, self.n_numbers, n_logits)

    def filled_columns(self) -> np.ndarray:
        p, csr = self.n_features, self.X.csr
        is_filled, size = np.zeros(p, dtype=bool), max(p, 2**16)
        for start in range(0, csr.nnz, size):
            is_filled[csr.indices[start : start + size]] = True
            if is_filled.sum() >= tuning.MAX_NON_EMPTY_SHARE * p:
                break
        return is_filled

    def of_filled_columns(self, is_filled: np.ndarray) -> Self:
        csr = self.X.csr
        indices = (is_filled.cumsum(dtype=csr.indices.dtype) - 1)[csr.indices]
        shape = csr.shape[0], int(is_filled.sum())
        return self._with(X=CSRTensor(compressed(csr_array, csr.data, indices, csr.indptr, shape)))

    def row_fingerprint(self) -> int:
        return checksum_of_rows(sparse_products(self.X.csr), self.y, self.sample_weights)

    def fingerprint(self) -> int:
        csr = self.X.csr
        return checksum([csr.indptr, csr.indices, csr.data, self.y, self.sample_weights])

    # --- Pieces of the rows.

    def blocks(self, n_columns: int = 1) -> Iterable[Self]:
        return self.blocks_of_size(self._rows_in(self._block_numbers, n_columns))

    def parts(self, n_parts: int, n_columns: int = 1) -> tuple[Self, ...]:
        work = max(self.n_numbers, tuning.NUMBERS_PER_LOGIT * n_columns * len(self.X))
        n_parts = max(1, min(n_parts, work // max(tuning.CPU_BLOCK_NUMBERS, self.n_features)))
        if n_parts == 1:
            return (self,)
        # Each part ends with the row after which its share of the numbers is full.
        shares = np.arange(1, n_parts) * (self.n_numbers / n_parts)
        bounds = pairwise([0, *np.searchsorted(self.X.csr.indptr, shares).tolist(), len(self.X)])
        return self.parts_at(n_parts, (slice(a, b) for a, b in bounds if a < b))

    @property
    def whole(self) -> DenseDesign:
        return self.dense().whole

    def dense(self, columns: torch.Tensor | None = None) -> DenseDesign:
        out = DenseDesign(
            self.X.dense(columns),
            self.y,
            self.sample_weights,
            intercept=self.intercept,
            compute=self.compute,
            weight_index=self.weight_index,
        )
        if self.cache is None:
            out.cache = None
        return out

    def mini_batches(self, order: torch.Tensor, size: int) -> Iterator[list[MiniBatch]]:
        for index in order.split(size):
            yield [SparseMiniBatch.of(self.X[index], self.intercept)]

    # --- The linear maps.

    def flat(self, W: torch.Tensor) -> torch.Tensor:
        n_models, d, n_logits = W.shape
        return W.to(self.compute.dtype).permute(1, 0, 2).reshape(d, n_models * n_logits).T

    def flat_matvec(self, flat: torch.Tensor) -> torch.Tensor:
        p = self.n_features
        flat = flat.to(self.X.dtype)
        eta = torch.from_numpy(csr_product(self.X.csr, flat[:, :p].T.numpy()))  # (n, B K)
        if self.intercept:
            eta += flat[:, p]
        return eta.T

    def flat_rmatvec(self, flat: torch.Tensor) -> torch.Tensor:
        out = torch.from_numpy(csr_product(self.X.transposed, flat.to(self.X.dtype).T.numpy())).double()
        return torch.cat([out, flat.sum(dim=1, dtype=out.dtype)[None]]).T if self.intercept else out.T

    # --- Second moments.

    def gram(self, weight: torch.Tensor) -> torch.Tensor:
        if not sparse_gram.is_sparse_enough(self.X):
            return self._gram_of_dense_pieces(dense_gram.gram, weight)
        return sparse_gram.gram(self.X, weight, self.intercept, self._gram_rows(weight.shape[1]))

    def gram_of_copies(self, factor: torch.Tensor) -> torch.Tensor:
        if not sparse_gram.is_sparse_enough(self.X):
            return self._gram_of_dense_pieces(dense_gram.gram_of_copies, factor)
        return sparse_gram.gram_of_copies(self.X, factor, self.intercept, self._gram_rows(factor.shape[2]))

    def gram_diagonal(self, weight: torch.Tensor) -> torch.Tensor:
        return sparse_gram.gram_diagonal(self.X, weight, self.intercept)

    def inner_products(self) -> torch.Tensor:
        return sparse_gram.inner_products(self.X)

    def squared_norms(self, scale: torch.Tensor) -> torch.Tensor:
        square = self.X.to(dtype=torch.float64).square()
        out = torch.from_numpy(csr_product(square.csr, scale[: self.n_features, None].numpy())[:, 0])
        return out + scale[-1] if self.intercept else out

    def weight_unlike(self, candidates: Self, weights: torch.Tensor) -> torch.Tensor:
        """Zero is the most common number of each column, whatever the candidates have."""
        csr = self.X.csr
        stored = weights.double().numpy()[:, np.repeat(np.arange(len(self.X)), np.diff(csr.indptr))] * (csr.data != 0)
        off = [np.bincount(csr.indices, w, minlength=self.n_features) for w in stored]
        return torch.from_numpy(np.stack(off)).expand(len(candidates.X), -1, -1)

    def _gram_of_dense_pieces(self, kernel, values: torch.Tensor) -> torch.Tensor:
        return sparse_gram.gram_of_dense_pieces(kernel, self.X, values, self.intercept, self.compute.dtype)

    def _gram_rows(self, n_copies: int) -> int:
        """How many rows make a piece as large as the sums over it, of so many scaled copies."""
        return self._rows_in(max(self._block_numbers, (n_copies * self.shape[1]) ** 2), n_copies)

    def _rows_in(self, n_numbers: int, n_columns: int) -> int:
        """How many rows hold so many numbers, their logits included."""
        row_numbers = max(1, tuning.NUMBERS_PER_LOGIT * n_columns, self.n_numbers // max(1, len(self.X)))
        return max(tuning.MIN_BLOCK_ROWS, n_numbers // row_numbers)

    @property
    def _block_numbers(self) -> int:
        size = tuning.BLOCK_NUMBERS_PER_COLUMN * self.n_features
        if self.X.dtype != self.compute.dtype:
            size = min(size, self.n_numbers // tuning.UPCAST_PARTS)
        return max(tuning.CPU_BLOCK_NUMBERS, size)


def n_frequent_columns(n_features: int, n_numbers: int, n_logits: int) -> int:
    """As many columns as have their second moments, from a sample of the rows, in the time of some three passes."""
    cube = tuning.FREQUENT_COLUMNS_CUBED_PER_NUMBER * n_logits * n_numbers
    number = min(tuning.MAX_FREQUENT_COLUMNS, max(tuning.MIN_FREQUENT_COLUMNS, cube ** (1 / 3)))
    return int(min(n_features, number))
