"""Callbacks for ``TorchLogisticRegression.set_callbacks`` and ``TorchSoftmaxClassifier.set_callbacks``.

They follow scikit-learn's protocol (:class:`~sklearn.callback.FitCallback`) and go together with its own callbacks. One
instance may watch several fits, also at the same time, but for :class:`Checkpoint`, whose file is that of one fit.
"""

import hashlib
import io
import json
import math
import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch

from torchlogreg._data.array_api import numpy_of
from torchlogreg._displays.boundary import MovingBoundary
from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._export.safetensors import is_special, replace_file
from torchlogreg._monitoring.callback_context import OwnCallback
from torchlogreg._monitoring.history import MONITORS
from torchlogreg._runtime.sklearn_private import check_matplotlib_support
from torchlogreg._runtime.warn import warn
from torchlogreg._solvers import STATES

__all__ = ["Checkpoint", "EarlyStopping", "LiveBoundary"]

ACCURACIES = "train_accuracy", "validation_accuracy"
CHOICES = "objective", "gradient_norm", *sorted(MONITORS["train"] | MONITORS["validation"])
MAGIC = b"torchlogreg checkpoint 1\n"  # the number is raised when an older version would misread a file
CHECKSUMS = "data or weights", "start", "validation data"


class _Callback(OwnCallback):
    """A callback of the two estimators."""

    def setup(self, estimator, context):
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

    def _begin(self, context):
        """Check what has to hold before the fit of a task."""

    def teardown(self, estimator, context):  # noqa: ARG002 - the protocol's
        """Stop watching a fit, however it ended.

        Parameters
        ----------
        estimator : object
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task of the fit.
        """
        self._end(context)

    def _end(self, context):
        """Let go of what was kept for the fit of a task."""

    def on_fit_task_begin(self, estimator, context):
        """Begin a task: the fit, or an iteration of it."""

    def on_fit_task_end(self, estimator, context):
        """End a task; true to stop the fit."""


class EarlyStopping(_Callback):
    """Stop a fit when a number of its history is good enough, or no longer gets better.

    Parameters
    ----------
    monitor : str, default='validation_loss'
        What to watch, an entry of ``history_``: ``'objective'``, ``'gradient_norm'`` (not for ``solver='sgd'``),
        ``'train_loss'``, ``'train_accuracy'``, or of the rows in ``fit(..., X_val=..., y_val=...)``
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
        ``fit``, if it does not know the monitor.

    See Also
    --------
    TorchLogisticRegression : Its parameter ``early_stopping`` restores the best iterate on the rows to validate on.

    Notes
    -----
    The fit keeps the iterate at which it stops (with ``early_stopping=True`` and rows to validate on, the best one on
    them), and warns of nothing. ``converged_`` says whether `tol` was met there. Loss and accuracy on the training
    rows take a read of X in each epoch of ``'sgd'``, and where the other solvers do not keep the logits.

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

    def __init__(self, monitor="validation_loss", *, threshold=None, patience=None, min_delta=0.0):
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
    def _monitors(self):
        return {self.monitor}

    def on_fit_task_end(self, estimator, context):  # noqa: ARG002 - the protocol's
        """Stop after an iteration that is good enough, or one too many.

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
        noted = progress.history[self.monitor]
        if self.threshold is not None and sign * noted[-1] < sign * self.threshold:
            return True
        if self.patience is None or len(noted) <= self.patience:
            return False
        values = [sign * value for value in noted]
        return not min(values[-self.patience :]) < min(values[: -self.patience]) - self.min_delta


