"""The penalty: strengths per coefficient, and bounds.

No penalty is strength 0, and the intercept is a row of strength 0. A coefficient that is left out has bounds
of 0 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

import numpy as np
import torch

from torchlogreg._data.device import Placement
from torchlogreg._objective import tuning


class Strengths(NamedTuple):
    """Factors of the L1 norm and of half the squared L2 norm."""

    l1: float
    l2: float


def strengths(C, l1_ratio):
    """The strengths that scikit-learn's `C` and `l1_ratio` stand for."""
    strength = 1.0 / float(C)
    if not math.isfinite(strength):
        raise ValueError(f"C={C} is too small: 1 / C overflows.")
    return Strengths(l1_ratio * strength, (1.0 - l1_ratio) * strength)


class PerFeature(NamedTuple):
    """What p features have of their own; None for what none of them has."""

    weights: np.ndarray | None = None  # (p,) finite factors of both strengths
    lower: np.ndarray | None = None  # (p,) bounds of the coefficients; both of them or none
    upper: np.ndarray | None = None

    def of_columns(self, columns: np.ndarray) -> Self:
        """Of the features at an index alone."""
        return type(self)(*(None if part is None else part[columns] for part in self))

    def clipped(self, W: torch.Tensor) -> torch.Tensor:
        """W (B, d, K) with the coefficients of the features within their bounds."""
        if self.lower is None or self.upper is None:
            return W
        lower, upper = (torch.from_numpy(bound)[:, None].to(W) for bound in (self.lower, self.upper))
        p = len(lower)
        return torch.cat([torch.minimum(torch.maximum(W[:, :p], lower), upper), W[:, p:]], dim=1)


NOTHING_OF_THEIR_OWN = PerFeature()


