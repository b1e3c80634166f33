"""Sparse X: compressed rows on the host, and the products of `DenseDesign` with them.

Products are scipy's, which need no second copy of X by columns (X' r scatters as quickly as X w gathers) and let other
threads run, so parts of the rows are read at the same time. For 100,000 x 50,000 with 6.7 million numbers, float64, on
two Zen 4 cores, X w takes 4.0 ms and X' r 4.6 ms; torch's sparse products take 3.9 ms and, with X stored by columns as
well, 6.9 ms.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, diags_array, hstack

from torchlogreg._data.dense import CPU_BLOCK, FACTORS, LOGIT, DenseDesign, checksum

DENSE = 2**19  # numbers up to which X is small, and is stored as a dense array
# Share of a dense array that may be other than zero for it to be read faster as a sparse one, which then takes at most
# 19 % of its bytes (25 % in float32); and the numbers that are looked at before all of them are.
MOSTLY_ZERO, LOOKED_AT = 1 / 8, 2**14
# A number of a sparse X takes three times as long to read as one of a dense array, with its index 1.5 times the room:
# from here on the dense array is read faster, and takes at most twice the memory.
FULL = 1 / 3
PER_COLUMN = 32  # numbers of a block for each column of X, lest sums over the columns take as long as the products
SHARES = 8  # of X, at least, of which one at a time is lifted to a wider dtype
THIN = 1 / 12  # density below which a sparse product gives second moments sooner than dense pieces of X
HEAD, FEWEST, MOST = 4.0, 32, 1024  # the cube of the columns that a head has, for each number of X; and its limits
FILLED = 0.8  # share of the columns that hold numbers, below which the others are left out


def pays_dense(csr):
    """Whether a sparse matrix is better stored as a dense array."""
    n_numbers = csr.shape[0] * csr.shape[1]
    return n_numbers <= DENSE or csr.nnz >= FULL * n_numbers


def sparsify_if_mostly_zero(X):
    """The dense X for a fit: a sparse copy where nearly all of it is zero, as indicators and counts of words are."""
    if X.device.type != "cpu" or X.dtype not in FACTORS or X.numel() <= DENSE:
        return X
    n, p = X.shape
    looked_at = X[np.linspace(0, n - 1, max(1, LOOKED_AT // p), dtype=int)]
    if int(looked_at.count_nonzero()) > MOSTLY_ZERO * looked_at.numel():
        return X
    most, size = int(MOSTLY_ZERO * X.numel()), max(1, CPU_BLOCK // p)
    dtype = np.int32 if max(most, p) < 2**31 else np.int64
    data, indices, counts, left = [], [], [np.zeros(1, dtype)], most
    for rows in X.split(size):
        rows = np.ascontiguousarray(rows.numpy())
        is_filled = rows != 0
        where = np.flatnonzero(is_filled)
        left -= len(where)
        if left < 0:
            return X
        data.append(rows.ravel()[where])
        indices.append((where % p).astype(dtype))
        counts.append(np.count_nonzero(is_filled, axis=1).astype(dtype))
    indptr = np.concatenate(counts).cumsum(dtype=dtype)
    return CSRTensor(_compressed(csr_array, np.concatenate(data), np.concatenate(indices), indptr, (n, p)))


def _compressed(kind, data, indices, indptr, shape):
    """A compressed array over these parts; scipy's constructor copies those that are views of much larger arrays."""
    out = kind(shape, dtype=data.dtype)
    out.data, out.indices, out.indptr = data, indices, indptr
    return out


