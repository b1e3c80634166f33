"""The two public estimators: parameters, documentation, fit and the methods that predict."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from torchlogreg._arithmetic import plain_arithmetic
from torchlogreg._compat import Interval, StrOptions, fit_context
from torchlogreg._docs import documented
from torchlogreg._inputs import fit_data, prediction_parts, rows_of
from torchlogreg._losses import loss_of
from torchlogreg._memory import translated, with_room
from torchlogreg._minimise import minimise
from torchlogreg._penalty import Ridge, strengths
from torchlogreg._problem import Problem
from torchlogreg.solvers import SOLVERS, choose


class LinearPredictor(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """What a fitted model does."""

    def decision_function(self, X):
        """Logits: the log-odds of the second class, or one score a class.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column for two classes, where a positive value predicts ``classes_[1]``.
        """
        scores = self._predict(X, lambda _, eta: eta[:, 0])
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X):
        """The most probable class of each row.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        return self._predict(X, lambda _, eta: self.classes_[_most_probable(eta[:, 0]).numpy(force=True)])

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns are ordered as ``classes_``.
        """
        return self._predict(X, lambda loss, eta: loss.log_proba(eta)[:, 0].exp_())

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class, accurate where the probability itself underflows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            Columns are ordered as ``classes_``.
        """
        return self._predict(X, lambda loss, eta: loss.log_proba(eta)[:, 0])

    def _predict(self, X, transform):
        """transform(loss, logits) of every row, block by block, as one NumPy array."""
        check_is_fitted(self)
        seen, eta = vars(self).get("_known", (None, None))  # a model in cross-validation has its logits already
        loss = loss_of(len(self.classes_))
        if seen is not None and X is seen:
            return _as_array(transform(loss, eta))
        coef = np.column_stack([self.coef_, self.intercept_])  # (K, p + 1)
        W = torch.from_numpy(coef.T[None].copy())

        def work():
            n_rows, parts = prediction_parts(self, X, W.dtype)
            out, start = None, 0
            for rows in parts:
                with torch.inference_mode(), plain_arithmetic(rows.X):
                    V = W.to(rows.products.device, rows.products.dtype)
                    for block in rows.blocks(loss.n_logits):
                        piece = _as_array(transform(loss, block.predict(V)))
                        out = np.empty((n_rows, *piece.shape[1:]), piece.dtype) if out is None else out
                        out[start : start + len(piece)] = piece
                        start += len(piece)
            return out

        return with_room(work)


def _as_array(piece):
    return piece.numpy(force=True) if isinstance(piece, torch.Tensor) else piece


