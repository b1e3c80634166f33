"""The mean loss and the accuracy on the training and the validation data after each iteration."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
import torch
from sklearn import config_context

from torchlogreg._data.checksum import checksum
from torchlogreg._data.prediction import prediction_parts
from torchlogreg._data.sharded import ShardedDesign
from torchlogreg._data.storage import as_tensors
from torchlogreg._data.targets import (
    checked_labels,
    checked_weights,
    class_weighted,
    codes_among,
    encoded,
)
from torchlogreg._data.training_data import TrainingData, design_of
from torchlogreg._data.validation import is_no_table
from torchlogreg._monitoring import tuning
from torchlogreg._monitoring.history import Iterate
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._runtime.desk import Lead, Remote
from torchlogreg._runtime.sklearn_private import feature_names
from torchlogreg._runtime.threads import mapped
from torchlogreg._runtime.warn import warn

WEIGHTLESS_VALIDATION = "class_weight leaves no row of X_val; at least one weight must be positive."
# Logits (m, 1, K) of some rows, their labels, and their weights and sample weights (m,) on the host.
Piece = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def validation_data(estimator, data: TrainingData, X, y, sample_weight) -> Validation | None:
    """The monitor of the user's validation data, checked as the training `data` were; None if there are none."""
    if X is None and y is None and sample_weight is None:
        return None
    if X is None or y is None:
        missing = [name for name, value in (("X_val", X), ("y_val", y)) if value is None]
        raise ValueError(f"Validation data needs both X_val and y_val: {' and '.join(missing)} must be given.")
    if is_no_table(X):
        raise ValueError("X_val must be a table, an array or a tensor; a stream cannot be validation data.")
    is_part = data.is_shared
    if is_part and 0 in (X.shape[:1] if hasattr(X, "shape") else (len(X),)):
        return None
    stand_in = copy.copy(estimator)
    vars(stand_in).pop("feature_names_in_", None)
    vars(stand_in).update(data.schema)
    if warning := _check_names(stand_in, X):
        warn(warning, UserWarning)
    try:
        n, parts = prediction_parts(stand_in, X, data.torch_dtype)
        small = isinstance(parts, tuple)
        for _ in parts:  # checks them
            pass
        labels = checked_labels(y, "y_val")
    except (TypeError, ValueError) as error:
        error.add_note("This is about the validation data, X_val and y_val.")
        raise
    if len(labels) != n:
        raise ValueError(f"X_val has {n} rows and y_val {len(labels)} labels: pass one label for each row.")
    present, index = encoded(labels)
    codes = codes_among(data.classes, present, "y_val")[index]
    weight = checked_weights(sample_weight, n, all_zero=is_part, name="sample_weight_val")
    own = None if sample_weight is None else weight
    if data.factor is not None:
        weight = class_weighted(weight, data.factor, codes)
        if not (weight.any() or is_part):
            raise ValueError(WEIGHTLESS_VALIDATION)
    source = (lambda: parts) if small else partial(_checked_parts, stand_in, X, data.torch_dtype)
    tensors: Any = as_tensors(codes, weight, own)
    return Validation(source, loss_of(len(data.classes)), *tensors, dtype=data.torch_dtype)


def _check_names(stand_in, X) -> str | None:
    """Give a model feature names if X_val has some, as validate_data would warn of X; what to warn of instead."""
    names = feature_names(X)
    if (names is None) == (not hasattr(stand_in, "feature_names_in_")):
        return None
    if names is None:
        del stand_in.feature_names_in_
        return "X_val does not have valid feature names, but X has. Pass both as frames, or both as arrays."
    stand_in.feature_names_in_ = names
    return "X_val has feature names, but X does not. Pass both as frames, or both as arrays."


def _checked_parts(stand_in, X, dtype: torch.dtype) -> Iterator[Any]:
    """The parts of a large array that has been checked."""
    vars(stand_in).pop("feature_names_in_", None)  # or the warning about names would come again
    with config_context(assume_finite=True):
        yield from prediction_parts(stand_in, X, dtype)[1]


