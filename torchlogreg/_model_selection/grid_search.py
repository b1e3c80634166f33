"""GridSearchCV that fits candidates as batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable

from torchlogreg._data.array_api import Space, numpy_of, numpy_values
from torchlogreg._data.targets import known
from torchlogreg._data.training_data import STREAMED
from torchlogreg._data.validation import is_no_table, is_stream
from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._estimators.predictor import LinearPredictor
from torchlogreg._model_selection.batches import Batch, NotBatched, batches_of, clone_of, last_step
from torchlogreg._model_selection.fit_and_score import (
    Fitted,
    as_splits,
    evaluations_of,
    fit_all,
    n_fits,
    placed_for,
    unweighted_data,
    warn_unless_converged,
)
from torchlogreg._model_selection.rows import Rows
from torchlogreg._model_selection.scoring import CachedPredictor, mean_scores, score_by_name
from torchlogreg._model_selection.shared_search import SharedSearch
from torchlogreg._runtime.ranks import collective, current_ranks
from torchlogreg._runtime.sklearn_private import (
    MultimetricScorer,
    check_method_params,
    fit_context,
    is_of_answers,
    score_with,
)


class TorchGridSearchCV(GridSearchCV):
    """Exhaustive search over parameters that solves candidates together.

    The constructor, the attributes and the results are those of :class:`~sklearn.model_selection.GridSearchCV`. For a
    :class:`TorchLogisticRegression` or :class:`TorchSoftmaxClassifier`, or a :class:`~sklearn.pipeline.Pipeline` that
    ends in one, candidates that differ only in ``C``, ``l1_ratio``, ``class_weight`` and ``fit_intercept`` are solved
    as one batch (as two if some penalties have an L1 norm and others have none), and the transformers are fitted once
    for each fold and each of their settings. `n_jobs` then has no effect, and ``mean_fit_time`` is a candidate's share
    of the batch.

    All other searches are those of scikit-learn: with other estimators, ``solver="sgd"``, estimators that have
    callbacks, fit parameters other than the sample weights, folds that lack a class, or a fit that fails. `verbose` is
    either 0 or not; its value has no further meaning.

    Attributes
    ----------
    device_reason_ : str
        Where the batches were computed, and why; see :class:`TorchLogisticRegression`. With ``device="auto"`` that
        depends on how many models are in a batch. It is absent where the search was left to scikit-learn;
        ``best_estimator_`` has one of its own.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torchlogreg import TorchGridSearchCV, TorchLogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression())
    >>> grid = {"torchlogisticregression__C": [0.01, 0.1, 1, 10]}
    >>> search = TorchGridSearchCV(pipeline, grid, scoring="neg_log_loss").fit(X, y)
    >>> search.best_params_
    {'torchlogisticregression__C': 1}
    """

    @collective
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: ArrayLike | None = None, **params: Any) -> Self:
        """Search over all candidates, and refit the best one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.

        y : array-like of shape (n_samples,)
            Class labels.

        **params : dict
            Parameters of the estimator's ``fit``, of the splitter and of the scorer, as in
            :meth:`GridSearchCV.fit <sklearn.model_selection.GridSearchCV.fit>`.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        ValueError
            If X is a stream of blocks.
        """
        _refuse_streams(self.estimator, X, y)
        if y is not None and isinstance(last_step(self.estimator), LinearClassifier):
            known(y)  # scikit-learn, which would look at them next, says of missing labels that '<' is not supported
            if not get_config()["array_api_dispatch"]:  # without it scikit-learn knows arrays of the host alone
                y, params = numpy_of(y), numpy_values(params)
        if current_ranks().size > 1:
            return self._fit_with_others(X, y, params)
        search, evaluations, cv = None, None, self.cv
        with suppress(NotBatched, ValueError, TypeError):  # scikit-learn reports what is invalid
            search = _Search(self, X, y, params)
            evaluations = search.evaluate()
        if search is None or evaluations is None:
            vars(self).pop("device_reason_", None)  # of an earlier fit
            try:
                self.cv = cv if search is None else search.splits  # an iterator has no second run
                return super().fit(X, y, **params)
            finally:
                self.cv = cv
        return self._finished(search, evaluations)

    def _fit_with_others(self, X, y, params: dict[str, Any]) -> Self:
        """See `fit`, where other processes have rows, too; callbacks are told in the one that leads alone."""
        ranks, shared = current_ranks(), SharedSearch(self, X, y, params)
        evaluations = shared.evaluate()
        callbacks = vars(self).pop("_skl_callbacks", None) if ranks.rank else None
        try:
            self._finished(shared, evaluations)
        finally:
            if callbacks is not None:
                self._skl_callbacks = callbacks
        ranks.exchanged(lambda: None, is_last=True)
        return self

    def _finished(self, search: _Search | SharedSearch, evaluations: list[dict[str, Any]]) -> Self:
        """What follows the evaluation of the candidates: results, callbacks, the best candidate and its refit."""
        warn_unless_converged(search.n_unconverged, search.n_fitted, search.batches[0].estimator)
        X, y, routed = search.X, search.y, search.routed
        weight = search.params.get("sample_weight")
        arguments = {"estimator": self, "X": X, "y": y}
        arguments["metadata"] = None if weight is None else {"sample_weight": weight}
        root = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        root.call_on_fit_task_begin(**arguments)
        context = root.subcontext(task_name="search", max_subtasks=len(evaluations), sequential_subtasks=False)
        context.call_on_fit_task_begin(estimator=self)
        for i in range(len(evaluations)):
            task = context.subcontext(task_name="candidate-split-evaluation", task_id=i)
            task.call_on_fit_task_begin(**arguments)
            task.call_on_fit_task_end(**arguments)
        context.call_on_fit_task_end(estimator=self)
        results = self._format_results(search.candidates, search.n_splits, evaluations)
        self._checked_cv_orig, self.n_splits_ = search.cv, search.n_splits
        self.multimetric_ = isinstance(evaluations[0]["test_scores"], dict)
        metric = search.refit_metric
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(evaluations[0]["test_scores"])
            metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            best: Any = clone(self.estimator)
            self.best_estimator_ = best.set_params(**clone_of(self.best_params_))
            task = root.subcontext(task_name="refit-with-best-params")
            with task.propagate_callback_context(self.best_estimator_):
                task.call_on_fit_task_begin(**arguments)
                start = time.time()
                self.best_estimator_.fit(X, y, **routed.estimator.fit)
                self.refit_time_ = time.time() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
            task.call_on_fit_task_end(**arguments)
        self.scorer_ = search.scorers._scorers if isinstance(search.scorers, MultimetricScorer) else search.scorers
        self.cv_results_ = results
        self.device_reason_ = "; ".join(search.device_reasons.values())
        root.call_on_fit_task_end(**arguments)
        return self


def _refuse_streams(estimator: Any, X, y) -> None:
    """Raise for a stream that an estimator of ours would get: the blocks of a list would be taken for rows."""
    piped = isinstance(estimator, Pipeline)  # whose transformers may take any X
    ours = isinstance(last_step(estimator), LinearPredictor)
    if ours and (is_stream(X) if y is None else not piped and is_no_table(X)):
        raise ValueError(STREAMED)


def _weight_alone(fit_params: dict[str, Any], batches: list[Batch]) -> Any:
    """The weights of the rows if `fit_params` holds nothing else."""
    names = {f"{b.full.steps[-1][0]}__sample_weight" if b.head is not None else "sample_weight" for b in batches}
    if set(fit_params) - names or len(names) > 1:
        raise NotBatched
    weight = fit_params.get(*names)
    if weight is not None and np.ndim(weight) != 1:
        raise NotBatched
    return weight


def _lacks_a_class(codes: np.ndarray, index: np.ndarray) -> bool:
    return len(np.unique(codes[index])) < codes.max() + 1


class _Search:
    """The candidates of a search, evaluated as batches on each fold."""

    def __init__(self, search: TorchGridSearchCV, X, y, params: dict[str, Any]):
        params = numpy_values(params)
        self.search, self.params = search, params
        self.n_unconverged = self.n_fitted = 0
        self.device_reasons: dict[str, str] = {}  # by device, the first one each
        # 1. which candidates go together
        if y is None:
            raise NotBatched
        self.candidates = list(ParameterGrid(search.param_grid))
        self.batches = batches_of(search.estimator, self.candidates)
        # 2. on which rows; the splitter is copied, for scikit-learn may need it, with its random state, afterwards
        scorers, self.refit_metric = search._get_scorers()
        self.scorers: Any = scorers
        self.X, self.y = indexable(X, y)
        self.labels = numpy_of(self.y)
        self.routed = search._get_routed_params_for_fit(check_method_params(self.X, params=params))
        self.weight = _weight_alone(self.routed.estimator.fit, self.batches)
        self.codes = np.unique(np.asarray(self.labels), return_inverse=True)[1]
        cv: Any = search.cv
        self.cv: Any = check_cv(cv, self.labels, classifier=True)
        splitter = deepcopy(self.cv)
        self.splits = as_splits(splitter.split(self.X, self.labels, **self.routed.splitter.split), len(self.codes))
        # 3. how to score: from logits where possible, with the whole estimator where a function may look at it
        name = "accuracy" if search.scoring is None else search.scoring
        self.by_name = score_by_name(name, self.routed.scorer.score)
        weight = self.routed.scorer.score.get("sample_weight", np.ones(len(self.codes)))
        tests = [test for _, test in self.splits]
        if not all(np.asarray(weight)[test].any() for test in tests):
            self.by_name = None  # an error in scikit-learn
        if name == "neg_log_loss" and any(_lacks_a_class(self.codes, test) for test in tests):
            self.by_name = None  # another
        each = self.scorers._scorers.values() if isinstance(self.scorers, MultimetricScorer) else [self.scorers]
        self.opaque = search.scoring is not None and not all(map(is_of_answers, each))
        if self.opaque and Space.of(self.X).xp is not None:
            raise NotBatched  # models of a batch have NumPy's attributes

    @property
    def n_splits(self) -> int:
        return len(self.splits)

    def evaluate(self) -> list[dict[str, Any]]:
        """A dict for each candidate and fold, the folds of a candidate together, as `_format_results` takes them."""
        n_folds = len(self.splits)
        if not n_folds or any(_lacks_a_class(self.codes, train) for train, _ in self.splits):
            raise NotBatched
        if self.search.verbose > 0:
            n_fits = len(self.candidates) * n_folds
            print(f"Fitting {n_folds} folds for each of {len(self.candidates)} candidates, totalling {n_fits} fits")
        out: list[Any] = [None] * (len(self.candidates) * n_folds)
        for batch in self.batches:
            on_folds = self._folds_at_once(batch) if batch.head is None else self._folds_in_turn(batch)
            for f, evaluations in enumerate(on_folds):
                for (i, _), evaluation in zip(batch.members, evaluations, strict=True):
                    out[i * n_folds + f] = evaluation
        return out

    def _folds_at_once(self, batch: Batch) -> Iterator[list[dict[str, Any]]]:
        """Evaluations on each fold: all folds and candidates are one batch over the same rows."""
        fitted = self._fitted(batch, self.X, self.labels, self.weight, [train for train, _ in self.splits])
        with_train = self.search.return_train_score
        for f, split in enumerate(self.splits):
            start = time.perf_counter()

            def scores(index, f=f):
                X = None if self.by_name else _safe_indexing(self.X, index)
                return self._scores(fitted, f, index, X, fitted.held_out(index, f), lambda model: model)

            yield evaluations_of(scores, split, fitted.seconds / fitted.n_models, start, with_train=with_train)

    def _folds_in_turn(self, batch: Batch) -> Iterator[list[dict[str, Any]]]:
        """Evaluations on each fold, whose rows the transformers make."""
        with_train = self.search.return_train_score
        for split in self.splits:
            start = time.perf_counter()
            full: Any = clone(batch.full)
            head, name = full[:-1], full.steps[-1][0]
            y = _safe_indexing(self.labels, split[0])
            weight = None if self.weight is None else _safe_indexing(self.weight, split[0])
            X = head.fit_transform(_safe_indexing(self.X, split[0]), y)
            fitted = self._fitted(batch, X, y, weight, [])
            seconds, start = (time.perf_counter() - start) / len(batch.members), time.perf_counter()

            def scores(index, head=head, name=name, fitted=fitted):
                X = _safe_indexing(self.X, index)
                if self.opaque:
                    return self._scores(fitted, None, index, X, None, lambda m: Pipeline([*head.steps, (name, m)]))
                X = head.transform(X)
                return self._scores(fitted, None, index, X, fitted.logits(X), lambda model: model)

            yield evaluations_of(scores, split, seconds, start, with_train=with_train)

    def _fitted(self, batch: Batch, X, y, weight, trains: list[np.ndarray]) -> Fitted:
        """The models of a batch."""
        n_models = n_fits(len(batch.members), len(trains))
        data = placed_for(batch.estimator, unweighted_data(batch.estimator, X, y, weight), n_models)
        self.device_reasons.setdefault(str(data.X.device), data.device_reason)
        fitted = fit_all(batch.estimator, Rows(data), [own for _, own in batch.members], trains)
        self.n_unconverged += fitted.n_unconverged()
        self.n_fitted += len(batch.members) * max(1, len(trains))
        return fitted

    def _scores(self, fitted: Fitted, fold: int | None, index: np.ndarray, X, eta: Any, wrap: Callable) -> list:
        """Scores of a fold's models on the rows at `index`, which are X with logits eta; `wrap` completes a model."""
        params = check_method_params(self.X, params=self.routed.scorer.score, indices=index)
        if self.by_name:
            return mean_scores(self.by_name, fitted.loss, eta, self.codes[index], params.get("sample_weight")).tolist()
        y, out = _safe_indexing(self.labels, index), []
        error_score: Any = self.search.error_score
        with config_context(array_api_dispatch=False):
            for q in range(len(fitted.candidates)):
                model = fitted.model(q, fold)
                model = wrap(model if self.opaque else CachedPredictor(model, X, eta[:, q : q + 1]))
                out.append(score_with(model, X, y, self.scorers, params, error_score))
        return out
