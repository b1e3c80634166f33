"""The values of C and l1_ratio that a cross-validation tries, and where those of C begin to matter."""

from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.finite import explained
from torchlogreg._estimators.logistic import TorchSoftmaxClassifier
from torchlogreg._estimators.per_feature import per_feature
from torchlogreg._model_selection import tuning
from torchlogreg._model_selection.fit_and_score import unweighted_data, weights_of
from torchlogreg._model_selection.rows import Rows
from torchlogreg._objective.losses import loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, strengths
from torchlogreg._runtime.out_of_memory import with_room
from torchlogreg._runtime.ranks import collective, current_ranks
from torchlogreg._runtime.threads import fit_arithmetic


class PenaltyGrid(NamedTuple):
    """m values of C times r of l1_ratio: Q = m r candidates, in the order of scikit-learn's grid search."""

    Cs: np.ndarray  # (m,)
    l1_ratios: np.ndarray  # (r,)

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Their parameters, as far as they differ."""
        if len(self.l1_ratios) == 1:
            return [{"C": C} for C in self.Cs.tolist()]
        return [{"C": C, "l1_ratio": ratio} for C in self.Cs.tolist() for ratio in self.l1_ratios.tolist()]

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Values (F, Q, ...) of all candidates as (F, r, m, ...)."""
        shape = len(values), len(self.Cs), len(self.l1_ratios), *values.shape[2:]
        return np.ascontiguousarray(values.reshape(shape).swapaxes(1, 2))

    def means(self, q: np.ndarray | int) -> tuple[float, float]:
        """C and l1_ratio of a candidate, or their means over several."""
        c, r = np.divmod(q, len(self.l1_ratios))
        return float(np.mean(self.Cs[c])), float(np.mean(self.l1_ratios[r]))


def penalty_grid(Cs: Any, l1_ratios: Any, estimator: Any, rows: Rows) -> PenaltyGrid:
    """The grid that the parameters `Cs` and `l1_ratios` of a cross-validation stand for."""
    ratios = checked_ratios(l1_ratios)
    if not isinstance(Cs, Integral):
        return PenaltyGrid(checked_Cs(Cs), ratios)
    smallest = 0.0
    if (ratios > 0).all():
        smallest = _smallest(rows, estimator, float(ratios.min()))
    if not 0.0 < smallest < np.inf:
        return PenaltyGrid(np.logspace(-4, 4, int(Cs)), ratios)
    decades = tuning.DECADES_OF_C if len(rows) > rows.data.X.shape[1] else tuning.DECADES_OF_C_WIDE
    return PenaltyGrid(smallest * np.logspace(0, decades, int(Cs)), ratios)


def checked_ratios(l1_ratios: Any) -> np.ndarray:
    """The values of l1_ratio as an array."""
    ratios = np.asarray(numpy_of(l1_ratios), dtype=np.float64)
    if ratios.ndim != 1 or not len(ratios) or not ((ratios >= 0) & (ratios <= 1)).all():
        raise ValueError(f"l1_ratios must hold numbers from 0 to 1; got {l1_ratios!r}.")
    return ratios


def checked_Cs(Cs: Any) -> np.ndarray:
    """The values of C as an array."""
    values = np.asarray(numpy_of(Cs), dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"Cs must be a number of values or hold positive numbers; got {Cs!r}.")
    return values


