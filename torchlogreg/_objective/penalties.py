"""The penalty: strengths per coefficient. No penalty is strength 0, and the intercept is a row of strength 0."""

import math
from typing import NamedTuple

import torch


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


class Ridge(NamedTuple):
    """Half the squared norm of the coefficients, weighted by `l2` (B, d, 1); the intercept's row holds zero."""

    l2: torch.Tensor

    @classmethod
    def of(cls, l2, n_features, *, intercept, accumulation):
        row = torch.full(
            (1, n_features + intercept, 1), float(l2), dtype=accumulation.dtype, device=accumulation.device
        )
        if intercept:
            row[:, -1] = 0.0
        return cls(row)

    def divided(self, factors):
        """Strengths over S, which is the product of factors (B,) and itself may overflow."""
        l2 = self.l2
        for factor in factors:
            l2 = l2 / factor[:, None, None]
        if not torch.isfinite(l2).all():
            raise ValueError("The penalty, 1 / C over the sum of the weights, overflows. Raise C or the weights.")
        return Ridge(l2)

    def select(self, index):
        """The penalties of the models at `index` alone."""
        return Ridge(self.l2[index] if len(self.l2) > 1 else self.l2)

    def value(self, W):
        """(B,)"""
        return 0.5 * (self.l2 * W * W).sum(dim=(1, 2))

    def gradient(self, W):
        """(B, d, K)"""
        return self.l2 * W
