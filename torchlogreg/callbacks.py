"""Callbacks for ``TorchLogisticRegression.set_callbacks`` and ``TorchSoftmaxClassifier.set_callbacks``.

They follow scikit-learn's protocol (:class:`~sklearn.callback.FitCallback`) and can be combined with its own callbacks.
One instance may watch several fits, also at the same time, except a :class:`Checkpoint`, whose file belongs to one fit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from torchlogreg._displays.boundary import MovingBoundary, boundary_title
from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._monitoring.callback_context import OwnCallback
from torchlogreg._monitoring.checkpoint import read_checkpoint, write_checkpoint
from torchlogreg._monitoring.history import MONITORS
from torchlogreg._runtime.files import is_special
from torchlogreg._runtime.sklearn_private import check_matplotlib_support
from torchlogreg._runtime.warn import warn

__all__ = ["Checkpoint", "EarlyStopping", "LiveBoundary"]

ACCURACIES = "train_accuracy", "validation_accuracy"
CHOICES = "objective", "gradient_norm", *sorted(MONITORS["train"] | MONITORS["validation"])


class _Callback(OwnCallback):
    """A callback of the two estimators."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Start watching a fit.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task of the fit.
        """
        if not isinstance(estimator, LinearClassifier):
            raise TypeError(
                f"{type(self).__name__} watches TorchLogisticRegression and TorchSoftmaxClassifier, not "
                f"{type(estimator).__name__}. In a pipeline or a search, call set_callbacks of that estimator."
            )
        self._begin(context)

    def _begin(self, context: Any) -> None:
        """Check the conditions of a fit, given its task."""

    def teardown(self, estimator: Any, context: Any) -> None:  # noqa: ARG002 - the protocol's
        """Stop watching a fit, however it ended.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task of the fit.
        """
        self._end(context)

    def _end(self, context: Any) -> None:
        """Discard what was stored for a fit, given its task."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Begin a task: the fit, or an iteration of it."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool | None:
        """End a task; true to stop the fit."""


