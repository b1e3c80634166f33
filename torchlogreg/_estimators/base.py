"""What the two public estimators share: parameters, `fit` and `partial_fit`."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from torchlogreg._data.finite import explained
from torchlogreg._estimators.attributes import replace_attributes
from torchlogreg._estimators.fitting import fitted_model
from torchlogreg._estimators.keywords import suggesting
from torchlogreg._estimators.partial_fit import PartialFitState, partial_fit_attributes
from torchlogreg._estimators.predictor import LinearPredictor
from torchlogreg._estimators.problem import check_combination, fit_inputs
from torchlogreg._estimators.shards import refuse_local_callers
from torchlogreg._export.conversion import from_sklearn_model
from torchlogreg._monitoring.callback_context import FitCall
from torchlogreg._runtime.ranks import collective, current_ranks
from torchlogreg._runtime.sklearn_private import Interval, StrOptions, fit_context
from torchlogreg._runtime.threads import package_settings
from torchlogreg._solvers import SOLVERS

# What `partial_fit` cannot know, for it would take all rows.
OF_ALL_ROWS = ("objective_", "gradient_norm_", "optimality_gap_", "n_passes_", "history_")


class LinearClassifier(LinearPredictor):
    """Everything that the two estimators share."""

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "penalty_weights": ["array-like", dict, None],
        "coef_bounds": ["array-like", dict, None],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterov": ["boolean"],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), None],
        "shuffle": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str, torch.device],
    }

    @suggesting
    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        penalty_weights: ArrayLike | dict | None = None,
        coef_bounds: tuple | dict | None = None,
        fit_intercept: bool = True,
        class_weight: dict | Literal["balanced"] | None = None,
        solver: Literal["auto", "lbfgs", "newton-cholesky", "prox-newton", "sgd"] = "auto",
        tol: float = 1e-4,
        max_iter: int = 100,
        learning_rate: float | Literal["auto"] = "auto",
        momentum: float = 0.9,
        nesterov: bool = False,
        batch_size: int | Literal["auto"] | None = "auto",
        shuffle: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        device: str | torch.device = "auto",
    ):
        self.C = C
        self.l1_ratio = l1_ratio
        self.penalty_weights = penalty_weights
        self.coef_bounds = coef_bounds
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    @collective
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        coef_init: ArrayLike | None = None,
        intercept_init: ArrayLike | None = None,
        X_val: Any = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the model to training data.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features), or stream
            Training rows: a list, NumPy array, pandas or polars frame, sparse matrix, torch tensor, or array of a
            library that supports DLPack. float32 stays float32, every other type becomes float64; tensors of half
            precision and of small integers stay as they are, too, and are converted to float32 and float64 block by
            block. A large ``np.memmap`` is loaded block by block. A stream is an object that yields ``(X, y)`` or ``(X,
            y, sample_weight)`` blocks in each of its iterations, such as a list of them or a torch DataLoader; every
            iteration must yield the same rows.

        y : array-like of shape (n_samples,), default=None
            Class labels: numbers, booleans or strings. None for a stream, which contains them.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive. A weight of 2 is the same as the row given twice, and of 0 the same as
            the row left out, except that its class remains: a class without any weight has a probability of nearly
            zero. None gives every row the weight 1.

        coef_init : array-like of shape (1, n_features) or (n_classes, n_features), default=None
            Coefficients to start from. None starts from zero, or with ``warm_start=True`` from the fitted ones.

        intercept_init : array-like of shape (1,) or (n_classes,), default=None
            Intercepts to start from.

        X_val : array-like, sparse matrix or tensor of shape (n_val_samples, n_features), default=None
            Validation data, in any type that `predict` takes. ``history_`` then has the loss and the accuracy on the
            training and on the validation data, and `early_stopping` uses the latter. In a pipeline, with metadata
            routing, ``Pipeline(..., transform_input=["X_val"])`` transforms it as it does X.

        y_val : array-like of shape (n_val_samples,), default=None
            Labels of the validation data, each of which must be among the classes of y.

        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            Weights of the validation data.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, if there is a single class, if the objective overflows, if a stream
            changes between two passes, or if a checkpoint is damaged or belongs to another fit. The estimator is then
            as it was before the call.
        MemoryError
            If memory runs out: on an accelerator, even in small blocks.

        Warns
        -----
        ConvergenceWarning
            If the solver ended before it met `tol`; the message says why, and what to do.
        RuntimeWarning
            If the memory of an accelerator ran out and the fit continued with smaller blocks.
        """
        check_combination(self)
        refuse_local_callers()
        ranks = current_ranks()
        call = FitCall.begin(self, X, y, sample_weight, max_subtasks=self.max_iter or None, is_told=ranks.rank == 0)
        with package_settings(), torch.inference_mode(False), torch.no_grad():
            start, validation = (coef_init, intercept_init), (X_val, y_val, sample_weight_val)
            inputs = fit_inputs(self, X, y, sample_weight, start=start, validation=validation)
            with explained(inputs.data.X):
                attributes = ranks.led(
                    partial(fitted_model, self, inputs, call), partial(inputs.shared, self.fit_intercept)
                )
        attributes["_seen"] = PartialFitState.after(inputs.data)._asdict()
        replace_attributes(
            self, attributes, stale=["feature_names_in_"], then=partial(ranks.exchanged, call.end, is_last=True)
        )
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Continue with one epoch of mini-batch SGD over some rows.

        Whatever the value of `solver`, `partial_fit` takes the steps of ``'sgd'`` with its parameters
        (`learning_rate`, `momentum`, `nesterov`, `batch_size`, `shuffle`) and the momentum of the call before; `tol`
        and `max_iter` have no effect, and callbacks are not called. It continues from the current model, also from that
        of a `fit`. The penalty is divided by the weight of the rows so far, as in `fit` on all of them; when the block
        of the first call comes again, a new pass over the same rows begins, which adds nothing to that weight.

        With ``learning_rate='auto'`` the rate is half the largest one that is stable on the blocks so far, and
        decreases as ``1 / sqrt(1 + t / 100)`` in the number t of mini-batches; an epoch that increased the objective is
        undone and repeated at half the rate. A number is a constant rate, for streams that drift.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Some rows, as for `fit`.

        y : array-like of shape (n_samples,)
            Labels of the rows. Not every class has to be among them.

        classes : array-like of shape (n_classes,), default=None
            All classes that the stream will contain. Required in the first call unless the model is fitted.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive.

        Returns
        -------
        self : object
            The estimator. ``n_iter_`` counts the calls, and ``loss_curve_`` has for each of them the mean of F before
            each update, both after those of an earlier `fit`. ``converged_`` is False; ``objective_``,
            ``gradient_norm_``, ``optimality_gap_``, ``n_passes_`` and ``history_``, which need all rows, are absent.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, if `classes` is missing in the first call or differs in a later one,
            or if the objective overflows. The estimator is then as it was before the call.
        """
        check_combination(self, in_mini_batches=True)
        if self.early_stopping:
            raise ValueError("partial_fit holds out no rows: set early_stopping=False.")
        attributes = partial_fit_attributes(self, X, y, classes, sample_weight)
        for name in OF_ALL_ROWS:
            vars(self).pop(name, None)
        vars(self).update(attributes)
        return self

    @classmethod
    def from_sklearn(cls, model: LogisticRegression) -> Self:
        """Convert scikit-learn's estimator.

        Parameters
        ----------
        model : LogisticRegression or LogisticRegressionCV
            A fitted :class:`~sklearn.linear_model.LogisticRegression`, or one with cross-validation, whose final model
            is taken.

        Returns
        -------
        estimator : object
            A fitted estimator with the same predictions and, as far as it has them, the same parameters. Solvers that
            it does not have become ``'auto'``. Attributes that scikit-learn does not have, such as ``converged_``, are
            missing.

        Raises
        ------
        TypeError
            If `model` is another estimator.
        NotFittedError
            If it is not fitted.
        ValueError
            If it has more classes than the estimator can have, or one model for each class against the rest.
        """
        return from_sklearn_model(cls, model)
