"""Statistics of the columns and the rows of X: second moments, variances, squared norms, effective row counts."""

from functools import reduce
from operator import add

import torch

from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._runtime.threads import in_threads, n_workers


def second_moments(design: InMemoryDesign) -> torch.Tensor:
    """Of each column, (d,), weighted; where models have weights of their own, by the largest weight of a row."""

    def of_part(part):
        largest = (block.gram_diagonal(block.sample_weights.amax(dim=1, keepdim=True)) for block in part.blocks())
        return reduce(add, largest)

    return reduce(add, in_threads(of_part, design.parts(n_workers())))[0]


def scatter(design: InMemoryDesign) -> torch.Tensor:
    """Weighted variance of each column, (B, d), of rows whose weights sum to one.

    It is the mean square without an intercept; an intercept's own entry is 1.
    """
    square = design.gram_diagonal(design.weight)
    if design.intercept:
        mean = design.rmatvec(design.weight[..., None])[..., 0]  # (B, d)
        square[:, :-1] -= mean[:, :-1].square()
    return square.clamp(min=0.0)


def row_norms(design: InMemoryDesign, moments: torch.Tensor) -> torch.Tensor:
    """Sums of the squares in each row, those of a column divided by its second moment: (d,) -> (n,)."""
    scale = torch.where(moments > 0, 1.0 / moments.clamp(min=torch.finfo(moments.dtype).tiny), 0.0)

    def of_part(part):
        return torch.cat([block.squared_norms(scale) for block in part.blocks()])

    return torch.cat(in_threads(of_part, design.parts(n_workers()))).to(design.sample_weights)


def effective_row_count(design: InMemoryDesign) -> torch.Tensor:
    """How many rows, effectively, differ from the most common number of each column, (d,).

    That is Kish's effective sample size of those rows: for an indicator the number of rows of the rarer kind.
    """
    weight = design.sample_weights.amax(dim=1)
    weights = torch.stack([weight, weight.square()]).to(design.X.dtype)
    total, squares = design.weight_off_the_mode(weights)  # (d,) each
    count = (total.square() / squares).nan_to_num(0.0)  # that of a constant column is 0 / 0
    if design.intercept:
        count = torch.cat([count, (weight.sum().square() / weight.square().sum())[None].to(count)])
    return design.to_accumulation(count)