def held_out_data(data: TrainingData, loss: Loss, index: np.ndarray, *, intercept: bool) -> Validation:
    """The monitor of the rows at an index of the training data."""
    rows = design_of(data, loss, index, intercept=intercept)
    assert data.codes is not None  # a stream holds out no rows
    assert data.weight is not None
    own = None if data.sample_weight is None else data.sample_weight[index]
    tensors: Any = as_tensors(data.codes[index], data.weight[index], own)
    return Validation(lambda: (rows,), loss, *tensors, dtype=data.torch_dtype)


def training_monitor(data: TrainingData, index: np.ndarray | None) -> Training:
    """The monitor of the training rows, of all or of those at an index."""
    if data.codes is None:
        stream: Any = data.X
        return Training(class_weight=torch.from_numpy(stream.factor) if stream.is_weighted else None)
    own = data.sample_weight
    if own is not None and index is not None:
        own = own[index]
    return Training(*as_tensors(own))


class Training:
    """The monitor of the training rows. It takes a pass over them where the solver has not stored their logits.

    `sample_weight` (n,) excludes the class weights. In a stream each row's weight is a multiple of its class weight, in
    `class_weight` (n_classes,), and the sample weight is the quotient, 0 where the class weight is. All sample weights
    are one if both are None.
    """

    def __init__(self, sample_weight: torch.Tensor | None = None, class_weight: torch.Tensor | None = None):
        self.sample_weight = None if sample_weight is None else summable(sample_weight)
        self.class_weight = class_weight

    def __call__(self, iterate: Iterate) -> tuple[float, float]:
        objective, point = iterate.objective, iterate.point
        if point.eta is None:
            objective.passes.n_visited += objective.design.shape[0]
        return _means(self.sums(objective.design, objective.loss, point.W, point.eta))

    def sums(self, design, loss: Loss, W: torch.Tensor, eta: torch.Tensor | None) -> np.ndarray:
        """See `_sums`; at the coefficients W (1, d, K) or the logits eta (1, K, n)."""
        return _sums(loss, self._pieces(design, loss, W, eta))

    def _pieces(self, design, loss, W, eta) -> Iterator[Piece]:
        if eta is not None:
            logits = [(eta.permute(2, 0, 1), design)]
        else:
            logits = ((rows.matvec(W), rows) for rows in design.blocks())
        start = 0
        for eta, rows in logits:
            weight, own = rows.weight[:, 0].cpu(), self.sample_weight
            if own is not None:
                own = own[start : start + len(eta)]
            elif self.class_weight is not None:
                own = (weight / self.class_weight[loss.codes(rows.y).cpu()]).nan_to_num(0.0)
            yield eta, rows.y.to(eta.device), weight, own
            start += len(eta)


class Validation:
    """The monitor of validation data, block by block.

    `parts` returns the rows, without labels, each time it is called. Labels are `codes` (n,), and `weight` (n,) weighs
    the losses; `sample_weight` (n,), or one, weighs the accuracy. Coefficients are rounded to `dtype`, in which the
    model stores them.
    """

    def __init__(
        self,
        parts: Callable[[], Iterable],
        loss: Loss,
        codes: torch.Tensor,
        weight: torch.Tensor,
        sample_weight: torch.Tensor | None,
        dtype: torch.dtype,
    ):
        self.parts, self.loss, self.dtype = parts, loss, dtype
        self.codes, self.weight = codes, summable(weight)
        self.sample_weight = None if sample_weight is None else summable(sample_weight)

    def __call__(self, iterate: Iterate) -> tuple[float, float]:
        return _means(self.sums(iterate.of_features))

    def sums(self, W: torch.Tensor) -> np.ndarray:
        """See `_sums`; at the coefficients W (1, d, K)."""
        return _sums(self.loss, self._pieces(W.cpu().to(self.dtype)))

    def row_fingerprint(self) -> int:
        """The same as a sum over the rows, in any order."""
        start, out = 0, 0
        for rows in self.parts():
            at = slice(start, start + rows.shape[0])
            start = at.stop
            out += rows.reweighted(self.weight[at, None]).labelled(self.codes[at]).row_fingerprint()
        return out % 2**64

    def fingerprint(self) -> int:
        """A checksum of the rows, their labels and their weights."""
        fingerprint = checksum([self.codes, self.weight])
        for rows in self.parts():
            fingerprint = crc32(repr(rows.fingerprint()).encode(), fingerprint)
        return fingerprint

    def _pieces(self, W: torch.Tensor) -> Iterator[Piece]:
        start = 0
        for rows in self.parts():
            missing = (
                rows.shape[1] - W.shape[1]
            )  # designs for prediction have an intercept, whether or not the model has
            V = torch.nn.functional.pad(W, (0, 0, 0, missing)).to(rows.compute.device, rows.compute.dtype)
            blocks = rows.blocks(W.shape[2])
            for eta in mapped(lambda block, V=V: block.matvec(V), blocks, rows.compute.device):
                at = slice(start, start + len(eta))
                start = at.stop
                y = self.loss.targets(self.codes[at].to(eta.device), eta.dtype)
                yield eta, y, self.weight[at], None if self.sample_weight is None else self.sample_weight[at]


