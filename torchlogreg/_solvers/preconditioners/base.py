"""The interface of a preconditioner, and what one that was raised to be positive definite hides of the gap."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch

from torchlogreg._objective.objective import Objective, Point
from torchlogreg._solvers import tuning


class Preconditioner(ABC):
    """Positive-definite approximations M of the Hessians of B models: frozen dataclasses of tensors, final.

    The matrices may be those of G groups of models instead; `group` (B,) then says which one each model has.
    """

    @abstractmethod
    def solve(self, gradient: torch.Tensor, group: torch.Tensor | None = None) -> torch.Tensor:
        """M^-1 times gradient (B, d, K)."""

    @abstractmethod
    def select(self, index: torch.Tensor) -> Self:
        """The preconditioners of the models at `index` alone."""

    @abstractmethod
    def raised(self, x: torch.Tensor, group: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """E x (B, d, K) for what was added, M = H + E, and the x' E M^-1 E x that rounding of gradients makes, (B,)."""

    @abstractmethod
    def most_raised(self, group: torch.Tensor | None = None) -> torch.Tensor:
        """The most that was added to a diagonal entry of the Hessian, (B,)."""


def is_blind(gap: Any, hides: Any) -> Any:
    """Whether a preconditioner hides more of the gap than it sees, where that matters; arrays or numbers."""
    return (gap <= tuning.SURE_GAP) & (hides > gap) & (hides > tuning.NEGLIGIBLE_GAP)


def is_raised(objective: Objective, preconditioner: Preconditioner, point: Point) -> bool:
    """Whether a diagonal was raised by more than a trifle beside the penalty, in one of the models."""
    l2 = objective.penalty.l2[:, : objective.design.n_features].expand(len(point.W), -1, -1)
    return not bool((preconditioner.most_raised() <= tuning.NEGLIGIBLE_RAISE * l2.amin(dim=(1, 2))).all())


def hidden(objective: Objective, preconditioner: Preconditioner, point: Point) -> torch.Tensor:
    """What raised diagonals may hide of the relative gap, (B,); infinite where nothing bounds it.

    With M = H + E and x = M^-1 g, half of g' H^-1 g is at most (g' x + x' r + r' H^-1 r) / 2, where r = E x is the part
    of the gradient that M takes for curved and H need not. H is at least the penalty. Without one, an r that rounding
    explains means nothing, and any other may hide everything. The intercept's part of r is left out: where it is raised
    at all, the coefficients that can make up for an intercept have theirs.
    """
    p = objective.design.n_features
    l2 = objective.penalty.l2[:, :p].expand(len(point.W), -1, -1)
    x = preconditioner.solve(point.gradient)
    r, rounding = preconditioner.raised(x)
    weak = torch.where((r * preconditioner.solve(r)).sum(dim=(1, 2)) <= rounding, 0.0, math.inf)
    spread = torch.where((l2 > 0).all(dim=(1, 2)), (r[:, :p].square() / l2).sum(dim=(1, 2)), weak)
    return 0.5 * ((x * r).sum(dim=(1, 2)) + spread) / point.value.clamp(min=torch.finfo(point.value.dtype).tiny)