class CSRTensor:
    """A CSR array that answers what is asked of a tensor; its numbers are those that are stored."""

    device = torch.device("cpu")

    def __init__(self, csr):
        self.csr, self.shape = csr, csr.shape

    @classmethod
    def of(cls, matrix):
        """A CSR matrix or array without a copy, but for numbers that are stored twice, which are added."""
        csr = csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        return cls(csr)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """The rows at a slice, without a copy, or at an index."""
        if not isinstance(rows, slice):
            return CSRTensor(self.csr[np.asarray(rows)])
        start, stop, _ = rows.indices(len(self))
        indptr = self.csr.indptr[start : stop + 1]
        part = slice(indptr[0], indptr[-1])
        shape = stop - start, self.shape[1]
        return CSRTensor(_compressed(csr_array, self.csr.data[part], self.csr.indices[part], indptr - indptr[0], shape))

    @property
    def transposed(self):
        """X' as a CSC array."""
        return _compressed(csc_array, self.csr.data, self.csr.indices, self.csr.indptr, self.shape[::-1])

    @property
    def dtype(self):
        return torch.float32 if self.csr.dtype == np.float32 else torch.float64

    def square(self):
        """The squares of the numbers; indices are shared."""
        csr = self.csr
        return CSRTensor(_compressed(csr_array, np.square(csr.data), csr.indices, csr.indptr, csr.shape))

    def numel(self):
        return self.csr.nnz

    def element_size(self):
        return self.csr.dtype.itemsize

    def to(self, device=None, dtype=None):
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(f"Sparse X is read on the CPU; device={str(device)!r} takes X.toarray() or device='cpu'.")
        if dtype in (None, self.dtype):
            return self
        return CSRTensor(self.csr.astype(np.float32 if dtype == torch.float32 else np.float64))

    def dense(self, columns=None):
        """The tensor of all columns, or of those at an index."""
        return torch.from_numpy((self.csr if columns is None else self.csr[:, columns.numpy()]).toarray())


class SparseMiniBatch(NamedTuple):
    """Some rows, gathered for one step of SGD, without the columns that are empty in them."""

    X: csr_array  # (b, u)
    columns: torch.Tensor  # (u,) index among the d columns, the intercept's as last

    @classmethod
    def of(cls, csr, intercept):
        """From rows of X."""
        used, inverse = np.unique(csr.indices, return_inverse=True)
        X = csr_array((csr.data, inverse, csr.indptr), shape=(csr.shape[0], len(used)))
        if intercept:
            X = hstack([X, np.ones((X.shape[0], 1), X.dtype)], format="csr")
            used = np.append(used, csr.shape[1])
        return cls(X, torch.from_numpy(used.astype(np.int64)))

    def logits(self, flat):
        return torch.from_numpy(_times(self.X, flat[:, self.columns].T.numpy())).T

    def add_products(self, out, residual, beta, alpha):
        products = torch.from_numpy(_times(self.X.T, residual.T.numpy())).T
        out.mul_(beta).index_add_(1, self.columns, products, alpha=alpha)


