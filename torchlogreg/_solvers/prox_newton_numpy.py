"""Proximal Newton in NumPy, with the exact Hessian, for few rows: a torch call would cost more than its arithmetic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from torchlogreg._objective.certificate import optimality_bound
from torchlogreg._objective.objective import Objective, OutOfRange, Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading
from torchlogreg._solvers.block_pivoting import hides_curvature, minimise_quadratic
from torchlogreg._solvers.kinks import candidates, flat, kinks_of, unflat
from torchlogreg._solvers.line_search import is_stalled
from torchlogreg._solvers.matrices import DenseMatrix, FactoredMatrix
from torchlogreg._solvers.newton_numpy import size
from torchlogreg._solvers.small_objective import EPSILON, SMALLEST_FLOAT, Evaluation, SmallObjective, is_at_hand
from torchlogreg._solvers.small_solver import SmallNewton
from torchlogreg._solvers.starts import is_far, nearer, without_features


def is_small(objective: Objective, W: torch.Tensor) -> bool:
    """Whether `objective` is one model's, in memory on the host, and small."""
    (n, d), n_logits = objective.design.shape, W.shape[2]
    if n_logits == 1 and d > 2 * n and objective.penalty.l1 is None:
        return is_at_hand(objective, W) and n * d <= tuning.NUMPY_WIDE_NUMBERS
    return is_at_hand(objective, W) and size(n, d, n_logits) <= tuning.NUMPY_NEWTON_NUMBERS


class Iterate(NamedTuple):
    """A point of one model, and the minimiser of the quadratic model there."""

    at: Evaluation  # of the smooth part
    value: float  # F
    violation: np.ndarray  # (K d,) subgradient of least norm, class-major
    proposal: np.ndarray  # (K d,)
    change: float  # of F that the model promises
    curvature: np.ndarray  # (K d,) diagonal of the Hessian where it was computed, 1 elsewhere
    in_doubt: bool  # whether the gap is as small as it seems only if a bound confirms it

    @property
    def gap(self) -> float:
        """Half the squared decrement against the value."""
        return -0.5 * self.change / max(self.value, SMALLEST_FLOAT)


class SmallProblem:
    """The objective of one model as its smooth part and its kinks, class-major."""

    def __init__(self, objective: Objective, *, is_part: bool = False):
        self.smooth, self.is_part = SmallObjective(objective), is_part  # of a larger one, which knows its own gap
        self.kinks = kinks_of(objective.penalty, objective.loss.n_logits)

    def at(self, W: np.ndarray) -> tuple[Evaluation, float]:
        """The smooth part at W (d, K), and F."""
        at = self.smooth.first_order(W)
        return at, float(at.value) + self.kinks.value(flat(W))

    def iterate(self, at: Evaluation, value: float) -> Iterate:
        """With the minimiser of the quadratic model of the coefficients that may move."""
        w, slope = flat(at.W), flat(at.gradient)
        index = candidates(w, slope, self.kinks)
        matrix, kinks = self._matrix(at.eta, index), self.kinks.select(index)
        diagonal = matrix.diagonal()
        if not np.isfinite(diagonal).all():
            raise OutOfRange("overflow")
        proposal, curvature = w.copy(), np.ones_like(w)
        curvature[index] = np.maximum(diagonal, SMALLEST_FLOAT)
        proposal[index] = minimise_quadratic(matrix, slope[index], kinks, w[index])
        change = self.kinks.change(proposal, w, slope)
        iterate = Iterate(at, value, self.violation(at), proposal, change, curvature, in_doubt=False)
        if self.is_part or iterate.gap > 1.0:  # the largest that may end a fit, with tol=1
            return iterate
        small = value < tuning.DOUBTFUL_VALUE_SHARE * self.smooth.loss.at_zero
        hides = small or hides_curvature(matrix, slope[index], kinks, w[index], proposal[index])
        return iterate._replace(in_doubt=hides)

    def _matrix(self, eta, index):
        """The Hessian on the coefficients at an index, where the rows have logits eta (n, K)."""
        n, n_logits = eta.shape
        if n_logits > 1 or 2 * len(index) <= n:
            return DenseMatrix(self.smooth.hessian_on(eta, index))
        return FactoredMatrix(self.smooth.root_on(eta, index), self.smooth.ridge[index])

    def violation(self, at: Evaluation) -> np.ndarray:
        """The subgradient of least norm (K d,), class-major."""
        return self.kinks.violation(flat(at.W), flat(at.gradient))

    def trial(self, before: Iterate, n_backtracks: int) -> tuple[Evaluation, float] | None:
        """`at` the step 0.5^n_backtracks, if it is good enough."""
        share = 0.5**n_backtracks
        w = flat(before.at.W)
        w = before.proposal if not n_backtracks else w + share * (before.proposal - w)
        at, value = self.at(unflat(w, len(before.at.W)))
        noise = tuning.EQUAL_VALUE_ROUNDINGS * EPSILON * max(before.value, 1.0)
        if abs(value - before.value) <= noise:  # values say nothing, so the violation must be less
            good = (self.violation(at) ** 2 / before.curvature).sum() < (before.violation**2 / before.curvature).sum()
        else:
            good = value <= before.value + tuning.ARMIJO * share * before.change
        return (at, value) if good else None


