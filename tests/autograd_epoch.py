"""SGD by autograd, what the closed-form steps are held to."""

import torch


def mini_batch(objective, W, index):
    """The objective (B,) estimated on the rows at `index`, differentiable; its mean over the batches is F."""
    rows = objective.design.take(index)
    value = objective.loss.value(rows.matvec(W), rows.y)
    scale = objective.design.shape[0] / rows.shape[0]
    return scale * (rows.weight * value).sum(dim=0) + objective.penalty.value(W)


def autograd_epoch(solver, objective, W, velocity, rate, generator):
    """`SGD.epoch` by autograd."""
    n, total = objective.design.shape[0], 0.0
    order = torch.randperm(n, generator=generator) if (solver.batch_size or n) < n else torch.arange(n)
    for index in order.split(solver.batch_size or n):
        leaf = W.detach().requires_grad_()
        value = mini_batch(objective, leaf, index)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        velocity.mul_(solver.momentum).add_(gradient)
        W.sub_(gradient.add(velocity, alpha=solver.momentum) if solver.nesterov else velocity, alpha=rate)
        total = total + value.detach() * (len(index) / n)
    return total


def states(solver, objective, W):
    """The states of a solver from W on, without end."""
    solver = solver.specialised(objective, W)
    state = solver.init(objective, W)
    while True:
        yield state
        state = solver.step(objective, state)
