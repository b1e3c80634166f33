"""The objective, stated once.

    F(W) = ( sum_i s_i loss(y_i, x_i W) + penalty(W) ) / S        S = sum_i s_i

W (B, d, K) holds B models over the same rows, K logits each, the intercept as last of the d = p + 1 rows (d = p
without). Labels y (n,), weights s (n, B) or (n, 1), logits (n, B, K); values and gaps are (B,). scikit-learn's
objective is C S F, with penalty = ||W||^2 / (2 C), so the minimisers agree. Weights, S and a reduction over
processes, should there be several, belong here and nowhere else: rows reach the solvers with s_i / S as their weight,
penalties with strength / S.
"""

import math
from functools import cached_property, reduce
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

import torch

from torchlogreg._data import kernels
from torchlogreg._data.device import widest_dtype
from torchlogreg._data.sample_weights import EVERY_MODEL, added_to_models
from torchlogreg._objective import tuning
from torchlogreg._runtime.threads import in_threads, n_workers


class Point(NamedTuple):
    """The objective at W (B, d, K)."""

    W: torch.Tensor
    value: Any  # tensor (B,); None where only W is known
    gradient: Any  # tensor (B, d, K), the subgradient of least norm where F has a kink; None where it is not known
    eta: torch.Tensor | None = None  # the logits of all rows (B, K, n), where they are small beside X
    hessian: Any = None  # tensor (B, 1, K d, K d), classes outermost, where it was asked for
    smooth_gradient: Any = None  # tensor (B, d, K) of the part without kinks and bounds, if the penalty has such

    @property
    def gradient_norm(self):
        """max|gradient|, (B,)"""
        return torch.linalg.vector_norm(self.gradient, math.inf, dim=(1, 2))

    @property
    def slope(self):
        """The gradient of the smooth part, (B, d, K)."""
        return self.gradient if self.smooth_gradient is None else self.smooth_gradient


class OutOfRange(ValueError):
    """Squares of the numbers of X overflow or underflow, in the dtype of products with it."""

    def __init__(self, what):
        super().__init__(
            f"Squares of the numbers of X {what} in float64. Standardise X (sklearn.preprocessing.StandardScaler)."
        )


def in_range(moments):
    """`moments`, sums of squares of the numbers of X, where they do not overflow."""
    if not torch.isfinite(moments).all():
        raise OutOfRange("overflow")
    return moments


def normalised(design):
    """The rows with weights that sum to one, and the factors (V,) of S, which itself may overflow."""
    largest = design.largest_weight()
    design = design.divided(largest)
    total = design.total_weight()
    return design.divided(total), (design.to_accumulation(largest), design.to_accumulation(total))


def _added(a, b):
    """Two tuples, added entry by entry."""
    return tuple(map(add, a, b))


class PassCounter:
    """How many passes over the rows were made; one over a tenth of them counts 0.1."""

    def __init__(self, n_rows, n_before=0):
        self.n_rows, self.n_visited = n_rows, n_before * n_rows

    @property
    def total(self):
        return self.n_visited / self.n_rows


