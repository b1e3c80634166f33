"""The objective of one model over few rows, in NumPy: for data so small that a torch call costs more than its work."""

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy.linalg.lapack import dpotrs  # pyright: ignore[reportAttributeAccessIssue]

from torchlogreg._objective.objective import Objective, OutOfRange, Point
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Reading

EPSILON, SMALLEST_FLOAT = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
NONE = np.empty(0, dtype=np.intp)


def is_at_hand(objective, W):
    """Whether `objective` is one model's, in memory on the host."""
    return objective.design.at_hand and objective.design.device.type == "cpu" and len(W) == 1


class Evaluation(NamedTuple):
    """The objective at W, in NumPy."""

    W: np.ndarray  # (d, K)
    value: float
    gradient: np.ndarray  # (d, K)
    eta: np.ndarray  # (n, K)
    hessian: np.ndarray | None = None  # (K d, K d), classes outermost

    @property
    def point(self) -> Point:
        """The same as tensors (1, ...), without the Hessian."""
        W, value, gradient, eta = (np.asarray(array)[None] for array in (self.W, self.value, self.gradient, self.eta.T))
        return Point(*map(torch.from_numpy, (W, value, gradient, eta)))

    def reading(self, gap: float = np.inf, *, blind: bool = False) -> Reading:
        """What the driver has to know of it."""
        norm = float(np.abs(self.gradient).max())
        return Reading([float(self.value)], [norm], [float(gap)], [False], [blind])


