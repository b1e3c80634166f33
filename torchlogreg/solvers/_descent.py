"""What the second-order solvers share: a Cholesky metric and the test that accepts a step."""

from typing import NamedTuple

import torch

ARMIJO = 1e-4  # fraction of the predicted decrease that a step must achieve
LEVEL = 64  # rounding errors by which values may differ and still count as equal
OVERFLOW = "Second moments of X overflow in float64. Standardise X (sklearn.preprocessing.StandardScaler)."


class Metric(NamedTuple):
    """Block-diagonal positive-definite approximation of the Hessian, factored: M blocks of size m, M m = K d."""

    scale: torch.Tensor  # (B, M, m)
    factor: torch.Tensor  # (B, M, m, m)

    @classmethod
    def of(cls, hessian):
        """Factor `hessian` (B, M, m, m) after scaling it to a unit diagonal.

        The scaling makes the factor indifferent to the units of the features. The diagonal is then raised by a few
        rounding errors, which leaves the step unchanged where the Hessian is regular and keeps it short where columns
        are collinear, and by powers of ten more where Cholesky still fails.
        """
        m = hessian.shape[-1]
        diagonal = hessian.diagonal(dim1=2, dim2=3)
        if not torch.isfinite(diagonal).all():
            raise ValueError(OVERFLOW)
        scale = torch.where(diagonal > 0, diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny).rsqrt(), 1.0)
        correlation = hessian * scale[..., None] * scale[..., None, :]
        shift = torch.full_like(diagonal[..., :1], 16 * m * torch.finfo(diagonal.dtype).eps)
        while True:
            raised = correlation + torch.diag_embed(shift.expand_as(diagonal))
            factor, info = torch.linalg.cholesky_ex(raised)
            if not info.any():
                return cls(scale, factor)
            if shift.max() > 1:
                return cls(scale, torch.diag_embed(torch.ones_like(diagonal)))  # rounding left nothing but the scale
            shift = torch.where(info[..., None] > 0, 10 * shift, shift)

    @property
    def is_whole(self):
        """Whether this is the whole Hessian, in one block."""
        return self.scale.shape[1] == 1

    def solve(self, gradient):
        """The metric's inverse times gradient (B, d, K)."""
        n_models, d, n_logits = gradient.shape
        flat = gradient.mT.reshape(self.scale.shape) * self.scale  # (B, M, m)
        flat = torch.cholesky_solve(flat[..., None], self.factor)[..., 0] * self.scale
        return flat.reshape(n_models, n_logits, d).mT


def dot(a, b):
    """Inner products of B pairs of coefficients, (B,)."""
    return (a * b).sum(dim=(1, 2))


def per_model(t):
    """(B,) as a factor of (B, d, K)."""
    return t[:, None, None]


class Verdict(NamedTuple):
    """What became of a trial step."""

    accepted: torch.Tensor  # (B,)
    exhausted: bool  # whether going on is useless at this precision


def judge(point, trial, slope, step, refusals, metric, rows):
    """Which of B models may move from `point` to `trial`, `step` along a direction of derivative `slope`.

    `refusals` counts the trials that each model refused since it last moved.

    Armijo's sufficient decrease; but where the values differ by no more than rounding can explain, they say nothing,
    and the gradient must have become smaller in the metric instead (after the approximate test of Hager and Zhang
    2005, doi:10.1137/030601880). Products in float32 are given up at that point, for float64 will take over.
    """
    rounding = torch.finfo(rows.products.dtype).eps
    accepted = trial.value <= point.value + ARMIJO * step * slope
    level = (trial.value - point.value).abs() <= LEVEL * rounding * point.value.clamp(min=1.0)
    if level.any():
        smaller = dot(trial.gradient, metric.solve(trial.gradient)) < dot(point.gradient, metric.solve(point.gradient))
        accepted = torch.where(level, smaller, accepted)
        if not rows.is_exact:
            return Verdict(accepted, exhausted=True)
    return Verdict(accepted, bool((~accepted & hopeless(refusals, step * slope, rounding)).any()))


def hopeless(refusals, change, rounding):
    """Whether halving the step again is no help, given the change that the last one promised; arrays or numbers."""
    return (refusals > 40) | ((refusals > 4) & (-change < rounding))


def keep(accepted, new, old):
    """`new` for the models that accepted it, `old` for the others; works on tensors (B, ...) and tuples of them."""
    if accepted.all():
        return new
    if isinstance(new, tuple):
        return type(new)(*(keep(accepted, n, o) for n, o in zip(new, old, strict=True)))
    return torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)


def relative_gap(decrement, value):
    """Half the squared Newton decrement, against the objective."""
    return 0.5 * decrement / value.clamp(min=torch.finfo(value.dtype).tiny)
