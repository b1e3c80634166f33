"""Newton's method with the full Hessian and its Cholesky factor."""

from dataclasses import dataclass

import torch

from torchlogreg._minimise import Optimality, Step
from torchlogreg.solvers import _small
from torchlogreg.solvers._base import Solver
from torchlogreg.solvers._descent import Metric, dot, judge, keep, per_model, relative_gap


@dataclass(frozen=True)
class NewtonCholesky(Solver):
    """Damped Newton; Boyd and Vandenberghe (2004), Convex Optimization, algorithm 9.5.

    An iteration is one read of X: value, gradient and Hessian at a trial point. Where the point is refused, the
    step is halved and the next iteration tries again from the same place.
    """

    name = "newton-cholesky"

    def stopping(self, tol):
        return Optimality(tol, gap=tol)  # the decrement in the exact Hessian can be taken at its word

    def iterates(self, problem, W):
        if _small.is_small(problem, W):
            yield from _small.iterates(problem, W)
            return
        point, hessian = problem.second_order(W)
        refusals = torch.zeros_like(point.value)
        while True:
            # 1. direction and decrement
            metric = Metric.of(hessian)
            direction = -metric.solve(point.gradient)
            slope = dot(point.gradient, direction)  # minus the squared Newton decrement
            yield Step(point, relative_gap(-slope, point.value))
            # 2. trial point; a model that refuses it keeps its place and halves its step
            step = 0.5**refusals
            trial, trial_hessian = problem.second_order(point.W + per_model(step) * direction)
            accepted, exhausted = judge(point, trial, slope, step, refusals, metric, problem.rows)
            if exhausted:
                return
            refusals = torch.where(accepted, 0.0, refusals + 1.0)
            point = keep(accepted, trial, point)
            hessian = keep(accepted, trial_hessian, hessian)
