"""The rows that a grid is fitted to and scored on: those of this process, or those of several that it leads."""

from typing import Any, NamedTuple, Self

import numpy as np
import torch

from torchlogreg._data.design import Design
from torchlogreg._data.sharded import ShardedDesign
from torchlogreg._data.training_data import TrainingData, design_of
from torchlogreg._model_selection.scoring import balanced, score_sums
from torchlogreg._objective.losses import Loss
from torchlogreg._runtime.desk import NOTHING, Lead, PerRank, Remote
from torchlogreg._runtime.out_of_memory import with_room
from torchlogreg._runtime.threads import mapped, package_settings, plain_arithmetic


class Rows(NamedTuple):
    """All rows: their X may be in several processes, their labels and weights are here."""

    data: TrainingData  # with the codes and weights of all rows, and the X of this process
    lead: Lead | None = None  # how the other processes are asked
    ends: tuple[int, ...] = ()  # where each one's rows begin, and where the last one's end

    @classmethod
    def of(cls, data: TrainingData, lead: Lead | None) -> Self:
        """Those of this process, or of all that share theirs under the name "data"."""
        if lead is None:
            return cls(data)
        parts = lead.each(_labels_and_weights, Remote(lead, "data"))
        counts = [0 if part is None else len(part[0]) for part in parts]
        codes, weight = (np.concatenate(own) for own in zip(*(part for part in parts if part is not None), strict=True))
        sample_weight = weight if data.of_all is not None and data.of_all.is_weighted else None
        data = data._replace(codes=codes, weight=weight, sample_weight=sample_weight)
        return cls(data, lead, (0, *np.cumsum(counts).tolist()))

    @staticmethod
    def shared(data: TrainingData) -> dict[str, Any]:
        """What a process shares with the one that leads it."""
        return {"data": data if data.X.shape[0] else NOTHING, "X": data.X}

    def __len__(self) -> int:
        assert self.data.codes is not None  # a stream was refused
        return len(self.data.codes)

    @property
    def for_splitters(self) -> np.ndarray:
        """As many rows without features as there are."""
        return np.empty((len(self), 0))

    @property
    def labels(self) -> np.ndarray:
        """The labels of all rows."""
        return self.data.classes[self.data.codes]

    def design(self, loss: Loss, *, intercept: bool) -> Design:
        """The design of all rows."""
        if self.lead is None:
            return design_of(self.data, loss, intercept=intercept)
        shared = Remote(self.lead, "data")
        return ShardedDesign.of(Remote(self.lead, self.lead.kept(_design, shared, loss, intercept)))

    def logits(self, W: torch.Tensor, loss: Loss, index: np.ndarray, *, intercept: bool) -> torch.Tensor:
        """Logits (m, B, K) of the rows at an index, which are here, by coefficients (B, d, K)."""
        return _logits(self.data, loss, W, index, intercept)

    def mean_scores(
        self, name: str, W: torch.Tensor, loss: Loss, index: np.ndarray, weight: Any, *, intercept: bool
    ) -> np.ndarray:
        """Means (B,) over the rows at an index of the score of that name, by weights (m,) or alike if None."""
        weight = balanced(weight)
        if self.lead is None:
            total, mass = _score_sums(self.data, loss, W, name, index, weight, intercept)
        else:
            inside = [(index >= a) & (index < b) for a, b in zip(self.ends, self.ends[1:], strict=False)]
            own = PerRank([index[part] - a for part, a in zip(inside, self.ends, strict=False)])
            weights = PerRank([None if weight is None else weight[part] for part in inside])
            shared = Remote(self.lead, "data")
            total, mass = self.lead.total(
                _score_sums, shared, loss, W, name, own, weights, intercept, shapes=[(len(W),), ()]
            )
        return (total / mass).numpy(force=True)


def _labels_and_weights(data):
    return data.codes, data.weight


def _design(data, loss, intercept):
    return design_of(data, loss, intercept=intercept)


def _score_sums(data, loss, W, name, index, weight, intercept):
    """The sums of a score over some rows of this process, and those of the weights."""
    if not len(index):
        return [W.new_zeros(len(W)), W.new_zeros(())]
    return score_sums(name, loss, _logits(data, loss, W, index, intercept), data.codes[index], weight)


def _logits(data, loss, W, index, intercept):
    with package_settings():
        return logits_of(W, design_of(data, loss, index, intercept=intercept))


def logits_of(W: torch.Tensor, design: Any) -> torch.Tensor:
    """Logits (m, B, K) of the rows of a design, by coefficients (B, d, K)."""

    def work():
        blocks = design.blocks(W.shape[0] * W.shape[2])
        return torch.cat([*mapped(lambda block: block.matvec(W), blocks, design.compute.device)])

    with torch.inference_mode(), plain_arithmetic(design.X):
        return with_room(work)
