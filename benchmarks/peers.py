"""The contestants, each through its own public API, behind one signature: fit(X, y, C, effort) -> Fit.

Effort is the number of iterations that a solver may run; its own tolerance is set so low that it does not end the fit
before. A contestant's optional `prepare` turns NumPy arrays into what its users hold, and is not timed. Optional
packages are imported where they are used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import NamedTuple

import numpy as np
import torch
from measure import THREADS
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier

TINY = 1e-14  # a tolerance that is never met, where zero is refused
SPEED = 6e10  # multiplications a second, to tell whether one iteration can end within the budget

AUTO, LBFGS, NEWTON = "torchlogreg auto", "torchlogreg lbfgs", "torchlogreg newton-cholesky"
OURS = (AUTO, LBFGS, NEWTON)
DEFAULT_PEER = "scikit-learn lbfgs"
SCIKIT_LEARN = tuple(
    f"scikit-learn {name}" for name in ("lbfgs", "newton-cholesky", "newton-cg", "liblinear", "saga", "lbfgs, tensors")
)


class Fit(NamedTuple):
    """Coefficients (K, p), intercepts (K,), and passes over X, where known; `exact` if that is not a lower bound."""

    coef: np.ndarray
    intercept: np.ndarray
    passes: float | None = None
    exact: bool = False


@dataclass(frozen=True)
class Contestant:
    """A solver, how to prepare its data, and what it cannot do."""

    name: str
    fit: Callable
    prepare: Callable = lambda X, y: (X, y)
    package: str = "scikit-learn"
    module: str = "sklearn"
    binary: bool = False  # more classes mean another model: one against the rest, or none at all
    hessian: bool = False  # forms the whole Hessian, of all features and classes
    threads: tuple[int | None, ...] = (None, 1)  # limits on BLAS and OpenMP to choose from; None is the default
    patience: float = 1.0  # factor for the seconds that it may spend
    note: str = ""

    def missing(self):
        """Why the contestant's package cannot be imported, or an empty string."""
        try:
            import_module(self.module)
        except Exception as error:  # a broken package may raise anything
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return ""

    def excluded(self, n, p, K, budget):
        """Why the contestant sits out a data set, or an empty string."""
        if self.binary and K > 2:
            return "other model"
        width = n if self.package == "torchlogreg" and p > 2 * n else p  # ours sees wide data in the span of the rows
        d = (width + 1) * (K if K > 2 else 1)
        if self.hessian and n * d**2 + d**3 / 3 > SPEED * budget:
            return "Hessian too large"
        return ""


def contestants(device):
    """All that run on the device."""
    return cpu_contestants() if device == "cpu" else device_contestants(device)


def device_contestants(device):
    """Ours and the peers that run on accelerators, with the data there and with the copy from the host."""
    resident, tensors = partial(as_tensors, device=device), partial(fit_tensors, device=device)
    return [
        Contestant(f"{AUTO}, resident", partial(fit_ours, solver="auto", device="auto"), resident),
        Contestant(f"{AUTO}, from host", partial(fit_ours, solver="auto", device=device)),
        Contestant("scikit-learn lbfgs, tensors, resident", fit_tensors, resident, note=ARRAY_API),
        Contestant("scikit-learn lbfgs, tensors, from host", tensors, note=ARRAY_API),
        Contestant("torch LBFGS, resident", fit_torch, resident, "torch", "torch"),
        Contestant("torch LBFGS, from host", partial(fit_torch, device=device), package="torch", module="torch"),
    ]


def our_contestant(name):
    fit = partial(fit_ours, solver=name.split()[-1])
    return Contestant(name, fit, package="torchlogreg", hessian=name == NEWTON, threads=(None,), patience=2.0)


def cpu_contestants():
    intel = partial(fit_scikit_learn, module="sklearnex.linear_model")
    return [
        *(our_contestant(name) for name in OURS),
        Contestant(DEFAULT_PEER, partial(fit_scikit_learn, solver="lbfgs"), patience=2.0),
        Contestant(
            "scikit-learn newton-cholesky",
            partial(fit_scikit_learn, solver="newton-cholesky"),
            hessian=True,
            note="its passes count value, gradient and Hessian as two",
        ),
        Contestant(
            "scikit-learn newton-cg",
            partial(fit_scikit_learn, solver="newton-cg"),
            note="its passes leave out the products of the inner conjugate gradients",
        ),
        Contestant(
            "scikit-learn liblinear",
            partial(fit_scikit_learn, solver="liblinear", tol=TINY, intercept_scaling=100.0),
            binary=True,
            threads=(None,),
            note="penalises the intercept, a little: `intercept_scaling=100`",
        ),
        Contestant(
            "scikit-learn saga",
            partial(fit_scikit_learn, solver="saga", random_state=0, passes_per_iteration=1),
            threads=(None,),
        ),
        Contestant("scikit-learn lbfgs, tensors", fit_tensors, as_tensors, note=ARRAY_API),
        Contestant("scikit-learn-intelex lbfgs", intel, package="scikit-learn-intelex", module="sklearnex"),
        Contestant(
            "snapml",
            fit_snapml,
            package="snapml",
            module="snapml",
            binary=True,
            threads=(None,),
            note="dual coordinate descent on all cores; penalises the intercept as one more coefficient",
        ),
        Contestant("glum", fit_glum, package="glum", module="glum", binary=True, hessian=True, note="`irls-ls`"),
        Contestant(
            "skorch",
            fit_skorch,
            as_tensors,
            "skorch",
            "skorch",
            note="torch.optim.LBFGS as its optimizer, the whole data as one batch, the penalty in `get_loss`",
        ),
        Contestant("torch LBFGS", fit_torch, as_tensors, "torch", "torch", note="strong Wolfe, history of 10"),
    ]


