"""Newton's method with the full Hessian and its Cholesky factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from torchlogreg._objective.objective import Point
from torchlogreg._runtime.linalg import first_shift
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading, SelectableSolver
from torchlogreg._solvers.line_search import Descent, Step, line_search_step, select, trial_point, where_accepted
from torchlogreg._solvers.newton_numpy import NewtonNumPy, is_small
from torchlogreg._solvers.preconditioners.base import hidden, is_blind, is_raised
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.starts import is_far, nearer
from torchlogreg._solvers.stopping import Optimality


class NewtonState(NamedTuple):
    """Where Newton's method is, and the step that it will try."""

    point: Point  # with its Hessian
    reading: Reading
    n_backtracks: list[int]  # how often that step is halved
    slope: list[float]  # of the objective along it
    preconditioner: Any = None  # CholeskyPreconditioner; None at a start that is worse than zero
    direction: Any = None  # (B, d, K)
    settled: bool = False

    @property
    def proposal(self):
        """Where the whole step leads, (B, d, K)."""
        return self.point.W + self.direction


@dataclass(frozen=True)
class NewtonCholesky(SelectableSolver):
    """Damped Newton; Boyd and Vandenberghe (2004), Convex Optimization, algorithm 9.5.

    An iteration is one pass over X: value, gradient and Hessian at a trial point. A `rough` one does not ask what the
    factors of the Hessians hide, nor whether the start is worse than zero.
    """

    rough: bool = False

    name = "newton-cholesky"
    whole_hessian = True

    @classmethod
    def from_params(cls, params, *, validated=False):  # noqa: ARG003
        """See `SelectableSolver`; it has no settings."""
        return cls()

    def init(self, objective, W):
        """See `Solver`."""
        point = objective.second_order(W)
        n_backtracks, far = [0] * len(W), is_far(objective, point.value)
        if not self.rough and far.all():
            return NewtonState(point, Reading.of(point), n_backtracks, [math.nan] * len(W))
        if not self.rough and far.any():  # the others need not wait
            point = objective.second_order(nearer(objective, point))
        return self._at(objective, point, n_backtracks)

    def step(self, objective, state):
        """See `Solver`."""
        if state.preconditioner is None:
            return self._at(objective, objective.second_order(nearer(objective, state.point)), state.n_backtracks)
        descent = Descent(state.point, state.preconditioner, state.direction)
        trial = objective.second_order(trial_point(descent, state.n_backtracks))
        search = line_search_step(objective, descent, trial, Step(state.reading.value, state.slope, state.n_backtracks))
        if all(search.exhausted):
            return state._replace(reading=state.reading._replace(stuck=search.exhausted))
        point = where_accepted(search, trial, state.point)
        return self._at(objective, point, search.n_backtracks, search.exhausted)

    def select(self, state, index):
        """See `Solver`."""
        preconditioner = state.preconditioner and state.preconditioner.select(index)
        chosen = index.tolist()
        return state._replace(
            point=select(index, state.point),
            reading=state.reading.select(chosen),
            n_backtracks=[state.n_backtracks[b] for b in chosen],
            slope=[state.slope[b] for b in chosen],
            preconditioner=preconditioner,
            direction=select(index, state.direction),
        )

    def pack(self, state):
        """The iterate alone: its Hessian may be large."""
        return state.point.W, state.n_backtracks

    def unpack(self, objective, packed):
        """See `Solver`; one pass."""
        W, n_backtracks = packed
        state = self.init(objective, W)
        return state if state.preconditioner is None else state._replace(n_backtracks=n_backtracks)

    def stopping(self, tol):
        """See `Solver`."""
        return Optimality(tol, gap=tol / 2)  # where losses fall exponentially, the decrement is half of what is left

    def specialised(self, objective, W):
        """See `Solver`."""
        return NewtonNumPy(objective) if is_small(objective, W) else self

    def _at(self, objective, point, n_backtracks, stuck=None):
        """The state at a point with its Hessian.

        Whether that could be factored is read along with everything else. Where it could not, or something is not
        finite, it is factored again with all the care that there is.
        """
        preconditioner, info = CholeskyPreconditioner.untested(point.hessian)
        more = (info[:, 0],) if self.rough else (info[:, 0], *_diagonals(objective, preconditioner))
        descent = _descent(point, preconditioner)
        reading, (slope, failed, *diagonals) = descent.read(more, stuck)
        if any(failed) or not all(map(math.isfinite, reading.gap)):
            preconditioner = CholeskyPreconditioner.of(point.hessian)
            descent = _descent(point, preconditioner)
            reading, (slope,) = descent.read(stuck=stuck)
            raised = not self.rough and is_raised(objective, preconditioner, point)
        else:
            raised = not self.rough and _are_raised(preconditioner, *diagonals)
        if raised and min(reading.gap) <= tuning.SURE_GAP:
            descent, hides = _seen_through(objective, descent)
            reading, (slope,) = Reading.with_more(point, descent.gap + hides, (descent.slope,), stuck)
        return NewtonState(point, reading, n_backtracks, slope, descent.preconditioner, descent.direction)


def _descent(point, preconditioner):
    return Descent(point, preconditioner, -preconditioner.solve(point.gradient))


def _diagonals(objective, preconditioner):
    """The smallest scale of each model's factor, and its weakest penalty, (B,): what `_are_raised` asks for."""
    least = preconditioner.scale.amin(dim=(1, 2))
    weakest = objective.penalty.l2[:, : objective.design.n_features].amin(dim=(1, 2))
    return least, weakest.expand_as(least)


def _are_raised(preconditioner, least, weakest):
    """`is_raised` by numbers of the host, where the first shift was enough."""
    shift = first_shift(preconditioner.scale.shape[2], preconditioner.scale.dtype)
    return not all(
        scale > 0 and shift / (scale * scale) <= tuning.NEGLIGIBLE_RAISE * l2
        for scale, l2 in zip(least, weakest, strict=True)
    )


def _seen_through(objective, descent):
    """`descent`, with a factor of twice the digits where that hides more of the gap than it sees; what is hidden, (B,).

    Where columns nearly depend on one another, the sums of their products are singular to rounding, and the factor is
    that of a raised diagonal.
    """
    point, preconditioner, _ = descent
    hides = hidden(objective, preconditioner, point)
    blind = torch.nonzero(is_blind(descent.gap, hides)).flatten()
    n, d = objective.design.shape
    n_logits = point.W.shape[2]
    if len(blind) and n * n_logits * (n_logits * d) ** 2 <= tuning.ROOT_PRODUCTS:
        roots = [objective.select(b[None]).root(point.W[b[None]]) for b in blind]
        preconditioner = preconditioner.with_roots(roots, blind)
        descent = _descent(point, preconditioner)
        hides[blind] = 0.0
    return descent, hides
