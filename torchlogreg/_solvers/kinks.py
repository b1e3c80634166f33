"""Kinks of an L1 norm and bounds, of one model's coefficients, in NumPy and class-major."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._solvers import tuning


class Kinks(NamedTuple):
    """Strengths of the L1 norm and bounds of a coefficients; bounds are None where all of them are infinite."""

    l1: np.ndarray  # (a,)
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    flat: np.ndarray | None = None  # (R, K) index of the coefficients of each feature along which the softmax is flat

    def select(self, index: np.ndarray) -> Kinks:
        """Those of the coefficients at an index, which is sorted."""
        lower, upper = (None if part is None else part[index] for part in (self.lower, self.upper))
        selected = Kinks(self.l1[index], lower, upper)
        if self.flat is None:
            return selected
        place = np.full(len(self.l1), -1)
        place[index] = np.arange(len(index))
        flat = place[self.flat]
        flat = flat[(flat >= 0).all(axis=1)]
        return selected._replace(flat=flat if len(flat) else None)

    def value(self, u: np.ndarray) -> float:
        """The L1 norm."""
        return float(self.l1 @ np.abs(u))

    def derivatives(self, u: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """To the left and to the right, where the smooth part has that gradient; infinite beyond a bound."""
        left = gradient + np.where(u > 0, self.l1, -self.l1)
        right = gradient + np.where(u >= 0, self.l1, -self.l1)
        if self.lower is not None and self.upper is not None:
            left, right = np.where(u <= self.lower, -math.inf, left), np.where(u >= self.upper, math.inf, right)
        return left, right

    def violation(self, u: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """See `ElasticNet.least_subgradient`."""
        left, right = self.derivatives(u, gradient)
        return np.maximum(left, np.minimum(right, 0.0))

    def change(self, u: np.ndarray, w: np.ndarray, slope: np.ndarray) -> float:
        """Of the objective from w to u, where the smooth part has that slope at w: its curvature left out."""
        return float(slope @ (u - w)) + self.value(u) - self.value(w)

    def pieces(self, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the intervals without a kink that the coefficients on that side of zero (1, -1, or 0) are in."""
        low, high = np.where(side > 0, 0.0, -math.inf), np.where(side < 0, 0.0, math.inf)
        if self.lower is None or self.upper is None:
            return low, high
        return np.maximum(low, self.lower), np.minimum(high, self.upper)


def at_medians(u: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Coefficients that differ from u by a constant for each row of an index `flat` (R, K), and have the least L1 norm.

    That constant is a median; of several the one nearest zero. (A coefficient of zero in every row, where an even
    number of classes leaves a choice, costs three times the iterations on nearly separable classes.)
    """
    values = np.sort(u[flat], axis=1)
    n_classes = values.shape[1]
    shift = np.clip(0.0, values[:, (n_classes - 1) // 2], values[:, n_classes // 2])
    u = u.copy()
    u[flat] -= shift[:, None]
    return u


def kinks_of(penalty: ElasticNet, n_logits: int, model: int = 0) -> Kinks:
    """The kinks and bounds of a model's coefficients, class-major."""

    def row(part: torch.Tensor) -> np.ndarray:
        return np.tile(part[min(model, len(part) - 1), :, 0].numpy(force=True), n_logits)

    d = penalty.l2.shape[1]
    l1 = np.zeros(n_logits * d) if penalty.l1 is None else row(penalty.l1)
    kinks = Kinks(l1, *(None if part is None else row(part) for part in (penalty.lower, penalty.upper)))
    features = np.flatnonzero((l1[:d] > 0) & (row(penalty.l2)[:d] == 0))
    if n_logits == 1 or penalty.lower is not None or not len(features):
        return kinks
    return kinks._replace(flat=features[:, None] + d * np.arange(n_logits))


def candidates(
    w: np.ndarray, slope: np.ndarray, kinks: Kinks, also: np.ndarray | None = None, near: float = tuning.NEAR_KINK
) -> np.ndarray:
    """Index of the coefficients that are not at a kink or bound or nearly leave it, and of those `also` wanted.

    Of many, those that leave theirs come first, then the nearest. A kink is nearly left from the share `near` of its L1
    strength on.
    """
    if len(w) <= tuning.FEW_CANDIDATES:
        return np.arange(len(w))
    inside = (w != 0) | (kinks.l1 == 0)
    if kinks.lower is not None and kinks.upper is not None:
        inside &= (w > kinks.lower) & (w < kinks.upper)
    if also is not None:
        inside |= also
    nearly = kinks._replace(l1=near * kinks.l1)  # with less of the norm, bounds are left later
    leaves, nears = (np.abs(some.violation(w, slope)) for some in (kinks, nearly))
    index = np.flatnonzero(~inside & ((leaves > 0) | (nears > 0)))
    n_most = max(2 * np.count_nonzero(inside & (w != 0)), tuning.MOST_NEAR_KINKS)
    if len(index) > n_most:
        scale = np.where(kinks.l1 > 0, kinks.l1, 1.0)
        share = (np.where(leaves > 0, scale + leaves, nears) / scale)[index]
        index = index[np.argpartition(-share, n_most)[:n_most]]
    inside[index] = True
    return np.flatnonzero(inside)


def flat(W: np.ndarray) -> np.ndarray:
    """W (d, K), class-major."""
    return W.T.ravel()


def unflat(w: np.ndarray, d: int) -> np.ndarray:
    """(d, K) from class-major."""
    return np.ascontiguousarray(w.reshape(-1, d).T)
