"""The two public estimators: parameters, documentation, fit and the methods that predict."""

from functools import partial
from importlib.metadata import version
from numbers import Integral, Real
from time import perf_counter

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.checksum import checksum
from torchlogreg._data.finite import explained
from torchlogreg._data.prediction import prediction_parts
from torchlogreg._data.targets import known
from torchlogreg._data.training_data import block_data, design_of, fit_data
from torchlogreg._data.validation import dense_coefficients
from torchlogreg._estimators.keywords import Suggesting, suggesting
from torchlogreg._estimators.partial_fit import PartialFitState, partial_fit_step
from torchlogreg._export.conversion import from_sklearn_model
from torchlogreg._export.mixin import Portable
from torchlogreg._monitoring.callback_context import CallbackRunner, forget
from torchlogreg._monitoring.history import FitHistory
from torchlogreg._monitoring.monitors import held_out_data, training_monitor, validation_data
from torchlogreg._objective.certificate import optimality_bound
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import Ridge, strengths
from torchlogreg._objective.reparametrisation import NonEmptyColumns
from torchlogreg._runtime.out_of_memory import translated, with_room
from torchlogreg._runtime.sklearn_private import (
    Interval,
    SparseCoefMixin,
    StrOptions,
    check_same_namespace,
    fit_context,
)
from torchlogreg._runtime.threads import fit_arithmetic, mapped, package_settings, plain_arithmetic
from torchlogreg._solvers import SOLVERS, access_of, choose
from torchlogreg._solvers.driver import Settings, minimise
from torchlogreg._solvers.sgd import SGD


