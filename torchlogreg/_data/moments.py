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


def first_and_second(design: InMemoryDesign) -> list[torch.Tensor]:
    """Weighted sums of the squares and, with an intercept, of the numbers of each column, (B, d) each."""
    square = design.gram_diagonal(design.weight)
    return [square, design.rmatvec(design.weight[..., None])[..., 0]] if design.intercept else [square]


def row_norms(design: InMemoryDesign, moments: torch.Tensor) -> torch.Tensor:
    """Sums of the squares in each row, those of a column divided by its second moment: (d,) -> (n,)."""
    scale = torch.where(moments > 0, 1.0 / moments.clamp(min=torch.finfo(moments.dtype).tiny), 0.0)

    def of_part(part):
        return torch.cat([block.squared_norms(scale) for block in part.blocks()])

    return torch.cat(in_threads(of_part, design.parts(n_workers()))).to(design.sample_weights)


def weights_off(design: InMemoryDesign, candidates: InMemoryDesign) -> list[torch.Tensor]:
    """What `effective_row_count` is made of: sums over the rows whose number in a column is not that of a candidate.

    They are those of the weights and of their squares (n_candidates, 2, p), and of all rows (2,).
    """
    weight = design.sample_weights.amax(dim=1)
    weights = torch.stack([weight, weight.square()]).to(design.X.dtype)
    return [design.weight_unlike(candidates, weights), weights.sum(dim=1)]


def effective_row_count(off: torch.Tensor, of_all: torch.Tensor, *, intercept: bool) -> torch.Tensor:
    """How many rows, effectively, differ from the most common number of each column, (d,), from sums of `weights_off`.

    That is Kish's effective sample size of those rows: for an indicator the number of rows of the rarer kind. The most
    common number of a column is a candidate's in all but contrived columns: of the candidates, the more common one.
    """
    total, squares = off.gather(0, off[:, :1].argmin(dim=0, keepdim=True).expand(1, *off.shape[1:]))[0]  # (p,) each
    count = (total.square() / squares).nan_to_num(0.0)  # that of a constant column is 0 / 0
    return torch.cat([count, (of_all[:1].square() / of_all[1:]).to(count)]) if intercept else count
