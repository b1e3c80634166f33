"""What scikit-learn keeps in private modules and third-party estimators use all the same, in one place."""

from inspect import signature

from sklearn.base import _fit_context as fit_context
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.metrics import make_scorer
from sklearn.metrics._scorer import _MultimetricScorer as MultimetricScorer
from sklearn.model_selection import GridSearchCV
from sklearn.model_selection._validation import _score as score_with
from sklearn.utils._array_api import _is_numpy_namespace as is_numpy_namespace
from sklearn.utils._array_api import _is_xp_namespace as is_namespace
from sklearn.utils._array_api import _max_precision_float_dtype as max_precision_float_dtype
from sklearn.utils._array_api import check_same_namespace, get_namespace_and_device, move_to, np_compat
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import _raise_for_params as raise_for_params
from sklearn.utils.metadata_routing import _routing_enabled as routing_enabled
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _get_feature_names as feature_names

__all__ = [
    "Interval",
    "MultimetricScorer",
    "SparseCoefMixin",
    "StrOptions",
    "check_matplotlib_support",
    "check_method_params",
    "check_same_namespace",
    "feature_names",
    "fit_context",
    "format_results",
    "get_namespace_and_device",
    "is_namespace",
    "is_numpy_namespace",
    "is_of_answers",
    "max_precision_float_dtype",
    "move_to",
    "np_compat",
    "raise_for_params",
    "routing_enabled",
    "score_with",
    "with_labels",
]


def is_of_answers(scorer):
    """Whether a scorer is one of `make_scorer`, which sees a model's answers alone; others may look at the model."""
    return hasattr(scorer, "_score_func")


def with_labels(scorer, classes):
    """The scorer with all classes as its labels where it takes labels, for rows may lack one."""
    accepted = signature(scorer._score_func).parameters if is_of_answers(scorer) else {}
    if "labels" not in accepted:
        return scorer
    options = {"labels": classes, "response_method": scorer._response_method}
    if len(classes) == 2 and "pos_label" in accepted:
        options["pos_label"] = classes[1]
    return make_scorer(scorer._score_func, greater_is_better=scorer._sign > 0, **{**options, **scorer._kwargs})


def format_results(candidates, scores, fit_seconds, score_seconds):
    """`cv_results_` of candidates with `scores` (F, Q); `score_seconds` (F,) are those of each candidate."""
    n_folds = len(scores)
    out = [
        {
            "test_scores": scores[f, q],
            "fit_time": fit_seconds,
            "score_time": score_seconds[f],
            "n_test_samples": 0,  # not part of the results
            "fit_error": None,
        }
        for q in range(len(candidates))
        for f in range(n_folds)
    ]
    return GridSearchCV(estimator=None, param_grid={})._format_results(candidates, n_folds, out)
