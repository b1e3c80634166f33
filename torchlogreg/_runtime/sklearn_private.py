"""What scikit-learn keeps in private modules and third-party estimators use all the same, in one place."""

from inspect import signature
from typing import NamedTuple

from sklearn.base import _fit_context as fit_context
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.metrics._scorer import _MultimetricScorer
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
    "SparseCoefMixin",
    "StrOptions",
    "check_matplotlib_support",
    "check_method_params",
    "check_same_namespace",
    "feature_names",
    "fit_context",
    "format_results",
    "get_namespace_and_device",
    "is_multimetric",
    "is_namespace",
    "is_numpy_namespace",
    "max_precision_float_dtype",
    "move_to",
    "np_compat",
    "raise_for_params",
    "routing_enabled",
    "score_with",
    "scorer_parts",
]


class ScorerParts(NamedTuple):
    """What a scorer was made of."""

    function: object
    sign: int
    response_method: object
    options: dict
    accepts: set  # names of the function's parameters


def scorer_parts(scorer):
    """The parts of a scorer of `make_scorer`; None for any other callable."""
    function = getattr(scorer, "_score_func", None)
    if function is None:
        return None
    accepts = set(signature(function).parameters)
    return ScorerParts(function, scorer._sign, scorer._response_method, scorer._kwargs, accepts)


def is_multimetric(scorer):
    """Whether a scorer stands for several."""
    return isinstance(scorer, _MultimetricScorer)


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
