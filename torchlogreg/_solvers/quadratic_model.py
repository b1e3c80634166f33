"""The quadratic model that proximal Newton minimises, and how much it is damped."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from torchlogreg._objective.objective import Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.block_pivoting import hides_curvature, minimise_quadratic
from torchlogreg._solvers.kinks import Kinks
from torchlogreg._solvers.line_search import LineSearchResult
from torchlogreg._solvers.matrices import DampedMatrix, Matrix
from torchlogreg._solvers.small_objective import SMALLEST_FLOAT


class Model(NamedTuple):
    """The quadratic model of one objective on its candidates."""

    matrix: Matrix
    slope: np.ndarray  # (a,)
    kinks: Kinks
    w: np.ndarray  # (a,)

    def minimiser(self, damping: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """The minimiser, and how much it promises: half of the change by the slope."""
        matrix = self.matrix if damping is None else DampedMatrix(self.matrix, damping)
        u = minimise_quadratic(matrix, self.slope, self.kinks, self.w)
        return u, -0.5 * self.kinks.change(u, self.w, self.slope)

    def hides_curvature(self, u: np.ndarray) -> bool:
        """Whether the matrix that is solved with at the minimiser u is another one, to rounding."""
        return hides_curvature(self.matrix, self.slope, self.kinks, self.w, u)

    def credible_minimiser(self, value: float, damping: float, units: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The minimiser, the damping at which it promises no more than there is, and what it promises.

        The objective is not negative; but where rows are predicted well, their curvature falls faster than their
        losses, and models promise anything.
        """
        for _ in range(tuning.MOST_DAMPINGS):
            u, promise = self.minimiser(damping * units if damping else None)
            if promise <= value:
                break
            own = 2.0 * promise / max(float(units @ (u - self.w) ** 2), SMALLEST_FLOAT)
            damping = max(2.0 * promise / max(value, SMALLEST_FLOAT) * own, 10.0 * damping)
            if not damping < math.inf:
                break
        return u, damping, promise

    def gap(self, value: float, damping: float, promise: float) -> float:
        """The relative gap: what the model promises without damping, once it promises little; before that, unknown."""
        if damping:
            known = promise <= tuning.SURE_GAP**2 * value
            promise = self.minimiser()[1] if known else math.inf
        return promise / max(value, SMALLEST_FLOAT)


def damped(state: Any, search: LineSearchResult, trial: Point) -> tuple[list[int], list[float]]:
    """How often each model halves its next step, and the damping of its next one, both (B,); see `ProxNewtonState`.

    A step that was refused raises the damping instead of being halved, at first: so far that the model's own step is as
    short as the logits say. One that achieved what its model promised lowers it.
    """
    n_backtracks, damping, (low, high) = list(search.n_backtracks), list(state.damping), tuning.GOOD_STEPS
    values = trial.value.tolist()
    for b, change in enumerate(state.change):
        own = -change / max(state.lengths[b], SMALLEST_FLOAT)  # curvature along the step, in the units of damping
        if search.accepted[b]:
            achieved = (values[b] - state.reading.value[b]) / change if change else 0.0  # a half is what is promised
            lowered = damping[b] * (0.1 if achieved > high else 0.3 if achieved > low else 1.0)
            damping[b] = lowered if lowered > tuning.NEGLIGIBLE_DAMPING * own else 0.0
        elif not search.exhausted[b] and not state.n_backtracks[b]:
            raised = max(10.0 * damping[b], (2.0 ** n_backtracks[b] - 1.0) * own)
            if raised < math.inf:
                n_backtracks[b], damping[b] = 0, raised
    return n_backtracks, damping
