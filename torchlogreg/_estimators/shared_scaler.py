"""scikit-learn's scaler, fitted to rows that several processes have."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.preprocessing import StandardScaler

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.validation import is_no_table
from torchlogreg._runtime.ranks import current_ranks


def scaler_over_shards(
    X: Any, sample_weight: ArrayLike | None = None, *, with_mean: bool = True, with_std: bool = True
) -> StandardScaler:
    """Fit a scaler to the rows of all processes, each of which has some of them.

    Within :func:`shared_rows` this is collective: every process of the group has to call it, and all of them get the
    same scaler. Means and variances are those of the processes, merged [1]_.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features), or stream
        The rows of this process, which may be none, or an object that yields ``(X, y)`` or ``(X, y, sample_weight)``
        blocks of them.

    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    with_mean : bool, default=True
        Whether the scaler subtracts the mean. A sparse X needs False.

    with_std : bool, default=True
        Whether the scaler divides by the standard deviation.

    Returns
    -------
    scaler : StandardScaler
        A fitted :class:`~sklearn.preprocessing.StandardScaler`.

    References
    ----------
    .. [1] Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance,
       doi:10.1080/00031305.1983.10483115.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.pipeline import make_pipeline
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.distributed import scaler_over_shards
    >>> X, y = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 50.0]]), [0, 0, 1]
    >>> scaler = scaler_over_shards(X)
    >>> scaler.mean_
    array([ 2., 30.])
    >>> make_pipeline(FrozenEstimator(scaler), TorchLogisticRegression()).fit(X, y).predict(X)
    array([0, 0, 1])
    """
    out = StandardScaler(with_mean=with_mean, with_std=with_std)

    def own():
        scaler = StandardScaler(with_mean=with_mean, with_std=with_std)
        for rows, weight in _blocks(X, sample_weight):
            if rows.shape[0]:
                scaler.partial_fit(rows, sample_weight=weight)
        names = ("n_samples_seen_", "mean_", "var_", "n_features_in_", "feature_names_in_")
        return {name: getattr(scaler, name) for name in names if hasattr(scaler, name)}

    told = [found for found in current_ranks().exchanged(own) if "n_features_in_" in found]
    if not told:
        raise ValueError("scaler_over_shards found no row in any process.")
    if len({found["n_features_in_"] for found in told}) > 1:
        widths = [found["n_features_in_"] for found in told]
        raise ValueError(f"The rows of the processes have different numbers of features: {widths}.")
    n: Any = 0
    mean = var = 0.0
    for found in told:
        own_n = found["n_samples_seen_"]
        if found.get("mean_") is not None:
            share = own_n / np.maximum(n + own_n, np.finfo(float).tiny)
            change = found["mean_"] - mean
            if found.get("var_") is not None:
                var = var + share * (found["var_"] - var) + share * (1.0 - share) * change**2
            mean = mean + share * change
        n = n + own_n
    vars(out).update({name: told[0][name] for name in ("n_features_in_", "feature_names_in_") if name in told[0]})
    out.n_samples_seen_ = n
    out.mean_ = mean if told[0].get("mean_") is not None else None
    out.var_ = var if with_std else None
    out.scale_ = _scale(n, mean, var) if with_std else None
    return out


def _scale(n, mean, var) -> np.ndarray:
    """Standard deviations, and 1 where a column is constant but for rounding."""
    eps = np.finfo(np.float64).eps
    scale = np.sqrt(var)
    return np.where(var <= n * eps * var + (n * mean * eps) ** 2, 1.0, scale)


def _blocks(X, sample_weight) -> Iterator[tuple[Any, Any]]:
    """Tables with their weights."""
    if not is_no_table(X):
        yield _table(X), None if sample_weight is None else np.asarray(numpy_of(sample_weight))
        return
    for block in X:
        rows, _, *weight = block
        yield _table(rows), np.asarray(numpy_of(weight[0])) if weight else None


def _table(X):
    """A frame or a sparse matrix as it is, anything else as NumPy's array."""
    return X if hasattr(X, "columns") or hasattr(X, "tocsr") else np.asarray(numpy_of(X))
