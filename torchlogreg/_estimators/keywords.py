"""Keywords that an estimator does not have, most of them scikit-learn's, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Self, TypeVar

Init = TypeVar("Init", bound=Callable[..., None])

INSTEAD = {
    "penalty": (
        "Use l1_ratio, with cross-validation l1_ratios: 0 is the L2 norm, 1 the L1 norm. For no penalty at all pass "
        "C=np.inf, with cross-validation Cs=[np.inf]."
    ),
    "dual": "Leave it out: data with more features than rows is solved in the span of its rows anyway.",
    "intercept_scaling": "Leave it out: the intercept is not penalised, whatever the solver.",
    "n_jobs": "Leave it out: a fit uses as many threads as torch does; see torch.set_num_threads.",
    "multi_class": (
        "For a softmax use TorchSoftmaxClassifier, for one model for each class against the rest "
        "sklearn.multiclass.OneVsRestClassifier(TorchLogisticRegression())."
    ),
    "use_legacy_attributes": "Leave it out: the attributes are those of use_legacy_attributes=False.",
}


class Suggesting:
    """An estimator that says what to use instead of a keyword in INSTEAD."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, as in the constructor.

        Parameters
        ----------
        **params : dict
            Values by name.

        Returns
        -------
        self : object
            The estimator.
        """
        _refuse(self, params, ValueError)
        return super().set_params(**params)  # pyright: ignore[reportAttributeAccessIssue]


def suggesting(init: Init) -> Init:
    """Make a constructor do the same, and leave its signature as it is."""

    @wraps(init)
    def __init__(self, *args, **keywords):
        _refuse(self, keywords, TypeError)
        init(self, *args, **keywords)

    return __init__  # pyright: ignore[reportReturnType]


def _refuse(estimator: Any, names: Iterable[str], error: type[Exception]) -> None:
    """Raise `error` for a name in INSTEAD that is not a parameter of the estimator."""
    for name in names:
        if name in INSTEAD and name not in estimator._get_param_names():
            raise error(f"{type(estimator).__name__} has no parameter {name!r}. {INSTEAD[name]}")
