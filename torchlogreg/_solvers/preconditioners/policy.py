"""Which preconditioner L-BFGS starts from, and which one it gets at a renewal.

That models of nearly the same curvature share a sum over the rows was tried: grids of bench_cv take 0.92 to 1.06 of the
time without it.
"""

from __future__ import annotations

import math

import torch

from torchlogreg._objective.objective import Objective, Point, in_range
from torchlogreg._objective.reparametrisation import is_solved_in_row_space
from torchlogreg._solvers import cost_model, tuning
from torchlogreg._solvers.line_search import Descent, per_model
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.preconditioners.base import Preconditioner
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.eigenbasis import (
    EigenbasisPreconditioner,
    eigenbasis_preconditioner,
    n_leading,
)
from torchlogreg._solvers.preconditioners.frequent_columns import (
    FrequentColumnsPreconditioner,
    frequent_columns,
    frequent_sample_size,
)
from torchlogreg._solvers.preconditioners.refresh import Refresh
from torchlogreg._solvers.preconditioners.shared import Centre, SharedPreconditioner
from torchlogreg._solvers.subsampling import newton_on_samples, sample_rows, sample_where_curved


def is_affordable(objective: Objective, n_logits: int) -> bool:
    """Whether the whole Hessian of all rows may be stored, and costs less than a long fit."""
    n, d = objective.design.shape
    filled = max(1.0, objective.design.n_numbers / n)
    if is_solved_in_row_space(objective):
        d, filled = n + 1, math.inf  # in the coordinates that it is solved in
    return (n_logits * d) ** 2 <= tuning.PRECONDITIONER_NUMBERS and cost_model.hessian(
        n, n, d, n_logits, filled
    ) <= tuning.LONG_FIT_HESSIAN_PASSES


