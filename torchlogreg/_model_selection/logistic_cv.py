"""The cross-validation estimators: folds times values of C in one batch."""

import time
from copy import copy
from numbers import Integral

import numpy as np
from sklearn import config_context
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.targets import known
from torchlogreg._estimators.base import LinearClassifier, LinearPredictor, model_attributes
from torchlogreg._estimators.docstrings import documented_cv
from torchlogreg._estimators.keywords import suggesting
from torchlogreg._estimators.logistic import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._model_selection.fit_and_score import (
    Progress,
    as_splits,
    fit_all,
    score_by_name,
    unweighted_data,
    warn_unless_converged,
)
from torchlogreg._runtime.sklearn_private import (
    Interval,
    StrOptions,
    check_method_params,
    fit_context,
    format_results,
    raise_for_params,
    routing_enabled,
    scorer_parts,
)

PLAIN = ("fit_intercept", "class_weight", "tol", "max_iter", "random_state", "verbose", "device")


class _LinearClassifierCV(LinearPredictor):
    """Everything that the two cross-validation estimators share."""

    _parameter_constraints: dict = {
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "solver": [StrOptions({"auto", "lbfgs", "newton-cholesky"})],
        "refit": ["boolean"],
        **{name: LinearClassifier._parameter_constraints[name] for name in PLAIN},
    }
    # The weights in `score` are the scorer's, so that they are refused where it requests none.
    __metadata_request__score = {"sample_weight": UNUSED}

    @suggesting
    def __init__(
        self,
        *,
        Cs=10,
        l1_ratios=(0.0,),
        fit_intercept=True,
        cv=None,
        scoring="neg_log_loss",
        class_weight=None,
        solver="auto",
        tol=1e-4,
        max_iter=100,
        refit=True,
        random_state=None,
        verbose=0,
        device="auto",
    ):
        self.Cs = Cs
        self.l1_ratios = l1_ratios
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

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, **params):
        """Fit a model for each value of C on each fold, and on all rows at the best C.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Training rows, as for the estimator without cross-validation.

        y : array-like of shape (n_samples,)
            Class labels: numbers, booleans or strings.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive. It enters the fits and, without metadata routing or where the scorer
            requests it, the scores.

        **params : dict
            With metadata routing enabled, what the splitter (``groups``) and the scorer request.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid. The estimator then is as it was before the call.
        NotImplementedError
            If ``l1_ratios`` holds anything but 0.

        Warns
        -----
        ConvergenceWarning
            If some of the models did not meet `tol`; the message says how many, and what to do.
        """
        raise_for_params(params, self, "fit")
        Cs = self._checked_grid()
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        plain = self._single(solver=self.solver, **{name: getattr(self, name) for name in PLAIN})
        data = unweighted_data(plain, X, y, sample_weight)
        y, sample_weight = numpy_of(y), numpy_of(sample_weight)
        splits, score_params = self._splits(X, y, data, sample_weight, params)
        F, Q = len(splits), len(Cs)
        progress = Progress(self, X, y, metadata, (F + 1) * Q + self.refit)
        fitted = fit_all(plain, data, [{"C": C} for C in Cs.tolist()], [train for train, _ in splits], progress.advance)
        scores, seconds = np.empty((F, Q)), np.empty(F)
        for f, (_, test) in enumerate(splits):
            start = time.perf_counter()
            scores[f] = self._scores(fitted, f, X, y, test, score_params)
            seconds[f] = (time.perf_counter() - start) / Q
        W = fitted.on_folds.W.unflatten(0, (F, Q))
        ranked = np.where(np.isfinite(scores), scores, -np.inf)
        n_unconverged, attributes = fitted.n_unconverged(), {}
        if self.refit:
            best = int(ranked.sum(axis=0).argmax())
            C, final = float(Cs[best]), fitted.refit(best)
            chosen = final.W
            n_unconverged += int(~final.converged)
            attributes = {"objective_": float(final.value), "gradient_norm_": float(final.gradient_norm)}
        else:
            best = ranked.argmax(axis=1)
            C, chosen = float(np.mean(Cs[best])), W[np.arange(F), best].mean(dim=0, keepdim=True)
        converged = warn_unless_converged(n_unconverged, F * Q + self.refit, self)
        at_centre = fitted.on_all.n_iter * ~fitted.grid.followed  # models on a path start elsewhere
        n_iter = (fitted.on_folds.n_iter.view(F, Q) + at_centre).numpy(force=True)
        attributes |= {
            **model_attributes(chosen, data, fitted.intercept),
            "C_": C,
            "Cs_": data.space.array(Cs),
            "l1_ratio_": 0.0,
            "l1_ratios_": data.space.array(np.zeros(1)),
            "scores_": data.space.array(scores[:, None]),
            "coefs_paths_": data.space.array(np.ascontiguousarray(W.mT.numpy(force=True)[:, None].astype(data.dtype))),
            "n_iter_": data.space.array(n_iter[:, None].astype(np.int32)),
            "cv_results_": format_results(fitted.candidates, scores, fitted.seconds / fitted.n_models, seconds),
            "converged_": converged,
            "solver_": fitted.grid.solver,
            "device_": str(data.X.device),
        }
        before = dict(vars(self))
        for name in ("feature_names_in_", "objective_", "gradient_norm_"):
            self.__dict__.pop(name, None)
        vars(self).update(attributes)
        try:
            progress.end()
        except BaseException:  # a callback's error must not leave half a model behind
            self.__dict__ = before
            raise
        return self

    def score(self, X, y, *, sample_weight=None, **params):
        """Score of the refitted model on the given rows, by `scoring`.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Test rows.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        **params : dict
            With metadata routing enabled, what the scorer requests.

        Returns
        -------
        score : float
            Higher is better.
        """
        raise_for_params(params, self, "score")
        if sample_weight is not None:
            params["sample_weight"] = numpy_of(sample_weight)
        if routing_enabled():
            params = process_routing(self, "score", **params).scorer.score
        model = copy(self)
        model.classes_ = numpy_of(self.classes_)
        with config_context(array_api_dispatch=False):  # most scorers know NumPy only
            return self._scorer(model.classes_)(model, X, known(y), **params)

    def get_metadata_routing(self):
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

    def _scorer(self, classes):
        """The scorer for `fit` and `score`, with all classes as its labels where it takes labels: rows may lack one."""
        scorer = get_scorer(self.scoring or "accuracy")
        parts = scorer_parts(scorer)
        if parts is None or "labels" not in parts.accepts:
            return scorer
        options = {"labels": classes}
        if len(classes) == 2 and "pos_label" in parts.accepts:
            options["pos_label"] = classes[1]
        return make_scorer(
            parts.function,
            greater_is_better=parts.sign > 0,
            response_method=parts.response_method,
            **{**options, **parts.options},
        )

    def _checked_grid(self):
        """The values of C."""
        if np.any(np.asarray(self.l1_ratios, dtype=np.float64) != 0) or np.size(self.l1_ratios) != 1:
            raise NotImplementedError(f"l1_ratios={self.l1_ratios} is not supported yet: use (0.0,), the L2 penalty.")
        if isinstance(self.Cs, Integral):
            return np.logspace(-4, 4, self.Cs)
        Cs = np.asarray(self.Cs, dtype=np.float64)
        if Cs.ndim != 1 or not len(Cs) or not (Cs > 0).all():
            raise ValueError(f"Cs must be a number of values or hold positive numbers; got {self.Cs!r}.")
        return Cs

    def _splits(self, X, y, data, sample_weight, params):
        """The folds, and the parameters of the scorer."""
        split_params, score_params = {}, {}
        if routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            split_params, score_params = routed.splitter.split, routed.scorer.score
        elif sample_weight is not None:
            score_params = {"sample_weight": data.weight}
        splits = as_splits(check_cv(self.cv, y, classifier=True).split(X, y, **split_params), len(data.codes))
        if not splits:
            raise ValueError(f"cv={self.cv!r} makes no splits.")
        for f, (_, test) in enumerate(splits):
            if not data.weight[test].any():
                raise ValueError(f"Fold {f} has no test row with a positive weight.")
        return splits, score_params

    def _scores(self, fitted, f, X, y, test, params):
        """Scores (Q,) of the models of fold f on the rows at `test`."""
        eta = fitted.held_out(test, f)
        params = check_method_params(X, params=params, indices=test)
        score = score_by_name(self.scoring or "accuracy", params)
        if score is not None:
            return score(fitted.loss, eta, fitted.data.codes[test], params.get("sample_weight"))
        X, y = _safe_indexing(*indexable(X), test), _safe_indexing(y, test)  # COO is not, as it comes
        scorer = self._scorer(fitted.data.classes)
        opaque = scorer_parts(scorer) is None  # a function that may do more with a model than predict X
        models = (fitted.model(q, f, None if opaque else (X, eta[:, q : q + 1])) for q in range(eta.shape[1]))
        with config_context(array_api_dispatch=False):
            return np.array([scorer(model, X, y, **params) for model in models])


@documented_cv(
    summary="Logistic regression for two classes, with C chosen by cross-validation.",
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


@documented_cv(
    summary="Softmax regression for any number of classes, with C chosen by cross-validation.",
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
