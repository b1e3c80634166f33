"""Where proximal Newton starts, and which curvature its quadratic models get."""

from __future__ import annotations

from typing import Any

import torch

from torchlogreg._objective.objective import Objective, Point, in_range
from torchlogreg._solvers import cost_model, tuning
from torchlogreg._solvers.curvature import BlockCurvature
from torchlogreg._solvers.preconditioners.frequent_columns import frequent_columns, frequent_sample_size
from torchlogreg._solvers.starts import is_far, without_features
from torchlogreg._solvers.subsampling import newton_on_samples, sample_rows, sample_where_curved


def start(objective: Objective, W: torch.Tensor, rough: Any, generator: torch.Generator) -> tuple[Point, Any]:
    """The first point and the curvature there, from zero: of samples of the rows where they are representative.

    `rough` is the solver on samples.
    """
    n, d = objective.design.shape
    size = _sample_size(objective)
    nothing = without_features(objective, W)
    if W.shape[2] > 1 or objective.design.n_frequent_columns(1) or 2 * size > n or size < min(n, 5 * d):
        return objective.value_and_gradient(nothing), None
    sample = newton_on_samples(objective, nothing, size, generator, rough)
    W = sample.proposal
    point = objective.value_and_gradient(W)
    unrepresentative = is_far(objective, point.value)
    if unrepresentative.any():
        point = objective.value_and_gradient(torch.where(unrepresentative[:, None, None], nothing, W))
        return point, None
    return point, sample.curvature.with_l2(objective.penalty, len(W))


def curvature_at(objective: Objective, W: torch.Tensor, generator: torch.Generator) -> BlockCurvature:
    """What is affordable on a sample of the rows, at W (B, d, K)."""
    design = objective.design
    if not design.n_samplable:
        of_losses = in_range(objective.diagonal_of_losses(W)).cpu()
        none = torch.arange(0, device="cpu")
        empty = of_losses.new_zeros(0, len(W), W.shape[2])
        return BlockCurvature(empty[:, 0], none, empty, of_losses, of_losses[:, 0]).with_l2(objective.penalty, len(W))
    n_frequent = design.n_frequent_columns(W.shape[2])
    if not n_frequent:
        size = _sample_size(objective)
        draw = sample_rows if W.shape[2] == 1 else _where_curved(W)
        return BlockCurvature.of(draw(objective, size, generator), W)
    of_losses = in_range(objective.diagonal_of_losses(W)).cpu()
    columns = frequent_columns(of_losses.mT, design.n_features, n_frequent)
    size = frequent_sample_size(design.shape[0], len(columns), W.shape[2])
    sample = sample_rows(objective, size, generator, evenly=True)
    return BlockCurvature.of(sample, W, columns, of_losses)


def coupled_cost(objective: Objective, n_coefficients: int, n_logits: int) -> float:
    """Passes that the Hessian of all rows costs on so many coefficients of a model."""
    n, d = objective.design.shape
    own, filled = max(1.0, n_coefficients / n_logits), max(1.0, objective.design.n_numbers / n)
    numbers = d if filled >= d - 1 else tuning.SPARSE_NUMBER_COST * filled  # that a row takes the time of
    return tuning.COUPLED_BESIDE_PASSES + cost_model.hessian(n, n, own, n_logits) * own / numbers


def _where_curved(W):
    return lambda objective, size, generator: sample_where_curved(objective, W, size, generator)


def _sample_size(objective):
    n, d = objective.design.shape
    K = objective.loss.n_logits
    filled = max(1.0, objective.design.n_numbers / n)
    size = cost_model.sample_size(n, d, 1, filled) if K == 1 else max(tuning.CLASS_BLOCK_ROWS, 5 * d)
    most = max(tuning.SMALLEST_SAMPLE_ROWS, tuning.SAMPLE_NUMBERS // d)
    return min(size, most, n, objective.design.n_samplable)
