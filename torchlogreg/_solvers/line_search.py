"""The test that accepts a step, and what a descent direction says about the gap."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from torchlogreg._objective.objective import Objective, Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.preconditioners.base import Preconditioner


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products of B pairs of coefficients, (B,)."""
    return (a * b).sum(dim=(1, 2))


def per_model(t: torch.Tensor) -> torch.Tensor:
    """(B,) as a factor of (B, d, K)."""
    return t[:, None, None]


class Descent(NamedTuple):
    """A point, and the step that will be tried from there."""

    point: Point
    preconditioner: Preconditioner
    direction: torch.Tensor  # (B, d, K)

    @property
    def slope(self) -> torch.Tensor:
        """Derivative of the objective along the direction, (B,)."""
        return dot(self.point.gradient, self.direction)

    @property
    def gap(self) -> torch.Tensor:
        """Estimate of (value - optimum) / optimum, (B,): half the squared Newton decrement against the value."""
        return -0.5 * self.slope / self.point.value.clamp(min=torch.finfo(self.point.value.dtype).tiny)


class LineSearchResult(NamedTuple):
    """What became of a trial step."""

    accepted: torch.Tensor  # (B,)
    exhausted: torch.Tensor  # (B,) whether going on is useless at this precision
    n_backtracks: torch.Tensor  # (B,) how often each model has to halve its next step
    n_accepted: int  # how many models accepted, known to the host
    any_exhausted: bool


def trial_point(descent: Descent, n_backtracks: torch.Tensor) -> torch.Tensor:
    """The coefficients (B, d, K) at the step 0.5^n_backtracks, to be evaluated in one pass over X."""
    return descent.point.W + per_model(0.5**n_backtracks) * descent.direction


class Step(Protocol):
    """What a line search has to know of the step that is tried."""

    @property
    def point(self) -> Point:
        """Where it starts."""
        ...

    @property
    def preconditioner(self) -> Any:
        """What `solve`s for the norm of gradients."""
        ...

    @property
    def slope(self) -> torch.Tensor:
        """The change of the objective that it promises, (B,), without curvature."""
        ...


def line_search_step(objective: Objective, descent: Step, trial: Point, n_backtracks: torch.Tensor) -> LineSearchResult:
    """Judge the trial points of B models, at the step 0.5^n_backtracks.

    A step is accepted by Armijo's sufficient decrease. But where the values differ by no more than rounding can
    explain, they say nothing, and the gradient must have become smaller in the preconditioner's norm instead (after the
    approximate test of Hager and Zhang 2005, doi:10.1137/030601880). Products in float32 are given up at that point,
    for float64 will take over. A refused step is halved until the logits of the two points, along which they are
    linear, promise the decrease: that takes no pass over X.
    """
    point, preconditioner = descent.point, descent.preconditioner
    change = 0.5**n_backtracks * descent.slope
    rounding = torch.finfo(objective.design.compute.dtype).eps
    noise = tuning.EQUAL_VALUE_ROUNDINGS * rounding * point.value.clamp(min=1.0)
    if not objective.design.is_exact:
        # The sum over the rows, in float64, averages the errors, which are small where rows are predicted well: on
        # MNIST at most two units in the last place of values from 2 down to 0.005.
        noise = rounding * torch.minimum(
            tuning.EQUAL_VALUE_ROUNDINGS_OF_PRODUCTS * point.value, point.value.clamp(min=1.0)
        )
    accepted = trial.value <= point.value + tuning.ARMIJO * change
    level = (trial.value - point.value).abs() <= noise
    flags, are_level = torch.stack([accepted, level]).tolist()
    exhausted = torch.zeros_like(accepted)
    if any(are_level):
        before, after = (dot(g, preconditioner.solve(g)) for g in (point.gradient, trial.gradient))
        accepted = torch.where(level, after < before, accepted)
        exhausted, flags = level & (not objective.design.is_exact), accepted.tolist()
    any_exhausted, n_accepted = any(are_level) and not objective.design.is_exact, sum(flags)
    if all(flags):
        return LineSearchResult(accepted, exhausted, torch.zeros_like(n_backtracks), n_accepted, any_exhausted)
    exhausted = exhausted | (~accepted & is_stalled(n_backtracks, change, rounding))
    halved = n_backtracks + _halvings(objective, point, trial, accepted | level, change, n_backtracks)
    n_backtracks = torch.where(accepted, 0.0, halved)
    return LineSearchResult(accepted, exhausted, n_backtracks, n_accepted, bool(exhausted.any()))


def _halvings(objective, point, trial, settled, change, n_backtracks):
    """How often to halve each step that was refused: at least once, and until the logits promise enough decrease."""
    count = torch.ones_like(change)
    if trial.eta is None or point.eta is None:
        return torch.maximum(count, n_backtracks)  # each a pass over X, so a step far too long is soon out of the way
    if settled.any():  # look at the others only
        index = torch.nonzero(~settled).flatten()
        if len(index):
            some = (select(index, thing) for thing in (point, trial, settled, change, n_backtracks))
            count[index] = _halvings(objective.select(index), *some)
        return count
    while True:
        t = 0.5**count
        enough = objective.between(point, trial, t) <= point.value + tuning.ARMIJO * t * change
        enough |= (count >= tuning.MOST_HALVINGS) | ~torch.isfinite(trial.value)
        if enough.all():
            return count
        count = torch.where(enough, count, count + 1)


def is_stalled(n_backtracks: Any, change: Any, rounding: float) -> Any:
    """Whether halving the step again is no help, given the change that the last one promised; arrays or numbers."""
    return (n_backtracks > 2 * tuning.MOST_HALVINGS) | ((n_backtracks > 4) & (-change < rounding))


def select(index: torch.Tensor, thing: Any) -> Any:
    """`thing` for the models at `index`: a tensor (B, ...), a tuple of such, or None."""
    if thing is None:
        return None
    if isinstance(thing, torch.Tensor):
        return thing[index]
    return type(thing)(*(select(index, part) for part in thing))


def where_accepted(search: LineSearchResult, new: Any, old: Any) -> Any:
    """`new` for the models that accepted it, `old` for the others; works on tensors (B, ...) and tuples of them."""
    if search.n_accepted == len(search.accepted):
        return new
    if new is None or old is None:
        return None
    if isinstance(new, tuple):
        return type(new)(*(where_accepted(search, n, o) for n, o in zip(new, old, strict=True)))
    return torch.where(search.accepted.to(new.device).view(-1, *[1] * (new.ndim - 1)), new, old)
