"""L-BFGS that starts from, and is preconditioned by, Newton's method on some of the rows."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from torchlogreg._solvers.base import Solver
from torchlogreg._solvers.driver import Optimality, Step
from torchlogreg._solvers.lbfgs_memory import LBFGSMemory
from torchlogreg._solvers.line_search import SURE, DescentState, dot, hidden, is_blind, keep, line_search_step, select
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.preconditioners.policy import Centre, PreconditionerPolicy, is_affordable
from torchlogreg._solvers.starts import is_far, nearer

SMALL_MEMORY = 2**25  # bytes that pairs may take however small X is


@dataclass(frozen=True)
class LBFGS(Solver):
    """Limited-memory BFGS; Nocedal and Wright (2006), Numerical Optimization, algorithm 7.5.

    The initial matrix of the two-loop recursion is gamma P, with P the inverse of an estimate of the Hessian, from
    Newton's method on a random sample of rows where the number of unknowns allows (as in AdaQN, Jin and Mokhtari 2021,
    arXiv:2106.05445). `PreconditionerPolicy` says which estimate, and when it is renewed. A renewal from a sample keeps
    the pairs; with the Hessian of all rows they start afresh, so that a slow fit turns into Newton's.
    """

    memory: int = 100
    seed: int = 0
    centre: Centre | None = None

    name = "lbfgs"
    matrix_free = True
    takes_centre = True
    default_seed = 0  # samples of rows are the same in every fit unless asked otherwise

    @classmethod
    def from_params(cls, params, *, validated=False):  # noqa: ARG003
        return cls(seed=cls.seed_from(params["random_state"]))

    def around(self, centre):
        return replace(self, centre=centre)

    def stopping(self, tol):
        return Optimality(tol, gap=tol**1.5)  # the metric is an approximation, its decrement optimistic

    def finisher(self, objective):
        return NewtonCholesky() if is_affordable(objective.design, objective.loss.n_logits) else None

    def select(self, index):
        if self.centre is None:
            return self
        return replace(self, centre=self.centre.select(index)._replace(W=None))

    def in_float64(self):
        if self.centre is None:
            return self
        return replace(self, centre=self.centre._replace(objective=self.centre.objective.in_float64()))

    def iterates(self, objective, W, state=None):
        policy = PreconditionerPolicy(objective, W.shape[2], self.seed, self.centre)
        memory = LBFGSMemory(*W.flatten(1).shape, self._affordable_pairs(objective, W), objective.design.accumulation)
        if state is None:
            point = objective.value_and_gradient(W) if W.any() and self.centre is None else None
            if point is not None and is_far(objective, point.value).any():
                if len(W) == 1:  # the first iteration
                    yield Step(point, torch.full_like(point.value, torch.inf))
                W, point = nearer(objective, point), None
            point, preconditioner = policy.start(W, point)
            gamma = torch.ones_like(point.value)
            n_backtracks = torch.zeros_like(point.value)
            restarted = torch.zeros_like(point.value, dtype=torch.bool)
            iteration, stuck = 0, None
        else:
            point, preconditioner, gamma, n_backtracks, restarted, iteration, stuck = _resumed(
                state, objective, policy, memory
            )
        while True:
            # 1. direction H g, with H by the two-loop recursion
            direction = -objective.centred(memory.solve(point.gradient, gamma, preconditioner))
            stand = DescentState(point, preconditioner, direction)
            own = partial(
                _state, point, preconditioner, gamma, n_backtracks, restarted, iteration, stuck, policy, memory
            )
            gap, hides = stand.gap, torch.zeros_like(stand.gap)
            if bool((gap <= SURE).any()):
                hides = hidden(objective, preconditioner, point)
            remaining = yield Step(point, gap + hides, stuck=stuck, blind=is_blind(gap, hides), state=own)
            if remaining is not None:
                objective, policy, memory, stand = select(remaining, objective, policy, memory, stand)
                gamma, n_backtracks, restarted = select(remaining, gamma, n_backtracks, restarted)
                point, preconditioner = stand.point, stand.preconditioner
            # 2. trial point; a model that refuses it keeps its place and tries a shorter step next
            evaluate = objective.second_order if policy.hessian_pays(stand.gap) else objective.value_and_gradient
            trial, result = line_search_step(evaluate, objective, stand, n_backtracks)
            stuck = result.exhausted & (restarted | (not objective.design.is_exact))
            if stuck.all():
                return
            accepted, n_backtracks = result.accepted, result.n_backtracks
            # 3. new pair, of weight zero for models that did not move
            s, y = trial.W - point.W, trial.gradient - point.gradient
            curvature = dot(s, y)
            usable = accepted & (curvature > 1e-14 * dot(s, s).sqrt() * dot(y, y).sqrt())
            if accepted.any():
                memory.append(s, y, usable)
            point = keep(accepted, trial, point)
            if accepted.any():  # a metric at the trial point is as good as any other for models that refused it
                point = point._replace(hessian=trial.hessian)
            # 4. renewed metric; where no step helps, at once and without the pairs, which may be what misleads
            iteration += 1
            restarted = result.exhausted | (restarted & ~accepted)
            lost = bool((result.exhausted & ~stuck).any())  # but those that are stuck leave
            if lost:
                point = policy.with_hessian(point)
            afresh = lost or point.hessian is not None
            if policy.due(iteration) or afresh:
                preconditioner = policy.at(point, preconditioner)
                point = point._replace(hessian=None)
            # 5. gamma scales the metric to the newest pair
            if afresh:
                memory.clear()
                gamma, n_backtracks = torch.ones_like(gamma), torch.zeros_like(n_backtracks)
            elif usable.any():
                gamma = torch.where(usable, curvature / dot(y, preconditioner.solve(y)), gamma)

    def _affordable_pairs(self, objective, W):
        """As many pairs as fit in an eighth of the bytes of X, but ten, and what is small anyway."""
        budget = max(SMALL_MEMORY, objective.design.n_bytes // 8)
        return max(10, min(self.memory, budget // (2 * W.element_size() * W.numel())))


def _state(point, preconditioner, gamma, n_backtracks, restarted, iteration, stuck, policy, memory):
    """What an iteration goes on from, as plain values, tensors and metrics."""
    return {
        "point": (point.W, point.value, point.gradient),
        "others": (preconditioner, gamma, n_backtracks, restarted, iteration, stuck),
        "metrics": policy.state(),
        "pairs": memory.state(),
    }


def _resumed(state, objective, policy, memory):
    """The first arguments of `_state`; `policy` and `memory` take theirs. The logits cost a read."""
    W, value, gradient = state["point"]
    policy.resume(state["metrics"])
    memory.resume(state["pairs"])
    return objective.value_and_gradient(W)._replace(value=value, gradient=gradient), *state["others"]
