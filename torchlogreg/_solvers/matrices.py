"""Hessians of a quadratic model, and approximations of them, in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

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
        self.factor: _Factor | None = None  # of a large part that was solved with

    def diagonal(self):
        """See `Matrix`."""
        return self.H.diagonal()

    def times(self, v):
        """See `Matrix`; where v is mostly zero, by the rows where it is not."""
        (index,) = v.nonzero()
        return v[index] @ self.H[index] if 2 * len(index) < len(v) else self.H @ v

    def solve(self, free, r, shift=None):
        """See `Matrix`; of a large part like one that was solved with, by that one's factor."""
        raised = self.H.diagonal() if shift is None else self.H.diagonal() + shift
        if self.factor is not None and np.array_equal(self.factor.diagonal, raised):
            x = self._solved_by_factor(self.factor, free, r)
            if x is not None:
                return x
        H = self.H.take(free, axis=0).take(free, axis=1)  # in less time than single numbers
        H.ravel()[:: len(free) + 1] = raised[free]
        if len(free) < tuning.LEAST_KEPT_FACTOR:
            return solve(H, r)
        scale = 1.0 / np.sqrt(np.where(raised > 0, raised, 1.0))
        H *= scale[free]
        H *= scale[free, None]
        H.ravel()[:: len(free) + 1] += tuning.LEAST_RAISE
        cholesky, failed = dpotrf(H.T, lower=1)
        if failed:
            return scale[free] * solve(H, scale[free] * r)
        self.factor = _Factor(free, cholesky, scale, raised)
        return scale[free] * dpotrs(cholesky, scale[free] * r, lower=1)[0]

    def _solved_by_factor(self, known, free, r):
        """The solution by the factor of a part that differs by few rows; None if that takes as long, or is inexact.

        Rows that are new border the known part, and those that have left it get a multiplier that holds them at zero.
        """
        place, is_free = np.full(len(self.H), -1), np.zeros(len(self.H), dtype=bool)
        place[known.free], is_free[free] = np.arange(len(known.free)), True
        new, left = free[place[free] < 0], known.free[~is_free[known.free]]
        n_new, n_border = len(new), len(new) + len(left)
        if tuning.FACTOR_PER_BORDER * n_border > len(known.free):
            return None
        right = np.zeros((len(self.H), 1 + n_border))  # the right-hand side, and the border, scaled to a unit diagonal
        right[free, 0] = r
        right[:, 1 : 1 + n_new] = self.H[:, new] * known.scale[new]
        right[left, 1 + n_new + np.arange(len(left))] = 1.0 / known.scale[left]
        right *= known.scale[:, None]
        border = right[known.free, 1:]
        inner = np.zeros((n_border, n_border))
        inner[:n_new, :n_new] = right[new, 1 : 1 + n_new]
        inner.ravel()[: n_new * n_border : n_border + 1] = 1.0 + tuning.LEAST_RAISE
        at = right[known.free, 0]
        at[place[left]] = 0.0
        out = dpotrs(known.cholesky, np.column_stack([at, border]), lower=1)[0]
        outer = np.zeros(n_border)
        outer[:n_new] = right[new, 0]
        y = _solve_general(inner - border.T @ out[:, 1:], outer - border.T @ out[:, 0])
        x = np.zeros(len(self.H))
        x[known.free], x[new] = out[:, 0] - out[:, 1:] @ y, y[:n_new]
        x[left] = 0.0
        product = self.times(known.scale * x) + (known.diagonal - self.H.diagonal()) * known.scale * x
        missing = known.scale * product + tuning.LEAST_RAISE * x - right[:, 0]
        exact = np.linalg.norm(missing[free]) <= tuning.MOST_MISSING_BY_FACTOR * np.linalg.norm(right[free, 0])
        return (known.scale * x)[free] if exact else None


class _Factor(NamedTuple):
    """The Cholesky factor of the rows and columns at `free` of a matrix (a, a), scaled to a unit diagonal."""

    free: np.ndarray  # (f,)
    cholesky: np.ndarray  # (f, f)
    scale: np.ndarray  # (a,)
    diagonal: np.ndarray  # (a,) of the matrix, with what was added


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


class _Eliminated(NamedTuple):
    """What a block's inverse, on its rows and columns that are free, is asked for."""

    x: np.ndarray  # (f,) times the right-hand side
    product: np.ndarray  # (2 k, 2 k) times the pairs' N, and N again
    along: np.ndarray  # (2 k,) N x
    back: Callable[[np.ndarray], np.ndarray]  # the inverse times N' y, (f,)


class _DenseBlock:
    """A block theta H (m, m), and the part of the pairs' N (2 k, m) on it."""

    def __init__(self, H: np.ndarray, N: np.ndarray, theta: float):
        self.H, self.N, self.theta = H, N, theta

    def eliminated(self, index: np.ndarray, r: np.ndarray, shift: np.ndarray | None) -> _Eliminated:
        """Solve for the rows and columns at an index (f,), of r (f,); `shift` (m,) is added."""
        H, N = self.H[np.ix_(index, index)], self.N[:, index]
        H *= self.theta
        if shift is not None:
            H.ravel()[:: len(index) + 1] += shift[index]
        out = solve(H, np.vstack([r, N]).T).T
        return _Eliminated(out[0], N @ out[1:].T, N @ out[0], lambda y: y @ out[1:])


