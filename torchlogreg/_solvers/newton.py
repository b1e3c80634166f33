"""Newton's method with the full Hessian and its Cholesky factor."""

from dataclasses import dataclass
from functools import partial

import torch

from torchlogreg._solvers import newton_numpy
from torchlogreg._solvers.base import Solver
from torchlogreg._solvers.driver import Optimality, Step
from torchlogreg._solvers.line_search import (
    SURE,
    CholeskyPreconditioner,
    DescentState,
    hidden,
    is_blind,
    keep,
    line_search_step,
    select,
)
from torchlogreg._solvers.starts import is_far, nearer

ROOT = 2**36  # products that a root of the Hessian may take


@dataclass(frozen=True)
class NewtonCholesky(Solver):
    """Damped Newton; Boyd and Vandenberghe (2004), Convex Optimization, algorithm 9.5.

    An iteration is one read of X: value, gradient and Hessian at a trial point.
    """

    name = "newton-cholesky"
    whole_hessian = True

    def stopping(self, tol):
        return Optimality(tol, gap=tol / 2)  # where losses fall exponentially, the decrement is half of what is left

    def iterates(self, objective, W, state=None):
        if newton_numpy.is_small(objective, W):
            yield from newton_numpy.iterates(objective, W, state)
            return
        path = descend(objective, W, state)
        stand = next(path)
        try:
            while True:
                state = partial(dict, W=stand.point.W, n_backtracks=stand.n_backtracks)
                remaining = yield Step(stand.point, stand.gap + stand.hidden, stuck=stand.stuck, state=state)
                stand = path.send(remaining)
        except StopIteration:
            return


def descend(objective, W, state=None, *, rough=False):
    """Newton's path from W, a Stand an iteration, as `Solver.iterates` has Steps.

    A `rough` one does not ask what the factors of the Hessians hide.
    """
    if state is not None:
        W = state["W"]
    point = objective.second_order(W)
    n_backtracks, stuck = torch.zeros_like(point.value) if state is None else state["refusals"], None
    if not rough and is_far(objective, point.value).any():
        if len(W) == 1:  # the first iteration
            yield DescentState(
                point, None, torch.zeros_like(W), None, n_backtracks, torch.full_like(point.value, torch.inf)
            )
        point = objective.second_order(nearer(objective, point))
    while True:
        # 1. direction
        preconditioner = CholeskyPreconditioner.of(point.hessian)
        stand = DescentState(
            point,
            preconditioner,
            -preconditioner.solve(point.gradient),
            stuck,
            n_backtracks,
            torch.zeros_like(point.value),
        )
        if not rough:
            stand = _seen_through(objective, stand)
        remaining = yield stand
        if remaining is not None:
            objective, stand = select(remaining, objective, stand)
        # 2. trial point; a model that refuses it keeps its place and tries a shorter step next
        trial, result = line_search_step(objective.second_order, objective, stand, stand.n_backtracks)
        if result.exhausted.all():
            return
        stuck, n_backtracks = result.exhausted, result.n_backtracks
        point = keep(result.accepted, trial, stand.point)


def _seen_through(objective, stand):
    """`stand` with what its metric hides; with a metric of twice the digits for models where that is more than it sees.

    Where columns nearly depend on one another, the sums of their products are singular to rounding, and the factor is
    that of a raised diagonal.
    """
    point, gap = stand.point, stand.gap
    if not bool((gap <= SURE).any()):
        return stand
    hides = hidden(objective, stand.preconditioner, point)
    blind = torch.nonzero(is_blind(gap, hides)).flatten()
    n, d = objective.design.shape
    n_logits = point.W.shape[2]
    if len(blind) and n * n_logits * (n_logits * d) ** 2 <= ROOT:
        roots = [objective.select(b[None]).root(point.W[b[None]]) for b in blind]
        preconditioner = stand.preconditioner.with_roots(roots, blind)
        stand = stand._replace(preconditioner=preconditioner, direction=-preconditioner.solve(point.gradient))
        hides[blind] = 0.0
    return stand._replace(hidden=hides)
