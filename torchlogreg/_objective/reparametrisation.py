"""The same objective in fewer coefficients: in the span of the rows, or without the columns that are empty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from torchlogreg._data import tuning as tuning_of_data
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.design import Design, is_wide_table
from torchlogreg._objective import tuning
from torchlogreg._objective.objective import Objective, PassCounter, Point, in_range
from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._runtime.linalg import scaled_cholesky


def is_wide(design):
    """Whether rows are better seen by their inner products."""
    return (
        design.at_hand
        and is_wide_table(*design.shape)
        and design.shape[0] ** 2 <= tuning.ROW_SPACE_NUMBERS_PER_NUMBER * design.n_numbers
    )


def is_solved_in_row_space(objective):
    """Whether the objective is the same in the span of its rows, and they are better seen there."""
    return is_wide(objective.design) and objective.penalty.is_isotropic(objective.design.n_features)


class Reparametrisation(ABC):
    """Other coordinates for the same objective."""

    original: Objective
    objective: Objective  # in these coordinates

    def select(self, index: torch.Tensor) -> Self:
        """The same coordinates for the models at `index`."""
        selected = copy(self)
        selected.original, selected.objective = self.original.select(index), self.objective.select(index)
        return selected

    @abstractmethod
    def enter(self, W: torch.Tensor) -> torch.Tensor:
        """The coefficients in these coordinates that have the logits of W (B, d, K)."""

    @abstractmethod
    def leave(self, U: torch.Tensor) -> torch.Tensor:
        """The coefficients W (B, d, K) that U stands for."""

    @abstractmethod
    def leave_point(self, point: Point) -> Point:
        """The original objective at the coefficients that a point of this one stands for."""


class Identity(Reparametrisation):
    """The coordinates as they are."""

    def __init__(self, objective: Objective):
        self.original = self.objective = objective

    def enter(self, W):
        """See `Reparametrisation`."""
        return W

    def leave(self, U):
        """See `Reparametrisation`."""
        return U

    def leave_point(self, point):
        """See `Reparametrisation`."""
        return point


class RowSpace(Reparametrisation):
    """A wide objective (`original`), and the same one in the span of its rows (`objective`).

    With X X' = L L' and w = X' a, the logits are X w = L u for u = L' a, and ||w|| = ||u||. What a w has outside that
    span raises the penalty and changes no logit, so the optimum has nothing there, and the objective is the same with
    L (n, n) in place of X (Hastie and Tibshirani 2004, doi:10.1093/biostatistics/kxh010). X takes two passes: for X X',
    and for w with its gradient.
    """

    def __init__(self, original):
        self.original = original.exact()
        rows = self.original.design
        n, d = rows.shape
        original.passes.n_visited += n
        self.products = in_range(rows.inner_products())  # (n, n)
        scale, factor, _ = scaled_cholesky(self.products)
        self.factor = factor / scale[:, None]
        l2 = original.penalty.l2
        penalty = ElasticNet(torch.cat([l2[:, :1].expand(-1, n, -1), l2[:, d - rows.intercept :]], dim=1))
        y = rows.y.to(self.factor.device)
        inside = DenseDesign(self.factor, y, rows.to_accumulation(rows.weight), intercept=rows.intercept)
        self.objective = Objective(inside, original.loss, penalty, PassCounter(n))

    def enter(self, W):
        """The coefficients (B, n, K) that have the logits of W (B, d, K)."""
        n = len(self.factor)
        if not W.any():
            return W.new_zeros(W.shape[0], self.objective.design.shape[1], W.shape[2])
        intercept = W[:, self.original.design.n_features :]  # (B, 1 or 0, K)
        eta = torch.cat([block.matvec(W) for block in self.original.blocks()])  # (n, B, K)
        eta = self.original.design.to_accumulation(eta).permute(1, 0, 2) - intercept.sum(dim=1, keepdim=True)
        U = torch.linalg.solve_triangular(self.factor.expand(len(W), n, n), eta, upper=False)
        return torch.cat([U, intercept], dim=1)

    def leave(self, U):
        """See `Reparametrisation`; one pass over X."""
        a, start = self._multiples(U), 0
        W: Any = 0.0
        for rows in self.original.blocks():
            W = W + rows.rmatvec(a[:, start : start + rows.shape[0]].permute(1, 0, 2).to(rows.device))
            start += rows.shape[0]
        W[:, self.original.design.n_features :] = U[:, len(self.factor) :]
        return W

    def _multiples(self, U):
        """The multiples of the rows that add up to the coefficients, (B, n, K)."""
        n = len(self.factor)
        return torch.linalg.solve_triangular(self.factor.T.expand(len(U), n, n), U[:, :n], upper=True)

    def leave_point(self, point):
        """See `Reparametrisation`; one pass over X."""
        original, n, U = self.original, len(self.factor), point.W
        intercept, a = U[:, n:], self._multiples(U)
        # The logits of W itself, which the factor's rounding does not touch.
        eta = (self.products @ a + intercept.sum(dim=1, keepdim=True)).permute(1, 0, 2)  # (n, B, K)
        inside = self.objective.design
        losses, residual = original.loss.value_and_residual(eta, inside.y)
        residual = inside.weight[..., None] * residual
        W: Any = 0.0
        gradient: Any = 0.0
        start = 0
        for rows in original.blocks():
            part = slice(start, start + rows.shape[0])
            W = W + rows.rmatvec(a[:, part].permute(1, 0, 2).to(rows.device))
            gradient = gradient + rows.rmatvec(residual[part].to(rows.device))
            start = part.stop
        W[:, original.design.n_features :] = intercept
        return original.point(W, (inside.weight * losses).sum(dim=0), gradient, eta.permute(1, 2, 0))


class NonEmptyColumns(NamedTuple):
    """A design without the columns of X that hold no number, as most columns of a hashed vocabulary do.

    Such columns do not enter the losses, so where their coefficients start from zero they stay there. Bounds that
    exclude zero make others of them start elsewhere.
    """

    design: Design
    columns: torch.Tensor | None  # (u,) index among the d coefficients; None if none are left out
    d: int

    @classmethod
    def of(cls, design: Design, W: torch.Tensor, *, wanted: bool = True) -> NonEmptyColumns:
        """The design where enough columns are empty, and start from zero in W (B, d, K); otherwise as it is."""
        p, d = design.n_features, design.shape[1]
        is_filled = design.filled_columns() if wanted else None
        n_filled = 0 if is_filled is None else int(is_filled.sum())
        if is_filled is None or not 0 < n_filled < tuning_of_data.MAX_NON_EMPTY_SHARE * p:
            return cls(design, None, d)
        if W[:, :p][:, torch.from_numpy(~is_filled)].any():
            return cls(design, None, d)
        columns = torch.from_numpy(np.append(np.flatnonzero(is_filled), np.arange(p, d)))
        return cls(design.of_filled_columns(is_filled), columns, d)

    def enter(self, W: torch.Tensor) -> torch.Tensor:
        """Coefficients (B, d, K) of these columns alone."""
        return W if self.columns is None else W[:, self.columns]

    def leave(self, W: torch.Tensor) -> torch.Tensor:
        """Coefficients of all columns from those of these."""
        if self.columns is None:
            return W
        return W.new_zeros(W.shape[0], self.d, W.shape[2]).index_copy_(1, self.columns, W)
