"""A metric for text and other sparse data: the Hessian of a few heavy columns, and the diagonal of the others.

Where word frequencies follow Zipf's law, some hundred columns hold half of the numbers and nearly all of the curvature
that a diagonal misses. They form a dense problem of few features, for which the metrics of dense data serve.
On 100,000 x 50,000 with 6.7 million numbers, C = 1, L-BFGS takes 16 reads to a relative gap of 1e-6 with a head of 400
columns, 35 with a diagonal, and more than 100 without a metric.
"""

from typing import NamedTuple

import torch

from torchlogreg._solvers.line_search import CholeskyPreconditioner, select
from torchlogreg._solvers.preconditioners.eigenbasis import EigenbasisPreconditioner

ROWS_PER_COLUMN = 20  # of the sample for the head of one logit


class FrequentColumnsPreconditioner(NamedTuple):
    """The metrics of G models."""

    columns: torch.Tensor  # (h,) index of the head
    coupled_block: CholeskyPreconditioner | EigenbasisPreconditioner  # of these and the intercept
    diagonal: torch.Tensor  # (G, d, K) of the Hessian

    def select(self, index):
        """The metrics of the models at `index` alone."""
        coupled_block, diagonal = select(index, self.coupled_block, self.diagonal)
        return self._replace(coupled_block=coupled_block, diagonal=diagonal)

    def raised(self, x, of=None):
        """See `CholeskyPreconditioner.raised`; of the head alone."""
        product, rounding = self.coupled_block.raised(x[:, self.columns], of)
        out = torch.zeros_like(x)
        out[:, self.columns] = product
        return out, rounding

    def most_raised(self, of=None):
        """See `CholeskyPreconditioner.most_raised`."""
        return self.coupled_block.most_raised(of)

    def solve(self, gradient, of=None):
        """The metrics' inverses times gradient (B, d, K), that of model of[b], or b, for each b."""
        out = gradient / (self.diagonal if of is None else self.diagonal[of])
        out[:, self.columns] = self.coupled_block.solve(gradient[:, self.columns], of)
        return out


def frequent_columns(objective, diagonal, n_frequent_columns):
    """Index of the head, the intercept as last: the columns that raise the diagonal (G, d, K) the most."""
    p = objective.design.n_features
    heaviest = (diagonal - objective.penalty.l2)[:, :p].sum(dim=(0, 2)).topk(n_frequent_columns).indices
    return torch.cat([heaviest.sort().values, torch.arange(p, diagonal.shape[1], device=heaviest.device)])
