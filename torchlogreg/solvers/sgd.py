"""Stochastic gradient descent with momentum, by autograd."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from torchlogreg._minimise import NoImprovement, Step
from torchlogreg._problem import Point
from torchlogreg.solvers._base import Solver


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
    n_epochs: int = 100  # the length of the "auto" schedule
    seed: int = 0
    score: Callable | None = None  # W -> accuracy on held-out rows

    name = "sgd"
    stochastic = True

    def stopping(self, tol):
        return NoImprovement(tol, self.n_iter_no_change)

    def iterates(self, problem, W):
        X = problem.rows.X
        generator = torch.Generator(X.device).manual_seed(self.seed)
        rate = self._schedule(problem)
        W = W.to(device=X.device, dtype=X.dtype, copy=True).requires_grad_()
        velocity = torch.zeros_like(W)
        yield Step(Point(W.detach(), None, None))
        epoch = 0
        while True:
            value = self._epoch(problem, W, velocity, rate(epoch), generator)
            epoch += 1
            yield Step(Point(W.detach(), value, None), score=self.score and self.score(W.detach()))

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
        order = torch.randperm(n, generator=generator, device=device) if self.shuffle else torch.arange(n, device=device)
        return order.split(self.batch_size)

    def _schedule(self, problem):
        """Learning rate as a function of the epoch.

        "auto" starts from the smoothness that mini-batches of this size have in expectation (Gower et al. 2019,
        proposition 3.8, arXiv:1901.09401), which no scale of the features can make unstable, and falls linearly to
        zero over the epochs (Defazio et al. 2023, arXiv:2310.07831).
        """
        if self.learning_rate != "auto":
            return lambda epoch: self.learning_rate
        n = problem.rows.shape[0]
        mean, worst = problem.loss_bounds()
        b = n if self.batch_size is None else min(self.batch_size, n)
        smoothness = mean if n == 1 else (n * (b - 1) * mean + (n - b) * worst) / (b * (n - 1))
        smoothness += float(problem.penalty.l2.max())
        rate = AUTO * (1.0 - self.momentum) / smoothness
        return lambda epoch: rate * max(1.0 - epoch / self.n_epochs, 1.0 / self.n_epochs)


AUTO = 1.0
