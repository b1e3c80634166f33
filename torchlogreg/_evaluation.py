"""Candidates against folds: all of them fitted as one batch, and scored on the rows that each fold holds out."""

import copy
import time
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from torchlogreg._arithmetic import plain_arithmetic
from torchlogreg._estimators import model_attributes, to_float32
from torchlogreg._grid import Candidates, Grid, Settings
from torchlogreg._inputs import TrainingData, class_weights, prediction_rows, rows_of
from torchlogreg._losses import Binomial, Multinomial
from torchlogreg._minimise import Results
from torchlogreg._penalty import strengths

BATCHED = {"C", "class_weight", "fit_intercept"}  # parameters in which the models of a batch may differ


class Fitted(NamedTuple):
    """The models of a grid."""

    estimator: object  # the prototype that was fitted
    data: TrainingData
    grid: Grid
    intercept: bool  # whether the coefficients have the intercept as last row
    on_all: Results  # (Q), approximate if there are folds
    on_folds: Results | None  # (F Q), fold by fold
    solvable: np.ndarray  # (F,) whether a fold has rows of several classes; otherwise its models have no optimum
    seconds: float

    @property
    def loss(self):
        return self.grid.loss

    @property
    def n_models(self):
        return len(self.on_all.W) + (0 if self.on_folds is None else len(self.on_folds.W))

    def W(self, fold=None):
        """Coefficients (Q, d, K) of the models on all rows, or of a fold's."""
        Q = len(self.on_all.W)
        return self.on_all.W if fold is None else self.on_folds.W[fold * Q : (fold + 1) * Q]

    def logits(self, W, rows):
        """Logits (m, Q, K) of rows that have the intercept that these models have."""
        with torch.inference_mode(), plain_arithmetic(rows.X):
            return torch.cat([block.predict(W) for block in rows.blocks(W.shape[0] * W.shape[2])])

    def logits_of(self, W, X):
        """Logits (m, Q, K) of any rows X."""
        if not self.intercept:
            W = torch.cat([W, torch.zeros_like(W[:, :1])], dim=1)
        return self.logits(W, prediction_rows(self.model(W[:1]), X, self.data.X.dtype))

    def rows(self, index):
        """Some of the rows of the data."""
        return rows_of(self.data, self.loss, index, intercept=self.intercept)

    def model(self, W, X=None, eta=None):
        """A fitted copy of the estimator with coefficients W (1, d, K); it knows the logits eta (m, 1, K) of X."""
        kind = type(self.estimator)
        model = copy.copy(self.estimator)
        model.__class__ = type(kind.__name__, (_Knowing, kind), {})
        vars(model).update(model_attributes(W, self.data, self.intercept), _known=(X, eta))
        return model

    def refit(self, q):
        """The Results of candidate q on all rows."""
        one_column = self.loss.n_logits == 1
        with torch.inference_mode(False), torch.no_grad(), plain_arithmetic(self.data.X, one_column=one_column):
            return self.grid.on_all(slice(q, q + 1), self.on_all.W[q : q + 1])

    def warn_unless_converged(self, *, stacklevel):
        """Warn if some of the models did not converge; returns whether all did."""
        if self.on_folds is None:
            failed = int((~self.on_all.converged).sum())
        else:
            converged = self.on_folds.converged.numpy(force=True).reshape(len(self.solvable), -1)
            failed = int((~converged[self.solvable]).sum())
        if failed:
            warnings.warn(
                f"{failed} of {self.n_models} models did not converge (tol={self.estimator.tol:g}, "
                f"max_iter={self.estimator.max_iter}). Raise max_iter, standardise X, or leave out the largest values "
                "of C.",
                ConvergenceWarning,
                stacklevel=stacklevel + 1,
            )
        return not failed


