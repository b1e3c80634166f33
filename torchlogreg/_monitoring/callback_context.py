"""Callbacks during a fit: scikit-learn's protocol, and what those of `torchlogreg.callbacks` are told besides."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from torchlogreg._monitoring.history import MONITORS
from torchlogreg._runtime.threads import caller_settings, package_settings


class OwnCallback:
    """What the callbacks of `torchlogreg.callbacks` are asked for, beyond scikit-learn's protocol.

    While a hook of theirs runs for an iteration, its context has a `FitProgress`.
    """

    _monitors = frozenset()  # entries of the history that have to be there

    def _resume(self, fingerprint):
        """The state of the interrupted fit that is recognised by `fingerprint()`, None if there is none."""

    def _forget(self):
        """Nothing is left to resume: the fit has ended, and no callback may undo that, or it can only fail again."""


class FitProgress(NamedTuple):
    """What they know of a fit."""

    history: dict  # lists by name
    attributes: Callable | None  # those of the model after the iteration, once it has ended
    state: Callable | None  # what the iteration goes on from, before it begins
    fingerprint: Callable  # what the fit is recognised by


class CallbackRunner:
    """What runs scikit-learn's callbacks, one task an iteration.

    Those of `torchlogreg.callbacks` are told more, see `OwnCallback`.
    """

    def __init__(self, estimator, context, arguments, solver, attributes, fingerprint, training, validation):
        self.active, self.own = hasattr(estimator, "_skl_callbacks"), own_callbacks(estimator)
        self.context, self.arguments = context, {"estimator": estimator, **arguments}
        self.task_name = "epoch" if solver.stochastic else "iteration"
        self.attributes, self.task = attributes, None
        self.monitors = self._monitors_of(training, validation)
        self.fingerprint = cache(
            package_settings()(lambda: {**fingerprint(), "train_loss in history_": "train" in self.monitors})
        )

    def _monitors_of(self, training, validation):
        """The monitors that are asked for, by name; both if there are rows to validate on."""
        asked = {name for callback in self.own for name in callback._monitors}
        if self.task_name == "epoch" and "gradient_norm" in asked:
            raise ValueError("solver='sgd' knows no gradient of all rows: choose another monitor than 'gradient_norm'.")
        if validation is not None:
            return {"train": training, "validation": validation}
        if missing := asked & MONITORS["validation"]:
            raise ValueError(f"monitor={min(missing)!r} needs rows to validate on: fit(..., X_val=, y_val=).")
        return {"train": training} if asked & MONITORS["train"] else {}

    def resume(self):
        """What the first checkpoint says, None without."""
        found = (callback._resume(self.fingerprint) for callback in self.own)
        return next((saved for saved in found if saved is not None), None)

    def forget(self):
        """Nothing is left to resume."""
        forget(self.arguments["estimator"])

    def begin(self, history, state):
        """Before an iteration; see `FitHistory`."""
        self.task = self.context.subcontext(task_name=self.task_name)
        with self._progress(history, None, state and (lambda: ours(state))) as ours:
            self.task.call_on_fit_task_begin(**self.arguments)

    def end(self, history, coefficients):
        """After an iteration that led to these coefficients; whether to stop."""

        def attributes():
            # A model of an earlier fit may have feature names that these rows do not have.
            return {"feature_names_in_": None, **ours(lambda: self.attributes(coefficients()))}

        with self._progress(history, attributes, None) as ours:
            return self.task.call_on_fit_task_end(**self.arguments, reconstruction_attributes=attributes)

    @contextmanager
    def _progress(self, *known):
        """While hooks run, the task has a `FitProgress`; scikit-learn keeps the tasks of a whole search to its end.

        They run under the caller's settings; yields what `caller_settings` does.
        """
        self.task.progress = FitProgress(*known, self.fingerprint)
        try:
            with caller_settings() as ours:
                yield ours
        finally:
            del self.task.progress


def own_callbacks(estimator):
    """Those of `torchlogreg.callbacks`."""
    return [callback for callback in getattr(estimator, "_skl_callbacks", ()) if isinstance(callback, OwnCallback)]


def forget(estimator):
    """Tell its callbacks that nothing is left to resume."""
    for callback in own_callbacks(estimator):
        callback._forget()
