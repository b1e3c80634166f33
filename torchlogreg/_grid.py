"""Many models over the same rows, solved together: the folds of a cross-validation times the values of C.

A fold is a column of weights that is zero where it has no rows, a value of C a strength. The models of all rows come
first, one for each candidate; those of the folds start there and share metrics that were made there.
"""

from typing import NamedTuple

import torch

from torchlogreg._minimise import Results, minimise_all
from torchlogreg._penalty import Ridge
from torchlogreg._problem import Problem
from torchlogreg._sparse import Filled
from torchlogreg._wide import is_wide
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


FARTHEST = 0.2  # largest tolerance for the models of all rows where folds refine them
# The strength of an intercept that is not there, for each unit of weight: an intercept of 1e-30 changes no logit.
ABSENT = 1e30


class Grid:
    """Candidates on all rows and on every fold; `columns` (F + 1, V, n) are the weights, those of all rows first."""

    def __init__(self, rows, loss, columns, candidates, settings, left=None):
        self.n_folds, self.n_columns = columns.shape[0] - 1, columns.shape[1]
        self.loss, self.candidates, self.settings, self.left = loss, candidates, settings, left
        # The models start at zero, or where a solution without the empty columns was.
        self.filled = Filled.of(rows, torch.zeros(1, rows.shape[1], 1, dtype=torch.float64, device="cpu"))
        rows = self.filled.rows
        d, home = rows.shape[1], rows.home
        auto = settings.solver == "auto"
        self.solver = choose(rows, loss.n_logits) if auto else settings.solver
        # A model for each column, with a unit penalty: the others differ by their strengths.
        unit = Ridge(torch.ones(columns[..., 0].numel(), d, 1, dtype=home.dtype, device=home.device))
        self.base = Problem.of(rows.reweighted(columns.flatten(0, 1).T), loss, unit)
        self.rows = self.base.rows
        self.l2 = candidates.l2[:, None, None].expand(-1, d, 1).clone()  # (Q, d, 1)
        if rows.intercept:
            S = 1.0 / self.base.penalty.l2[candidates.column, -1, 0]
            self.l2[:, -1, 0] = torch.where(candidates.free, 0.0, ABSENT * S)
        self.start = torch.zeros(len(self.l2), d, loss.n_logits, dtype=home.dtype, device=home.device)

    def on_all(self, q=slice(None), W=None, loosely=False):
        """The Results of the candidates q on all rows, from W."""
        tol = self.settings.tol
        if loosely:
            # The optimum of a fold is about d K / n above that of all rows, relative to the objective, so a smaller gap
            # (the tolerance to the power of 1.5, for L-BFGS) at the centre brings the folds no nearer to theirs.
            n, d = self.rows.shape
            tol = max(tol, min(FARTHEST, (d * self.loss.n_logits / n) ** (2 / 3)))
        start = self.start[q] if W is None else self.filled.enter(W)
        return self._solve(self._problem(self.candidates.column[q], q), start, tol)

    def on_folds(self, centre):
        """The Results of all candidates on the folds, fold by fold (F Q models), from those on all rows."""
        Q, device = len(self.l2), self.l2.device
        model = torch.arange(self.n_folds * Q, device=device)
        column = (1 + model // Q) * self.n_columns + self.candidates.column[model % Q]
        around, W = self._problem(self.candidates.column, slice(None)), self.filled.enter(centre.W)
        wide = is_wide(self.rows)  # then the problem is solved in other coordinates
        results = []
        for part in model.split(_affordable(self.rows, self.loss, self.solver)):
            q = part % Q
            options = {"centre": Centre(around, W, q)} if self.solver == "lbfgs" and not wide else {}
            problem = self._problem(column[part], q)
            results.append(self._solve(problem, W[q], self.settings.tol, **options))
        return Results(*(torch.cat(parts) for parts in zip(*results, strict=True)))

    def _problem(self, column, q):
        penalty = Ridge(self.l2[q] * self.base.penalty.l2[column])
        return Problem(self.rows.of_models(column), self.loss, penalty, self.base.passes)

    def _solve(self, problem, W, tol, **options):
        settings = self.settings
        if self.solver == "lbfgs":
            options["seed"] = settings.seed
        solver = SOLVERS[self.solver](**options)
        results = minimise_all(
            problem, solver, W, tol=tol, max_iter=settings.max_iter, store=settings.store, left=self.left
        )
        return results._replace(W=self.filled.leave(results.W))


def _affordable(rows, loss, name):
    """How many models may be solved at a time."""
    numbers = ARRAYS * rows.shape[1] * loss.n_logits
    if name == "newton-cholesky":
        numbers += MATRICES * (rows.shape[1] * loss.n_logits) ** 2
    return max(1, max(BUDGET, rows.n_bytes) // (8 * numbers))