class SmallObjective:
    """The objective as a function of W (d, K), over arrays that are laid out once."""

    def __init__(self, objective):
        self.loss, self.passes, self.n_features = objective.loss, objective.passes, objective.design.n_features
        rows = objective.exact().design.whole
        self.columns = np.ascontiguousarray(rows.X.numpy().T)  # (d, n)
        self.X = np.ascontiguousarray(self.columns.T)  # (n, d)
        self.y, self.weight = rows.y.numpy(), rows.weight.numpy()  # (n,), (n, 1)
        self.l2 = objective.penalty.l2[0].numpy()  # (d, 1)
        self.ridge = np.tile(self.l2[:, 0], self.loss.n_logits)
        self.lift = objective.penalty.lift
        self.free = np.flatnonzero(objective.penalty.is_free[0]) if self.loss.n_logits > 1 else []

    def first_order(self, W: np.ndarray) -> Evaluation:
        """Value and gradient; one pass."""
        return self._evaluation(W, NONE, NONE)[0]

    @np.errstate(over="ignore", invalid="ignore")  # `Factor.of` reports what overflows
    def second_order(self, W: np.ndarray) -> Evaluation:
        """The same with the Hessian; one pass."""
        X, n_logits, d = self.X, W.shape[1], len(W)
        k, l, entries = _layout(n_logits, d)
        evaluation, curvature = self._evaluation(W, k, l)
        weighted = (self.weight * curvature)[:, :, None] * X[:, None, :]  # (n, M, d)
        grams = (X.T @ weighted.reshape(len(X), -1)).reshape(d, -1, d).transpose(1, 0, 2)
        hessian = grams.ravel()[entries]
        diagonal = hessian.ravel()[:: n_logits * d + 1]
        blocks = hessian.reshape(n_logits, d, n_logits, d)
        for j in self.free:  # the directions in which the softmax is flat; see Objective._pin
            blocks[:, j, :, j] += diagonal[j::d].sum() / n_logits
        diagonal += self.ridge
        return evaluation._replace(hessian=hessian)

    @np.errstate(over="ignore", invalid="ignore")  # who asks for it reports what overflows
    def hessian_on(self, eta: np.ndarray, index: np.ndarray) -> np.ndarray:
        """The rows and columns at an index (a,), sorted, of the Hessian where the rows have logits eta (n, K)."""
        d, n_logits = self.X.shape[1], eta.shape[1]
        out = np.empty((len(index), len(index)))
        ends = np.searchsorted(index, d * np.arange(n_logits + 1))
        columns = [index[a:b] % d for a, b in pairwise(ends)]
        k, l = _pairs(n_logits)
        curvature = self.weight * self.loss.small(eta, self.y, k, l)[2]  # (n, M)
        features = [self.X if len(own) == d else self.X[:, own] for own in columns]
        for m, (i, j) in enumerate(zip(k, l, strict=True)):
            if i == j:  # a product with itself takes half of the time
                root = np.sqrt(curvature[:, m, None]) * features[i]
                block = root.T @ root
            else:
                block = features[i].T @ (curvature[:, m, None] * features[j])
            out[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = block
            out[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = block.T
        for feature in self.free:  # see `second_order`
            own = np.flatnonzero(index % d == feature)
            if len(own):
                out[np.ix_(own, own)] += self.lift * out[own, own].mean()
        out.ravel()[:: len(index) + 1] += self.ridge[index]
        return out

    def root_on(self, eta: np.ndarray, index: np.ndarray) -> np.ndarray:
        """A root (a, n) of the Hessian of the losses on the coefficients at an index, of one logit."""
        curvature = self.weight * self.loss.small(eta, self.y, NONE, NONE)[2]  # (n, 1)
        return self.columns[index] * np.sqrt(curvature[:, 0])

    @np.errstate(over="ignore", invalid="ignore")  # the driver reports what overflows
    def _evaluation(self, W, k, l):
        """Value and gradient, and the second derivatives of the losses by logits k[m], l[m] (n, M)."""
        self.passes.n_visited += len(self.X)
        eta = self.X @ W
        losses, residual, curvature = self.loss.small(eta, self.y, k, l)  # (n,), (n, K), (n, M)
        shrunk = self.l2 * W
        value = losses @ self.weight[:, 0] + 0.5 * np.vdot(shrunk, W)
        return Evaluation(W, value, self.X.T @ (self.weight * residual) + shrunk, eta), curvature


def is_accepted(at: Evaluation, trial: Evaluation, change: float, preconditioner: Any) -> bool:
    """Whether a step is good enough that promised to change the value by `change`; see `line_search_step`."""
    if abs(trial.value - at.value) <= tuning.EQUAL_VALUE_ROUNDINGS * EPSILON * max(at.value, 1.0):
        before, after = (np.vdot(g, preconditioner.solve(g)) for g in (at.gradient, trial.gradient))
        return bool(after < before)
    return bool(trial.value <= at.value + tuning.ARMIJO * change)


@lru_cache(maxsize=4)
def _pairs(n_logits):
    """The pairs of classes k <= l."""
    return np.triu_indices(n_logits)


@lru_cache(maxsize=4)
def _layout(n_logits, d):
    """The pairs of classes k <= l, and where each entry of the Hessian lies in their Gram matrices."""
    k, l = _pairs(n_logits)
    pair = np.empty((n_logits, n_logits), dtype=np.intp)
    pair[k, l] = pair[l, k] = np.arange(len(k))
    inner = np.arange(d * d).reshape(d, d)
    entries = pair[:, None, :, None] * (d * d) + inner[None, :, None, :]
    return k, l, entries.reshape(n_logits * d, n_logits * d)


class Factor(NamedTuple):
    """See `CholeskyPreconditioner`."""

    scale: np.ndarray  # (K d,)
    factor: np.ndarray  # (K d, K d)
    shift: float

    @classmethod
    def of(cls, hessian: np.ndarray) -> Self:
        """The factor of a Hessian."""
        scale, factor, shift = factored(hessian[None])
        return cls(scale[0], factor[0], shift)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """The inverse times gradient (d, K)."""
        solution, _ = dpotrs(self.factor.T, self.scale * gradient.T.ravel(), lower=0)  # as LAPACK counts rows
        return (self.scale * solution).reshape(gradient.T.shape).T

    def is_raised(self, l2: np.ndarray) -> bool:
        """Whether the diagonal was raised by more than a trifle beside the penalty of the features."""
        return bool(self.shift > tuning.NEGLIGIBLE_RAISE * l2.min() * self.scale.min() ** 2)


@np.errstate(over="ignore", invalid="ignore")
def factored(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Scales (L, m), lower factors (L, m, m) and shift of symmetric matrices; see `CholeskyPreconditioner.of`."""
    m = matrices.shape[-1]
    diagonal = matrices.diagonal(axis1=1, axis2=2)
    if not np.isfinite(diagonal).all():
        raise OutOfRange("overflow")
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    correlation = matrices * scale[:, :, None] * scale[:, None, :]
    shift = 16 * m * EPSILON
    while shift <= 1:
        raised = correlation.copy()
        raised.reshape(len(raised), -1)[:, :: m + 1] += shift
        try:
            return scale, np.linalg.cholesky(raised), shift
        except np.linalg.LinAlgError:
            shift *= 10
    return scale, np.broadcast_to(np.eye(m), matrices.shape), 1.0  # rounding left nothing but the scale


def hidden(objective: Objective, factor: Factor, x: np.ndarray, value: float) -> float:
    """`preconditioners.base.hidden` where x is the inverse of the factored matrix times the gradient."""
    p = objective.design.n_features
    l2 = objective.penalty.l2[0, :p].numpy()
    if not factor.is_raised(l2):
        return 0.0
    r = (factor.shift * x.T.ravel() / factor.scale**2).reshape(x.T.shape).T
    if (l2 > 0).all():
        spread = (r[:p] ** 2 / l2).sum()
    else:
        rounding = len(factor.scale) * (tuning.GRADIENT_ROUNDINGS * EPSILON) ** 2 / factor.shift
        spread = 0.0 if np.vdot(r, factor.solve(r)) <= rounding else np.inf
    return float(0.5 * (abs(np.vdot(x, r)) + spread) / max(value, SMALLEST_FLOAT))