def summable(weight: torch.Tensor) -> torch.Tensor:
    """Weights for a mean: as they are, or as shares of the largest where sums of them might overflow."""
    return weight if float(weight.sum()) < tuning.LARGEST_WEIGHT_SUM else weight / weight.max()


def _sums(loss: Loss, pieces: Iterable[Piece]) -> np.ndarray:
    """Sums of the losses and of their weights, and of the sample weights of the right answers and of all.

    Without sample weights the answers are counted, which is as exact as accuracy_score.
    """
    out = np.zeros(4)
    for eta, y, weight, own in pieces:
        value = loss.value(eta, y)[:, 0].to("cpu", weight.dtype)
        hit = (loss.choice(eta)[:, 0] == loss.codes(y)).cpu()
        right, counted = (hit.sum(), len(hit)) if own is None else (own[hit].sum(), own.sum())
        out += [float(weight @ value), float(weight.sum()), float(right), float(counted)]
    return out


def _means(sums: np.ndarray) -> tuple[float, float]:
    """The mean loss, by weight, and the share of right answers, by sample weight."""
    total, mass, right, counted = sums.tolist()
    return total / mass, right / counted


class SharedMonitor(ABC):
    """In the process that leads others, the monitor of rows that all of them have."""

    def __init__(self, lead: Lead, name: str):
        self.lead, self.monitor = lead, Remote(lead, name)

    @abstractmethod
    def __call__(self, iterate: Iterate) -> tuple[float, float]:
        """The mean loss and the accuracy after an iteration."""

    def fingerprint(self) -> int:
        """A checksum of the rows, their labels and their weights, whichever process has which."""
        return sum(own or 0 for own in self.lead.each(_monitor_fingerprint, self.monitor)) % 2**64


class SharedValidation(SharedMonitor):
    """That of the validation data."""

    def __init__(self, lead: Lead):
        super().__init__(lead, "validation")

    def __call__(self, iterate: Iterate) -> tuple[float, float]:
        (sums,) = self.lead.total(_validation_sums, self.monitor, iterate.of_features, shapes=[(4,)])
        return _means(sums.numpy(force=True))


class SharedTraining(SharedMonitor):
    """That of the training rows, which may have been gathered, but not their weights."""

    def __init__(self, lead: Lead):
        super().__init__(lead, "training")

    def __call__(self, iterate: Iterate) -> tuple[float, float]:
        design, loss = iterate.objective.design, iterate.objective.loss
        if isinstance(design, ShardedDesign):
            W, eta = iterate.point.W, iterate.point.eta
            if eta is None:
                iterate.objective.passes.n_visited += design.shape[0]
            (sums,) = design.total(_training_sums, self.monitor, loss, W, eta, shapes=[(4,)])
        else:
            shared, W = Remote(self.lead, "design"), iterate.of_features
            (sums,) = self.lead.total(_training_sums, shared, self.monitor, loss, W, None, shapes=[(4,)])
        return _means(sums.numpy(force=True))


def _validation_sums(monitor, W):
    return [torch.from_numpy(monitor.sums(W))]


def _training_sums(design, monitor, loss, W, eta):
    return [torch.from_numpy(monitor.sums(design, loss, W, eta))]


def _monitor_fingerprint(monitor):
    return monitor.row_fingerprint()
