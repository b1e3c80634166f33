"""The objective while it falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.array_api import numpy_of
from torchlogreg._displays.shared import axes_for, next_colour
from torchlogreg._solvers import is_stochastic

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LossCurveDisplay:
    """Objective after each iteration, on a logarithmic axis.

    Create it from a fitted estimator with :meth:`from_estimator`, or from an array with the constructor, which stores
    its parameters as attributes; :meth:`plot` draws it. Draw several on the same axes to compare solvers.

    Parameters
    ----------
    loss_curve : array-like of shape (n_iter,)
        Objective after each iteration. Where it is not finite, or not above `minimum`, the line has a gap.

    minimum : float, default=0.0
        What to measure from. With the smallest value that the objective can take, such as ``objective_`` of a fit with
        a tight `tol`, a straight line means that each iteration closes the same share of the gap.

    name : str, default=None
        Name of the curve in the legend. None has no legend.

    step : str, default='Iteration'
        Label of the x-axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that were drawn on.

    figure_ : matplotlib Figure
        Figure that holds them.

    line_ : matplotlib Line2D
        The curve.

    Examples
    --------
    >>> from torchlogreg import LossCurveDisplay
    >>> display = LossCurveDisplay(loss_curve=[0.6, 0.4, 0.35], minimum=0.3, name="a fit").plot()
    >>> display.line_.get_ydata().round(2).tolist()
    [0.3, 0.1, 0.05]
    """

    def __init__(
        self, *, loss_curve: ArrayLike, minimum: float = 0.0, name: str | None = None, step: str = "Iteration"
    ):
        self.loss_curve = loss_curve
        self.minimum = minimum
        self.name = name
        self.step = step

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Axes | None = None,
        minimum: float = 0.0,
        name: str | None = None,
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of a fitted estimator.

        Parameters
        ----------
        estimator : object
            A fitted estimator with ``loss_curve_``, such as :class:`TorchLogisticRegression` and
            :class:`TorchSoftmaxClassifier`.

        ax : matplotlib Axes, default=None
            Axes to draw on, for instance ``ax_`` of another display. None makes a new figure.

        minimum : float, default=0.0
            What to measure from; see the constructor.

        name : str, default=None
            Name of the curve. None takes the class and the solver.

        line_kw : dict, default=None
            Options of the curve, for :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : LossCurveDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator has no ``loss_curve_``.
        NotFittedError
            If it is not fitted.
        ValueError
            If there is nothing to draw.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import scale
        >>> from torchlogreg import LossCurveDisplay, TorchSoftmaxClassifier
        >>> X, y = load_wine(return_X_y=True)
        >>> best = TorchSoftmaxClassifier(tol=1e-10).fit(scale(X), y).objective_
        >>> sgd = TorchSoftmaxClassifier(solver="sgd", tol=0, max_iter=20, random_state=0).fit(scale(X), y)
        >>> display = LossCurveDisplay.from_estimator(sgd, minimum=best)
        >>> display.ax_.get_xlabel(), display.name
        ('Epoch', 'TorchSoftmaxClassifier, sgd')
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise TypeError(
                f"This {type(estimator).__name__} has no loss_curve_. Of a pipeline, give the last step, pipeline[-1]; "
                "otherwise use LossCurveDisplay(loss_curve=...), with one value for each iteration."
            )
        solver = getattr(estimator, "solver_", None)
        if name is None:
            name = type(estimator).__name__ + ("" if solver is None else f", {solver}")
        step = "Epoch" if is_stochastic(solver) else "Iteration"
        display = cls(loss_curve=estimator.loss_curve_, minimum=minimum, name=name, step=step)
        return display.plot(ax, line_kw=line_kw)

    def plot(self, ax: Axes | None = None, *, line_kw: dict[str, Any] | None = None) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, whose y-axis becomes logarithmic. None makes a new figure.

        line_kw : dict, default=None
            Options of the curve, for :meth:`matplotlib.axes.Axes.plot`. They take precedence over the display's own.

        Returns
        -------
        display : LossCurveDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `loss_curve` is not one-dimensional, or has no finite value above `minimum`.
        ImportError
            If matplotlib is not installed.
        """
        curve = np.asarray(numpy_of(self.loss_curve), dtype=np.float64)
        if curve.ndim != 1:
            raise ValueError(f"loss_curve must have the shape (n_iter,), got {curve.shape}.")
        height = np.where(np.isfinite(curve) & (curve > self.minimum), curve, np.nan) - self.minimum
        if not np.isfinite(height).any():
            raise ValueError(f"There is nothing to draw: no value of loss_curve is finite and above {self.minimum}.")
        ax = axes_for(self, ax)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        ax.set_yscale("log")
        options = {
            "color": next_colour(ax),
            "label": self.name,
            "marker": "o" if len(curve) <= 50 else None,
            "markersize": 4,
        }
        iterations = np.arange(1, len(curve) + 1)
        (self.line_,) = ax.plot(iterations, height, **{**options, **normalize_kwargs(line_kw or {}, Line2D)})
        steps = self.step if ax.get_xlabel() in ("", self.step) else "Iteration or epoch"
        ax.set(xlabel=steps, ylabel="Objective above its minimum" if self.minimum else "Objective")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
