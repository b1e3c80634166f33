"""Many models over the same rows, solved together: the folds of a cross-validation times the values of C.

A fold is a column of weights that is zero where it has no rows, a value of C a strength. The models of all rows come
first, one for each candidate; those of the folds start there and share metrics that were made there. Where classes are
nearly separable, that is a poor start for weak penalties: those models are solved in the order of their strengths, each
from where the fold's own path leads.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from torchlogreg._objective.objective import Objective, PassCounter, normalised
from torchlogreg._objective.penalties import Ridge
from torchlogreg._objective.reparametrisation import NonEmptyColumns, is_wide
from torchlogreg._solvers import SOLVERS, choose
from torchlogreg._solvers.driver import Settings as Goal
from torchlogreg._solvers.driver import minimise
from torchlogreg._solvers.line_search import per_model
from torchlogreg._solvers.observer import Unobserved
from torchlogreg._solvers.preconditioners.policy import PreconditionerPolicy
from torchlogreg._solvers.preconditioners.shared import Centre

# Bytes that a batch may take, or those of X if they are more; and how many arrays of the size of its coefficients, and
# matrices of the size of their second moments where the solver needs them, it takes.
BUDGET, ARRAYS, MATRICES = 2**28, 24, 3


class Results(NamedTuple):
    """What a batch of B models found, each judged as a single fit is."""

    W: torch.Tensor  # (B, d, K)
    n_iter: torch.Tensor  # (B,)
    value: torch.Tensor  # (B,)
    gradient_norm: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


class Candidates(NamedTuple):
    """Q settings of one model."""

    l2: torch.Tensor  # (Q,) strengths
    free: torch.Tensor  # (Q,) whether it has an intercept
    column: torch.Tensor  # (Q,) its weights: one of the V columns


class Weights(NamedTuple):
    """V weightings of the rows, those of all rows first, then of each of F folds."""

    columns: torch.Tensor  # (F + 1, V, n)
    mass: np.ndarray  # (F + 1, V, n_classes) total of each class, up to a factor


class Settings(NamedTuple):
    """How to solve."""

    solver: str
    tol: float
    max_iter: int
    seed: int
    store: object = None  # see `minimise`


HARD = 0.2  # of the best objective without features, below which an optimum moves far with the rows and with C
STRETCH = 1.5  # most that a step along a path is longer than the one before
FARTHEST = 0.2  # largest tolerance for the models of all rows where folds refine them
# The strength, over S, of an intercept that is not there: one of 1e-30 changes no logit.
ABSENT = 1e30


class Grid:
    """Candidates on all rows and on every fold."""

    def __init__(self, rows, loss, weights, candidates, settings, left=None):
        columns, self.mass = weights.columns.to(rows.sample_weights), weights.mass  # NumPy's, (F + 1, V, n_classes)
        self.n_folds, self.n_columns = columns.shape[0] - 1, columns.shape[1]
        self.loss, self.candidates, self.settings, self.left = loss, candidates, settings, left
        # The models start at zero, or where a solution without the empty columns was.
        self.filled = NonEmptyColumns.of(rows, torch.zeros(1, rows.shape[1], 1, dtype=torch.float64, device="cpu"))
        rows = self.filled.design
        d, accumulation = rows.shape[1], rows.accumulation
        auto = settings.solver == "auto"
        self.solver = choose(rows, loss.n_logits) if auto else settings.solver
        self.design, self.factors = normalised(rows.reweighted(columns.flatten(0, 1).T))
        # A model for each column, without a penalty: the others differ by theirs.
        none = Ridge(torch.zeros(columns[..., 0].numel(), d, 1, dtype=accumulation.dtype, device=accumulation.device))
        self.base = Objective(self.design, loss, none, PassCounter(rows.shape[0]))
        # Which class has all the weight of each column; -1 if several have some.
        present = torch.from_numpy(self.mass > 0).flatten(0, 1).to(accumulation.device)
        self.only = torch.where(present.sum(dim=1) == 1, present.int().argmax(dim=1), -1)
        self.l2 = candidates.l2[:, None, None].expand(-1, d, 1).clone()  # (Q, d, 1)
        if rows.intercept:
            self.l2[:, -1] = 0.0
        self.followed = torch.zeros_like(candidates.free)  # (Q,) whether candidates were solved along a path
        self.start = torch.zeros(len(self.l2), d, loss.n_logits, dtype=accumulation.dtype, device=accumulation.device)
        self.paths = self._paths()
        self.before = torch.full_like(candidates.column, -1)  # (Q,) the candidate before on the path; -1 for the first
        # (Q,) the objective on all rows below which the folds start a candidate from the one before.
        self.hard = torch.full_like(self.l2[:, 0, 0], -math.inf)
        if self.paths:
            easy = HARD * self._without_features()
            for path in self.paths:
                self.before[path[1:]], self.hard[path[1:]] = path[:-1], easy[path[1:]]

    def on_all(self, q=slice(None), W=None, loosely=False):
        """The Results of the candidates q on all rows, from W."""
        tol = self.settings.tol
        if loosely:
            # The optimum of a fold is about d K / n above that of all rows, relative to the objective, so a smaller gap
            # (the tolerance to the power of 1.5, for L-BFGS) at the centre brings the folds no nearer to theirs.
            n, d = self.design.shape
            tol = max(tol, min(FARTHEST, (d * self.loss.n_logits / n) ** (2 / 3)))
        start = self.start[q] if W is None else self.filled.enter(W)
        # Folds that follow a path will not start from here.
        floor = self.hard[q] if loosely else None
        return self._solve(self.candidates.column[q], q, start, tol, floor=floor)

    def on_folds(self, centre):
        """The Results of all candidates on the folds, fold by fold (F Q models), from those on all rows."""
        F, Q, device = self.n_folds, len(self.l2), self.l2.device
        W = self.filled.enter(centre.W)
        around = self._problem(self.candidates.column, slice(None))
        found = None
        for stage, follows in self._stages(centre.value):
            q = stage.repeat(F)
            fold = torch.arange(F, device=device).repeat_interleave(len(stage))
            column = (1 + fold) * self.n_columns + self.candidates.column[q]
            for part, alone in self._parts(column, q):
                start, options = W[q[part]], {}
                if follows and not alone:
                    start = self._next(found.W, fold[part] * Q, q[part])
                elif self.solver == "lbfgs" and not alone and not is_wide(self.design):  # else in other coordinates
                    options = {"centre": Centre(around, W, q[part])}
                results = self._solve(column[part], q[part], start, self.settings.tol, **options)
                if found is None:
                    found = Results(*(v.new_empty(F * Q, *v.shape[1:]) for v in results))
                for values, new in zip(found, results, strict=True):
                    values[fold[part] * Q + q[part]] = new
            if follows:
                self.followed[stage] = True
        return found

    def near_optimum(self, q, centre, on_folds):
        """Where to start candidate q on all rows: the centre, or the mean of the folds where that was left early."""
        if not self.followed[q]:
            return centre.W[q : q + 1]
        return on_folds.W[q :: len(self.l2)].mean(dim=0, keepdim=True)

    def _paths(self):
        """Index of the candidates that differ by strength only, the strongest first; none if samples serve them all."""
        if self.solver != "lbfgs" or PreconditionerPolicy(self.base, self.loss.n_logits).is_whole:
            return []
        kinds = torch.stack([self.candidates.column, self.candidates.free.to(self.candidates.column)], dim=1)
        paths = (torch.nonzero((kinds == kind).all(dim=1)).flatten() for kind in kinds.unique(dim=0))
        return [path[self.candidates.l2[path].argsort(descending=True, stable=True)] for path in paths]

    def _stages(self, values):
        """Candidates to be solved together, and whether each starts from the one before; `values` (Q,) on all rows."""
        rank = torch.zeros_like(self.before)
        for path in self.paths:
            least = values[path].cummin(dim=0).values  # the weaker the penalty, the lower the optimum
            rank[path] = (least < self.hard[path]).cumsum(dim=0)
        return [(torch.nonzero(rank == r).flatten(), r > 0) for r in range(int(rank.max()) + 1)]

    def _without_features(self):
        """The least objective of each candidate whose coefficients are all zero, (Q,)."""
        share = torch.from_numpy(self.mass[0] / self.mass[0].sum(axis=1, keepdims=True))  # (V, n_classes)
        entropy = self.design.to_accumulation(torch.special.entr(share).sum(dim=1))
        return torch.where(self.candidates.free, entropy[self.candidates.column], self.loss.at_zero)

    def _alone(self, column, q):
        """Whether one class has all the weight and there is an intercept, (B,): the optimum is at infinity."""
        return (self.only[column] >= 0) & self.candidates.free[q]

    def _parts(self, column, q):
        """Index of models that are solved at a time, and whether they are those in which a class is alone."""
        alone = self._alone(column, q)
        for kind in alone.unique().tolist():
            for part in torch.nonzero(alone == kind).flatten().split(_affordable(self.design, self.loss, self.solver)):
                yield part, kind

    def _next(self, W, first, q):
        """Where the paths in W (F Q, d, K) of the folds that begin at `first` lead: on in a line over log C."""
        here = self.before[q]
        last = torch.where(self.before[here] < 0, here, self.before[here])
        ahead, behind = ((self.candidates.l2[a] / self.candidates.l2[b]).log() for a, b in ((here, q), (last, here)))
        t = torch.where((behind > 0) & ahead.isfinite(), (ahead / behind).clamp(max=STRETCH), 0.0)
        start, earlier = (self.filled.enter(W[first + index]) for index in (here, last))
        return start + per_model(t) * (start - earlier)

    def _problem(self, column, q):
        penalty = Ridge(self.l2[q]).divided([factor[column] for factor in self.factors])
        if self.design.intercept:
            penalty.l2[:, -1, 0] = torch.where(self.candidates.free[q], 0.0, ABSENT)
        return Objective(self.design.select(column), self.loss, penalty, self.base.passes)

    def _solve(self, column, q, W, tol, *, floor=None, **options):
        """The Results of the candidates q with the weights `column`, from W."""
        settings, objective = self.settings, self._problem(column, q)
        alone = self._alone(column, q)
        if alone.any():  # near enough, as in a single fit
            W = torch.where(per_model(alone), 0.0, W)
            W[alone, -1] = self.loss.certain_logits(self.only[column][alone]).to(W)
        if self.solver == "lbfgs":
            options["seed"] = settings.seed
        solver = SOLVERS[self.solver](**options)
        goal = Goal(tol, settings.max_iter, settings.store, floor, warn=False)
        point, n_iter, converged = minimise(objective, solver, W, goal, Unobserved(self.left))
        return Results(self.filled.leave(point.W), n_iter, point.value, point.gradient_norm, converged)


def _affordable(rows, loss, name):
    """How many models may be solved at a time."""
    numbers = ARRAYS * rows.shape[1] * loss.n_logits
    if name == "newton-cholesky":
        numbers += MATRICES * (rows.shape[1] * loss.n_logits) ** 2
    return max(1, max(BUDGET, rows.n_bytes) // (8 * numbers))
