"""Candidates against folds: all of them fitted as one batch, and scored on the rows that each fold holds out."""

import copy
import time
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.finite import explained
from torchlogreg._data.prediction import prediction_design
from torchlogreg._data.targets import class_weighted, class_weights
from torchlogreg._data.training_data import TrainingData, design_of, training_data
from torchlogreg._estimators.base import model_attributes, to_float32
from torchlogreg._model_selection.batched_fits import Candidates, Grid, Results, Settings, Weights
from torchlogreg._monitoring.monitors import summable
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.penalties import strengths
from torchlogreg._runtime.out_of_memory import translated
from torchlogreg._runtime.threads import caller_settings, fit_arithmetic, mapped, package_settings, plain_arithmetic
from torchlogreg._runtime.warn import warn
from torchlogreg._solvers import access_of

BATCHED = {"C", "class_weight", "fit_intercept"}  # parameters in which the models of a batch may differ


class Fitted(NamedTuple):
    """The models of a grid."""

    estimator: object  # the prototype that was fitted
    data: TrainingData
    candidates: list  # Q dicts of parameters in BATCHED
    grid: Grid
    on_all: Results  # (Q), approximate if there are folds
    on_folds: Results | None  # (F Q), fold by fold
    seconds: float

    @property
    def loss(self):
        return self.grid.loss

    @property
    def intercept(self):
        """Whether the coefficients have the intercept as last row."""
        return self.grid.design.intercept

    @property
    def n_models(self):
        return len(self.on_all.W) + (0 if self.on_folds is None else len(self.on_folds.W))

    def found(self, fold=None):
        """The Results of the Q models on all rows, or on a fold."""
        if fold is None:
            return self.on_all
        Q = len(self.candidates)
        return Results(*(values[fold * Q : (fold + 1) * Q] for values in self.on_folds))

    def held_out(self, index, fold=None):
        """Logits (m, Q, K) of some rows of the data."""
        with package_settings():
            return self._logits(self.found(fold).W, design_of(self.data, self.loss, index, intercept=self.intercept))

    def logits(self, X):
        """Logits (m, Q, K) of any rows X, by the models on all rows."""
        W = self.on_all.W
        if not self.intercept:
            W = torch.cat([W, torch.zeros_like(W[:, :1])], dim=1)
        with package_settings():
            return self._logits(W, prediction_design(self.model(0), X, self.data.X.dtype))

    def _logits(self, W, rows):
        with torch.inference_mode(), plain_arithmetic(rows.X):
            blocks = rows.blocks(W.shape[0] * W.shape[2])
            return torch.cat([*mapped(lambda block: block.matvec(W), blocks, rows.compute.device)])

    def model(self, q, fold=None, known=None):
        """Candidate q as a fitted estimator; `known` are an X and its logits (m, 1, K), for predictions of that X.

        Its attributes are NumPy's whatever X is, for most scorers know no other: score it without array API dispatch.
        """
        found, data = self.found(fold), self.data
        data = data._replace(space=Space(), schema={**data.schema, "classes_": data.classes})
        model = copy.copy(self.estimator)
        vars(model).update(
            self.candidates[q],
            **model_attributes(found.W[q : q + 1], data, self.intercept),
            solver_=self.grid.solver,
            device_=str(self.data.X.device),
            n_iter_=np.array([int(found.n_iter[q])], dtype=np.int32),
            converged_=bool(found.converged[q]),
            objective_=float(found.value[q]),
            gradient_norm_=float(found.gradient_norm[q]),
        )
        if known is not None:
            model._known = known
        return model

    def refit(self, q):
        """The Results of candidate q on all rows."""
        with torch.inference_mode(False), torch.no_grad(), fit_arithmetic(self.data.X):
            return self.grid.on_all(slice(q, q + 1), self.grid.near_optimum(q, self.on_all, self.on_folds))

    def n_unconverged(self):
        """How many models did not converge: those on the folds if there are any."""
        return int((~(self.on_all if self.on_folds is None else self.on_folds).converged).sum())


def warn_unless_converged(n_unconverged, n_models, estimator):
    """Warn about models that did not converge; returns whether all did."""
    if n_unconverged:
        warn(
            f"{n_unconverged} of {n_models} models did not converge (tol={estimator.tol:g}, "
            f"max_iter={estimator.max_iter}). Raise max_iter, standardise X, or leave out the largest values of C.",
            ConvergenceWarning,
        )
    return not n_unconverged


def unweighted_data(estimator, X, y, sample_weight):
    """The checked data, without class weights, which depend on the fold."""
    estimator = copy.copy(estimator)
    estimator.class_weight = None
    with package_settings():
        return training_data(estimator, X, y, sample_weight, access_of(estimator.solver))


def as_splits(splits, n):
    """Pairs of training and test indices below n, from whatever a splitter or a user makes of them."""
    rows = np.arange(n)

    def indices(index):
        index = np.asarray(index)
        return rows[index if index.size else index.astype(np.intp)]

    return [(indices(train), indices(test)) for train, test in splits]