class ProxNewtonNumPyState(NamedTuple):
    """Where proximal Newton is."""

    point: Point
    reading: Reading
    iterate: Iterate | None  # None at a start that is worse than zero
    n_backtracks: int = 0
    settled: bool = False


class ProxNewtonNumPy(SmallNewton):
    """See `prox_newton.ProxNewton`; for one small objective, in memory on the host, whose arrays it holds."""

    name = "prox-newton"
    takes_kinks = True

    def __init__(self, objective: Objective):
        self.problem = SmallProblem(objective)

    def init(self, objective, W):
        """See `Solver`."""
        W = objective.penalty.clipped(W) if W.any() else without_features(objective, W)
        at, value = self.problem.at(W[0].numpy(force=True).astype(np.float64))
        if not is_far(objective, value):
            return self._state(objective, self.problem.iterate(at, value))
        point = _point(at, value, self.problem.violation(at))
        return ProxNewtonNumPyState(point, Reading.of(point), None)

    def step(self, objective, state):
        """See `Solver`."""
        if state.iterate is None:
            W = objective.penalty.clipped(nearer(objective, state.point))
            return self._state(objective, self.problem.iterate(*self.problem.at(W[0].numpy())))
        trial = self.problem.trial(state.iterate, state.n_backtracks)
        if trial is not None:
            return self._state(objective, self.problem.iterate(*trial))
        share = 0.5**state.n_backtracks
        if is_stalled(state.n_backtracks, share * state.iterate.change, EPSILON):
            return state._replace(reading=state.reading._replace(stuck=[True]))
        return state._replace(n_backtracks=state.n_backtracks + 1)

    def _state(self, objective, iterate):
        point = _point(iterate.at, iterate.value, iterate.violation)
        norm = float(np.abs(iterate.violation).max())
        reading = Reading([iterate.value], [norm], [float(self._gap(objective, iterate, point))], [False], [False])
        return ProxNewtonNumPyState(point, reading, iterate)

    def _gap(self, objective, iterate, point):
        """The gap that an iterate promises; where that is in doubt, at least the bound, if there is one."""
        bound = (
            float(optimality_bound(objective, point)) / max(iterate.value, SMALLEST_FLOAT) if iterate.in_doubt else 0.0
        )
        return max(iterate.gap, bound) if np.isfinite(bound) else iterate.gap


def _point(at, value, violation):
    W, slope, eta = (torch.from_numpy(array[None]) for array in (at.W, at.gradient, at.eta.T))
    gradient = torch.from_numpy(unflat(violation, len(at.W))[None])
    return Point(W, W.new_tensor([value]), gradient, eta, smooth_gradient=slope)
