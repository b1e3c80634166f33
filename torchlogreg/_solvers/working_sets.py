"""Proximal Newton on working sets of columns, where there are many more columns than rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from torchlogreg._objective.certificate import estimated_relative_gap
from torchlogreg._objective.objective import Objective, PassCounter, Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading, Solver, State
from torchlogreg._solvers.line_search import is_stalled, select
from torchlogreg._solvers.prox_newton_numpy import SmallProblem
from torchlogreg._solvers.small_objective import EPSILON
from torchlogreg._solvers.starts import is_far, without_features
from torchlogreg._solvers.stopping import Optimality


def are_wanted(objective: Objective) -> bool:
    """Whether few rows of many columns are in memory on the host, and an L1 norm keeps most coefficients at zero."""
    design, l1 = objective.design, objective.penalty.l1
    if l1 is None or not design.at_hand or design.device.type != "cpu":
        return False
    n, d = design.shape
    return (
        d > tuning.WORKING_SET_COLUMNS_PER_ROW * n
        and n <= tuning.MOST_WORKING_SET_ROWS
        and bool((l1 == 0).sum(dim=1).max() <= n)
    )


class WorkingSetState(NamedTuple):
    """Where the models are."""

    point: Point
    reading: Reading
    columns: torch.Tensor  # (u,) features that were looked at so far, sorted
    settled: bool = False


class SetOptimality(NamedTuple):
    """The rule of working sets, whose gaps are bounds, and that of the whole solver after them."""

    sets: Optimality
    whole: Any  # Rule

    @property
    def gap(self) -> float:
        """The larger of both."""
        return max(self.sets.gap, self.whole.gap)

    def met(self, state: State) -> list[bool]:
        """Which of the models may stop."""
        return (self.sets if isinstance(state, WorkingSetState) else self.whole).met(state)


class WorkingSets(Solver):
    """See `prox_newton.ProxNewton`; an iteration solves B models on the columns that matter, and looks at all others.

    As in celer (Massias, Gramfort and Salmon 2018, arXiv:1802.07481), but for the solver on a working set, which is
    proximal Newton with the exact Hessian, and one set for all models. Models in the order of their strengths start
    from one another. What is written out beside X are n rows of the columns of the set: of those whose coefficients
    are not zero, as many again, and `tuning.LEAST_WORKING_SET`. Where that would make too large a Hessian, as where an
    L2 penalty leaves few coefficients at zero, the `whole` solver goes on with all columns.
    """

    def __init__(self, whole: Solver):
        self.whole = whole

    name = "prox-newton"
    takes_kinks = True

    def init(self, objective, W):
        """See `Solver`."""
        W = objective.penalty.clipped(W)
        if not W.any():
            W = without_features(objective, W)
        point = objective.value_and_gradient(W)
        far = is_far(objective, point.value)
        if far.any():  # and not between it and zero: all columns would be in the working set
            W = torch.where(far[:, None, None], without_features(objective, torch.zeros_like(W)), W)
            point = objective.value_and_gradient(W)
        return self._state(objective, point, torch.arange(0, device="cpu"))

    def step(self, objective, state):
        """See `Solver`."""
        if not isinstance(state, WorkingSetState):
            return self.whole.step(objective, state)
        columns = self._columns(objective, state.point, state.columns)
        n_logits = state.point.W.shape[2]
        if n_logits > 1 and len(columns) * n_logits > tuning.MOST_SET_COEFFICIENTS:
            return self.whole.init(objective, state.point.W)
        index, inside = _of_columns(objective, columns)
        W, before = state.point.W.clone(), None
        alike = bool((W[:1] == W).all())  # as they are at a start; then each continues from the one before
        for b in _by_strength(objective.penalty):
            problem = _part(inside, b)
            start = W[b, index].numpy() if before is None or not alike else before
            before = _solved(problem, start, tuning.SET_VIOLATION_SHARE * state.reading.norm[b])
            W[b, index] = torch.from_numpy(before)
        objective.passes.n_visited += inside.passes.n_visited * len(index) / objective.design.shape[1]
        return self._state(objective, objective.value_and_gradient(W), columns, state.reading)

    def select(self, state, index):
        """See `Solver`."""
        if not isinstance(state, WorkingSetState):
            return self.whole.select(state, index)
        return state._replace(point=select(index, state.point), reading=state.reading.select(index.tolist()))

    def pack(self, state):
        """The iterates and the working set, or the state of the whole solver."""
        if not isinstance(state, WorkingSetState):
            return None, self.whole.pack(state)
        return state.point.W, state.columns

    def unpack(self, objective, packed):
        """See `Solver`; one pass."""
        W, columns = packed
        if W is None:
            return self.whole.unpack(objective, columns)
        return self._state(objective, objective.value_and_gradient(W), columns)

    def stopping(self, tol):
        """See `Solver`."""
        return SetOptimality(Optimality(tol, gap=tol / 2), self.whole.stopping(tol))

    def _columns(self, objective, point, last):
        """The next working set: columns with a coefficient, those that violate most, and those of the last one."""
        p = objective.design.n_features
        penalty = objective.penalty.of_columns(torch.arange(p, device="cpu"))
        W, slope = point.W[:, :p], point.slope[:, :p]
        if penalty.lower is not None and penalty.upper is not None:  # no slope moves a coefficient beyond its bound
            slope = slope.masked_fill(torch.where(slope > 0, penalty.lower >= W, penalty.upper <= W), 0.0)
        on = ((W != 0) | (penalty.l1 == 0)).any(dim=2).any(dim=0)
        score = (slope.abs() / penalty.l1).amax(dim=2).amax(dim=0)  # (p,) of the model that wants the column most
        score[on] = torch.inf
        score[last] = score[last].clamp(min=1.0)
        wanted = max(tuning.LEAST_WORKING_SET, 2 * int(on.sum()) + len(last) // 2)
        best = score.topk(min(p, wanted)).indices
        return best[score[best] > tuning.NEAR_KINK].sort().values

    def _promised_gap(self, objective, point, last):
        """The gap that quadratic models promise, (B,): features without a penalty leave no dual point."""
        index, inside = _of_columns(objective, self._columns(objective, point, last))
        problems = [_part(inside, b) for b in range(len(point.W))]
        iterates = [
            problem.iterate(*problem.at(W.numpy())) for problem, W in zip(problems, point.W[:, index], strict=True)
        ]
        objective.passes.n_visited += inside.passes.n_visited * len(index) / objective.design.shape[1]
        return point.value.new_tensor([iterate.gap for iterate in iterates])

    def _state(self, objective, point, columns, before=None):
        gap = estimated_relative_gap(objective, point)
        if gap.isinf().any():
            gap = torch.where(gap.isinf(), self._promised_gap(objective, point, columns), gap)
        reading = Reading.of(point, gap)
        if before is not None:
            pairs = zip(reading.norm, before.norm, reading.value, before.value, strict=True)
            stuck = [new >= old and value >= was for new, old, value, was in pairs]
            reading = reading._replace(stuck=stuck)
        return WorkingSetState(point, reading, columns)


def _of_columns(objective: Objective, columns: torch.Tensor) -> tuple[torch.Tensor, Objective]:
    """Index of features, and of the intercept if there is one, and the objective of these alone."""
    index = torch.cat([columns, torch.arange(objective.design.n_features, objective.design.shape[1], device="cpu")])
    inside = objective.of_columns(index)
    inside.passes = PassCounter(objective.design.shape[0])
    return index, inside


def _part(inside: Objective, model: int) -> SmallProblem:
    """The objective of one model on the working set."""
    return SmallProblem(inside.select(torch.tensor([model], device="cpu")), is_part=True)


def _solved(problem: SmallProblem, W: np.ndarray, goal: float) -> np.ndarray:
    """The minimiser (d, K) from W, to a violation of `goal`."""
    at, value = problem.at(W)
    for _ in range(tuning.MOST_SET_STEPS):
        if np.abs(problem.violation(at)).max() <= goal:
            break
        iterate, n_backtracks, trial = problem.iterate(at, value), 0, None
        while trial is None and not is_stalled(n_backtracks, 0.5**n_backtracks * iterate.change, EPSILON):
            trial = problem.trial(iterate, n_backtracks)
            n_backtracks += 1
        if trial is None:
            break
        at, value = trial
    return at.W


def _by_strength(penalty: Any) -> list[int]:
    """The models, the one of the strongest L1 norm first."""
    return penalty.l1.amax(dim=(1, 2)).argsort(descending=True, stable=True).tolist()
