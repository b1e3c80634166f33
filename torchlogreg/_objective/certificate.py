"""What can be said about how far a point is above the minimum."""

import math

import torch

from torchlogreg._objective import tuning
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
    losses, at = None, point
    if objective.design.intercept:
        short = penalty.is_smooth and objective.passes.total < tuning.LONG_FIT_PASSES
        if point.eta is None or (short and objective.design.n_numbers > tuning.CHEAP_PASS_NUMBERS):
            return nothing
        found = best_intercepts(objective, point)
        if found is None:
            return nothing
        at, losses = found
    elif not penalty.is_smooth:
        if point.eta is None:
            return nothing
        losses = _losses(objective, point.eta)
    return (point.value - at.value).clamp(min=0.0) + _duality_gap(objective, at, losses)


def estimated_gap(objective, point):
    """`optimality_bound` without a pass, (B,): as if the intercepts of a point were the best ones."""
    return _duality_gap(objective, point, _losses(objective, point.eta))


def _duality_gap(objective, point, losses):
    """The sums of `optimality_bound`, where the intercepts are best; `losses` (n, B), which L2 alone does not need."""
    p, penalty = objective.design.n_features, objective.penalty
    features = penalty.of_columns(torch.arange(p, device=point.W.device))
    W = point.W[:, :p]
    V = features.gradient(W) - point.slope[:, :p]
    gap = features.excess(W, V).sum(dim=(1, 2))
    if objective.design.intercept:  # what is left of the slope matters where the best intercept is at infinity
        gap = gap + point.slope[:, p].abs().sum(dim=1)
    if penalty.is_smooth:
        return gap
    weight = objective.design.to_accumulation(objective.design.weight)
    inside = _within_the_box(features, V)
    for rho in (inside, 0.5 * (1.0 + inside)):
        moved = features.excess(W, rho[:, None, None] * V).sum(dim=(1, 2))
        gap = torch.minimum(gap, moved + (weight * _divergence(losses, rho)).sum(dim=0))
    return gap


def _within_the_box(penalty, V):
    """The largest rho <= 1 with |rho v_j| <= l1_j for all coefficients that an L1 norm alone holds there, (B,)."""
    if penalty.l1 is None:
        return V.new_ones(len(V))
    size = V.abs()
    if penalty.lower is not None:  # a bound has a subgradient of any size
        size = torch.where(torch.where(V > 0, penalty.upper, -penalty.lower) == math.inf, size, 0.0)
    ratio = torch.where(penalty.l1 > 0, penalty.l1 / size, math.inf).amin(dim=(1, 2))
    return torch.where(ratio < 1.0, ratio * (1.0 - 4.0 * torch.finfo(V.dtype).eps), 1.0)


def _divergence(losses, rho):
    """KL(q || p) of each row for q = y + rho (p - y), (n, B), from its loss -log p_y.

    That is q_y log(q_y / p_y) + rho (1 - p_y) log(rho), where q_y / p_y = 1 + (1 - rho) (1 / p_y - 1).
    """
    proba, others = torch.exp(-losses), -torch.expm1(-losses)
    moved = rho * proba + (1.0 - rho)
    small = torch.log1p((1.0 - rho) * torch.expm1(losses.clamp(max=tuning.LARGE_LOSS)))
    log_ratio = torch.where(losses > tuning.LARGE_LOSS, losses + moved.log(), small)
    return torch.where(rho < 1.0, moved * log_ratio + others * torch.special.xlogy(rho, rho), 0.0)


def _losses(objective, eta):
    """The loss of every row (n, B) from the logits of a Point."""
    eta = objective.design.to_accumulation(eta).permute(2, 0, 1)
    return objective.loss.value_and_residual(eta, objective.design.y.to(eta.device))[0]


def best_intercepts(objective, point, most_steps=20):
    """The point where the intercepts are best for the coefficients, by Newton, and its losses (n, B); None if it fails.

    It takes one pass, for the gradient there.
    """
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
    gradient, start = torch.zeros_like(W), 0
    for rows in exact.blocks():
        part = residual[start : start + rows.shape[0]]
        gradient = gradient + rows.rmatvec(part.to(rows.device))
        start += rows.shape[0]
    return exact.point(W, (weight * losses).sum(dim=0), gradient), losses


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
