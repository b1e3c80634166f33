"""Approximate Hessians for quadratic models with kinks, on the coefficients that a model is about.

Preconditioners are inverses; a model with kinks needs the matrix itself, and only its rows and columns of coefficients
that are not zero, or nearly leave zero. All of it is on the host, class-major.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch

from torchlogreg._data.blocking import block_numbers
from torchlogreg._data.gram import gram, with_ones
from torchlogreg._objective.objective import Objective, in_range
from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._runtime.threads import in_threads, n_workers
from torchlogreg._solvers import tuning


class Curvature(ABC):
    """Positive semi-definite approximations of the Hessians of B models: frozen dataclasses of tensors, final."""

    is_coupled: ClassVar[bool]  # whether it is flat along the classes of a feature without a penalty, as the Hessian is

    @abstractmethod
    def blocks(self, model: int, index: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """An index of coefficients in another order, and a model's diagonal blocks there; see `BlockMatrix`."""

    @abstractmethod
    def diagonal(self) -> torch.Tensor:
        """(B, K, d)"""

    @abstractmethod
    def select(self, index: torch.Tensor) -> Self:
        """The curvature of the models at `index` alone."""

    @abstractmethod
    def packed(self) -> Self:
        """Without what is computed again when it is needed."""


@dataclass(frozen=True, eq=False, repr=False)
class BlockCurvature(Curvature):
    """A block for each class: of the columns that are looked at, from a sample of rows; a diagonal for the others."""

    # (h, m) the sample's numbers in the columns that are looked at, without the ones; in memory column after
    # column where there are several classes, for it is columns that are picked from it, class by class
    X: torch.Tensor
    columns: torch.Tensor  # (h,) index of these among the d of a class, sorted
    weights: torch.Tensor  # (m, G, K) curvature by each logit, weighted
    of_all: torch.Tensor  # (G, K, d) diagonal, without the penalty
    l2: torch.Tensor  # (B, d)
    group: tuple[int, ...] | None = None  # which of the G models each of the B is near to; None if it is that one
    cache: dict[Any, Any] = field(default_factory=dict)  # blocks by (g, k), without the penalty

    is_coupled = False

    @classmethod
    def of(
        cls,
        sample: Objective,
        W: torch.Tensor,
        columns: torch.Tensor | None = None,
        diagonal: Any = None,
        eta: torch.Tensor | None = None,
    ) -> Self:
        """At W (B, d, K), whose logits eta (m, B, K) may be known; `columns` None are all, with their `diagonal`.

        That is of all rows, of the losses alone, and on the host.
        """
        d, design = W.shape[1], sample.design
        if eta is None:
            eta = design.matvec(W)
            sample.passes.n_visited += design.shape[0]
        weights = (design.weight[..., None] * sample.loss.logit_curvature(eta)).cpu()  # (m, B, K)
        columns = torch.arange(d, device="cpu") if columns is None else columns
        features = columns[columns < design.n_features]
        looked_at = design.dense(features if len(features) < design.n_features else None)
        X = looked_at.X.cpu().T
        X = X.contiguous() if W.shape[2] > 1 else X
        out = cls(X, columns, weights, diagonal, _l2(sample.penalty, len(W)))
        if diagonal is not None:
            return out
        if len(W) == W.shape[2] == 1 and d <= tuning.FEW_CANDIDATES:  # all of the block is wanted anyway
            every = np.arange(d)
            out.cache[0, 0] = every, out._block(0, 0, every)
            return replace(out, of_all=torch.from_numpy(out.cache[0, 0][1].diagonal().copy())[None, None])
        squares = looked_at.gram_diagonal(weights.flatten(1).to(looked_at.device)).cpu()
        return replace(out, of_all=in_range(squares).view(*weights.shape[1:], -1))

    def blocks(self, model, index):
        """See `Curvature`."""
        near = model if self.group is None else self.group[model]
        d = self.of_all.shape[2]
        ends = np.searchsorted(index, d * np.arange(self.of_all.shape[1] + 1))
        place = np.full(d, -1)
        place[self.columns.numpy()] = np.arange(len(self.columns))
        parts = [index[a:b] - k * d for k, (a, b) in enumerate(pairwise(ends))]
        most = math.isqrt(tuning.BLOCKS_NUMBERS // len(parts))
        inside = [self._largest(part[place[part] >= 0], near, k, most) for k, part in enumerate(parts)]
        outside = [np.setdiff1d(part, own, assume_unique=True) for part, own in zip(parts, inside, strict=True)]
        missing = [k for k, part in enumerate(inside) if not self._is_cached(near, k, part)]

        def compute(classes):
            for k in classes:
                self.cache[near, k] = self._with_block(near, k, inside[k], place)

        if missing:
            shares = [missing[i :: n_workers()] for i in range(n_workers())]
            in_threads(compute, [share for share in shares if share])
        out, order, l2 = [], [], self.l2[model].numpy()
        for k, (own, others) in enumerate(zip(inside, outside, strict=True)):
            if len(own):
                known, H = self.cache[near, k]
                at = np.searchsorted(known, own)
                is_whole, ridge = len(at) == len(H), l2[own]
                H = H if is_whole else H[np.ix_(at, at)]
                if ridge.any():
                    H = H.copy() if is_whole else H
                    H.ravel()[:: len(H) + 1] += ridge
                out.append(H)
            if len(others):
                # A sample may not have a number of a rare column; alone, its coefficient would move without limit.
                of_losses = self.of_all[near, k]
                least = tuning.LEAST_UNBLOCKED_SHARE * float(of_losses.max()) * torch.from_numpy(place[others] >= 0)
                out.append(_positive(torch.maximum(of_losses[others], least) + self.l2[model, others]).numpy())
            order += [own + k * d, others + k * d]
        return np.concatenate(order), out

    def _largest(self, part, model, k, most):
        """Those coefficients of a class that have the most curvature, if there are more than may have a block."""
        if len(part) <= most:
            return part
        return np.sort(part[np.argpartition(self.of_all[model, k].numpy()[part], -most)[-most:]])

    def diagonal(self):
        """See `Curvature`."""
        return _positive((self.of_all if self.group is None else self.of_all[list(self.group)]) + self.l2[:, None])

    def of_groups(self, group: torch.Tensor) -> Self:
        """For models of which each uses the curvature `group` (B,)."""
        return replace(self, group=tuple(group.tolist()))

    def with_l2(self, penalty: ElasticNet, n_models: int) -> Self:
        """With the L2 penalties of so many models."""
        return replace(self, l2=_l2(penalty, n_models))

    def select(self, index):
        """See `Curvature`."""
        index = index.cpu()
        if self.group is not None:
            return replace(self, group=tuple(self.group[b] for b in index.tolist()), l2=self.l2[index])
        return replace(self, weights=self.weights[:, index], of_all=self.of_all[index], l2=self.l2[index], cache={})

    def packed(self):
        """See `Curvature`."""
        return replace(self, cache={})

    def _is_cached(self, model, k, part):
        if not len(part):
            return True
        return np.isin(part, self.cache.get((model, k), (part[:0],))[0], assume_unique=True).all()

    def _with_block(self, model, k, part, place):
        """An index that has all of `part`, and the block of class k there: one that is known gets what it lacks.

        Candidates come and go: of twenty models on MNIST, 95 % of the products were made again without a need.
        """
        known, H = self.cache.get((model, k), (part[:0], np.empty((0, 0))))
        union = np.union1d(known, part)
        lacks = ~np.isin(union, known, assume_unique=True)
        if len(union) >= tuning.REUSED_BLOCK_FACTOR * len(part) or 2 * np.count_nonzero(lacks) > len(union):
            return part, self._block(model, k, place[part])
        out = np.empty((len(union), len(union)))
        out[np.ix_(~lacks, ~lacks)] = H
        rows = self._rows_of_block(model, k, place[union], np.flatnonzero(lacks))
        out[lacks], out[:, lacks] = rows, rows.T
        return union, out

    def _block(self, model, k, place):
        """The block of class k on the columns at `place` among those of the sample, of which the ones are the last."""
        h = len(self.X)
        own = torch.from_numpy(place[place < h])
        X = self.X if len(own) == h else self.X[own]
        weight = self.weights[:, model, k, None]
        sums = gram(X.T, weight, len(own) < len(place), block_numbers(X.device))
        H = _in_range(sums[0].to(torch.float64).numpy())
        H += H.T.copy()  # products of blocks of rows are not symmetric to the last bit
        H *= 0.5
        return H

    def _rows_of_block(self, model, k, place, index):
        """Its rows at an index, symmetric among themselves."""
        X, weight = self._picked(place[index]), self.weights[:, model, k].numpy()
        X = X * weight.astype(X.dtype)
        n_more = len(index) * (len(self.X) - len(place))  # products for each row of the sample, with all columns
        if self.X.is_contiguous() or n_more > tuning.PICKED_NUMBER_PRODUCTS * len(place):
            rows = X @ self._picked(place).T
        else:  # where columns lie row after row, these products take less time than picking some of the columns
            rows = np.column_stack([X @ self.X.numpy().T, X.sum(axis=1)])[:, place]
        rows = rows.astype(np.float64)
        rows[:, index] = 0.5 * (rows[:, index] + rows[:, index].T)
        in_range(torch.from_numpy(rows[np.arange(len(index)), index]))
        return rows

    def _picked(self, place):
        """The sample's numbers (a, m) in the columns at `place`, of which the ones are the last."""
        X, own = self.X.numpy(), place[place < len(self.X)]
        X = X if len(own) == len(X) else X[own]
        return X if len(own) == len(place) else np.concatenate([X, np.ones((1, X.shape[1]), X.dtype)])


@dataclass(frozen=True, eq=False, repr=False)
class CoupledCurvature(Curvature):
    """The Hessian of all rows, couplings between classes included, on some coefficients; a diagonal for the others."""

    index: tuple[torch.Tensor, ...]  # of each model, (a,) sorted
    hessians: tuple[torch.Tensor, ...]  # (a, a)
    of_all: torch.Tensor  # (B, K, d)

    is_coupled = True

    def blocks(self, model, index):
        """See `Curvature`."""
        known = self.index[model].numpy()
        is_known = np.isin(index, known, assume_unique=True)
        own, others = index[is_known], index[~is_known]
        at, out = np.searchsorted(known, own), []
        if len(own):
            H = self.hessians[model].numpy()
            out.append(H if len(at) == len(H) else H[np.ix_(at, at)])
        if len(others):
            out.append(self.of_all[model].flatten().numpy()[others])
        return np.concatenate([own, others]), out

    def diagonal(self):
        """See `Curvature`."""
        return self.of_all

    def select(self, index):
        """See `Curvature`."""
        models = index.tolist()
        return CoupledCurvature(
            tuple(self.index[b] for b in models), tuple(self.hessians[b] for b in models), self.of_all[index.cpu()]
        )

    def packed(self):
        """See `Curvature`."""
        return self


def coupled_hessian(objective: Objective, W: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """The Hessian (a, a) of one model at W (1, d, K) on the coefficients at an index, sorted; one pass."""
    _, d, n_logits = W.shape
    objective.passes.n_visited += objective.design.shape[0]
    (total,) = objective.design.total(_coupled_sums, objective.loss, W, index, shapes=[(len(index), len(index))])
    H = _in_range(total.numpy(force=True))
    l2, free = (row[0, :, 0].numpy(force=True) for row in (objective.penalty.l2, objective.penalty.is_free))
    if n_logits > 1:
        for feature in np.flatnonzero(free):  # see `Objective._pin`
            own = np.flatnonzero(index % d == feature)
            if len(own):
                H[np.ix_(own, own)] += objective.penalty.lift * H[own, own].mean()
    H.ravel()[:: len(index) + 1] += l2[index % d]
    return H


def _coupled_sums(design, loss, W, index):
    """What rows add to it."""
    _, d, n_logits = W.shape
    ends = np.searchsorted(index, d * np.arange(n_logits + 1))
    intercept, p = design.intercept, design.n_features
    columns = np.unique(np.append(index % d, np.full(int(intercept), p)))
    places = [np.searchsorted(columns, index[a:b] % d) for a, b in pairwise(ends)]
    features = torch.from_numpy(columns[columns < p]).to(design.device) if len(columns) < d else None

    # Sums of one large product take the time of its arithmetic, those of many small ones that of memory.
    n_together = max(1, tuning.COUPLED_NUMBERS // len(index))

    def add(part):
        out, waiting = np.zeros((len(index), len(index))), []
        for rows in part.blocks(n_logits):
            a, b = loss.curvature(rows.matvec(W))
            X = with_ones(rows.dense(features).X.to(rows.compute.dtype), intercept).numpy(force=True)
            weight = rows.weight[:, 0].numpy(force=True).astype(X.dtype)
            own = np.sqrt(weight[:, None] * a[:, 0].numpy(force=True))  # (m, K)
            of_classes = [X if len(place) == X.shape[1] else X[:, place] for place in places]
            for k, (i, j) in enumerate(pairwise(ends)):
                Z = of_classes[k] * own[:, k : k + 1]
                out[i:j, i:j] += Z.T @ Z
            if b is not None:
                b = np.sqrt(weight)[:, None] * b[:, 0].numpy(force=True)
                waiting.append(np.concatenate([Z * b[:, k : k + 1] for k, Z in enumerate(of_classes)], axis=1))
                if sum(map(len, waiting)) >= n_together:
                    _subtract_squares(out, waiting)
        _subtract_squares(out, waiting)
        return out

    H: Any = 0.0
    for chunk in design.chunks():
        H = H + sum(in_threads(add, chunk.parts(1, n_logits)))
    return [torch.from_numpy(H)]


def _subtract_squares(out, waiting):
    """Take V' V from `out`, of the rows V that wait for it."""
    if waiting:
        V = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        waiting.clear()
        out -= V.T @ V


def _l2(penalty, n_models):
    """(B, d) on the host"""
    return penalty.l2[..., 0].cpu().expand(n_models, -1)


def _positive(diagonal):
    """A diagonal with ones for zeros."""
    return torch.where(diagonal > 0, diagonal, 1.0)


def _in_range(H):
    """A matrix whose diagonal does not overflow."""
    in_range(torch.from_numpy(H.diagonal().copy()))
    return H
