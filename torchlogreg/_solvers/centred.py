"""What solvers have in common that draw samples of the rows, and may start around the optimum of other models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch

from torchlogreg._solvers.base import SelectableSolver, drawn_seed
from torchlogreg._solvers.preconditioners.shared import Centre


@dataclass(frozen=True)
class CentredSolver(SelectableSolver):
    """Its samples of rows are the same in every fit unless asked otherwise."""

    seed: int = 0
    centre: Centre | None = None

    takes_centre = True

    @classmethod
    def from_params(cls, params, *, validated=False):  # noqa: ARG003
        """See `SelectableSolver`."""
        return cls(seed=drawn_seed(params["random_state"], 0))

    def around(self, centre: Centre) -> Self:
        """See `SelectableSolver`."""
        return replace(self, centre=centre)

    def for_models(self, index):
        """See `Solver`."""
        return self if self.centre is None else replace(self, centre=self.centre.select(index))

    def in_float64(self):
        """See `Solver`."""
        if self.centre is None:
            return self
        return replace(self, centre=self.centre._replace(objective=self.centre.objective.in_float64()))


def generator_in(state: torch.Tensor) -> torch.Generator:
    """The generator that draws samples, in a state that it was in."""
    generator = torch.Generator("cpu")
    generator.set_state(state.cpu())
    return generator
