"""L-BFGS whose initial Hessian is a Cholesky factor estimated on some of the rows."""

from collections import deque
from dataclasses import dataclass

import torch

from torchlogreg._minimise import Optimality, Step
from torchlogreg.solvers._base import Solver
from torchlogreg.solvers._descent import Metric, dot, judge, keep, per_model, relative_gap

LARGEST_METRIC = 2**24  # numbers in the preconditioner
DEAREST_METRIC = 150  # reads of X whose arithmetic the class blocks may cost; it runs several times as fast
SLOW = 20  # iterations after which couplings between classes are worth their cost


@dataclass(frozen=True)
class LBFGS(Solver):
    """Limited-memory BFGS; Nocedal and Wright (2006), Numerical Optimization, algorithms 7.4 and 7.5.

    The initial matrix of the two-loop recursion is gamma P. P is the inverse of the Hessian's class blocks on a random
    sample of rows, at the start and at iteration 10; from iteration 20 on it is that of the whole Hessian, couplings
    between classes included, where that fits in memory. With one logit the two are the same, and the sample grows.
    Whenever P is that of the whole Hessian it is renewed every fourth iteration and the pairs start afresh, so that a
    slow fit turns into Newton's; otherwise the pairs are kept and renewals come at iterations 20, 40, 80, ...
    """

    memory: int = 100
    seed: int = 0

    name = "lbfgs"

    def stopping(self, tol):
        return Optimality(tol, gap=tol**1.5)  # the metric is an approximation, its decrement optimistic

    def iterates(self, problem, W):
        generator = torch.Generator("cpu").manual_seed(self.seed)
        point = problem.smooth(W)
        metric = self._metric(problem, point.W, 0, generator)
        pairs = deque(maxlen=self.memory)
        gamma = torch.ones_like(point.value)
        refusals = torch.zeros_like(point.value)
        iteration, renewal, restarted = 0, 10, False
        while True:
            # 1. direction H g, with H by the two-loop recursion
            direction = -problem.centred(_two_loop(point.gradient, pairs, gamma, metric))
            slope = dot(point.gradient, direction)
            yield Step(point, relative_gap(-slope, point.value))
            # 2. trial point; a model that refuses it keeps its place and halves its step
            step = 0.5**refusals
            trial = problem.smooth(point.W + per_model(step) * direction)
            accepted, exhausted = judge(point, trial, slope, step, refusals, metric, problem.rows)
            if exhausted and (restarted or not problem.rows.is_exact):
                return
            refusals = torch.where(accepted, 0.0, refusals + 1.0)
            # 3. new pair, of weight zero for models that did not move; gamma scales the metric to the newest one
            s, y = trial.W - point.W, trial.gradient - point.gradient
            curvature = dot(s, y)
            usable = accepted & (curvature > 1e-14 * dot(s, s).sqrt() * dot(y, y).sqrt())
            rho = torch.where(usable, 1.0 / curvature, 0.0)
            gamma = torch.where(usable, curvature / dot(y, metric.solve(y)), gamma)
            if accepted.any():
                pairs.append((s, y, rho))
            point = keep(accepted, trial, point)
            # 4. renewed metric; where no step helps, at once and without the pairs, which may be what misleads
            iteration += 1
            restarted = exhausted or (restarted and not accepted.any())
            if exhausted:
                iteration = renewal = max(iteration, SLOW)
                refusals = torch.zeros_like(refusals)
                pairs.clear()
            if iteration == renewal:
                metric = self._metric(problem, point.W, iteration, generator)
                gamma = torch.ones_like(gamma)
                if metric.is_whole:  # it knows more than the pairs, and dear as it is, it pays often
                    pairs.clear()
                    renewal += 4
                else:
                    renewal *= 2

    def _metric(self, problem, W, iteration, generator):
        """The preconditioner for the iterations to come: the more there were, the more it may cost."""
        n, d = problem.rows.shape
        n_logits = W.shape[2]
        # Many rows make the blocks nearly exact. With several logits their couplings are missing anyway.
        size = max(2000, 60 * d) * max(1, iteration // 5) if n_logits == 1 else max(2000, 8 * d)
        size = min(n, size)
        cost = (2 * size * d + d * d / 3) / (4 * n)  # of the class blocks, in reads of X
        if cost > DEAREST_METRIC or n_logits * d * d > LARGEST_METRIC:
            return Metric.of(problem.diagonal(W))
        sample = problem if size == n else problem.sampled(self._present(problem, size, generator))
        if iteration >= SLOW and (n_logits * d) ** 2 <= LARGEST_METRIC:
            return Metric.of(sample.second_order(W)[1])
        return Metric.of(sample.class_blocks(W))

    def _present(self, problem, size, generator):
        """Random indices of rows that have a weight; drawn with replacement, which is cheaper than a permutation."""
        present = torch.nonzero(problem.rows.weight.amax(dim=1)).flatten()
        drawn = torch.randint(len(present), (size,), generator=generator, device="cpu")
        return present[drawn.to(present.device)]


def _two_loop(gradient, pairs, gamma, metric):
    """The L-BFGS matrix times the gradient."""
    q = gradient
    alphas = []
    for s, y, rho in reversed(pairs):
        alpha = per_model(rho * dot(s, q))
        q = q - alpha * y
        alphas.append(alpha)
    r = per_model(gamma) * metric.solve(q)
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + (alpha - per_model(rho * dot(y, r))) * s
    return r
