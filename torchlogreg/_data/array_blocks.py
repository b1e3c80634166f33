"""Arrays as streams: a memory-mapped file, or an array on another device than the one that computes."""

import mmap
from typing import Any

import numpy as np

from torchlogreg._data import tuning


class ArrayBlocks:
    """Blocks of X, labels and weights, one after the other.

    Pages of a memory-mapped file are given back to the system once the block after them has been used.
    """

    def __init__(self, X: Any, y: np.ndarray | None = None, weight: np.ndarray | None = None):
        self.X, self.y, self.weight = X, y, weight
        # Bytes of a number in the dtype that X becomes.
        dtype: Any = X.dtype
        n_bytes = max(4, dtype.itemsize) if dtype == np.float32 or dtype == np.float64 else 8
        self.size = max(tuning.MIN_BLOCK_ROWS, tuning.MAPPED_BLOCK_BYTES // (n_bytes * X.shape[1]))

    def __iter__(self):
        before = None
        for start in range(0, len(self.X), self.size):
            rows = slice(start, start + self.size)
            X = self.X[rows]
            yield X, *(None if values is None else values[rows] for values in (self.y, self.weight))
            if before is not None:
                release(before)
            before = X
        release(before)


def release(X) -> None:
    """Give the pages of a part of a memory-mapped file back; they are loaded again when they are needed again.

    Pages of a private map ("c") stay, because they may have been written to.
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
