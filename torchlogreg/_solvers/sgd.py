"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from torchlogreg._objective.objective import Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading, SelectableSolver, drawn_seed
from torchlogreg._solvers.learning_rates import AutomaticRate, ConstantRate
from torchlogreg._solvers.stopping import Settled


class SGDState(NamedTuple):
    """Where an epoch has led."""

    point: Point  # W class-major (see `class_major`), and as value the mean over the epoch's batches
    velocity: torch.Tensor  # (1, d, K)
    random: torch.Tensor  # state of the generator of the order of the rows
    reading: Reading
    rate: Any = None  # ConstantRate or AutomaticRate; None before the first epoch

    @property
    def settled(self):
        """Whether the schedule of the learning rate has come to its end."""
        return self.rate is not None and self.rate.settled


@dataclass(frozen=True)
class SGD(SelectableSolver):
    """Mini-batch SGD: the update of `torch.optim.SGD`, the data stay on its device, no DataLoader.

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
    takes_kinks = True

    @classmethod
    def from_params(cls, params, *, validated=False):
        """See `SelectableSolver`."""
        size = params["batch_size"]
        same = {name: params[name] for name in ("learning_rate", "momentum", "nesterov", "shuffle")}
        return cls(
            **same,
            batch_size=tuning.AUTOMATIC_BATCH_ROWS if size == "auto" else size and int(size),
            n_iter_no_change=params["n_iter_no_change"],
            tol=params["tol"],
            n_epochs=max(1, params["max_iter"]),
            seed=drawn_seed(params["random_state"], None),  # another order of the rows in every fit
            validated=validated,
        )

    def init(self, objective, W):
        """See `Solver`."""
        W = class_major(objective.penalty.clipped(W), objective.design)
        random = torch.Generator(objective.design.compute.device).manual_seed(self.seed).get_state()
        point = Point(W, None, None)
        return SGDState(point, torch.zeros_like(W), random, Reading.of(point))

    def step(self, objective, state):
        """See `Solver`."""
        W, velocity, rate = state.point.W.clone(), state.velocity.clone(), state.rate
        if rate is None:
            rate = AutomaticRate.at(self, objective, W) if self.learning_rate == "auto" else ConstantRate()
        generator = torch.Generator(W.device)
        generator.set_state(state.random.cpu())
        value = self.epoch(objective, W, velocity, rate.current(self), generator)
        is_sound, rate = rate.after_epoch(self, objective, W, value)
        if not is_sound:
            W, velocity = state.point.W, torch.zeros_like(velocity)
            value = torch.full_like(value, rate.ceiling)
        point = Point(W, value, None)
        return SGDState(point, velocity, generator.get_state(), Reading.of(point), rate)

    def select(self, state, index):  # noqa: ARG002
        """See `Solver`; there is one model."""
        return state

    def pack(self, state):
        """The state as it is."""
        return state

    def unpack(self, objective, packed):
        """See `Solver`."""
        W = class_major(packed.point.W, objective.design)
        velocity = class_major(packed.velocity, objective.design)
        return packed._replace(point=packed.point._replace(W=W), velocity=velocity)

    def stopping(self, tol):  # noqa: ARG002 - it is one of the settings
        """See `Solver`."""
        return Settled()

    def epoch(self, objective, W, velocity, rate, generator):
        """One pass over the rows that updates W and velocity (1, d, K), class-major, in place.

        Returns the mean over its mini-batches of the objective as each update found it, (1,).
        """
        objective.passes.n_visited += objective.design.shape[0]
        n, size, total = objective.design.shape[0], self._size(objective), 0.0
        for rows in objective.design.chunks(size):
            if rows is objective.design:
                order = self._order(objective, generator)
            else:  # a stream has an order of its own
                order = torch.arange(len(rows.X), device=W.device)
            total = total + _fused_steps(self, objective, rows, order, size, W, velocity, rate)
        return (total / n).view(1)

    def _size(self, objective):
        n = objective.design.shape[0]
        return n if self.batch_size is None else min(self.batch_size, n)

    def _order(self, objective, generator):
        """The order of the rows in an epoch."""
        n, device = objective.design.shape[0], objective.design.device
        shuffled = self.shuffle and self._size(objective) < n
        return torch.randperm(n, generator=generator, device=device) if shuffled else torch.arange(n, device=device)


def class_major(W, rows):
    """A copy of W (B, d, K) beside the rows; class-major, for products with a mini-batch are several times as fast."""
    W = W.to(device=rows.compute.device, dtype=rows.compute.dtype)
    return W.mT.clone(memory_format=torch.contiguous_format).mT


def _fused_steps(solver, objective, rows, order, size, W, velocity, rate):
    """The updates of some rows; the sum over them of their batches' objectives.

    The loss's closed-form residual goes straight into the velocity. Autograd and what it needs around it would take
    most of the time of a small step: for MNIST in batches of 64 on one Zen 4 core, about 230 of 340 microseconds. A
    test holds these steps to those by autograd. On an accelerator a step is as long as its kernels are many, so the
    losses, which no step needs, are computed of many batches at a time.
    """
    loss, n, accumulated = objective.loss, objective.design.shape[0], rows.to_accumulation
    flat, momentum = W[0].mT, velocity[0].mT  # (K, d), contiguous
    gradient = torch.zeros_like(flat)  # of the penalty; with Nesterov's momentum of everything
    l2 = objective.penalty.l2[0].mT.to(W) if objective.has_l2 else None  # (1, d)
    l1 = None if objective.penalty.l1 is None else objective.penalty.l1[0].mT.to(W)  # (1, d)
    # At rest the velocity is the gradient over 1 - momentum, and so the threshold of the proximal step has to be.
    threshold = None if l1 is None else rate / (1.0 - solver.momentum) * l1
    lower, upper = objective.penalty.lower, objective.penalty.upper
    bounds = None if lower is None or upper is None else (lower[0].mT.to(W), upper[0].mT.to(W))
    y = rows.y.to(W.dtype) if rows.y.is_floating_point() else rows.y
    labels, weights = y.index_select(0, order), None
    codes = loss.codes(labels) if loss.n_logits > 1 else loss.codes(labels).to(W.dtype)
    if any(abs(n * extreme - 1.0) >= tuning.EQUAL_WEIGHTS for extreme in rows.extreme_weights):
        weights = (n * rows.weight[:, 0]).to(W.dtype).index_select(0, order)
    start, total = 0, 0.0
    # What belongs to a mini-batch is made for some of them at a time: views of a few numbers take a kilobyte each.
    for chunk in rows.mini_batches(order, size):
        own = slice(start, start + sum(batch.X.shape[0] for batch in chunk))
        start = own.stop
        logits, penalties, norms = [], [], []
        row_weights = [None] * len(chunk) if weights is None else weights[own].split(size)
        for batch, batch_codes, row_weight in zip(chunk, codes[own].split(size), row_weights, strict=True):
            b = batch.X.shape[0]
            eta = batch.logits(flat)  # (K, b)
            residual = loss.residual(eta, batch_codes)
            if row_weight is not None:
                residual *= row_weight
            logits.append(eta)
            if l2 is not None:
                torch.mul(l2, flat, out=gradient)
                penalties.append(torch.dot(gradient.view(-1), flat.view(-1)))
            if l1 is not None:
                norms.append((l1 * flat.abs()).sum())
            if solver.nesterov:
                batch.add_products(gradient, residual, beta=0.0 if l2 is None else 1.0, alpha=1.0 / b)
                torch.add(gradient, momentum, alpha=solver.momentum, out=momentum)
                flat.sub_(gradient.add_(momentum, alpha=solver.momentum), alpha=rate)
            else:
                batch.add_products(momentum, residual, beta=solver.momentum, alpha=1.0 / b)
                if l2 is not None:
                    momentum += gradient
                flat.sub_(momentum, alpha=rate)
            _proximal_step(flat, threshold, bounds)
        eta = eta if len(chunk) == 1 else torch.cat(logits, dim=1)
        losses = accumulated(loss.value(eta.T.unsqueeze(1), labels[own])[:, 0])
        losses = losses if weights is None else losses * accumulated(weights[own])
        total = total + losses.sum()
        for factor, terms in ((0.5, penalties), (1.0, norms)):
            if terms:  # times the rows of the batches, of which the last may have fewer
                of_batches = accumulated(torch.stack(terms))
                total = total + factor * (size * of_batches[:-1].sum() + b * of_batches[-1])
    return total


def _proximal_step(flat, threshold, bounds):
    """Coefficients (K, d) nearer to zero by a threshold (1, d) and within bounds, in place, where there are such."""
    if threshold is not None:
        flat.copy_(torch.sign(flat) * (flat.abs() - threshold).clamp_(min=0.0))
    if bounds is not None:
        torch.minimum(torch.maximum(flat, bounds[0], out=flat), bounds[1], out=flat)
