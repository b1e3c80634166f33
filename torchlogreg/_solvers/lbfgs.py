"""L-BFGS that starts from, and is preconditioned by, Newton's method on some of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from torchlogreg._objective.objective import Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading
from torchlogreg._solvers.centred import CentredSolver, generator_in
from torchlogreg._solvers.lbfgs_memory import LBFGSMemory
from torchlogreg._solvers.lbfgs_numpy import LBFGSNumPy, is_small
from torchlogreg._solvers.line_search import (
    Descent,
    Step,
    beside,
    dot,
    line_search_step,
    select,
    trial_point,
    where_accepted,
)
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.preconditioners.base import Preconditioner, hidden, is_blind, is_raised
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.policy import PreconditionerPolicy, is_affordable
from torchlogreg._solvers.preconditioners.refresh import Refresh
from torchlogreg._solvers.starts import is_far, nearer
from torchlogreg._solvers.stopping import Optimality


class LBFGSState(NamedTuple):
    """Where L-BFGS is, and the step that it will try."""

    point: Point
    reading: Reading
    memory: LBFGSMemory
    random: torch.Tensor  # state of the generator that draws samples
    refresh: Refresh
    preconditioner: Preconditioner | None  # None at a start that is worse than zero
    gamma: torch.Tensor  # (B,) its scale
    n_backtracks: list[int]  # how often the step is halved
    restarted: list[bool]  # whether no step helped, and the pairs were given up for that
    slope: list[float]  # of the objective along the direction
    iteration: int = 0
    direction: torch.Tensor | None = None  # (B, d, K)
    decrement: float = math.inf  # largest gap of the models, without what is hidden
    raised: bool = False  # whether the preconditioner's diagonal is, by more than a trifle
    settled: bool = False


@dataclass(frozen=True)
class LBFGS(CentredSolver):
    """Limited-memory BFGS; Nocedal and Wright (2006), Numerical Optimization, algorithm 7.5.

    The initial matrix of the two-loop recursion is gamma P, with P the inverse of an estimate of the Hessian, from
    Newton's method on a random sample of rows where the number of unknowns allows (as in AdaQN, Jin and Mokhtari 2021,
    arXiv:2106.05445). `PreconditionerPolicy` says which estimate, and `Refresh` when it is renewed. A renewal from a
    sample keeps the pairs; with the Hessian of all rows they start afresh, so that a slow fit turns into Newton's.
    """

    memory: int = 100

    name = "lbfgs"
    matrix_free = True

    def init(self, objective, W):
        """See `Solver`."""
        W = W.mT.contiguous().mT  # class-major, as gradients and directions are: flat vectors of it are views
        point = Point(W, None, None)
        start = LBFGSState(
            point,
            Reading.of(point),
            LBFGSMemory.empty(
                len(W), W[0].numel(), self._affordable_pairs(objective, W), objective.design.accumulation
            ),
            torch.Generator("cpu").manual_seed(self.seed).get_state(),
            Refresh(),
            None,
            gamma=torch.ones_like(W[:, 0, 0]),
            n_backtracks=[0] * len(W),
            restarted=[False] * len(W),
            slope=[math.nan] * len(W),
        )
        if not W.any() or self.centre is not None:
            return self._begin(objective, start, None)
        point = objective.value_and_gradient(W)
        far = is_far(objective, point.value)
        if far.all():
            return start._replace(point=point, reading=Reading.of(point))
        if far.any():  # the others need not wait
            return self._begin(objective, start._replace(point=Point(nearer(objective, point), None, None)), None)
        return self._begin(objective, start, point)

    def step(self, objective, state):
        """See `Solver`."""
        if state.preconditioner is None:
            W = nearer(objective, state.point)
            return self._begin(objective, state._replace(point=state.point._replace(W=W)), None)
        policy = PreconditionerPolicy(objective, state.point.W.shape[2], self.centre)
        # 1. trial point; a model that refuses it stays where it is and tries a shorter step next
        descent = Descent(state.point, state.preconditioner, state.direction)
        refresh = state.refresh.seen(state.decrement)
        pays = policy.hessian_pays(refresh, len(state.gamma))
        evaluate = objective.second_order if pays else objective.value_and_gradient
        trial = evaluate(trial_point(descent, state.n_backtracks))
        step = Step(state.reading.value, state.slope, state.n_backtracks)
        search = line_search_step(objective, descent, trial, step)
        stuck = search.stuck(state.restarted, is_exact=objective.design.is_exact)
        if all(stuck):
            return state._replace(reading=state.reading._replace(stuck=stuck))
        # 2. new pair, of weight zero for models that did not move
        any_accepted, n_backtracks = any(search.accepted), search.n_backtracks
        point, memory, gamma = state.point, state.memory, state.gamma
        s, y = trial.W - point.W, trial.gradient - point.gradient
        curvature = dot(s, y)
        lengths = (torch.linalg.vector_norm(t, dim=(1, 2)) for t in (s, y))
        usable = curvature > tuning.LEAST_CURVATURE * math.prod(lengths)
        if not all(search.accepted):
            usable &= beside(search.accepted, usable)
        if any_accepted:
            memory = memory.appended(s, y, usable)
        point = where_accepted(search, trial, point)
        if any_accepted:  # a Hessian at the trial point is as good as any other for models that refused it
            point = point._replace(hessian=trial.hessian)
        # 3. renewed preconditioner; where no step helps, at once and without the pairs, which may be what misleads
        lost = search.exhausted != stuck  # but those that are stuck leave
        if lost:
            point = policy.with_hessian(point)
        afresh = lost or point.hessian is not None
        state = state._replace(
            refresh=refresh,
            iteration=state.iteration + 1,
            restarted=search.restarted(state.restarted),
        )
        before, state = state.preconditioner, self._renewed(policy, state, point, afresh)
        if state.preconditioner is not before:
            state = state._replace(raised=is_raised(objective, state.preconditioner, state.point))
        # 4. gamma scales the preconditioner to the newest pair
        if afresh:
            memory, gamma, n_backtracks = memory.cleared(), torch.ones_like(gamma), [0] * len(n_backtracks)
        elif any_accepted:
            gamma = torch.where(usable, curvature / dot(y, state.preconditioner.solve(y)), gamma)
        return self._directed(objective, state._replace(memory=memory, gamma=gamma, n_backtracks=n_backtracks), stuck)

    def select(self, state, index):
        """See `Solver`."""
        chosen = index.tolist()
        tensors = {name: select(index, getattr(state, name)) for name in ("point", "gamma", "direction")}
        lists = {name: [getattr(state, name)[b] for b in chosen] for name in ("n_backtracks", "restarted", "slope")}
        preconditioner = state.preconditioner and state.preconditioner.select(index)
        memory, reading = state.memory.select(index), state.reading.select(chosen)
        return state._replace(memory=memory, preconditioner=preconditioner, reading=reading, **tensors, **lists)

    def pack(self, state):
        """The state without its logits."""
        return state._replace(point=state.point._replace(eta=None), memory=state.memory.trimmed())

    def unpack(self, objective, packed):
        """See `Solver`; one pass for the logits."""
        return packed._replace(point=packed.point._replace(eta=objective.value_and_gradient(packed.point.W).eta))

    def stopping(self, tol):
        """See `Solver`."""
        return Optimality(tol, gap=tol**1.5)  # the Hessian is an approximation, its decrement optimistic

    def specialised(self, objective, W):
        """See `Solver`; the one in NumPy for a small objective."""
        if self.centre is not None or not is_small(objective, W):
            return self
        return LBFGSNumPy(objective, has_finisher=self.finisher(objective) is not None)

    def finisher(self, objective):
        """See `Solver`."""
        return NewtonCholesky() if is_affordable(objective, objective.loss.n_logits) else None

    def _begin(self, objective, state, point):
        """The state at the first point that steps are made from; `point` is the one at the start if it is known."""
        W = state.point.W
        generator = generator_in(state.random)
        point, preconditioner, refresh = PreconditionerPolicy(objective, W.shape[2], self.centre).start(
            W, point, generator
        )
        return self._directed(
            objective,
            state._replace(
                point=point,
                preconditioner=preconditioner,
                refresh=refresh,
                random=generator.get_state(),
                raised=is_raised(objective, preconditioner, point),
            ),
        )

    def _renewed(self, policy, state, point, afresh):
        """The state at `point`, with another preconditioner where one is due or there is a reason to start `afresh`."""
        generator = generator_in(state.random)
        is_due = state.iteration >= state.refresh.due
        if point.hessian is not None:
            preconditioner, refresh = CholeskyPreconditioner.of(point.hessian), state.refresh.with_hessian()
        elif is_due or afresh:
            preconditioner = policy.at(point, state.preconditioner, generator)
            refresh = state.refresh.postponed(state.iteration) if is_due else state.refresh
        else:
            return state._replace(point=point)
        return state._replace(
            point=point._replace(hessian=None),
            preconditioner=preconditioner,
            refresh=refresh,
            random=generator.get_state(),
        )

    def _directed(self, objective, state, stuck=None):
        """The state with the direction H g, H by the two-loop recursion, and the gap that it promises."""
        point, preconditioner = state.point, state.preconditioner
        direction = -objective.centred(state.memory.solve(point.gradient, state.gamma, preconditioner))
        descent = Descent(point, preconditioner, direction)
        reading, (slope,) = descent.read(stuck=stuck)
        state = state._replace(direction=direction, reading=reading, slope=slope, decrement=max(reading.gap))
        if not state.raised or min(reading.gap) > tuning.SURE_GAP:
            return state
        gap, hides = descent.gap, hidden(objective, preconditioner, point)
        return state._replace(reading=Reading.of(point, gap + hides, stuck, is_blind(gap, hides)))

    def _affordable_pairs(self, objective, W):
        """As many pairs as fit in an eighth of the bytes of X, but ten, and what is small anyway."""
        design = objective.design
        budget = max(tuning.SMALL_MEMORY_BYTES, design.n_bytes // (8 * design.n_processes))
        return max(10, min(self.memory, budget // (2 * W.element_size() * W.numel())))
