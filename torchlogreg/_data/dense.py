"""A dense X: a tensor of any dtype on any device."""

from collections.abc import Iterable, Iterator
from typing import Self, final

import numpy as np
import torch

from torchlogreg._data import gram as dense_gram
from torchlogreg._data import tuning
from torchlogreg._data.blocking import block_numbers, even_slices, most_rows_per_block, rows_per_block
from torchlogreg._data.checksum import checksum
from torchlogreg._data.device import widest_dtype
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.mini_batches import DenseMiniBatch, MiniBatch
from torchlogreg._data.products import PRODUCT_DTYPES, numpy_dot
from torchlogreg._data.stream_statistics import checksum_of_rows, host_products


@final
class DenseDesign(InMemoryDesign):
    """Rows whose X is a tensor. Flat coefficients and logits are class-major in memory, as products want them."""

    X: torch.Tensor
    _whole: "DenseDesign | None" = None

    def n_frequent_columns(self, n_logits: int) -> int:  # noqa: ARG002 - no column is nearly empty
        return 0

    def filled_columns(self) -> None:
        return None

    def of_filled_columns(self, is_filled: np.ndarray) -> Self:
        raise NotImplementedError  # no column is left out

    def row_fingerprint(self) -> int:
        return checksum_of_rows(host_products(self.X.cpu()), self.y, self.sample_weights)

    def fingerprint(self) -> int:
        panels = self.X.split(max(1, tuning.CPU_BLOCK_NUMBERS // self.n_features))
        return checksum([*panels, self.y, self.sample_weights])

    # --- Pieces of the rows.

    def blocks(self, n_columns: int = 1) -> "Iterable[DenseDesign]":
        size = rows_per_block(self._block_numbers, self._row_numbers(n_columns))
        size = min(size, most_rows_per_block(len(self.X)))
        return (self.whole,) if len(self.X) <= size else self.blocks_of_size(size)

    def parts(self, n_parts: int, n_columns: int = 1) -> tuple[Self, ...]:
        worthwhile = tuning.MIN_BLOCKS_PER_THREAD * self._block_numbers
        n_parts = max(1, min(n_parts, len(self.X) * self._row_numbers(n_columns) // worthwhile))
        return (self,) if n_parts == 1 else self.parts_at(n_parts, even_slices(len(self.X), n_parts))

    @property
    def whole(self) -> "DenseDesign":
        """All rows as one block, cached between passes: column-major, the column of ones written out."""
        if self._whole is None:
            cache = {} if self.cache is None else self.cache
            if "whole" not in cache:
                X = self.cast(slice(None)).X.T
                if self.intercept:
                    X = torch.cat([X, X.new_ones(1, X.shape[1])])
                cache["whole"] = X.contiguous().T
            X = cache["whole"]
            y, sample_weights = self.y.to(X.device), self.sample_weights.to(X.device)
            self._whole = self._with(X=X, y=y, sample_weights=sample_weights, intercept=False)
            self._whole.cache = self.cache
        return self._whole

    def dense(self, columns: torch.Tensor | None = None) -> "DenseDesign":
        if columns is None:
            return self
        if self.X.device.type == "cpu" and self.X.dtype in PRODUCT_DTYPES:  # NumPy takes a quarter of torch's time
            return self._with(X=torch.from_numpy(self.X.numpy()[:, columns.numpy()]))
        return self._with(X=self.X[:, columns])

    def mini_batches(self, order: torch.Tensor, size: int) -> Iterator[list[MiniBatch]]:
        """Mini-batches of the rows in `order`, views of several that are gathered together."""
        n_gathered, dtype = size * max(1, tuning.GATHERED_ROWS // size), self.compute.dtype
        buffer = torch.ones(min(n_gathered, len(order)), self.shape[1], dtype=dtype, device=self.device)
        for index in order.split(n_gathered):
            rows = buffer[: len(index)]
            if self.X.dtype == dtype:
                torch.index_select(self.X, 0, index, out=rows[:, : self.n_features])
            else:
                rows[:, : self.n_features] = self.X.index_select(0, index)
            yield [DenseMiniBatch(X) for X in rows.split(size)]

    # --- The linear maps.

    def flat(self, W: torch.Tensor) -> torch.Tensor:
        return W.mT.reshape(-1, W.shape[1]).to(device=self.compute.device, dtype=self.compute.dtype)

    def flat_matvec(self, flat: torch.Tensor) -> torch.Tensor:
        """Logits (B K, n): class-major products are up to twice as fast as row-major ones for a few logits."""
        flat = flat.to(self.X)
        p = self.X.shape[1]
        if self._numpy_multiplies(flat):
            eta = torch.from_numpy(numpy_dot(self.X.numpy(), flat[0, :p].numpy()))[None]
            return eta.add_(flat[0, p]) if self.intercept else eta
        return torch.addmm(flat[:, p:], flat[:, :p], self.X.T) if self.intercept else flat @ self.X.T

    def flat_rmatvec(self, flat: torch.Tensor) -> torch.Tensor:
        narrow, dtype = flat.to(self.X.dtype), widest_dtype(self.X.device)
        if self._numpy_multiplies(flat):
            out = torch.from_numpy(numpy_dot(narrow[0].numpy(), self.X.numpy()))[None]
        else:
            out = narrow @ self.X
        out = out.to(dtype)
        return torch.cat([out, flat.sum(dim=1, keepdim=True, dtype=dtype)], dim=1) if self.intercept else out

    def _numpy_multiplies(self, flat: torch.Tensor) -> bool:
        """Whether NumPy multiplies: torch's matrix-vector products reach half of its bandwidth on a CPU."""
        return self.X.device.type == "cpu" and len(flat) == 1 and not flat.requires_grad

    # --- Second moments.

    def gram(self, weight: torch.Tensor) -> torch.Tensor:
        return self.to_accumulation(dense_gram.gram(self.X, weight, self.intercept, self._block_numbers))

    def gram_of_copies(self, factor: torch.Tensor) -> torch.Tensor:
        return self.to_accumulation(dense_gram.gram_of_copies(self.X, factor, self.intercept, self._block_numbers))

    def gram_diagonal(self, weight: torch.Tensor) -> torch.Tensor:
        return self.to_accumulation(dense_gram.gram_diagonal(self.X, weight, self.intercept, self._block_numbers))

    def inner_products(self) -> torch.Tensor:
        return dense_gram.inner_products(self.X, self._block_numbers, self.accumulation)

    def squared_norms(self, scale: torch.Tensor) -> torch.Tensor:
        square = self.X.to(widest_dtype(self.X.device)).square()
        scale = scale.to(square)
        return square @ scale[: self.n_features] + (scale[-1] if self.intercept else 0.0)

    def weight_unlike(self, candidates: Self, weights: torch.Tensor) -> torch.Tensor:
        out = weights.new_zeros(len(candidates.X), len(weights), self.n_features)
        size = tuning.COMPARED_ROWS
        for x, w in zip(self.X.split(size), weights.split(size, dim=1), strict=True):
            for total, row in zip(out, candidates.X, strict=True):
                total += w @ (x != row).to(w)
        return out

    @property
    def _block_numbers(self) -> int:
        return block_numbers(self.compute.device)

    def _row_numbers(self, n_columns: int) -> int:
        """Numbers that a row and its logits count as."""
        return max(self.n_features, tuning.NUMBERS_PER_LOGIT * n_columns)
