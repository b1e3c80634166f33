"""L-BFGS that starts from, and is preconditioned by, Newton's method on some of the rows."""

import math
from dataclasses import dataclass

import torch

from torchlogreg._minimise import Optimality, Step
from torchlogreg.solvers import _costs
from torchlogreg.solvers._base import Solver
from torchlogreg.solvers._descent import Metric, Stand, attempt, dot, keep, per_model
from torchlogreg.solvers._hybrid import Hybrids, hybrids, leading
from torchlogreg.solvers._pairs import Pairs
from torchlogreg.solvers._sample import draw, newton_on_samples

LARGEST_METRIC = 2**24  # numbers in the preconditioner
DEAREST_METRIC = 20  # reads of X that it may cost at the start
SMALL_MEMORY = 2**25  # bytes
SOON, LATE = 3, 10  # iteration of the first renewal, from few rows or from most; the next ones come at twice the last
DOUBTFUL = 0.3  # relative decrease that no sound estimate promises at a point near the optimum
GOAL = 1e-8  # relative gap that the Hessian of all rows is to reach sooner than the present metric
WINDOW = 2  # iterations over which the pace is measured
PATIENCE = 0.25  # reads since the last renewal, against the Hessian's cost, before it is thought of
LITTLE = 2.0  # fall of the gap's logarithm in a step of Newton's that is not converging quadratically
MOST_READS = 60  # beyond which an estimate of the reads to come is not believed


@dataclass(frozen=True)
class LBFGS(Solver):
    """Limited-memory BFGS; Nocedal and Wright (2006), Numerical Optimization, algorithm 7.5.

    The initial matrix of the two-loop recursion is gamma P, with P the inverse of an estimate of the Hessian. Where
    the number of unknowns allows, Newton's method on a random sample of rows gives P and the start (as in AdaQN, Jin
    and Mokhtari 2021, arXiv:2106.05445); should the first read of all rows contradict the sample, the fit begins again
    where it was told to. Otherwise P holds the Hessian's class blocks, or its diagonal, and is renewed at iterations
    10, 20, 40, ... Wherever the present rate of convergence makes the Hessian of all rows pay, it replaces P and
    the pairs, so that a slow fit turns into Newton's.
    """

    memory: int = 100
    seed: int = 0

    name = "lbfgs"

    def stopping(self, tol):
        return Optimality(tol, gap=tol**1.5)  # the metric is an approximation, its decrement optimistic

    def iterates(self, problem, W):
        generator = torch.Generator("cpu").manual_seed(self.seed)
        point, metric, renewal = _start(problem, W, generator)
        pairs = Pairs(*W.flatten(1).shape, _affordable(self.memory, problem, W), problem.rows.home)
        gamma = torch.ones_like(point.value)
        refusals = torch.zeros_like(point.value)
        pace = _Pace(problem, W)
        iteration, restarted = 0, False
        while True:
            # 1. direction H g, with H by the two-loop recursion
            direction = -problem.centred(pairs.solve(point.gradient, gamma, metric))
            stand = Stand(point, metric, direction)
            yield Step(point, stand.gap)
            # 2. trial point; a model that refuses it keeps its place and tries a shorter step next
            evaluate = problem.second_order if pace.hessian_pays(stand.gap) else problem.smooth
            trial, verdict = attempt(evaluate, problem, stand, refusals)
            if verdict.exhausted and (restarted or not problem.rows.is_exact):
                return
            accepted, refusals = verdict.accepted, verdict.refusals
            # 3. new pair, of weight zero for models that did not move
            s, y = trial.W - point.W, trial.gradient - point.gradient
            curvature = dot(s, y)
            usable = accepted & (curvature > 1e-14 * dot(s, s).sqrt() * dot(y, y).sqrt())
            if accepted.any():
                pairs.append(s, y, usable)
            point = keep(accepted, trial, point)
            # 4. renewed metric; where no step helps, at once and without the pairs, which may be what misleads
            iteration += 1
            restarted = verdict.exhausted or (restarted and not accepted.any())
            if verdict.exhausted and pace.cost < math.inf:
                point = problem.second_order(point.W)
            afresh = verdict.exhausted or point.hessian is not None
            if afresh or iteration == renewal:
                metric = _metric(problem, point, generator, metric)
                renewal = max(renewal, 2 * iteration)
            # 5. gamma scales the metric to the newest pair
            gamma = torch.where(usable, curvature / dot(y, metric.solve(y)), gamma)
            if afresh:
                pairs.clear()
                gamma, refusals = torch.ones_like(gamma), torch.zeros_like(refusals)
                pace.restart()


