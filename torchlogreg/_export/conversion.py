"""Models as those of other libraries: scikit-learn's LogisticRegression, a torch module, and back."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.validation import plain
from torchlogreg._export.safetensors import check_attributes
from torchlogreg._runtime.warn import warn


class LogisticModule(torch.nn.Module):
    """A linear layer and a sigmoid or softmax: a fitted model as a torch module.

    ``to_torch`` of an estimator or a pipeline makes one. A new one predicts the same probability for every class, until
    it is trained or given a state: ``module.load_state_dict(torch.load(path, weights_only=True))``.

    Parameters
    ----------
    n_features : int
        Number of features.

    n_classes : int
        Number of classes. Two classes have one logit, more have one each.

    device : torch.device or str, default=None
        Device of the parameters.

    dtype : torch.dtype, default=None
        Their dtype, which that of the input must be.

    Attributes
    ----------
    linear : torch.nn.Linear
        The layer, with weights of shape (1, n_features) or (n_classes, n_features), and a bias.

    See Also
    --------
    to_torch : Converts a fitted estimator, or a pipeline that ends in one.

    Examples
    --------
    >>> import torch
    >>> from torchlogreg import LogisticModule
    >>> module = LogisticModule(n_features=4, n_classes=3)
    >>> module(torch.ones(2, 4)).shape
    torch.Size([2, 3])
    >>> sorted(module.state_dict())
    ['linear.bias', 'linear.weight']
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"A classifier has at least two classes, got n_classes={n_classes}.")
        K = 1 if n_classes == 2 else n_classes
        self.linear = torch.nn.Linear(n_features, K, device="meta")  # draws no random numbers there
        self.linear.weight = torch.nn.Parameter(torch.zeros(K, n_features, device=device, dtype=dtype))
        self.linear.bias = torch.nn.Parameter(torch.zeros(K, device=device, dtype=dtype))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Probability of each class.

        Parameters
        ----------
        X : tensor of shape (..., n_features)
            Rows.

        Returns
        -------
        proba : tensor of shape (..., n_classes)
            Rows sum to one; columns are ordered as ``classes_`` of the estimator.
        """
        logits = self.linear(X)
        if logits.shape[-1] > 1:
            return logits.softmax(dim=-1)
        return torch.cat([-logits, logits], dim=-1).sigmoid()

    def logits(self, X: torch.Tensor) -> torch.Tensor:
        """What the losses of torch take: one logit a row for two classes, else one for each class.

        Parameters
        ----------
        X : tensor of shape (..., n_features)
            Rows.

        Returns
        -------
        logits : tensor of shape (...,) or (..., n_classes)
            For ``torch.nn.functional.binary_cross_entropy_with_logits`` and ``cross_entropy``; the same as the
            estimator's ``decision_function``.
        """
        logits = self.linear(X)
        return logits if logits.shape[-1] > 1 else logits[..., 0]


def to_torch(model: Any) -> LogisticModule:
    """A fitted pipeline as a torch module, with its scaling folded into the linear layer.

    Parameters
    ----------
    model : Pipeline or estimator
        A fitted :class:`~sklearn.pipeline.Pipeline` of :class:`~sklearn.preprocessing.StandardScaler`,
        :class:`~sklearn.preprocessing.MinMaxScaler`, :class:`~sklearn.preprocessing.MaxAbsScaler`,
        :class:`~sklearn.preprocessing.RobustScaler` and ``'passthrough'`` in any number and order, and one of our
        estimators. Or the estimator alone, of which this is the method ``to_torch``.

    Returns
    -------
    module : LogisticModule
        A module with parameters of its own, on the CPU, in the dtype of ``coef_``: ``module.to(device, dtype)`` changes
        both. Its forward maps rows, not scaled, to probabilities of shape (n_samples, n_classes).

    Raises
    ------
    TypeError
        If a step is none of these.
    ValueError
        If a step clips, or the folded coefficients overflow their dtype.
    NotFittedError
        If a step is not fitted.

    Notes
    -----
    Where a feature's mean is large against its spread, rows in float32 have lost digits that scaling in float64 would
    have kept. Fit the pipeline to float64 data to get a module in float64.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torchlogreg import TorchSoftmaxClassifier, to_torch
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(X, y)
    >>> proba = to_torch(model)(torch.from_numpy(X))
    >>> bool(abs(proba.detach().numpy() - model.predict_proba(X)).max() < 1e-12)
    True
    """
    *scalers, (_, last) = _steps(model)
    module = _our(last).to_torch()
    if not scalers:
        return module
    last = plain(last)
    scale, shift = np.ones(last.n_features_in_), np.zeros(last.n_features_in_)
    for a, b in [_affine(*step) for step in scalers]:
        scale, shift = a * scale, a * shift + b
    coef = np.float64(last.coef_)
    weight, bias = (v.astype(last.coef_.dtype) for v in (coef * scale, last.intercept_ + coef @ shift))
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(
            f"With the scaling folded in, coefficients overflow {weight.dtype}: fit the pipeline to float64 data, or "
            "scale the data yourself and convert the last step alone."
        )
    return _filled(module, weight, bias)


def to_sklearn(model: Any) -> Pipeline | LogisticRegression:
    """A fitted pipeline with scikit-learn's LogisticRegression in place of our estimator.

    Parameters
    ----------
    model : Pipeline or estimator
        A fitted :class:`~sklearn.pipeline.Pipeline` that ends in one of our estimators. Or the estimator alone, of
        which this is the method ``to_sklearn``.

    Returns
    -------
    converted : Pipeline or LogisticRegression
        A fitted pipeline with copies of the other steps, or a fitted
        :class:`~sklearn.linear_model.LogisticRegression`. Its predictions are the same.

    Raises
    ------
    TypeError
        If the last step is not one of ours.
    NotFittedError
        If it is not fitted.

    Warns
    -----
    UserWarning
        If it was fitted with `penalty_weights` or `coef_bounds`, which LogisticRegression does not have.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torchlogreg import TorchSoftmaxClassifier, to_sklearn
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(X, y)
    >>> to_sklearn(model)[-1]
    LogisticRegression()
    """
    *others, (name, last) = _steps(model)
    last_converted = _our(last).to_sklearn()
    if last is model:
        return last_converted
    converted = copy(model)
    converted.steps = [*deepcopy(others), (name, last_converted)]
    return converted


def as_module(model: Any) -> LogisticModule:
    """A fitted estimator as a torch module."""
    check_is_fitted(model)
    model = plain(model)
    with torch.inference_mode(False):  # under which no parameter could be trained
        dtype = torch.float32 if model.coef_.dtype == np.float32 else torch.float64
        module = LogisticModule(model.n_features_in_, len(model.classes_), device="cpu", dtype=dtype)
        return _filled(module, model.coef_, model.intercept_)


def as_sklearn(model: Any) -> LogisticRegression:
    """A fitted estimator as a LogisticRegression."""
    check_is_fitted(model)
    model = plain(model)
    parameters: dict[str, Any] = {**_shared(model), **_penalty(model)}
    lost = [name for name in ("penalty_weights", "coef_bounds") if getattr(model, name, None) is not None]
    if lost:
        warn(
            f"LogisticRegression has no {' and no '.join(lost)}: the converted model predicts the same, but to fit it "
            "again would give another model.",
            UserWarning,
        )
    solver = model.solver if model.solver in SHARED_SOLVERS else "lbfgs"
    converted = LogisticRegression(**parameters, solver="saga" if parameters["l1_ratio"] else solver)
    for name in ("coef_", "intercept_", "classes_", "n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(converted, name, deepcopy(getattr(model, name)))
    if hasattr(model, "n_iter_"):
        converted.n_iter_ = np.array([np.max(model.n_iter_)], dtype=np.int32)
    return converted


def from_sklearn_model(cls: Any, model: Any) -> Any:
    """A fitted LogisticRegression as an estimator of class `cls`."""
    if not isinstance(model, LogisticRegression):
        raise TypeError(
            f"from_sklearn takes a LogisticRegression or LogisticRegressionCV, not a {type(model).__name__}. Of a "
            "pipeline that ends in one, give the last step, pipeline[-1]."
        )
    check_is_fitted(model)
    if sparse.issparse(model.coef_):
        raise ValueError("coef_ is sparse: call densify() of the LogisticRegression first.")
    model = plain(model)  # one that was fitted under array API dispatch has tensors
    # A model that an older scikit-learn pickled may have more than two classes and no softmax, or two and one.
    multi_class = vars(model).get("multi_class", "auto")
    if len(model.classes_) > 2 and (model.solver == "liblinear" or multi_class == "ovr"):
        raise ValueError(
            "The LogisticRegression has one model for each class against the rest, and their probabilities form no "
            "softmax. Convert each of them, or fit with another solver."
        )
    if len(model.classes_) == 2 and multi_class == "multinomial":
        raise ValueError(
            "The LogisticRegression is a softmax of two rows, of which one logit gives other probabilities."
        )
    coef = np.array(model.coef_)
    attributes = {
        "classes_": np.array(model.classes_),
        "coef_": coef,
        "intercept_": np.array(np.broadcast_to(model.intercept_, len(coef)), dtype=coef.dtype),
        "n_features_in_": model.n_features_in_,
        "n_iter_": np.array([np.max(model.n_iter_)], dtype=np.int32),
        "solver_": model.solver,
    }
    if hasattr(model, "feature_names_in_"):
        attributes["feature_names_in_"] = model.feature_names_in_.copy()
    solver = model.solver if model.solver in SHARED_SOLVERS else "auto"
    converted = cls(**_shared(model), **_penalty(model), solver=solver)
    check_attributes(converted, attributes)
    vars(converted).update(attributes)
    return converted


def _shared(model: Any) -> dict[str, Any]:
    """Parameters that scikit-learn's LogisticRegression and our estimators have in common."""
    return {name: value for name, value in model.get_params(deep=False).items() if name in SHARED}


