"""Stochastic gradient descent with momentum."""

from dataclasses import dataclass
from functools import partial

import torch

from torchlogreg._objective.objective import Point
from torchlogreg._solvers.base import Solver
from torchlogreg._solvers.driver import NoImprovement, Step
from torchlogreg._solvers.learning_rates import Automatic, Constant

ROUNDING = 1e-12  # of weights that are all alike
AUTOMATIC_BATCH = 32  # rows in a mini-batch with batch_size="auto"


@dataclass(frozen=True)
class SGD(Solver):
    """Mini-batch SGD: the update of `torch.optim.SGD`, the data kept on its device, no DataLoader.

    An iteration is one epoch. Coefficients have the dtype of products with X, as they have in a hand-written loop.
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
    validated: bool = False  # whether the accuracy on other rows, and not the objective, says when to stop

    name = "sgd"
    stochastic = True

    @classmethod
    def from_params(cls, params, *, validated=False):
        size = params["batch_size"]
        same = {name: params[name] for name in ("learning_rate", "momentum", "nesterov", "shuffle")}
        return cls(
            **same,
            batch_size=AUTOMATIC_BATCH if size == "auto" else size and int(size),
            n_iter_no_change=params["n_iter_no_change"],
            tol=params["tol"],
            n_epochs=max(1, params["max_iter"]),
            seed=cls.seed_from(params["random_state"]),
            validated=validated,
        )

    def stopping(self, tol):
        if self.learning_rate == "auto" or self.validated:
            return Settled()
        return NoImprovement(tol, self.n_iter_no_change)

    def iterates(self, objective, W, state=None):
        generator = torch.Generator(objective.design.compute.device).manual_seed(self.seed)
        W = class_major(W, objective.design)
        velocity = torch.zeros_like(W)  # preserves the layout
        rate = None
        if state is not None:
            W.copy_(state["W"])
            velocity.copy_(state["velocity"])
            generator.set_state(state["generator"].cpu())
            rate = state["rate"]
        yield Step(Point(W.clone(), None, None))
        automatic = self.learning_rate == "auto"
        schedule = Automatic(self, objective, W, rate) if automatic else Constant(self.learning_rate)
        while True:
            start = W.clone()
            value = self.epoch(objective, W, velocity, schedule.rate, generator)
            if not schedule.accepts(W):
                W.copy_(start)
                velocity.zero_()
                value = torch.full_like(value, schedule.ceiling / len(value))
            own = partial(_state, W, velocity, generator, schedule)
            yield Step(Point(W.clone(), value, None), settled=schedule.settled, state=own)

    def epoch(self, objective, W, velocity, rate, generator):
        """One sweep over the rows that updates W and velocity (B, d, K), class-major, in place.

        Returns the mean over its mini-batches of the objective as each update found it, (B,).
        """
        objective.passes.n_visited += objective.design.shape[0]
        sweep = _fused_epoch if len(W) == 1 else _autograd_epoch
        return sweep(self, objective, W, velocity, rate, generator)

    def _size(self, objective):
        n = objective.design.shape[0]
        return n if self.batch_size is None else min(self.batch_size, n)

    def _order(self, objective, generator):
        """The order of the rows in an epoch."""
        n, device = objective.design.shape[0], objective.design.device
        shuffled = self.shuffle and self._size(objective) < n
        return torch.randperm(n, generator=generator, device=device) if shuffled else torch.arange(n, device=device)


class Settled:
    """Stop when the schedule of the learning rate has come to its end."""

    def __call__(self, step):
        return step.settled


def _state(W, velocity, generator, schedule):
    """What an epoch goes on from."""
    return {"W": W, "velocity": velocity, "generator": generator.get_state(), "rate": schedule.state()}


def class_major(W, rows):
    """A copy of W (B, d, K) beside the rows; class-major, for products with a mini-batch are several times as fast."""
    W = W.to(device=rows.compute.device, dtype=rows.compute.dtype)
    return W.mT.clone(memory_format=torch.contiguous_format).mT


def _autograd_epoch(solver, objective, W, velocity, rate, generator):
    """`SGD.epoch` by autograd.

    It serves several models at once, and is what the tests hold the fused epoch to.
    """
    n, total = objective.design.shape[0], 0.0
    for index in solver._order(objective, generator).split(solver._size(objective)):
        with torch.enable_grad():
            leaf = W.detach().requires_grad_()
            value = objective.mini_batch(leaf, index)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        velocity.mul_(solver.momentum).add_(gradient)
        W.sub_(gradient.add(velocity, alpha=solver.momentum) if solver.nesterov else velocity, alpha=rate)
        total = total + value.detach() * (len(index) / n)
    return total


def _fused_epoch(solver, objective, W, velocity, rate, generator):
    """The same for one model without autograd: the loss's closed-form residual goes straight into the velocity.

    Autograd and what it needs around it take most of the time of a small step: for MNIST in batches of 64 on one Zen 4
    core, about 230 of 340 microseconds. A test holds the two kinds of epoch to the same iterates.
    """
    n, size = objective.design.shape[0], solver._size(objective)
    total = 0.0
    for rows in objective.design.chunks(size):
        # A stream has an order of its own.
        order = (
            solver._order(objective, generator)
            if rows is objective.design
            else torch.arange(len(rows.X), device=W.device)
        )
        total = total + _fused_steps(solver, objective, rows, order, size, W, velocity, rate)
    return (total / n).view(1)


def _fused_steps(solver, objective, rows, order, size, W, velocity, rate):
    """The updates of some rows; the sum over them of their batches' objectives."""
    loss, n = objective.loss, objective.design.shape[0]
    flat, momentum = W[0].mT, velocity[0].mT  # (K, d), contiguous
    y = rows.y.to(W.dtype) if rows.y.is_floating_point() else rows.y
    weight = n * rows.weight
    equal = bool(((weight - 1.0).abs() < ROUNDING).all())
    weight = weight.to(W.dtype)
    l2 = objective.penalty.l2[0].mT.to(W) if objective.penalty.l2.any() else None  # (1, d)
    labels, weights = y.index_select(0, order), weight.index_select(0, order)
    start, total = 0, 0.0
    # What is kept for a mini-batch is kept for some of them at a time: views of a few numbers take a kilobyte each.
    for chunk in rows.gathered(order, size):
        own = slice(start, start + sum(batch.X.shape[0] for batch in chunk))
        start = own.stop
        losses, penalties = [], [W.new_zeros(())]
        for batch, y, row_weight in zip(chunk, labels[own].split(size), weights[own].split(size), strict=True):
            b = batch.X.shape[0]
            eta = batch.logits(flat).T.unsqueeze(1)  # (b, 1, K)
            value, residual = loss.value_and_residual(eta, y)
            value, residual = value[:, 0], residual[:, 0]
            if not equal:
                value, residual = value * row_weight[:, 0], residual * row_weight
            losses.append(value)
            before = momentum.clone() if solver.nesterov else None
            if l2 is None:
                batch.add_products(momentum, residual.T, beta=solver.momentum, alpha=1.0 / b)
            else:
                shrinkage = l2 * flat
                penalties.append(b * (shrinkage * flat).sum())
                momentum.mul_(solver.momentum).add_(shrinkage)
                batch.add_products(momentum, residual.T, beta=1.0, alpha=1.0 / b)
            if solver.nesterov:  # gradient + momentum x velocity, the gradient being what the velocity gained
                gradient = momentum - solver.momentum * before
                flat.sub_(gradient.add_(momentum, alpha=solver.momentum), alpha=rate)
            else:
                flat.sub_(momentum, alpha=rate)
        total = total + torch.cat(losses).double().sum() + 0.5 * torch.stack(penalties).double().sum()
    return total
