"""Regularisation paths: candidates in the order of their strengths, each started from where the stronger ones lead.

Where classes are nearly separable, the optimum of all rows is a poor start for the weak penalties of a fold. Those
models are solved one after the other, each from the extrapolated path of its own fold.
"""

import math
from typing import NamedTuple, Self

import torch

from torchlogreg._model_selection import tuning
from torchlogreg._objective.penalties import PerFeature


class Candidates(NamedTuple):
    """Q settings of one model."""

    l2: torch.Tensor  # (Q,) strengths
    l1: torch.Tensor | None  # (Q,) all positive, or None where no candidate has an L1 norm
    l1_ratio: torch.Tensor  # (Q,) the share of the L1 norm, as it was given
    has_intercept: torch.Tensor  # (Q,)
    weighting: torch.Tensor  # (Q,) which of the V weightings of the rows
    own: PerFeature  # weights and bounds of the features, the same for all candidates

    @property
    def strength(self) -> torch.Tensor:
        """Of both norms, (Q,): 1 / C."""
        return self.l2 if self.l1 is None else self.l1 + self.l2

    def nearest(self, q: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each of the candidates q the place in `known`, the strongest first, of the one that is most like it.

        That is the weakest of those with the nearest l1_ratio, and of the same weights and intercept. Where none of
        them has the same ones, the second tensor, of bool, says so.
        """
        ratio = 0.5 * self.l1_ratio  # by half: what is of another kind is always less like it
        unlike = (ratio[q][:, None] - ratio[known]).abs()
        for kind in (self.weighting, self.has_intercept):
            unlike = unlike + (kind[q][:, None] != kind[known])
        place = len(known) - 1 - unlike.flip(1).argmin(dim=1)
        return place, unlike.gather(1, place[:, None])[:, 0] < 1.0

    def by_strength(self) -> list[torch.Tensor]:
        """Indices of the candidates that differ by strength only, the strongest first."""
        kinds = torch.stack([self.weighting, self.has_intercept.to(self.weighting)], dim=1)
        paths = (torch.nonzero((kinds == kind).all(dim=1)).flatten() for kind in kinds.unique(dim=0))
        return [path[self.l2[path].argsort(descending=True, stable=True)] for path in paths]


class Paths(NamedTuple):
    """The order of Q candidates, and when to follow it."""

    paths: list[torch.Tensor]
    l2: torch.Tensor  # (Q,)
    before: torch.Tensor  # (Q,) the candidate before on the path; -1 for the first
    threshold: torch.Tensor  # (Q,) objective on all rows below which a candidate follows the one before

    @classmethod
    def none(cls, candidates: Candidates) -> Self:
        """Every candidate starts by itself."""
        before = torch.full_like(candidates.weighting, -1)
        return cls([], candidates.l2, before, torch.full_like(candidates.l2, -math.inf))

    @classmethod
    def of(cls, candidates: Candidates, without_features: torch.Tensor) -> Self:
        """The paths, given each candidate's least objective `without_features` (Q,)."""
        out = cls.none(candidates)._replace(paths=candidates.by_strength())
        for path in out.paths:
            out.before[path[1:]] = path[:-1]
            out.threshold[path[1:]] = tuning.NEARLY_SEPARABLE * without_features[path[1:]]
        return out

    def ranks(self, values: torch.Tensor) -> torch.Tensor:
        """How many candidates before each have to be solved first, (Q,); `values` (Q,) are those on all rows."""
        ranks = torch.zeros_like(self.before)
        for path in self.paths:
            least = values[path].cummin(dim=0).values  # the weaker the penalty, the lower the optimum
            ranks[path] = (least < self.threshold[path]).cumsum(dim=0)
        return ranks

    def stages(self, values: torch.Tensor) -> list[tuple[torch.Tensor, bool]]:
        """Indices of candidates that are solved together, and whether each starts from the one before on its path."""
        ranks = self.ranks(values)
        return [(torch.nonzero(ranks == r).flatten(), r > 0) for r in range(int(ranks.max()) + 1)]

    def predecessors(self, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For candidates q: the one before, the one before that, and the length of the step to extrapolate.

        The path is continued in a line over log C. The length is in units of the step between the two, and 0 where
        there is only one.
        """
        last = self.before[q]
        second = torch.where(self.before[last] < 0, last, self.before[last])
        ahead, behind = ((self.l2[a] / self.l2[b]).log() for a, b in ((last, q), (second, last)))
        t = torch.where((behind > 0) & ahead.isfinite(), (ahead / behind).clamp(max=tuning.PATH_STRETCH), 0.0)
        return last, second, t
