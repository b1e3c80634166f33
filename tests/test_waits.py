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
from torchlogreg._solvers.lbfgs import LBFGS
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.prox_newton import ProxNewton
from torchlogreg._solvers.sgd import SGD

pytestmark = [
    pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not() or "it can be used"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # fits are stopped on the way
]


def rows(n_classes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 30)) @ rng.standard_normal((30, 30))
    return X, (X @ rng.standard_normal((30, n_classes)) / 5 + rng.gumbel(size=(6000, n_classes))).argmax(axis=1)


def steps(monkeypatch, solver, method, n_classes, *, cross_validated=False, streamed=False, **params):
    """Waits and kernels of each call of a solver's method in a fit, one a row."""
    out, function = [], getattr(solver, method)

    def counted(*args):
        with pretend.counted() as tally:
            result = function(*args)
        out.append([sum(tally.waits.values()), sum(tally.kernels.values())])
        return result

    one_logit, several = TorchLogisticRegression, TorchSoftmaxClassifier
    if cross_validated:
        one_logit, several = TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
    model = (one_logit if n_classes == 2 else several)(solver=solver.name, device="cuda", random_state=0, **params)
    with monkeypatch.context() as patched, pretend.devices("cuda"):
        patched.setattr(solver, method, counted)
        X, y = rows(n_classes)
        data = ([(X[i::3], y[i::3], 1.0 + y[i::3]) for i in range(3)],) if streamed else (X, y)
        model.fit(*data)
    return np.array(out)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("solver", "most_kernels"), [(LBFGS, 62), (NewtonCholesky, 57)])
def test_an_iteration_waits_twice_for_its_device(solver, most_kernels, n_classes, monkeypatch):
    """For the value at the trial point, and for what the step from there promises."""
    found = steps(monkeypatch, solver, "step", n_classes, tol=1e-14, max_iter=6)
    n_waits, n_kernels = np.median(found, axis=0)
    assert n_waits == 2
    assert n_kernels <= most_kernels
    assert found[:, 0].max() <= (5 if solver is LBFGS else 2)  # where L-BFGS renews its preconditioner


@pytest.mark.parametrize("n_classes", [2, 3])
def test_models_with_kinks_come_to_the_host_at_once(n_classes, monkeypatch):
    """Where curvature of all rows is made, which the median is not, each model waits."""
    settings = {"l1_ratio": 1.0, "C": 0.01, "tol": 1e-14, "max_iter": 6}
    assert np.median(steps(monkeypatch, ProxNewton, "step", n_classes, **settings)[:, 0]) <= 13
    settings = {"cross_validated": True, "l1_ratios": [1.0], "tol": 1e-14, "max_iter": 4, "cv": 4}
    few, many = (
        steps(monkeypatch, ProxNewton, "step", n_classes, Cs=np.logspace(-2, 0, n), **settings)[:, 0] for n in (3, 10)
    )
    assert np.median(few) <= np.median(many) <= 14


@pytest.mark.parametrize(("solver", "method", "most"), [(LBFGS, "step", 2), (SGD, "epoch", 0)])
def test_nothing_waits_for_the_copies_of_a_stream(solver, method, most, monkeypatch):
    settings = {"tol": 0, "max_iter": 3} if solver is SGD else {"tol": 1e-14, "max_iter": 6}
    assert np.median(steps(monkeypatch, solver, method, 2, streamed=True, **settings)[:, 0]) == most


@pytest.mark.parametrize(("solver", "n_classes"), [(LBFGS, 2), (LBFGS, 3), (NewtonCholesky, 2)])
def test_an_iteration_waits_as_often_for_many_values_of_C_as_for_few(solver, n_classes, monkeypatch):
    settings = {"cross_validated": True, "tol": 1e-14, "max_iter": 4, "cv": 4}
    few, many = (
        steps(monkeypatch, solver, "step", n_classes, Cs=np.logspace(-2, 0, n), **settings)[:, 0] for n in (3, 10)
    )
    assert few.tolist() == many.tolist()
    assert np.median(many) == 2
    assert many.max() <= 7  # where preconditioners are renewed


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_an_epoch_of_sgd_does_not_wait_and_launches_few_kernels_for_a_mini_batch(n_classes, nesterov, monkeypatch):
    settings = {"tol": 0, "max_iter": 2, "nesterov": nesterov}
    # 1000 rows are gathered at a time for both sizes of a mini-batch, of which there are 60 and 30.
    small, large = (steps(monkeypatch, SGD, "epoch", n_classes, batch_size=b, **settings) for b in (100, 200))
    assert not small[1:, 0].any()  # the first epoch asks whether weights are equal
    assert ((small - large)[:, 1] / 30 <= (9 if nesterov else 8)).all()
