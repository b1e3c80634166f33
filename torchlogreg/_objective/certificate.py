"""What can be said about how far a point is above the minimum."""

import math

import torch

from torchlogreg._objective import tuning
from torchlogreg._objective.objective import OutOfRange


def optimality_bound(objective, point):
    """A bound on value - optimum at `point`, (B,), by strong convexity.

    With intercepts that are best for the coefficients, F is at most ||gradient||^2 / (2 l2) above its minimum. The
    logits tell the best intercepts, and one more pass the gradient there. Infinite without a penalty, where that
    pass would be more than a twentieth of all, and where the best intercepts were not found.
    """
    p = objective.design.n_features
    weakest = objective.penalty.l2[:, :p, 0].amin(dim=1)  # (B,)
    nothing = torch.full_like(point.value, math.inf)
    if not weakest.all():
        return nothing
    value, gradient = point.value, point.gradient
    if objective.design.intercept:
        if point.eta is None or (
            objective.passes.total < tuning.LONG_FIT_PASSES and objective.design.n_numbers > tuning.CHEAP_PASS_NUMBERS
        ):
            return nothing
        best = best_intercepts(objective, point)
        if best is None:
            return nothing
        value, gradient = best
    square = gradient[:, :p].square().sum(dim=(1, 2))
    return (point.value - value).clamp(min=0.0) + square / (2.0 * weakest)


def best_intercepts(objective, point, most_steps=20):
    """Value and gradient where the intercepts are best for the coefficients, by Newton; None if it fails."""
    p, exact = objective.design.n_features, objective.exact()
    eta = objective.design.to_accumulation(point.eta).permute(2, 0, 1)  # (n, B, K)
    y, weight = objective.design.y.to(eta.device), objective.design.to_accumulation(objective.design.weight)
    shift, slope = torch.zeros_like(point.gradient[:, p]), point.gradient[:, p]  # (B, K)
    held = objective.penalty.l2[:, p]  # (B, 1) not zero where a grid holds an intercept at zero
    for _ in range(most_steps):
        curvature = objective.loss.summed_curvature(eta + shift, weight)
        if shift.shape[1] > 1:  # lift the direction in which the softmax is flat, as `_pin` does
            curvature += curvature.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        curvature = curvature + torch.diag_embed(held.expand_as(shift))
        step, failed = torch.linalg.solve_ex(curvature, slope)
        shift = shift - step
        if failed.any() or not torch.isfinite(shift).all():
            return None
        losses, residual = objective.loss.value_and_residual(eta + shift, y)
        residual.mul_(weight[..., None])
        slope = residual.sum(dim=0) + held * (point.W[:, p] + shift)
        if float(slope.abs().max()) <= tuning.BEST_INTERCEPT_GRADIENT:
            break
    else:
        return None
    W = point.W.clone()
    W[:, p] += shift
    gradient, start = objective.penalty.gradient(W), 0
    for rows in exact.blocks():
        part = residual[start : start + rows.shape[0]]
        gradient = gradient + rows.rmatvec(part.to(rows.device))
        start += rows.shape[0]
    return objective.penalty.value(W) + (weight * losses).sum(dim=0), gradient


def check_squares(objective, point):
    """Raise OutOfRange if the curvature of a coefficient without penalty underflows at `point`.

    A tiny gradient is what such a column has in common with few others; then one more pass tells.
    """
    if point.gradient is None:
        return
    p, smallest = objective.design.n_features, tuning.SMALLEST_CURVATURE[objective.design.compute.dtype]
    free = objective.penalty.l2[:, :p] < smallest
    if not free.any():
        return
    gradient = point.gradient[:, :p].abs()
    tiny = free & (gradient > 0) & (gradient < math.sqrt(smallest))
    if tiny.any():
        curvature = objective.exact().diagonal(torch.zeros_like(point.W)).view(len(point.W), point.W.shape[2], -1).mT
        if (tiny & (curvature[:, :p] < smallest)).any():
            raise OutOfRange("underflow")