def _most_probable(eta):
    """Codes (n,) of the classes with the largest logits (n, K)."""
    return (eta[:, 0] > 0).long() if eta.shape[1] == 1 else eta.argmax(dim=1)


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
        "device": [str],
    }

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
    def fit(self, X, y=None, sample_weight=None, *, coef_init=None, intercept_init=None):
        """Fit the model to training data.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features), or stream
            Training rows: a list, NumPy array, pandas or polars frame, or torch tensor. float32 is kept, every other
            type becomes float64 (float16 and bfloat16 tensors become float32). A large ``np.memmap`` is read block by
            block. A stream is an object that yields ``(X, y)`` or ``(X, y, sample_weight)`` blocks in each of its
            iterations, such as a list of them or a torch DataLoader; every iteration must yield the same rows.

        y : array-like of shape (n_samples,), default=None
            Class labels: numbers, booleans or strings. None for a stream, which brings them.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weight of each row, zero or positive. A weight of 2 is the same as the row given twice, and of 0 as the row
            left out. None gives every row the weight 1.

        coef_init : array-like of shape (1, n_features) or (n_classes, n_features), default=None
            Coefficients to start from. None starts from zero, or with ``warm_start=True`` from the fitted ones.

        intercept_init : array-like of shape (1,) or (n_classes,), default=None
            Intercepts to start from.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, holds a single class, or makes the objective overflow, and if a
            stream changes between two reads. The estimator then is as it was before the call.
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
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum greater than 0.")
        if self.l1_ratio != 0:
            raise NotImplementedError(
                f"l1_ratio={self.l1_ratio} is not supported yet: use l1_ratio=0 (the L2 penalty), with C=np.inf for no "
                "penalty at all."
            )
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._init_callback_context(max_subtasks=self.max_iter or None)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)

        with torch.inference_mode(False), torch.no_grad():
            with translated(device=True):
                data = fit_data(self, X, y, sample_weight)
            loss = loss_of(len(data.classes))
            W = self._start(data, loss, coef_init, intercept_init)
            observer = partial(_Callbacks, self, context, arguments={"X": X, "y": y, "metadata": metadata})
            fitted = with_room(partial(self._fitted, data, loss, W, observer))
        before = dict(vars(self))
        self.__dict__.pop("feature_names_in_", None)
        vars(self).update(fitted)
        try:
            context.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={})
        except BaseException:  # a callback's error must not leave half a model behind
            self.__dict__ = before
            raise
        return self

    def _fitted(self, data, loss, W, observer):
        """The attributes of the model that minimises the objective."""
        with plain_arithmetic(data.X, one_column=len(data.classes) == 2):
            train, held_out = self._split(data)
            rows = rows_of(data, loss, train, intercept=self.fit_intercept)
            strength = strengths(self.C, self.l1_ratio)
            penalty = Ridge.of(strength.l2, data.X.shape[1], intercept=self.fit_intercept, home=rows.home)
            problem = Problem.of(rows, loss, penalty)
            solver = self._solver(problem, data, held_out)
            attributes = partial(model_attributes, data=data, intercept=self.fit_intercept)
            result = minimise(
                problem,
                solver,
                W.to(rows.home.device),
                tol=self.tol,
                max_iter=self.max_iter,
                store=to_float32 if data.dtype == np.float32 else None,
                observer=observer(solver, attributes),
                verbose=self.verbose,
            )
            bound = problem.optimality_bound(result.point)
        return {
            **attributes(result.point.W),
            "solver_": solver.name,
            "device_": str(rows.device),
            "n_iter_": result.n_iter,
            "converged_": result.converged,
            "objective_": float(result.point.value),
            "gradient_norm_": float(result.point.gradient_norm),
            "optimality_gap_": float(bound),
            "n_passes_": problem.passes.total,
            "loss_curve_": result.loss_curve[:, 0],
        }

    def _start(self, data, loss, coef_init, intercept_init):
        """The coefficients to start from, (1, d, K) in float64."""
        shape = (loss.n_logits, data.X.shape[1])
        coef, intercept = np.zeros(shape), np.zeros(shape[0])
        if self.warm_start and hasattr(self, "coef_"):
            if self.coef_.shape != shape or not np.array_equal(self.classes_, data.classes):
                raise ValueError(
                    f"warm_start=True needs the classes and the number of features of the previous fit: they were "
                    f"{self.classes_.tolist()} and {self.n_features_in_}, now they are {data.classes.tolist()} and "
                    f"{shape[1]}. Set warm_start=False to start afresh."
                )
            coef, intercept = self.coef_, self.intercept_
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
        splitter = StratifiedShuffleSplit(1, test_size=self.validation_fraction, random_state=self.random_state)
        train, held_out = next(splitter.split(usable, data.codes[usable]))
        return usable[train], usable[held_out]

    def _solver(self, problem, data, held_out):
        """The solver with its settings."""
        n, d = problem.rows.shape
        name = self.solver
        if name == "auto":
            name = choose(n, d, problem.loss.n_logits, in_memory=problem.rows.in_memory)
        if name == "newton-cholesky":
            return SOLVERS[name]()
        # Samples of rows are the same in every fit unless asked otherwise; an order of rows is not.
        default = 0 if name == "lbfgs" else None
        seed = check_random_state(default if self.random_state is None else self.random_state).randint(2**31 - 1)
        if name == "lbfgs":
            return SOLVERS[name](seed=seed)
        score = None
        if held_out is not None:
            rows = rows_of(data, problem.loss, held_out, intercept=self.fit_intercept)
            score = partial(_accuracy, rows, torch.from_numpy(data.codes[held_out]))
        return SOLVERS[name](
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            batch_size=32 if self.batch_size == "auto" else self.batch_size and int(self.batch_size),
            shuffle=self.shuffle,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            n_epochs=max(1, self.max_iter),
            seed=seed,
            score=score,
        )


class _Callbacks:
    """The observer that runs scikit-learn's callbacks, one task an iteration."""

    def __init__(self, estimator, context, solver, attributes, *, arguments):
        self.estimator, self.context, self.attributes = estimator, context, attributes
        self.arguments = {"estimator": estimator, **arguments}
        self.task_name = "epoch" if solver.stochastic else "iteration"
        self.active = hasattr(estimator, "_skl_callbacks")
        self.task = None

    def begin(self):
        if self.active:
            self.task = self.context.subcontext(task_name=self.task_name)
            self.task.call_on_fit_task_begin(**self.arguments)

    def end(self, step, coefficients):
        if not self.active:
            return False

        def attributes():
            # A model of an earlier fit may have feature names that these rows do not have.
            return {"feature_names_in_": None, **self.attributes(coefficients(step.point.W))}

        return self.task.call_on_fit_task_end(**self.arguments, reconstruction_attributes=attributes)