class ElasticNet(NamedTuple):
    """sum_j l1_j |w_j| + l2_j w_j^2 / 2, for lower_j <= w_j <= upper_j; all of them (B, d, 1) or (1, d, 1).

    Where no model has an L1 norm, or bounds, they are None: nothing is then computed for them, nor asked of a device.
    """

    l2: torch.Tensor
    l1: torch.Tensor | None = None
    lower: torch.Tensor | None = None
    upper: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        strengths: Strengths,
        n_features: int,
        *,
        intercept: bool,
        accumulation: Placement,
        own: PerFeature = NOTHING_OF_THEIR_OWN,
    ) -> ElasticNet:
        """The penalty of one model: the same strengths for all features, but for what they have of their `own`."""

        def row(features, of_intercept):
            values = np.append(np.broadcast_to(features, n_features), [of_intercept] * intercept)
            return torch.from_numpy(values.astype(np.float64)).to(accumulation.device)[None, :, None]

        weights = 1.0 if own.weights is None else own.weights
        with np.errstate(over="ignore"):  # `divided` reports it
            l1, l2 = (row(strength * weights, 0.0) for strength in strengths)
        lower, upper = (
            None if bound is None else row(bound, infinity)
            for bound, infinity in ((own.lower, -math.inf), (own.upper, math.inf))
        )
        return cls(l2, l1 if strengths.l1 else None, lower, upper)

    @property
    def is_smooth(self) -> bool:
        """Whether it has a gradient everywhere: no L1 norm and no bounds."""
        return self.l1 is None and self.lower is None

    def is_isotropic(self, n_features: int) -> bool:
        """Whether a rotation of the features changes nothing."""
        features = self.l2[:, :n_features]
        return self.is_smooth and bool((features == features[:, :1]).all())

    @property
    def is_free(self) -> torch.Tensor:
        """Which coefficients have no penalty, (B, d, 1)."""
        free = self.l2 == 0
        return free if self.l1 is None else free & (self.l1 == 0)

    @property
    def lift(self) -> float:
        """Share of its mean curvature by which a softmax is lifted along a row that has no penalty (see `_pin`)."""
        return 1.0 if self.lower is None else tuning.BOUNDED_LIFT

    def unlimited(self, W: torch.Tensor) -> torch.Tensor:
        """W (B, d, K) without the coefficients that a penalty or a bound keeps from growing for ever."""
        grows = self.is_free
        if self.lower is not None and self.upper is not None:
            grows = grows & (torch.where(W > 0, self.upper, -self.lower) == math.inf)
        return torch.where(grows, W, 0.0)

    def divided(self, factors: Iterable[torch.Tensor]) -> ElasticNet:
        """Strengths over S, which is the product of factors (B,) and itself may overflow."""
        l1, l2 = self.l1, self.l2
        for factor in factors:
            l2 = l2 / factor[:, None, None]
            l1 = None if l1 is None else l1 / factor[:, None, None]
        if not torch.isfinite(l2 if l1 is None else l1 + l2).all():
            raise ValueError("The penalty, 1 / C over the sum of the weights, overflows. Raise C or the weights.")
        return self._replace(l1=l1, l2=l2)

    def select(self, index: torch.Tensor | slice) -> ElasticNet:
        """The penalties of the models at `index` alone."""
        return self._map(lambda t: t if len(t) == 1 else t[index])

    def of_columns(self, columns: torch.Tensor | slice) -> ElasticNet:
        """The penalties of the coefficients at an index alone."""
        return self._map(lambda t: t[:, columns])

    def to(self, device: str) -> ElasticNet:
        """The same on a device."""
        return self._map(lambda t: t.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ElasticNet:
        l1, lower, upper = (None if t is None else function(t) for t in self[1:])
        return ElasticNet(function(self.l2), l1, lower, upper)

    def value(self, W: torch.Tensor) -> torch.Tensor:
        """(B,)"""
        value = 0.5 * (self.l2 * W * W).sum(dim=(1, 2))
        return value if self.l1 is None else value + (self.l1 * W.abs()).sum(dim=(1, 2))

    def gradient(self, W: torch.Tensor) -> torch.Tensor:
        """The gradient of the smooth part, (B, d, K)."""
        return self.l2 * W

    def least_subgradient(self, W: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The subgradient of least norm where the smooth part of the objective has `gradient` (B, d, K) at W.

        It is zero at an optimum and nowhere else: the number nearest zero between the derivatives to the left and to
        the right, which are infinite beyond a bound.
        """
        left, right = gradient, gradient
        if self.l1 is not None:
            left, right = left + torch.where(W > 0, self.l1, -self.l1), right + torch.where(W >= 0, self.l1, -self.l1)
        if self.lower is not None:
            left = left.masked_fill(self.lower >= W, -math.inf)
        if self.upper is not None:
            right = right.masked_fill(self.upper <= W, math.inf)
        return torch.maximum(left, right.clamp(max=0.0))

    def clipped(self, W: torch.Tensor) -> torch.Tensor:
        """The nearest coefficients within the bounds."""
        if self.lower is None or self.upper is None:
            return W
        return torch.minimum(torch.maximum(W, self.lower), self.upper)

    def excess(self, W: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        """penalty(w) + conjugate(v) - w v, elementwise (B, d, K): zero where v is a subgradient at w, else positive.

        With u the coefficient at which v is a subgradient, it is the penalty's Bregman divergence of w from u, computed
        without cancellation. Infinite where there is no u.
        """
        l1 = torch.zeros_like(self.l2) if self.l1 is None else self.l1
        beyond = torch.sign(V) * (V.abs() - l1).clamp(min=0.0)  # soft threshold
        U = self.clipped(torch.where(beyond == 0, 0.0, beyond / self.l2))
        exists = U.isfinite()
        U = torch.where(exists, U, 0.0)
        linear = l1 * (W.abs() - U.abs()) - (V - self.l2 * U) * (W - U)
        return torch.where(exists, 0.5 * self.l2 * (W - U).square() + linear.clamp(min=0.0), math.inf)
