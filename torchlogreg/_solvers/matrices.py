"""Hessians of a quadratic model, and approximations of them, in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs  # pyright: ignore[reportAttributeAccessIssue]

from torchlogreg._solvers import tuning


class Matrix(ABC):
    """A symmetric, positive semi-definite matrix (a, a)."""

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """(a,)"""

    @abstractmethod
    def times(self, v: np.ndarray) -> np.ndarray:
        """The product with v (a,)."""

    @abstractmethod
    def solve(self, free: np.ndarray, r: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
        """The solution for the rows and columns at the index `free` (f,) alone, of r (f,); `shift` (a,) is added."""


def solve(H: np.ndarray, r: np.ndarray) -> np.ndarray:
    """H^-1 r for H (f, f), which is overwritten, and r (f,) or (f, m).

    H is scaled to a unit diagonal, and raised by rounding errors until it has a Cholesky factor.
    """
    n = len(H)
    if not n:
        return r.copy()
    diagonal = H.diagonal()
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    H *= scale
    H *= scale[:, None]
    unit, shift = H.diagonal().copy(), tuning.LEAST_RAISE
    columns = scale if r.ndim == 1 else scale[:, None]
    while shift <= 1.0:
        H.ravel()[:: n + 1] = unit + shift
        factor, failed = dpotrf(H.T, lower=1)
        if not failed:
            return columns * dpotrs(factor, columns * r, lower=1)[0]
        shift *= 100.0
    return columns * columns * r  # rounding left nothing but the scale


def _solve_general(M: np.ndarray, r: np.ndarray) -> np.ndarray:
    """M^-1 r; of least norm where pairs that hardly differ make M singular."""
    try:
        return np.linalg.solve(M, r)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(M, r)[0]


class DenseMatrix(Matrix):
    """A matrix as it is."""

    def __init__(self, H: np.ndarray):
        self.H = H

    def diagonal(self):
        """See `Matrix`."""
        return self.H.diagonal()

    def times(self, v):
        """See `Matrix`; where v is mostly zero, by the rows where it is not."""
        (index,) = v.nonzero()
        return v[index] @ self.H[index] if 2 * len(index) < len(v) else self.H @ v

    def solve(self, free, r, shift=None):
        """See `Matrix`; two copies of rows and columns take less time than one of single numbers."""
        H = self.H.take(free, axis=0).take(free, axis=1)
        if shift is not None:
            H.ravel()[:: len(free) + 1] += shift[free]
        return solve(H, r)


class FactoredMatrix(Matrix):
    """Z Z' plus a diagonal, Z (a, n) with few columns: only products of the rows that are solved for are made.

    Of more rows than columns that have a ridge, products of columns instead: nothing is then of size (a, a).
    """

    def __init__(self, Z: np.ndarray, ridge: np.ndarray):
        self.Z, self.ridge = Z, ridge
        self.place = np.full(len(Z), -1)  # of the rows whose products are known
        self.known, self.gram = np.empty(0, dtype=np.intp), np.empty((0, 0))
        self.sums = np.einsum("ij,ij->i", Z, Z) + ridge

    def diagonal(self):
        """See `Matrix`."""
        return self.sums

    def times(self, v):
        """See `Matrix`; rows are copied where v is zero for nearly all of them."""
        (index,) = v.nonzero()
        inner = v[index] @ self.Z[index] if 4 * len(index) < len(v) else v @ self.Z
        return self.Z @ inner + self.ridge * v

    def solve(self, free, r, shift=None):
        """See `Matrix`."""
        ridge = self.ridge[free] if shift is None else self.ridge[free] + shift[free]
        # Beside the sums of squares a ridge this small is no ridge to divide by.
        n = self.Z.shape[1]
        bare = ridge <= tuning.LEAST_RAISE * self.sums[free] if len(free) > 2 * n else None
        if bare is not None and np.count_nonzero(bare) <= n:
            try:
                return self._solve_by_columns(free, r, ridge, bare)
            except np.linalg.LinAlgError:  # rows without a ridge that depend on one another
                pass
        new = free[self.place[free] < 0]
        if len(new):
            k, known = len(self.known), np.append(self.known, new)
            self.place[new] = np.arange(k, len(known))
            gram, rows = np.empty((len(known), len(known))), self.Z[new]
            gram[:k, :k], gram[k:, :k], gram[k:, k:] = self.gram, rows @ self.Z[self.known].T, rows @ rows.T
            gram[:k, k:] = gram[k:, :k].T
            self.known, self.gram = known, gram
        at = self.place[free]
        H = self.gram.take(at, axis=0).take(at, axis=1)
        H.ravel()[:: len(free) + 1] += ridge
        return solve(H, r)

    def _solve_by_columns(self, free, r, ridge, bare):
        """The solution by the Woodbury identity, without the rows that have no ridge, as the intercept's has none.

        Those are eliminated first, by the parts of the others that are orthogonal to them: columns of a large mean lose
        nothing then.
        """
        Q, T = np.linalg.qr(self.Z[free[bare]].T)
        own, Z = ridge[~bare], self.Z[free[~bare]]
        along = Z @ Q
        Z = Z - along @ Q.T
        of_bare = np.linalg.solve(T.T, r[bare])
        right = (r[~bare] - along @ of_bare) / own
        scaled = Z / own[:, None]
        inner = Z.T @ scaled
        inner.ravel()[:: len(inner) + 1] += 1.0
        out = np.empty_like(r)
        out[~bare] = right - scaled @ solve(inner, Z.T @ right)
        out[bare] = np.linalg.solve(T, of_bare - along.T @ out[~bare])
        return out


class DampedMatrix(Matrix):
    """A matrix plus a diagonal."""

    def __init__(self, matrix: Matrix, damping: np.ndarray):
        self.matrix, self.damping = matrix, damping

    def diagonal(self):
        """See `Matrix`."""
        return self.matrix.diagonal() + self.damping

    def times(self, v):
        """See `Matrix`."""
        return self.matrix.times(v) + self.damping * v

    def solve(self, free, r, shift=None):
        """See `Matrix`."""
        return self.matrix.solve(free, r, self.damping if shift is None else self.damping + shift)


class BlockMatrix(Matrix):
    """Diagonal blocks, each a matrix (m, m) or the diagonal (m,) of one, plus pairs of BFGS.

    The pairs S and Y (a, m), the oldest first, make theta H - N M^-1 N' of the blocks H (Byrd, Nocedal and Schnabel
    1994, doi:10.1007/BF01582063, theorem 2.3); theta scales the blocks to the newest pair.
    """

    def __init__(self, blocks: Sequence[np.ndarray], S: np.ndarray | None = None, Y: np.ndarray | None = None):
        self.blocks, self.theta, self.n_pairs = blocks, 1.0, 0
        self.ends = np.cumsum([len(block) for block in blocks])
        self.M = self.N = self.MN = np.empty((0, 0))
        if S is None or Y is None or not S.shape[1]:
            return
        length = np.sqrt(np.einsum("ij,ij->j", S, S))
        steps, changes = np.asarray(S / length), np.asarray(Y / length)
        moved, products = self._blocks_times(steps), steps.T @ changes
        low, high = tuning.BLOCK_SCALES
        newest = max(float(steps[:, -1] @ moved[:, -1]), np.finfo(float).tiny)
        self.theta = float(np.clip(products[-1, -1] / newest, low, high))
        L = np.tril(products, -1)
        self.M = np.block([[self.theta * (steps.T @ moved), L], [L.T, -np.diag(products.diagonal())]])
        self.N = np.column_stack([self.theta * moved, changes])
        self.MN = _solve_general(self.M, self.N.T)
        self.n_pairs = S.shape[1]

    def simplified(self) -> Matrix:
        """As a single matrix, if it has one block."""
        if len(self.blocks) != 1 or self.blocks[0].ndim == 1:
            return self
        H = self.theta * self.blocks[0]
        if not self.n_pairs:
            return DenseMatrix(H)
        H -= self.N @ self.MN
        return DenseMatrix(0.5 * (H + H.T))

    def diagonal(self):
        """See `Matrix`."""
        out = self.theta * np.concatenate([b if b.ndim == 1 else b.diagonal() for b in self.blocks])
        if not self.n_pairs:
            return out
        return np.maximum(out - np.einsum("ij,ji->i", self.N, self.MN), tuning.LEAST_DIAGONAL_SHARE * out)

    def times(self, v):
        """See `Matrix`."""
        out = self.theta * self._blocks_times(v)
        return out if not self.n_pairs else out - self.N @ (self.MN @ v)

    def solve(self, free, r, shift=None):
        """See `Matrix`; the pairs by the Woodbury identity."""
        right = np.column_stack([r, self.N[free]]) if self.n_pairs else r[:, None]
        out, start, first = np.empty_like(right), 0, 0
        for block, end in zip(self.blocks, self.ends, strict=True):
            stop = first + int(np.searchsorted(free[first:], end))
            index = free[first:stop] - start
            extra = 0.0 if shift is None else shift[free[first:stop]]
            if block.ndim == 1:
                out[first:stop] = right[first:stop] / (self.theta * block[index] + extra)[:, None]
            else:
                H = self.theta * block[np.ix_(index, index)]
                H.ravel()[:: len(index) + 1] += extra
                out[first:stop] = solve(H, right[first:stop])
            start, first = end, stop
        if not self.n_pairs:
            return out[:, 0]
        Z = out[:, 1:]
        small = self.M - self.N[free].T @ Z
        return out[:, 0] + Z @ _solve_general(small, self.N[free].T @ out[:, 0])

    def _blocks_times(self, v):
        out, start = np.empty_like(v), 0
        for block, end in zip(self.blocks, self.ends, strict=True):
            part = v[start:end]
            if block.ndim == 1:
                out[start:end] = (block * part.T).T
            elif part.ndim == 1 and 2 * np.count_nonzero(part) < len(part):
                index = np.flatnonzero(part)
                out[start:end] = part[index] @ block[index]
            else:
                out[start:end] = block @ part
            start = end
        return out
