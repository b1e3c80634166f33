"""What `partial_fit` does: an epoch of SGD over a block of rows, and what is remembered from block to block."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.design import Access
from torchlogreg._data.finite import explained
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._data.training_data import TrainingData, block_data, bytes_of_rows, design_of, placed, total_weight
from torchlogreg._estimators import tuning
from torchlogreg._estimators.attributes import model_attributes
from torchlogreg._estimators.per_feature import per_feature
from torchlogreg._estimators.problem import batch_rows
from torchlogreg._estimators.start import start_coefficients
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, strengths
from torchlogreg._objective.smoothness import largest_moment, row_moments
from torchlogreg._runtime.out_of_memory import attempts, translated
from torchlogreg._runtime.threads import fit_arithmetic, package_settings
from torchlogreg._solvers.learning_rates import stable_rate
from torchlogreg._solvers.sgd import SGD, class_major


class PartialFitState(NamedTuple):
    """What a model remembers of the blocks so far: values of NumPy and of Python only.

    S, the total weight by which the objective divides, is that of one pass over the stream: blocks count until the
    first of them comes again. So a stream that never repeats itself has the objective of `fit` on all rows so far, and
    further epochs over the same blocks have that of `fit` on those blocks.
    """

    fingerprint: int | None  # of the first block
    n_rows: int = 0  # in the present pass
    weight: float = 0.0  # their total
    n_rows_before: int = 0  # in the longest pass before it
    weight_before: float = 0.0
    velocity: np.ndarray | None = None  # (p + 1, K)
    n_steps: int = 0
    longest: float = 0.0  # largest squared norm of a weighted row in any block
    mean_square: float = 0.0  # mean squared norm of the rows
    curvature: float = 0.0  # largest eigenvalue of the second moments
    n_curvature: int = 0  # rows that it was computed from
    caution: float = 1.0  # factor of the learning rate, halved where the objective rose

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> PartialFitState:
        """From what a model remembers; pickles of version 0.1.0.dev0 call the fingerprint "mark"."""
        return cls(**{"fingerprint" if name == "mark" else name: value for name, value in stored.items()})

    @classmethod
    def after(cls, data: TrainingData, before: PartialFitState | None = None) -> PartialFitState:
        """The stream with one more block. A fit is a first block; that of a stream never comes again."""
        n, weight = data.n_rows, total_weight(data)
        # Blocks of a few rows may be equal by chance, and those of several processes are nobody's.
        is_recognised = not data.is_shared and data.codes is not None and n >= tuning.RECOGNISED_ROWS
        fingerprint = _fingerprint(data) if is_recognised else None
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
    def S(self) -> float:
        """Total weight of the rows in a pass."""
        return max(self.weight, self.weight_before)


def _fingerprint(data: TrainingData) -> int:
    """A checksum of a block: of its length, and of some of its rows and labels."""
    X, codes = data.X, data.codes
    assert codes is not None  # a table
    assert not isinstance(X, ScannedStream)
    most = max(1, tuning.RECOGNISED_NUMBERS * len(codes) // max(1, X.numel()))
    n_rows = min(len(codes), tuning.RECOGNISED_ROWS, most)
    index = np.linspace(0, len(codes) - 1, n_rows).astype(np.int64)
    return crc32(bytes_of_rows(X, index), crc32(codes[index].tobytes(), len(codes)))


def partial_fit_attributes(estimator: Any, X, y, classes, sample_weight) -> dict[str, Any]:
    """The attributes of the estimator after one epoch over a block."""
    before = PartialFitState.restored(estimator._seen) if hasattr(estimator, "_seen") else None
    with package_settings(), torch.inference_mode(False), torch.no_grad(), translated():
        access = Access(in_random_order=True, by_products=False, batch_rows=batch_rows(estimator), n_passes=1)
        data = placed(estimator, block_data(estimator, X, y, classes, sample_weight), access)
    n_iter = 1 + (0 if before is None else int(np.max(numpy_of(estimator.n_iter_))))
    with torch.inference_mode(False), torch.no_grad(), explained(data.X):
        for attempt in attempts():
            with attempt, fit_arithmetic(data.X):
                step, device = _first_or_next_step(estimator, data, before, n_iter)
                attributes = model_attributes(step.W, data, estimator.fit_intercept)
    curve = np.append([] if before is None else numpy_of(estimator.loss_curve_), step.value)
    if estimator.verbose:
        print(f"partial_fit {n_iter:>4}  objective {step.value:.8g}  learning rate {step.rate:.3g}")
    return {
        **attributes,
        "solver_": SGD.name,
        "device_": device,
        "device_reason_": data.device_reason,
        "n_iter_": data.space.array(np.array([n_iter], dtype=np.int32)),
        "converged_": False,
        "loss_curve_": data.space.array(curve),
        "_seen": step.seen._asdict(),
    }


def _first_or_next_step(
    estimator: Any, data: TrainingData, before: PartialFitState | None, n_iter: int
) -> tuple[PartialFitStep, str]:
    """The epoch over a block of a model that has made n_iter - 1 of them, and the device that it ran on."""
    loss = loss_of(len(data.classes))
    design = design_of(data, loss, intercept=estimator.fit_intercept)
    solver = SGD.from_params(vars(estimator))
    solver = replace(solver, seed=solver.seed + n_iter)  # another order in every call
    own = per_feature(estimator, data)
    W = design.to_accumulation(own.clipped(start_coefficients(estimator, data, loss, continued=True)))
    penalty = ElasticNet.of(
        strengths(estimator.C, estimator.l1_ratio),
        design.n_features,
        intercept=design.intercept,
        accumulation=design.accumulation,
        own=own,
    )
    step = partial_fit_step(solver, design, loss, penalty, W, PartialFitState.after(data, before))
    return step, str(design.device)


class PartialFitStep(NamedTuple):
    """The result of an epoch over a block."""

    W: torch.Tensor  # (1, d, K) in float64
    value: float  # mean over its mini-batches of F as each update found it
    rate: float
    seen: PartialFitState


def partial_fit_step(
    solver: SGD, design: Any, loss: Loss, penalty: ElasticNet, W: torch.Tensor, seen: PartialFitState
) -> PartialFitStep:
    """One epoch of SGD over the rows of `design` from W (1, d, K); `seen` has counted them already."""
    objective = _block_objective(design, loss, penalty, seen)
    design, n = objective.design, objective.design.shape[0]
    d, automatic = W.shape[1], solver.learning_rate == "auto"
    generator = torch.Generator(design.device).manual_seed(solver.seed)
    W = class_major(W, design)
    velocity = torch.zeros_like(W)
    if seen.velocity is not None:
        velocity.copy_(torch.from_numpy(np.array(seen.velocity))[:d])
    if automatic:
        seen = _with_bounds(objective, seen)
    size = n if solver.batch_size is None else min(solver.batch_size, n)
    value = rate = math.nan
    for _ in range(tuning.PARTIAL_FIT_HALVINGS):
        start = W.clone()
        rate = _rate(solver, objective, seen, size) if automatic else float(solver.learning_rate)
        value = float(solver.epoch(objective, W, velocity, rate, generator))
        if not automatic or _is_sound(objective, start, W, value):
            break
        # The bounds hold in expectation, but not in every order of the rows.
        W.copy_(start)
        velocity.zero_()
        seen = seen._replace(caution=seen.caution / 2)
    if not (math.isfinite(value) and bool(torch.isfinite(W).all())):
        raise ValueError("The objective overflowed in partial_fit. Lower learning_rate, or standardise X.")
    stored = np.zeros((design.n_features + 1, W.shape[2]))
    stored[:d] = velocity[0].numpy(force=True)
    seen = seen._replace(velocity=stored, n_steps=seen.n_steps + math.ceil(n / size))
    return PartialFitStep(design.to_accumulation(W), value, rate, seen)


def _block_objective(design: Any, loss: Loss, penalty: ElasticNet, seen: PartialFitState) -> Objective:
    """The objective on a block: its rows as a sample of the stream, the penalty over the S of the stream."""
    if not math.isfinite(seen.S):
        raise ValueError("The sum of the sample weights so far overflows. Scale them down, and C up.")
    weight = float(design.sample_weights.sum())
    objective = Objective.of(design, loss, penalty.divided([penalty.l2.new_tensor([seen.S / weight])]))
    # A block whose rows weigh more than others of the stream weighs more, too.
    share = weight / design.shape[0] / (seen.S / max(seen.n_rows, seen.n_rows_before))
    return objective if share == 1.0 else objective.reweighted(objective.design.sample_weights * share)


def _with_bounds(objective: Objective, seen: PartialFitState) -> PartialFitState:
    """The stream with bounds that hold for the block, too.

    The largest eigenvalue is computed on the first block, on blocks of at least twice as many rows as that, and on
    those whose rows are longer than all before, by their mean or by the longest of them.
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


def _rate(solver: SGD, objective: Objective, seen: PartialFitState, size: int) -> float:
    """The learning rate for an endless stream, which falls with the square root of the number of steps."""
    smoothness = ((size - 1) * seen.curvature + seen.longest) / size * objective.loss.smoothness
    rate = stable_rate(solver, smoothness + float(objective.penalty.l2.max()))
    decay = math.sqrt(1.0 + seen.n_steps / tuning.PARTIAL_FIT_FLAT_STEPS)
    return tuning.PARTIAL_FIT_RATE_SHARE * rate * seen.caution / decay


def _is_sound(objective: Objective, start: torch.Tensor, W: torch.Tensor, value: float) -> bool:
    """Whether an epoch from `start` to W ended no higher than it began, or than zero coefficients."""
    at_zero = objective.loss.at_zero * float(objective.design.sample_weights.sum())
    if value <= at_zero:
        return True  # and the passes below are saved
    accumulation = objective.design.to_accumulation
    after = float(objective.value_and_gradient(accumulation(W)).value)
    return after <= at_zero or after <= float(objective.value_and_gradient(accumulation(start)).value)
