"""A preconditioner for text and other sparse data: the Hessian of frequent columns, and the diagonal of the others.

Where word frequencies follow Zipf's law, some hundred columns hold half of the numbers and nearly all of the curvature
that a diagonal misses. They form a dense objective of few features, for which the preconditioners of dense data serve.
On 100,000 x 50,000 with 6.7 million numbers, C = 1, L-BFGS takes 16 passes to a relative gap of 1e-6 with the 400
most frequent columns, 35 with a diagonal, and more than 100 without one.
"""

from dataclasses import dataclass, replace

import torch

from torchlogreg._solvers import tuning
from torchlogreg._solvers.preconditioners.base import Preconditioner
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.eigenbasis import EigenbasisPreconditioner


@dataclass(frozen=True, eq=False, repr=False)
class FrequentColumnsPreconditioner(Preconditioner):
    """The preconditioners of G models."""

    columns: torch.Tensor  # (h,) index of the frequent columns
    coupled_block: CholeskyPreconditioner | EigenbasisPreconditioner  # of these and the intercept
    diagonal: torch.Tensor  # (G, d, K) of the Hessian

    def select(self, index):
        """See `Preconditioner`."""
        return replace(self, coupled_block=self.coupled_block.select(index), diagonal=self.diagonal[index])

    def raised(self, x, groups=None):
        """See `Preconditioner`."""
        product, rounding = self.coupled_block.raised(x[:, self.columns], groups)
        out = torch.zeros_like(x)
        out[:, self.columns] = product
        return out, rounding

    def most_raised(self, groups=None):
        """See `Preconditioner`."""
        return self.coupled_block.most_raised(groups)

    def solve(self, gradient, groups=None):
        """See `Preconditioner`."""
        out = gradient / (self.diagonal if groups is None else self.diagonal[groups.number])
        out[:, self.columns] = self.coupled_block.solve(gradient[:, self.columns], groups)
        return out


def frequent_columns(of_losses, n_features, n_frequent_columns):
    """Index of the frequent columns, the intercept as last, by the diagonal (G, d, K) of the losses' Hessian."""
    heaviest = of_losses[:, :n_features].sum(dim=(0, 2)).topk(n_frequent_columns).indices
    intercept = torch.arange(n_features, of_losses.shape[1], device=heaviest.device)
    return torch.cat([heaviest.sort().values, intercept])


def frequent_sample_size(n, n_columns, n_logits, factor=1):
    """Rows of the sample of n for the block of so many frequent columns; of one logit `factor` times as many."""
    size = max(4000, 5 * n_columns) if n_logits > 1 else factor * tuning.ROWS_PER_FREQUENT_COLUMN * n_columns
    return min(n, size)