class EarlyStopping(_Callback):
    """Stop a fit when a number of its history is good enough, or no longer gets better.

    Parameters
    ----------
    monitor : str, default='validation_loss'
        What to watch, an entry of ``history_``: ``'objective'``, ``'gradient_norm'`` (not for ``solver='sgd'``),
        ``'train_loss'``, ``'train_accuracy'``, or for the validation data in ``fit(..., X_val=..., y_val=...)``
        ``'validation_loss'`` and ``'validation_accuracy'``.

    threshold : float, default=None
        Stop as soon as an accuracy is above it, or anything else below it.

    patience : int, default=None
        Stop when none of the last `patience` iterations is better than the best one before them.

    min_delta : float, default=0.0
        How much better it has to be to count, for `patience`.

    Raises
    ------
    ValueError
        If `monitor` is not among those, neither `threshold` nor `patience` is given, or a number is out of range; from
        ``fit``, if the fit does not have that monitor.

    See Also
    --------
    TorchLogisticRegression : Its parameter ``early_stopping`` restores the best iterate on the validation data.

    Notes
    -----
    The result is the iterate at which the fit stops (with ``early_stopping=True`` and validation data, the best one on
    that data), without a warning. ``converged_`` says whether `tol` was met there. Loss and accuracy on the training
    rows take a pass over the data in each epoch of ``'sgd'``, and where the other solvers do not store the logits.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.callbacks import EarlyStopping
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = TorchLogisticRegression(solver="sgd", random_state=0)
    >>> model.set_callbacks(EarlyStopping("train_accuracy", threshold=0.98)).fit(scale(X), y).score(scale(X), y) > 0.98
    True
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        threshold: float | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
    ):
        if monitor not in CHOICES:
            raise ValueError(f"monitor must be one of {list(CHOICES)}, got {monitor!r}.")
        if threshold is None and patience is None:
            raise ValueError("Set a threshold, a patience, or both: EarlyStopping would never stop.")
        if patience is not None:
            _check_count(patience, "patience")
        if threshold is not None and not _is_finite(threshold):
            raise ValueError(f"threshold must be a finite number, got {threshold!r}.")
        if not _is_finite(min_delta) or min_delta < 0:
            raise ValueError(f"min_delta must be a finite number, zero or positive, got {min_delta!r}.")
        self.monitor, self.threshold, self.patience, self.min_delta = monitor, threshold, patience, min_delta

    @property
    def _monitors(self) -> Collection[str]:
        return {self.monitor}

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:  # noqa: ARG002 - the protocol's
        """Stop after an iteration that is good enough, or after too many without improvement.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task that ends.

        Returns
        -------
        stop : bool
            Whether to stop.
        """
        progress = getattr(context, "progress", None)
        if progress is None:
            return False
        sign = -1.0 if self.monitor in ACCURACIES else 1.0
        values = [sign * value for value in progress.history[self.monitor]]
        if self.threshold is not None and values[-1] < sign * self.threshold:
            return True
        if self.patience is None or len(values) <= self.patience:
            return False
        return not min(values[-self.patience :]) < min(values[: -self.patience]) - self.min_delta


class Checkpoint(_Callback):
    """Write the state of a fit to a file, and resume from there when the same fit is run again.

    A process may be killed at any moment: the file is then complete, and the fit that resumes from it has the iterates,
    and with them the coefficients, ``n_iter_``, ``loss_curve_`` and ``history_`` (except its times), of one that was
    never interrupted. A fit that ends removes its file, and so does one whose objective overflows.

    Parameters
    ----------
    path : str or path-like
        The file. Its folder must exist.

    every : int, default=10
        Number of iterations, or epochs, from one write to the next. A write takes as long as writing what the solver
        has in memory: coefficients, and for ``solver='lbfgs'`` its preconditioner and up to 100 pairs of their size.

    Raises
    ------
    ValueError
        If `every` is not positive; from ``fit``, if the file is a pipe or a device, damaged, not a checkpoint, or the
        checkpoint of another fit (of other data, another start, other parameters or another version), or if a search
        fits the estimator. The message says what differs.
    FileNotFoundError
        From ``fit``, if the folder is missing.

    Notes
    -----
    A checksum of X, y and the weights takes one pass over them. `verbose` may change between the runs, and so may
    `max_iter`, except for ``'sgd'``, whose learning rate depends on it. Other callbacks may be added or removed, unless
    they add the loss and the accuracy of the training rows to the history. With the same number of threads the iterates
    are the same to the last bit; otherwise sums over the rows are rounded differently. A file holds numbers only, and
    loading it executes nothing.

    With ``random_state=None`` the order of the rows in ``solver='sgd'`` continues as it began; but if
    ``early_stopping`` holds out rows, set `random_state`, so that the same rows are held out again.

    Examples
    --------
    Run again after an interruption, with the same path, these lines continue where they stopped:

    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from torchlogreg import TorchSoftmaxClassifier
    >>> from torchlogreg.callbacks import Checkpoint
    >>> X, y = load_digits(return_X_y=True)
    >>> path = os.path.join(tempfile.mkdtemp(), "digits.checkpoint")
    >>> model = TorchSoftmaxClassifier().set_callbacks(Checkpoint(path, every=5)).fit(X, y)
    >>> model.converged_, os.path.exists(path)
    (True, False)
    """

    def __init__(self, path: str | os.PathLike, *, every: int = 10):
        _check_count(every, "every")
        self.path, self.every = path, every

    def _begin(self, context: Any) -> None:
        _check_folder(self.path, "checkpoint")
        if is_special(self.path):
            raise ValueError(
                f"{self.path} is not a regular file, but a checkpoint is loaded from its file and removed in the end: "
                "pass another path."
            )
        while (context := context.parent) is not None:
            if not context.sequential_subtasks:  # as those of a search are, which may run at the same time
                raise ValueError(
                    f"The file of a Checkpoint belongs to one fit, and {context.estimator_name} runs many. Set it on "
                    "the best model alone, and fit that."
                )

    def _resume(self, fingerprint: Callable[[], dict]) -> Any:
        return read_checkpoint(self.path, fingerprint)

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:  # noqa: ARG002 - the protocol's
        """Write the file, if it is due, before an iteration: no rule can end the fit between this point and the next.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task that begins.
        """
        progress = getattr(context, "progress", None)
        if progress is None or progress.state is None:
            return
        n_iter = len(progress.history.get("objective", ()))
        if not n_iter or n_iter % self.every:
            return
        write_checkpoint(self.path, progress.fingerprint(), progress.state())

    def _forget(self) -> None:
        Path(os.path.realpath(self.path)).unlink(missing_ok=True)  # a link stays a link


class LiveBoundary(_Callback):
    """Draw the rows of two features and the boundary between the classes during a fit.

    The title shows the mean loss, the accuracy and, for two classes, the coefficients. In a notebook or with a window
    the picture changes during the fit; with a `path` it becomes an animation as well.

    Parameters
    ----------
    every : int, default=1
        Iterations, or epochs, from one picture to the next; the first and the last one are drawn in any case.

    path : str or path-like, default=None
        Animated GIF to write when the fit ends.

    ax : matplotlib axes, default=None
        Axes to draw on; None makes a figure for each fit, which is closed at its end unless it has a window.

    fps : float, default=10
        Pictures per second in the GIF.

    Raises
    ------
    ValueError
        If `every` or `fps` is not positive; from ``fit``, if X does not have two features.
    FileNotFoundError
        From ``fit``, if the folder of `path` is missing.
    ImportError
        From ``fit``, if matplotlib is missing: ``pip install 'torchlogreg[plot]'``.

    Warns
    -----
    UserWarning
        If the GIF could not be written when the fit had ended. The model is fitted all the same.

    Notes
    -----
    At most 2000 rows are drawn, evenly spaced. Loss and accuracy are those of all rows, as in ``history_``.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import make_blobs
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.callbacks import LiveBoundary
    >>> X, y = make_blobs(100, centers=2, random_state=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "boundary.gif")
    >>> model = TorchLogisticRegression().set_callbacks(LiveBoundary(path=path)).fit(X, y)
    >>> os.path.getsize(path) > 0
    True
    """

    def __init__(self, every: int = 1, *, path: str | os.PathLike | None = None, ax: Any = None, fps: float = 10):
        _check_count(every, "every")
        if not _is_finite(fps) or fps <= 0:
            raise ValueError(f"fps must be a positive number, got {fps!r}.")
        self.every, self.path, self.ax, self.fps = every, path, ax, fps
        self._pictures = {}  # each with a frame that is not drawn yet, by the task of the fit

    @property
    def _monitors(self) -> Collection[str]:
        return MONITORS["train"]

    def __getstate__(self):
        return {**vars(self), "_pictures": {}}  # a window cannot be pickled

    def _begin(self, context: Any) -> None:  # noqa: ARG002 - the same for every task
        check_matplotlib_support("LiveBoundary")
        if self.path is not None:
            _check_folder(self.path, "animation")

    def on_fit_task_begin(
        self,
        estimator: Any,  # noqa: ARG002 - the protocol's
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
    ) -> None:
        """Check the number of features.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task that begins.

        X : array-like
            The training rows.

        y : array-like
            Their labels; None for a stream, which cannot be drawn.
        """
        if hasattr(context, "progress"):
            return
        shape = tuple(X.shape) if hasattr(X, "shape") else ()
        if y is not None and isinstance(X, (list, tuple)):
            shape = np.shape(X)
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"LiveBoundary draws rows of two features, X of shape (n_samples, 2); got {shape}.")

    def on_fit_task_end(
        self,
        estimator: Any,  # noqa: ARG002 - the protocol's
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
    ) -> None:
        """Draw a picture after an iteration.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task that ends.

        X : array-like
            The training rows.

        y : array-like
            Their labels.
        """
        progress = getattr(context, "progress", None)
        if progress is None:
            return
        n_iter, attributes = len(progress.history["objective"]), progress.attributes()
        key = id(context.parent)
        if key in self._pictures:
            picture, _ = self._pictures[key]
            due = n_iter % self.every == 0
        else:
            picture, due = MovingBoundary(X, y, attributes, ax=self.ax, path=self.path, fps=self.fps), True
        frame = attributes, boundary_title(context.task_name, n_iter, progress.history, attributes)
        if due:
            picture.draw(*frame)
        self._pictures[key] = picture, None if due else frame

    def _end(self, context: Any) -> None:
        """Draw the last picture and write the animation."""
        picture, waiting = self._pictures.pop(id(context), (None, None))
        if waiting is not None:
            picture.draw(*waiting)
        if picture is None:
            return
        try:
            picture.close()
        except (OSError, ValueError) as error:  # ValueError: a suffix that belongs to no format
            warn(
                f"The animation {self.path} could not be written: {error}. To get it, fit again with a path to a .gif "
                "file that can be written; the model does not depend on it.",
                UserWarning,
            )


def _check_folder(path: str | os.PathLike, what: str) -> None:
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of the {what} is missing: {folder}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _check_count(value: Any, name: str) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
