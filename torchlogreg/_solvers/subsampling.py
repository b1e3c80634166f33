"""Newton's method on random samples of the rows: a start near the optimum, and a preconditioner there."""

import math
from typing import Any

import torch

from torchlogreg._objective.sampling import (
    effective_rows,
    importance_shares,
    leverages,
    moments_of,
    sampled,
    scatter,
    second_moments,
    shrunk,
    weight_sum,
)
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Solver


def sample_rows(objective, size, generator, *, evenly=False, spread=False):
    """The objective on `size` random rows that have a weight; on all rows if there are no more.

    Never strided: sorted or periodic rows would make a biased sample. Where a column rests on a few rows, as that of a
    rare category does, a sample knows little of its curvature: then the rows are drawn by leverage, unless `evenly`.
    Where `spread`, a large sample may stay in the processes that have the rows.
    """
    rows = objective.design
    if rows.in_memory and size >= rows.shape[0]:
        return objective.as_sample(spread=spread)
    sample = sampled(objective, rows.sample_rows(size, generator), spread=spread)
    if evenly or not rows.in_memory or not _is_unrepresentative(sample, objective):
        return sample
    return _importance_sample(objective, leverages(objective), size, generator, spread=spread) or sample


def sample_where_curved(objective, W, size, generator):
    """The objective on `size` rows, the likelier the more they curve the objective at W; on all if there are no more.

    Where most rows are classified beyond doubt, few have nearly all of the curvature. At zero all are alike.
    """
    if objective.design.in_memory and size < objective.design.shape[0] and W.any():
        sample = _importance_sample(objective, leverages(objective, W), size, generator)
        if sample is not None:
            return sample
    return sample_rows(objective, size, generator)


def _is_unrepresentative(sample, objective):
    """Whether only a few rows of a sample tell the curvature of some coefficient, and no penalty outweighs it."""
    if _tells_every_column(sample):
        return False
    effective_row_count = effective_rows(sample)
    rests_on_few = effective_row_count < tuning.MIN_EFFECTIVE_ROWS
    if not rests_on_few.any():
        return False
    l2 = objective.penalty.l2[..., 0].amin(dim=0)  # (d,)
    moments = second_moments(objective)
    # A column that is constant in all rows has the same mean square in every sample.
    here, everywhere = _mean_squares(sample, moments_of(sample.design)), _mean_squares(objective, moments)
    constant = (effective_row_count == 0) & ((here - everywhere).abs() <= tuning.EQUAL_MOMENTS * everywhere)
    return bool(
        (rests_on_few & ~constant & (objective.loss.smoothness * moments > tuning.MATTERING_CURVATURE * l2)).any()
    )


def _tells_every_column(sample):
    """Whether a few of the rows, all of one weight, differ enough in every column: all of them then do."""
    design, size = sample.design, tuning.SMALLEST_NESTED_ROWS
    if not design.at_hand or design.shape[0] <= size or design.extreme_weights[0] != design.extreme_weights[1]:
        return False
    return not bool((effective_rows(sampled(sample, slice(size))) < tuning.MIN_EFFECTIVE_ROWS).any())


def _mean_squares(objective, moments):
    return moments / weight_sum(objective)


def _importance_sample(objective, leverages, size, generator, *, spread=False):
    """The objective on `size` rows, drawn half evenly and half by leverage (n,), with weights that make up for it.

    Leverage scores (Drineas et al. 2012, jmlr.org/papers/v13/drineas12a.html) as if no two columns were correlated.
    None if the squares of the numbers overflow, or vanish.
    """
    if not 0.0 < leverages.total < math.inf:
        return None
    shares = importance_shares(objective, leverages)
    uniform = 1.0 - torch.rand(size, generator=generator, dtype=torch.float64, device="cpu")  # above zero
    index, share = objective.design.draw(shares, uniform)
    return sampled(objective, index, 1.0 / (objective.design.shape[0] * share[:, None]), spread=spread)


def newton_on_samples(objective, W, size, generator, newton: Solver, *, spread=False) -> Any:
    """Newton's method, or proximal Newton, on nested samples, each four times the one before, up to `size` rows.

    A sample of m rows is solved to the precision of its own optimum, a relative gap of about d / m; more would be
    wasted (Mokhtari et al. 2016, AdaNewton, arXiv:1605.07659), so most samples take one step. Its penalty is at least
    1 / m of each column's variance, which is within that precision too, and keeps coefficients finite where the
    sample's classes are separable, or only one of them is in it. Returns the solver's state where the last step starts,
    whose `proposal` is where it leads. Where `spread`, a large sample may stay in the processes that have the rows.
    """
    pool = sample_rows(objective, size, generator, spread=spread)
    n_unknowns = W.shape[1] * W.shape[2]
    sizes = [size]
    while sizes[-1] // 4 >= max(tuning.SMALLEST_NESTED_ROWS, 5 * n_unknowns):
        sizes.append(sizes[-1] // 4)
    variances = scatter(sampled(pool, slice(sizes[-1]), spread=spread))
    state: Any = None
    for m in reversed(sizes):
        sample = shrunk(sampled(pool, slice(m), spread=spread), variances / m)
        state = newton.init(sample, W)
        for _ in range(tuning.MOST_SAMPLE_STEPS - 1):
            if max(state.reading.gap) <= min(0.25, tuning.NEAR_GAP * n_unknowns / m):
                break
            state = newton.step(sample, state)
            if all(state.reading.stuck):
                break
        W = state.proposal
    return state
