"""Many models over the same rows, solved together: the folds of a cross-validation times the values of C.

A fold is a column of weights that is zero where it has no rows, a value of C a strength. The models of all rows come
first, one for each candidate; those of the folds start there and share metrics that were made there.
"""

from typing import NamedTuple

import torch

from torchlogreg._minimise import Results, minimise_all
from torchlogreg._penalty import Ridge
from torchlogreg._problem import Problem
from torchlogreg.solvers import SOLVERS, choose
from torchlogreg.solvers._metrics import Centre

# Bytes that a batch may take, or those of X if they are more; and how many arrays of the size of its coefficients, and
# matrices of the size of their second moments where the solver needs them, it takes.
BUDGET, ARRAYS, MATRICES = 2**28, 24, 3


class Candidates(NamedTuple):
    """Q settings of one model."""

    l2: torch.Tensor  # (Q,) strengths
    free: torch.Tensor  # (Q,) whether it has an intercept
    column: torch.Tensor  # (Q,) its weights: one of the V columns


class Settings(NamedTuple):
    """How to solve."""

    solver: str
    tol: float
    max_iter: int
    seed: int
    store: object = None  # see `minimise`


# The strength of an intercept that is not there: an intercept of 1e-30 changes no logit.
ABSENT = 1e30


def solve_grid(rows, loss, columns, candidates, settings, left=None):
    """Fit every candidate on all rows and on every fold.

    `columns` (n, F + 1, V) are the weights: all rows first, then the folds. Returns the name of the solver, the Results
    of Q models on all rows and, fold by fold, those of F Q models on the folds; None if there are no folds.
    """
    n, n_folds, V = columns.shape[0], columns.shape[1] - 1, columns.shape[2]
    Q = len(candidates.l2)
    rows = rows.reweighted(columns.reshape(n, -1).T.contiguous().T)
    d = rows.shape[1]
    name = settings.solver
    if name == "auto":
        name = choose(*rows.shape, loss.n_logits)
    options = {"seed": settings.seed} if name == "lbfgs" else {}

    def solve(of, l2, W, **more):
        problem = Problem.of(rows.of_models(of), loss, Ridge(l2))
        solver = SOLVERS[name](**options, **more)
        return problem, minimise_all(
            problem, solver, W, tol=settings.tol, max_iter=settings.max_iter, store=settings.store, left=left
        )

    l2 = candidates.l2[:, None, None].expand(-1, d, 1).clone()
    if rows.intercept:
        l2[:, -1, 0] = torch.where(candidates.free, 0.0, ABSENT)
    home = rows.home
    W = torch.zeros(Q, d, loss.n_logits, dtype=home.dtype, device=home.device)
    problem, centre = solve(candidates.column, l2, W)
    if not n_folds:
        return name, centre, None
    model = torch.arange(n_folds * Q, device=home.device)
    fold, candidate = 1 + model // Q, model % Q
    of = fold * V + candidates.column[candidate]
    results = []
    for part in model.split(_affordable(rows, loss, name)):
        q = candidate[part]
        more = {"centre": Centre(problem, q)} if name == "lbfgs" else {}
        results.append(solve(of[part], l2[q], centre.W[q], **more)[1])
    return name, centre, Results(*(torch.cat(parts) for parts in zip(*results, strict=True)))


def _affordable(rows, loss, name):
    """How many models may be solved at a time."""
    X = rows.X
    numbers = ARRAYS * rows.shape[1] * loss.n_logits
    if name == "newton-cholesky":
        numbers += MATRICES * (rows.shape[1] * loss.n_logits) ** 2
    return max(1, max(BUDGET, X.element_size() * X.numel()) // (8 * numbers))