def fit_all(estimator, data, candidates, trains, left=None):
    """Fit every candidate, a dict of parameters in BATCHED, on all rows and on the rows of each index in `trains`."""
    start = time.perf_counter()
    loss = loss_of(len(data.classes))
    common = estimator.get_params(deep=False)
    settings = [{**common, **candidate} for candidate in candidates]
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        translated(device=True),
        explained(data.X),
        fit_arithmetic(data.X),
    ):
        rows = design_of(data, loss, intercept=any(s["fit_intercept"] for s in settings))
        accumulation = rows.accumulation
        kinds, column = _distinct([s["class_weight"] for s in settings])
        weights = _weights(data, kinds, trains)
        values = Candidates(
            l2=torch.tensor(
                [strengths(s["C"], 0.0).l2 for s in settings], dtype=accumulation.dtype, device=accumulation.device
            ),
            free=torch.tensor([bool(s["fit_intercept"]) for s in settings], device=accumulation.device),
            column=torch.tensor(column, device=accumulation.device),
        )
        seed = check_random_state(0 if estimator.random_state is None else estimator.random_state)
        how = Settings(
            solver=estimator.solver,
            tol=estimator.tol,
            max_iter=estimator.max_iter,
            seed=seed.randint(2**31 - 1),
            store=to_float32 if data.dtype == np.float32 else None,
        )
        grid = Grid(rows, loss, weights, values, how, left)
        on_all = grid.on_all(loosely=bool(trains))
        on_folds = grid.on_folds(on_all) if trains else None
    return Fitted(estimator, data, candidates, grid, on_all, on_folds, time.perf_counter() - start)


@package_settings()
def neg_log_loss(loss, eta, codes, weight):
    """`sklearn.metrics.log_loss`, negative, for each of Q models: (Q,)."""
    log_proba = loss.log_proba(eta)
    index = torch.from_numpy(codes).to(eta.device)[:, None, None].expand(-1, eta.shape[1], 1)
    own = log_proba.gather(2, index)[..., 0]
    eps = torch.finfo(own.dtype).eps
    own = own.clamp(min=np.log(eps), max=np.log1p(-eps)).double()
    return _averaged(own, weight)


@package_settings()
def accuracy(loss, eta, codes, weight):
    """`sklearn.metrics.accuracy_score` for each of Q models: (Q,)."""
    return _averaged((loss.choice(eta) == torch.from_numpy(codes).to(eta.device)[:, None]).double(), weight)


# Scores that are computed from the logits of all models at once, in a fraction of the time of scikit-learn's.
FROM_LOGITS = {"neg_log_loss": neg_log_loss, "accuracy": accuracy}


def _averaged(values, weight):
    if weight is None:
        return values.mean(dim=0).numpy(force=True)
    weight = torch.from_numpy(np.array(numpy_of(weight), dtype=np.float64)).to(values)
    weight = summable(weight)
    return ((weight @ values) / weight.sum()).numpy(force=True)


def _weights(data, kinds, trains):
    """The weights of all rows first, then of each fold, by class weight."""
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
            factor = 1.0 if kind is None else class_weights(kind, data.classes, data.codes, column)
            out[f, v] = column if kind is None else class_weighted(column, factor, data.codes)
            mass[f, v] = totals * factor
            if not mass[f, v].any():
                where = f"no training row of fold {f - 1}" if f else "no row"
                raise ValueError(f"class_weight leaves {where}; at least one weight must be positive.")
    return Weights(torch.from_numpy(out), mass)


def _distinct(values):
    """The distinct values, and the index of each value among them; dicts need not be hashable."""
    distinct = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct, [distinct.index(value) for value in values]


def score_by_name(scoring, params):
    """The function in FROM_LOGITS of that name, if there is one and it takes these parameters."""
    if isinstance(scoring, str) and set(params) <= {"sample_weight"}:
        return FROM_LOGITS.get(scoring)
    return None


class Progress:
    """scikit-learn's callbacks, one task for each model, and a line of text as often as some are done."""

    def __init__(self, estimator, X, y, metadata, n_models):
        self.arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.done, self.n_models, self.verbose = 0, n_models, estimator.verbose
        self.context = estimator._init_callback_context(max_subtasks=n_models)
        self.context.call_on_fit_task_begin(**self.arguments)
        self.active = hasattr(estimator, "_skl_callbacks")

    def advance(self, k):
        """Note that k models are done."""
        self.done += k
        if self.verbose:
            print(f"{self.done} of {self.n_models} models done")
        if not self.active:
            return
        with caller_settings():
            for _ in range(k):
                task = self.context.subcontext(task_name="model")
                task.call_on_fit_task_begin(**self.arguments)
                task.call_on_fit_task_end(**self.arguments)

    def end(self):
        self.context.call_on_fit_task_end(**self.arguments, reconstruction_attributes={})
