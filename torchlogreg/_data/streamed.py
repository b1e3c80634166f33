"""Rows that come block by block from a source that can be read again: more of them than fit in memory.

The opening scan, the first read, finds the classes, the number of rows, their weights and a random sample. In each
further pass the next block is prepared in a thread while the present one is worked on, as a `DenseDesign`. So two
blocks, a copy of one of them in the dtype of the fit, and the sample are in memory at a time.
The order of the rows may change between reads, for nothing is kept row by row; the rows themselves may not.
"""

import mmap
from collections.abc import Callable, Iterable
from copy import copy
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._data.dense import DenseDesign, product_dtype
from torchlogreg._data.device import Placement
from torchlogreg._data.stream_statistics import StreamStatistics
from torchlogreg._runtime.threads import ahead, under_caller_settings

SAMPLE_BYTES = 2**25  # that the sample of rows may take, or as much as a block if that is more
SMALL_BLOCK = 2**19  # numbers up to which blocks are joined: each costs a fifth of a millisecond
MAPPED_BLOCK = 2**24  # bytes of a memory-mapped file that make a block


class Block(NamedTuple):
    """Some rows, checked."""

    X: torch.Tensor  # (m, p) of a floating dtype
    classes: np.ndarray  # the labels that occur
    codes: np.ndarray  # (m,) index of each row's label among them
    weight: np.ndarray | None  # (m,) sample weights, all one if None


