"""How often an iteration waits for its device, and how many kernels it launches: on a pretend device, the same in every
run."""

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
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # fits are stopped on the way
]


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
    assert np.max(model.n_iter_) >= params["max_iter"]
    return np.array([sum(tally.waits.values()), sum(tally.kernels.values())])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("solver", "most_kernels"), {"lbfgs": 65, "newton-cholesky": 60}.items())
def test_an_iteration_waits_twice_for_its_device(solver, most_kernels, n_classes):
    # For the value at the trial point, and for what the step from there promises.
    first, second = (1, 2) if solver == "newton-cholesky" else (4, 5)
    if (solver, n_classes) == ("lbfgs", 3):
        first, second = 2, 3  # neither renews its preconditioner
    before, after = (counts(n_classes, solver=solver, tol=1e-14, max_iter=n) for n in (first, second))
    n_waits, n_kernels = after - before
    assert n_waits == 2
    assert n_kernels <= most_kernels


@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_iteration_of_a_cross_validation_waits_as_often_for_many_values_of_C_as_for_few(n_classes):
    settings = {"cross_validated": True, "solver": "lbfgs", "tol": 1e-14, "cv": 4}
    n_waits, n_kernels = [], []
    for n_values in (3, 10):
        Cs = np.logspace(-2, 0, n_values)
        before, after = (counts(n_classes, max_iter=n, Cs=Cs, **settings) for n in (2, 3))
        n_waits.append(after[0] - before[0])
        n_kernels.append(after[1] - before[1])
    assert n_waits == [4, 4]  # two in an iteration of the folds, and in one of the model of all rows
    assert n_kernels[0] == n_kernels[1]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_epoch_of_sgd_waits_at_its_end_only_and_launches_few_kernels_for_a_mini_batch(n_classes, nesterov):
    def epoch(batch_size):
        settings = {"solver": "sgd", "tol": 0, "batch_size": batch_size, "nesterov": nesterov, "learning_rate": 0.01}
        before, after = (counts(n_classes, max_iter=n, **settings) for n in (4, 5))
        return after - before

    # With 1000 rows gathered at a time, all else is the same.
    (n_waits, many), (_, few) = epoch(100), epoch(200)
    assert n_waits == 2  # for the value, and for what the driver asks
    assert (many - few) / 30 <= (9 if nesterov else 8)