@collective
def smallest_useful_C(
    X: Any,
    y: ArrayLike,
    *,
    l1_ratio: float = 1.0,
    fit_intercept: bool = True,
    sample_weight: ArrayLike | None = None,
    class_weight: dict | Literal["balanced"] | None = None,
) -> float:
    """The value of C at which the first coefficient of a model with an L1 norm becomes non-zero.

    Up to this value all coefficients are exactly zero, and above it at least one is not, so it is where a path over C
    begins.

    Parameters
    ----------
    X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
        Training rows, as for :meth:`TorchSoftmaxClassifier.fit`.

    y : array-like of shape (n_samples,)
        Class labels.

    l1_ratio : float, default=1.0
        Share of the L1 norm in the penalty, in (0, 1].

    fit_intercept : bool, default=True
        Whether the model has an intercept.

    sample_weight : array-like of shape (n_samples,) or float, default=None
        Weight of each row, zero or positive.

    class_weight : dict or 'balanced', default=None
        Weight of each class, multiplied with the sample weights.

    Returns
    -------
    C : float
        The value, exact but for rounding for two classes and for softmax regression alike. Infinite if all coefficients
        are zero whatever C is, as where every column of X is constant.

    Raises
    ------
    ValueError
        If the data or a parameter is invalid.

    See Also
    --------
    TorchLogisticRegressionCV : Tries values of C from here on if `Cs` is a number and no l1_ratio is 0.
    sklearn.svm.l1_min_c : For one class against the rest, without weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from torchlogreg import TorchSoftmaxClassifier, smallest_useful_C
    >>> X, y = load_iris(return_X_y=True)
    >>> C = smallest_useful_C(X, y)
    >>> [int(np.count_nonzero(TorchSoftmaxClassifier(l1_ratio=1, C=f * C).fit(X, y).coef_)) for f in (0.99, 1.5)]
    [0, 1]
    """
    estimator = TorchSoftmaxClassifier(l1_ratio=l1_ratio, fit_intercept=fit_intercept, class_weight=class_weight)
    estimator._validate_params()
    if l1_ratio == 0:
        raise ValueError("l1_ratio=0 has no such C: without an L1 norm no coefficient is exactly zero.")
    data = unweighted_data(estimator, X, y, sample_weight)

    def found(lead):
        return {"C": _smallest(Rows.of(data, lead), estimator, l1_ratio)}

    return current_ranks().led(found, partial(Rows.shared, data))["C"]


def _smallest(rows: Rows, estimator: Any, l1_ratio: float) -> float:
    """See `smallest_useful_C`: all coefficients are zero where no derivative there exceeds the strength of its kink.

    Derivatives towards a bound at zero do not count. Where a coefficient has no penalty it is 0 or, as where bounds
    exclude zero, not a number.
    """
    data, loss, intercept = rows.data, loss_of(len(rows.data.classes)), estimator.fit_intercept
    own = per_feature(estimator, data)

    def work():
        design: Any = rows.design(loss, intercept=intercept)
        columns, mass = weights_of(data, [estimator.class_weight], [])
        design = design.reweighted(columns[0].T)
        place = {"intercept": intercept, "accumulation": design.accumulation}
        penalty = ElasticNet.of(strengths(1.0, l1_ratio), design.n_features, own=own, **place)
        objective = Objective.of(design, loss, penalty).exact()
        W = penalty.l2.new_zeros(1, design.shape[1], loss.n_logits)
        if intercept:  # the best ones are the logits of the classes' shares
            shares = torch.from_numpy(mass[0, 0] / mass[0, 0].sum()).clamp(min=tuning.LEAST_SHARE)
            W[0, -1] = loss.logits_of(shares).to(W)
        point = objective.value_and_gradient(W)
        assert objective.penalty.l1 is not None
        features = slice(design.n_features)
        slope = point.slope[:, features]
        lower, upper = (None if bound is None else bound[:, features] for bound in (penalty.lower, penalty.upper))
        if lower is not None and upper is not None:
            if ((lower > 0) | (upper < 0)).any():
                return np.nan
            slope = torch.where(torch.where(slope > 0, lower < 0, upper > 0), slope, 0.0)
        slope = slope.abs()
        scale = objective.diagonal(W).view(loss.n_logits, -1).T[features].sqrt()  # a constant column's is not zero
        slope = torch.where(slope > tuning.SLOPE_ROUNDINGS * torch.finfo(slope.dtype).eps * scale, slope, 0.0)
        return float((objective.penalty.l1[:, features] / slope).min())

    with torch.inference_mode(False), torch.no_grad(), explained(data.X), fit_arithmetic(data.X):
        return with_room(work)
