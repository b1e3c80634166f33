"""What is noted of every iteration of a fit, and what looks at it: monitors, the printed line."""

from functools import cached_property
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from torchlogreg._solvers.observer import Observer
from torchlogreg._solvers.stopping import End, Improvement

# What the monitors of a Watch note, by their names.
MONITORS = {name: {f"{name}_loss", f"{name}_accuracy"} for name in ("train", "validation")}


class Iterate:
    """Where an iteration led to, in the problem that was iterated in.

    `coefficients` turns its W into that of the problem of the fit, and `leave` that into the one of all features.
    """

    def __init__(self, objective, point, coefficients, leave):
        self.objective, self.point, self._coefficients, self._leave = objective, point, coefficients, leave

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


class FitHistory(Observer):
    """The history of a fit, so far.

    `monitors` gives for "train" and "validation" a function from an Iterate to the mean loss and the accuracy there.
    With `keeps_best` the iterate of the highest validation accuracy is kept, the one of the lowest loss among equals.
    """

    def __init__(
        self,
        objective,
        solver,
        max_iter=0,
        *,
        monitors=None,
        keeps_best=False,
        callbacks=None,
        leave=lambda W: W,
        verbose=0,
        began=None,
        patience=None,
        tol=0.0,
    ):
        self.objective, self.solver, self.max_iter, self.verbose = objective, solver, max_iter, verbose
        self.monitors, self.keeps_best, self.callbacks = monitors or {}, keeps_best, callbacks
        self.leave = leave
        self.began = perf_counter() if began is None else began
        self.values = []  # objective of each model
        self.columns = {}  # what else is noted, by name
        self._best = None
        # Early stopping by the validation data, if `patience` says so.
        self.patience, self.tol, self.improvement = patience, tol, Improvement()

    @property
    def n_iter(self):
        """See `Observer`."""
        return len(self.values)

    @property
    def best(self):
        """See `Observer`."""
        return self._best and self._best.W

    def left(self, n_models):
        """See `Observer`; there is one."""

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
        self.objective.passes.n_visited += saved["n_read"]
        self._best = saved["best"] and _Best(*saved["best"])
        self.improvement = Improvement(*saved["improvement"])
        return saved["solver"]

    def restart(self):
        """The fit begins anew."""
        self.values, self.columns, self._best, self.improvement = [], {}, None, Improvement()

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
            "n_read": self.objective.passes.n_visited,
            "best": self._best and tuple(self._best),
            "improvement": tuple(self.improvement),
        }

    def end(self, objective, point, coefficients):
        """See `Observer`."""
        iterate = Iterate(objective, point, coefficients, self.leave)
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
            if self._best is None or rank < self._best.rank:
                self._best = _Best(rank, iterate.W)
        if self.verbose:
            print(self._line(noted))
        asked = self.callbacks is not None and self.callbacks.end(self.columns, lambda: iterate.of_features)
        if asked:
            return End.CALLBACK
        if self.keeps_best and self.patience is not None:
            self.improvement = self.improvement.after(-noted["validation_accuracy"], self.tol)
            if self.improvement.is_over(self.tol, self.patience):
                return End.VALIDATION
        return None

    def _line(self, noted):
        width = len(str(self.max_iter))
        line = f"{self.solver.name} {len(self.values):>{width}}/{self.max_iter}  objective {noted['objective']:<#12.8g}"
        if "gradient_norm" in noted:
            line += f"  max|gradient| {noted['gradient_norm']:.1e}"
        line += f"  reads {self.objective.passes.total:<6.1f}"
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
