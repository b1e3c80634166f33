"""Newton's method with the full Hessian and its Cholesky factor."""

from dataclasses import dataclass
from functools import partial

import torch

from torchlogreg._minimise import Optimality, Step
from torchlogreg.solvers import _small
from torchlogreg.solvers._base import Solver
from torchlogreg.solvers._descent import Metric, Stand, attempt, keep, of_models


@dataclass(frozen=True)
class NewtonCholesky(Solver):
    """Damped Newton; Boyd and Vandenberghe (2004), Convex Optimization, algorithm 9.5.

    An iteration is one read of X: value, gradient and Hessian at a trial point.
    """

    name = "newton-cholesky"
    whole_hessian = True

    def stopping(self, tol):
        return Optimality(tol, gap=tol)

    def iterates(self, problem, W, state=None):
        if _small.is_small(problem, W):
            yield from _small.iterates(problem, W, state)
            return
        path = descend(problem, W, state)
        stand = next(path)
        try:
            while True:
                state = partial(dict, W=stand.point.W, refusals=stand.refusals)
                remaining = yield Step(stand.point, stand.gap, stuck=stand.stuck, state=state)
                stand = path.send(remaining)
        except StopIteration:
            return


def descend(problem, W, state=None):
    """Newton's path from W, a Stand an iteration, as `Solver.iterates` has Steps."""
    if state is not None:
        W = state["W"]
    point = problem.second_order(W)
    refusals, stuck = torch.zeros_like(point.value) if state is None else state["refusals"], None
    while True:
        # 1. direction
        metric = Metric.of(point.hessian)
        stand = Stand(point, metric, -metric.solve(point.gradient), stuck, refusals)
        remaining = yield stand
        if remaining is not None:
            problem, stand = of_models(remaining, problem, stand)
        # 2. trial point; a model that refuses it keeps its place and tries a shorter step next
        trial, verdict = attempt(problem.second_order, problem, stand, stand.refusals)
        if verdict.exhausted.all():
            return
        stuck, refusals = verdict.exhausted, verdict.refusals
        point = keep(verdict.accepted, trial, stand.point)