class SparseDesign(DenseDesign):
    """Rows whose X is `CSRTensor`. Flat coefficients and logits are class-minor in memory, as scipy wants them."""

    def fingerprint(self):
        csr = self.X.csr
        return checksum([csr.indptr, csr.indices, csr.data, self.y, self.sample_weights])

    def gathered(self, order, size):
        for index in order.split(size):
            yield [SparseMiniBatch.of(self.X[index].csr, self.intercept)]

    def blocks(self, n_columns=1):
        n = len(self.X)
        size = self._rows_in(self._block, n_columns)
        starts = range(0, n, size)
        if self.X.dtype != self.compute.dtype:
            return (self._cast(slice(start, start + size)) for start in starts)
        if self._views[0] != size:
            self._views = size, tuple(self._cast(slice(start, start + size)) for start in starts)
        return self._views[1]

    def parts(self, n_parts, n_columns=1):
        work = max(self.n_numbers, LOGIT * n_columns * len(self.X))
        n_parts = max(1, min(n_parts, work // max(CPU_BLOCK, self.n_features)))
        if n_parts == 1:
            return (self,)
        if len(self._parts) != n_parts:
            # The row after which each share of the numbers is full.
            shares = np.arange(1, n_parts) * (self.n_numbers / n_parts)
            bounds = pairwise([0, *np.searchsorted(self.X.csr.indptr, shares).tolist(), len(self.X)])
            self._parts = tuple(self._part(slice(a, b)) for a, b in bounds if a < b)
        return self._parts

    @property
    def whole(self):
        return self.dense().whole

    def dense(self, columns=None):
        """Dense rows of all columns of X, or of those at an index."""
        X = self.X.dense(columns)
        out = DenseDesign(X, self.y, self.sample_weights, intercept=self.intercept, products=self.compute, of=self.of)
        out.cache = None if self.cache is None else {}
        return out

    def features(self):
        return self.dense().features()

    def n_frequent_columns(self, n_logits):
        """As many columns as have their second moments, from twenty rows for each, in the time of some three reads."""
        return int(min(self.n_features, MOST, max(FEWEST, (HEAD * n_logits * self.n_numbers) ** (1 / 3))))

    def is_column(self, W):  # noqa: ARG002 - `sweep` has no overhead that would matter
        return False

    def flat(self, W):
        n_models, d, n_logits = W.shape
        return W.to(self.compute.dtype).permute(1, 0, 2).reshape(d, n_models * n_logits).T

    def _matvec(self, flat):
        p = self.n_features
        flat = flat.to(self.X.dtype)
        eta = torch.from_numpy(_times(self.X.csr, flat[:, :p].T.numpy()))  # (n, B K)
        if self.intercept:
            eta += flat[:, p]
        return eta.T

    def _rmatvec(self, flat):
        out = torch.from_numpy(_times(self.X.transposed, flat.to(self.X.dtype).T.numpy())).double()
        return torch.cat([out, flat.sum(dim=1, dtype=out.dtype)[None]]).T if self.intercept else out.T

    def gram(self, weight):
        if not self._is_thin:
            return self._over_dense_pieces(lambda rows, w: rows.gram(w), weight)
        pieces = list(self._with_ones(weight.shape[1]))
        out = [
            sum((X.T @ (diags_array(w[rows]) @ X)).toarray() for rows, X in pieces) for w in weight.double().T.numpy()
        ]
        return torch.from_numpy(np.stack(out))

    def gram_of_copies(self, factor):
        if not self._is_thin:
            return self._over_dense_pieces(lambda rows, f: rows.gram_of_copies(f), factor)
        pieces = list(self._with_ones(factor.shape[2]))
        out = []
        for f in factor.double().unbind(1):
            total = 0.0
            for rows, X in pieces:
                copies = hstack([diags_array(f[rows, k].numpy()) @ X for k in range(f.shape[1])], format="csr")
                total = total + (copies.T @ copies).toarray()
            out.append(torch.from_numpy(total))
        return torch.stack(out)

    @property
    def _is_thin(self):
        return self.n_numbers < THIN * len(self.X) * self.n_features

    def _with_ones(self, n_copies):
        """Slices of the rows and their X in float64 with the column of ones, as large as the sums over them."""
        d = self.shape[1]
        size = self._rows_in(max(self._block, (n_copies * d) ** 2), n_copies)
        for start in range(0, len(self.X), size):
            rows = slice(start, start + size)
            X = self.X[rows].to(dtype=torch.float64).csr
            yield rows, hstack([X, np.ones((X.shape[0], 1))], format="csr") if self.intercept else X

    def _over_dense_pieces(self, function, values):
        """The sum of function(dense rows, values of those rows) over cache-sized pieces."""
        size = max(64, self._block // self.n_features)
        return sum(
            function(self._cast(slice(start, start + size)).dense(), values[start : start + size])
            for start in range(0, len(self.X), size)
        )

    def inner_products(self):
        n = len(self.X)
        size = n if self.X.dtype == self.accumulation.dtype else -(-n // SHARES)
        pieces = [slice(start, start + size) for start in range(0, n, size)]
        out = np.zeros((n, n))
        for i in pieces:
            X = self.X[i].to(dtype=torch.float64).csr
            for j in pieces:
                out[i, j] = (X @ self.X[j].to(dtype=torch.float64).csr.T).toarray()
        return torch.from_numpy(out)

    def gram_diagonal(self, weight):
        out = torch.from_numpy(_times(self.X.square().transposed, weight.to(self.X.dtype).numpy())).double()
        return torch.cat([out, weight.sum(dim=0, dtype=out.dtype)[None]]).T if self.intercept else out.T

    def _weight_off_the_mode(self, weights):
        csr = self.X.csr
        stored = weights.double().numpy()[:, np.repeat(np.arange(len(self.X)), np.diff(csr.indptr))] * (csr.data != 0)
        off = [np.bincount(csr.indices, w, minlength=self.n_features) for w in stored]
        return torch.from_numpy(np.stack(off))

    def squared_norms(self, scale):
        square = self.X.to(dtype=torch.float64).square()
        out = torch.from_numpy(_times(square.csr, scale[: self.n_features, None].numpy())[:, 0])
        return out + scale[-1] if self.intercept else out

    def _rows_in(self, n_numbers, n_columns):
        """How many rows hold so many numbers, their logits included."""
        return max(64, n_numbers // max(1, LOGIT * n_columns, self.n_numbers // max(1, len(self.X))))

    @property
    def _block(self):
        size = PER_COLUMN * self.n_features
        if self.X.dtype != self.compute.dtype:
            size = min(size, self.n_numbers // SHARES)
        return max(CPU_BLOCK, size)


class NonEmptyColumns(NamedTuple):
    """Rows without the columns of X that hold no number, as most of a hashed vocabulary's do.

    Such columns have no say in the losses, so where they start from zero they stay there.
    """

    design: DenseDesign
    columns: torch.Tensor | None  # (u,) index among the d coefficients; None if none are left out
    d: int

    @classmethod
    def of(cls, rows, W, *, wanted=True):
        """The rows where enough columns are empty, and start from zero in W (B, d, K); otherwise as they are."""
        p, d = rows.n_features, rows.shape[1]
        if not (wanted and isinstance(rows, SparseDesign)):
            return cls(rows, None, d)
        csr = rows.X.csr
        is_filled = _filled_columns(csr)
        n_filled = int(is_filled.sum())
        if not 0 < n_filled < FILLED * p or W[:, :p][:, torch.from_numpy(~is_filled)].any():
            return cls(rows, None, d)
        indices = (is_filled.cumsum(dtype=csr.indices.dtype) - 1)[csr.indices]
        X = CSRTensor(_compressed(csr_array, csr.data, indices, csr.indptr, (csr.shape[0], n_filled)))
        columns = torch.from_numpy(np.append(np.flatnonzero(is_filled), np.arange(p, d)))
        filled = SparseDesign(
            X, rows.y, rows.sample_weights, intercept=rows.intercept, products=rows.compute, of=rows.of
        )
        return cls(filled, columns, d)

    def enter(self, W):
        """Coefficients (B, d, K) of these columns alone."""
        return W if self.columns is None else W[:, self.columns]

    def leave(self, W):
        """Coefficients of all columns from those of these."""
        if self.columns is None:
            return W
        return W.new_zeros(W.shape[0], self.d, W.shape[2]).index_copy_(1, self.columns, W)


def _filled_columns(csr):
    """Mask of the columns that hold numbers, as far as it takes to see that too many do."""
    p = csr.shape[1]
    is_filled, size = np.zeros(p, dtype=bool), max(p, 2**16)
    for start in range(0, csr.nnz, size):
        is_filled[csr.indices[start : start + size]] = True
        if is_filled.sum() >= FILLED * p:
            break
    return is_filled


def _times(csr, columns):
    """csr times columns (p, M); as a vector where there is one, which is faster."""
    columns = np.ascontiguousarray(columns)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported where the objective is looked at
        return (csr @ columns[:, 0])[:, None] if columns.shape[1] == 1 else csr @ columns
