"""How often an iteration waits for its device, and how many kernels it launches. The counts are those of a pretend device,
and the same in every run."""

import numpy as np
import pretend
import pytest

from torchlogreg import (
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

pytestmark = [
    pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not() or "it can be used"),
    pytest.mark.filterwarnings("ignore:solver="),  # fits are stopped on the way
]
MOST_KERNELS = {"lbfgs": 80, "newton-cholesky": 60}  # of an iteration


def rows(n_classes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 30)) @ rng.standard_normal((30, 30))
    return X, (X @ rng.standard_normal((30, n_classes)) / 5 + rng.gumbel(size=(6000, n_classes))).argmax(axis=1)


def counts(n_classes, *, cross_validated=False, **params):
    """Waits and kernels of a fit."""
    one_logit, several = TorchLogisticRegression, TorchSoftmaxClassifier
    if cross_validated:
        one_logit, several = TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
    model = (one_logit if n_classes == 2 else several)(device="cuda", random_state=0, **params)
    with pretend.devices("cuda"), pretend.counted() as tally:
        model.fit(*rows(n_classes))
    assert np.max(model.n_iter_) == params["max_iter"]
    return np.array([sum(tally.waits.values()), sum(tally.kernels.values())])
