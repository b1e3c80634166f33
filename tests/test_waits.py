"""How often an iteration waits for its device. The counts are those of a pretend one, and the same in every run."""

import numpy as np
import pretend
import pytest

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier

pytestmark = pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not() or "it can be used")
# Waits an iteration. L-BFGS waits twice, and more often where it renews its preconditioner.
MOST = {"lbfgs": 2.5, "newton-cholesky": 5.0}


def rows(n_classes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 30)) @ rng.standard_normal((30, 30))
    return X, (X @ rng.standard_normal((30, n_classes)) / 5 + rng.gumbel(size=(6000, n_classes))).argmax(axis=1)


def counts(solver, n_classes, max_iter):
    """Iterations of a fit, and its waits."""
    kind = TorchLogisticRegression if n_classes == 2 else TorchSoftmaxClassifier
    model = kind(solver=solver, device="cuda", tol=1e-12, max_iter=max_iter, random_state=0)
    with pretend.counted() as tally:
        model.fit(*rows(n_classes))
    return model.n_iter_[0], sum(tally.waits.values())


@pytest.mark.filterwarnings("ignore:solver=")  # it is stopped on the way
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", MOST)
def test_an_iteration_waits_for_its_device_a_few_times(solver, n_classes):
    with pretend.devices("cuda"):
        (first, waits), (last, more_waits) = (counts(solver, n_classes, n) for n in (3, 7))
    assert last > first
    assert (more_waits - waits) / (last - first) <= MOST[solver]
