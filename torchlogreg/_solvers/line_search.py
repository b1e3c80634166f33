"""What the second-order solvers share: a Cholesky metric and the test that accepts a step."""

import math
from typing import NamedTuple

import torch

from torchlogreg._objective.objective import Point, in_range
from torchlogreg._runtime.linalg import root_cholesky, scaled_cholesky

ARMIJO = 1e-4  # fraction of the predicted decrease that a step must achieve
MOST_HALVINGS = 150  # of one step: by twice as many, no finite direction is left long
# Rounding errors by which values may differ and still count as equal, in float64 and with products in float32.
LEVEL, LEVEL_OF_PRODUCTS = 64, 4
# Gap above which it does not matter yet what the raised diagonal of a factor hides, and what it may hide in any case.
SURE, NEGLIGIBLE = 1e-2, 1e-8
NOTHING = 0.01  # share of the penalty that may be added to a diagonal without a word
NOISE = 64  # rounding errors in an entry of the gradient, against the root of the Hessian's


class CholeskyPreconditioner(NamedTuple):
    """Block-diagonal positive-definite approximation of the Hessian, factored: M blocks of size m, M m = K d."""

    scale: torch.Tensor  # (B, M, m)
    factor: torch.Tensor  # (B, M, m, m)
    shift: torch.Tensor  # (B, M, 1) what was added to the unit diagonal before factoring

    @classmethod
    def of(cls, hessian):
        """Factor `hessian` (B, M, m, m)."""
        in_range(hessian.diagonal(dim1=2, dim2=3))
        return cls(*scaled_cholesky(hessian))

    def with_roots(self, roots, index):
        """These metrics, those of the models at `index` from triangular roots (K d, K d) of the Hessian; M = 1."""
        out = CholeskyPreconditioner(*(t.clone() for t in self))
        for b, root in zip(index.tolist(), roots, strict=True):
            for old, new in zip(out, root_cholesky(root), strict=True):
                old[b, 0] = new
        return out

    def select(self, index):
        """The metrics of the models at `index` alone."""
        return CholeskyPreconditioner(self.scale[index], self.factor[index], self.shift[index])

    def raised(self, x, of=None):
        """E x (B, d, K) for what was added, M = H + E, and the x' E M^-1 E x that rounding of gradients makes, (B,)."""
        n_models, d, n_logits = x.shape
        scale, shift = (self.scale, self.shift) if of is None else (self.scale[of], self.shift[of])
        product = (x.mT.reshape(scale.shape) * shift / scale.square()).reshape(n_models, n_logits, d).mT
        noise = (NOISE * torch.finfo(scale.dtype).eps) ** 2 / shift.clamp(min=torch.finfo(scale.dtype).tiny)
        return product, (scale.shape[2] * noise).sum(dim=(1, 2))

    def most_raised(self, of=None):
        """The most that was added to a diagonal entry of the Hessian, (B,)."""
        most = (self.shift / self.scale.square()).amax(dim=(1, 2))
        return most if of is None else most[of]

    def solve(self, gradient, of=None):
        """The metrics' inverses times gradient (B, d, K), that of model of[b], or b, for each b."""
        n_models, d, n_logits = gradient.shape
        scale = self.scale if of is None else self.scale[of]
        flat = gradient.mT.reshape(scale.shape) * scale  # (B, M, m)
        if of is None:
            flat = torch.cholesky_solve(flat[..., None], self.factor)[..., 0]
        else:
            for g in of.unique():
                mine = of == g
                flat[mine] = torch.cholesky_solve(flat[mine].permute(1, 2, 0), self.factor[g]).permute(2, 0, 1)
        return (flat * scale).reshape(n_models, n_logits, d).mT


def dot(a, b):
    """Inner products of B pairs of coefficients, (B,)."""
    return (a * b).sum(dim=(1, 2))


def per_model(t):
    """(B,) as a factor of (B, d, K)."""
    return t[:, None, None]


class DescentState(NamedTuple):
    """Where a descent stands, and the step it will try."""

    point: Point
    preconditioner: CholeskyPreconditioner
    direction: torch.Tensor  # (B, d, K)
    stuck: torch.Tensor | None = None  # see `Step`
    n_backtracks: torch.Tensor | None = None  # (B,) how often the step is halved
    hidden: torch.Tensor | None = None  # (B,) see the function of that name

    @property
    def slope(self):
        """Derivative of the objective along the direction, (B,)."""
        return dot(self.point.gradient, self.direction)

    @property
    def gap(self):
        """Estimate of (value - optimum) / optimum, (B,): half the squared Newton decrement against the value."""
        return -0.5 * self.slope / self.point.value.clamp(min=torch.finfo(self.point.value.dtype).tiny)


def is_blind(gap, hides):
    """Whether a metric hides more of the gap than it sees, at a point where that matters; arrays or numbers."""
    return (gap <= SURE) & (hides > gap) & (hides > NEGLIGIBLE)