class LinearPredictor(Portable, Suggesting, CallbackSupportMixin, SparseCoefMixin, ClassifierMixin, BaseEstimator):
    """What a fitted model does."""

    def decision_function(self, X):
        """Logits: the log-odds of the second class, or one score a class.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column for two classes, where a positive value predicts ``classes_[1]``.
        """
        return self._predict(X, "decision_function", lambda _, eta: eta.squeeze(-1))

    def predict(self, X):
        """The most probable class of each row.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        return self._predict(X, "predict", lambda loss, eta: loss.choice(eta), indices=True)

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns are ordered as ``classes_``.
        """
        return self._predict(X, "predict_proba", lambda loss, eta: loss.log_proba(eta).exp_())

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class, accurate where the probability itself underflows.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            Columns are ordered as ``classes_``.
        """
        return self._predict(X, "predict_log_proba", lambda loss, eta: loss.log_proba(eta))

    def score(self, X, y, sample_weight=None):
        """Accuracy on the given rows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Test rows.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        Returns
        -------
        score : float
            Share of the rows, by weight, that `predict` is right about.
        """
        return super().score(X, known(y), numpy_of(sample_weight))

    def _predict(self, X, method, transform, *, indices=False):
        """transform(loss, logits (n, 1, K))[:, 0] of every row, block by block; the classes at those `indices`."""
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="coef_", method=method)
        space, classes = Space.of(X), numpy_of(self.classes_)
        loss, labels = loss_of(len(classes)), classes if indices else None
        seen, eta = vars(self).get("_known", (None, None))  # a model in cross-validation has its logits already
        if seen is not None and X is seen:
            with package_settings():
                return space.joined([transform(loss, eta)[:, 0]], len(eta), labels)
        coef = np.column_stack([dense_coefficients(self.coef_), numpy_of(self.intercept_)])  # (K, p + 1)
        W = torch.from_numpy(coef.T[None].copy())

        def work():
            n_rows, parts = prediction_parts(self, X, W.dtype)
            return space.joined(_pieces(parts, W, partial(transform, loss)), n_rows, labels)

        # A tensor that is an answer may meet autograd later.
        with package_settings(), torch.inference_mode(False), torch.no_grad():
            return with_room(work)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


def _pieces(parts, W, transform):
    """transform(logits) of several rows, block by block."""
    for rows in parts:
        V = W.to(rows.compute.device, rows.compute.dtype)

        def piece(block, X=rows.X, V=V):
            with plain_arithmetic(X):  # not while the piece is taken, which may raise
                return transform(block.matvec(V))[:, 0]

        yield from mapped(piece, rows.blocks(W.shape[2]), rows.compute.device)


class LinearClassifier(LinearPredictor):
    """Everything that the two estimators share."""

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
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
        C=1.0,
        l1_ratio=0.0,
        fit_intercept=True,
        class_weight=None,
        solver="auto",
        tol=1e-4,
        max_iter=100,
        learning_rate="auto",
        momentum=0.9,
        nesterov=False,
        batch_size="auto",
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        warm_start=False,
        random_state=None,
        verbose=0,
        device="auto",
    ):
        self.C = C
        self.l1_ratio = l1_ratio
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

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y=None,
        sample_weight=None,
        *,
        coef_init=None,
        intercept_init=None,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
    ):
        """Fit the model to training data.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features), or stream
            Training rows: a list, NumPy array, pandas or polars frame, sparse matrix, torch tensor, or array of a
            library that speaks DLPack. float32 is kept, every other type becomes float64; tensors of half precision and
            of small integers are kept as well, and lifted to float32 and float64 block by block. A large ``np.memmap``
            is read block by block. A stream is an object that yields ``(X, y)`` or ``(X, y, sample_weight)`` blocks in
            each of its iterations, such as a list of them or a torch DataLoader; every iteration must yield the same
            rows.

        y : array-like of shape (n_samples,), default=None
            Class labels: numbers, booleans or strings. None for a stream, which brings them.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive. A weight of 2 is the same as the row given twice, and of 0 as the row
            left out, but for its class: one without any weight remains, with a probability that is nearly zero. None
            gives every row the weight 1.

        coef_init : array-like of shape (1, n_features) or (n_classes, n_features), default=None
            Coefficients to start from. None starts from zero, or with ``warm_start=True`` from the fitted ones.

        intercept_init : array-like of shape (1,) or (n_classes,), default=None
            Intercepts to start from.

        X_val : array-like, sparse matrix or tensor of shape (n_val_samples, n_features), default=None
            Rows to validate on, in any type that `predict` takes. ``history_`` then has the loss and the accuracy on
            the training rows and on these, and `early_stopping` goes by these. In a pipeline, with metadata routing,
            ``Pipeline(..., transform_input=["X_val"])`` transforms them as it does X.

        y_val : array-like of shape (n_val_samples,), default=None
            Their labels, each of which must be among the classes of y.

        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            Weight of each of them.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, holds a single class, or makes the objective overflow, if a stream
            changes between two reads, and if a checkpoint is damaged or that of another fit. The estimator then is as
            it was before the call.
        MemoryError
            If memory runs out: on an accelerator, even in small blocks.
        NotImplementedError
            If ``l1_ratio`` is not 0.

        Warns
        -----
        ConvergenceWarning
            If the solver ended before it met `tol`; the message says why, and what to do.
        RuntimeWarning
            If the memory of an accelerator ran out and the fit went on with smaller blocks.
        """
        began = perf_counter()
        self._check_combination()
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._init_callback_context(max_subtasks=self.max_iter or None)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)

        with package_settings(), torch.inference_mode(False), torch.no_grad():
            with translated(device=True):
                data = fit_data(self, X, y, sample_weight, access_of(self.solver), validated=X_val is not None)
                validation = validation_data(self, data, X_val, y_val, sample_weight_val)
            W = self._start(data, loss_of(len(data.classes)), coef_init, intercept_init, go_on=self.warm_start)
            callbacks = partial(CallbackRunner, self, context, {"X": X, "y": y, "metadata": metadata})
            with explained(data.X):
                fitted = with_room(partial(self._fitted, data, validation, W, callbacks, began))
        fitted["_seen"] = PartialFitState.after(data)._asdict()
        before = dict(vars(self))
        self.__dict__.pop("feature_names_in_", None)
        vars(self).update(fitted)
        try:
            context.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={})
            forget(self)
        except BaseException:  # a callback's error must not leave half a model behind
            self.__dict__ = before
            raise
        return self

    def _fitted(self, data, validation, W, callbacks, began):
        """The attributes of the model that minimises the objective."""
        loss = loss_of(len(data.classes))
        with fit_arithmetic(data.X):
            train, held_out = self._split(data) if validation is None else (None, None)
            if held_out is not None:
                validation = held_out_data(data, loss, held_out, intercept=self.fit_intercept)
            rows = design_of(data, loss, train, intercept=self.fit_intercept)
            filled = NonEmptyColumns.of(rows, W, wanted=self.solver != "sgd")
            rows = filled.design
            strength = strengths(self.C, self.l1_ratio)
            penalty = Ridge.of(
                strength.l2, rows.n_features, intercept=self.fit_intercept, accumulation=rows.accumulation
            )
            objective = Objective.of(rows, loss, penalty)
            keeps_best = self.early_stopping and validation is not None
            solver = self._solver(objective, keeps_best)
            attributes = partial(model_attributes, data=data, intercept=self.fit_intercept)
            fingerprint = partial(self._fingerprint, data, rows, solver, W, validation, held_out)
            callbacks = callbacks(solver, attributes, fingerprint, training_monitor(data, train), validation)
            history = FitHistory(
                objective,
                solver,
                self.max_iter,
                monitors=callbacks.monitors,
                keeps_best=keeps_best,
                callbacks=callbacks if callbacks.active else None,
                leave=filled.leave,
                verbose=self.verbose,
                began=began,
                patience=self.n_iter_no_change if keeps_best else None,
                tol=self.tol,
            )
            result = minimise(
                objective,
                solver,
                filled.enter(W).to(rows.accumulation.device),
                Settings(self.tol, self.max_iter, to_float32 if data.dtype == np.float32 else None),
                history,
            )
            bound = optimality_bound(objective, result.point)
        return {
            **attributes(filled.leave(result.point.W)),
            "solver_": solver.name,
            "device_": str(rows.device),
            "n_iter_": data.space.array(result.n_iter.numpy(force=True).astype(np.int32)),
            "converged_": bool(result.converged),
            "objective_": float(result.point.value),
            "gradient_norm_": float(result.point.gradient_norm),
            "optimality_gap_": float(bound),
            "n_passes_": objective.passes.total,
            "loss_curve_": data.space.array(np.array(history.values).reshape(-1)),
            "history_": history.history(),
        }

    def _fingerprint(self, data, rows, solver, W, validation, held_out):
        """What this fit is recognised by: plain values, by what messages call them."""
        if held_out is not None and self.random_state is None:
            raise ValueError("Other rows would be held out when the fit is resumed: set random_state, or pass X_val.")
        parameters = self.get_params(deep=False)
        for name in ("verbose", "device", *([] if solver.stochastic else ["max_iter"])):
            del parameters[name]
        if isinstance(self.random_state, np.random.RandomState):
            parameters["random_state"] = np.random.RandomState  # not its place in memory
        return {
            "version": version("torchlogreg"),
            "estimator": type(self).__name__,
            **{name: repr(value) for name, value in parameters.items()},
            "solver_": solver.name,
            "device_": str(data.X.device),
            "shape of X": tuple(data.X.shape),
            "dtype of coef_": str(data.dtype),
            "classes": repr(data.classes.tolist()),
            "data or weights": rows.fingerprint(),  # before S divides them: the penalty depends on it
            "start": checksum([W]),
            "validation data": None if validation is None else validation.fingerprint(),
        }

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go on with one epoch of mini-batch SGD over some rows.

        Whatever `solver` says, `partial_fit` steps as ``'sgd'`` does, with its parameters (`learning_rate`, `momentum`,
        `nesterov`, `batch_size`, `shuffle`) and the momentum of the call before; `tol` and `max_iter` have no effect,
        and callbacks are not run. It continues from whatever the model is, be it from a `fit`. The penalty is divided
        by the weight of the rows so far, as in `fit` on all of them; once the block of the first call comes again, a
        new pass over the same rows begins, which adds nothing to that weight.

        With ``learning_rate='auto'`` the rate is half the largest one that is stable on the blocks so far, and falls as
        ``1 / sqrt(1 + t / 100)`` in the number t of mini-batches; an epoch that raised the objective is undone and run
        again at half of it. A number is a constant rate, for streams that drift.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Some rows, as for `fit`.

        y : array-like of shape (n_samples,)
            Their labels. Not every class need be among them.

        classes : array-like of shape (n_classes,), default=None
            All classes that the stream will hold. Required in the first call unless the model is fitted.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive.

        Returns
        -------
        self : object
            The estimator. ``n_iter_`` counts the calls, ``loss_curve_`` has F of each, as its updates found it, after
            those of a `fit` that came before. ``converged_`` is False; ``objective_``, ``gradient_norm_``,
            ``optimality_gap_``, ``n_passes_`` and ``history_``, which would take all rows, are absent.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, `classes` is missing in the first call or another one later, or the
            objective overflows. The estimator then is as it was before the call.
        NotImplementedError
            If ``l1_ratio`` is not 0.
        """
        self._check_combination()
        if self.early_stopping:
            raise ValueError("partial_fit holds out no rows: set early_stopping=False.")
        before = PartialFitState(**self._seen) if hasattr(self, "_seen") else None
        with package_settings(), torch.inference_mode(False), torch.no_grad(), translated(device=True):
            data = block_data(self, X, y, classes, sample_weight)
        arithmetic = fit_arithmetic(data.X)
        with torch.inference_mode(False), torch.no_grad(), translated(device=True), explained(data.X), arithmetic:
            loss = loss_of(len(data.classes))
            rows = design_of(data, loss, intercept=self.fit_intercept)
            n_iter = 1 + (0 if before is None else int(np.max(numpy_of(self.n_iter_))))
            seed = check_random_state(self.random_state).randint(2**31 - 1) + n_iter  # another order in every call
            W = rows.to_accumulation(self._start(data, loss, go_on=True))
            l2 = strengths(self.C, self.l1_ratio).l2
            step = partial_fit_step(self._sgd(seed), rows, loss, l2, W, PartialFitState.after(data, before))
            found = model_attributes(step.W, data, self.fit_intercept)
        curve = np.append([] if before is None else numpy_of(self.loss_curve_), step.value)
        if self.verbose:
            print(f"partial_fit {n_iter:>4}  objective {step.value:.8g}  learning rate {step.rate:.3g}")
        for name in ("objective_", "gradient_norm_", "optimality_gap_", "n_passes_", "history_"):
            self.__dict__.pop(name, None)
        vars(self).update(
            found,
            solver_="sgd",
            device_=str(rows.device),
            n_iter_=data.space.array(np.array([n_iter], dtype=np.int32)),
            converged_=False,
            loss_curve_=data.space.array(curve),
            _seen=step.seen._asdict(),
        )
        return self

    @classmethod
    def from_sklearn(cls, model):
        """Convert scikit-learn's estimator.

        Parameters
        ----------
        model : LogisticRegression or LogisticRegressionCV
            A fitted :class:`~sklearn.linear_model.LogisticRegression`, or one with cross-validation, of which the final
            model is taken.

        Returns
        -------
        estimator : object
            A fitted estimator with the same predictions and, where it has them, the same parameters. Solvers that it
            does not have become ``'auto'``. What scikit-learn does not say, such as ``converged_``, is missing.

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

    def _check_combination(self):
        """Raise for parameters that do not go together."""
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum greater than 0.")
        if self.l1_ratio != 0:
            raise NotImplementedError(
                f"l1_ratio={self.l1_ratio} is not supported yet: use l1_ratio=0 (the L2 penalty), with C=np.inf for no "
                "penalty at all."
            )

    def _start(self, data, loss, coef_init=None, intercept_init=None, *, go_on):
        """The coefficients to start from, (1, d, K) in float64; to `go_on`, the fitted ones."""
        shape = (loss.n_logits, data.X.shape[1])
        coef, intercept = np.zeros(shape), np.zeros(shape[0])
        if go_on and hasattr(self, "coef_"):
            coef, intercept, classes = map(dense_coefficients, (self.coef_, self.intercept_, self.classes_))
            if coef.shape != shape or not np.array_equal(classes, data.classes):
                raise ValueError(
                    f"warm_start=True needs the classes and the number of features of the previous fit: they were "
                    f"{classes.tolist()} and {self.n_features_in_}, now they are {data.classes.tolist()} and "
                    f"{shape[1]}. Set warm_start=False to start afresh."
                )
        if self.fit_intercept and data.mass is not None and np.count_nonzero(data.mass) == 1:
            # The probability of that class tends to one: the optimum is at infinity, and this is as good.
            coef, intercept = (
                np.zeros(shape),
                loss.certain_logits(torch.tensor([data.mass.argmax()], device="cpu"))[0].numpy(),
            )
        if coef_init is not None:
            coef = _checked_start(coef_init, shape, "coef_init")
        if intercept_init is not None:
            if not self.fit_intercept:
                raise ValueError("intercept_init was given, but fit_intercept=False.")
            intercept = _checked_start(intercept_init, shape[:1], "intercept_init")
        W = np.column_stack([coef, intercept]) if self.fit_intercept else np.asarray(coef)
        return torch.from_numpy(W.T[None].astype(np.float64))

    def _split(self, data):
        """Indices of the training rows and, with early_stopping, of those held out; None for all and none."""
        if not (self.early_stopping and self.solver == "sgd"):
            return None, None
        usable = np.flatnonzero(data.weight > 0)
        codes = data.codes[usable]
        single = np.bincount(codes)[codes] == 1  # the only row of a class that weighs anything is trained on
        usable, kept = usable[~single], usable[single]
        splitter = StratifiedShuffleSplit(1, test_size=self.validation_fraction, random_state=self.random_state)
        train, held_out = next(splitter.split(usable, data.codes[usable]))
        return np.concatenate([usable[train], kept]), usable[held_out]

    def _solver(self, objective, validated):
        """The solver with its settings; `validated` if other rows say when to stop."""
        name = choose(objective.design, objective.loss.n_logits) if self.solver == "auto" else self.solver
        if name == "newton-cholesky":
            return SOLVERS[name]()
        # Samples of rows are the same in every fit unless asked otherwise; an order of rows is not.
        default = 0 if name == "lbfgs" else None
        seed = check_random_state(default if self.random_state is None else self.random_state).randint(2**31 - 1)
        if name == "lbfgs":
            return SOLVERS[name](seed=seed)
        return self._sgd(seed, validated)

    def _sgd(self, seed, validated=False):
        """The solver "sgd" with its settings."""
        return SGD(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            batch_size=32 if self.batch_size == "auto" else self.batch_size and int(self.batch_size),
            shuffle=self.shuffle,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            n_epochs=max(1, self.max_iter),
            seed=seed,
            validated=validated,
        )


def model_attributes(W, data, intercept):
    """What a model needs to predict, by attribute name, from W (1, d, K)."""
    coef = W[0].numpy(force=True).T.astype(data.dtype, order="C")  # (K, d)
    n_features = data.X.shape[1]
    return {
        **data.schema,
        "coef_": data.space.array(np.ascontiguousarray(coef[:, :n_features])),
        "intercept_": data.space.array(coef[:, -1].copy() if intercept else np.zeros(len(coef), data.dtype)),
    }


def to_float32(W):
    return W.float().to(W.dtype)


def _checked_start(value, shape, name):
    value = np.asarray(numpy_of(value), dtype=np.float64)
    if value.shape != shape and not (shape[0] == 1 and value.shape == shape[1:]):
        raise ValueError(f"{name} has shape {value.shape}; expected {shape}.")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return value.reshape(shape)
