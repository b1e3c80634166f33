"""The objective, stated once.

    F(W) = ( sum_i s_i loss(y_i, x_i W) + penalty(W) ) / S        S = sum_i s_i

W (B, d, K) holds B models over the same rows, K logits each, the intercept as last of the d = p + 1 rows (d = p
without). Labels y (n,), weights s (n, B) or (n, 1), logits (n, B, K); values and gaps are (B,). scikit-learn's
objective is C S F, with penalty = ||W||^2 / (2 C), so the minimisers agree. Weights and S belong here and nowhere
else: rows reach the solvers with s_i / S as their weight, penalties with strength / S. What the rows add up to, in
however many processes they are, is `Design.total`.
"""

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch

from torchlogreg._data.device import widest_dtype
from torchlogreg._objective import row_sums, tuning


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
    design = design if bool((largest == 1.0).all()) else design.divided(largest)
    total = design.total_weight()
    return design.divided(total), (design.to_accumulation(largest), design.to_accumulation(total))


def _hessian_shape(W):
    """The shape of the Hessians at W (B, d, K)."""
    n_unknowns = W.shape[1] * W.shape[2]
    return len(W), n_unknowns, n_unknowns


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

    def as_sample(self, *, spread):
        """The same objective as `sampled` returns it of some rows."""
        design = self.design.as_sample(spread=spread)
        return self if design is self.design else Objective(design, self.loss, self.penalty, self.passes)

    def between(self, start, end, t):
        """The objective at start + t (end - start), t (B,), from the logits of the two points: no pass over X."""
        W = start.W + t[:, None, None] * (end.W - start.W)
        (losses,) = self.design.total(row_sums.losses_between, self.loss, start.eta, end.eta, t, shapes=[t.shape])
        return self.penalty.value(W) + losses

    def second_order(self, W):
        """Value, gradient and Hessian at W, in one pass."""
        point = self.value_and_gradient(W, with_hessian=True)
        return point._replace(hessian=self._completed(point.hessian, W.shape[2]))

    def hessian(self, W):
        """The Hessian (B, 1, K d, K d) alone, over rows in one block; one pass."""
        self.passes.n_visited += self.design.shape[0]
        (hessian,) = self.design.total(row_sums.hessian_at, self.loss, W, shapes=[_hessian_shape(W)])
        return self._completed(hessian, W.shape[2])

    def hessian_at(self, eta):
        """The Hessian (B, 1, K d, K d) where the rows, in one block of this process, have the logits eta (n, B, K)."""
        return self._completed(row_sums.data_hessian(self.design, self.loss, eta), eta.shape[2])

    def root(self, W):
        """A triangular R (K d, K d) with R' R the Hessian of one model at W (1, d, K), classes outermost; one pass.

        It has twice as many digits of the Hessian as sums of products have.
        """
        self.passes.n_visited += self.design.shape[0]
        n_logits, l2 = W.shape[2], self.penalty.l2[0, :, 0]
        R = torch.cat([torch.diag(l2.repeat(n_logits).sqrt()), *self.design.each(row_sums.root_at, self.loss, W)])
        R = torch.linalg.qr(R, mode="r").R
        if n_logits > 1:  # see `_pin`
            lift = R.square().sum(dim=0).view(n_logits, -1).mean(dim=0).sqrt() * self.penalty.is_free[0, :, 0]
            R = torch.linalg.qr(torch.cat([R, torch.diag(lift).repeat(1, n_logits)]), mode="r").R
        return R

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
        """The Hessian (B, 1, K d, K d) with what the penalty adds to that of the losses."""
        if n_logits > 1:
            by_logit = hessian.view(len(hessian), n_logits, hessian.shape[1] // n_logits, n_logits, -1)
            hessian = self._centred_sums(self._centred_sums(by_logit, 1), 3).reshape(hessian.shape)
        diagonal = hessian.diagonal(dim1=1, dim2=2).unflatten(1, (n_logits, -1))
        if n_logits > 1:
            self._pin(hessian, diagonal)
        diagonal += self.penalty.l2.mT
        return hessian[:, None]

    def diagonal(self, W):
        """The Hessian's diagonal at W in one pass, (B, K d, 1, 1)."""
        out = self.diagonal_of_losses(W) + self.penalty.l2.mT
        return out.reshape(len(W), -1, 1, 1)

    def diagonal_of_losses(self, W):
        """The same without the penalty, (B, K, d)."""
        n_models, d, n_logits = W.shape
        self.passes.n_visited += self.design.shape[0]
        (out,) = self.design.total(row_sums.diagonal_at, self.loss, W, shapes=[(n_models * n_logits, d)])
        return out.view(n_models, n_logits, d)

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
        keeps = group is None and self._has_room_for_logits(W)
        n_models = len(W) if group is None else len(group)
        shapes = [(n_models,), (n_models, *W.shape[1:]), *([_hessian_shape(W)] if with_hessian else [])]
        value, gradient, *more = self.design.total(
            row_sums.sums_at, self.loss, W, group, with_hessian, keeps, shapes=shapes, n_kept=int(keeps)
        )
        eta = more.pop() if keeps else None
        point = self.point(W if group is None else W[group], value, self._centred_sums(gradient, 2), eta)
        return point._replace(hessian=more[0]) if with_hessian else point

    def point(self, W: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor, eta: Any = None) -> Point:
        """The point at W from the losses' value (B,) and gradient (B, d, K) there."""
        value, gradient = self.penalty.value(W) + value, self.penalty.gradient(W) + gradient
        if self.penalty.is_smooth:
            return Point(W, value, gradient, eta)
        return Point(W, value, self.penalty.least_subgradient(W, gradient), eta, smooth_gradient=gradient)

    def _has_room_for_logits(self, W):
        n_models, _, n_logits = W.shape
        n_bytes = self.design.compute.dtype.itemsize * n_models * n_logits * self.design.shape[0]
        most = max(tuning.SMALL_LOGITS_BYTES, tuning.LOGITS_BYTES_SHARE * self.design.n_bytes)
        return self.design.in_memory and n_bytes <= most

    def _pin(self, hessian, diagonal):
        """Lift the directions in which the softmax is flat, in place: hessian (B, K d, K d), diagonal (B, K, d).

        Adding a constant to the same row of all K logits changes no probability, so where that row has no penalty
        the Hessian is singular. The gradient has no part in those directions; any positive curvature there gives
        the same Newton step.
        """
        n_models, n_logits, d = diagonal.shape
        lift = torch.diag_embed(diagonal.mean(dim=1) * self.penalty.is_free[..., 0])  # (B, d, d)
        hessian.view(n_models, n_logits, d, n_logits, d).add_(lift[:, None, :, None, :])
