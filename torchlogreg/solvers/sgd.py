"""Stochastic gradient descent with momentum, by autograd."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from torchlogreg._minimise import NoImprovement, Step
from torchlogreg._problem import Point
from torchlogreg.solvers._base import Solver

COOLING = 0.4  # share of the epochs over which the learning rate "auto" falls to zero


@dataclass(frozen=True)
class SGD(Solver):
    """Mini-batch SGD: the update of `torch.optim.SGD`, the data kept on its device, no DataLoader.

    An iteration is one epoch. Coefficients have the dtype of X, as they have in a hand-written loop.
    """

    learning_rate: float | str = "auto"
    momentum: float = 0.9
    nesterov: bool = False
    batch_size: int | None = None  # None: all rows
    shuffle: bool = True
    n_iter_no_change: int = 5
    tol: float = 1e-4  # what counts as an improvement to the schedule of the learning rate "auto"
    n_epochs: int = 100  # the longest that schedule may take
    seed: int = 0
    score: Callable | None = None  # W -> accuracy on held-out rows

    name = "sgd"
    stochastic = True

    def stopping(self, tol):
        if self.learning_rate == "auto" and self.score is None:
            return _Settled()
        return NoImprovement(tol, self.n_iter_no_change)

    def iterates(self, problem, W):
        X = problem.rows.X
        generator = torch.Generator(X.device).manual_seed(self.seed)
        W = W.to(device=X.device, dtype=X.dtype, copy=True).requires_grad_()
        velocity = torch.zeros_like(W)
        yield Step(Point(W.detach().clone(), None, None))
        schedule = (
            _Automatic(self, problem, W.detach()) if self.learning_rate == "auto" else _Constant(self.learning_rate)
        )
        before = W.detach().clone(), velocity.clone()  # the start of the last epoch whose objective was acceptable
        while True:
            start = W.detach().clone(), velocity.clone()
            value = self._epoch(problem, W, velocity, schedule.rate, generator)
            if schedule.accepts(float(value)):
                before = start
            else:
                with torch.no_grad():
                    W.copy_(before[0])
                    velocity.copy_(before[1] / 2.0)
            kept = W.detach().clone()
            score = self.score and self.score(kept)
            yield Step(Point(kept, value, None), score=score, settled=schedule.settled)

    def _epoch(self, problem, W, velocity, rate, generator):
        """One sweep over the rows, updating W and velocity in place; the mean objective of its batches, (B,)."""
        n = problem.rows.shape[0]
        total = W.new_zeros(W.shape[0], dtype=torch.float32 if W.device.type == "mps" else torch.float64)
        for index in self._batches(n, generator, W.device):
            with torch.enable_grad():
                objective = problem.mini_batch(W, index)
                (gradient,) = torch.autograd.grad(objective.sum(), W)
            with torch.no_grad():
                velocity.mul_(self.momentum).add_(gradient)
                update = gradient.add(velocity, alpha=self.momentum) if self.nesterov else velocity
                W.sub_(update, alpha=rate)
                total += objective * (1.0 if index is None else len(index) / n)
        return total

    def _batches(self, n, generator, device):
        if self.batch_size is None or self.batch_size >= n:
            return [None]
        order = (
            torch.randperm(n, generator=generator, device=device) if self.shuffle else torch.arange(n, device=device)
        )
        return order.split(self.batch_size)


class _Settled:
    """Stop when the schedule of learning rates has come to its end."""

    def __call__(self, step):
        return step.settled


class _Constant:
    """The learning rate that was asked for."""

    settled = False

    def __init__(self, rate):
        self.rate = rate

    def accepts(self, value):  # noqa: ARG002 - whatever the objective
        return True


class _Automatic:
    """The learning rate "auto": as large as is stable until the objective stands still, then linear to zero.

    Constant rates with a linear end: Haegele et al. 2024, arXiv:2405.18392. The fit has settled when the objective
    stood still at the constant rate and the rate has then fallen to zero.
    """

    def __init__(self, solver, problem, W):
        self.solver = solver
        self.height = _largest_rate(solver, problem)
        self.ceiling = float(problem.smooth(problem.rows.bring_home(W)).value)
        self.stands_still = NoImprovement(solver.tol, solver.n_iter_no_change)
        self.epoch = 0
        self.still = False
        self.cooling = None  # first and last epoch of the fall to zero

    @property
    def rate(self):
        if self.cooling is None:
            return self.height
        first, last = self.cooling
        return self.height * (last + 0.5 - self.epoch) / (last + 1 - first)

    @property
    def settled(self):
        return self.still and self.epoch > self.cooling[1]

    def accepts(self, value):
        """Note the objective of an epoch; False if the epoch is to be undone."""
        self.epoch += 1
        stable = value <= self.ceiling
        if not stable:
            # The bound holds in expectation, not in every order of the rows.
            self.height /= 2.0
        elif self.cooling is None:
            self.still = self.stands_still(Step(Point(None, torch.tensor(value), None)))
            if self.still or self.epoch >= math.floor((1.0 - COOLING) * self.solver.n_epochs):
                self.cooling = self.epoch, self.epoch + math.ceil(COOLING * self.solver.n_epochs) - 1
        return stable


def _largest_rate(solver, problem):
    """Four fifths of the rate at which momentum becomes unstable on a quadratic of the same smoothness.

    That rate is 2 (1 + momentum) / L for heavy ball (Polyak 1964, doi:10.1016/0041-5553(64)90137-5) and a factor
    1 + 2 momentum less for Nesterov's. L is the smoothness that batches of this size have in expectation (Gower
    et al. 2019, proposition 3.8, arXiv:1901.09401): it follows the scale of the features and outlying rows.
    """
    n = problem.rows.shape[0]
    mean, worst = problem.loss_bounds()
    b = n if solver.batch_size is None else min(solver.batch_size, n)
    smoothness = mean if n == 1 else (n * (b - 1) * mean + (n - b) * worst) / (b * (n - 1))
    smoothness += float(problem.penalty.l2.max())
    damping = 1.0 + 2.0 * solver.momentum if solver.nesterov else 1.0
    return 0.8 * 2.0 * (1.0 + solver.momentum) / (damping * max(smoothness, torch.finfo(torch.float64).tiny))
