"""Candidates against folds: all of them fitted as one batch, and what they answer on the rows a fold holds out."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from torchlogreg._data.agreement import check_same, parameters_as_text
from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.finite import explained
from torchlogreg._data.prediction import prediction_design
from torchlogreg._data.targets import class_weighted, class_weights
from torchlogreg._data.training_data import TrainingData, placed, training_data
from torchlogreg._estimators.attributes import model_attributes, storage_rounding
from torchlogreg._estimators.per_feature import per_feature
from torchlogreg._estimators.problem import fit_access
from torchlogreg._model_selection.batched_fits import BatchedFits, Method, Results, Weights
from torchlogreg._model_selection.paths import Candidates
from torchlogreg._model_selection.rows import Rows, logits_of
from torchlogreg._monitoring.callback_context import FitCall
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._objective.penalties import PerFeature, strengths
from torchlogreg._runtime.out_of_memory import attempts, translated, with_room
from torchlogreg._runtime.ranks import current_ranks
from torchlogreg._runtime.threads import caller_settings, fit_arithmetic, package_settings
from torchlogreg._runtime.warn import warn

BATCHED = {"C", "class_weight", "fit_intercept", "l1_ratio"}  # parameters in which the models of a batch may differ


class Group(NamedTuple):
    """The candidates of a grid that one solver solves: those with an L1 norm, or those without."""

    index: list[int]  # of these q candidates among all Q
    fits: BatchedFits
    on_all: Results | None  # (q), approximate if there are folds, and not there if there is one
    on_folds: Results | None  # (F q), fold by fold


class Fitted(NamedTuple):
    """The models of a grid."""

    estimator: Any  # the prototype that was fitted
    rows: Rows
    candidates: list[dict[str, Any]]  # Q dicts of parameters in BATCHED
    groups: list[Group]
    on_all: Results | None  # (Q), of all groups
    on_folds: Results | None  # (F Q), fold by fold
    seconds: float

    @property
    def data(self) -> TrainingData:
        return self.rows.data

    @property
    def loss(self) -> Loss:
        return self.groups[0].fits.loss

    @property
    def intercept(self) -> bool:
        """Whether the coefficients have the intercept as last row."""
        return self.groups[0].fits.design.intercept

    @property
    def n_models(self) -> int:
        return sum(len(found.W) for found in (self.on_all, self.on_folds) if found is not None)

    @property
    def folds(self) -> Results:
        """The models on the folds, where there are folds."""
        assert self.on_folds is not None
        return self.on_folds

    @property
    def judged(self) -> Results:
        """The models that were asked for: those on the folds if there are any."""
        found = self.on_all if self.on_folds is None else self.on_folds
        assert found is not None
        return found

    def found(self, fold: int | None = None) -> Results:
        """The Results of the Q models on all rows, where there are no folds, or on a fold."""
        if fold is None:
            assert self.on_folds is None
            return self.judged
        Q = len(self.candidates)
        return Results(*(values[fold * Q : (fold + 1) * Q] for values in self.folds))

    def group_of(self, q: int) -> tuple[Group, int]:
        """The group of candidate q, and its place there."""
        group = next(group for group in self.groups if q in group.index)
        return group, group.index.index(q)

    def solver_name(self, q: int) -> str:
        """The solver of candidate q."""
        return self.group_of(q)[0].fits.solver.name

    def n_iter(self) -> np.ndarray:
        """Iterations (F, Q) on the folds, and of the models on all rows where those of the folds start there."""
        out = np.empty((self.folds.n_iter.numel() // len(self.candidates), len(self.candidates)), dtype=np.int32)
        for group in self.groups:
            assert group.on_folds is not None
            n_iter = group.on_folds.n_iter.view(len(out), -1)
            if group.on_all is not None:  # others start on a path
                n_iter = n_iter + group.on_all.n_iter * ~group.fits.followed_paths(group.on_all)
            out[:, group.index] = n_iter.numpy(force=True)
        return out

    def held_out(self, index: np.ndarray, fold: int | None = None) -> torch.Tensor:
        """Logits (m, Q, K) of some rows of the data, which are here."""
        return self.rows.logits(self.found(fold).W, self.loss, index, intercept=self.intercept)

    def mean_scores(self, name: str, index: np.ndarray, fold: int | None, weight: Any) -> np.ndarray:
        """Scores (Q,) by a name that is known, of the models of a fold on some rows of the data."""
        W = self.found(fold).W
        return self.rows.mean_scores(name, W, self.loss, index, weight, intercept=self.intercept)

    def logits(self, X) -> torch.Tensor:
        """Logits (m, Q, K) of any rows X, by the models on all rows."""
        W = self.found().W
        if not self.intercept:
            W = torch.cat([W, torch.zeros_like(W[:, :1])], dim=1)
        with package_settings():
            return logits_of(W, prediction_design(self.model(0), X, self.data.X.dtype))

    def model(self, q: int, fold: int | None = None) -> Any:
        """Candidate q as a fitted estimator.

        Its attributes are NumPy arrays whatever the library of X, for most scorers support no other: score it without
        array API dispatch.
        """
        found, data = self.found(fold), self.data
        data = data._replace(space=Space(), schema={**data.schema, "classes_": data.classes})
        model = copy.copy(self.estimator)
        vars(model).update(
            self.candidates[q],
            **model_attributes(found.W[q : q + 1], data, self.intercept),
            solver_=self.solver_name(q),
            device_=str(self.data.X.device),
            device_reason_=self.data.device_reason,
            n_iter_=np.array([int(found.n_iter[q])], dtype=np.int32),
            converged_=bool(found.converged[q]),
            objective_=float(found.value[q]),
            gradient_norm_=float(found.gradient_norm[q]),
        )
        return model

    def refit(self, q: int) -> Results:
        """The Results of candidate q on all rows, after the folds."""
        (_, fits, on_all, on_folds), i = self.group_of(q)
        assert on_folds is not None

        def work():
            return fits.on_all(slice(i, i + 1), fits.near_optimum(i, on_all, on_folds))

        with torch.inference_mode(False), torch.no_grad(), fit_arithmetic(self.data.X):
            return with_room(work)

    def n_unconverged(self) -> int:
        """How many models did not converge: those on the folds if there are any."""
        return int((~self.judged.converged).sum())


def warn_unless_converged(n_unconverged: int, n_models: int, estimator: Any) -> bool:
    """Warn about models that did not converge; returns whether all did."""
    if n_unconverged:
        warn(
            f"{n_unconverged} of {n_models} models did not converge (tol={estimator.tol:g}, "
            f"max_iter={estimator.max_iter}). Raise max_iter, standardise X, or leave out the largest values of C.",
            ConvergenceWarning,
        )
    return not n_unconverged


def unweighted_data(estimator: Any, X, y, sample_weight) -> TrainingData:
    """The checked data where it was, without class weights, which depend on the fold."""
    estimator = copy.copy(estimator)
    estimator.class_weight = None
    with package_settings(), translated():
        return training_data(estimator, X, y, sample_weight)


def placed_for(estimator: Any, data: TrainingData, n_models: int) -> TrainingData:
    """The data where so many models are fitted, as one batch."""
    with package_settings(), translated():
        return placed(estimator, data, fit_access(estimator, n_models))


def placed_alike(owner: Any, estimator: Any, data: TrainingData, n_models: int) -> TrainingData:
    """The same for `owner`, of which all processes have to have the same parameters."""
    ranks = current_ranks()
    data, everyone = ranks.introduced(
        lambda: (placed_for(estimator, data, n_models), parameters_as_text(owner) if ranks.size > 1 else {})
    )
    check_same(everyone)
    return data


def n_folds(cv: Any) -> int:
    """How many folds a splitter makes, as far as it says so without data."""
    if isinstance(cv, int):
        return cv
    try:
        return cv.get_n_splits() if hasattr(cv, "get_n_splits") else len(cv)
    except Exception:  # splitters may want the data
        return 5  # scikit-learn's own number


def as_splits(splits: Iterable, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of training and test indices below n, from indices or masks of a splitter or a user."""
    rows = np.arange(n)

    def indices(index):
        index = np.asarray(numpy_of(index))
        return rows[index if index.size else index.astype(np.intp)]

    return [(indices(train), indices(test)) for train, test in splits]


