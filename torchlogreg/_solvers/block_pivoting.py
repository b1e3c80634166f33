"""The quadratic model of an objective whose penalty has kinks and bounds, minimised in NumPy.

Few small Cholesky factors take the place of a loop over coordinates: block principal pivoting (Kim and Park 2010,
doi:10.1137/090773726) guesses which coefficients are at a kink or bound and on which side of it the others are, solves
for the others at once, and exchanges all that contradict the guess. Where that cycles, as on strongly dependent
columns, proximal-point steps around it have subproblems that are better conditioned. Of ten hard quadratics, plain
pivoting fails on two, an active set that changes one coefficient at a time needs up to 403 solutions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torchlogreg._solvers import tuning
from torchlogreg._solvers.kinks import Kinks
from torchlogreg._solvers.matrices import Matrix


class _Guess(NamedTuple):
    """Which coefficients are free, on which side of zero, and where the others are."""

    free: np.ndarray  # (a,) bool
    side: np.ndarray  # (a,) 1, -1, or 0 where there is no L1 norm
    at: np.ndarray  # (a,) value of those that are not free

    @classmethod
    def near(cls, kinks: Kinks, u: np.ndarray, gradient: np.ndarray, tol: float) -> _Guess:
        """At u: a coefficient leaves its kink or bound if its derivative says so."""
        left, right = kinks.derivatives(u, gradient)
        held = (u == 0) & (kinks.l1 > 0)
        if kinks.lower is not None and kinks.upper is not None:
            held |= (u <= kinks.lower) | (u >= kinks.upper)
        if np.count_nonzero(~held) <= tuning.PIVOTS_FROM_SUPPORT:  # else first for the coefficients at hand alone
            held &= ~((right < -tol) | (left > tol))
        side = np.where(u != 0, np.sign(u), -np.sign(gradient))
        return cls(~held, np.where(kinks.l1 > 0, side, 0.0), u).anchored(kinks, u)

    def exchanged(self, kinks: Kinks, u: np.ndarray, gradient: np.ndarray, tol: float) -> tuple[_Guess, int]:
        """The guess without what contradicts it, and how much did: u minimises where the guess is right."""
        if kinks.lower is None or kinks.upper is None:
            return self._exchanged_at_zero(kinks, u, gradient, tol)
        low, high = kinks.pieces(self.side)
        below, above = self.free & (u < low), self.free & (u > high)
        left, right = kinks.derivatives(u, gradient)
        rises, falls = ~self.free & (right < -tol), ~self.free & (left > tol)
        at = np.where(below, low, np.where(above, high, u))
        side = np.where(rises, np.where(u >= 0, 1.0, -1.0), np.where(falls, np.where(u <= 0, -1.0, 1.0), self.side))
        side = np.where(kinks.l1 > 0, side, 0.0)
        n_wrong = int(np.count_nonzero(below | above | rises | falls))
        guess = _Guess((self.free & ~below & ~above) | rises | falls, side, at)
        return guess.anchored(kinks, at), n_wrong

    def _exchanged_at_zero(self, kinks, u, gradient, tol):
        """The same without bounds, where all that is not free is zero: a third of the operations."""
        crossed, held, beyond = self.free & (u * self.side < 0), ~self.free, kinks.l1 + tol
        rises, falls = held & (gradient < -beyond), held & (gradient > beyond)
        n_wrong = int(np.count_nonzero(crossed) + np.count_nonzero(rises) + np.count_nonzero(falls))
        if not n_wrong:
            return self, 0
        enters, n_free = np.flatnonzero(rises | falls), np.count_nonzero(self.free)
        most = max(tuning.PIVOTS_FROM_SUPPORT, int(tuning.PIVOT_GROWTH * n_free))
        if len(enters) > most:  # on more columns than rows, most of many would have to leave again
            held = np.abs(gradient[enters]) - beyond[enters]
            late = enters[np.argpartition(held, -most)[:-most]]
            rises[late] = falls[late] = False
        at = np.where(crossed, 0.0, u)
        side = np.where(rises, 1.0, np.where(falls, -1.0, self.side))
        return _Guess((self.free & ~crossed) | rises | falls, side, at).anchored(kinks, at), n_wrong

    def anchored(self, kinks: Kinks, u: np.ndarray) -> _Guess:
        """The guess with a coefficient at zero in every feature along whose classes the softmax is flat.

        A constant on all of its coefficients changes the L1 norm alone, which is least where their median is zero.
        Without an anchor the matrix would be singular.
        """
        if kinks.flat is None:
            return self
        rows = kinks.flat[self.free[kinks.flat].all(axis=1)]
        if not len(rows):
            return self
        values, n_classes = u[rows], rows.shape[1]
        order = values.argsort(axis=1)
        middle = order[:, [(n_classes - 1) // 2, n_classes // 2]]  # the same twice for an odd number
        nearer = np.abs(np.take_along_axis(values, middle, axis=1)).argmin(axis=1)
        place = middle[np.arange(len(rows)), nearer]
        side, free, at = self.side.copy(), self.free.copy(), self.at.copy()
        shifted = values - values[np.arange(len(rows)), place][:, None]
        side[rows] = np.where(shifted != 0, np.sign(shifted), side[rows])
        anchors = rows[np.arange(len(rows)), place]
        free[anchors], at[anchors] = False, 0.0
        return _Guess(free, side, at)


def hides_curvature(matrix: Matrix, slope: np.ndarray, kinks: Kinks, start: np.ndarray, u: np.ndarray) -> bool:
    """Whether what is solved with at the minimiser u is another matrix: a diagonal was raised, or by rounding.

    The other arguments are those of `minimise_quadratic`. A raise by a millionth of a millionth is more than the
    curvature along some directions that matter where columns depend on one another and the penalty is weak.
    """
    if not len(u):
        return False
    gradient = slope + matrix.times(u - start)
    free = np.flatnonzero((u != 0) | (np.abs(gradient) > kinks.l1) | (kinks.l1 == 0))
    scale = np.sqrt(matrix.diagonal()[free])
    known = scale > 0
    r = _normal(len(free)) * scale
    x = np.zeros(len(u))
    x[free] = matrix.solve(free, r)
    missing = ((matrix.times(x)[free] - r)[known] / scale[known]) ** 2
    return bool(missing.sum() > tuning.MOST_MISSING**2 * len(free))


@lru_cache(maxsize=8)
def _normal(size):
    """Random numbers, the same ones each time."""
    return np.random.default_rng(0).standard_normal(size)


def _pivot(matrix, kinks, u, gradient, tol, shift=None):
    """The minimiser, with `shift` added to the diagonal; None if the guesses go in a circle; and the solutions.

    All of it is in changes of u, where the smooth part has that gradient: on columns whose mean is huge beside their
    spread, products of the matrix with u itself leave nothing of a small change.
    """
    start, slope = u, gradient
    guess, fewest, patience = _Guess.near(kinks, u, gradient, tol), len(u) + 1, tuning.PIVOT_PATIENCE
    for n_solved in range(1, tuning.MOST_PIVOTS + 1):
        (free,) = guess.free.nonzero()
        change = np.where(guess.free, 0.0, guess.at - start)
        r = slope[free] + kinks.l1[free] * guess.side[free]
        if change.any():
            r = r + matrix.times(change)[free]
        change[free] = matrix.solve(free, -r, shift)
        u = np.where(guess.free, start + change, guess.at)
        gradient = slope + matrix.times(change)
        if shift is not None:
            gradient = gradient + shift * change
        guess, n_wrong = guess.exchanged(kinks, u, gradient, tol)
        if not n_wrong:
            return u, n_solved
        if n_wrong < fewest:
            fewest, patience = n_wrong, tuning.PIVOT_PATIENCE
        else:
            patience -= 1
            if not patience:
                break
    return None, n_solved


def _spread(matrix, kinks):
    """The diagonal, less what those without a kink or bounds explain of it: the spread of columns about their mean.

    A proximal term of a share of the diagonal itself holds columns in place whose mean is large.
    """
    diagonal = matrix.diagonal()
    smooth = kinks.l1 == 0
    if kinks.lower is not None and kinks.upper is not None:
        smooth &= np.isinf(kinks.lower) & np.isinf(kinks.upper)
    index = np.flatnonzero(smooth)
    if not 0 < len(index) <= tuning.MOST_EXPLAINING:
        return diagonal
    unit = np.zeros((len(index), len(diagonal)))
    unit[np.arange(len(index)), index] = 1.0
    columns = np.stack([matrix.times(row) for row in unit])
    explained = (columns * np.linalg.lstsq(columns[:, index], columns)[0]).sum(axis=0)
    return np.where(smooth, 0.0, np.maximum(diagonal - explained, tuning.LEAST_RAISE * diagonal))


def minimise_quadratic(
    matrix: Matrix,
    slope: np.ndarray,
    kinks: Kinks,
    start: np.ndarray,
    *,
    share: float = tuning.MODEL_VIOLATION_SHARE,
    floor: float = 0.0,
) -> np.ndarray:
    """argmin (u - start)' H (u - start) / 2 + slope' (u - start) + l1 |u| within the bounds, u (a,).

    Coefficients at a kink stay there while their violation is at most `share` of the largest one at the start, or
    `floor`. Every proximal step lowers the objective.
    """
    first = float(np.abs(kinks.violation(start, slope)).max(initial=0.0))
    if first <= floor:
        return start
    while True:
        u = _minimiser(matrix, slope, kinks, start, max(share * first, floor))
        change = u - start
        lowered = change @ (slope + 0.5 * matrix.times(change)) + kinks.value(u) < kinks.value(start)
        if lowered or share <= tuning.LEAST_VIOLATION_SHARE:
            return u
        share *= 0.01  # what it left to violations was more than all there is to gain


def _minimiser(matrix, slope, kinks, start, tol):
    """See `minimise_quadratic`."""
    u, gradient = start, slope
    found, n_solved = _pivot(matrix, kinks, u, gradient, tol)
    if found is not None:
        return found
    diagonal, strength, least = _spread(matrix, kinks), 0.1, 1e-9
    held = kinks._replace(flat=None)  # the matrix with a shift is not flat
    while n_solved < tuning.MOST_MODEL_SOLUTIONS and strength <= 1e6:
        found, n = _pivot(matrix, held, u, gradient, tol, strength * diagonal)
        n_solved += n
        if found is None:
            strength *= 10.0 if strength < 0.05 else 30.0
            least = strength / 3.0 if strength < 0.05 else least
            continue
        u = found
        gradient = slope + matrix.times(u - start)
        if np.abs(kinks.violation(u, gradient)).max() <= tol:
            break
        if strength <= max(least, 1e-3):
            found, n = _pivot(matrix, kinks, u, gradient, tol)
            n_solved += n
            if found is not None:
                return found
        strength = max(strength / 10.0, least)
    return u
