"""Solvers by name, and the one that "auto" stands for. A new solver is one file here and one line in SOLVERS."""

from torchlogreg._data.design import Access
from torchlogreg._objective.objective import Point
from torchlogreg._objective.reparametrisation import is_wide
from torchlogreg._solvers import newton_numpy, tuning
from torchlogreg._solvers.base import Reading
from torchlogreg._solvers.curvature import BlockCurvature, CoupledCurvature
from torchlogreg._solvers.lbfgs import LBFGS, LBFGSState
from torchlogreg._solvers.lbfgs_memory import LBFGSMemory
from torchlogreg._solvers.learning_rates import AutomaticRate, ConstantRate
from torchlogreg._solvers.newton import NewtonCholesky
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner
from torchlogreg._solvers.preconditioners.eigenbasis import EigenbasisPreconditioner
from torchlogreg._solvers.preconditioners.frequent_columns import FrequentColumnsPreconditioner
from torchlogreg._solvers.preconditioners.refresh import Refresh
from torchlogreg._solvers.prox_newton import ProxNewton, ProxNewtonState
from torchlogreg._solvers.sgd import SGD, SGDState
from torchlogreg._solvers.stopping import Improvement

# What a packed state may hold beside plain values and tensors.
STATES = (
    Point,
    Reading,
    LBFGSState,
    LBFGSMemory,
    Refresh,
    CholeskyPreconditioner,
    EigenbasisPreconditioner,
    FrequentColumnsPreconditioner,
    ProxNewtonState,
    BlockCurvature,
    CoupledCurvature,
    SGDState,
    ConstantRate,
    AutomaticRate,
    Improvement,
)
SOLVERS = {solver.name: solver for solver in (SGD, LBFGS, NewtonCholesky, ProxNewton)}


def access_of(name):
    """How the solver of that name goes through X; "auto" as the one that it is for large data."""
    solver = LBFGS if name == "auto" else SOLVERS[name]
    return Access(in_random_order=solver.stochastic, by_products=solver.matrix_free)


def is_stochastic(name):
    """Whether the solver of that name estimates gradients from some of the rows; "auto" never stands for such a one."""
    return name in SOLVERS and SOLVERS[name].stochastic


def takes_kinks(name):
    """Whether the solver of that name takes penalties with an L1 norm or bounds; "auto" finds one that does."""
    return name == "auto" or SOLVERS[name].takes_kinks


def solver_class(name, design, n_logits, penalty=None):
    """The solver of that name; for "auto" the faster one for this design and so many logits.

    That is proximal Newton where the penalty has kinks or bounds; without a `penalty` it has none.
    """
    if name != "auto":
        return SOLVERS[name]
    if penalty is not None and not penalty.is_smooth:
        return ProxNewton
    n, d = design.shape
    if is_wide(design) and (penalty is None or penalty.is_isotropic(design.n_features)):
        d = n + 1  # in the coordinates that it is solved in
    return NewtonCholesky if newton_numpy.size(n, d, n_logits) <= tuning.AUTO_NEWTON_NUMBERS else LBFGS
