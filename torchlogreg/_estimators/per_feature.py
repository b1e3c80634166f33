"""`penalty_weights` and `coef_bounds`: what the features have of their own, from what users pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from reprlib import repr  # long arrays are cut short
from typing import Any

import numpy as np

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.training_data import TrainingData
from torchlogreg._objective.penalties import PerFeature


def bounding_parameter(estimator: Any) -> str | None:
    """The parameter that makes bounds, one of them infinite weights, which leave features out; None without bounds."""
    if estimator.coef_bounds is not None:
        sides = (np.concatenate([*map(np.ravel, _raw(side, "coef_bounds"))]) for side in _sides(estimator.coef_bounds))
        if any(np.isfinite(side).any() for side in sides):
            return "coef_bounds"
    weights = [] if estimator.penalty_weights is None else _raw(estimator.penalty_weights, "penalty_weights")
    return "infinite penalty_weights" if any(np.isinf(values).any() for values in weights) else None


def per_feature(estimator: Any, data: TrainingData) -> PerFeature:
    """The weights and bounds of the features of checked data; bounds have the precision of `coef_`."""
    features = _Features(data.X.shape[1], data.schema.get("feature_names_in_"))
    weights, bounds = estimator.penalty_weights, estimator.coef_bounds
    if weights is not None:
        weights = features.values(weights, "penalty_weights", 1.0)
        features.check(weights >= 0, "penalty_weights must be numbers from 0 to infinity", weights)
    lower, upper = np.full(features.n, -np.inf), np.full(features.n, np.inf)
    if bounds is not None:
        lower, upper = (
            features.values(side, "coef_bounds", default).astype(data.dtype).astype(np.float64)
            for side, default in zip(_sides(bounds), (-np.inf, np.inf), strict=True)
        )
        features.check(lower <= upper, "coef_bounds must be numbers with lower <= upper", lower, upper)
        features.check((lower < np.inf) & (upper > -np.inf), "coef_bounds leave no finite number", lower, upper)
    if weights is not None and np.isinf(weights).any():
        out = np.isinf(weights)
        excluded = "an infinite weight leaves a feature out, but its coef_bounds exclude 0"
        features.check(~out | ((lower <= 0) & (upper >= 0)), f"penalty_weights: {excluded}", lower, upper)
        weights, lower, upper = np.where(out, 1.0, weights), np.where(out, 0.0, lower), np.where(out, 0.0, upper)
    if not (np.isfinite(lower).any() or np.isfinite(upper).any()):
        return PerFeature(weights)
    return PerFeature(weights, lower, upper)


class _Features:
    """The features of a table, by number and, where it has names, by name."""

    def __init__(self, n: int, names: np.ndarray | None):
        self.n, self.names = n, names

    def values(self, given: Any, parameter: str, default: float) -> np.ndarray:
        """A value for each feature (p,), from one for all, an array or a dict by name."""
        if not isinstance(given, Mapping):
            (values,) = _raw(given, parameter)
            if values.ndim and values.shape != (self.n,):
                raise ValueError(
                    f"{parameter} has {_size(values)}, but X has {self.n} features: give a value for each feature, or "
                    "a dict by name for some of them."
                )
            return np.broadcast_to(values, self.n).copy()
        out = np.full(self.n, default)
        for name, (value,) in zip(given, (_raw(value, parameter) for value in given.values()), strict=True):
            out[self._number(name, parameter)] = value
        return out

    def check(self, is_right: np.ndarray, rule: str, *values: np.ndarray) -> None:
        """Raise for the first feature that is wrong."""
        if is_right.all():
            return
        j = int(np.argmin(is_right))
        name = "" if self.names is None else f" ({self.names[j]!r})"
        found = ", ".join(f"{value[j]:g}" for value in values)
        raise ValueError(f"{rule}; feature {j}{name} has {found if len(values) == 1 else f'({found})'}.")

    def _number(self, name: Any, parameter: str) -> int:
        if self.names is None:
            raise ValueError(
                f"{parameter} is a dict by feature name, but the features of X have no names: pass a data frame with "
                f"names that are strings, or an array of {self.n} values."
            )
        names = self.names.tolist()
        if name in names:
            return names.index(name)
        close = get_close_matches(str(name), names)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"The features are {_some(names)}."
        raise ValueError(f"{parameter} names {name!r}, which is no feature of X. {hint}")


def _sides(bounds: Any) -> tuple[Any, Any]:
    """The lower and the upper bounds."""
    if isinstance(bounds, Mapping):
        pairs = {name: _pair(pair, f"coef_bounds[{name!r}]") for name, pair in bounds.items()}
        return {name: lower for name, (lower, _) in pairs.items()}, {name: upper for name, (_, upper) in pairs.items()}
    return _pair(bounds, "coef_bounds")


def _pair(pair: Any, what: str) -> tuple[Any, Any]:
    if not hasattr(pair, "__len__") or isinstance(pair, str) or len(pair) != 2:
        raise ValueError(
            f"{what} must be a pair (lower, upper), such as (0, np.inf); got {repr(pair)}. Bounds of several features "
            "are a pair of arrays, or a dict of pairs by feature name."
        )
    lower, upper = pair
    return lower, upper


def _raw(given: Any, parameter: str) -> list[np.ndarray]:
    """The values of a dict, or the only value, as float64."""
    values: Iterable = given.values() if isinstance(given, Mapping) else [given]
    try:
        return [np.asarray(numpy_of(value), dtype=np.float64) for value in values]
    except (TypeError, ValueError):
        raise ValueError(f"{parameter} must hold numbers; got {repr(given)}.") from None


def _size(values: np.ndarray) -> str:
    return f"{len(values)} values" if values.ndim == 1 else f"shape {values.shape}"


def _some(names: list[str]) -> str:
    return f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}"