class PreconditionerPolicy:
    """What is affordable for B models over the same rows. Models around a common centre share what samples give.

    Newton's method on a sample of rows gives the start and the first preconditioner where the number of unknowns
    allows. Otherwise it is one in an eigenbasis (or, for one logit, a sample's Hessian), or diagonal where even that is
    too dear, and is renewed on a schedule. Wherever the present pace makes the Hessian of all rows pay (see `Refresh`),
    it takes over.
    """

    def __init__(self, objective: Objective, n_logits: int, centre: Centre | None = None):
        self.objective, self.n_logits, self.centre = objective, n_logits, centre
        self.n, self.d = objective.design.shape
        self.filled = max(1.0, objective.design.n_numbers / self.n)  # numbers in a row

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole Hessian of a sample of rows that serves several models."""
        return self.n_logits == 1 and self._pays(self._sample_size())

    def start(
        self, W: torch.Tensor, point: Point | None, generator: torch.Generator
    ) -> tuple[Point, Preconditioner, Refresh]:
        """The first point and the preconditioner there: the centre's, or from samples of the rows if W is zero.

        The point at W may be known already.
        """
        objective = self.objective
        refresh = Refresh(
            due=tuning.SOON_ITERATION if 2 * self._eigenbasis_rows < self.n and not W.any() else tuning.LATE_ITERATION
        )
        if self.centre is not None:
            if self.centre.W is not None:
                point = objective.value_and_gradient(self.centre.W, self.centre.group)
            else:
                point = objective.value_and_gradient(W)
            return point, self.at(point, None, generator), refresh
        size = self._sample_size()
        if W.any() or 2 * size > self.n or not self._pays(size):
            point = point or objective.value_and_gradient(W)
            return point, self.at(point, None, generator), refresh
        sample = newton_on_samples(objective, W, size, generator, NewtonCholesky(rough=True), spread=True)
        point = objective.value_and_gradient(sample.proposal)
        preconditioner = sample.preconditioner
        gap = Descent(point, preconditioner, -preconditioner.solve(point.gradient)).gap
        is_unrepresentative = ~(
            (gap <= tuning.UNREPRESENTATIVE_GAP) & (point.value <= objective.loss.at_zero)
        )  # NaN included
        if not is_unrepresentative.any():
            return point, preconditioner, Refresh()
        # All rows contradict the sample: begin where the fit was told to, with a Hessian that cannot mislead.
        point = objective.second_order(torch.where(per_model(is_unrepresentative), W, point.W))
        return point._replace(hessian=None), CholeskyPreconditioner.of(point.hessian), Refresh().with_hessian()

    def at(self, point: Point, before: Preconditioner | None, generator: torch.Generator) -> Preconditioner:
        """What is affordable on a sample, at `point`; `before` is the preconditioner that it takes the place of."""
        if self.centre is None:
            return self._affordable(self.objective, point.W, before, generator)
        objective, W, group = self.centre.means(point.W)
        before = before.preconditioner if isinstance(before, SharedPreconditioner) else None
        return SharedPreconditioner.of(self._affordable(objective, W, before, generator), group)

    def with_hessian(self, point: Point) -> Point:
        """`point` with the Hessian of all rows, if that is affordable at all."""
        return self.objective.second_order(point.W) if self._fits(len(point.W)) else point

    def hessian_pays(self, refresh: Refresh, n_models: int) -> bool:
        """Whether to evaluate the Hessian of all rows along with the next point."""
        return not refresh.is_near and self._fits(n_models) and refresh.hessian_pays(n_models, self._cost(self.n))

    def _affordable(self, objective, W, before, generator):
        n_frequent = self.objective.design.n_frequent_columns(self.n_logits)
        if self.n_logits == 1:
            # A preconditioner of B models that repays its cost earlier is worth a larger sample.
            size = self._sample_size(min(len(W), tuning.SHARED_SAMPLE_FACTOR))
            if self._pays(size):
                return CholeskyPreconditioner.of(sample_rows(objective, size, generator, spread=True).hessian(W))
        elif self._eigenbasis_pays and not n_frequent:
            size = self._eigenbasis_rows
            sample = sample_where_curved(objective, W, size, generator)
            r = n_leading(size, self.n, sample.design.n_features, self.n_logits)
            before = before if isinstance(before, EigenbasisPreconditioner) else None
            return eigenbasis_preconditioner(sample, W, r, before)
        if not n_frequent:
            return CholeskyPreconditioner.of(objective.diagonal(W))
        return self._frequent_columns(objective, W, before, n_frequent, generator)

    def _frequent_columns(self, objective, W, before, n_frequent, generator):
        """The preconditioner of the frequent columns as if there were no others, on logits to which all contribute."""
        before = before if isinstance(before, FrequentColumnsPreconditioner) else None
        of_losses = in_range(objective.diagonal_of_losses(W)).mT  # (B, d, K)
        p = objective.design.n_features
        columns = frequent_columns(of_losses, p, n_frequent) if before is None else before.columns
        diagonal = of_losses + objective.penalty.l2
        several, h = self.n_logits > 1, len(columns)
        size = frequent_sample_size(self.n, h, self.n_logits, min(len(W), tuning.SHARED_SAMPLE_FACTOR))
        sample = sample_rows(objective, size, generator, evenly=h < self.d)  # no frequent column is rare
        eta = sample.design.matvec(W)
        sample.passes.n_visited += sample.design.shape[0]
        inside = sample.of_columns(columns)
        if several:
            r = n_leading(size, self.n, inside.design.n_features, self.n_logits)
            earlier = None if before is None else before.coupled_block
            coupled_block = eigenbasis_preconditioner(inside, W, r, earlier, eta)
        else:
            coupled_block = CholeskyPreconditioner.of(inside.hessian_at(eta))
        return FrequentColumnsPreconditioner(columns, coupled_block, torch.where(diagonal > 0, diagonal, 1.0))

    def _sample_size(self, factor=1):
        """Rows of a sample for the whole Hessian."""
        most = min(self.n, self.objective.design.n_samplable)
        return min(most, factor * cost_model.sample_size(self.n, self.d, self.n_logits, self.filled))

    def _pays(self, size):
        """Whether the whole Hessian on a sample of that many rows is affordable, and they are enough for it."""
        enough = min(self.n, min(tuning.ROWS_PER_UNKNOWN) * self.n_logits * self.d)
        return size >= enough and self._cost(size) <= tuning.DEAREST_START_PASSES

    @property
    def _eigenbasis_pays(self):
        """Whether eigenvectors of (d, d) are found in the time of some passes, and the other parts are small."""
        affordable = (
            self.d**2 <= min(64 * self.n * self.n_logits, tuning.PRECONDITIONER_NUMBERS)
            and (2 * self.n_logits) ** 2 <= tuning.PRECONDITIONER_NUMBERS
        )
        return affordable and self._eigenbasis_rows <= self.objective.design.n_samplable

    @property
    def _eigenbasis_rows(self):
        """Rows of the sample for a preconditioner in an eigenbasis."""
        return min(self.n, max(4000, 5 * self.d))

    def _cost(self, m):
        """Passes over X that the whole Hessian costs on m rows; infinite if it is too large to store."""
        return cost_model.hessian(m, self.n, self.d, self.n_logits, self.filled) if self._fits(1) else math.inf

    def _fits(self, n_models):
        """Whether the whole Hessians of so many models may be stored."""
        numbers = (self.n_logits * self.d) ** 2
        return numbers <= tuning.PRECONDITIONER_NUMBERS and n_models * numbers <= tuning.ALL_PRECONDITIONERS_NUMBERS
