"""What to tell about a fit that did not converge."""

from __future__ import annotations

import math

from torchlogreg._objective.separation import is_separated
from torchlogreg._solvers.stopping import End


def remedy(objective, solver, ended, norms, W, settings):
    """What to do about a single fit, or None if it converged or was stopped on request."""
    (end,), (norm,) = ended, norms
    if end in (End.CALLBACK, End.VALIDATION):
        return None
    if solver.stochastic:
        if end is End.CONVERGED or settings.tol == 0:
            return None
        return (
            f"The objective still improved by more than tol within {settings.max_iter} epochs. Raise max_iter, set "
            "tol=0 if this number of epochs is what you want, or use solver='auto', which needs no learning rate."
        )
    if end is End.CONVERGED and norm <= settings.tol:
        return None
    if end is End.SEPARATED or is_separated(objective, W):
        free = objective.penalty.is_free[:, : objective.design.n_features]
        use = "Use a finite C." if free.all() else "Raise the penalty_weights that are 0."
        return (
            "The classes, or some of their rows, are perfectly separated, so without a penalty the coefficients grow "
            f"without limit. {use}"
        )
    if end is End.LIMIT:
        if not objective.penalty.is_smooth:
            return f"Raise max_iter (now {settings.max_iter}) or standardise X."
        other = "lbfgs" if solver.whole_hessian else "newton-cholesky"
        return f"Raise max_iter (now {settings.max_iter}), standardise X, or try solver={other!r}."
    if objective.design.is_exact and end is not End.ROUNDING:
        return (
            "No step from there lowers the objective by more than float64 rounding. Standardise X or raise tol, or "
            "start nearer to the optimum if you gave a start."
        )
    return (
        "Coefficients in float32 cannot express a point nearer to the optimum on data of this scale. Pass X as "
        "float64, standardise it, or raise tol."
    )


def standing(ends, tol):
    """Where a fit stands in the tests of its rule: which of them failed, and by how much."""
    norm, gap, threshold = float(ends.point.gradient_norm.max()), ends.gap[0], ends.threshold[0]
    if not math.isfinite(threshold):
        return f"max|gradient| is {norm:.3g}"
    return (
        f"max|gradient| is {norm:.3g} ({'above' if norm > tol else 'within'} tol={tol:g}), and the estimated gap to "
        f"the optimum {gap:.3g} of the objective ({'above' if gap > threshold else 'within'} {threshold:.3g})"
    )