def _start(problem, W, generator):
    """The first point, the metric there and the iteration at which to renew it; from samples of rows if W is zero."""
    n, d = problem.rows.shape
    n_logits = W.shape[2]
    size = _costs.sample_size(n, d, n_logits)
    if W.any() or 2 * size > n or _cost(size, n, d, n_logits) > DEAREST_METRIC:
        point = problem.smooth(W)
        return point, _metric(problem, point, generator), SOON if 2 * _hybrid_rows(n, d) < n else LATE
    sample = newton_on_samples(problem, W, size, generator)
    point = problem.smooth(sample.point.W + sample.direction)
    gap = Stand(point, sample.metric, -sample.metric.solve(point.gradient)).gap
    misled = (gap > DOUBTFUL) | (point.value > problem.loss.at_zero)
    if not misled.any():
        return point, sample.metric, math.inf
    point = problem.second_order(torch.where(per_model(misled), W, point.W))
    return point, _metric(problem, point, generator), math.inf


def _metric(problem, point, generator, before=None):
    """The preconditioner at `point`: the whole Hessian if that is known, else what is affordable on a sample."""
    if point.hessian is not None:
        return Metric.of(point.hessian)
    n, d = problem.rows.shape
    n_logits = point.W.shape[2]
    if n_logits == 1:
        size = _costs.sample_size(n, d, 1)
        if _cost(size, n, d, 1) <= DEAREST_METRIC:
            return Metric.of(draw(problem, size, generator).second_order(point.W).hessian)
    elif d * d <= 64 * n * n_logits:  # eigenvectors of (d, d) are found in the time of some reads
        size = _hybrid_rows(n, d)
        r = leading(size, n, problem.rows.X.shape[1], n_logits)
        return hybrids(draw(problem, size, generator), point.W, r, before if isinstance(before, Hybrids) else None)
    return Metric.of(problem.diagonal(point.W))


def _hybrid_rows(n, d):
    """Rows of the sample for a hybrid metric."""
    return min(n, max(4000, 5 * d))


def _affordable(memory, problem, W):
    """As many pairs as fit in an eighth of the bytes of X, but ten, and what is small anyway."""
    X = problem.rows.X
    budget = max(SMALL_MEMORY, X.element_size() * X.numel() // 8)
    return max(10, min(memory, budget // (2 * W.element_size() * W.numel())))


def _cost(m, n, d, n_logits):
    """Reads of X that the whole Hessian costs on m of n rows; infinite if it is too large to keep."""
    return _costs.hessian(m, n, d, n_logits) if (n_logits * d) ** 2 <= LARGEST_METRIC else math.inf


class _Pace:
    """How fast a descent goes, and whether the Hessian of all rows would repay its cost."""

    def __init__(self, problem, W):
        n, d = problem.rows.shape
        self.cost = _cost(n, n, d, W.shape[2])
        self.gaps = []  # logarithms, since the metric was renewed
        self.newton = False  # whether that metric is the Hessian of all rows

    def restart(self):
        """The metric is the Hessian of all rows from now on."""
        self.gaps, self.newton = [], True

    def hessian_pays(self, gap):
        """Note the gap (B,); whether the reads still to come at the present pace cost more than the Hessian.

        Where even Newton's own step brings little, as on almost separable classes, only a fresh Hessian helps.
        """
        self.gaps.append(math.log(max(float(gap.max()), 1e-300)))
        steps = min(WINDOW, len(self.gaps) - 1)
        if len(self.gaps) <= max(1.0, PATIENCE * self.cost) or self.gaps[-1] <= math.log(GOAL):
            return False
        fall = (self.gaps[-1 - steps] - self.gaps[-1]) / steps
        if self.newton and fall < LITTLE:
            return True
        left = (self.gaps[-1] - math.log(GOAL)) / fall if fall > 0 else math.inf
        return min(left, MOST_READS) > 0.5 * self.cost + 1
