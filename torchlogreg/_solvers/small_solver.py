"""What solvers in NumPy have in common: each is for one small objective, whose arrays it holds."""

from torchlogreg._solvers.base import Solver
from torchlogreg._solvers.stopping import Optimality


class SmallSolver(Solver):
    """A solver for one model."""

    def select(self, state, index):  # noqa: ARG002
        """See `Solver`; there is one model."""
        return state


class SmallNewton(SmallSolver):
    """Newton's method, with or without kinks, with the Hessian of all rows at every point."""

    def pack(self, state):
        """The iterate alone."""
        return state.point.W, state.n_backtracks

    def unpack(self, objective, packed):
        """See `Solver`; one pass."""
        W, n_backtracks = packed
        return self.init(objective, W)._replace(n_backtracks=n_backtracks)

    def stopping(self, tol):
        """See `NewtonCholesky.stopping`."""
        return Optimality(tol, gap=tol / 2)