class _Sample:
    """Rows at random, without replacement, among those that weigh something: those with the smallest of random keys."""

    def __init__(self, n_bytes, seed, weightless):
        self.n_bytes, self.weightless = n_bytes, weightless
        self.random = np.random.default_rng(seed)
        self.most = None  # rows in the sample
        self.bound, self.n_held = 2.0, 0
        self.parts = []  # (keys, X, labels, weights)

    def add(self, block):
        if not self.n_bytes:
            return
        if self.most is None:
            n_bytes = max(self.n_bytes, block.X.numel() * block.X.element_size())
            # Up to twice as many are held, and up to thrice for a moment.
            self.most = max(1, n_bytes // (3 * block.X.shape[1] * block.X.element_size()))
        keys = self.random.random(len(block.codes))
        index = np.flatnonzero(keys < self.bound)
        light = np.array([label in self.weightless for label in block.classes.tolist()])
        if light.any():
            index = index[~light[block.codes[index]]]
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

    def _cut(self):
        keys, X, labels, weight = self._joined()
        index = np.argpartition(keys, self.most - 1)[: self.most]
        self.bound = keys[index].max()
        self._keep(index, keys, X, labels, weight)

    def _keep(self, index, keys, X, labels, weight):
        self.parts = [(keys[index], X[torch.from_numpy(index).to(X.device)], labels[index], weight[index])]
        self.n_held = len(index)

    def _joined(self):
        keys, X, labels, weight = zip(*self.parts, strict=True)
        return np.concatenate(keys), torch.cat(X), np.concatenate(labels), np.concatenate(weight)

    def sampled(self):
        """X, labels and weights in random order, and whether there are no other rows that weigh something."""
        if not self.parts:
            return None
        if self.n_held > self.most:
            self._cut()
        keys, *values = self._joined()
        self._keep(np.argsort(keys), keys, *values)
        return (*self.parts[0][1:], self.bound > 1)


class ScannedStream:
    """A stream after its opening scan; stands for X in `TrainingData`.

    `source` yields blocks in each of its iterations, which `read(block, checked)` turns into a `Block`, or None if it
    is empty; `checked` says whether its numbers have been looked at before.
    """

    def __init__(self, source: Iterable, read: Callable, *, n_sampled_bytes, seed, weightless=()):
        self.source, self.read = source, read
        tally, sample = StreamStatistics(), _Sample(n_sampled_bytes, seed, set(weightless))
        labels, dtypes, self.n_block_bytes, self._fingerprint = [], set(), 0, None
        self._reuses, before = False, None  # whether the source writes each block where the last one was
        for block in self._read(tally):  # not ahead of time, for that reason
            self._reuses |= before is not None and before.data_ptr() == block.X.data_ptr()
            before = block.X
            tally.weigh(block)
            sample.add(block)
            labels.append(block.classes)
            if len(labels) > 100:
                labels = [_distinct(labels)]
            dtypes.add(product_dtype(block.X))
            self.n_block_bytes = max(self.n_block_bytes, block.X.numel() * block.X.element_size())
            n_features, device = block.X.shape[1], block.X.device
        if not tally.n_rows:
            raise ValueError("The stream is empty: it yielded no block with a row in it.")
        self.shape, self.device = (tally.n_rows, n_features), device
        self.dtype = torch.float64 if torch.float64 in dtypes else dtypes.pop()
        self.classes = _distinct(labels)
        self.mass, self.peak = (np.array([of[c] for c in self.classes.tolist()]) for of in (tally.mass, tally.peak))
        self.factor = np.ones(len(self.classes))  # the classes' weights
        self.is_weighted = tally.is_weighted  # whether any block brought weights
        self._fingerprint, self._sampled = tally.fingerprint, sample.sampled()

    def numel(self):
        return self.shape[0] * self.shape[1]

    def design(self, loss, *, intercept):
        """The rows for the solvers."""
        return StreamedDesign(self, loss, intercept=intercept)

    def sample(self, loss, *, intercept):
        """`DenseDesign` drawn at random in random order, and whether these are all that weigh something."""
        X, labels, weight, whole = self._sampled
        codes = np.searchsorted(self.classes, labels)
        columns = torch.from_numpy(weight * self.factor[codes])
        return self._design(X.to(self.device, self.dtype), codes, columns, loss, intercept=intercept), whole

    def blocks(self, size=1):
        """X, codes and weights (None if all are one) block by block; of a multiple of `size` rows, but the last."""
        tally, waiting, n_waiting = StreamStatistics(), [], 0
        for block in self._read(tally):
            n_waiting += len(block.codes)
            enough = n_waiting * self.shape[1] >= SMALL_BLOCK and n_waiting >= size
            waiting.append(self._encoded(block, own=self._reuses or not enough))
            del block
            if not enough:
                continue
            X, codes, weight = _joined(waiting)
            m = n_waiting - n_waiting % size
            yield X[:m], codes[:m], None if weight is None else weight[:m]
            waiting, n_waiting = [], n_waiting - m
            if n_waiting:
                waiting = [(X[m:].clone(), codes[m:].copy(), None if weight is None else weight[m:].copy())]
            del X, codes, weight
        if tally.n_rows != self.shape[0]:
            raise _changed(f"{tally.n_rows} rows, and had {self.shape[0]} before")
        for name, now in tally.fingerprint.items():
            if now != self._fingerprint[name]:
                raise _changed(f"other {name} than before")
        if waiting:
            yield _joined(waiting)

    def _read(self, tally):
        """The blocks of one read."""
        number, checked = 0, self._fingerprint is not None
        try:
            for block in under_caller_settings(self.source):
                block = self.read(block, checked)
                if block is not None:
                    tally.add(block)
                    yield block
                block = None  # the next one takes its place
                number += 1
        except Exception as error:
            error.add_note(f"This happened in block {number} of the stream, counted from 0.")
            raise

    def _encoded(self, block, own):
        """X, codes and weights of a block; of its `own` if the source may write elsewhere what it has yielded."""
        index = np.minimum(np.searchsorted(self.classes, block.classes), len(self.classes) - 1)
        unknown = self.classes[index] != block.classes
        if unknown.any():
            raise _changed(f"the label {block.classes[unknown][0]!r}, which it had not before")
        codes, weight = index[block.codes], block.weight
        if weight is not None or not (self.factor == 1).all():
            weight = self.factor[codes] * (1.0 if weight is None else weight)
        X = block.X.to(self.dtype, copy=own)
        if self.device.type == "cuda" and X.device.type == "cpu":
            X = X.pin_memory()
        return X, codes, weight

    def _design(self, X, codes, columns, loss, *, intercept, products=None):
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        X = X.to(self.device, non_blocking=True)
        y = loss.targets(torch.from_numpy(codes).to(X.device), wide)
        return DenseDesign(X, y, columns.to(X.device, wide)[:, None], intercept=intercept, products=products)


def _changed(what):
    return ValueError(
        f"The stream changed between two reads: it has {what}. Each iteration over a stream must yield the same rows, "
        "in any order."
    )


def _distinct(labels):
    """The sorted distinct labels among several arrays of them."""
    kinds = {"number" if array.dtype.kind in "biuf" else array.dtype.kind.replace("O", "U") for array in labels}
    if len(kinds) > 1:
        raise ValueError("The labels of the stream are numbers in some blocks and strings in others.")
    return np.unique(np.concatenate(labels))


def _joined(blocks):
    """Several blocks as one."""
    if len(blocks) == 1:
        return blocks[0]
    X, codes, weight = zip(*blocks, strict=True)
    if any(w is not None for w in weight):
        weight = np.concatenate([np.ones(len(c)) if w is None else w for c, w in zip(codes, weight, strict=True)])
    else:
        weight = None
    return torch.cat(X), np.concatenate(codes), weight


class StreamedDesign:
    """The design of a scanned stream, for one model: a pass goes block by block through `chunks`.

    Samples of rows are drawn from the one that the opening scan has kept.
    """

    in_memory = False
    n_passes_before = 1
    of = None

    def __init__(self, data, loss, *, intercept, products=None, divisors=()):
        self.data, self.loss, self.intercept, self.divisors = data, loss, intercept, divisors
        self.accumulation = Placement.beside(data.device)
        self.compute = products or Placement(data.device, data.dtype)

    @property
    def shape(self):
        """(n, d)"""
        return self.data.shape[0], self.n_features + self.intercept

    def n_frequent_columns(self, n_logits):  # noqa: ARG002 - see `DenseDesign.n_frequent_columns`
        return 0

    @property
    def n_features(self):
        return self.data.shape[1]

    @property
    def n_numbers(self):
        """How many numbers X holds."""
        return self.data.numel()

    @property
    def n_bytes(self):
        """How many bytes of them are in memory."""
        return self.data.n_block_bytes

    @property
    def device(self):
        return self.data.device

    @property
    def is_exact(self):
        return self.compute.dtype == self.accumulation.dtype

    def exact(self):
        """The same rows, with products in float64."""
        return self if self.is_exact else self._with(products=self.accumulation)

    def in_float64(self):
        """The same rows, each block a copy in float64."""
        data = copy(self.data)
        data.dtype = torch.float64
        return StreamedDesign(
            data, self.loss, intercept=self.intercept, products=self.accumulation, divisors=self.divisors
        )

    def upcast(self):
        """See `DenseDesign`; blocks are cast as they come."""
        return self

    def select(self, index):  # noqa: ARG002 - there is one model
        return self

    def fingerprint(self):
        """A checksum of all rows, whatever their order."""
        known = self.data._fingerprint
        return crc32(repr([sorted(v.items()) if isinstance(v, dict) else v for v in known.values()]).encode())

    def largest_weight(self):
        """The largest weight, (1,)."""
        return self._divided(torch.from_numpy((self.data.peak * self.data.factor).max(keepdims=True)))

    def total_weight(self):
        """The sum of the weights, (1,)."""
        mass = torch.from_numpy(self.data.mass * self.data.factor)[:, None]
        return self._divided(mass).sum(dim=0)

    def divided(self, by):
        """The same rows with their weights divided by `by` (1,)."""
        return self._with(divisors=(*self.divisors, by.cpu().double()))

    def chunks(self, size=1):
        """The blocks of one read as `DenseDesign`; of a multiple of `size` rows, but the last."""
        for X, codes, weight in ahead(self.data.blocks(size)):
            if weight is None:
                weight = torch.ones(1, dtype=torch.float64, device="cpu").expand(len(codes))
            else:
                weight = torch.tensor(weight, device="cpu")
            yield self._design(X, codes, self._divided(weight))
            del X, codes, weight

    def blocks(self, n_columns=1):
        """See `DenseDesign.blocks`; one read."""
        for chunk in self.chunks():
            yield from chunk.blocks(n_columns)

    @cached_property
    def _sample(self):
        return self.data.sample(self.loss, intercept=self.intercept)

    @property
    def n_samplable(self):
        """How many rows can be drawn, or that of all if they are all at hand; 0 if the opening scan has kept none."""
        if self.data._sampled is None:
            return 0
        rows, whole = self._sample
        return self.shape[0] if whole else rows.shape[0]

    def sample_rows(self, size, generator):
        """Index for `take` of `size` random rows that have a weight, or of as many as there are."""
        return torch.randperm(self._sample[0].shape[0], generator=generator, device="cpu")[:size].to(self.device)

    def take(self, index):
        """The rows that were drawn."""
        return self._sample[0].take(index)

    def to_accumulation(self, tensor):
        """`tensor` where coefficients live."""
        return tensor.to(self.accumulation.device).to(self.accumulation.dtype)

    def _divided(self, weight):
        """`weight` divided by all that it is to be divided by; views of a single number stay such."""
        n, one_number = len(weight), weight.stride(0) == 0
        weight = weight[:1] if one_number else weight
        for by in self.divisors:
            weight = weight / by
        return weight.expand(n) if one_number else weight

    def _design(self, X, codes, weight):
        return self.data._design(X, codes, weight, self.loss, intercept=self.intercept, products=self.compute)

    def _with(self, **changes):
        options = {"intercept": self.intercept, "products": self.compute, "divisors": self.divisors, **changes}
        return StreamedDesign(self.data, self.loss, **options)


class ArrayBlocks:
    """Blocks of arrays: a stream of rows that lie somewhere else than where they are computed with.

    Pages of a memory-mapped file are given back to the system when the block after them has been read.
    """

    def __init__(self, X, y=None, weight=None):
        self.X, self.y, self.weight = X, y, weight
        n_bytes = max(4, X.dtype.itemsize) if X.dtype in (np.float32, np.float64) else 8  # what others become
        self.size = max(64, MAPPED_BLOCK // (n_bytes * X.shape[1]))

    def __iter__(self):
        before = None
        for start in range(0, len(self.X), self.size):
            part = slice(start, start + self.size)
            X = self.X[part]
            yield X, *(None if values is None else values[part] for values in (self.y, self.weight))
            if before is not None:
                release(before)
            before = X
        release(before)


def release(X):
    """Give the pages of a part of a memory-mapped file back; they are read again when they are needed again.

    Not those of a private map ("c"), which may have been written to.
    """
    file = getattr(X, "_mmap", None)
    if file is None or X.mode == "c" or not hasattr(file, "madvise") or min(X.strides) < 0:
        return
    first = np.frombuffer(file, dtype=np.uint8, count=1).ctypes.data
    columns = [X] if X.flags.c_contiguous else X.T
    for column in columns:
        low = column.ctypes.data - first
        high = low + sum((n - 1) * stride for n, stride in zip(column.shape, column.strides, strict=True))
        if low < 0 or high >= len(file):
            return
        low -= low % mmap.PAGESIZE
        file.madvise(mmap.MADV_DONTNEED, low, high + column.itemsize - low)
