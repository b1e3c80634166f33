"""What can be said about how far a point is above the minimum."""

import math
from typing import Any

import torch

from torchlogreg._objective import row_sums, tuning
from torchlogreg._objective.objective import OutOfRange


def optimality_bound(objective, point):
    """A bound on value - optimum at `point`, (B,), by duality (Boyd and Vandenberghe 2004, section 5.2).

    With intercepts that are best for the coefficients, the residuals r = p - y are a dual point, and so are rho r for
    0 <= rho <= 1, the residuals of q = y + rho r. With v = -X' rho r the gap is what q is from p, and v from a
    subgradient of the penalty:

        sum_i s_i KL(q_i || p_i) + sum_j penalty_j(w_j) + conjugate_j(v_j) - w_j v_j

    For rho = 1 and an L2 penalty alone that is ||gradient||^2 / (2 l2). A coefficient with an L1 norm alone needs
    |v_j| <= l1_j, which decides rho.
    The logits tell the best intercepts, and one more pass the gradient there. Infinite where a coefficient has neither
    a penalty nor bounds, where an L2 penalty does not pay for that pass, and where the best intercepts were not found.
    """
    p, penalty = objective.design.n_features, objective.penalty
    nothing = torch.full_like(point.value, math.inf)
    if penalty.is_smooth and not penalty.l2[:, :p].all():
        return nothing
    shift, at = None, point
    if objective.design.intercept:
        short = penalty.is_smooth and objective.passes.total < tuning.LONG_FIT_PASSES
        if point.eta is None or (short and objective.design.n_numbers > tuning.CHEAP_PASS_NUMBERS):
            return nothing
        found = best_intercepts(objective, point)
        if found is None:
            return nothing
        at, shift = found
    elif not penalty.is_smooth and point.eta is None:
        return nothing
    return (point.value - at.value).clamp(min=0.0) + _duality_gap(objective, at, point.eta, shift)


def estimated_gap(objective, point):
    """`optimality_bound` without a pass, (B,): as if the intercepts of a point were the best ones."""
    return _duality_gap(objective, point, point.eta)


def estimated_relative_gap(objective, point):
    """The same as a share of the value, (B,)."""
    return estimated_gap(objective, point) / point.value.clamp(min=torch.finfo(point.value.dtype).tiny)


def _duality_gap(objective, point, eta, shift=None):
    """The sums of `optimality_bound`, where the intercepts are best; logits eta + shift, which L2 alone needs not."""
    p, penalty = objective.design.n_features, objective.penalty
    features: Any = slice(p)
    if penalty.l1 is not None and p > tuning.MANY_FEATURES:  # those at their kink in all models have no excess
        inside = point.slope[:, :p].abs() <= penalty.l1[:, :p]
        features = torch.nonzero(((point.W[:, :p] != 0) | ~inside).any(dim=2).any(dim=0)).flatten()
    penalty, W = penalty.of_columns(features), point.W[:, features]
    V = penalty.gradient(W) - point.slope[:, features]
    gap = penalty.excess(W, V).sum(dim=(1, 2))
    if objective.design.intercept:  # what is left of the slope matters where the best intercept is at infinity
        gap = gap + point.slope[:, p].abs().sum(dim=1)
    if penalty.is_smooth:
        return gap
    inside = _within_the_box(penalty, V)
    rhos = torch.stack([inside, 0.5 * (1.0 + inside)])
    moved = torch.stack([penalty.excess(W, rho[:, None, None] * V).sum(dim=(1, 2)) for rho in rhos])
    useful = (moved < gap).any(dim=1)
    if not useful.any():
        return gap
    rhos, moved = rhos[useful], moved[useful]
    (divergences,) = objective.design.total(
        row_sums.divergences, objective.loss, eta, shift, rhos, shapes=[tuple(rhos.shape)]
    )
    return torch.minimum(gap, (moved + divergences).amin(dim=0))


def _within_the_box(penalty, V):
    """The largest rho <= 1 with |rho v_j| <= l1_j for all coefficients that an L1 norm alone holds there, (B,)."""
    if penalty.l1 is None or not V.shape[1]:
        return V.new_ones(len(V))
    size = V.abs()
    if penalty.lower is not None:  # a bound has a subgradient of any size
        size = torch.where(torch.where(V > 0, penalty.upper, -penalty.lower) == math.inf, size, 0.0)
    ratio = torch.where(penalty.l1 > 0, penalty.l1 / size, math.inf).amin(dim=(1, 2))
    return torch.where(ratio < 1.0, ratio * (1.0 - 4.0 * torch.finfo(V.dtype).eps), 1.0)


def best_intercepts(objective, point, most_steps=20):
    """The point where the intercepts are best for the coefficients, and their change (B, K); None if Newton fails.

    It takes one pass, for the gradient there.
    """
    p, exact = objective.design.n_features, objective.exact()
    shift, slope = torch.zeros_like(point.gradient[:, p]), point.gradient[:, p]  # (B, K)
    held = objective.penalty.l2[:, p]  # (B, 1) not zero where a grid holds an intercept at zero
    rows, (n_models, n_logits) = (objective.loss, point.eta), shift.shape
    value: Any = None
    residuals: Any = None
    for _ in range(most_steps):
        (curvature,) = objective.design.total(
            row_sums.shifted_curvature, *rows, shift, shapes=[(n_models, n_logits, n_logits)]
        )
        if n_logits > 1:  # lift the direction in which the softmax is flat, as `_pin` does
            curvature += curvature.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        curvature = curvature + torch.diag_embed(held.expand_as(shift))
        step, failed = torch.linalg.solve_ex(curvature, slope)
        shift = shift - step
        if failed.any() or not torch.isfinite(shift).all():
            return None
        slope, value, residuals = objective.design.total(
            row_sums.shifted_slope, *rows, shift, shapes=[(n_models, n_logits), (n_models,)], n_kept=1
        )
        slope = slope + held * (point.W[:, p] + shift)
        if float(slope.abs().max()) <= tuning.BEST_INTERCEPT_GRADIENT:
            break
    else:
        return None
    W = point.W.clone()
    W[:, p] += shift
    exact.passes.n_visited += exact.design.shape[0]
    (gradient,) = exact.design.total(row_sums.gradient_of, residuals, shapes=[tuple(W.shape)])
    return exact.point(W, value, gradient), shift


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