def _penalty(model: Any) -> dict[str, float]:
    """C and l1_ratio of a model: those it was given or, with cross-validation, those it chose."""
    chosen = {name: getattr(model, f"{name}_", None) for name in ("C", "l1_ratio")}
    values = {name: getattr(model, name) if value is None else value for name, value in chosen.items()}
    values |= PENALTIES.get(getattr(model, "penalty", "deprecated"), {})
    values = {name: np.unique([0.0 if value is None else value]) for name, value in values.items()}
    if any(len(value) > 1 for value in values.values()):
        raise ValueError("The classes have different values of C or l1_ratio; one model has one of each.")
    return {name: float(value[0]) for name, value in values.items()}


def _steps(model: Any) -> list[tuple[str, Any]]:
    """The steps of a pipeline, or an estimator as the only step."""
    return model.steps if isinstance(model, Pipeline) else [("", model)]


def _our(last: Any) -> Any:
    if not hasattr(last, "to_torch"):
        raise TypeError(f"The model must be one of torchlogreg's, or a Pipeline that ends in one; got {last!r}.")
    return last


def _affine(name: str, scaler: Any) -> tuple:
    """(a, b) of a step that maps each feature x to a x + b."""
    if scaler in ("passthrough", None):
        return 1.0, 0.0
    if type(scaler) not in AFFINE:
        raise TypeError(
            f"The step {name!r} is a {type(scaler).__name__}, which cannot be folded into a linear layer; those that "
            f"can are {', '.join(sorted(cls.__name__ for cls in AFFINE))}. Apply that step to the data, and convert "
            "the last one alone: pipeline[-1].to_torch()."
        )
    check_is_fitted(scaler)
    if getattr(scaler, "clip", False):
        raise ValueError(f"The step {name!r} clips, which a linear layer cannot do: fit it with clip=False.")
    return AFFINE[type(scaler)](scaler)