ARRAY_API = "`array_api_dispatch=True`; the tensors are made beforehand"


def fit_ours(X, y, C, effort, solver, device="cpu"):
    """Our estimators; `n_passes_` counts their passes over X."""
    model = ours(y)(C=C, solver=solver, max_iter=effort, tol=0.0, device=device).fit(X, y)
    return Fit(model.coef_, model.intercept_, getattr(model, "n_passes_", None), exact=True)


def ours(y):
    return TorchLogisticRegression if y.max() == 1 else TorchSoftmaxClassifier


def fit_scikit_learn(
    X, y, C, effort, module="sklearn.linear_model", solver="lbfgs", tol=0.0, passes_per_iteration=2, **settings
):
    """Fit scikit-learn's LogisticRegression, or a class that stands in for it."""
    estimator = import_module(module).LogisticRegression
    model = estimator(C=C, solver=solver, max_iter=effort, tol=tol, **settings).fit(X, y)
    return Fit(model.coef_, model.intercept_, passes_per_iteration * int(np.max(model.n_iter_)))


def fit_tensors(X, y, C, effort, device=None):
    """scikit-learn's lbfgs on torch tensors; `device` copies NumPy arrays there first."""
    if device:
        X, y = as_tensors(X, y, device)
    with config_context(array_api_dispatch=True):
        model = LogisticRegression(C=C, max_iter=effort, tol=0.0).fit(X, y)
    return Fit(host(model.coef_), host(model.intercept_), 2 * int(host(torch.as_tensor(model.n_iter_)).max()))


def fit_snapml(X, y, C, effort):
    from snapml import LogisticRegression as SnapML

    settings = {"fit_intercept": True, "n_jobs": THREADS, "random_state": 0}
    model = SnapML(regularizer=1.0 / C, max_iter=effort, tol=TINY, dual=len(X) > X.shape[1], **settings).fit(X, y)
    return Fit(np.reshape(model.coef_, (1, -1)), np.reshape(model.intercept_, -1))


def fit_glum(X, y, C, effort):
    from glum import GeneralizedLinearRegressor

    settings = {"family": "binomial", "l1_ratio": 0.0, "solver": "irls-ls"}
    model = GeneralizedLinearRegressor(alpha=1.0 / (C * len(X)), max_iter=effort, gradient_tol=TINY, **settings)
    model.fit(X, y)
    return Fit(model.coef_[None], np.array([model.intercept_]), 2 * int(model.n_iter_))


def fit_torch(X, y, C, effort, device=None):
    """torch.optim.LBFGS with strong Wolfe line search, as its documentation has it; autograd differentiates F."""
    if device:
        X, y = as_tensors(X, y, device)
    model = linear(X, y)
    optimiser = torch.optim.LBFGS(model.parameters(), **lbfgs_settings(effort))
    targets = targets_of(model, y)

    def closure():
        optimiser.zero_grad()
        loss = mean_loss(model(X), targets) + penalty(model, C, len(X))
        loss.backward()
        return loss

    optimiser.step(closure)
    return result_of(model, optimiser)


def fit_skorch(X, y, C, effort):
    from skorch import NeuralNet

    class Penalised(NeuralNet):
        def get_loss(self, y_pred, y_true, *_, **__):
            return mean_loss(y_pred, y_true) + penalty(self.module_, C, len(X))

    model = linear(X, y)
    net = Penalised(
        model,
        criterion=nn.Module,
        optimizer=torch.optim.LBFGS,
        iterator_train=WholeBatch,
        train_split=None,
        max_epochs=1,
        batch_size=-1,
        verbose=0,
        **{f"optimizer__{name}": value for name, value in lbfgs_settings(effort).items()},
    )
    net.fit(torch.utils.data.TensorDataset(X, targets_of(model, y)))
    return result_of(net.module_, net.optimizer_)


class WholeBatch:
    """Iterator over a TensorDataset that hands it out as one batch, without collating it row by row."""

    def __init__(self, dataset, **_):
        self.dataset = dataset

    def __iter__(self):
        yield self.dataset.tensors


def lbfgs_settings(effort):
    return {
        "lr": 1.0,
        "max_iter": effort,
        "max_eval": 100 * effort,
        "tolerance_grad": 0.0,
        "tolerance_change": 0.0,
        "history_size": 10,
        "line_search_fn": "strong_wolfe",
    }


def linear(X, y):
    """Return a linear module that starts from zero."""
    n_classes = int(y.max()) + 1
    module = nn.Linear(X.shape[1], n_classes if n_classes > 2 else 1, dtype=X.dtype, device=X.device)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def targets_of(model, y):
    return y.to(model.weight.dtype) if len(model.weight) == 1 else y


def mean_loss(logits, targets):
    if logits.shape[1] == 1:
        return binary_cross_entropy_with_logits(logits[:, 0], targets)
    return cross_entropy(logits, targets)


def penalty(model, C, n):
    return model.weight.square().sum() / (2.0 * C * n)


def result_of(model, optimiser):
    evaluations = next(iter(optimiser.state.values()))["func_evals"]
    return Fit(host(model.weight), host(model.bias), 2 * evaluations, exact=True)


def as_tensors(X, y, device="cpu"):
    return torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)


def host(tensor):
    return tensor.detach().cpu().numpy()
