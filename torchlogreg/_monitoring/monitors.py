"""What looks at the training and the validation data after each iteration."""

import copy
from collections.abc import Callable
from functools import partial
from zlib import crc32

import torch
from sklearn import config_context

from torchlogreg._data.checksum import checksum
from torchlogreg._data.prediction import prediction_parts
from torchlogreg._data.storage import as_tensors
from torchlogreg._data.targets import (
    checked_labels,
    checked_weights,
    class_weighted,
    codes_among,
    encoded,
)
from torchlogreg._data.training_data import design_of
from torchlogreg._data.validation import is_no_table
from torchlogreg._objective.losses import loss_of
from torchlogreg._runtime.sklearn_private import feature_names
from torchlogreg._runtime.threads import mapped
from torchlogreg._runtime.warn import warn


def validation_data(estimator, data, X, y, sample_weight):
    """The monitor of the rows that the user validates on, checked as those of `data` were; None if there are none."""
    if X is None and y is None and sample_weight is None:
        return None
    if X is None or y is None:
        missing = [name for name, value in (("X_val", X), ("y_val", y)) if value is None]
        raise ValueError(f"Validation data come together, as X_val and y_val: {' and '.join(missing)} must be given.")
    if is_no_table(X):
        raise ValueError("X_val must be a table, an array or a tensor; a stream cannot be validated on.")
    stand_in = copy.copy(estimator)
    vars(stand_in).pop("feature_names_in_", None)
    vars(stand_in).update(data.schema)
    if warning := _agree_on_names(stand_in, X):
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
        raise ValueError(f"inconsistent lengths: X_val has {n} rows, y_val {len(labels)} labels")
    present, index = encoded(labels)
    codes = codes_among(data.classes, present, "y_val")[index]
    weight = checked_weights(sample_weight, n, name="sample_weight_val")
    own = None if sample_weight is None else weight
    if data.factor is not None:
        weight = class_weighted(weight, data.factor, codes)
        if not weight.any():
            raise ValueError("class_weight leaves no row of X_val; at least one weight must be positive.")
    source = (lambda: parts) if small else partial(_read_again, stand_in, X, data.torch_dtype)
    return Validation(source, loss_of(len(data.classes)), *as_tensors(codes, weight, own), data.torch_dtype)


def _agree_on_names(stand_in, X):
    """Let a model have names of features if X_val has, lest validate_data warn of X; what there is to say instead."""
    names = feature_names(X)
    if (names is None) == (not hasattr(stand_in, "feature_names_in_")):
        return None
    if names is None:
        del stand_in.feature_names_in_
        return "X_val does not have valid feature names, but X has. Pass both as frames, or both as arrays."
    stand_in.feature_names_in_ = names
    return "X_val has feature names, but X does not. Pass both as frames, or both as arrays."


def _read_again(stand_in, X, dtype):
    """The parts of a large array that has been checked."""
    vars(stand_in).pop("feature_names_in_", None)  # nor say again what there is to say of names
    with config_context(assume_finite=True):
        yield from prediction_parts(stand_in, X, dtype)[1]


def held_out_data(data, loss, index, *, intercept):
    """The monitor of the rows at an index of the training data."""
    rows = design_of(data, loss, index, intercept=intercept)
    own = None if data.sample_weight is None else data.sample_weight[index]
    return Validation(lambda: (rows,), loss, *as_tensors(data.codes[index], data.weight[index], own), data.torch_dtype)


def training_monitor(data, index):
    """The monitor of the training rows, of all or of those at an index."""
    if data.codes is None:
        return Training(factor=torch.from_numpy(data.X.factor) if data.X.is_weighted else None)
    own = data.sample_weight
    if own is not None and index is not None:
        own = own[index]
    return Training(*as_tensors(own))


MOST_WEIGHT = 1e300  # in a sum


class Training:
    """The monitor of the training rows. It reads them where the solver has not kept their logits.

    Their sample weights, without those of classes, are `own` (n,); in a stream, where each row's weight is a multiple
    of its class's `factor` (n_classes,), what that leaves: nothing where it is 0. All are one if both are None.
    """

    def __init__(self, own=None, factor=None):
        self.own, self.factor = own if own is None else summable(own), factor

    def __call__(self, iterate):
        return _means(iterate.objective.loss, self._pieces(iterate.objective, iterate.point))

    def _pieces(self, objective, point):
        if point.eta is not None:
            logits = [(point.eta.permute(2, 0, 1), objective.design)]
        else:
            logits = ((rows.matvec(point.W), rows) for rows in objective.blocks())
        start = 0
        for eta, rows in logits:
            weight, own = rows.weight[:, 0].cpu(), self.own
            if own is not None:
                own = own[start : start + len(eta)]
            elif self.factor is not None:
                own = (weight / self.factor[objective.loss.codes(rows.y).cpu()]).nan_to_num(0.0)
            yield eta, rows.y, weight, own
            start += len(eta)


class Validation:
    """The monitor of other rows, block by block.

    `parts` returns the rows, without labels, each time it is called; labels are `codes` (n,), and `weight` (n,) is that
    of their losses; their sample weights are `own` (n,), or one. Coefficients are rounded to `dtype`, as they are kept.
    """

    def __init__(self, parts: Callable, loss, codes, weight, own, dtype):
        self.parts, self.loss, self.dtype = parts, loss, dtype
        self.codes, self.weight, self.own = codes, summable(weight), own if own is None else summable(own)

    def __call__(self, iterate):
        return _means(self.loss, self._pieces(iterate.of_features.to(self.dtype)))

    def fingerprint(self):
        """What the rows are recognised by."""
        fingerprint = checksum([self.codes, self.weight])
        for rows in self.parts():
            fingerprint = crc32(repr(rows.fingerprint()).encode(), fingerprint)
        return fingerprint

    def _pieces(self, W):
        start = 0
        for rows in self.parts():
            missing = rows.shape[1] - W.shape[1]  # rows to predict have an intercept, whether or not the model has
            V = torch.nn.functional.pad(W, (0, 0, 0, missing)).to(rows.compute.device, rows.compute.dtype)
            blocks = rows.blocks(W.shape[2])
            for eta in mapped(lambda block, V=V: block.matvec(V), blocks, rows.compute.device):
                at = slice(start, start + len(eta))
                start = at.stop
                y = self.loss.targets(self.codes[at].to(eta.device), eta.dtype)
                yield eta, y, self.weight[at], None if self.own is None else self.own[at]


def summable(weight):
    """Weights for a mean: as they are, or as shares of the largest where sums of them might overflow."""
    return weight if float(weight.sum()) < MOST_WEIGHT else weight / weight.max()


def _means(loss, pieces):
    """Weighted means over pieces of the rows: logits (m, 1, K), labels, weights and sample weights (m,) on the host.

    Of the losses by their weights, and of the right answers by sample weight; by count, as exact as accuracy_score, if
    that is None.
    """
    total = mass = right = counted = 0.0
    for eta, y, weight, own in pieces:
        value = loss.value(eta, y)[:, 0].to("cpu", weight.dtype)
        total, mass = total + float(weight @ value), mass + float(weight.sum())
        hit = (loss.choice(eta)[:, 0] == loss.codes(y)).cpu()
        right += int(hit.sum()) if own is None else float(own[hit].sum())
        counted += len(hit) if own is None else float(own.sum())
    return total / mass, right / counted
