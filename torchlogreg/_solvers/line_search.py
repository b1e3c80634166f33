"""The test that accepts a step, and what a descent direction says about the gap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch

from torchlogreg._data.device import copied_to
from torchlogreg._objective.objective import Objective, Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading
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

    def read(
        self, more: Iterable[torch.Tensor] = (), stuck: list[bool] | None = None
    ) -> tuple[Reading, list[list[float]]]:
        """The reading, the gap made of the slope by the host; the slope, and `more` columns (B,), in one transfer."""
        reading, columns = Reading.with_more(self.point, None, (self.slope, *more), stuck)
        tiny = torch.finfo(self.point.value.dtype).tiny
        gap = [-0.5 * slope / max(value, tiny) for slope, value in zip(columns[0], reading.value, strict=True)]
        return reading._replace(gap=gap), columns


class Step(NamedTuple):
    """What the host knows of the step that will be tried, for each of B models."""

    value: list[float]  # of the objective where it begins
    slope: list[float]  # along the direction
    n_backtracks: list[int]  # how often it is halved

    @property
    def lengths(self) -> list[float]:
        """Of the step, in units of the direction."""
        return [0.5**n for n in self.n_backtracks]

    @property
    def changes(self) -> list[float]:
        """Of the value, as the slope promises them."""
        return [t * slope for t, slope in zip(self.lengths, self.slope, strict=True)]


class LineSearchResult(NamedTuple):
    """What became of a trial step, for each of B models; known to the host."""

    accepted: list[bool]
    exhausted: list[bool]  # whether going on is useless at this precision
    n_backtracks: list[int]  # how often each model has to halve its next step

    def stuck(self, restarted: list[bool], *, is_exact: bool) -> list[bool]:
        """Which models no step helps: a fresh start has not either, or is no help where products are not exact."""
        return [e and (was or not is_exact) for e, was in zip(self.exhausted, restarted, strict=True)]

    def restarted(self, before: list[bool]) -> list[bool]:
        """Which models have started afresh since their last step that was accepted."""
        flags = zip(self.exhausted, before, self.accepted, strict=True)
        return [e or (was and not accepted) for e, was, accepted in flags]


def beside(values: list[Any], tensor: torch.Tensor) -> torch.Tensor:
    """Values of the host as a tensor on the device of `tensor`, for which the host does not wait."""
    return copied_to(tensor.device, torch.tensor(values, device="cpu"))


def trial_point(descent: Descent, n_backtracks: list[int]) -> torch.Tensor:
    """The coefficients (B, d, K) at the step 0.5^n_backtracks, to be evaluated in one pass over X."""
    W, direction = descent.point.W, descent.direction
    if not any(n_backtracks):
        return W + direction
    lengths = beside([0.5**n for n in n_backtracks], W).to(W.dtype)
    return W + per_model(lengths) * direction


class Tried(Protocol):
    """What a line search has to know of the point that a step is tried from."""

    @property
    def point(self) -> Point:
        """The point."""
        ...

    @property
    def preconditioner(self) -> Any:
        """What `solve`s for the norm of gradients."""
        ...


def line_search_step(objective: Objective, descent: Tried, trial: Point, step: Step) -> LineSearchResult:
    """Judge the trial points of B models.

    A step is accepted by Armijo's sufficient decrease. But where the values differ by no more than rounding can
    explain, they say nothing, and the gradient must have become smaller in the preconditioner's norm instead (after the
    approximate test of Hager and Zhang 2005, doi:10.1137/030601880). Products in float32 are given up at that point,
    for float64 will take over. A refused step is halved until the logits of the two points, along which they are
    linear, promise the decrease: that takes no pass over X.

    The host judges, from one transfer of the values: for a batch of a few models, kernels that compare numbers would
    take as long as the pass itself.
    """
    is_exact, rounding = objective.design.is_exact, torch.finfo(objective.design.compute.dtype).eps
    values, changes = trial.value.tolist(), step.changes
    pairs = list(zip(values, step.value, strict=True))
    accepted = [new <= old + tuning.ARMIJO * change for (new, old), change in zip(pairs, changes, strict=True)]
    level = [abs(new - old) <= _noise(old, rounding, is_exact) for new, old in pairs]
    if any(level):
        before, after = (dot(g, descent.preconditioner.solve(g)) for g in (descent.point.gradient, trial.gradient))
        smaller = (after < before).tolist()
        accepted = [s if is_level else a for s, is_level, a in zip(smaller, level, accepted, strict=True)]
    exhausted = [is_level and not is_exact for is_level in level]
    n_backtracks = [0] * len(accepted)
    if all(accepted):
        return LineSearchResult(accepted, exhausted, n_backtracks)
    refused = [b for b, is_accepted in enumerate(accepted) if not is_accepted]
    counts = _halvings(objective, descent.point, trial, step, [b for b in refused if not level[b]])
    for b in refused:
        exhausted[b] = exhausted[b] or is_stalled(step.n_backtracks[b], changes[b], rounding)
        n_backtracks[b] = step.n_backtracks[b] + counts[b]
    return LineSearchResult(accepted, exhausted, n_backtracks)


def _halvings(objective, point, trial, step, unpromising):
    """How often to halve each step that is refused: at least once, and until the logits promise enough decrease.

    Only those at `unpromising` are looked at, for the others were at the level of where they began.
    """
    counts = [1] * len(step.value)
    if trial.eta is None or point.eta is None:  # each a pass over X, so a step far too long is soon out of the way
        return [max(1, n) for n in step.n_backtracks]
    if not unpromising:
        return counts
    change = beside([step.changes[b] for b in unpromising], point.value).to(point.value.dtype)
    if len(unpromising) < len(counts):
        index = beside(unpromising, point.value)
        objective, point, trial = objective.select(index), select(index, point), select(index, trial)
    count = torch.ones_like(change)
    while True:
        t = 0.5**count
        enough = objective.between(point, trial, t) <= point.value + tuning.ARMIJO * t * change
        enough |= (count >= tuning.MOST_HALVINGS) | ~torch.isfinite(trial.value)
        if enough.all():
            break
        count = torch.where(enough, count, count + 1)
    for b, n in zip(unpromising, count.tolist(), strict=True):
        counts[b] = int(n)
    return counts


def _noise(value, rounding, is_exact):
    """By how much values may differ that rounding cannot tell apart."""
    if is_exact:
        return tuning.EQUAL_VALUE_ROUNDINGS * rounding * max(value, 1.0)
    # The sum over the rows, in float64, averages the errors, which are small where rows are predicted well: on MNIST at
    # most two units in the last place of values from 2 down to 0.005.
    return rounding * min(tuning.EQUAL_VALUE_ROUNDINGS_OF_PRODUCTS * value, max(value, 1.0))


def is_stalled(n_backtracks: Any, change: Any, rounding: float) -> Any:
    """Whether halving the step again is no help, given the change that the last one promised; arrays or numbers."""
    return (n_backtracks > 2 * tuning.MOST_HALVINGS) | ((n_backtracks > 4) & (-change < rounding))


def select(index: torch.Tensor, thing: Any) -> Any:
    """`thing` for the models at `index`: a tensor (B, ...), a tuple of such, or None."""
    if thing is None:
        return None
    if isinstance(thing, tuple):
        return type(thing)(*(select(index, part) for part in thing))
    return thing[index]


def where_accepted(search: LineSearchResult, new: Any, old: Any) -> Any:
    """`new` for the models that accepted it, `old` for the others; works on tensors (B, ...) and tuples of them."""
    if all(search.accepted):
        return new
    if new is None or old is None:
        return None
    if isinstance(new, tuple):
        return type(new)(*(where_accepted(search, n, o) for n, o in zip(new, old, strict=True)))
    return torch.where(beside(search.accepted, new).view(-1, *[1] * (new.ndim - 1)), new, old)