def _divided(scale: Any, centre: Any) -> tuple:
    """(a, b) of (x - centre) / scale."""
    a = 1.0 if scale is None else 1 / np.float64(scale)
    return a, 0.0 if centre is None else -np.float64(centre) * a


def _filled(module: LogisticModule, weight: np.ndarray, bias: np.ndarray) -> LogisticModule:
    """The module with these parameters."""
    with torch.no_grad():
        module.linear.weight.copy_(torch.from_numpy(np.array(weight)))  # a copy, for it may be read-only
        module.linear.bias.copy_(torch.from_numpy(np.array(bias)))
    return module


SHARED = ("fit_intercept", "class_weight", "tol", "max_iter", "warm_start", "random_state", "verbose")
SHARED_SOLVERS = ("lbfgs", "newton-cholesky")  # of the same name, with an L2 penalty
PENALTIES = {None: {"C": np.inf, "l1_ratio": 0.0}, "l2": {"l1_ratio": 0.0}, "l1": {"l1_ratio": 1.0}}
AFFINE = {
    MaxAbsScaler: lambda s: _divided(s.scale_, None),
    MinMaxScaler: lambda s: (np.float64(s.scale_), np.float64(s.min_)),
    RobustScaler: lambda s: _divided(s.scale_ if s.with_scaling else None, s.center_ if s.with_centering else None),
    StandardScaler: lambda s: _divided(s.scale_ if s.with_std else None, s.mean_ if s.with_mean else None),
}
