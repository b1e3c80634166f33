"""Statistics of the rows that samples are drawn by, and the objective on a sample."""

import torch

from torchlogreg._data import moments
from torchlogreg._objective.objective import Objective
from torchlogreg._runtime.threads import in_threads, n_workers


def sampled(objective, index, factor=1.0):
    """The objective estimated on the rows at `index`, with their weights times `factor` scaled to a sum of one.

    It is the whole objective if those rows weigh nothing in one of the models.
    """
    rows = objective.design.take(index)
    rows = rows.reweighted(rows.sample_weights * factor)
    total = rows.sample_weights.sum(dim=0)
    if not total.all():
        return objective.upcast()
    return Objective(rows.reweighted(rows.sample_weights / total), objective.loss, objective.penalty, objective.passes)


def second_moments(objective):
    """See `DenseDesign`; one pass, once."""
    return _cached(objective, "moments", lambda: moments.second_moments(objective.design))


def leverages(objective, W=None):
    """What each row adds, as shares, to the second moments, or how much it adds to the curvature at W, (n,).

    The former takes two passes once, the latter one more.
    """
    squares = second_moments(objective)
    norms = _cached(objective, "norms", lambda: moments.row_norms(objective.design, squares))
    return norms * (objective.design.sample_weights.amax(dim=1) if W is None else _row_curvatures(objective, W))


def _row_curvatures(objective, W):
    """The trace of each row's second derivative in the logits at W, weighted, summed over the models, (n,)."""
    objective.passes.n_visited += objective.design.shape[0]

    def curvatures(part):
        out = []
        for rows in part.blocks(W.shape[0] * W.shape[2]):
            own = objective.loss.logit_curvature(rows.matvec(W)).sum(dim=2)
            out.append((rows.weight * own).sum(dim=1))
        return torch.cat(out)

    parts = objective.design.parts(n_workers(), W.shape[0] * W.shape[2])
    return torch.cat(in_threads(curvatures, parts)).to(objective.design.sample_weights)


def _cached(objective, name, compute):
    cache = objective.design.cache
    if name not in cache:
        objective.passes.n_visited += objective.design.shape[0]
        cache[name] = compute()
    return cache[name]


def scatter(objective):
    """Weighted variance of each column, (B, d), or its mean square without an intercept, whose own entry is 1."""
    objective.passes.n_visited += objective.design.shape[0]
    return moments.scatter(objective.design)


def shrunk(objective, floor):
    """The objective with penalties of at least `floor` (B, d)."""
    penalty = objective.penalty._replace(l2=torch.maximum(objective.penalty.l2, floor[..., None]))
    return Objective(objective.design, objective.loss, penalty, objective.passes)
