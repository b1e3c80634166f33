"""Learning rates of SGD: the one that was asked for, or "auto"."""

import math

import torch

from torchlogreg._objective.objective import OutOfRange
from torchlogreg._solvers.driver import ZERO, NoImprovement

COOLING = 0.4  # share of the epochs over which the learning rate "auto" falls to zero


class Constant:
    """The learning rate that was asked for."""

    settled = False

    def __init__(self, rate):
        self.rate = rate

    def state(self):
        """Nothing changes."""

    def accepts(self, W):  # noqa: ARG002 - wherever an epoch led
        return True


class Automatic:
    """The learning rate "auto": as large as is stable until the objective stands still, then linear to zero.

    Constant rates with a linear end: Haegele et al. 2024, arXiv:2405.18392. The fit has settled when the objective
    stood still at the constant rate and the rate has then fallen to zero.
    """

    def __init__(self, solver, objective, W, state=None):
        self.solver, self.objective = solver, objective
        self.improvement = NoImprovement(solver.tol, solver.n_iter_no_change)
        if state is not None:
            self.height, self.ceiling, self.epoch, self.still, self.cooling, self.improvement.state = state
            return
        self.height = _largest_rate(solver, objective)
        self.ceiling = max(self._objective(W), ZERO)
        self.epoch = 0
        self.still = False
        self.cooling = None  # first and last epoch of the fall to zero

    def state(self):
        """What an epoch goes on from, as plain values."""
        return self.height, self.ceiling, self.epoch, self.still, self.cooling, self.improvement.state

    def _objective(self, W):
        return float(self.objective.value_and_gradient(self.objective.design.to_accumulation(W)).value.sum())

    @property
    def rate(self):
        if self.cooling is None:
            return self.height
        first, last = self.cooling
        return self.height * max(0.0, last + 0.5 - self.epoch) / (last + 1 - first)

    @property
    def settled(self):
        return self.still and self.epoch > self.cooling[1]

    def accepts(self, W):
        """Judge where an epoch led to; False if that is above where the fit began, and the epoch to be undone."""
        self.epoch += 1
        objective = self._objective(W)
        stable = objective <= self.ceiling
        if not stable:
            # The bound holds in expectation, not in every order of the rows.
            self.height /= 2.0
        if self.cooling is None:
            self.still = stable and self.improvement.stale_after(objective)
            if self.still or self.epoch >= math.floor((1.0 - COOLING) * self.solver.n_epochs):
                self.cooling = self.epoch, self.epoch + math.ceil(COOLING * self.solver.n_epochs) - 1
        return stable


def _largest_rate(solver, objective):
    """The stable rate for the smoothness that batches of this size have in expectation.

    Gower et al. 2019, proposition 3.8, arXiv:1901.09401: it follows the scale of the features and outlying rows.
    """
    n = objective.design.shape[0]
    mean, worst = objective.loss_bounds()
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
