"""What is counted in a pass over a stream, to tell another pass over the same rows from a pass over other rows.

The checksum is the sum, modulo 2^64, of a hash of each row: of the bits of its features, its label and its weight
together. It does not depend on the order and the blocks in which the rows come, but it changes when anything within
them changes places, which plain sums of the bits, at half the cost, would not show.

The features of a row go into its hash as k_1 t_1 + k_2 t_2 + ..., modulo 2^64, with random keys k and words t of 64
bits. The words themselves would not do for t: where they differ in their highest bits only, as whole numbers and
numbers of different signs do, few bits of the sum would differ, or none. So t is the row xor the row shifted by 40
bits, which determines the row and has the high bits of each word among its low ones, too.
"""

from functools import lru_cache
from hashlib import blake2b
from numbers import Real
from typing import Any, cast

import numpy as np
import torch

from torchlogreg._data import tuning

ROWS = "rows (features, label and weight together)"
SHIFT = 40  # bits, a whole number of bytes; a part of the definition of the checksum
_PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StreamStatistics:
    """What a pass has brought so far."""

    def __init__(self):
        self.n_rows, self.checksum, self.is_weighted = 0, 0, False
        self.counts, self.mass, self.peak = {}, {}, {}  # of each class: rows, sum of weights, largest weight

    def add(self, block) -> None:
        """Count a block."""
        labels = block.classes.tolist()
        self.n_rows += len(block.codes)
        for label, n in zip(labels, np.bincount(block.codes, minlength=len(labels)).tolist(), strict=True):
            self.counts[label] = self.counts.get(label, 0) + n
        keys = _keys(1 - (-block.X.shape[1] * block.X.element_size() // 8))
        products = _host_products if block.X.device.type == "cpu" else _device_products
        rows = products(block.X, keys[1:].view(np.int64)).view(np.uint64)
        rows += np.array([_key(label, block.X.dtype) for label in labels], dtype=np.uint64).take(block.codes)
        bits = (np.ones(1) if block.weight is None else block.weight).view(np.uint64)
        rows += keys[0] * (bits ^ (bits >> np.uint64(SHIFT)))
        self.checksum = (self.checksum + int(_mixed(rows).sum())) % 2**64

    def weigh(self, block) -> None:
        """Add the weights of a block's classes."""
        mass, peak = np.bincount(block.codes, minlength=len(block.classes)), np.ones(len(block.classes))
        if block.weight is not None:
            self.is_weighted = True
            mass = np.bincount(block.codes, weights=block.weight, minlength=len(block.classes))
            peak = np.zeros(len(block.classes))
            np.maximum.at(peak, block.codes, block.weight)
        for label, total, most in zip(block.classes.tolist(), mass, peak, strict=True):
            self.mass[label] = self.mass.get(label, 0.0) + float(total)
            self.peak[label] = max(self.peak.get(label, 0.0), float(most))

    @property
    def fingerprint(self) -> dict[str, object]:
        """What two passes over the same rows have in common, whatever their order."""
        return {"labels": self.counts, ROWS: self.checksum}


def checksum_of_rows(products: np.ndarray, y: torch.Tensor, weights: torch.Tensor) -> int:
    """The sum of the checksums of rows in memory, from those of their features (n,), labels and weights (n, V)."""
    labels = y.cpu().double().numpy().view(np.uint64)[:, None]
    words = np.concatenate([labels, weights.cpu().double().numpy().copy().view(np.uint64)], axis=1)
    rows = products.view(np.uint64) + _mixed(_keys(words.shape[1] + 1)[1:] * (words ^ (words >> np.uint64(SHIFT)))).sum(
        axis=1, dtype=np.uint64
    )
    return int(_mixed(rows).sum(dtype=np.uint64))


def host_products(X: torch.Tensor) -> np.ndarray:
    """What the features of the rows of a tensor add to their checksums, (n,)."""
    keys = _keys(1 - (-X.shape[1] * X.element_size() // 8))
    return _host_products(X.contiguous(), keys[1:].view(np.int64))


def sparse_products(csr) -> np.ndarray:
    """The same of compressed rows, whatever zeros are stored."""
    bits = csr.data.astype(np.float64).view(np.uint64)
    own = _mixed(_keys(csr.shape[1] + 1)[1:][csr.indices] * (bits ^ (bits >> np.uint64(SHIFT)))) * (csr.data != 0)
    ends = np.concatenate([np.zeros(1, np.uint64), own.astype(np.uint64).cumsum(dtype=np.uint64)])
    return np.diff(ends[csr.indptr])


def _host_products(X: torch.Tensor, keys: np.ndarray) -> np.ndarray:
    """Each row's sum of keys times words, on one thread: the other cores have the fit's arithmetic to do."""
    pattern = X.view(_PATTERNS[X.element_size()]).numpy()
    out, size = np.empty(len(pattern), dtype=np.int64), max(1, tuning.HASHED_BYTES // (8 * len(keys)))
    mixed = np.empty((min(size, len(pattern)), len(keys)), dtype=np.int64)
    width = mixed.nbytes // len(mixed) // pattern.itemsize
    is_padded = not pattern.flags.c_contiguous or width > pattern.shape[1]
    padded = np.zeros((len(mixed) if is_padded else 0, width), dtype=pattern.dtype)
    for start in range(0, len(pattern), size):
        part = pattern[start : start + size]
        if is_padded:
            padded[: len(part), : pattern.shape[1]] = part
            part = padded[: len(part)]
        t, row_bytes = mixed[: len(part)], part.reshape(-1).view(np.uint8)
        # All rows at once, as if they were one; then the last word of each row again, because nothing follows it.
        ahead = row_bytes[SHIFT // 8 :]
        np.bitwise_xor(row_bytes[: len(ahead)], ahead, out=t.reshape(-1).view(np.uint8)[: len(ahead)])
        last = row_bytes.view(np.uint64)[len(keys) - 1 :: len(keys)]
        np.bitwise_xor(last, last >> np.uint64(SHIFT), out=t[:, -1].view(np.uint64))
        np.einsum("ij,j->i", t, keys, out=out[start : start + size])
    return out


def _device_products(X: torch.Tensor, keys: np.ndarray) -> np.ndarray:
    """What `_host_products` returns, computed where X is."""
    pattern, out = X.view(_PATTERNS[X.element_size()]), []
    factors = torch.from_numpy(keys).to(X.device)
    for part in pattern.split(max(1, tuning.ACCELERATOR_HASHED_BYTES // (8 * len(keys)))):
        padded = part.new_zeros(len(part), 8 * len(keys) // part.element_size())
        padded[:, : part.shape[1]] = part
        words = padded.view(torch.int64)
        mixed = words ^ ((words >> SHIFT) & (2 ** (64 - SHIFT) - 1))
        mixed[:, :-1] ^= words[:, 1:] << (64 - SHIFT)
        out.append((mixed * factors).sum(dim=1))
    return torch.cat(out).numpy(force=True)


@lru_cache(4)
def _keys(n: int) -> np.ndarray:
    """n random numbers of 64 bits, the same ones everywhere: the generator splitmix64."""
    return _mixed(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


@lru_cache(10_000)
def _key(label: Any, dtype: torch.dtype) -> int:
    """A random number of 64 bits for a label and the dtype of the features: in another dtype equal bits mean others."""
    is_whole = isinstance(label, Real) and label == int(cast("float", label))
    name = int(cast("float", label)) if is_whole else label  # 1, 1.0 and True are one label
    return int.from_bytes(blake2b(repr((name, dtype)).encode(), digest_size=8).digest(), "little")


def _mixed(z: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits, each bit of which depends on all bits of the number before: splitmix64's mix, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z
