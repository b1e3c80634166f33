"""L-BFGS that starts from, and is preconditioned by, Newton's method on some of the rows."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from torchlogreg._solvers.base import Solver
from torchlogreg._solvers.driver import Optimality, Step
from torchlogreg._solvers.lbfgs_memory import Pairs
from torchlogreg._solvers.line_search import SURE, Stand, attempt, dot, hidden, is_blind, keep, of_models
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.preconditioners.policy import Centre, Metrics, is_affordable
from torchlogreg._solvers.starts import is_far, nearer

SMALL_MEMORY = 2**25  # bytes that pairs may take however small X is


@dataclass(frozen=True)
class LBFGS(Solver):
    """Limited-memory BFGS; Nocedal and Wright (2006), Numerical Optimization, algorithm 7.5.

    The initial matrix of the two-loop recursion is gamma P, with P the inverse of an estimate of the Hessian, from
    Newton's method on a random sample of rows where the number of unknowns allows (as in AdaQN, Jin and Mokhtari 2021,
    arXiv:2106.05445). `Metrics` says which estimate, and when it is renewed. A renewal from a sample keeps the pairs;
    with the Hessian of all rows they start afresh, so that a slow fit turns into Newton's.
    """

    memory: int = 100
    seed: int = 0
    centre: Centre | None = None

    name = "lbfgs"
    matrix_free = True

    def stopping(self, tol):
        return Optimality(tol, gap=tol**1.5)  # the metric is an approximation, its decrement optimistic

    def finisher(self, problem):
        return NewtonCholesky() if is_affordable(problem.rows, problem.loss.n_logits) else None

    def of_models(self, index):
        if self.centre is None:
            return self
        return replace(self, centre=self.centre.of_models(index)._replace(W=None))

    def in_float64(self):
        if self.centre is None:
            return self
        return replace(self, centre=self.centre._replace(problem=self.centre.problem.in_float64()))

    def iterates(self, problem, W, state=None):
        metrics = Metrics(problem, W.shape[2], self.seed, self.centre)
        pairs = Pairs(*W.flatten(1).shape, self._affordable_pairs(problem, W), problem.rows.home)
        if state is None:
            point = problem.smooth(W) if W.any() and self.centre is None else None
            if point is not None and is_far(problem, point.value).any():
                if len(W) == 1:  # the first iteration
                    yield Step(point, torch.full_like(point.value, torch.inf))
                W, point = nearer(problem, point), None
            point, metric = metrics.start(W, point)
            gamma = torch.ones_like(point.value)
            refusals = torch.zeros_like(point.value)
            restarted = torch.zeros_like(point.value, dtype=torch.bool)
            iteration, stuck = 0, None
        else:
            point, metric, gamma, refusals, restarted, iteration, stuck = _resumed(state, problem, metrics, pairs)
        while True:
            # 1. direction H g, with H by the two-loop recursion
            direction = -problem.centred(pairs.solve(point.gradient, gamma, metric))
            stand = Stand(point, metric, direction)
            own = partial(_state, point, metric, gamma, refusals, restarted, iteration, stuck, metrics, pairs)
            gap, hides = stand.gap, torch.zeros_like(stand.gap)
            if bool((gap <= SURE).any()):
                hides = hidden(problem, metric, point)
            remaining = yield Step(point, gap + hides, stuck=stuck, blind=is_blind(gap, hides), state=own)
            if remaining is not None:
                problem, metrics, pairs, stand = of_models(remaining, problem, metrics, pairs, stand)
                gamma, refusals, restarted = of_models(remaining, gamma, refusals, restarted)
                point, metric = stand.point, stand.metric
            # 2. trial point; a model that refuses it keeps its place and tries a shorter step next
            evaluate = problem.second_order if metrics.hessian_pays(stand.gap) else problem.smooth
            trial, verdict = attempt(evaluate, problem, stand, refusals)
            stuck = verdict.exhausted & (restarted | (not problem.rows.is_exact))
            if stuck.all():
                return
            accepted, refusals = verdict.accepted, verdict.refusals
            # 3. new pair, of weight zero for models that did not move
            s, y = trial.W - point.W, trial.gradient - point.gradient
            curvature = dot(s, y)
            usable = accepted & (curvature > 1e-14 * dot(s, s).sqrt() * dot(y, y).sqrt())
            if accepted.any():
                pairs.append(s, y, usable)
            point = keep(accepted, trial, point)
            if accepted.any():  # a metric at the trial point is as good as any other for models that refused it
                point = point._replace(hessian=trial.hessian)
            # 4. renewed metric; where no step helps, at once and without the pairs, which may be what misleads
            iteration += 1
            restarted = verdict.exhausted | (restarted & ~accepted)
            lost = bool((verdict.exhausted & ~stuck).any())  # but those that are stuck leave
            if lost:
                point = metrics.with_hessian(point)
            afresh = lost or point.hessian is not None
            if metrics.due(iteration) or afresh:
                metric = metrics.at(point, metric)
                point = point._replace(hessian=None)
            # 5. gamma scales the metric to the newest pair
            if afresh:
                pairs.clear()
                gamma, refusals = torch.ones_like(gamma), torch.zeros_like(refusals)
            elif usable.any():
                gamma = torch.where(usable, curvature / dot(y, metric.solve(y)), gamma)

    def _affordable_pairs(self, problem, W):
        """As many pairs as fit in an eighth of the bytes of X, but ten, and what is small anyway."""
        budget = max(SMALL_MEMORY, problem.rows.n_bytes // 8)
        return max(10, min(self.memory, budget // (2 * W.element_size() * W.numel())))


def _state(point, metric, gamma, refusals, restarted, iteration, stuck, metrics, pairs):
    """What an iteration goes on from, as plain values, tensors and metrics."""
    return {
        "point": (point.W, point.value, point.gradient),
        "others": (metric, gamma, refusals, restarted, iteration, stuck),
        "metrics": metrics.state(),
        "pairs": pairs.state(),
    }


def _resumed(state, problem, metrics, pairs):
    """The first arguments of `_state`; `metrics` and `pairs` take theirs. The logits cost a read."""
    W, value, gradient = state["point"]
    metrics.resume(state["metrics"])
    pairs.resume(state["pairs"])
    return problem.smooth(W)._replace(value=value, gradient=gradient), *state["others"]
