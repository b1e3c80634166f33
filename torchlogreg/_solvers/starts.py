"""Where a descent begins if the start that was given is worse than zero."""

import torch

ROUNDING = 1e-6  # of sums over the rows, in float32
SHORTENED = 64  # points on the segment to zero, each at half the distance of the one before


def is_far(objective, value):
    """Which models are worse off than with all coefficients zero, by more than rounding; NaN is."""
    return ~(value <= (1.0 + ROUNDING) * objective.loss.at_zero)


def nearer(objective, point):
    """The coefficients of `point`; for models that are worse off than at zero, the best of some between them and zero.

    Where the losses of nearly all rows are saturated they have no curvature, and Newton's step means nothing. Along the
    segment to zero the objective is convex and ends no higher than at zero, so its best point is out of there; the
    points are looked at together, in one pass over the rows for each such model.
    """
    W = point.W.clone()
    t = 0.5 ** torch.arange(SHORTENED, dtype=W.dtype, device=W.device)
    t[-1] = 0.0
    for b in torch.nonzero(is_far(objective, point.value)).flatten():
        between = t[:, None, None] * W[b]
        values = objective.select(b.expand(SHORTENED)).value_and_gradient(between).value
        W[b] = between[values.nan_to_num(torch.inf, torch.inf).argmin()]
    return W
