"""Proximal Newton: objectives whose penalty has an L1 norm or bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from torchlogreg._objective.certificate import estimated_relative_gap
from torchlogreg._objective.objective import Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading
from torchlogreg._solvers.centred import CentredSolver, generator_in
from torchlogreg._solvers.curvature import BlockCurvature, CoupledCurvature, Curvature, coupled_hessian
from torchlogreg._solvers.curvature_policy import coupled_cost, curvature_at, start
from torchlogreg._solvers.kinks import at_medians, candidates, flat, kinks_of
from torchlogreg._solvers.lbfgs import LBFGS
from torchlogreg._solvers.lbfgs_memory import LBFGSMemory
from torchlogreg._solvers.line_search import Step, beside, dot, line_search_step, per_model, select, where_accepted
from torchlogreg._solvers.matrices import BlockMatrix
from torchlogreg._solvers.preconditioners.refresh import Refresh
from torchlogreg._solvers.prox_newton_numpy import ProxNewtonNumPy, is_small
from torchlogreg._solvers.quadratic_model import Model, damped
from torchlogreg._solvers.small_objective import SMALLEST_FLOAT
from torchlogreg._solvers.starts import is_far, nearer
from torchlogreg._solvers.stopping import Optimality
from torchlogreg._solvers.working_sets import WorkingSets, are_wanted


class Scaling(NamedTuple):
    """The diagonal of the Hessian, as what `line_search_step` compares gradients by where values are equal."""

    curvature: Curvature

    def solve(self, gradient: torch.Tensor) -> torch.Tensor:
        """Its inverse times gradient (B, d, K)."""
        return gradient / self.curvature.diagonal().mT.to(gradient)


class Proposal(NamedTuple):
    """A point, and the minimiser of its quadratic model."""

    point: Point
    preconditioner: Scaling
    W: torch.Tensor  # (B, d, K)

    def trial_point(self, n_backtracks: list[int]) -> torch.Tensor:
        """The coefficients at the step 0.5^n_backtracks; zeros of the minimiser are exact at the whole step."""
        if not any(n_backtracks):
            return self.W
        share = per_model(beside([0.5**n for n in n_backtracks], self.W)).to(self.W.dtype)
        return torch.where(share == 1.0, self.W, self.point.W + share * (self.W - self.point.W))


class ProxNewtonState(NamedTuple):
    """Where proximal Newton is, and the step that it will try."""

    point: Point
    reading: Reading
    memory: LBFGSMemory
    random: torch.Tensor  # state of the generator that draws samples
    refresh: Refresh
    n_backtracks: list[int]  # (B,) how often the step is halved
    damping: list[float]  # (B,) of the models, in units of `units`
    restarted: list[bool]  # (B,) whether no step helped, and the pairs were given up for that
    curvature: Curvature | None = None  # None at a start that is worse than zero
    proposal: Any = None  # (B, d, K)
    change: tuple[float, ...] = ()  # (B,) of the objective by the slope, of which the models promise half
    lengths: tuple[float, ...] = ()  # (B,) of the proposed steps, squared, in units of `units`
    units: Any = None  # (B, K, d) diagonal of the first curvature
    n_candidates: int = 0  # most coefficients in a model
    decrement: float = math.inf  # largest gap that the models promise, damped as they are
    iteration: int = 0
    settled: bool = False


@dataclass(frozen=True)
class ProxNewton(CentredSolver):
    """Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions, arXiv:1206.1623.

    An iteration is one pass over X, for value and gradient at a trial point. The quadratic model there, of a Hessian
    from a sample of the rows and pairs of BFGS, is minimised with its kinks and bounds by block pivoting on the host.
    Where the present pace makes the Hessian of all rows pay, on the coefficients that matter, that takes over. A
    `rough` one, on samples, has the Hessian of all of their rows at every point, and no pairs. Without kinks and bounds
    its models are those of preconditioned L-BFGS, which then takes over, for it knows what they hide from it.
    """

    rough: bool = False

    name = "prox-newton"
    matrix_free = True
    takes_kinks = True

    def init(self, objective, W):
        """See `Solver`."""
        W = objective.penalty.clipped(W)
        point = Point(W, None, None)
        state = ProxNewtonState(
            point,
            Reading.of(point),
            LBFGSMemory.empty(len(W), W[0].numel(), tuning.KINK_MEMORY_PAIRS, objective.design.accumulation),
            torch.Generator("cpu").manual_seed(self.seed).get_state(),
            Refresh(due=tuning.SOON_ITERATION),
            n_backtracks=[0] * len(W),
            damping=[0.0] * len(W),
            restarted=[False] * len(W),
        )
        centre = self.centre
        if centre is not None and centre.W is not None:
            point = objective.value_and_gradient(centre.W, centre.group)
        elif W.any() or self.rough:
            point = objective.value_and_gradient(W)
        else:
            generator = generator_in(state.random)
            point, curvature = start(objective, W, ProxNewton(rough=True), generator)
            state = state._replace(point=point, random=generator.get_state())
            return self._proposed(
                objective, self._renewed(objective, state) if curvature is None else state._replace(curvature=curvature)
            )
        state = state._replace(point=point)
        far = is_far(objective, point.value)
        if far.any() and not self.rough:
            return state._replace(reading=Reading.of(point))
        return self._proposed(objective, self._renewed(objective, state))

    def step(self, objective, state):
        """See `Solver`."""
        if state.curvature is None:
            W = objective.penalty.clipped(nearer(objective, state.point))
            state = state._replace(point=objective.value_and_gradient(W))
            return self._proposed(objective, self._renewed(objective, state))
        # 1. trial point; a model that refuses it stays where it is and tries a shorter step next
        point = state.point
        proposal = Proposal(point, Scaling(state.curvature), state.proposal)
        trial = objective.value_and_gradient(proposal.trial_point(state.n_backtracks))
        step = Step(state.reading.value, list(state.change), state.n_backtracks)
        search = line_search_step(objective, proposal, trial, step)
        stuck = search.stuck(state.restarted, is_exact=objective.design.is_exact)
        if all(stuck):
            return state._replace(reading=state.reading._replace(stuck=stuck))
        # 2. new pair, of weight zero for models that did not move
        memory = state.memory
        if not self.rough:
            s, y = trial.W - point.W, trial.slope - point.slope
            usable = dot(s, y) > tuning.LEAST_CURVATURE * dot(s, s).sqrt() * dot(y, y).sqrt()
            s, y = (torch.where(per_model(usable), t, 0.0) for t in (s, y))  # of a trial that overflowed, NaN
            memory = memory.appended(s, y, usable)
        n_backtracks, damping = damped(state, search, trial)
        point = where_accepted(search, trial, point)
        # 3. renewed curvature; where no step helps, at once and without the pairs, which may be what misleads
        lost = search.exhausted != stuck
        state = state._replace(
            point=point,
            memory=memory.cleared() if lost else memory,
            refresh=state.refresh.seen(state.decrement),
            n_backtracks=[0] * len(n_backtracks) if lost else n_backtracks,
            damping=damping,
            restarted=search.restarted(state.restarted),
            iteration=state.iteration + 1,
        )
        cost = coupled_cost(objective, state.n_candidates, trial.W.shape[2])
        pays = any(search.accepted) and not state.refresh.is_near and state.refresh.hessian_pays(len(point.W), cost)
        if pays and self._may_couple(state):
            state = self._coupled(objective, state)
        elif lost or self.rough or (state.iteration >= state.refresh.due and not state.curvature.is_coupled):
            state = self._renewed(objective, state)
        return self._proposed(objective, state, stuck)

    def select(self, state, index):
        """See `Solver`."""
        selected: dict[str, Any] = {name: select(index, getattr(state, name)) for name in ("point", "proposal")}
        selected["units"] = select(index.cpu(), state.units)  # as curvatures are, on the host
        for name in ("n_backtracks", "damping", "restarted", "change", "lengths"):
            values = getattr(state, name)
            selected[name] = type(values)(values[b] for b in index.tolist()) if values else values
        curvature = state.curvature and state.curvature.select(index)
        memory, reading = state.memory.select(index), state.reading.select(index.tolist())
        return state._replace(memory=memory, curvature=curvature, reading=reading, **selected)

    def pack(self, state):
        """The state without its logits, and without blocks that are computed again."""
        curvature = state.curvature and state.curvature.packed()
        return state._replace(point=state.point._replace(eta=None), memory=state.memory.trimmed(), curvature=curvature)

    def unpack(self, objective, packed):
        """See `Solver`; one pass for the logits."""
        return packed._replace(point=packed.point._replace(eta=objective.value_and_gradient(packed.point.W).eta))

    def stopping(self, tol):
        """See `Solver`."""
        return Optimality(tol, gap=tol**1.5)  # the Hessian is an approximation, its decrement optimistic

    def specialised(self, objective, W):
        """See `Solver`."""
        if self.rough:
            return self
        if objective.penalty.is_smooth:
            return LBFGS(seed=self.seed).specialised(objective, W)
        if are_wanted(objective):
            return WorkingSets(replace(self, centre=None))  # which has moved when all columns are needed
        return ProxNewtonNumPy(objective) if is_small(objective, W) else self

    def is_faster_alone(self, objective, W):
        """See `SelectableSolver`."""
        return is_small(objective, W) and not are_wanted(objective)

    def finisher(self, objective):
        """See `Solver`."""
        return LBFGS().finisher(objective) if objective.penalty.is_smooth else None

    def _may_couple(self, state):
        settled = state.point.W.shape[2] == 1 or state.decrement <= tuning.COUPLING_GAP
        return settled and not self.rough and state.n_candidates**2 <= tuning.PRECONDITIONER_NUMBERS

    def _renewed(self, objective, state):
        """The state with the curvature of a sample at its point."""
        generator, W = generator_in(state.random), state.point.W
        if self.rough:
            eta = state.point.eta
            eta = None if eta is None else eta.permute(2, 0, 1)
            return state._replace(curvature=BlockCurvature.of(objective, W, eta=eta))
        if self.centre is None:
            curvature = curvature_at(objective, W, generator)
        else:
            shared, means, group = self.centre.means(W)
            curvature = curvature_at(shared, means, generator).of_groups(group).with_l2(objective.penalty, len(W))
        refresh = (
            state.refresh.postponed(max(state.iteration, tuning.SOON_ITERATION)) if state.iteration else state.refresh
        )
        return state._replace(curvature=curvature, refresh=refresh, random=generator.get_state())

    def _coupled(self, objective, state):
        """The state with the Hessian of all rows at its point, on the candidates, and no pairs."""
        W, diagonal = state.point.W, state.curvature.diagonal()
        indices, hessians = [], []
        for b in range(len(W)):
            w, slope = (flat(tensor[b].numpy(force=True)) for tensor in (W, state.point.slope))
            kinks = kinks_of(objective.penalty, W.shape[2], b)
            index = candidates(w, slope, kinks, near=tuning.COUPLED_NEAR_KINK)
            model = torch.tensor([b], device=W.device)
            alone = objective if len(W) == 1 else objective.select(model)
            indices.append(torch.from_numpy(index))
            hessians.append(torch.from_numpy(coupled_hessian(alone, W[model], index)))
        return state._replace(
            curvature=CoupledCurvature(tuple(indices), tuple(hessians), diagonal),
            memory=state.memory.cleared(),
            refresh=state.refresh.with_hessian(),
        )

    def _proposed(self, objective, state, stuck=None):
        """The state with the minimisers of its quadratic models, and the gap that they promise."""
        # What the models are made of comes to the host at once, however many they are.
        point, penalty, memory = state.point, objective.penalty.to("cpu"), state.memory.to("cpu")
        starts, slopes = point.W.numpy(force=True), point.slope.numpy(force=True)
        if state.units is None:
            state = state._replace(units=state.curvature.diagonal())
        found, n_candidates, promises, gaps, changes, lengths = [], 0, [], [], [], []
        values, damping, in_doubt = point.value.tolist(), list(state.damping), []
        small = [value < tuning.DOUBTFUL_VALUE_SHARE * objective.loss.at_zero for value in values]
        for b in range(len(point.W)):
            kinks = kinks_of(penalty, point.W.shape[2], b)
            flat_rows = kinks.flat
            if not state.curvature.is_coupled or damping[b] > 0:
                kinks = kinks._replace(flat=None)
            w, slope = flat(starts[b]), flat(slopes[b])
            index = candidates(w, slope, kinks, also=memory.moved(b))
            order, blocks = state.curvature.blocks(b, index)
            matrix = BlockMatrix(blocks, *(pairs.T for pairs in memory.pairs(b, order))).simplified()
            model = Model(matrix, slope[order], kinks.select(order), w[order])
            u, units = w.copy(), state.units[b].flatten().numpy()
            u[order], damping[b], promise = model.credible_minimiser(values[b], damping[b], units[order])
            promises.append(promise)
            gap = model.gap(values[b], damping[b], promise)
            gaps.append(gap)
            if not self.rough and gap <= 1.0 and (small[b] or model.hides_curvature(u[order])):
                in_doubt.append(b)
            u = u if flat_rows is None else at_medians(u, flat_rows)
            found.append(u)
            changes.append(kinks.change(u, w, slope))
            lengths.append(float(units @ (u - w) ** 2))
            n_candidates = max(n_candidates, len(index))
        W = torch.from_numpy(np.stack(found)).view(len(found), point.W.shape[2], -1).mT.contiguous().to(point.W)
        step = W - point.W
        W = W - (step - objective.centred(step))  # blocks of a class each are not flat where the softmax is
        if in_doubt and point.eta is not None:  # then the gap is as small as it seems only if a bound says so
            # Values that differ by no more are the same to rounding; see `line_search_step`.
            noise = tuning.EQUAL_VALUE_ROUNDINGS * torch.finfo(point.value.dtype).eps
            bounds = (estimated_relative_gap(objective, point) - noise).tolist()
            for b in in_doubt:
                gaps[b] = max(gaps[b], bounds[b]) if math.isfinite(bounds[b]) else gaps[b]
        reading = Reading.of(point, None, stuck)._replace(gap=gaps)
        return state._replace(
            proposal=W,
            change=tuple(changes),
            lengths=tuple(lengths),
            damping=damping,
            reading=reading,
            n_candidates=n_candidates,
            decrement=max(p / max(value, SMALLEST_FLOAT) for p, value in zip(promises, values, strict=True)),
        )
