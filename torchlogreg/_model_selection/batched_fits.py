"""Many models over the same rows, solved together: the folds of a cross-validation times the values of C.

A fold is a column of weights that is zero for the rows it holds out, a value of C is a strength. The models of all rows
come first, one for each candidate; those of the folds start there and share the preconditioners that were made there,
except where they follow a path of their own fold (`paths`). With a single fold its own models are the first ones. The
first models of penalties with an L1 norm follow a path, too: from strong to weak, a group at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from torchlogreg._model_selection import tuning
from torchlogreg._model_selection.paths import Candidates, Paths
from torchlogreg._objective.losses import Loss
from torchlogreg._objective.objective import Objective, PassCounter, normalised
from torchlogreg._objective.penalties import ElasticNet, PerFeature, Strengths
from torchlogreg._objective.reparametrisation import NonEmptyColumns, is_solved_in_row_space
from torchlogreg._solvers import solver_class
from torchlogreg._solvers.base import SelectableSolver
from torchlogreg._solvers.driver import Settings, minimise
from torchlogreg._solvers.observer import Unobserved
from torchlogreg._solvers.preconditioners.policy import PreconditionerPolicy
from torchlogreg._solvers.preconditioners.shared import Centre


class Results(NamedTuple):
    """What a batch of B models found, each judged as a single fit is."""

    W: torch.Tensor  # (B, d, K)
    n_iter: torch.Tensor  # (B,)
    value: torch.Tensor  # (B,)
    gradient_norm: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


class Weights(NamedTuple):
    """V weightings of the rows, those of all rows first, then of each of F folds."""

    columns: torch.Tensor  # (F + 1, V, n)
    mass: np.ndarray  # (F + 1, V, n_classes) total of each class, up to a factor


class Method(NamedTuple):
    """How the models are solved."""

    params: Mapping[str, Any]  # of the estimator, by name
    rounded: Callable | None = None  # see `driver.Settings`
    on_leave: Callable[[int], None] | None = None  # told how many models are done


class BatchedFits:
    """Q candidates on all rows and on every fold."""

    def __init__(self, design: Any, loss: Loss, weights: Weights, candidates: Candidates, method: Method):
        columns, self.mass = weights.columns, weights.mass
        self.n_folds, self.n_weightings = columns.shape[0] - 1, columns.shape[1]
        self.loss, self.candidates, self.method, self.tol = loss, candidates, method, method.params["tol"]
        # The models start at zero, or at a solution that is zero for the empty columns, as far as bounds allow.
        own = candidates.own
        start = own.clipped(torch.zeros(1, design.shape[1], 1, dtype=torch.float64, device="cpu"))
        self.columns = NonEmptyColumns.of(design, start)
        design = self.columns.design
        if self.columns.columns is not None:
            own = own.of_columns(self.columns.columns[: design.n_features].numpy())
        d, accumulation = design.shape[1], design.accumulation
        self.penalty = _elastic_net(candidates, design, own)
        selected = solver_class(method.params["solver"], design, loss.n_logits, self.penalty)
        self.solver = selected.from_params(method.params)
        self.design, self.factors = normalised(design.reweighted(columns.flatten(0, 1).T))
        # A model for each column, without a penalty: the others differ by theirs.
        none = ElasticNet(
            torch.zeros(columns[..., 0].numel(), d, 1, dtype=accumulation.dtype, device=accumulation.device)
        )
        self.base = Objective(self.design, loss, none, PassCounter(design.shape[0]))
        self.in_row_space = is_solved_in_row_space(Objective(self.design, loss, self.penalty, self.base.passes))
        # Which class has all the weight of each column; -1 if several have some.
        present = torch.from_numpy(self.mass > 0).flatten(0, 1).to(accumulation.device)
        self.only = torch.where(present.sum(dim=1) == 1, present.int().argmax(dim=1), -1)
        self.paths = self._paths()

    def on_all(self, q: slice = slice(None), W: torch.Tensor | None = None, *, loosely: bool = False) -> Results:
        """The Results of the candidates q on all rows, from W."""
        index = torch.arange(len(self.candidates.l2), device=self.candidates.l2.device)[q]
        weighting, tol, floor = self.candidates.weighting[index], self.tol, None
        if W is not None:
            return self._solve(weighting, index, self.columns.enter(W), tol)
        if loosely:
            # The optimum of a fold is about d K / n above that of all rows, relative to the objective, so a smaller gap
            # (the tolerance to the power of 1.5, for L-BFGS) at the centre brings the folds no nearer to theirs.
            n, d = self.design.shape
            tol = max(tol, min(tuning.CENTRE_TOL, (d * self.loss.n_logits / n) ** (2 / 3)))
            floor = self.paths.threshold  # folds that follow a path do not start from here
        return self._from_zero(weighting, index, tol, floor)

    def on_folds(self, centre: Results | None) -> Results:
        """The Results of all candidates on the folds, fold by fold (F Q models), from those on all rows.

        A single fold has models that start from nothing: those on all rows would take as long.
        """
        F, Q, device = self.n_folds, len(self.candidates.l2), self.candidates.l2.device
        if centre is None:
            return self._from_zero(
                self.n_weightings + self.candidates.weighting, torch.arange(Q, device=device), self.tol
            )
        W = self.columns.enter(centre.W)
        around = self._objective(self.candidates.weighting, slice(None))
        found = Results(*(v.new_empty(F * Q, *v.shape[1:]) for v in centre))
        for stage, follows in self.paths.stages(centre.value):
            q = stage.repeat(F)
            fold = torch.arange(F, device=device).repeat_interleave(len(stage))
            column = (1 + fold) * self.n_weightings + self.candidates.weighting[q]
            for part, is_certain in self._parts(column, q):
                start, solver = W[q[part]], self.solver
                if follows and not is_certain:
                    start = self._continued(found.W, fold[part] * Q, q[part])
                elif not is_certain:
                    solver = self._around(Centre(around, W, q[part]))
                results = self._solve(column[part], q[part], start, self.tol, solver=solver)
                for values, new in zip(found, results, strict=True):
                    values[fold[part] * Q + q[part]] = new
        return found

    def _from_zero(
        self, column: torch.Tensor, q: torch.Tensor, tol: float, floor: torch.Tensor | None = None
    ) -> Results:
        """The Results of the candidates q with the weights `column`, to which no model is known to be near.

        With an L1 norm those of the strongest penalties come first, and the others start from one of these.
        """
        size, order, n_done, found = self._n_affordable(), torch.arange(len(q), device=q.device), 0, []
        is_path = self.candidates.l1 is not None
        if is_path:
            size = min(size, tuning.PATH_MODELS)
            order = self.candidates.strength[q].argsort(descending=True, stable=True)
        for part in order.split(size):
            W = self.penalty.l2.new_zeros(len(part), self.design.shape[1], self.loss.n_logits)
            solver, known = self.solver, order[:n_done]
            if is_path and n_done:
                place, is_like = self.candidates.nearest(q[part], q[known])
                near, group = place.unique(return_inverse=True)
                start = self.columns.enter(torch.cat([results.W for results in found])[near])
                W = torch.where(is_like[:, None, None], start[group], W)
                if size > 1 and is_like.all() and not self._is_certain(column[part], q[part]).any():
                    near = known[near]
                    solver = self._around(Centre(self._objective(column[near], q[near]), start, group))
            some = None if floor is None else floor[q[part]]
            found.append(self._solve(column[part], q[part], W, tol, solver=solver, floor=some))
            n_done += len(part)
        return Results(*(torch.cat(values)[order.argsort()] for values in zip(*found, strict=True)))

    def _around(self, centre: Centre) -> SelectableSolver:
        """The solver for models that are near to those of a centre."""
        return self.solver if self.in_row_space or not self.solver.takes_centre else self.solver.around(centre)

    def followed_paths(self, centre: Results) -> torch.Tensor:
        """Which candidates the folds start from the one before, and not from the centre, (Q,)."""
        return self.paths.ranks(centre.value) > 0

    def near_optimum(self, q: int, centre: Results | None, on_folds: Results) -> torch.Tensor:
        """Where to start candidate q on all rows: the centre, or the mean of the folds where that was left early."""
        if centre is not None and not self.followed_paths(centre)[q]:
            return centre.W[q : q + 1]
        return on_folds.W[q :: len(self.candidates.l2)].mean(dim=0, keepdim=True)

    def _paths(self) -> Paths:
        """The paths of the candidates; none where the solver needs no preconditioner from samples of the rows."""
        is_exact = PreconditionerPolicy(self.base, self.loss.n_logits).is_whole
        if is_exact or self.solver.takes_kinks or not self.solver.takes_centre:
            return Paths.none(self.candidates)
        return Paths.of(self.candidates, self._without_features())

    def _without_features(self) -> torch.Tensor:
        """The least objective of each candidate whose coefficients are all zero, (Q,)."""
        share = torch.from_numpy(self.mass[0] / self.mass[0].sum(axis=1, keepdims=True))  # (V, n_classes)
        entropy = self.design.to_accumulation(torch.special.entr(share).sum(dim=1))
        return torch.where(self.candidates.has_intercept, entropy[self.candidates.weighting], self.loss.at_zero)

    def _is_certain(self, column: torch.Tensor, q: torch.Tensor | slice) -> torch.Tensor:
        """Whether one class has all the weight and there is an intercept, (B,): the optimum is at infinity."""
        return (self.only[column] >= 0) & self.candidates.has_intercept[q]

    def _parts(self, column: torch.Tensor, q: torch.Tensor) -> Iterator[tuple[torch.Tensor, bool]]:
        """Indices of models that are solved at a time, and whether the class is certain in all of them or in none."""
        certain = self._is_certain(column, q)
        for kind in certain.unique().tolist():
            for part in torch.nonzero(certain == kind).flatten().split(self._n_affordable()):
                yield part, kind

    def _n_affordable(self) -> int:
        """How many models may be solved at a time."""
        if self._go_alone():
            return 1
        d, K = self.design.shape[1], self.loss.n_logits
        numbers = tuning.ARRAYS_OF_A_MODEL * d * K
        if not self.penalty.is_smooth:
            numbers += tuning.PAIRS_OF_A_MODEL * d * K + K * min(d, tuning.COLUMNS_OF_A_MODEL) ** 2
        if self.solver.whole_hessian:
            numbers += tuning.HESSIANS_OF_A_MODEL * (d * K) ** 2
        n_bytes = max(tuning.BATCH_BYTES, self.design.n_bytes // self.design.n_processes)
        return max(1, n_bytes // (8 * numbers))

    def _go_alone(self) -> bool:
        """Whether models with an L1 norm or bounds are so small that they are solved faster one by one, in NumPy.

        A batch of 50 of them on wine, with three classes, takes 3.7 seconds of the processor, one by one 0.5.
        """
        if self.penalty.is_smooth:
            return False
        first = torch.zeros(1, dtype=torch.long, device=self.candidates.l2.device)
        W = self.penalty.l2.new_zeros(1, self.design.shape[1], self.loss.n_logits)
        return self.solver.is_faster_alone(self._objective(first, first), W)

    def _continued(self, W: torch.Tensor, first: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Where the paths in W (F Q, d, K) of the folds that begin at `first` lead for candidates q."""
        *before, t = self.paths.predecessors(q)
        last, second = (self.columns.enter(W[first + index]) for index in before)
        return last + t[:, None, None] * (last - second)

    def _objective(self, column: torch.Tensor, q: torch.Tensor | slice) -> Objective:
        """The objective of the candidates q with the weights `column`."""
        penalty = self.penalty.select(q).divided([factor[column] for factor in self.factors])
        if self.design.intercept:
            penalty.l2[:, -1, 0] = torch.where(self.candidates.has_intercept[q], 0.0, tuning.NO_INTERCEPT)
        return Objective(self.design.select(column), self.loss, penalty, self.base.passes)

    def _solve(
        self,
        column: torch.Tensor,
        q: torch.Tensor | slice,
        W: torch.Tensor,
        tol: float,
        *,
        solver: SelectableSolver | None = None,
        floor: torch.Tensor | None = None,
    ) -> Results:
        """The Results of the candidates q with the weights `column`, from W."""
        objective, certain = self._objective(column, q), self._is_certain(column, q)
        if certain.any():  # near enough, as in a single fit
            W = torch.where(certain[:, None, None], 0.0, W)  # (B, d, K)
            W[certain, -1] = self.loss.certain_logits(self.only[column][certain]).to(W)
        settings = Settings(tol, self.method.params["max_iter"], self.method.rounded, floor)
        point, n_iter, converged = minimise(
            objective, solver or self.solver, W, settings, Unobserved(self.method.on_leave)
        )
        W = self.columns.leave(point.W)
        if self.design.intercept:  # exactly zero, for a row of zeros is a tie
            W[:, -1] = torch.where(self.candidates.has_intercept[q, None], W[:, -1], 0.0)
        return Results(W, n_iter, point.value, point.gradient_norm, converged)


def _elastic_net(candidates: Candidates, design: Any, own: PerFeature) -> ElasticNet:
    """The penalties of Q candidates, (Q, d, 1); bounds, which all of them have in common, (1, d, 1)."""
    place = {"intercept": design.intercept, "accumulation": design.accumulation}
    unit = ElasticNet.of(Strengths(l1=1.0, l2=1.0), design.n_features, own=own, **place)
    assert unit.l1 is not None
    l1 = None if candidates.l1 is None else candidates.l1[:, None, None] * unit.l1
    return unit._replace(l2=candidates.l2[:, None, None] * unit.l2, l1=l1)
