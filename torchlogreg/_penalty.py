"""The penalty: strengths per coefficient. No penalty is strength 0, and the intercept is a row of strength 0."""

from typing import NamedTuple

import torch


class Strengths(NamedTuple):
    """Factors of the L1 norm and of half the squared L2 norm."""

    l1: float
    l2: float


def strengths(C, l1_ratio):
    """The strengths that scikit-learn's `C` and `l1_ratio` stand for."""
    return Strengths(l1_ratio / C, (1.0 - l1_ratio) / C)


class Ridge(NamedTuple):
    """Half the squared norm of the coefficients, weighted by `l2` (B, d, 1); the intercept's row holds zero."""

    l2: torch.Tensor

    @classmethod
    def of(cls, l2, n_features, *, intercept, home):
        row = torch.full((1, n_features + intercept, 1), float(l2), dtype=home.dtype, device=home.device)
        if intercept:
            row[:, -1] = 0.0
        return cls(row)

    def divided(self, total):
        """Strengths over S, total (B,)."""
        return Ridge(self.l2 / total[:, None, None])

    def of_models(self, index):
        """The penalties of the models at `index` alone."""
        return Ridge(self.l2[index] if len(self.l2) > 1 else self.l2)

    def value(self, W):
        """(B,)"""
        return 0.5 * (self.l2 * W * W).sum(dim=(1, 2))

    def gradient(self, W):
        """(B, d, K)"""
        return self.l2 * W