def model_attributes(W, data, intercept):
    """What a model needs to predict, by attribute name, from W (1, d, K)."""
    coef = W[0].numpy(force=True).T.astype(data.dtype, order="C")  # (K, d)
    n_features = data.X.shape[1]
    return {
        **data.schema,
        "classes_": data.classes,
        "coef_": np.ascontiguousarray(coef[:, :n_features]),
        "intercept_": coef[:, -1].copy() if intercept else np.zeros(len(coef), data.dtype),
    }


def to_float32(W):
    return W.float().to(W.dtype)


def _accuracy(rows, codes, W):
    """Weighted accuracy of W on `rows`, as `score` computes it."""
    eta = torch.cat([block.predict(W)[:, 0] for block in rows.blocks()]).cpu()
    predicted = _most_probable(eta)
    weight = rows.weight[:, 0].cpu()
    return float((weight * (predicted == codes)).sum() / weight.sum())


def _checked_start(value, shape, name):
    value = np.asarray(value, dtype=np.float64)
    if value.shape != shape and not (shape[0] == 1 and value.shape == shape[1:]):
        raise ValueError(f"{name} has shape {value.shape}; expected {shape}.")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return value.reshape(shape)


@documented(
    summary="Logistic regression for two classes.",
    notes="""
    The model is ``P(y = classes_[1] | x) = sigmoid(coef_ @ x + intercept_)``.""",
    other=":class:`TorchSoftmaxClassifier` : The same for any number of classes.",
    example="""
    >>> from sklearn.datasets import load_breast_cancer
    >>> from torchlogreg import TorchLogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = TorchLogisticRegression().fit(X, y)
    >>> model.converged_
    True
    >>> round(model.score(X, y), 3)
    0.958""",
)
class TorchLogisticRegression(LinearClassifier):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


@documented(
    summary="Softmax (multinomial logistic) regression for any number of classes.",
    notes="""
    The model is ``P(y = classes_[k] | x) = softmax(coef_ @ x + intercept_)[k]``, with one row of coefficients for each
    class. Two classes are fitted with a single logit, as :class:`~sklearn.linear_model.LogisticRegression` does; a
    softmax with two rows, both penalised, gives the same probabilities at ``C`` as the single logit at ``2 C``.""",
    other=":class:`TorchLogisticRegression` : The same for two classes only.",
    example="""
    >>> from sklearn.datasets import load_wine
    >>> from torchlogreg import TorchSoftmaxClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = TorchSoftmaxClassifier().fit(X, y)
    >>> model.coef_.shape
    (3, 13)
    >>> round(model.score(X, y), 3)
    0.994""",
)
class TorchSoftmaxClassifier(LinearClassifier):
    pass
