"""Statistics of the rows that samples are drawn by, and the objective on a sample."""

from typing import Any, NamedTuple

import torch

from torchlogreg._data import moments
from torchlogreg._objective.objective import Objective
from torchlogreg._runtime.threads import in_threads, n_workers


def sampled(objective, index, factor=1.0, *, spread=False):
    """The objective estimated on the rows at `index`, with their weights times `factor` scaled to a sum of one.

    It is the whole objective if those rows weigh nothing in one of the models. Where `spread`, many of them may stay in
    the processes that have them.
    """
    rows = objective.design.take(index, factor, spread=spread)
    total = rows.total_weight()
    if not total.all():
        return objective.as_sample(spread=spread)
    return Objective(rows.divided(total), objective.loss, objective.penalty, objective.passes)


def second_moments(objective):
    """Of each column, (d,); see `moments`. One pass, once."""
    return _cached(objective, "moments", lambda: moments_of(objective.design))


def moments_of(design):
    """The same of a few rows, which is not counted as a pass."""
    return design.total(_second_moments, shapes=[design.shape[1:]])[0]


def _second_moments(design):
    return [moments.second_moments(design)]


def weight_sum(objective):
    """The sum of the rows' weights, of each row the largest among the models'."""
    return float(objective.design.total(_weight_sum, shapes=[()])[0])


def _weight_sum(design):
    return [design.to_accumulation(design.sample_weights.amax(dim=1).sum())]


class Leverages(NamedTuple):
    """What each row adds to the curvature, or to the second moments."""

    own: Any  # (n,) with the rows
    total: float
    n_present: float  # rows that have a weight


def leverages(objective, W=None):
    """What each row adds, as shares, to the second moments, or how much it adds to the curvature at W.

    The former (n,) takes two passes once, the latter one more.
    """
    squares = second_moments(objective)
    norms = _cached(objective, "norms", lambda: objective.design.total(_row_norms, squares, shapes=[], n_kept=1)[0])
    if W is not None:
        objective.passes.n_visited += objective.design.shape[0]
    total, count, own = objective.design.total(_leverages, norms, objective.loss, W, shapes=[(), ()], n_kept=1)
    return Leverages(own, float(total), float(count))


def _row_norms(design, squares):
    return [moments.row_norms(design, squares)]


def _leverages(design, norms, loss, W):
    largest = design.sample_weights.amax(dim=1)
    own = norms * (largest if W is None else _row_curvatures(design, loss, W))
    return [design.to_accumulation(own.sum()), design.to_accumulation((largest > 0).sum()), own]


def _row_curvatures(design, loss, W):
    """The trace of each row's second derivative in the logits at W, weighted, summed over the models, (n,)."""

    def curvatures(part):
        out = []
        for rows in part.blocks(W.shape[0] * W.shape[2]):
            own = loss.logit_curvature(rows.matvec(W)).sum(dim=2)
            out.append((rows.weight * own).sum(dim=1))
        return torch.cat(out)

    parts = design.parts(n_workers(), W.shape[0] * W.shape[2])
    return torch.cat(in_threads(curvatures, parts)).to(design.sample_weights)


def importance_shares(objective, leverages):
    """Shares (n,) of the rows, half of them even and half by leverages."""
    return objective.design.total(_importance_shares, *leverages, shapes=[], n_kept=1)[0]


def _importance_shares(design, leverages, total, n_present):
    present = (design.sample_weights.amax(dim=1) > 0).to(leverages)
    return [0.5 * present / n_present + 0.5 * leverages / total]


def _cached(objective, name, compute):
    cache = objective.design.cache
    if name not in cache:
        objective.passes.n_visited += objective.design.shape[0]
        cache[name] = compute()
    return cache[name]


def effective_rows(objective):
    """How many rows tell of each column, (d,); see `moments.effective_row_count`."""
    design = objective.design
    n, p = design.shape[0], design.n_features
    candidates = design.take(torch.tensor([0, n // 2], device=design.device))
    sums = design.total(moments.weights_off, candidates, shapes=[(2, 2, p), (2,)])
    return design.to_accumulation(moments.effective_row_count(*sums, intercept=design.intercept))


def scatter(objective):
    """Weighted variance of each column, (B, d), or its mean square without an intercept, whose own entry is 1."""
    design = objective.design
    objective.passes.n_visited += design.shape[0]
    shape = design.n_weightings, design.shape[1]
    square, *mean = design.total(moments.first_and_second, shapes=[shape] * (1 + design.intercept))
    if mean:
        square[:, :-1] -= mean[0][:, :-1].square()
    return square.clamp(min=0.0)


def shrunk(objective, floor):
    """The objective with penalties of at least `floor` (B, d)."""
    penalty = objective.penalty._replace(l2=torch.maximum(objective.penalty.l2, floor[..., None]))
    return Objective(objective.design, objective.loss, penalty, objective.passes)
