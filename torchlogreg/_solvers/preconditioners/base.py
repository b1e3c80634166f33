"""The interface of a preconditioner, and what one that was raised to be positive definite hides of the gap."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, NamedTuple, Self

import torch

from torchlogreg._data.device import copied_to
from torchlogreg._objective.objective import Objective, Point
from torchlogreg._solvers import tuning


class Groups(NamedTuple):
    """Which of G matrices each of B models uses, and each model's place among those that use the same one."""

    numbers: list[int]  # of the matrices, known to the host
    number: torch.Tensor  # (B,) the same on the device
    place: torch.Tensor  # (B,)
    largest: int  # how many models use the most popular one

    @classmethod
    def of(cls, numbers: list[int], device: torch.device) -> Groups:
        """From the number of each model's matrix."""
        seen: Counter[int] = Counter()
        places = []
        for number in numbers:
            places.append(seen[number])
            seen[number] += 1
        number, place = (copied_to(device, torch.tensor(t, device="cpu")) for t in (numbers, places))
        return cls(numbers, number, place, max(seen.values()))

    def padded(self, values: torch.Tensor, n_groups: int) -> torch.Tensor:
        """Values of the models (B, ...) group by group, zeros where one has fewer models: (G, largest, ...)."""
        out = values.new_zeros(n_groups, self.largest, *values.shape[1:])
        out[self.number, self.place] = values
        return out

    def unpadded(self, values: torch.Tensor) -> torch.Tensor:
        """The values of the models, from (G, largest, ...)."""
        return values[self.number, self.place]


class Preconditioner(ABC):
    """Positive-definite approximations M of the Hessians of B models: frozen dataclasses of tensors, final.

    The matrices may be those of G groups of models instead; `groups` then says which one each model has.
    """

    @abstractmethod
    def solve(self, gradient: torch.Tensor, groups: Groups | None = None) -> torch.Tensor:
        """M^-1 times gradient (B, d, K)."""

    @abstractmethod
    def select(self, index: torch.Tensor) -> Self:
        """The preconditioners of the models at `index` alone."""

    @abstractmethod
    def raised(self, x: torch.Tensor, groups: Groups | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """E x (B, d, K) for what was added, M = H + E, and the x' E M^-1 E x that rounding of gradients makes, (B,)."""

    @abstractmethod
    def most_raised(self, groups: Groups | None = None) -> torch.Tensor:
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