def hidden(objective, preconditioner, point):
    """What raised diagonals of the metric may hide of the relative gap, (B,); infinite where nothing bounds it.

    With metric M = H + E and x = M^-1 g, half of g' H^-1 g is at most (g' x + x' r + r' H^-1 r) / 2, where r = E x is
    the part of the gradient that M takes for curved and H need not. H is at least the penalty. Without one, an r that
    rounding explains means nothing, and any other may hide everything. The intercept's part of r is left out: where
    it is raised at all, the coefficients that can make up for an intercept have theirs.
    """
    p = objective.design.n_features
    l2 = objective.penalty.l2[:, :p].expand(len(point.W), -1, -1)
    if bool((preconditioner.most_raised() <= NOTHING * l2.amin(dim=(1, 2))).all()):
        return torch.zeros_like(point.value)
    x = preconditioner.solve(point.gradient)
    r, rounding = preconditioner.raised(x)
    weak = torch.where(dot(r, preconditioner.solve(r)) <= rounding, 0.0, math.inf)
    spread = torch.where((l2 > 0).all(dim=(1, 2)), (r[:, :p].square() / l2).sum(dim=(1, 2)), weak)
    return 0.5 * (dot(x, r) + spread) / point.value.clamp(min=torch.finfo(point.value.dtype).tiny)


class LineSearchResult(NamedTuple):
    """What became of a trial step."""

    accepted: torch.Tensor  # (B,)
    exhausted: torch.Tensor  # (B,) whether going on is useless at this precision
    n_backtracks: torch.Tensor  # (B,) how often each model has to halve its next step


def line_search_step(evaluate, objective, stand, n_backtracks):
    """Try the step 0.5^refusals, for each of B models.

    `evaluate` reads X once for the trial point. Returns that point and the verdict.

    A step is accepted by Armijo's sufficient decrease; but where the values differ by no more than rounding can
    explain, they say nothing, and the gradient must have become smaller in the metric instead (after the approximate
    test of Hager and Zhang 2005, doi:10.1137/030601880). Products in float32 are given up at that point, for float64
    will take over. A refused step is halved until the logits of the two points, along which they are linear, promise
    the decrease: that takes no read of X.
    """
    point, preconditioner, direction, *_ = stand
    step = 0.5**n_backtracks
    change = step * stand.slope
    trial = evaluate(point.W + per_model(step) * direction)
    rounding = torch.finfo(objective.design.compute.dtype).eps
    noise = LEVEL * rounding * point.value.clamp(min=1.0)
    if not objective.design.is_exact:
        # The sum over the rows, in float64, averages the errors, which are small where rows are predicted well: on
        # MNIST at most two units in the last place of values from 2 down to 0.005.
        noise = rounding * torch.minimum(LEVEL_OF_PRODUCTS * point.value, point.value.clamp(min=1.0))
    accepted = trial.value <= point.value + ARMIJO * change
    level = (trial.value - point.value).abs() <= noise
    exhausted = torch.zeros_like(accepted)
    if level.any():
        smaller = dot(trial.gradient, preconditioner.solve(trial.gradient)) < dot(
            point.gradient, preconditioner.solve(point.gradient)
        )
        accepted = torch.where(level, smaller, accepted)
        exhausted = level & (not objective.design.is_exact)
    if accepted.all():
        return trial, LineSearchResult(accepted, exhausted, torch.zeros_like(n_backtracks))
    exhausted = exhausted | (~accepted & is_stalled(n_backtracks, change, rounding))
    halved = n_backtracks + _halvings(objective, point, trial, accepted | level, change, n_backtracks)
    return trial, LineSearchResult(accepted, exhausted, torch.where(accepted, 0.0, halved))


def _halvings(objective, point, trial, settled, change, n_backtracks):
    """How often to halve each step that was refused: at least once, and until the logits promise enough decrease."""
    count = torch.ones_like(change)
    if trial.eta is None or point.eta is None:
        return torch.maximum(count, n_backtracks)  # each a pass over X, so a step far too long is soon out of the way
    if settled.any():  # look at the others only
        index = torch.nonzero(~settled).flatten()
        if len(index):
            some = select(index, objective, point, trial, settled, change, n_backtracks)
            count[index] = _halvings(*some)
        return count
    while True:
        t = 0.5**count
        enough = objective.between(point, trial, t) <= point.value + ARMIJO * t * change
        enough |= (count >= MOST_HALVINGS) | ~torch.isfinite(trial.value)
        if enough.all():
            return count
        count = torch.where(enough, count, count + 1)


def is_stalled(n_backtracks, change, rounding):
    """Whether halving the step again is no help, given the change that the last one promised; arrays or numbers."""
    return (n_backtracks > 2 * MOST_HALVINGS) | ((n_backtracks > 4) & (-change < rounding))


def select(index, *things):
    """Each of `things` for the models at `index`: tensors (B, ...), tuples of them, None, or what knows itself."""
    return tuple(_select(index, thing) for thing in things)


def _select(index, thing):
    if thing is None:
        return None
    if isinstance(thing, torch.Tensor):
        return thing[index]
    if hasattr(thing, "select"):
        return thing.select(index)
    return type(thing)(*select(index, *thing))


def keep(accepted, new, old):
    """`new` for the models that accepted it, `old` for the others; works on tensors (B, ...) and tuples of them."""
    if accepted.all():
        return new
    if new is None or old is None:
        return None
    if isinstance(new, tuple):
        return type(new)(*(keep(accepted, n, o) for n, o in zip(new, old, strict=True)))
    return torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)
