"""Who is told of the iterations of a fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from torchlogreg._objective.objective import Objective
from torchlogreg._solvers.base import State
from torchlogreg._solvers.stopping import End


class Observer(ABC):
    """What the driver tells while it iterates, and what it is told."""

    @property
    @abstractmethod
    def n_iter(self) -> int:
        """How many iterations were noted, those of an interrupted fit included."""

    @property
    @abstractmethod
    def best(self) -> torch.Tensor | None:
        """The coefficients of the best iterate on the validation data, where that is the result."""

    @abstractmethod
    def resume(self) -> tuple[str, Any] | None:
        """The stage of an interrupted fit and the packed state of its solver, if it goes on from there."""

    @abstractmethod
    def restart(self) -> None:
        """The fit begins anew."""

    @abstractmethod
    def forget(self) -> None:
        """The fit cannot go on from where it is, nor from any checkpoint."""

    @abstractmethod
    def begin(self, state: Callable[[], tuple[str, Any]]) -> None:
        """An iteration begins; `state()` is what `resume` has to return to go on from here."""

    @abstractmethod
    def end(
        self, objective: Objective, state: State, coefficients: Callable[[torch.Tensor], torch.Tensor]
    ) -> End | None:
        """An iteration has led to a state of `objective`, whose W `coefficients` takes to those of the fit.

        Returns why the fit is to end, if it is.
        """

    @abstractmethod
    def left(self, n_models: int) -> None:
        """So many models of a batch are done."""


class Unobserved(Observer):
    """Nobody but `left`, if given, is told."""

    @property
    def n_iter(self) -> int:
        """None were noted."""
        return 0

    @property
    def best(self) -> None:
        """There is none."""
        return None

    def __init__(self, left: Callable[[int], None] | None = None):
        self._left = left

    def resume(self) -> None:
        """There is nothing."""

    def restart(self) -> None:
        """Nothing was noted."""

    def forget(self) -> None:
        """Nothing was stored."""

    def begin(self, state: Callable[[], tuple[str, Any]]) -> None:
        """Note nothing."""

    def end(self, objective: Objective, state: State, coefficients: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Note nothing."""

    def left(self, n_models: int) -> None:
        """Pass it on."""
        if self._left is not None:
            self._left(n_models)