def fit_all(estimator, data, candidates, trains, left=None):
    """Fit every candidate, a dict of parameters in BATCHED, on all rows and on the rows of each index in `trains`."""
    start = time.perf_counter()
    loss = Binomial() if len(data.classes) == 2 else Multinomial(len(data.classes))
    settings = [{**estimator.get_params(deep=False), **candidate} for candidate in candidates]
    with torch.inference_mode(False), torch.no_grad(), plain_arithmetic(data.X):
        intercept = any(s["fit_intercept"] for s in settings)
        rows = rows_of(data, loss, intercept=intercept)
        home = rows.home
        kinds, column = _distinct([s["class_weight"] for s in settings])
        columns = _columns(data, kinds, trains).to(rows.columns)
        values = Candidates(
            l2=torch.tensor([strengths(s["C"], 0.0).l2 for s in settings], dtype=home.dtype, device=home.device),
            free=torch.tensor([bool(s["fit_intercept"]) for s in settings], device=home.device),
            column=torch.tensor(column, device=home.device),
        )
        seed = check_random_state(0 if estimator.random_state is None else estimator.random_state)
        how = Settings(
            solver=estimator.solver,
            tol=estimator.tol,
            max_iter=estimator.max_iter,
            seed=seed.randint(2**31 - 1),
            store=to_float32 if data.dtype == np.float32 else None,
        )
        grid = Grid(rows, loss, columns, values, how, left)
        on_all = grid.on_all(loosely=bool(trains))
        on_folds = grid.on_folds(on_all) if trains else None
    seconds = time.perf_counter() - start
    solvable = np.array([len(np.unique(data.codes[train])) > 1 for train in trains], dtype=bool)
    return Fitted(estimator, data, grid, intercept, on_all, on_folds, solvable, seconds)


def neg_log_loss(loss, eta, codes, weight):
    """`sklearn.metrics.log_loss`, negative, for each of Q models: (Q,)."""
    log_proba = loss.log_proba(eta)
    index = torch.from_numpy(codes).to(eta.device)[:, None, None].expand(-1, eta.shape[1], 1)
    own = log_proba.gather(2, index)[..., 0]
    eps = torch.finfo(own.dtype).eps
    own = own.clamp(min=np.log(eps), max=np.log1p(-eps)).double()
    return _averaged(own, weight)


def accuracy(loss, eta, codes, weight):  # noqa: ARG001 - one signature for all
    """`sklearn.metrics.accuracy_score` for each of Q models: (Q,)."""
    predicted = (eta[..., 0] > 0).long() if eta.shape[2] == 1 else eta.argmax(dim=2)
    return _averaged((predicted == torch.from_numpy(codes).to(eta.device)[:, None]).double(), weight)


# Scores that are computed from the logits of all models at once, in a fraction of the time of scikit-learn's.
FROM_LOGITS = {"neg_log_loss": neg_log_loss, "accuracy": accuracy}


def _averaged(values, weight):
    if weight is None:
        return values.mean(dim=0).numpy(force=True)
    weight = torch.from_numpy(np.asarray(weight, dtype=np.float64)).to(values)
    return ((weight @ values) / weight.sum()).numpy(force=True)


def _columns(data, kinds, trains):
    """Weights (n, F + 1, V): all rows first, then each fold's; a column for each kind of class weight."""
    weight = data.weight[:, None] * np.column_stack([np.ones(len(data.weight)), *map(partial(_counts, data), trains)])
    out = np.empty((*weight.shape, len(kinds)))
    for v, kind in enumerate(kinds):
        for f, column in enumerate(weight.T):
            factor = 1.0 if kind is None else class_weights(kind, data.classes, data.codes, column)[data.codes]
            out[:, f, v] = column * factor
    empty = np.flatnonzero(~out.any(axis=0).all(axis=1))
    if len(empty):
        raise ValueError(f"Fold {empty[0] - 1} has no training row with a positive weight.")
    return torch.from_numpy(out)


def _counts(data, train):
    """How often each row is in a fold."""
    train = np.asarray(train)
    if train.dtype == bool:
        return train.astype(np.float64)
    return np.bincount(train, minlength=len(data.weight)).astype(np.float64)


def _distinct(values):
    """The distinct values, and the index of each value among them; dicts need not be hashable."""
    distinct = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct, [distinct.index(value) for value in values]


def known_scores(scoring, loss, eta, codes, weight):
    """Scores (Q,) from logits eta (m, Q, K), by one of the names in FROM_LOGITS."""
    return FROM_LOGITS[scoring](loss, eta, codes, weight)


class _Knowing:
    """A fitted estimator that has the logits of some rows already."""

    def _predict(self, X, transform):
        seen, eta = self._known
        if X is not seen:
            return super()._predict(X, transform)
        loss = Binomial() if eta.shape[2] == 1 else Multinomial(eta.shape[2])
        return transform(loss, eta)[:, 0].numpy(force=True)


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
        for _ in range(k if self.active else 0):
            task = self.context.subcontext(task_name="model")
            task.call_on_fit_task_begin(**self.arguments)
            task.call_on_fit_task_end(**self.arguments)

    def end(self):
        self.context.call_on_fit_task_end(**self.arguments, reconstruction_attributes={})
