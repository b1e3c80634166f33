"""Which metric L-BFGS starts from, and when another one repays its cost."""

import math
from copy import copy
from typing import NamedTuple

import torch

from torchlogreg._objective.objective import Objective, in_range
from torchlogreg._objective.reparametrisation import is_wide
from torchlogreg._solvers import cost_model
from torchlogreg._solvers.line_search import CholeskyPreconditioner, DescentState, per_model, select
from torchlogreg._solvers.preconditioners.eigenbasis import (
    EigenbasisPreconditioner,
    eigenbasis_preconditioner,
    group_by_curvature,
    leading,
)
from torchlogreg._solvers.preconditioners.frequent_columns import (
    ROWS_PER_COLUMN,
    FrequentColumnsPreconditioner,
    frequent_columns,
)
from torchlogreg._solvers.subsampling import newton_on_samples, sample_rows, sample_where_curved

LARGEST, ALL_MODELS = 2**24, 2**25  # numbers in a metric, and in those of all models
DEAREST = 20  # reads of X that one may cost at the start
DOUBTFUL = 0.3  # relative decrease that no sound estimate promises at a point near the optimum
SOON, LATE = 3, 10  # iteration of the first renewal, from few rows or from most; the next ones come at twice the last
GOAL = 1e-8  # relative gap that the Hessian of all rows is to reach sooner than the present metric
WINDOW = 2  # iterations over which the pace is measured
PATIENCE = 0.25  # reads since the last renewal, against the Hessian's cost, before it is thought of
MORE = 4  # sample of models around a centre, against a single one's
TOGETHER = 0.2  # of its time that the read of a model takes beside another one, whose Hessian takes its own time
LITTLE = 2.0  # fall of the gap's logarithm in a step of Newton's that is not converging quadratically
LONG = 50  # reads of a fit that is long
MOST_READS = 60  # beyond which an estimate of the reads to come is not believed
CHANGING = "renewal", "gaps", "newton", "gap_before"  # attributes of `PreconditionerPolicy`
KINDS = (
    CholeskyPreconditioner,
    EigenbasisPreconditioner,
    FrequentColumnsPreconditioner,
)  # of metrics that a state may hold


class Centre(NamedTuple):
    """The model of all rows that several models are near to, such as those of the folds of a cross-validation."""

    objective: Objective  # (G models)
    W: torch.Tensor | None  # (G, d, K) where they all start, if they do
    of: torch.Tensor  # (B,) the model among those that each one is near to

    def select(self, index):
        return self._replace(of=self.of[index])

    def means(self, W):
        """Problem and mean W of the models around each centre that still has some, and the number of each model's."""
        present, of = self.of.unique(return_inverse=True)
        total = W.new_zeros(len(present), *W.shape[1:]).index_add_(0, of, W)
        return self.objective.select(present), total / per_model(of.bincount()), of


def is_affordable(rows, n_logits):
    """Whether the whole Hessian of all rows may be kept, and costs less than a long fit."""
    n, d = rows.shape
    filled = max(1.0, rows.n_numbers / n)
    if is_wide(rows):
        d, filled = n + 1, math.inf  # the problem that is solved
    return (n_logits * d) ** 2 <= LARGEST and cost_model.hessian(n, n, d, n_logits, filled) <= LONG


class SharedPreconditioner(NamedTuple):
    """Metrics that several models share."""

    preconditioner: CholeskyPreconditioner | EigenbasisPreconditioner | FrequentColumnsPreconditioner  # (G models)
    of: torch.Tensor  # (B,) which of them each model uses

    def select(self, index):
        return SharedPreconditioner(self.preconditioner, self.of[index])

    def solve(self, gradient):
        """The metrics' inverses times gradient (B, d, K)."""
        return self.preconditioner.solve(gradient, self.of)

    def most_raised(self):
        """See `CholeskyPreconditioner.most_raised`."""
        return self.preconditioner.most_raised(self.of)

    def raised(self, x):
        """See `CholeskyPreconditioner.raised`."""
        return self.preconditioner.raised(x, self.of)


def _hessians(sample, W, eta=None):
    """Hessians (B, 1, d, d) of models of one logit. Those with nearly the same curvatures share a sum over the rows."""
    if eta is None:
        eta = sample.design.matvec(W)
        sample.passes.n_visited += sample.design.shape[0]
    return sample.hessian_at(
        eta, *group_by_curvature(sample.design.weight[..., None] * sample.loss.logit_curvature(eta))
    )


