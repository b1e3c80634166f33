"""Preconditioners that several models share, such as those of the folds of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from torchlogreg._data.device import copied_to
from torchlogreg._objective.objective import Objective
from torchlogreg._solvers.preconditioners.base import Groups, Preconditioner


class Centre(NamedTuple):
    """Models that others are near to: of all rows, or earlier ones of a path."""

    objective: Objective  # (G models)
    W: torch.Tensor | None  # (G, d, K) where they all start, if they do
    group: torch.Tensor  # (B,) the model among those that each one is near to

    def select(self, index: torch.Tensor) -> Centre:
        """For the models at `index`, wherever they are now."""
        return self._replace(group=self.group[index], W=None)

    def means(self, W: torch.Tensor) -> tuple[Objective, torch.Tensor, torch.Tensor]:
        """Objective and mean W of the models around each centre that still has some, and the number of each model's."""
        present, group = self.group.unique(return_inverse=True)
        total = W.new_zeros(len(present), *W.shape[1:]).index_add_(0, group, W)
        return self.objective.select(present), total / group.bincount()[:, None, None], group


@dataclass(frozen=True, eq=False, repr=False)
class SharedPreconditioner(Preconditioner):
    """The preconditioners of G groups, of which each model uses one."""

    preconditioner: Preconditioner  # (G models)
    groups: Groups

    @classmethod
    def of(cls, preconditioner: Preconditioner, group: torch.Tensor) -> SharedPreconditioner:
        """For models of which each uses the preconditioner `group` (B,)."""
        return cls(preconditioner, Groups.of(group.tolist(), group.device))

    def select(self, index):
        """See `Preconditioner`; those that nobody uses any more are dropped."""
        device, numbers = self.groups.number.device, [self.groups.numbers[b] for b in index.tolist()]
        preconditioner, present = self.preconditioner, sorted(set(numbers))
        if len(present) < len(set(self.groups.numbers)):
            preconditioner = preconditioner.select(copied_to(device, torch.tensor(present, device="cpu")))
            numbers = [present.index(number) for number in numbers]
        return SharedPreconditioner(preconditioner, Groups.of(numbers, device))

    def solve(self, gradient, groups=None):  # noqa: ARG002 - it is itself what groups share
        """See `Preconditioner`."""
        return self.preconditioner.solve(gradient, self.groups)

    def raised(self, x, groups=None):  # noqa: ARG002
        """See `Preconditioner`."""
        return self.preconditioner.raised(x, self.groups)

    def most_raised(self, groups=None):  # noqa: ARG002
        """See `Preconditioner`."""
        return self.preconditioner.most_raised(self.groups)
