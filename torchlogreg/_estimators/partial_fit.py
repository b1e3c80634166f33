"""What `partial_fit` does: an epoch of SGD over a block of rows, and what is remembered from block to block."""

import math
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._data.training_data import bytes_of_rows, total_weight
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import Ridge
from torchlogreg._objective.smoothness import largest_moment, row_moments
from torchlogreg._solvers.learning_rates import stable_rate
from torchlogreg._solvers.sgd import class_major

MARKED = 16  # rows by which a block is recognised
# The learning rate "auto": a share of the stable one, for nothing cools it at the end of a stream as in `fit`; and the
# steps after which it has fallen by the square root of two. One epoch of MNIST in blocks of 512 ends at test accuracies
# of 0.910 to 0.911 with three seeds; at the stable rate and with 300 steps, at 0.890 to 0.903.
SHARE, FLAT = 0.5, 100
MOST_HALVINGS = 60  # of that rate in one call


class PartialFitState(NamedTuple):
    """What a model remembers of the blocks that it has seen: NumPy's and Python's values only.

    S, the total weight by which the objective divides, is that of a pass: blocks count until the first of them comes
    again. So a stream that never repeats itself has the objective of `fit` on all rows so far, and further epochs over
    the same blocks keep that of `fit` on those.
    """

    fingerprint: int | None  # of the first block
    n_rows: int = 0  # in the present pass
    weight: float = 0.0  # their total
    n_rows_before: int = 0  # in the longest pass before it
    weight_before: float = 0.0
    velocity: np.ndarray | None = None  # (p + 1, K)
    n_steps: int = 0
    longest: float = 0.0  # squared norm of the longest row, the largest in any block, each weighted
    mean_square: float = 0.0  # mean squared norm of the rows
    curvature: float = 0.0  # largest eigenvalue of the second moments
    n_curvature: int = 0  # rows that it is from
    caution: float = 1.0  # factor of the learning rate, halved where the objective rose

    @classmethod
    def after(cls, data, before=None):
        """The stream with one more block; a fit is a first block, that of a stream one that does not come again."""
        n, weight = data.X.shape[0], total_weight(data)
        fingerprint = (
            None if data.codes is None or n < MARKED else _fingerprint(data)
        )  # a few rows may be alike by chance
        if before is None:
            return cls(fingerprint, n, weight)
        if fingerprint is None or fingerprint != before.fingerprint:
            return before._replace(n_rows=before.n_rows + n, weight=before.weight + weight)
        return before._replace(
            n_rows=n,
            weight=weight,
            n_rows_before=max(before.n_rows_before, before.n_rows),
            weight_before=max(before.weight_before, before.weight),
        )

    @property
    def S(self):
        """Total weight of the rows in a pass."""
        return max(self.weight, self.weight_before)

    @property
    def mean_weight(self):
        """Mean weight of the rows in a pass."""
        return self.S / max(self.n_rows, self.n_rows_before)


def _fingerprint(data):
    """What a block of data is recognised by: its length, and some of its rows and labels."""
    index = np.linspace(0, len(data.codes) - 1, min(len(data.codes), MARKED)).astype(np.int64)
    return crc32(bytes_of_rows(data.X, index), crc32(data.codes[index].tobytes(), len(data.codes)))


class PartialFitStep(NamedTuple):
    """Where an epoch over a block led."""

    W: torch.Tensor  # (1, d, K) in float64
    value: float  # mean over its mini-batches of F as each update found it
    rate: float
    seen: PartialFitState


def partial_fit_step(solver, rows, loss, l2, W, seen):
    """One epoch of SGD over `rows` from W (1, d, K); `seen` has counted them already."""
    objective = _block_problem(rows, loss, l2, seen)
    rows, n = objective.design, objective.design.shape[0]
    d, automatic = W.shape[1], solver.learning_rate == "auto"
    generator = torch.Generator(rows.device).manual_seed(solver.seed)
    W = class_major(W, rows)
    velocity = torch.zeros_like(W)
    if seen.velocity is not None:
        velocity.copy_(torch.from_numpy(np.array(seen.velocity))[:d])
    if automatic:
        seen = _with_bounds(objective, seen)
    size = n if solver.batch_size is None else min(solver.batch_size, n)
    for _ in range(MOST_HALVINGS):
        start = W.clone()
        rate = _rate(solver, objective, seen, size) if automatic else solver.learning_rate
        value = float(solver.epoch(objective, W, velocity, rate, generator))
        if not automatic or _is_sound(objective, start, W, value):
            break
        # The bounds hold in expectation, not in every order of the rows.
        W.copy_(start)
        velocity.zero_()
        seen = seen._replace(caution=seen.caution / 2)
    if not (math.isfinite(value) and bool(torch.isfinite(W).all())):
        raise ValueError("The objective overflowed in partial_fit. Lower learning_rate, or standardise X.")
    kept = np.zeros((rows.n_features + 1, W.shape[2]))
    kept[:d] = velocity[0].numpy(force=True)
    seen = seen._replace(velocity=kept, n_steps=seen.n_steps + math.ceil(n / size))
    return PartialFitStep(rows.to_accumulation(W), value, rate, seen)


def _block_problem(rows, loss, l2, seen):
    """The objective on a block: its rows as a sample of the stream, the penalty over the S of the stream."""
    if not math.isfinite(seen.S):
        raise ValueError("The sum of the sample weights so far overflows. Scale them down, and C up.")
    weight = float(rows.sample_weights.sum())
    penalty = Ridge.of(
        l2 * (weight / seen.S), rows.n_features, intercept=rows.intercept, accumulation=rows.accumulation
    )
    objective = Objective.of(rows, loss, penalty)
    # Rows that weigh more than others in the stream do so in the block, too.
    share = weight / rows.shape[0] / seen.mean_weight
    return objective if share == 1.0 else objective.reweighted(objective.design.sample_weights * share)


def _with_bounds(objective, seen):
    """The stream with bounds that hold for the block, too.

    Its largest eigenvalue is looked for in the first block, in longer ones, and in those whose rows are longer than
    any before, by their mean or the longest; of blocks that are all alike, that is every doubling of their number.
    """
    n = objective.design.shape[0]
    mean_square, longest = row_moments(objective)
    record = mean_square > seen.mean_square or longest > seen.longest
    if record or n >= 2 * seen.n_curvature:
        curvature = largest_moment(objective)
        larger = n >= 2 * seen.n_curvature and not mean_square < 0.5 * seen.mean_square
        seen = seen._replace(
            curvature=curvature if larger else max(curvature, seen.curvature),
            n_curvature=max(n, seen.n_curvature),
        )
    return seen._replace(longest=max(longest, seen.longest), mean_square=max(mean_square, seen.mean_square))


def _rate(solver, objective, seen, size):
    """The rate for an endless number of rows, which falls as the square root of the steps grows."""
    smoothness = ((size - 1) * seen.curvature + seen.longest) / size * objective.loss.smoothness
    rate = stable_rate(solver, smoothness + float(objective.penalty.l2.max()))
    return SHARE * rate * seen.caution / math.sqrt(1.0 + seen.n_steps / FLAT)


def _is_sound(objective, start, W, value):
    """Whether an epoch from `start` to W ended no higher than it began, or than zero coefficients."""
    at_zero = objective.loss.at_zero * float(objective.design.sample_weights.sum())
    if value <= at_zero:
        return True  # a read less
    accumulation = objective.design.to_accumulation
    after = float(objective.value_and_gradient(accumulation(W)).value)
    return after <= at_zero or after <= float(objective.value_and_gradient(accumulation(start)).value)
