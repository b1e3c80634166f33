"""Callbacks during a fit: scikit-learn's protocol, and what those of `torchlogreg.callbacks` are told besides."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple, Self

from torchlogreg._monitoring.history import MONITORS, Monitor
from torchlogreg._runtime.ranks import ALONE, shared_by
from torchlogreg._runtime.threads import caller_settings, package_settings
from torchlogreg._solvers.base import Solver


class OwnCallback:
    """What the callbacks of `torchlogreg.callbacks` are asked for, beyond scikit-learn's protocol.

    While one of their hooks runs for an iteration, its context has a `FitProgress`.
    """

    @property
    def _monitors(self) -> Collection[str]:
        """Entries of the history that the callback looks at."""
        return ()

    def _resume(self, fingerprint: Callable[[], dict]) -> dict | None:  # noqa: ARG002 - most store nothing
        """The stored state of the interrupted fit that has this fingerprint, None if there is none."""
        return None

    def _forget(self) -> None:
        """Delete what was stored: the fit has ended for good, and what resumed it could only end in the same way."""


class FitProgress(NamedTuple):
    """What the callbacks of `torchlogreg.callbacks` know of a fit."""

    history: dict[str, list]
    attributes: Callable[[], dict] | None  # of the model after the iteration, once it has ended
    state: Callable[[], dict] | None  # what the iteration starts from, before it begins
    fingerprint: Callable[[], dict]


class FitCall(NamedTuple):
    """One call of `fit`, as scikit-learn's callbacks see it."""

    context: Any  # scikit-learn's CallbackContext; None where no callbacks are told
    arguments: dict[str, Any]
    began: float  # by `perf_counter`

    @classmethod
    def begin(cls, estimator, X, y, sample_weight=None, *, max_subtasks: int | None, is_told: bool = True) -> Self:
        """Tell the callbacks that a fit begins, unless another process tells its own."""
        began = perf_counter()
        if not is_told:
            return cls(None, {"estimator": estimator}, began)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        with shared_by(ALONE):  # what callbacks fit themselves is nobody else's
            context = estimator._init_callback_context(max_subtasks=max_subtasks)
            call = cls(context, {"estimator": estimator, "X": X, "y": y, "metadata": metadata}, began)
            context.call_on_fit_task_begin(**call.arguments)
        return call

    def end(self) -> None:
        """Tell the callbacks that the fit has ended."""
        if self.context is None:
            return
        with shared_by(ALONE):
            self.context.call_on_fit_task_end(**self.arguments, reconstruction_attributes={})
        forget(self.estimator)

    @property
    def estimator(self):
        return self.arguments["estimator"]

    @property
    def is_watched(self) -> bool:
        """Whether there are callbacks."""
        return hasattr(self.estimator, "_skl_callbacks")


class CallbackRunner:
    """Runs the callbacks of a fit, one task an iteration.

    `attributes` makes the fitted attributes from coefficients, and `fingerprint` tells this fit from others.
    """

    def __init__(
        self,
        call: FitCall,
        task_name: str,
        attributes: Callable[[Any], dict],
        fingerprint: Callable[[], dict],
    ):
        self._call, self._task_name, self._attributes = call, task_name, attributes
        self._fingerprint = cache(package_settings()(fingerprint))
        self._task: Any = None  # of the iteration

    def resume(self) -> dict | None:
        """The state in the first checkpoint, None without one."""
        found = (callback._resume(self._fingerprint) for callback in own_callbacks(self._call.estimator))
        return next((saved for saved in found if saved is not None), None)

    def forget(self) -> None:
        """Nothing is left to resume."""
        forget(self._call.estimator)

    def begin(self, history: dict[str, list], state: Callable[[], dict]) -> None:
        """Before an iteration; see `FitHistory`."""
        self._task = self._call.context.subcontext(task_name=self._task_name)
        with self._progress(history, None, lambda: ours(state)) as ours:
            self._task.call_on_fit_task_begin(**self._call.arguments)

    def end(self, history: dict[str, list], coefficients: Callable[[], Any]) -> bool:
        """After an iteration that led to these coefficients; whether to stop."""

        def attributes():
            # A model of an earlier fit may have feature names that these rows do not have.
            return {"feature_names_in_": None, **ours(lambda: self._attributes(coefficients()))}

        with self._progress(history, attributes, None) as ours:
            return self._task.call_on_fit_task_end(**self._call.arguments, reconstruction_attributes=attributes)

    @contextmanager
    def _progress(self, history: dict, attributes: Callable | None, state: Callable | None) -> Iterator[Callable]:
        """While hooks run, the task has a `FitProgress`, but no longer: scikit-learn stores all tasks of a search.

        Hooks run under the caller's settings; yields what `caller_settings` does.
        """
        self._task.progress = FitProgress(history, attributes, state, self._fingerprint)
        try:
            with caller_settings() as ours:
                yield ours
        finally:
            del self._task.progress


def own_callbacks(estimator) -> list[OwnCallback]:
    """Those of `torchlogreg.callbacks`."""
    return [callback for callback in getattr(estimator, "_skl_callbacks", ()) if isinstance(callback, OwnCallback)]


def forget(estimator) -> None:
    """Tell the estimator's callbacks that nothing is left to resume."""
    for callback in own_callbacks(estimator):
        callback._forget()


def required_monitors(estimator, solver: Solver, training: Monitor, validation: Monitor | None) -> dict[str, Monitor]:
    """The monitors that callbacks ask for, by name; both where there is validation data."""
    asked = {name for callback in own_callbacks(estimator) for name in callback._monitors}
    if solver.stochastic and "gradient_norm" in asked:
        raise ValueError(
            f"solver={solver.name!r} computes no gradient of all rows: choose another monitor than 'gradient_norm'."
        )
    if validation is not None:
        return {"train": training, "validation": validation}
    if missing := asked & MONITORS["validation"]:
        raise ValueError(f"monitor={min(missing)!r} needs validation data: fit(..., X_val=, y_val=).")
    return {"train": training} if asked & MONITORS["train"] else {}
