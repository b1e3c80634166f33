"""Keywords of scikit-learn's LogisticRegression that our estimators do not have, and what to use instead of them."""

from functools import wraps

INSTEAD = {
    "penalty": "It is the L2 norm; for none at all pass C=np.inf, with cross-validation Cs=[np.inf].",
    "dual": "Leave it out: data with more features than rows are solved in the span of their rows anyway.",
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

    def set_params(self, **params):
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
        return super().set_params(**params)


def suggesting(init):
    """Have a constructor do the same; its signature stays what it is."""

    @wraps(init)
    def __init__(self, *args, **keywords):
        _refuse(self, keywords, TypeError)
        init(self, *args, **keywords)

    return __init__


def _refuse(estimator, names, error):
    """Raise `error` for a name in INSTEAD that is no parameter of the estimator."""
    for name in names:
        if name in INSTEAD and name not in estimator._get_param_names():
            raise error(f"{type(estimator).__name__} has no parameter {name!r}. {INSTEAD[name]}")