class PreconditionerPolicy:
    """The metrics of one descent. Models around a common centre share those that come from samples of its rows.

    Newton's method on a sample of rows gives the start and the first metric where the number of unknowns allows.
    Otherwise the metric is hybrid (or, for one logit, a sample's Hessian), or diagonal where even that is too dear, and
    is renewed on a schedule. Wherever the present pace makes the Hessian of all rows pay, it takes over.
    """

    def __init__(self, objective, n_logits, seed, centre=None):
        self.objective, self.n_logits, self.centre = objective, n_logits, centre
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.n, self.d = objective.design.shape
        self.filled = max(1.0, objective.design.n_numbers / self.n)  # numbers in a row
        self.n_frequent_columns = objective.design.n_frequent_columns(n_logits)
        self.cost = self._cost(self.n)  # of the Hessian of all rows
        self.renewal = math.inf
        self.gaps = []  # logarithms, since the metric became that Hessian or since the start
        self.newton = False  # whether it did
        self.gap_before = math.inf  # the last one by such a Hessian that was then renewed

    def select(self, index):
        """The metrics of the models at `index` alone."""
        out = copy(self)
        out.objective, out.centre = select(index, self.objective, self.centre)
        return out

    def state(self):
        """What changes from iteration to iteration, as plain values."""
        return {"generator": self.generator.get_state(), **{name: getattr(self, name) for name in CHANGING}}

    def resume(self, state):
        """Go on from a `state`."""
        self.generator.set_state(state["generator"].cpu())
        vars(self).update({name: state[name] for name in CHANGING})

    @property
    def is_whole(self):
        """Whether it is the whole Hessian of a sample of rows that serves several models."""
        return self.n_logits == 1 and self._pays(self._sample_size())

    def start(self, W, point=None):
        """The first point and the metric there: the centre's, or from samples of the rows if W is zero.

        It may have been read before.
        """
        objective = self.objective
        self.renewal = SOON if 2 * self._hybrid_rows < self.n and not W.any() else LATE
        if self.centre is not None:
            together = self.centre.W is not None
            point = (
                objective.value_and_gradient(self.centre.W, self.centre.of)
                if together
                else objective.value_and_gradient(W)
            )
            return point, self.at(point)
        size = self._sample_size()
        if W.any() or 2 * size > self.n or not self._pays(size):
            point = point or objective.value_and_gradient(W)
            return point, self.at(point)
        self.renewal = math.inf
        sample = newton_on_samples(objective, W, size, self.generator)
        point = objective.value_and_gradient(sample.point.W + sample.direction)
        gap = DescentState(point, sample.preconditioner, -sample.preconditioner.solve(point.gradient)).gap
        is_unrepresentative = ~((gap <= DOUBTFUL) & (point.value <= objective.loss.at_zero))  # NaN included
        if not is_unrepresentative.any():
            return point, sample.preconditioner
        # All rows contradict the sample: begin where the fit was told to, with a metric that cannot mislead.
        point = objective.second_order(torch.where(per_model(is_unrepresentative), W, point.W))
        return point._replace(hessian=None), self.at(point)

    def at(self, point, before=None):
        """The metric at `point`: the whole Hessian if the point has it, else what is affordable on a sample."""
        if point.hessian is not None:
            if self.newton and self.gaps:
                self.gap_before = self.gaps[-1]
            self.gaps, self.newton, self.renewal = [], True, math.inf
            return CholeskyPreconditioner.of(point.hessian)
        if self.centre is None:
            return self._affordable(self.objective, point.W, before)
        objective, W, of = self.centre.means(point.W)
        return SharedPreconditioner(
            self._affordable(objective, W, before.preconditioner if isinstance(before, SharedPreconditioner) else None),
            of,
        )

    def _affordable(self, objective, W, before):
        if self.n_logits == 1:
            # A metric of B models that repays its cost earlier is worth a larger sample.
            size = self._sample_size(min(len(W), MORE))
            if self._pays(size):
                return CholeskyPreconditioner.of(_hessians(sample_rows(objective, size, self.generator), W))
        elif self._hybrid_pays and not self.n_frequent_columns:
            size = self._hybrid_rows
            sample = sample_where_curved(objective, W, size, self.generator)
            r = leading(size, self.n, sample.design.n_features, self.n_logits)
            return eigenbasis_preconditioner(
                sample, W, r, before if isinstance(before, EigenbasisPreconditioner) else None
            )
        return (
            self._head_and_tail(objective, W, before)
            if self.n_frequent_columns
            else CholeskyPreconditioner.of(objective.diagonal(W))
        )

    def _head_and_tail(self, objective, W, before):
        """The metric of the head as if it were all that there is, on logits to which all columns contribute."""
        before = (
            before
            if isinstance(before, FrequentColumnsPreconditioner)
            else FrequentColumnsPreconditioner(None, None, None)
        )
        diagonal = in_range(objective.diagonal(W)).view(len(W), self.n_logits, self.d).mT  # (B, d, K)
        columns = before.columns
        if columns is None:
            columns = frequent_columns(objective, diagonal, self.n_frequent_columns)
        several, h = self.n_logits > 1, len(columns)
        size = min(self.n, max(4000, 5 * h) if several else min(len(W), MORE) * ROWS_PER_COLUMN * h)
        sample = sample_rows(objective, size, self.generator, evenly=h < self.d)  # no heavy column is rare
        eta = sample.design.matvec(W)
        sample.passes.n_visited += sample.design.shape[0]
        inside = sample.of_columns(columns)
        if several:
            coupled_block = eigenbasis_preconditioner(
                inside, W, leading(size, self.n, inside.design.n_features, self.n_logits), before.coupled_block, eta
            )
        else:
            coupled_block = CholeskyPreconditioner.of(_hessians(inside, W, eta))
        return FrequentColumnsPreconditioner(columns, coupled_block, torch.where(diagonal > 0, diagonal, 1.0))

    def due(self, iteration):
        """Whether the schedule renews the metric now."""
        if iteration < self.renewal:
            return False
        self.renewal = 2 * iteration
        return True

    def with_hessian(self, point):
        """`point` with the Hessian of all rows, if that is affordable at all."""
        return self.objective.second_order(point.W) if self._fits(len(point.W)) else point

    def hessian_pays(self, gap):
        """Note the gap (B,); whether the reads still to come at the present pace cost more than the Hessian.

        Where even Newton's own step brings little, as on almost separable classes, only a fresh Hessian helps.
        """
        self.gaps.append(math.log(max(float(gap.max()), 1e-300)))
        if self.gaps[-1] <= math.log(GOAL) or not self._fits(len(gap)):
            return False
        if len(self.gaps) == 1 and self.gap_before - self.gaps[0] < LITTLE:
            return True
        cost = self.cost * len(gap) / (1.0 + TOGETHER * (len(gap) - 1))
        if len(self.gaps) <= max(1.0, PATIENCE * cost):
            return False
        steps = min(WINDOW, len(self.gaps) - 1)
        fall = (self.gaps[-1 - steps] - self.gaps[-1]) / steps
        if self.newton and fall < LITTLE:
            return True
        left = (self.gaps[-1] - math.log(GOAL)) / fall if fall > 0 else math.inf
        return min(left, MOST_READS) > 0.5 * cost + 1

    def _sample_size(self, factor=1):
        """Rows of a sample for the whole Hessian."""
        most = min(self.n, self.objective.design.n_samplable)
        return min(most, factor * cost_model.sample_size(self.n, self.d, self.n_logits, self.filled))

    def _pays(self, size):
        """Whether the whole Hessian on a sample of that many rows is affordable, and they are enough for it."""
        enough = min(self.n, min(cost_model.ROWS_PER_UNKNOWN) * self.n_logits * self.d)
        return size >= enough and self._cost(size) <= DEAREST

    @property
    def _hybrid_pays(self):
        """Whether eigenvectors of (d, d) are found in the time of some reads, and the other parts are small."""
        affordable = self.d**2 <= min(64 * self.n * self.n_logits, LARGEST) and (2 * self.n_logits) ** 2 <= LARGEST
        return affordable and self._hybrid_rows <= self.objective.design.n_samplable

    @property
    def _hybrid_rows(self):
        """Rows of the sample for a hybrid metric."""
        return min(self.n, max(4000, 5 * self.d))

    def _cost(self, m):
        """Reads of X that the whole Hessian costs on m rows; infinite if it is too large to keep."""
        return cost_model.hessian(m, self.n, self.d, self.n_logits, self.filled) if self._fits(1) else math.inf

    def _fits(self, n_models):
        """Whether the whole Hessians of so many models may be kept."""
        numbers = (self.n_logits * self.d) ** 2
        return numbers <= LARGEST and n_models * numbers <= ALL_MODELS
