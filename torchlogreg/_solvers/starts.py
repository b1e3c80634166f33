"""Where a descent begins if the start that was given is worse than zero."""

import torch

from torchlogreg._objective.objective import Objective
from torchlogreg._objective.row_sums import class_mass
from torchlogreg._solvers import tuning


def is_far(objective, value):
    """Which models are worse off than with all coefficients zero, by more than rounding; NaN is."""
    most = (1.0 + tuning.START_ROUNDING) * objective.loss.at_zero
    return (value > most) | (value != value)  # not `~(value <= most)`, which is true of every number of Python's own


def nearer(objective, point):
    """The coefficients of `point`; for models that are worse off than at zero, the best of some between them and zero.

    Where the losses of nearly all rows are saturated they have no curvature, and Newton's step means nothing. Along the
    segment to zero the objective is convex and ends no higher than at zero, so its best point is out of there; the
    points are looked at together, in one pass over the rows for each such model.
    """
    W = point.W.clone()
    t = 0.5 ** torch.arange(tuning.SEGMENT_POINTS, dtype=W.dtype, device=W.device)
    t[-1] = 0.0
    for b in torch.nonzero(is_far(objective, point.value)).flatten():
        between = t[:, None, None] * W[b]
        values = objective.select(b.expand(tuning.SEGMENT_POINTS)).value_and_gradient(between).value
        W[b] = between[values.nan_to_num(torch.inf, torch.inf).argmin()]
    return W


def without_features(objective: Objective, W: torch.Tensor) -> torch.Tensor:
    """W (B, d, K), all zero, with the best intercepts: the logarithms of the classes' shares of the weight."""
    design, loss = objective.design, objective.loss
    if not (design.in_memory and design.intercept):
        return objective.penalty.clipped(W)
    (mass,) = design.total(class_mass, loss, len(W), shapes=[(max(2, loss.n_logits), len(W))])
    best = loss.logits_of((mass / mass.sum(dim=0)).clamp(min=tuning.SMALLEST_SHARE).T)  # (B, K)
    W = W.clone()
    p = design.n_features
    W[:, p] = torch.where(objective.penalty.l2[:, p] == 0, best.to(W), W[:, p])
    return objective.penalty.clipped(W)
