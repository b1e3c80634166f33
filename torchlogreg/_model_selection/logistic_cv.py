"""The cross-validation estimators: folds times values of C and l1_ratio in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from functools import partial
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing

from torchlogreg._data.array_api import numpy_of, numpy_values
from torchlogreg._data.targets import known
from torchlogreg._data.training_data import TrainingData
from torchlogreg._estimators.attributes import model_attributes, replace_attributes
from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._estimators.docstrings import CROSS_VALIDATION, documented
from torchlogreg._estimators.keywords import suggesting
from torchlogreg._estimators.logistic import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._estimators.predictor import LinearPredictor
from torchlogreg._estimators.problem import check_combination
from torchlogreg._estimators.shards import refuse_local_callers
from torchlogreg._model_selection.fit_and_score import (
    Fitted,
    Progress,
    as_splits,
    fit_all,
    n_fits,
    n_folds,
    placed_alike,
    unweighted_data,
    warn_unless_converged,
)
from torchlogreg._model_selection.penalty_grid import PenaltyGrid, checked_Cs, checked_ratios, penalty_grid
from torchlogreg._model_selection.rows import Rows
from torchlogreg._model_selection.scoring import CachedPredictor, refuse_local_scores, score_by_name
from torchlogreg._monitoring.callback_context import FitCall
from torchlogreg._runtime.desk import Lead
from torchlogreg._runtime.ranks import collective, current_ranks
from torchlogreg._runtime.sklearn_private import (
    Interval,
    StrOptions,
    check_method_params,
    fit_context,
    format_results,
    is_of_answers,
    raise_for_params,
    routing_enabled,
    with_labels,
)
from torchlogreg._solvers import SOLVERS

# Parameters of a single fit that the estimators with cross-validation have as well.
PLAIN = (
    "penalty_weights",
    "coef_bounds",
    "fit_intercept",
    "class_weight",
    "tol",
    "max_iter",
    "random_state",
    "verbose",
    "device",
)
# Attributes that a fit may leave out.
OF_THE_LAST_FIT = ("feature_names_in_", "objective_", "gradient_norm_")


class _LinearClassifierCV(LinearPredictor):
    """What the two cross-validation estimators share."""

    _single: type[LinearClassifier]

    _parameter_constraints: dict = {
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "solver": [StrOptions({"auto", *(name for name, solver in SOLVERS.items() if not solver.stochastic)})],
        "refit": ["boolean"],
        **{name: LinearClassifier._parameter_constraints[name] for name in PLAIN},
    }
    # The weights in `score` are the scorer's, so that they are refused where it requests none.
    __metadata_request__score = {"sample_weight": UNUSED}

    @suggesting
    def __init__(
        self,
        *,
        Cs: int | ArrayLike = 10,
        l1_ratios: ArrayLike = (0.0,),
        penalty_weights: ArrayLike | dict | None = None,
        coef_bounds: tuple | dict | None = None,
        fit_intercept: bool = True,
        cv: Any = None,
        scoring: str | Callable | None = "neg_log_loss",
        class_weight: dict | Literal["balanced"] | None = None,
        solver: Literal["auto", "lbfgs", "newton-cholesky", "prox-newton"] = "auto",
        tol: float = 1e-4,
        max_iter: int = 100,
        refit: bool = True,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        device: str | torch.device = "auto",
    ):
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.penalty_weights = penalty_weights
        self.coef_bounds = coef_bounds
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.refit = refit
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    @collective
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None, **params: Any) -> Self:
        """Fit a model for each value of C and of l1_ratio on each fold, and on all rows at the best ones.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Training rows, as for the estimator without cross-validation.

        y : array-like of shape (n_samples,)
            Class labels: numbers, booleans or strings.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive. It is used in the fits and, without metadata routing or where the
            scorer requests it, in the scores.

        **params : dict
            With metadata routing enabled, the metadata that the splitter (``groups``) and the scorer request.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid. The estimator is then as it was before the call.

        Warns
        -----
        ConvergenceWarning
            If some of the models did not meet `tol`; the message says how many, and what to do.
        RuntimeWarning
            If the memory of an accelerator ran out and the fits continued with smaller blocks.
        """
        raise_for_params(params, self, "fit")
        params = numpy_values(params)
        l1_ratio = float(checked_ratios(self.l1_ratios).max())
        plain = self._single(l1_ratio=l1_ratio, **{name: getattr(self, name) for name in ("solver", *PLAIN)})
        check_combination(plain)
        refuse_local_callers()
        data, ranks = unweighted_data(plain, X, y, sample_weight), current_ranks()
        n_Cs = int(self.Cs) if isinstance(self.Cs, Integral) else len(checked_Cs(self.Cs))
        n_candidates = n_Cs * len(checked_ratios(self.l1_ratios))
        data = placed_alike(self, plain, data, n_fits(n_candidates, n_folds(self.cv)) + self.refit)
        arguments = X, numpy_of(y), numpy_of(sample_weight), params
        calls: list[FitCall] = []

        def end():
            for call in calls:
                call.end()

        attributes = ranks.led(partial(self._fitted, plain, data, arguments, calls), partial(Rows.shared, data))
        replace_attributes(self, attributes, stale=OF_THE_LAST_FIT, then=partial(ranks.exchanged, end, is_last=True))
        return self

    def _fitted(self, plain, data: TrainingData, arguments: tuple, calls: list, lead: Lead | None) -> dict[str, Any]:
        """The attributes after the fit; the call that callbacks know of is added to `calls`."""
        X, labels, sample_weight, params = arguments
        rows = Rows.of(data, lead)
        if lead is not None:
            refuse_local_scores(self.scoring or "accuracy", params)
            X, labels, sample_weight = rows.for_splitters, rows.labels, rows.data.sample_weight
        grid = penalty_grid(self.Cs, self.l1_ratios, plain, rows)
        splits, score_params = self._splits(X, labels, rows.data, sample_weight, params)
        candidates = grid.candidates
        n_models = n_fits(len(candidates), len(splits)) + self.refit
        call = FitCall.begin(self, X, labels, sample_weight, max_subtasks=n_models)
        calls.append(call)
        progress = Progress(call, n_models, self.verbose)
        fitted = fit_all(plain, rows, candidates, [train for train, _ in splits], progress.advance)
        scores, seconds = np.empty((len(splits), len(candidates))), np.empty(len(splits))
        for f, (_, test) in enumerate(splits):
            start = time.perf_counter()
            scores[f] = self._scores(fitted, f, X, labels, test, score_params)
            seconds[f] = (time.perf_counter() - start) / len(candidates)
        attributes = self._path_attributes(fitted, grid, scores, seconds)
        return attributes | self._chosen_attributes(fitted, grid, scores)

    def _path_attributes(self, fitted: Fitted, grid: PenaltyGrid, scores, seconds) -> dict[str, Any]:
        """The attributes that concern all models, whose `scores` are (F, Q)."""
        data = fitted.data
        coefs = fitted.folds.W.unflatten(0, scores.shape).mT.numpy(force=True).astype(data.dtype)
        array = data.space.array
        return {
            "Cs_": array(grid.Cs),
            "l1_ratios_": array(grid.l1_ratios),
            "scores_": array(grid.arranged(scores)),
            "coefs_paths_": array(grid.arranged(coefs)),
            "n_iter_": array(grid.arranged(fitted.n_iter())),
            "cv_results_": format_results(fitted.candidates, scores, fitted.seconds / fitted.n_models, seconds),
            "device_": str(data.X.device),
            "device_reason_": data.device_reason,
        }

    def _chosen_attributes(self, fitted: Fitted, grid: PenaltyGrid, scores) -> dict[str, Any]:
        """The attributes of the final model, which is fitted to all rows or the mean over the folds."""
        F, Q = scores.shape
        ranked = np.where(np.isfinite(scores), scores, -np.inf)
        n_unconverged, of_refit = fitted.n_unconverged(), {}
        if self.refit:
            best = ranked.sum(axis=0).argmax()
            final = fitted.refit(int(best))
            W = final.W
            n_unconverged += int(~final.converged)
            of_refit = {"objective_": float(final.value), "gradient_norm_": float(final.gradient_norm)}
        else:
            best = ranked.argmax(axis=1)
            W = fitted.folds.W.unflatten(0, (F, Q))[np.arange(F), best].mean(dim=0, keepdim=True)
        C, l1_ratio = grid.means(best)
        return {
            **of_refit,
            **model_attributes(W, fitted.data, fitted.intercept),
            "C_": C,
            "l1_ratio_": l1_ratio,
            "solver_": fitted.solver_name(int(np.ravel(best)[0])),
            "converged_": warn_unless_converged(n_unconverged, F * Q + self.refit, self),
        }

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: ArrayLike, *, sample_weight: ArrayLike | None = None, **params: Any
    ) -> float:
        """Score of the final model on the given rows, by `scoring`.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Test rows.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        **params : dict
            With metadata routing enabled, the metadata that the scorer requests.

        Returns
        -------
        score : float
            Higher is better.
        """
        raise_for_params(params, self, "score")
        params = numpy_values(params if sample_weight is None else {**params, "sample_weight": sample_weight})
        if routing_enabled():
            params = process_routing(self, "score", **params).scorer.score
        model = copy(self)
        model.classes_ = numpy_of(self.classes_)
        with config_context(array_api_dispatch=False):  # most scorers know NumPy only
            return with_labels(get_scorer(self.scoring or "accuracy"), model.classes_)(model, X, known(y), **params)

    def get_metadata_routing(self) -> MetadataRouter:
        """How metadata is routed.

        Returns
        -------
        routing : MetadataRouter
            To this estimator, the splitter and the scorer.
        """
        scorer = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
            .add(scorer=get_scorer(self.scoring or "accuracy"), method_mapping=scorer)
        )

    def _splits(self, X, y, data: TrainingData, sample_weight, params: dict) -> tuple[list, dict]:
        """The folds, and the parameters of the scorer."""
        split_params, score_params = {}, {}
        if routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            split_params, score_params = routed.splitter.split, routed.scorer.score
        elif sample_weight is not None:
            score_params = {"sample_weight": data.weight}
        assert data.codes is not None  # a stream was refused
        assert data.weight is not None
        cv: Any = check_cv(self.cv, y, classifier=True)
        splits = as_splits(cv.split(X, y, **split_params), len(data.codes))
        if not splits:
            raise ValueError(f"cv={self.cv!r} makes no splits.")
        for f, (_, test) in enumerate(splits):
            if not data.weight[test].any():
                raise ValueError(f"Fold {f} has no test row with a positive weight.")
        return splits, score_params

    def _scores(self, fitted: Fitted, f: int, X, y, test: np.ndarray, params: dict) -> np.ndarray:
        """Scores (Q,) of the models of fold f on the rows at `test`."""
        params = check_method_params(X, params=params, indices=test)
        score = score_by_name(self.scoring or "accuracy", params)
        if score is not None:
            return fitted.mean_scores(score, test, f, params.get("sample_weight"))
        eta = fitted.held_out(test, f)
        (X,) = indexable(X)  # COO is not, as it comes
        X, y = _safe_indexing(X, test), _safe_indexing(y, test)
        scorer = with_labels(get_scorer(self.scoring or "accuracy"), fitted.data.classes)
        models = (fitted.model(q, f) for q in range(eta.shape[1]))
        if is_of_answers(scorer):
            models = (CachedPredictor(model, X, eta[:, q : q + 1]) for q, model in enumerate(models))
        with config_context(array_api_dispatch=False):
            return np.array([scorer(model, X, y, **params) for model in models])


@documented(
    CROSS_VALIDATION,
    summary="Logistic regression for two classes, with C and l1_ratio chosen by cross-validation.",
    single="TorchLogisticRegression",
    example="""
    >>> from sklearn.datasets import load_breast_cancer
    >>> from torchlogreg import TorchLogisticRegressionCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = TorchLogisticRegressionCV(Cs=[0.01, 1, 100], cv=5).fit(X, y)
    >>> model.C_
    100.0
    >>> model.scores_.shape
    (5, 1, 3)""",
)
class TorchLogisticRegressionCV(_LinearClassifierCV):
    _single = TorchLogisticRegression

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


@documented(
    CROSS_VALIDATION,
    summary="Softmax regression for any number of classes, with C and l1_ratio chosen by cross-validation.",
    single="TorchSoftmaxClassifier",
    example="""
    >>> from sklearn.datasets import load_wine
    >>> from torchlogreg import TorchSoftmaxClassifierCV
    >>> X, y = load_wine(return_X_y=True)
    >>> model = TorchSoftmaxClassifierCV(Cs=[0.01, 1, 100], cv=5).fit(X, y)
    >>> model.coefs_paths_.shape
    (5, 1, 3, 3, 14)
    >>> round(model.score(X, y), 2)  # minus the log loss
    -0.04""",
)
class TorchSoftmaxClassifierCV(_LinearClassifierCV):
    _single = TorchSoftmaxClassifier
