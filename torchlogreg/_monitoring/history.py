"""What is recorded of every iteration of a fit: the history, the best iterate, the printed line."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from torchlogreg._objective.objective import Objective, Point
from torchlogreg._solvers.base import Solver, State
from torchlogreg._solvers.observer import Observer
from torchlogreg._solvers.stopping import End, Improvement

if TYPE_CHECKING:
    from torchlogreg._monitoring.callback_context import CallbackRunner

# Entries of the history that each monitor adds, by its name.
MONITORS = {name: {f"{name}_loss", f"{name}_accuracy"} for name in ("train", "validation")}


class Iterate:
    """The result of an iteration, in the problem that was iterated in.

    `to_fit` turns its coefficients into those of the problem of the fit, and `to_features` those into the ones of all
    features.
    """

    def __init__(self, objective: Objective, point: Point, to_fit: Callable, to_features: Callable):
        self.objective, self.point, self._to_fit, self._to_features = objective, point, to_fit, to_features

    @cached_property
    def W(self) -> torch.Tensor:
        """The coefficients (B, d, K) in the problem of the fit; in the span of the rows, they take a pass."""
        return self._to_fit(self.point.W)

    @cached_property
    def of_features(self) -> torch.Tensor:
        """The coefficients of all features."""
        return self._to_features(self.W)


# From an iterate to the mean loss and the accuracy there.
Monitor = Callable[[Iterate], tuple[float, float]]


class BestIterate(NamedTuple):
    """The iterate of the highest validation accuracy, and among equals of the lowest validation loss."""

    rank: tuple[float, float]  # the lower the better
    W: torch.Tensor


class FitHistory(Observer):
    """The history of a fit so far.

    `monitors` has those named "train" and "validation". With `keeps_best` the best iterate on the validation data is
    the result, and with a `patience` the fit ends when so many iterations in a row did not improve the accuracy there
    by `tol`. `leave` turns coefficients into those of all features, `began` is the time of `perf_counter` at which the
    fit began.
    """

    def __init__(
        self,
        objective: Objective,
        solver: Solver,
        max_iter: int = 0,
        *,
        monitors: dict[str, Monitor] | None = None,
        keeps_best: bool = False,
        callbacks: CallbackRunner | None = None,
        leave: Callable = lambda W: W,
        verbose: int = 0,
        began: float | None = None,
        patience: int | None = None,
        tol: float = 0.0,
    ):
        self.objective, self.solver, self.max_iter, self.verbose = objective, solver, max_iter, verbose
        self.monitors, self.keeps_best, self.callbacks = monitors or {}, keeps_best, callbacks
        self.leave = leave
        self.began = perf_counter() if began is None else began
        self.values: list[list[float]] = []  # objective of each model
        self.columns: dict[str, list] = {}  # what else is recorded, by name
        self._best: BestIterate | None = None
        self.patience, self.tol, self.improvement = patience, tol, Improvement()

    @property
    def n_iter(self) -> int:
        """See `Observer`."""
        return len(self.values)

    @property
    def best(self) -> torch.Tensor | None:
        """See `Observer`."""
        return self._best and self._best.W

    def left(self, n_models: int) -> None:
        """See `Observer`; there is one."""

    def resume(self) -> Any:
        """See `Observer`; the history continues from the checkpoint, too."""
        saved = None if self.callbacks is None else self.callbacks.resume()
        if saved is None:
            return None
        if len(saved["values"]) > self.max_iter:
            raise ValueError(
                f"The checkpoint has {len(saved['values'])} iterations, more than max_iter={self.max_iter} allows. "
                "Raise max_iter, or delete the file to start afresh."
            )
        self.values, self.columns = saved["values"], saved["columns"]
        self.began = perf_counter() - self.columns["seconds"][-1]
        self.objective.passes.n_visited += saved["n_visited"]
        self._best = saved["best"] and BestIterate(*saved["best"])
        self.improvement = Improvement(*saved["improvement"])
        return saved["solver"]

    def restart(self) -> None:
        """See `Observer`."""
        self.values, self.columns, self._best, self.improvement = [], {}, None, Improvement()

    def forget(self) -> None:
        """See `Observer`."""
        if self.callbacks is not None:
            self.callbacks.forget()

    def begin(self, state: Callable[[], Any]) -> None:
        """See `Observer`."""
        if self.callbacks is not None:
            self.callbacks.begin(self.columns, lambda: self._state(state))

    def _state(self, state: Callable[[], Any]) -> dict[str, Any]:
        """What a checkpoint stores, as `resume` takes it."""
        return {
            "solver": state(),
            "values": self.values,
            "columns": self.columns,
            "n_visited": self.objective.passes.n_visited,
            "best": self._best and tuple(self._best),
            "improvement": tuple(self.improvement),
        }

    def end(self, objective: Objective, state: State, coefficients: Callable) -> End | None:
        """See `Observer`."""
        iterate = Iterate(objective, state.point, coefficients, self.leave)
        self.values.append(state.reading.value)
        entry = {"objective": self.values[-1][0]}
        if state.point.gradient is not None:
            entry["gradient_norm"] = max(state.reading.norm)
        for name, monitor in self.monitors.items():
            entry[f"{name}_loss"], entry[f"{name}_accuracy"] = monitor(iterate)
        entry["seconds"] = perf_counter() - self.began
        for name, value in entry.items():
            self.columns.setdefault(name, []).append(value)
        if self.keeps_best:
            rank = -entry["validation_accuracy"], entry["validation_loss"]
            if self._best is None or rank < self._best.rank:
                self._best = BestIterate(rank, iterate.W)
        if self.verbose:
            print(self._line(entry))
        if self.callbacks is not None and self.callbacks.end(self.columns, lambda: iterate.of_features):
            return End.CALLBACK
        if self.keeps_best and self.patience is not None:
            self.improvement = self.improvement.after(-entry["validation_accuracy"], self.tol)
            if self.improvement.is_over(self.tol, self.patience):
                return End.VALIDATION
        return None

    def _line(self, entry: dict[str, float]) -> str:
        width = len(str(self.max_iter))
        line = f"{self.solver.name} {len(self.values):>{width}}/{self.max_iter}  objective {entry['objective']:<#12.8g}"
        if "gradient_norm" in entry:
            line += f"  max|gradient| {entry['gradient_norm']:.1e}"
        line += f"  passes {self.objective.passes.total:<6.1f}"
        if "validation_accuracy" in entry:
            line += f"  validation accuracy {entry['validation_accuracy']:.4f}"
        return f"{line}  {entry['seconds']:.2f} s"

    def history(self) -> dict[str, np.ndarray]:
        """The history as arrays, by name."""
        count = iteration_name(self.solver)
        names = ["objective", *([] if self.solver.stochastic else ["gradient_norm"]), "seconds"]
        names += [f"{name}_{what}" for name in self.monitors for what in ("loss", "accuracy")]
        arrays = {name: np.array(self.columns.get(name, ()), dtype=np.float64) for name in names}
        return {count: np.arange(1, len(self.values) + 1), **arrays}


def iteration_name(solver: Solver) -> str:
    """What an iteration of the solver is called."""
    return "epoch" if solver.stochastic else "iteration"
