"""When an iteration ends, and why."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import State


class End(IntEnum):
    """Why a model is done."""

    CONVERGED = 1
    VALIDATION = 2  # the validation data saw no improvement
    LIMIT = 3  # max_iter
    CALLBACK = 4  # asked to stop
    PRECISION = 5  # no step helps
    BLIND = 6  # see `State.blind`; another solver goes on
    OVERFLOW = 7
    FLOOR = 8  # the objective fell below the value that was asked for
    ROUNDING = 9  # it had converged, but has not in the precision in which coefficients are stored
    SEPARATED = 10  # the classes are, so the minimum is at infinity


class Optimality(NamedTuple):
    """Stop when max|gradient| <= tol and the estimated relative gap <= gap.

    The first is scikit-learn's test. Alone it is a weak one: with tol = 1e-4 on the digits, standardised, C = 1, it
    held 4e-4 of the objective above the optimum.
    """

    tol: float
    gap: float

    def met(self, state: State) -> list[bool]:
        """Which of the B models may stop."""
        values, norms, gaps, *_ = state.reading
        return [
            norm <= self.tol and (gap <= self.gap or value <= tuning.ZERO_VALUE)
            for value, norm, gap in zip(values, norms, gaps, strict=True)
        ]


class Settled(NamedTuple):
    """Stop when the solver's own schedule has come to its end."""

    gap: float = math.inf

    def met(self, state: State) -> list[bool]:
        """Whether it has."""
        return [state.settled]


class Improvement(NamedTuple):
    """The best value so far, the lower the better, and for how many iterations none was better by `tol`."""

    best: float = math.inf
    n_stale: int = 0

    def after(self, value: float, tol: float) -> Improvement:
        """With one more iteration's value."""
        return Improvement(min(self.best, value), self.n_stale + 1 if value > self.best - tol else 0)

    def is_over(self, tol: float, patience: int) -> bool:
        """Whether `patience` iterations in a row were without improvement; never if tol is zero."""
        return tol > 0 and self.n_stale >= patience