class _DiagonalBlock:
    """A diagonal block (m,), which may be long: what is made of all of it is made again only where it changes."""

    def __init__(self, diagonal: np.ndarray, N: np.ndarray, theta: float):
        self.diagonal, self.N = theta * diagonal, N
        self.inverse, self.product = np.zeros_like(diagonal), np.zeros((len(N), len(N)))
        self.summed = np.zeros(len(N))

    def eliminated(self, index: np.ndarray, r: np.ndarray, shift: np.ndarray | None) -> _Eliminated:
        """See `_DenseBlock`."""
        inverse, x = np.zeros_like(self.diagonal), np.zeros_like(self.diagonal)
        inverse[index] = 1.0 / (self.diagonal[index] if shift is None else (self.diagonal + shift)[index])
        x[index] = r
        x *= inverse
        self._know_product(inverse)
        return _Eliminated(x[index], self.product, self.N @ x, lambda y: (y @ self.N)[index] * inverse[index])

    def _know_product(self, inverse):
        changed = np.flatnonzero(inverse != self.inverse)
        if 4 * len(changed) <= np.count_nonzero(inverse):
            N = self.N[:, changed]
            product = self.product + (N * (inverse - self.inverse)[changed]) @ N.T
            # Where nearly all of it is taken away, rounding is what would be left.
            if (product.diagonal() >= tuning.LEAST_LEFT_SHARE * self.summed).all():
                self.inverse, self.product = inverse, product
                self.summed = np.maximum(self.summed, product.diagonal())
                return
        N = self.N * np.sqrt(inverse)
        self.inverse, self.product = inverse, N @ N.T
        self.summed = self.product.diagonal().copy()  # the largest since it was summed afresh


class BlockMatrix(Matrix):
    """Diagonal blocks, each a matrix (m, m) or the diagonal (m,) of one, plus pairs of BFGS.

    The pairs S and Y (a, k), the oldest first, make theta H - N' M^-1 N of the blocks H (Byrd, Nocedal and Schnabel
    1994, doi:10.1007/BF01582063, theorem 2.3); theta scales the blocks to the newest pair.
    """

    def __init__(self, blocks: Sequence[np.ndarray], S: np.ndarray | None = None, Y: np.ndarray | None = None):
        self.H, self.theta, self.n_pairs = blocks, 1.0, 0
        ends = np.cumsum([len(H) for H in blocks])
        self.places = [slice(end - len(H), end) for H, end in zip(blocks, ends.tolist(), strict=True)]
        self.M, self.N = np.empty((0, 0)), np.empty((0, ends[-1] if len(ends) else 0))
        if S is not None and Y is not None and S.size:
            self._add_pairs(np.ascontiguousarray(S.T), np.ascontiguousarray(Y.T))
        self.blocks = [
            (_DiagonalBlock if H.ndim == 1 else _DenseBlock)(H, self.N[:, place], self.theta)
            for H, place in zip(self.H, self.places, strict=True)
        ]

    def _add_pairs(self, S, Y):
        """N (2 k, a), in rows, along which products with so few of them are fast, and M, of S and Y (k, a)."""
        self.n_pairs = k = len(S)
        scale = 1.0 / np.sqrt(np.einsum("ij,ij->i", S, S))
        self.N = np.empty((2 * k, S.shape[1]))
        for H, place in zip(self.H, self.places, strict=True):
            self.N[:k, place] = S[:, place] * H if H.ndim == 1 else S[:, place] @ H
        low, high = tuning.BLOCK_SCALES
        newest = max(float(S[-1] @ self.N[k - 1]), np.finfo(float).tiny)
        self.theta = float(np.clip(S[-1] @ Y[-1] / newest, low, high))
        self.N[:k] *= (self.theta * scale)[:, None]
        np.multiply(Y, scale[:, None], out=self.N[k:])
        moved, changed = np.split((S @ self.N.T) * scale[:, None], 2, axis=1)
        L = np.tril(changed, -1)
        self.M = np.block([[moved, L], [L.T, -np.diag(changed.diagonal())]])

    def simplified(self) -> Matrix:
        """As a single matrix, if it has one block."""
        if len(self.H) != 1 or self.H[0].ndim == 1:
            return self
        H = self.theta * self.H[0]
        if not self.n_pairs:
            return DenseMatrix(H)
        H -= self.N.T @ _solve_general(self.M, self.N)
        return DenseMatrix(0.5 * (H + H.T))

    def diagonal(self):
        """See `Matrix`."""
        out = self.theta * np.concatenate([H if H.ndim == 1 else H.diagonal() for H in self.H])
        if not self.n_pairs:
            return out
        inverse = _solve_general(self.M, np.eye(len(self.M)))  # so many right-hand sides as N has cost ten products
        of_pairs = np.einsum("ij,ij->j", self.N, inverse @ self.N)
        return np.maximum(out - of_pairs, tuning.LEAST_DIAGONAL_SHARE * out)

    def times(self, v):
        """See `Matrix`."""
        out = np.empty_like(v)
        for H, place in zip(self.H, self.places, strict=True):
            part = v[place]
            if H.ndim == 1:
                out[place] = H * part
            elif 2 * np.count_nonzero(part) < len(part):
                index = np.flatnonzero(part)
                out[place] = part[index] @ H[index]
            else:
                out[place] = H @ part
        out *= self.theta
        return out if not self.n_pairs else out - _solve_general(self.M, self.N @ v) @ self.N

    def solve(self, free, r, shift=None):
        """See `Matrix`; the pairs by the Woodbury identity."""
        ends = np.searchsorted(free, [0, *(place.stop for place in self.places)])
        parts = [
            block.eliminated(free[i:j] - place.start, r[i:j], None if shift is None else shift[place])
            for block, place, (i, j) in zip(self.blocks, self.places, pairwise(ends), strict=True)
        ]
        x = np.concatenate([part.x for part in parts])
        if not self.n_pairs:
            return x
        small = self.M - np.sum([part.product for part in parts], axis=0)
        y = _solve_general(small, np.sum([part.along for part in parts], axis=0))
        return x + np.concatenate([part.back(y) for part in parts])