class Checkpoint(_Callback):
    """Write where a fit stands to a file, and go on from there when the same fit is run again.

    A process may be killed at any moment: the file is then whole, and the fit that goes on from it has the iterates,
    and with them the coefficients, ``n_iter_``, ``loss_curve_`` and ``history_`` (but its times), of one that was never
    interrupted. A fit that ends removes its file, and so does one whose objective overflows.

    Parameters
    ----------
    path : str or path-like
        The file. Its folder must be there.

    every : int, default=10
        How many iterations, or epochs, lie between two writes. One takes as long as writing what the solver has in
        memory: coefficients, and for ``solver='lbfgs'`` its metric and up to 100 pairs of their size.

    Raises
    ------
    ValueError
        If `every` is not positive; from ``fit``, if the file is a pipe or a device, damaged, no checkpoint, or that of
        another fit: of other data, another start, other parameters or another version, or if a search fits the
        estimator. The message says what differs.
    FileNotFoundError
        From ``fit``, if the folder is missing.

    Notes
    -----
    All of X, y and the weights are read once for a checksum. `max_iter` may be another one but for ``'sgd'``, whose
    rate it determines, and `verbose` in any case. Other callbacks may come and go, unless they add the loss and the
    accuracy of the training rows to the history. With as many threads as before the iterates are the same to the last
    bit; otherwise sums over the rows are rounded differently. A file holds numbers only, and reading it executes
    nothing.

    With ``random_state=None`` the order of the rows in ``solver='sgd'`` goes on as it began; but rows that
    ``early_stopping`` holds out need a `random_state` that tells them.

    Examples
    --------
    Run again after an interruption, these lines go on where they were:

    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from torchlogreg import TorchSoftmaxClassifier
    >>> from torchlogreg.callbacks import Checkpoint
    >>> X, y = load_digits(return_X_y=True)
    >>> path = os.path.join(tempfile.gettempdir(), "digits.checkpoint")
    >>> model = TorchSoftmaxClassifier().set_callbacks(Checkpoint(path, every=5)).fit(X, y)
    >>> model.converged_, os.path.exists(path)
    (True, False)
    """

    def __init__(self, path, *, every=10):
        _check_count(every, "every")
        self.path, self.every = path, every

    def _begin(self, context):
        _check_folder(self.path, "checkpoint")
        if is_special(self.path):
            raise ValueError(
                f"{self.path} is no regular file, and a checkpoint is read again and removed in the end: pass another "
                "path."
            )
        while (context := context.parent) is not None:
            if not context.sequential_subtasks:  # as those of a search are, which may run at the same time
                raise ValueError(
                    f"The file of a Checkpoint belongs to one fit, and {context.estimator_name} runs many. Set it on "
                    "the best model alone, and fit that."
                )

    def _resume(self, fingerprint):
        fingerprint = fingerprint()
        try:
            content = Path(self.path).read_bytes()
        except FileNotFoundError:
            return None
        remedy = "Delete it to start afresh, or pass another path."
        if not content.startswith(MAGIC):
            raise ValueError(f"{self.path} is no checkpoint, or one of another version of torchlogreg. {remedy}")
        digest, content = content[len(MAGIC) :][:32], content[len(MAGIC) + 32 :]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"The checkpoint {self.path} is damaged: its content does not match its SHA-256. {remedy}")
        header, payload = content.split(b"\n", 1)
        before, now = json.loads(header), json.loads(json.dumps(fingerprint))
        differences = [
            f"other {name}" if name in CHECKSUMS else f"{name} was {before.get(name)} and is {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise ValueError(f"{self.path} is the checkpoint of another fit: {', '.join(differences)}. {remedy}")
        with torch.serialization.safe_globals(STATES):
            return torch.load(io.BytesIO(payload), weights_only=True)

    def on_fit_task_begin(self, estimator, context):  # noqa: ARG002 - the protocol's
        """Write the file before an iteration that is due: from here the fit goes on for certain.

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
        payload = io.BytesIO()
        torch.save(progress.state(), payload)
        header = json.dumps(progress.fingerprint()).encode() + b"\n"
        digest = hashlib.sha256(header)
        with payload.getbuffer() as numbers:
            digest.update(numbers)
            replace_file(self.path, MAGIC, digest.digest(), header, numbers)

    def _forget(self):
        Path(os.path.realpath(self.path)).unlink(missing_ok=True)  # a link stays a link


class LiveBoundary(_Callback):
    """Draw the rows of two features and the boundary between the classes while a fit goes on.

    The title has the mean loss, the accuracy and, for two classes, the coefficients. In a notebook or with a window the
    picture changes as the fit goes on; with a `path` it becomes an animation as well.

    Parameters
    ----------
    every : int, default=1
        Iterations, or epochs, from one picture to the next; the first and the last one are drawn in any case.

    path : str or path-like, default=None
        Animated GIF to write when the fit ends.

    ax : matplotlib axes, default=None
        Axes to draw on; None makes a figure for each fit, which is closed at its end unless it has a window.

    fps : float, default=10
        Pictures a second in the GIF.

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
        If the GIF could not be written when the fit had ended; the model is kept.

    Notes
    -----
    Of more than 2000 rows as many are drawn, evenly spaced. Loss and accuracy, of all rows, are those of ``history_``.

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

    _monitors = MONITORS["train"]

    def __init__(self, every=1, *, path=None, ax=None, fps=10):
        _check_count(every, "every")
        if not _is_finite(fps) or fps <= 0:
            raise ValueError(f"fps must be a positive number, got {fps!r}.")
        self.every, self.path, self.ax, self.fps = every, path, ax, fps
        self._pictures = {}  # and what waits to be drawn, by the fit's task

    def __getstate__(self):
        return {**vars(self), "_pictures": {}}  # a window stays where it is

    def _begin(self, context):  # noqa: ARG002 - whatever the task is
        check_matplotlib_support("LiveBoundary")
        if self.path is not None:
            _check_folder(self.path, "animation")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):  # noqa: ARG002 - the protocol's
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

    def on_fit_task_end(self, estimator, context, *, X=None, y=None):  # noqa: ARG002 - the protocol's
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
        frame = attributes, _title(context.task_name, n_iter, progress.history, attributes)
        if due:
            picture.draw(*frame)
        self._pictures[key] = picture, None if due else frame

    def _end(self, context):
        """Draw the last picture and write the animation."""
        picture, waiting = self._pictures.pop(id(context), (None, None))
        if waiting is not None:
            picture.draw(*waiting)
        if picture is None:
            return
        try:
            picture.close()
        except (OSError, ValueError) as error:  # ValueError: of a suffix that no format has
            warn(
                f"The animation {self.path} could not be written: {error}. To have it, fit again with a path to a .gif "
                "file that can be written; the model is what it would be with it.",
                UserWarning,
            )


def _title(task_name, n_iter, history, attributes):
    title = f"{task_name} {n_iter}: loss {history['train_loss'][-1]:.5f}, accuracy {history['train_accuracy'][-1]:.3f}"
    coef, intercept = numpy_of(attributes["coef_"]), numpy_of(attributes["intercept_"])
    if len(coef) > 1:
        return title
    return title + "\nw = ({:.4f}, {:.4f}), b = {:.4f}".format(*coef[0], intercept[0])


def _check_folder(path, what):
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of the {what} is missing: {folder}")


def _is_finite(value):
    return isinstance(value, Real) and math.isfinite(value)


def _check_count(value, name):
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
