"""Learning rates of SGD: the one that was asked for, or "auto"."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from torchlogreg._objective.objective import OutOfRange
from torchlogreg._objective.smoothness import loss_bounds
from torchlogreg._solvers import tuning
from torchlogreg._solvers.stopping import Improvement


class ConstantRate(NamedTuple):
    """The learning rate that was asked for; it settles when the objective no longer improves."""

    improvement: Improvement = Improvement()
    settled: bool = False
    ceiling: float = math.inf  # there is none

    def current(self, solver):
        """The learning rate of the next epoch."""
        return solver.learning_rate

    def after_epoch(self, solver, objective, W, value):  # noqa: ARG002 - wherever an epoch led
        """Whether the epoch that led to W, with this mean `value`, counts; and the rate after it."""
        if solver.validated:
            return True, self
        improvement = self.improvement.after(float(value), solver.tol)
        return True, ConstantRate(improvement, improvement.is_over(solver.tol, solver.n_iter_no_change))


class AutomaticRate(NamedTuple):
    """The learning rate "auto": as large as is stable until the objective stands still, then linear to zero.

    Constant rates with a linear end: Haegele et al. 2024, arXiv:2405.18392. The fit has settled when the objective
    stood still at the constant rate and the rate has then fallen to zero.
    """

    height: float
    ceiling: float  # the objective where the fit began
    epoch: int = 0
    still: bool = False
    cooling: tuple[int, int] | None = None  # first and last epoch of the fall to zero
    improvement: Improvement = Improvement()

    @classmethod
    def at(cls, solver, objective, W):
        """At the start W of a fit."""
        return cls(_largest_rate(solver, objective), max(_value(objective, W), tuning.ZERO_VALUE))

    def current(self, solver):  # noqa: ARG002
        """The learning rate of the next epoch."""
        if self.cooling is None:
            return self.height
        first, last = self.cooling
        return self.height * max(0.0, last + 0.5 - self.epoch) / (last + 1 - first)

    @property
    def settled(self):
        """Whether the rate has come to its end."""
        return self.still and self.cooling is not None and self.epoch > self.cooling[1]

    def after_epoch(self, solver, objective, W, value):  # noqa: ARG002
        """Whether the epoch that led to W counts, or ended above where the fit began; and the rate after it."""
        reached = _value(objective, W)
        stable = reached <= self.ceiling
        # The bound holds in expectation, not in every order of the rows.
        out = self._replace(epoch=self.epoch + 1, height=self.height if stable else self.height / 2.0)
        if out.cooling is not None:
            return stable, out
        if stable:
            improvement = self.improvement.after(reached, solver.tol)
            out = out._replace(improvement=improvement, still=improvement.is_over(solver.tol, solver.n_iter_no_change))
        else:
            out = out._replace(still=False)
        if out.still or out.epoch >= math.floor((1.0 - tuning.COOLING_SHARE) * solver.n_epochs):
            out = out._replace(cooling=(out.epoch, out.epoch + math.ceil(tuning.COOLING_SHARE * solver.n_epochs) - 1))
        return stable, out


def _value(objective, W):
    return float(objective.value_and_gradient(objective.design.to_accumulation(W)).value.sum())


def _largest_rate(solver, objective):
    """The stable rate for the smoothness that batches of this size have in expectation.

    Gower et al. 2019, proposition 3.8, arXiv:1901.09401: it follows the scale of the features and outlying rows.
    """
    n = objective.design.shape[0]
    mean, worst = loss_bounds(objective)
    b = n if solver.batch_size is None else min(solver.batch_size, n)
    smoothness = mean if n == 1 else (n * (b - 1) * mean + (n - b) * worst) / (b * (n - 1))
    return stable_rate(solver, smoothness + float(objective.penalty.l2.max()))


def stable_rate(solver, smoothness):
    """Four fifths of the rate at which momentum becomes unstable on a quadratic of that smoothness.

    It is 2 (1 + momentum) / L for heavy ball (Polyak 1964, doi:10.1016/0041-5553(64)90137-5) and a factor
    1 + 2 momentum less for Nesterov's.
    """
    if not math.isfinite(smoothness):
        raise OutOfRange("overflow")
    damping = 1.0 + 2.0 * solver.momentum if solver.nesterov else 1.0
    return 0.8 * 2.0 * (1.0 + solver.momentum) / (damping * max(smoothness, torch.finfo(torch.float64).tiny))
