"""The design of a stream of rows, for one model.

In each pass the next block is prepared in a thread while the present one is used, as a `DenseDesign`. So two blocks, a
copy of one of them in the dtype of the fit, and the sample of the opening scan are in memory at a time.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Self, final

import numpy as np
import torch

from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.design import LocalDesign
from torchlogreg._data.device import Placement, copied_to, widest_dtype
from torchlogreg._data.sample_weights import Models
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._runtime.threads import ahead


@final
class StreamedDesign(LocalDesign):
    """The rows of a scanned stream: a pass goes block by block through `chunks`.

    `loss` encodes the labels. Weights are divided by all of `divisors`, one after the other. Samples of rows come from
    the one that the opening scan has kept.
    """

    in_memory = at_hand = False
    n_passes_before = 1  # the opening scan
    weight_index = None

    def __init__(
        self, stream: ScannedStream, loss, *, intercept: bool, compute: Placement | None = None, divisors: tuple = ()
    ):
        self.stream, self.loss, self.intercept, self.divisors = stream, loss, intercept, divisors
        self.accumulation = Placement.beside(stream.device)
        self.compute = compute or Placement(stream.device, stream.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return self.stream.shape[0], self.n_features + self.intercept

    @property
    def n_features(self) -> int:
        return self.stream.shape[1]

    @property
    def n_numbers(self) -> int:
        return self.stream.numel()

    @property
    def n_bytes(self) -> int:
        return self.stream.n_block_bytes

    @property
    def n_weightings(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return self.stream.device

    def n_frequent_columns(self, n_logits: int) -> int:  # noqa: ARG002 - blocks are dense
        return 0

    def filled_columns(self) -> None:
        return None

    def of_filled_columns(self, is_filled: np.ndarray) -> Self:
        raise NotImplementedError  # no column is left out

    def row_fingerprint(self) -> int:
        return self.stream.checksum

    def fingerprint(self) -> int:
        return self.stream.fingerprint()

    # --- The same rows in another way.

    def exact(self) -> Self:
        return self if self.is_exact else self._with(compute=self.accumulation)

    def in_float64(self) -> Self:
        return self._with(stream=self.stream.in_float64(), compute=self.accumulation)

    def as_sample(self, *, spread: bool) -> Self:  # noqa: ARG002
        return self  # blocks are cast as they come

    def select(self, models: Models) -> Self:  # noqa: ARG002 - there is one model
        return self

    # --- Weights.

    def largest_weight(self) -> torch.Tensor:
        return self._divided(torch.from_numpy((self.stream.peak * self.stream.factor).max(keepdims=True)))

    def total_weight(self) -> torch.Tensor:
        mass = torch.from_numpy(self.stream.mass * self.stream.factor)[:, None]
        return self._divided(mass).sum(dim=0)

    def divided(self, by: torch.Tensor) -> Self:
        return self._with(divisors=(*self.divisors, by.cpu().double()))

    def _divided(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` divided by all divisors; a view of a single number stays such a view."""
        n, is_one_number = len(weight), weight.stride(0) == 0
        weight = weight[:1] if is_one_number else weight
        for by in self.divisors:
            weight = weight / by
        return weight.expand(n) if is_one_number else weight

    # --- Passes over the data.

    def chunks(self, size: int = 1) -> Iterator[DenseDesign]:
        for X, codes, weight in ahead(self.stream.blocks(size)):
            if weight is None:
                weight = torch.ones(1, dtype=torch.float64, device="cpu").expand(len(codes))
            else:
                weight = torch.tensor(weight, device="cpu")
            yield self._design(X, codes, self._divided(weight), self.compute)
            del X, codes, weight

    def blocks(self, n_columns: int = 1) -> Iterator[DenseDesign]:
        for chunk in self.chunks():
            yield from chunk.blocks(n_columns)

    # --- The sample.

    @property
    def n_samplable(self) -> int:
        """How many rows the sample has; all rows count where the others weigh nothing."""
        sampled = self.stream.sampled
        if sampled is None:
            return 0
        return self.shape[0] if sampled.is_all else len(sampled.X)

    def sample_rows(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Index, for `take`, of `size` random rows of the sample, or of as many as it has."""
        return torch.randperm(len(self._sample.X), generator=generator, device="cpu")[:size].to(self.device)

    def draw(self, shares: Any, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError  # rows of a stream have no places

    def take(self, index: Models, factor: Any = 1.0, *, spread: bool = False) -> DenseDesign:  # noqa: ARG002
        return self._sample.take(index, factor)

    @cached_property
    def _sample(self) -> DenseDesign:
        """The sample in random order, its weights not divided."""
        stream, sampled = self.stream, self.stream.sampled
        if sampled is None:
            raise ValueError("The opening scan has kept no sample of the stream.")
        codes = np.searchsorted(stream.classes, sampled.labels)
        weight = torch.from_numpy(sampled.weight * stream.factor[codes])
        return self._design(sampled.X.to(stream.device, stream.dtype), codes, weight, None)

    def _design(
        self, X: torch.Tensor, codes: np.ndarray, weight: torch.Tensor, compute: Placement | None
    ) -> DenseDesign:
        """The design of some rows, on the device of the fit."""
        dtype = widest_dtype(self.device)
        X = X.to(self.device, non_blocking=True)  # pinned by the thread that has made it
        y = self.loss.targets(copied_to(self.device, torch.from_numpy(codes)), dtype)
        is_one_number = weight.stride(0) == 0
        numbers = (weight[:1] if is_one_number else weight).to(dtype)
        weight = copied_to(self.device, numbers)
        weight = weight.expand(len(codes)) if is_one_number else weight
        out = DenseDesign(X, y, weight[:, None], intercept=self.intercept, compute=compute)
        out.extreme_weights = float(numbers.min()), float(numbers.max())  # without asking the device
        return out

    def _with(self, **changes: Any) -> Self:
        """The same design with other values."""
        values = {
            "stream": self.stream,
            "loss": self.loss,
            "intercept": self.intercept,
            "compute": self.compute,
            "divisors": self.divisors,
            **changes,
        }
        return type(self)(**values)