class Objective:
    """A loss over rows plus a penalty, both divided by S. `passes` counts the passes, those over samples included."""

    def __init__(self, design, loss, penalty, passes):
        self.design, self.loss, self.penalty, self.passes = design, loss, penalty, passes

    @classmethod
    def of(cls, design, loss, penalty):
        """The objective for raw weights and strengths."""
        design, factors = normalised(design)
        penalty = penalty.divided(
            [factor if design.weight_index is None else factor[design.weight_index] for factor in factors]
        )
        return cls(design, loss, penalty, PassCounter(design.shape[0], design.n_passes_before))

    @cached_property
    def has_l2(self):
        """Whether any coefficient has an L2 penalty."""
        return bool(self.penalty.l2.any())

    def select(self, index):
        """The objective of the models at `index` alone."""
        return Objective(self.design.select(index), self.loss, self.penalty.select(index), self.passes)

    def of_columns(self, columns):
        """The objective of the columns at an index alone, the intercept's as last, over dense rows."""
        p = self.design.n_features
        design = self.design.dense(columns[columns < p])
        return Objective(design, self.loss, self.penalty.of_columns(columns), self.passes)

    def exact(self):
        """The same objective, with every product in float64."""
        if self.design.is_exact:
            return self
        return Objective(self.design.exact(), self.loss, self.penalty, self.passes)

    def in_float64(self):
        """The same objective with X itself in float64, so that samples of its rows are, too."""
        return Objective(self.design.in_float64(), self.loss, self.penalty, self.passes)

    def upcast(self):
        """The same objective, with X in a dtype that is multiplied as it is."""
        design = self.design.upcast()
        return self if design is self.design else Objective(design, self.loss, self.penalty, self.passes)

    def between(self, start, end, t):
        """The objective at start + t (end - start), t (B,), from the logits of the two points: no pass over X."""
        W = start.W + t[:, None, None] * (end.W - start.W)
        eta = torch.lerp(start.eta, end.eta, t[:, None, None].to(start.eta))  # (B, K, n)
        y, weight = self.design.y.to(eta.device), self.design.weight.to(eta.device)
        losses = self.loss.value(eta.permute(2, 0, 1), y)
        return self.penalty.value(W) + self.design.to_accumulation((weight * losses).sum(dim=0))

    def second_order(self, W):
        """Value, gradient and Hessian at W, in one pass."""
        point = self.value_and_gradient(W, with_hessian=True)
        return point._replace(hessian=self._completed(point.hessian, W.shape[2]))

    def hessian_at(self, eta):
        """The Hessian (B, 1, K d, K d) where the rows, in one block, have the logits eta (n, B, K)."""
        return self._completed(self._data_hessian(self.design, eta), eta.shape[2])

    def root(self, W):
        """A triangular R (K d, K d) with R' R the Hessian of one model at W (1, d, K), classes outermost; one pass.

        It has twice as many digits of the Hessian as sums of products have. Triangles of blocks of rows are stacked
        (TSQR, Demmel et al. 2012, doi:10.1137/080731992).
        """
        _, d, n_logits = W.shape
        l2 = self.penalty.l2[0, :, 0]
        R = torch.diag(l2.repeat(n_logits).sqrt())
        for block in self.exact().blocks():
            factor = self.design.to_accumulation(self.loss.curvature_root(block.matvec(W))[:, 0])  # (m, K, M)
            factor = factor * self.design.to_accumulation(block.weight[:, :1]).sqrt()[..., None]
            X, size = block.features(), max(64, min(2 * n_logits * d, tuning.ROOT_BLOCK_NUMBERS // (n_logits**2 * d)))
            for rows, f in zip(X.split(size), factor.split(size), strict=True):
                J = torch.einsum("nkm,nj->nmkj", f, rows).reshape(-1, n_logits * d)
                R = torch.linalg.qr(torch.cat([R, J]), mode="r").R
        if n_logits > 1:  # see `_pin`
            lift = R.square().sum(dim=0).view(n_logits, d).mean(dim=0).sqrt() * self.penalty.is_free[0, :, 0]
            R = torch.linalg.qr(torch.cat([R, torch.diag(lift).repeat(1, n_logits)]), mode="r").R
        return R

    def _data_hessian(self, rows, eta):
        """What `rows` add to the Hessian, (B, K d, K d)."""
        n_models, n_logits = eta.shape[1:]
        a, b = self.loss.curvature(eta)
        blocks = rows.gram((rows.weight[..., None] * a).flatten(1)).view(n_models, n_logits, *2 * rows.shape[1:])
        if n_logits == 1:
            return blocks[:, 0]
        hessian = rows.gram_of_copies(rows.weight.sqrt()[..., None] * b).neg_()
        d = rows.shape[1]
        by_logit = hessian.view(n_models, n_logits, d, n_logits, d)
        by_logit.diagonal(dim1=1, dim2=3).add_(blocks.permute(0, 2, 3, 1))
        return self._centred_sums(self._centred_sums(by_logit, 1), 3).reshape(hessian.shape)

    def _centred_sums(self, sums, dim):
        """Sums over the rows, without their mean over the logits along `dim`, which is zero but for rounding.

        A constant on all logits changes no probability. Sums in float32 leave some gradient and curvature along it, and
        steps that follow them drift where the penalty is weak: nothing else holds them back (see `_pin`).
        """
        in_float64 = self.design.is_exact and widest_dtype(self.design.device) == torch.float64
        if sums.shape[dim] == 1 or in_float64:
            return sums
        return sums - sums.mean(dim=dim, keepdim=True)

    def _completed(self, hessian, n_logits):
        """The Hessian (B, 1, K d, K d) with what the penalty adds."""
        diagonal = hessian.diagonal(dim1=1, dim2=2).unflatten(1, (n_logits, -1))
        if n_logits > 1:
            self._pin(hessian, diagonal)
        diagonal += self.penalty.l2.mT
        return hessian[:, None]

    def diagonal(self, W):
        """The Hessian's diagonal at W in one pass, (B, K d, 1, 1)."""
        n_models, d, n_logits = W.shape
        self.passes.n_visited += self.design.shape[0]

        def look_at(part):
            out: Any = 0.0
            for rows in part.blocks(n_models * n_logits):
                own = self.loss.logit_curvature(rows.matvec(W))
                out = out + rows.gram_diagonal((rows.weight[..., None] * own).flatten(1))
            return out

        out: Any = 0.0
        for chunk in self.design.chunks():
            out = out + sum(in_threads(look_at, chunk.parts(n_workers(), n_models * n_logits)))
        out = out.view(n_models, n_logits, d) + self.penalty.l2.mT
        return out.reshape(n_models, n_logits * d, 1, 1)

    def reweighted(self, columns):
        """The same losses and penalty with other weights, already divided by S."""
        return Objective(self.design.reweighted(columns), self.loss, self.penalty, self.passes)

    def centred(self, direction):
        """`direction` without its part along which the softmax is flat (see `_pin`)."""
        if direction.shape[2] == 1:
            return direction
        flat = self.penalty.is_free
        if self.penalty.lower is not None and self.penalty.upper is not None:  # a step along it would leave the bounds
            flat = flat & (self.penalty.lower == -math.inf) & (self.penalty.upper == math.inf)
        return direction - flat * direction.mean(dim=2, keepdim=True)

    def blocks(self):
        self.passes.n_visited += self.design.shape[0]
        return self.design.blocks()

    def value_and_gradient(self, W: torch.Tensor, group: torch.Tensor | None = None, *, with_hessian=False) -> Point:
        """The point at W in one pass, or at W[group] if models share coefficients, group (B,).

        With the Hessian of the losses if asked for; `second_order` completes it.
        """
        self.passes.n_visited += self.design.shape[0]
        logits, n_models = self._room_for_logits(W) if group is None else None, len(W) if group is None else len(group)

        def look_at(part):
            rows, start = part
            kernel = None if with_hessian or group is not None else self.loss.one_logit_kernel
            if kernel is not None and kernels.takes_one_logit_kernel(rows, W):
                eta = None if logits is None else logits[0, 0, start : start + rows.shape[0]].numpy()
                value, gradient = kernels.one_logit_pass(rows, W, kernel, eta)
                return gradient.new_tensor([value]), gradient, 0.0
            dtype = widest_dtype(rows.compute.device)  # of the blocks, which `exact` moves
            value: Any = None
            hessian: Any = None if with_hessian else 0.0

            def visit(block, eta, models):
                nonlocal start, value, hessian
                block = block if models is EVERY_MODEL else block.select(models)
                losses, residual = self.loss.value_and_residual(eta, block.y)
                if group is not None:
                    own = group[models]
                    losses, residual = losses.T[own].T, residual.permute(1, 2, 0)[own].permute(2, 0, 1)
                weight = block.weight
                value = added_to_models(value, models, (weight * losses).sum(dim=0, dtype=dtype), n_models)
                if with_hessian:
                    hessian = added_to_models(hessian, models, self._data_hessian(block, eta), n_models)
                if logits is not None:
                    logits[models, :, start : start + len(eta)] = eta.permute(1, 2, 0)
                    start += len(eta)
                return residual.mul_(weight[..., None])

            gradient = kernels.sweep(rows, W, visit, group)
            return rows.to_accumulation(value), gradient, hessian

        n_columns = n_models * W.shape[2]
        n_hessian = len(W) * (W.shape[1] * W.shape[2]) ** 2 if with_hessian else 0
        total: Any = None
        for chunk in self.design.chunks():
            # Every part makes Hessians of its own; where those are large, sums over one part have threads instead.
            together = n_workers() * n_hessian > tuning.PARTIAL_HESSIANS_SHARE * chunk.n_numbers
            parts = chunk.parts(1 if together else n_workers(), n_columns)
            starts = accumulate((part.shape[0] for part in parts), initial=0)
            pairs = [*zip(parts, starts, strict=False)]
            sums = [look_at(pairs[0])] if len(pairs) == 1 else in_threads(look_at, pairs)
            total = reduce(_added, sums if total is None else [total, *sums])
        value, gradient, hessian = total
        gradient = self._centred_sums(gradient, 2)
        W = W if group is None else W[group]
        point = self.point(W, value, gradient, logits)
        return point._replace(hessian=hessian) if with_hessian else point

    def point(self, W: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor, eta: Any = None) -> Point:
        """The point at W from the losses' value (B,) and gradient (B, d, K) there."""
        value, gradient = self.penalty.value(W) + value, self.penalty.gradient(W) + gradient
        if self.penalty.is_smooth:
            return Point(W, value, gradient, eta)
        return Point(W, value, self.penalty.least_subgradient(W, gradient), eta, smooth_gradient=gradient)

    def _room_for_logits(self, W):
        n_models, _, n_logits = W.shape
        n, dtype = self.design.shape[0], self.design.compute.dtype
        n_bytes = dtype.itemsize * n_models * n_logits * n
        if not self.design.in_memory or n_bytes > max(
            tuning.SMALL_LOGITS_BYTES, tuning.LOGITS_BYTES_SHARE * self.design.n_bytes
        ):
            return None
        new = (
            torch.empty if self.design.weight_index is None else torch.zeros
        )  # a model that holds out a block leaves it as it is
        return new(n_models, n_logits, n, dtype=dtype, device=self.design.compute.device)

    def _pin(self, hessian, diagonal):
        """Lift the directions in which the softmax is flat, in place: hessian (B, K d, K d), diagonal (B, K, d).

        Adding a constant to the same row of all K logits changes no probability, so where that row has no penalty
        the Hessian is singular. The gradient has no part in those directions; any positive curvature there gives
        the same Newton step.
        """
        n_models, n_logits, d = diagonal.shape
        lift = torch.diag_embed(diagonal.mean(dim=1) * self.penalty.is_free[..., 0])  # (B, d, d)
        hessian.view(n_models, n_logits, d, n_logits, d).add_(lift[:, None, :, None, :])
