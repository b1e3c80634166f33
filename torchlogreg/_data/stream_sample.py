"""A random sample of the rows of a stream, kept by the opening scan."""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from torchlogreg._data.scanned_stream import Block


class SampledRows(NamedTuple):
    """Rows in random order."""

    X: torch.Tensor
    labels: np.ndarray
    weight: np.ndarray
    is_all: bool  # whether no other rows weigh something
    keys: np.ndarray  # the random numbers that they were chosen by, sorted


class StreamSample:
    """Random rows, without replacement, among those that weigh something: the rows with the smallest random keys.

    `weightless` are classes that weigh nothing. Between two cuts up to twice as many rows are held as the sample has,
    and up to three times as many for a moment.
    """

    def __init__(self, n_bytes: int, seed: int | list[int], weightless: Collection):
        self.n_bytes, self.weightless = n_bytes, weightless
        self.random = np.random.default_rng(seed)
        self.most = 0  # rows in the sample, known from the first block on
        self.bound, self.n_held = 2.0, 0
        self.parts = []  # (keys, X, labels, weights)

    def add(self, block: "Block") -> None:
        """Consider the rows of a block."""
        if not self.n_bytes:
            return
        row_bytes = block.X.shape[1] * block.X.element_size()
        if not self.most:
            self.most = max(1, max(self.n_bytes, len(block.X) * row_bytes) // (3 * row_bytes))
        keys = self.random.random(len(block.codes))
        index = np.flatnonzero(keys < self.bound)
        is_light = np.array([label in self.weightless for label in block.classes.tolist()])
        if is_light.any():
            index = index[~is_light[block.codes[index]]]
        if block.weight is not None:
            index = index[block.weight[index] > 0]
        if len(index) > self.most:
            index = index[np.argpartition(keys[index], self.most - 1)[: self.most]]
            self.bound = keys[index].max()
        if not len(index):
            return
        X = block.X[torch.from_numpy(index).to(block.X.device)]
        weight = np.ones(len(index)) if block.weight is None else block.weight[index]
        self.parts.append((keys[index], X, block.classes[block.codes[index]], weight))
        self.n_held += len(index)
        if self.n_held > 2 * self.most:
            self._cut()

    def rows(self) -> SampledRows | None:
        """The sample in random order; None if there are no rows in it."""
        if not self.parts:
            return None
        if self.n_held > self.most:
            self._cut()
        keys, *values = self._joined()
        self._keep(np.argsort(keys), keys, *values)
        keys, X, labels, weight = self.parts[0]
        return SampledRows(X, labels, weight, self.bound > 1, keys)

    def _cut(self):
        keys, *values = self._joined()
        index = np.argpartition(keys, self.most - 1)[: self.most]
        self.bound = keys[index].max()
        self._keep(index, keys, *values)

    def _keep(self, index, keys, X, labels, weight):
        self.parts = [(keys[index], X[torch.from_numpy(index).to(X.device)], labels[index], weight[index])]
        self.n_held = len(index)

    def _joined(self):
        keys, X, labels, weight = zip(*self.parts, strict=True)
        return np.concatenate(keys), torch.cat(X), np.concatenate(labels), np.concatenate(weight)
