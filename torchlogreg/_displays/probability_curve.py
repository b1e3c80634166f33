"""One feature, one curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.validation import plain
from torchlogreg._displays.shared import axes_for, next_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ProbabilityCurveDisplay:
    """Probability of the second class against the only feature, with the data and where the odds are even.

    Create it from a fitted classifier with :meth:`from_estimator`, or from arrays with the constructor, which stores
    its parameters as attributes; :meth:`plot` draws it.

    Parameters
    ----------
    grid : array-like of shape (n_points,)
        Values of the feature, in ascending order.

    proba : array-like of shape (n_points,)
        Probability there.

    x : array-like of shape (n_samples,), default=None
        The feature of the data, drawn as points at the height of `y`. None draws no data.

    y : array-like of shape (n_samples,), default=None
        1 for rows of the second class, 0 for the others.

    name : str, default=None
        Name of the curve in the legend. None has ``"probability"``.

    feature_name : str, default=None
        Label of the x-axis.

    label : object, default=None
        The second class, for the label of the y-axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that were drawn on.

    figure_ : matplotlib Figure
        Figure that holds them.

    line_ : matplotlib Line2D
        The curve.

    points_ : matplotlib PathCollection or None
        The data; None without any.

    even_ : matplotlib Line2D
        The horizontal line at probability 0.5.

    boundary_ : float or None
        Where the curve crosses that line, interpolated between points of the grid; None if it does not.

    See Also
    --------
    sklearn.inspection.DecisionBoundaryDisplay : The same for two features.

    Examples
    --------
    >>> from torchlogreg import ProbabilityCurveDisplay
    >>> display = ProbabilityCurveDisplay(grid=[0, 1, 2], proba=[0.1, 0.4, 0.8]).plot()
    >>> round(display.boundary_, 3)
    1.25
    """

    def __init__(
        self,
        *,
        grid: ArrayLike,
        proba: ArrayLike,
        x: ArrayLike | None = None,
        y: ArrayLike | None = None,
        name: str | None = None,
        feature_name: str | None = None,
        label: object = None,
    ):
        self.grid = grid
        self.proba = proba
        self.x = x
        self.y = y
        self.name = name
        self.feature_name = feature_name
        self.label = label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        grid: ArrayLike | None = None,
        name: str | None = None,
        feature_name: str | None = None,
        ax: Axes | None = None,
        line_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of a fitted classifier of two classes with one feature.

        Parameters
        ----------
        estimator : object
            A fitted classifier of two classes with ``predict_proba``, or a pipeline that ends in one.

        X : array-like of shape (n_samples, 1)
            Rows, for the range of the curve and the points.

        y : array-like of shape (n_samples,), default=None
            Their labels. None draws the curve without the points.

        grid : array-like of shape (n_points,), default=None
            Values of the feature at which the curve is drawn, in ascending order. None takes 300 that reach a tenth of
            the range of X beyond it.

        name : str, default=None
            Name of the curve in the legend. None takes the class of the estimator.

        feature_name : str, default=None
            Label of the x-axis. None takes the estimator's name of the feature.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        line_kw : dict, default=None
            Options of the curve, for :meth:`matplotlib.axes.Axes.plot`.

        points_kw : dict, default=None
            Options of the data, for :meth:`matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : ProbabilityCurveDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it has more than one feature or more than two classes, or the shapes do not fit; see :meth:`plot`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from torchlogreg import ProbabilityCurveDisplay, TorchLogisticRegression
        >>> hours, passed = [[1.0], [2.0], [3.0], [4.0]], [False, False, True, True]
        >>> model = TorchLogisticRegression().fit(hours, passed)
        >>> display = ProbabilityCurveDisplay.from_estimator(model, hours, passed, feature_name="hours")
        >>> round(display.boundary_, 3)
        2.5
        """
        check_is_fitted(estimator)
        model: Any = plain(estimator)
        classes = model.classes_
        values = np.asarray(numpy_of(X), dtype=np.float64)
        if estimator.n_features_in_ != 1 or values.ndim != 2 or values.shape[1] != 1:
            raise ValueError(
                "ProbabilityCurveDisplay draws one feature, and X of shape (n_samples, 1); the estimator has "
                f"{estimator.n_features_in_}, and X the shape {values.shape}. For two features, use scikit-learn's "
                "DecisionBoundaryDisplay."
            )
        if len(classes) != 2:
            raise ValueError(f"ProbabilityCurveDisplay draws two classes, and the estimator has {len(classes)}.")
        x = values[:, 0]
        if grid is None:
            margin = 0.1 * (np.ptp(x) or 1.0)
            points = np.linspace(x.min() - margin, x.max() + margin, 300)
        else:
            points = np.asarray(grid, dtype=np.float64)
        column = points[:, None]
        # The column has the container and, with it, the name that the estimator knows.
        column = type(X)({X.columns[0]: column[:, 0]}) if hasattr(X, "columns") else column
        with config_context(array_api_dispatch=False):  # the model has NumPy's arrays, whatever it was fitted to
            proba = model.predict_proba(column)[:, 1]
        is_second = None
        if y is not None:
            y = np.asarray(numpy_of(y))
            if not np.isin(y, classes).all():
                raise ValueError(f"y holds labels that are not among the classes {classes.tolist()}.")
            is_second = (y == classes[1]).astype(np.float64)
        if name is None:
            name = type(estimator).__name__
        if feature_name is None:
            feature_name = getattr(estimator, "feature_names_in_", ["x0"])[0]
        display = cls(
            grid=points,
            proba=proba,
            x=None if y is None else x,
            y=is_second,
            name=name,
            feature_name=feature_name,
            label=classes[1],
        )
        return display.plot(ax, line_kw=line_kw, points_kw=points_kw)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        line_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve, the line of even odds and the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        line_kw : dict, default=None
            Options of the curve, for :meth:`matplotlib.axes.Axes.plot`. They take precedence over the display's own.

        points_kw : dict, default=None
            Options of the data, for :meth:`matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : ProbabilityCurveDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a probability is not between 0 and 1.
        ImportError
            If matplotlib is not installed.
        """
        grid, proba = np.asarray(self.grid, dtype=np.float64), np.asarray(self.proba, dtype=np.float64)
        if grid.ndim != 1 or not len(grid) or grid.shape != proba.shape or (np.diff(grid) < 0).any():
            raise ValueError(
                f"grid must be ascending, and have the shape of proba, (n_points,); got {grid.shape} and {proba.shape}."
            )
        if not ((proba >= 0) & (proba <= 1)).all():
            raise ValueError("proba must lie between 0 and 1.")
        if (self.x is None) != (self.y is None):
            raise ValueError("A point needs both x and y: pass both of them, or neither.")
        ax = axes_for(self, ax)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.collections import PathCollection
        from matplotlib.lines import Line2D

        self.boundary_ = _crossing(grid, proba)
        label = "probability" if self.name is None else self.name
        if self.boundary_ is not None:
            label += f": even odds at {self.boundary_:.3g}"
        self.even_ = ax.axhline(0.5, color="0.6", linewidth=1, linestyle=":", zorder=1)
        options = {"color": next_colour(ax), "label": label}
        (self.line_,) = ax.plot(grid, proba, **{**options, **normalize_kwargs(line_kw or {}, Line2D)})
        self.points_ = None
        if self.x is not None and self.y is not None:
            options = {"color": "0.2", "s": 25, "alpha": 0.6, "linewidth": 0, "zorder": 3, "label": "data"}
            self.points_ = ax.scatter(
                self.x, self.y, **{**options, **normalize_kwargs(points_kw or {}, PathCollection)}
            )
        name = "Probability" if self.label is None else f"Probability of {self.label}"
        ax.set(ylabel=name, ylim=(-0.05, 1.05), yticks=[0, 0.25, 0.5, 0.75, 1])
        if self.feature_name is not None:
            ax.set_xlabel(self.feature_name)
        # Where neither the curve nor the data is: below a rising curve on the right, above it on the left.
        on_right = self.boundary_ is None or self.boundary_ <= (grid[0] + grid[-1]) / 2
        above = (proba[-1] > proba[0]) != on_right
        corner: Any = f"{'upper' if above else 'lower'} {'right' if on_right else 'left'}"
        ax.legend(loc=corner, bbox_to_anchor=(float(on_right), 0.93 if above else 0.07))
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _crossing(grid: np.ndarray, proba: np.ndarray) -> float | None:
    """Where the curve first crosses 0.5, or None."""
    above = proba >= 0.5
    changes = np.flatnonzero(above[1:] != above[:-1])
    if not len(changes):
        return None
    i = changes[0]
    return float(grid[i] + (0.5 - proba[i]) / (proba[i + 1] - proba[i]) * (grid[i + 1] - grid[i]))
