"""Weights of the rows: columns (n, V) that B models share.

Model b weighs the rows by column `weight_index[b]`; without an index by column b, or by the only column there is.
"""

import torch

from torchlogreg._data import tuning

Models = torch.Tensor | slice  # an index of models
EVERY_MODEL = slice(None)


def index_of_selected(columns: torch.Tensor, weight_index: torch.Tensor | None, models: Models) -> torch.Tensor | None:
    """The weight index of the models at an index alone; None if all models use the only column."""
    if weight_index is not None:
        return weight_index[models]
    if columns.shape[1] == 1:
        return None
    return torch.arange(columns.shape[1], device=columns.device)[models] if isinstance(models, slice) else models


def models_with_weight(columns: torch.Tensor, weight_index: torch.Tensor | None) -> Models:
    """Index of the models that weigh some of these rows; `EVERY_MODEL` if most of them do, or none."""
    if weight_index is None:
        return EVERY_MODEL
    weighs = columns.any(dim=0)[weight_index]
    none_or_most = not weighs.any() or float(weighs.float().mean()) > tuning.MOST_MODELS_SHARE
    return EVERY_MODEL if none_or_most else torch.nonzero(weighs).flatten()


def added_to_models(total: torch.Tensor | None, models: Models, sums: torch.Tensor, n_models: int) -> torch.Tensor:
    """`total` (B, ...) and the sums of the models at an index, which may be kept and written to; None is zero."""
    if models is EVERY_MODEL:
        return sums if total is None else total.add_(sums)
    total = sums.new_zeros(n_models, *sums.shape[1:]) if total is None else total
    total[models] += sums
    return total


def sample_weighted_rows(columns: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Index of `size` random rows that have a weight; with replacement, which is cheaper than a permutation."""
    weight = columns.amax(dim=1)
    if bool(weight.all()):
        return torch.randint(len(weight), (size,), generator=generator, device="cpu").to(weight.device)
    present = torch.nonzero(weight).flatten()
    sampled = torch.randint(len(present), (size,), generator=generator, device="cpu")
    return present[sampled.to(present.device)]
