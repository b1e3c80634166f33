"""A grid search over rows that several processes have."""

from __future__ import annotations

import time
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.pipeline import Pipeline

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.training_data import TrainingData
from torchlogreg._estimators.shards import refuse_local_steps
from torchlogreg._model_selection.batches import Batch, NotBatched, batches_of
from torchlogreg._model_selection.fit_and_score import (
    as_splits,
    evaluations_of,
    fit_all,
    n_fits,
    n_folds,
    placed_alike,
    unweighted_data,
)
from torchlogreg._model_selection.rows import Rows
from torchlogreg._model_selection.scoring import refuse_local_scores
from torchlogreg._runtime.desk import Lead
from torchlogreg._runtime.ranks import current_ranks
from torchlogreg._runtime.sklearn_private import routing_enabled

if TYPE_CHECKING:
    from torchlogreg._model_selection.grid_search import TorchGridSearchCV


class SharedSearch:
    """The candidates of a search, evaluated in batches on folds of the rows of all processes.

    It is what `_Search` is to the rows of one process. Splits are known to the process that leads alone, and how many
    there are to all.
    """

    def __init__(self, search: TorchGridSearchCV, X, y, params: dict[str, Any]):
        self.search, self.X, self.y, self.params = search, X, y, params
        self.n_unconverged = self.n_fitted = self.n_splits = 0
        self.device_reasons: dict[str, str] = {}
        self.candidates = list(ParameterGrid(search.param_grid))
        self.scorers, self.refit_metric = search._get_scorers()
        self.routed = search._get_routed_params_for_fit(params)
        weight = self.routed.estimator.fit.get("sample_weight")
        self.weight = None if weight is None else numpy_of(weight)
        self.cv: Any = search.cv
        self._splits: list | None = None  # in rank 0, the same for all batches
        self.scoring: Any = "accuracy" if search.scoring is None else search.scoring
        refuse_local_scores(self.scoring, {name: None for name in params if name != "sample_weight"})
        if isinstance(search.estimator, Pipeline):
            refuse_local_steps(search.estimator)
        try:
            self.batches = batches_of(search.estimator, self.candidates)
        except NotBatched:
            raise NotImplementedError(
                "Within shared_rows, TorchGridSearchCV takes TorchLogisticRegression or TorchSoftmaxClassifier, with "
                "a solver other than 'sgd' and without callbacks."
            ) from None
        if any(batch.head for batch in self.batches):
            raise NotImplementedError(
                "Within shared_rows, TorchGridSearchCV tries parameters of the last step of a pipeline alone."
            )

    def evaluate(self) -> list[dict[str, Any]]:
        """A dict for each candidate and fold, the folds of a candidate together, as `_format_results` takes them."""
        X, found = self.X, {}
        if isinstance(self.search.estimator, Pipeline):
            X = self.search.estimator[:-1].transform(X)
        for batch in self.batches:
            data = unweighted_data(batch.estimator, X, self.y, self.weight)
            n_models = n_fits(len(batch.members), n_folds(self.search.cv))
            data = placed_alike(self.search, batch.estimator, data, n_models)
            told = current_ranks().led(partial(self._evaluated, batch, data), partial(Rows.shared, data))
            self.n_splits, self.n_unconverged = told["n_splits"], self.n_unconverged + told["n_unconverged"]
            self.n_fitted += told["n_fitted"]
            self.device_reasons.setdefault(*told["device"])
            found |= dict(zip([i for i, _ in batch.members], told["evaluations"], strict=True))
        return [evaluation for i in range(len(self.candidates)) for evaluation in found[i]]

    def _evaluated(self, batch: Batch, data: TrainingData, lead: Lead | None) -> dict[str, Any]:
        """What all processes are told of a batch; its evaluations are lists over the folds, one for each candidate."""
        rows = Rows.of(data, lead)
        if self._splits is None:
            cv: Any = deepcopy(check_cv(self.cv, rows.labels, classifier=True))
            self._splits = as_splits(cv.split(rows.for_splitters, rows.labels), len(rows))
        splits = self._splits
        fitted = fit_all(batch.estimator, rows, [own for _, own in batch.members], [train for train, _ in splits])
        is_weighed = self.routed.scorer.score or not routing_enabled()
        weight, evaluations = rows.data.sample_weight if is_weighed else None, []
        for f, split in enumerate(splits):
            scores = partial(self._scores, fitted, f, weight)
            seconds, start = fitted.seconds / fitted.n_models, time.perf_counter()
            evaluations.append(evaluations_of(scores, split, seconds, start, with_train=self.search.return_train_score))
        return {
            "evaluations": [list(of_candidate) for of_candidate in zip(*evaluations, strict=True)],
            "n_splits": len(splits),
            "n_unconverged": fitted.n_unconverged(),
            "n_fitted": len(batch.members) * len(splits),
            "device": (str(data.X.device), data.device_reason),
        }

    def _scores(self, fitted, f: int, weight: Any, index: np.ndarray) -> list[float]:
        weight = None if weight is None else weight[index]
        return fitted.mean_scores(self.scoring, index, f, weight).tolist()
