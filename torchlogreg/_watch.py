"""What is noted of every iteration of a fit, and what looks at it: monitors, the printed line."""

from collections.abc import Callable
from functools import cached_property
from time import perf_counter
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._rows import marked
from torchlogreg._threads import mapped

# What the monitors of a Watch note, by their names.
MONITORS = {name: {f"{name}_loss", f"{name}_accuracy"} for name in ("train", "validation")}
MOST_WEIGHT = 1e300  # in a sum


class Iterate:
    """Where an iteration led to, in the problem that was iterated in.

    `coefficients` turns its W into that of the problem of the fit, and `leave` that into the one of all features.
    """

    def __init__(self, problem, point, coefficients, leave):
        self.problem, self.point, self._coefficients, self._leave = problem, point, coefficients, leave

    @cached_property
    def W(self):
        """The coefficients (B, d, K) in the problem of the fit; in the span of the rows, they cost a read."""
        return self._coefficients(self.point.W)

    @cached_property
    def of_features(self):
        """The coefficients of all features."""
        return self._leave(self.W)


class _Best(NamedTuple):
    rank: tuple  # the lower the better
    W: torch.Tensor


class Watch:
    """The history of a fit, so far.

    `monitors` gives for "train" and "validation" a function from an Iterate to the mean loss and the accuracy there.
    With `keeps_best` the iterate of the highest validation accuracy is kept, the one of the lowest loss among equals.
    """

    def __init__(
        self,
        problem,
        solver,
        max_iter=0,
        *,
        monitors=None,
        keeps_best=False,
        callbacks=None,
        leave=lambda W: W,
        verbose=0,
        began=None,
    ):
        self.problem, self.solver, self.max_iter, self.verbose = problem, solver, max_iter, verbose
        self.monitors, self.keeps_best, self.callbacks = monitors or {}, keeps_best, callbacks
        self.leave = leave
        self.began = perf_counter() if began is None else began
        self.values = []  # objective of each model
        self.columns = {}  # what else is noted, by name
        self.best = None

    def resume(self):
        """What a checkpoint says of the solver, or None; the history goes on where it was."""
        saved = self.callbacks and self.callbacks.resume()
        if saved is None:
            return None
        if len(saved["values"]) > self.max_iter:
            raise ValueError(
                f"The checkpoint has {len(saved['values'])} iterations, more than max_iter={self.max_iter} allows. "
                "Raise max_iter, or delete the file to start afresh."
            )
        self.values, self.columns = saved["values"], saved["columns"]
        self.began = perf_counter() - self.columns["seconds"][-1]
        self.problem.passes.n_read += saved["n_read"]
        self.best = saved["best"] and _Best(*saved["best"])
        return saved["solver"]

    def restart(self):
        """The fit begins anew."""
        self.values, self.columns, self.best = [], {}, None

    def forget(self):
        """The fit cannot go on from where it is, nor from any checkpoint."""
        if self.callbacks is not None:
            self.callbacks.forget()

    def begin(self, state):
        """An iteration begins, before which the solver has this state: a function, or None."""
        if self.callbacks is not None:
            self.callbacks.begin(self.columns, state and (lambda: self._state(state)))

    def _state(self, state):
        return {
            "solver": state(),
            "values": self.values,
            "columns": self.columns,
            "n_read": self.problem.passes.n_read,
            "best": self.best and tuple(self.best),
        }

    def end(self, problem, point, coefficients):
        """An iteration has ended. The accuracy that early stopping goes by, and whether a callback asks to stop."""
        iterate = Iterate(problem, point, coefficients, self.leave)
        self.values.append(point.value.tolist())
        noted = {"objective": self.values[-1][0]}
        if point.gradient is not None:
            noted["gradient_norm"] = float(torch.linalg.vector_norm(point.gradient, torch.inf))
        for name, monitor in self.monitors.items():
            noted[f"{name}_loss"], noted[f"{name}_accuracy"] = monitor(iterate)
        noted["seconds"] = perf_counter() - self.began
        for name, value in noted.items():
            self.columns.setdefault(name, []).append(value)
        if self.keeps_best:
            rank = -noted["validation_accuracy"], noted["validation_loss"]
            if self.best is None or rank < self.best.rank:
                self.best = _Best(rank, iterate.W)
        if self.verbose:
            print(self._line(noted))
        asked = self.callbacks is not None and self.callbacks.end(self.columns, lambda: iterate.of_features)
        return noted["validation_accuracy"] if self.keeps_best else None, asked

    def _line(self, noted):
        width = len(str(self.max_iter))
        line = f"{self.solver.name} {len(self.values):>{width}}/{self.max_iter}  objective {noted['objective']:<#12.8g}"
        if "gradient_norm" in noted:
            line += f"  max|gradient| {noted['gradient_norm']:.1e}"
        line += f"  reads {self.problem.passes.total:<6.1f}"
        if "validation_accuracy" in noted:
            line += f"  validation accuracy {noted['validation_accuracy']:.4f}"
        return f"{line}  {noted['seconds']:.2f} s"

    def history(self):
        """The history as arrays, by name."""
        count = "epoch" if self.solver.stochastic else "iteration"
        names = ["objective", *([] if self.solver.stochastic else ["gradient_norm"]), "seconds"]
        names += [f"{name}_{what}" for name in self.monitors for what in ("loss", "accuracy")]
        arrays = {name: np.array(self.columns.get(name, ()), dtype=np.float64) for name in names}
        return {count: np.arange(1, len(self.values) + 1), **arrays}


class Training:
    """The monitor of the training rows. It reads them where the solver has not kept their logits.

    Their sample weights, without those of classes, are `own` (n,); in a stream, where each row's weight is a multiple
    of its class's `factor` (n_classes,), what that leaves: nothing where it is 0. All are one if both are None.
    """

    def __init__(self, own=None, factor=None):
        self.own, self.factor = own if own is None else summable(own), factor

    def __call__(self, iterate):
        return _means(iterate.problem.loss, self._pieces(iterate.problem, iterate.point))

    def _pieces(self, problem, point):
        if point.eta is not None:
            logits = [(point.eta.permute(2, 0, 1), problem.rows)]
        else:
            logits = ((rows.predict(point.W), rows) for rows in problem._blocks())
        start = 0
        for eta, rows in logits:
            weight, own = rows.weight[:, 0].cpu(), self.own
            if own is not None:
                own = own[start : start + len(eta)]
            elif self.factor is not None:
                own = (weight / self.factor[problem.loss.codes(rows.y).cpu()]).nan_to_num(0.0)
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

    def mark(self):
        """What the rows are recognised by."""
        mark = marked([self.codes, self.weight])
        for rows in self.parts():
            mark = crc32(repr(rows.mark()).encode(), mark)
        return mark

    def _pieces(self, W):
        start = 0
        for rows in self.parts():
            missing = rows.shape[1] - W.shape[1]  # rows to predict have an intercept, whether or not the model has
            V = torch.nn.functional.pad(W, (0, 0, 0, missing)).to(rows.products.device, rows.products.dtype)
            blocks = rows.blocks(W.shape[2])
            for eta in mapped(lambda block, V=V: block.predict(V), blocks, rows.products.device):
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
