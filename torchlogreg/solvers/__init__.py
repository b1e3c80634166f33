"""Solvers by name, and the one that "auto" stands for. A new solver is one file here and one line in SOLVERS."""

from torchlogreg._wide import is_wide
from torchlogreg.solvers.lbfgs import LBFGS
from torchlogreg.solvers.newton import NewtonCholesky
from torchlogreg.solvers.sgd import SGD

SOLVERS = {solver.name: solver for solver in (SGD, LBFGS, NewtonCholesky)}


def choose(n, d, n_logits):
    """The solver for n rows, d coefficients a logit: the one whose estimated arithmetic is less.

    A Newton iteration forms the Hessian's upper triangle of class pairs and factors it; an L-BFGS iteration reads X
    for one value and gradient, at a lower rate, because it is bound by memory.
    """
    if is_wide(n, d):
        d = n + 1  # the problem that is solved
    pairs = n_logits * (n_logits + 1) // 2
    newton = NEWTON_ITERATIONS * (2 * n * d * d * pairs + (n_logits * d) ** 3 / 3) / FLOPS
    iterations = (
        LBFGS_ITERATIONS if n_logits > 1 else LBFGS_ITERATIONS / 3
    )  # one logit's preconditioner is nearly exact
    lbfgs = iterations * (4 * n * d * n_logits / FLOPS_BOUND_BY_MEMORY + LBFGS_OVERHEAD)
    return NewtonCholesky.name if newton <= lbfgs else LBFGS.name


# Measured on two Zen 4 cores in float64; only their ratios matter.
NEWTON_ITERATIONS, LBFGS_ITERATIONS = 8, 30
FLOPS, FLOPS_BOUND_BY_MEMORY = 4e10, 5e9  # a second
LBFGS_OVERHEAD = 4e-4  # seconds an iteration, of Python and torch calls
