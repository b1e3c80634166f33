"""Where a descent begins if the start that was given is worse than zero."""

import torch

from torchlogreg._solvers import tuning


def is_far(objective, value):
    """Which models are worse off than with all coefficients zero, by more than rounding; NaN is."""
    return ~(value <= (1.0 + tuning.START_ROUNDING) * objective.loss.at_zero)


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
