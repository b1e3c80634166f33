"""Rows that come block by block from a source that can be iterated over again: more of them than fit in memory.

The opening scan, the first pass, finds the classes, the number of rows, their weights and a random sample. The order of
the rows may change between passes, because nothing is kept row by row; the rows themselves may not.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._data import tuning
from torchlogreg._data.products import product_dtype
from torchlogreg._data.stream_sample import StreamSample
from torchlogreg._data.stream_statistics import ROWS, StreamStatistics
from torchlogreg._data.targets import distinct
from torchlogreg._runtime.threads import under_caller_settings


class Block(NamedTuple):
    """Some rows, checked."""

    X: torch.Tensor  # (m, p) of a floating dtype
    classes: np.ndarray  # the labels that occur
    codes: np.ndarray  # (m,) index of each row's label among them
    weight: np.ndarray | None  # (m,) sample weights, all one if None


class EncodedBlock(NamedTuple):
    """Some rows in the dtype of the fit, with the codes and weights of all classes."""

    X: torch.Tensor  # (m, p)
    codes: np.ndarray  # (m,) index among the classes of the stream
    weight: np.ndarray | None  # (m,) sample weight times class weight, all one if None


class ScannedStream:
    """A stream after its opening scan; stands for X in `TrainingData`.

    `source` yields blocks in each of its iterations, which `check(block, is_known)` turns into a `Block`, or None if it
    is empty; `is_known` says whether its numbers were checked in an earlier pass.
    """

    def __init__(
        self,
        source: Iterable,
        check: Callable[[Any, bool], Block | None],
        *,
        n_sampled_bytes: int,
        seed: int | list[int],
        weightless: Collection = (),
        may_be_empty: bool = False,
    ):
        self.source, self.check = source, check
        self._fingerprint: dict[str, Any] | None = None
        statistics, sample = StreamStatistics(), StreamSample(n_sampled_bytes, seed, set(weightless))
        labels, dtypes, self.n_block_bytes = [], set(), 0
        self._reuses, before = False, None  # whether the source writes each block where the last one was
        for block in self._checked_blocks(statistics):  # not ahead of time, for that reason
            self._reuses |= before is not None and before.data_ptr() == block.X.data_ptr()
            before = block.X
            statistics.weigh(block)
            sample.add(block)
            labels.append(block.classes)
            if len(labels) > 100:
                labels = [distinct(labels)]
            dtypes.add(product_dtype(block.X))
            self.n_block_bytes = max(self.n_block_bytes, block.X.numel() * block.X.element_size())
        if before is None and not may_be_empty:
            raise ValueError("The stream is empty: it yielded no block with a row in it.")
        before = torch.empty(0, 0, dtype=torch.float64, device="cpu") if before is None else before
        self.shape, self.device = (statistics.n_rows, before.shape[1]), before.device
        self.dtype = torch.float64 if torch.float64 in dtypes or not dtypes else dtypes.pop()
        self.classes = distinct(labels) if labels else np.empty(0)
        # The total weight and the largest weight of each class.
        self.mass = np.array([statistics.mass[label] for label in self.classes.tolist()])
        self.peak = np.array([statistics.peak[label] for label in self.classes.tolist()])
        self.factor = np.ones(len(self.classes))  # the classes' weights
        self.is_weighted = statistics.is_weighted  # whether any block brought weights
        self._fingerprint, self.sampled = statistics.fingerprint, sample.rows()

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def with_classes(self, classes: np.ndarray, places: np.ndarray) -> "ScannedStream":
        """The same stream among other ones, which have all these classes together; its own are at the places."""
        out = copy(self)
        out.classes = classes
        out.mass, out.peak, out.factor = np.zeros(len(classes)), np.zeros(len(classes)), np.ones(len(classes))
        out.mass[places], out.peak[places] = self.mass, self.peak
        return out

    def in_float64(self) -> "ScannedStream":
        """The same stream, with each block cast to float64."""
        out = copy(self)
        out.dtype = torch.float64
        return out

    def fingerprint(self) -> int:
        """A checksum of all rows, whatever their order."""
        known = (self._fingerprint or {}).values()
        return crc32(repr([sorted(v.items()) if isinstance(v, dict) else v for v in known]).encode())

    @property
    def checksum(self) -> int:
        """The sum of the rows' checksums."""
        return int((self._fingerprint or {})[ROWS])

    def stored(self) -> Iterator[torch.Tensor]:
        """The numbers of X block by block."""
        return (block.X for block in self.blocks())

    def blocks(self, size: int = 1) -> Iterator[EncodedBlock]:
        """All rows in one pass, block by block, each of a multiple of `size` rows, but the last."""
        statistics, waiting, n_waiting = StreamStatistics(), [], 0
        for block in self._checked_blocks(statistics):
            n_waiting += len(block.codes)
            is_enough = n_waiting * self.shape[1] >= tuning.MAX_JOINED_BLOCK_NUMBERS and n_waiting >= size
            waiting.append(self._encoded(block, copies=self._reuses or not is_enough))
            del block
            if not is_enough:
                continue
            X, codes, weight = _joined(waiting)
            m = n_waiting - n_waiting % size
            yield EncodedBlock(X[:m], codes[:m], None if weight is None else weight[:m])
            waiting, n_waiting = [], n_waiting - m
            if n_waiting:
                rest = None if weight is None else weight[m:].copy()
                waiting = [EncodedBlock(X[m:].clone(), codes[m:].copy(), rest)]
            del X, codes, weight
        self._check_same(statistics)
        if waiting:
            yield _joined(waiting)

    def _check_same(self, statistics: StreamStatistics) -> None:
        """Raise if another pass over the stream has brought other rows than the opening scan."""
        if statistics.n_rows != self.shape[0]:
            raise _changed(f"{statistics.n_rows} rows, and had {self.shape[0]} before")
        for name, known in (self._fingerprint or {}).items():
            if statistics.fingerprint[name] != known:
                raise _changed(f"other {name} than before")

    def _checked_blocks(self, statistics: StreamStatistics) -> Iterator[Block]:
        """The blocks of one pass."""
        number, is_known = 0, self._fingerprint is not None
        try:
            for block in under_caller_settings(self.source):
                block = self.check(block, is_known)
                if block is not None:
                    statistics.add(block)
                    yield block
                block = None  # the next one takes its place
                number += 1
        except Exception as error:
            error.add_note(f"This happened in block {number} of the stream, counted from 0.")
            raise

    def _encoded(self, block: Block, copies: bool) -> EncodedBlock:
        """A block with the codes of all classes; one that `copies` X outlives what the source may write over it."""
        index = np.minimum(np.searchsorted(self.classes, block.classes), len(self.classes) - 1)
        unknown = self.classes[index] != block.classes
        if unknown.any():
            raise _changed(f"the label {block.classes[unknown][:1].tolist()[0]!r}, which it had not before")
        codes, weight = index[block.codes], block.weight
        if weight is not None or not (self.factor == 1).all():
            weight = self.factor[codes] * (1.0 if weight is None else weight)
        X = block.X.to(self.dtype, copy=copies)
        if self.device.type in ("cuda", "xpu") and X.device.type == "cpu":
            X = X.pin_memory()
        return EncodedBlock(X, codes, weight)


def _changed(what: str) -> ValueError:
    return ValueError(
        f"The stream changed between two passes: it has {what}. Each iteration over a stream must yield the same rows, "
        "in any order."
    )


def _joined(blocks: list[EncodedBlock]) -> EncodedBlock:
    """Several blocks as one."""
    if len(blocks) == 1:
        return blocks[0]
    X, codes, weight = zip(*blocks, strict=True)
    if any(w is not None for w in weight):
        weight = np.concatenate([np.ones(len(c)) if w is None else w for c, w in zip(codes, weight, strict=True)])
    else:
        weight = None
    return EncodedBlock(torch.cat(X), np.concatenate(codes), weight)