def fit_all(
    estimator: Any,
    rows: Rows,
    candidates: list[dict[str, Any]],
    trains: Sequence[np.ndarray],
    on_leave: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Fit every candidate, a dict of parameters in BATCHED, on all rows and on the rows of each index in `trains`.

    `on_leave` is told how many models are done each time that some are.
    """
    start, data, begins_on_all = time.perf_counter(), rows.data, len(trains) != 1
    common = estimator.get_params(deep=False)
    settings, told = [{**common, **candidate} for candidate in candidates], _Told(on_leave)
    own = per_feature(estimator, data)
    with torch.inference_mode(False), torch.no_grad(), explained(data.X):
        for attempt in attempts():
            with attempt, fit_arithmetic(data.X):
                told.n_models = 0
                method, groups = Method(common, storage_rounding(data), told), []
                for index in _by_smoothness(settings):
                    fits = _batched_fits(rows, settings, index, trains, own, method)
                    on_all = fits.on_all(loosely=bool(trains)) if begins_on_all else None
                    groups.append(Group(index, fits, on_all, fits.on_folds(on_all) if trains else None))
    on_all = _merged([(group.index, group.on_all) for group in groups]) if begins_on_all else None
    on_folds = _merged([(group.index, group.on_folds) for group in groups]) if trains else None
    return Fitted(estimator, rows, candidates, groups, on_all, on_folds, time.perf_counter() - start)


def n_fits(n_candidates: int, n_folds: int) -> int:
    """How many models `fit_all` fits: those on all rows, where those of several folds start, as well."""
    return n_candidates * (n_folds + (n_folds != 1))


def _by_smoothness(settings: list[dict[str, Any]]) -> list[list[int]]:
    """Index of the candidates without an L1 norm, and of those with one, where there are such.

    One solver would do for both, but where there are many features the one for L1 norms has no Hessian to offer to
    coefficients that are all different from zero.
    """
    kinked = [strengths(s["C"], s["l1_ratio"]).l1 > 0 for s in settings]
    groups = [[q for q, kink in enumerate(kinked) if kink == kind] for kind in (False, True)]
    return [group for group in groups if group]


def _merged(groups: list[tuple[list[int], Any]]) -> Results:
    """The Results of all candidates on all rows or, fold by fold, on the folds, from those of groups of them."""
    if len(groups) == 1:
        return groups[0][1]
    n_candidates = sum(len(index) for index, _ in groups)
    merged = []
    for parts in zip(*(results for _, results in groups), strict=True):
        folds = [part.unflatten(0, (-1, len(index))) for (index, _), part in zip(groups, parts, strict=True)]
        out = folds[0].new_empty(len(folds[0]), n_candidates, *folds[0].shape[2:])
        for (index, _), part in zip(groups, folds, strict=True):
            out[:, index] = part
        merged.append(out.flatten(0, 1))
    return Results(*merged)


class _Told:
    """Tells of models that are done, of each of them once, however often memory ran out and all began again."""

    def __init__(self, on_leave: Callable[[int], None]):
        self.on_leave, self.n_models, self.n_told = on_leave, 0, 0

    def __call__(self, k: int) -> None:
        self.n_models += k
        n_new = self.n_models - self.n_told
        if n_new > 0:
            self.n_told = self.n_models
            self.on_leave(n_new)


def _batched_fits(
    rows: Rows,
    settings: list[dict[str, Any]],
    index: list[int],
    trains: Sequence[np.ndarray],
    own: PerFeature,
    method: Method,
) -> BatchedFits:
    """The models of the settings at an index, on all rows and on the folds, before they are solved."""
    loss = loss_of(len(rows.data.classes))
    design = rows.design(loss, intercept=any(s["fit_intercept"] for s in settings))
    accumulation, settings = design.accumulation, [settings[q] for q in index]
    kinds, weighting = _distinct([s["class_weight"] for s in settings])
    l1, l2 = torch.tensor(
        [strengths(s["C"], s["l1_ratio"]) for s in settings], dtype=accumulation.dtype, device=accumulation.device
    ).T
    values = Candidates(
        l2=l2,
        l1=l1 if l1.any() else None,
        l1_ratio=l1.new_tensor([s["l1_ratio"] for s in settings]),
        has_intercept=torch.tensor([bool(s["fit_intercept"]) for s in settings], device=accumulation.device),
        weighting=torch.tensor(weighting, device=accumulation.device),
        own=own,
    )
    return BatchedFits(design, loss, weights_of(rows.data, kinds, trains), values, method)


def weights_of(data: TrainingData, kinds: list, trains: Sequence[np.ndarray]) -> Weights:
    """The weights of all rows first, then of each fold, by class weight."""
    assert data.codes is not None  # a stream was refused
    assert data.weight is not None
    n = len(data.weight)
    out = np.empty((1 + len(trains), len(kinds), n))
    mass = np.empty((*out.shape[:2], len(data.classes)))
    for f, train in enumerate([None, *trains]):
        column = data.weight if train is None else np.bincount(train, minlength=n) * data.weight
        largest = column.max()
        if not largest:
            raise ValueError(f"Fold {f - 1} has no training row with a positive weight.")
        totals = np.bincount(data.codes, weights=column / largest, minlength=len(data.classes))
        for v, kind in enumerate(kinds):
            out[f, v], mass[f, v] = column, totals
            if kind is not None:
                factor = class_weights(kind, data.classes, totals)
                out[f, v], mass[f, v] = class_weighted(column, factor, data.codes), totals * factor
            if not mass[f, v].any():
                where = f"no training row of fold {f - 1}" if f else "no row"
                raise ValueError(f"class_weight leaves {where}; at least one weight must be positive.")
    return Weights(torch.from_numpy(out), mass)


def _distinct(values: list) -> tuple[list, list[int]]:
    """The distinct values, and the index of each value among them; dicts need not be hashable."""
    distinct = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct, [distinct.index(value) for value in values]


def evaluations_of(
    scores: Callable, split: tuple, fit_seconds: float, start: float, *, with_train: bool
) -> list[dict[str, Any]]:
    """What scikit-learn's searches take of a fold, for each candidate; `scores(index)` began at `start`."""
    train, test = split
    of_test = scores(test)
    seconds = (time.perf_counter() - start) / len(of_test)
    common = {"fit_time": fit_seconds, "score_time": seconds, "fit_error": None, "n_test_samples": len(test)}
    if not with_train:
        return [{"test_scores": score, **common} for score in of_test]
    both = zip(of_test, scores(train), strict=True)
    return [{"test_scores": one, "train_scores": other, **common} for one, other in both]


class Progress:
    """scikit-learn's callbacks, one task for each model, and a line of text as often as some are done."""

    def __init__(self, call: FitCall, n_models: int, verbose: int):
        self.call, self.n_models, self.verbose, self.n_done = call, n_models, verbose, 0

    def advance(self, k: int) -> None:
        """k more models are done."""
        self.n_done += k
        if self.verbose:
            print(f"{self.n_done} of {self.n_models} models done")
        if not self.call.is_watched:
            return
        with caller_settings():
            for _ in range(k):
                task = self.call.context.subcontext(task_name="model")
                task.call_on_fit_task_begin(**self.call.arguments)
                task.call_on_fit_task_end(**self.call.arguments)
