"""What the penalty does to coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegressionCV
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.validation import plain
from torchlogreg._displays.shared import (
    COLOURS,
    axes_for,
    checked_Cs,
    index_of_ratio,
    mark_chosen,
    names_of_features,
    row_of_class,
)
from torchlogreg._model_selection.logistic_cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COUNTS = 7  # numbers of non-zero coefficients that find room above a plot
PATH_BY_HAND = "CoefficientPathDisplay(Cs=..., coefs=..., C=...), with coefs of shape (n_cs, n_features)"


class CoefficientPathDisplay:
    """Coefficients against C, one line a feature, with the value of C that was chosen.

    The features with the largest coefficients have colours and names, the others are grey. Where an L1 norm keeps
    coefficients at zero, a line begins where its coefficient leaves zero, and a second axis counts those that are not.
    Create it from a fitted estimator with :meth:`from_estimator`, or from arrays with the constructor, which stores its
    parameters as attributes; :meth:`plot` draws it.

    Parameters
    ----------
    Cs : array-like of shape (n_cs,)
        Values of C: positive and finite, in any order.

    coefs : array-like of shape (n_cs, n_features)
        Coefficients at each value of C.

    C : float, default=None
        The chosen value, which need not be one of `Cs`. None marks none.

    feature_names : array-like of shape (n_features,), default=None
        Names of the features. None calls them x0, x1 and so on.

    target : object, default=None
        The class that the coefficients speak for, for the label of the y-axis. None names none.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that were drawn on.

    figure_ : matplotlib Figure
        Figure that holds them.

    lines_ : list of matplotlib Line2D
        The line of each feature.

    chosen_ : matplotlib Line2D or None
        Vertical line at the chosen value of C; None without one.

    n_nonzero_ : ndarray of shape (n_cs,)
        How many of the coefficients are not zero at each value of C, in ascending order of C.

    counts_ax_ : matplotlib SecondaryAxis or None
        The axis above the plot with these numbers; None if no coefficient is zero anywhere.

    See Also
    --------
    ScorePathDisplay : The score against C.
    CoefficientDisplay : Coefficients at a single C.

    Examples
    --------
    >>> from torchlogreg import CoefficientPathDisplay
    >>> display = CoefficientPathDisplay(
    ...     Cs=[0.1, 1, 10], coefs=[[0, 0.1], [0.5, 0.2], [0.9, 0.2]], feature_names=["length", "width"]
    ... )
    >>> [line.get_label() for line in display.plot().lines_]
    ['length', 'width']
    """

    def __init__(
        self,
        *,
        Cs: ArrayLike,
        coefs: ArrayLike,
        C: float | None = None,
        feature_names: ArrayLike | None = None,
        target: object = None,
    ):
        self.Cs = Cs
        self.coefs = coefs
        self.C = C
        self.feature_names = feature_names
        self.target = target

    @classmethod
    def from_estimator(
        cls,
        estimator: TorchLogisticRegressionCV | TorchSoftmaxClassifierCV | LogisticRegressionCV,
        *,
        target: object = None,
        l1_ratio: float | None = None,
        feature_names: ArrayLike | None = None,
        max_names: int = 6,
        ax: Axes | None = None,
        line_kw: dict[str, Any] | None = None,
        chosen_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the coefficients of an estimator that tried several values of C: their mean over the folds.

        A mean is zero where the coefficient is zero on all folds.

        Parameters
        ----------
        estimator : object
            A fitted :class:`TorchLogisticRegressionCV` or :class:`TorchSoftmaxClassifierCV`, or a
            :class:`~sklearn.linear_model.LogisticRegressionCV` with ``use_legacy_attributes=False``.

        target : label, default=None
            The class whose coefficients are drawn. Needed for more than two classes; two have one row of coefficients,
            for ``classes_[1]``.

        l1_ratio : float, default=None
            The value of l1_ratio whose path is drawn, of several that were tried. None is the chosen one. The chosen C
            is marked on the path of the chosen l1_ratio alone.

        feature_names : array-like of shape (n_features,), default=None
            Names of the features. None takes those of the estimator.

        max_names : int, default=6
            How many features have a colour and a name, at most 7.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        line_kw : dict, default=None
            Options of all lines, for :meth:`matplotlib.axes.Axes.plot`.

        chosen_kw : dict, default=None
            Options of the line at the chosen C, for :meth:`matplotlib.axes.Axes.axvline`.

        Returns
        -------
        display : CoefficientPathDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If `estimator` is none of the above.
        NotFittedError
            If it is not fitted.
        ValueError
            If `target` is missing or unknown, `l1_ratio` was not tried, or the coefficients cannot be drawn; see
            :meth:`plot`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import scale
        >>> from torchlogreg import CoefficientPathDisplay, TorchSoftmaxClassifierCV
        >>> wine = load_wine()
        >>> model = TorchSoftmaxClassifierCV(Cs=[0.001, 0.1, 10, 1000]).fit(scale(wine.data), wine.target)
        >>> display = CoefficientPathDisplay.from_estimator(
        ...     model, target=0, feature_names=wine.feature_names, max_names=2
        ... )
        >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
        ['proline', 'alcalinity_of_ash', 'C = 10']
        """
        if not isinstance(estimator, TorchLogisticRegressionCV | TorchSoftmaxClassifierCV | LogisticRegressionCV):
            raise TypeError(
                "CoefficientPathDisplay takes a TorchLogisticRegressionCV, a TorchSoftmaxClassifierCV or a "
                f"LogisticRegressionCV, not a {type(estimator).__name__}. Of a pipeline that ends in one, give the "
                f"last step, pipeline[-1]; otherwise use {PATH_BY_HAND}."
            )
        check_is_fitted(estimator)
        model: Any = plain(estimator)
        paths = model.coefs_paths_
        if isinstance(paths, dict):
            raise ValueError(
                f"CoefficientPathDisplay draws one path, over C: fit the {type(estimator).__name__} with "
                f"use_legacy_attributes=False, or use {PATH_BY_HAND}."
            )
        row, target = row_of_class(model.classes_, target)
        i, is_chosen = index_of_ratio(model, l1_ratio)
        C = model.C_ if is_chosen else None
        coefs = paths[:, i, :, row, : model.coef_.shape[1]].mean(axis=0)
        names = names_of_features(feature_names, model, coefs.shape[1])
        display = cls(Cs=model.Cs_, coefs=coefs, C=C, feature_names=names, target=target)
        return display.plot(ax, max_names=max_names, line_kw=line_kw, chosen_kw=chosen_kw)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        max_names: int = 6,
        line_kw: dict[str, Any] | None = None,
        chosen_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw a line for each feature, and the chosen value of C.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, whose x-axis becomes logarithmic; the legend stands beside them. None makes a new figure.

        max_names : int, default=6
            How many features, those with the largest absolute coefficients anywhere, have a colour and a name, at most
            7. The legend lists them in the order of the lines at their right end.

        line_kw : dict, default=None
            Options of all lines, for :meth:`matplotlib.axes.Axes.plot`. They take precedence over the display's own.

        chosen_kw : dict, default=None
            Options of the line at the chosen C, for :meth:`matplotlib.axes.Axes.axvline`.

        Returns
        -------
        display : CoefficientPathDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the shapes do not fit, a coefficient is not finite, a value of C is infinite, for which a logarithmic
            axis has no place, or `max_names` is more than there are colours.
        ImportError
            If matplotlib is not installed.
        """
        Cs, coefs, names = self._paths(max_names)
        ax = axes_for(self, ax)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        largest = np.abs(coefs).max(axis=0)
        named = np.argsort(-largest, kind="stable")[: min(max_names, np.count_nonzero(largest))]
        named = named[np.argsort(-coefs[-1, named], kind="stable")]
        colours = dict(zip(named.tolist(), COLOURS, strict=False))
        given = normalize_kwargs(line_kw or {}, Line2D)
        ax.set_xscale("log")  # before anything is drawn: limits around a single C are then right
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=1)
        self.lines_ = []
        for j, name in enumerate(names):
            options = {"color": colours.get(j, "0.8"), "zorder": 2.5 if j in colours else 1.5, "label": name}
            options |= {"marker": "o", "markersize": 3} if j in colours else {"linewidth": 1}
            self.lines_ += ax.plot(Cs, _off_the_axis(coefs[:, j]), **{**options, **given})
        handles = [self.lines_[j] for j in named]
        self.chosen_ = mark_chosen(ax, self.C, chosen_kw, color="0.3", linewidth=1)
        if self.chosen_ is not None:
            handles.append(self.chosen_)
        label = "Coefficient" if self.target is None else f"Coefficient, class {self.target}"
        ax.set(xlabel="C (inverse penalty strength)", ylabel=label)
        if handles:
            ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))
        self.n_nonzero_ = np.count_nonzero(coefs, axis=1)
        self.counts_ax_ = _count_axis(ax, Cs, self.n_nonzero_) if (coefs == 0).any() else None
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _paths(self, max_names: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Cs in ascending order (n_cs,), coefficients (n_cs, n_features), and names."""
        Cs, coefs = checked_Cs(self.Cs, self.C, PATH_BY_HAND), np.asarray(self.coefs, dtype=np.float64)
        if Cs.ndim != 1 or coefs.ndim != 2 or len(coefs) != len(Cs) or not coefs.size:
            raise ValueError(
                f"coefs must have the shape (n_cs, n_features), and Cs (n_cs,); got {coefs.shape} and {Cs.shape}."
            )
        if not np.isfinite(coefs).all():
            raise ValueError("coefs contains NaN or infinity.")
        names = names_of_features(self.feature_names, None, coefs.shape[1])
        if len(names) != coefs.shape[1]:
            raise ValueError(f"feature_names has {len(names)} names for {coefs.shape[1]} features.")
        if not 0 <= max_names <= len(COLOURS):
            raise ValueError(f"max_names={max_names}, and there are {len(COLOURS)} colours that can be told apart.")
        order = np.argsort(Cs, kind="stable")
        return Cs[order], coefs[order], names


def _off_the_axis(path: np.ndarray) -> np.ndarray:
    """A path (n_cs,) without its zeros, but for those beside another value, from which the line leaves the axis."""
    near = path != 0
    near[1:] |= path[:-1] != 0
    near[:-1] |= path[1:] != 0
    return np.where(near, path, np.nan)


def _count_axis(ax: Axes, Cs: np.ndarray, n_nonzero: np.ndarray) -> Any:
    """An axis above the plot that says how many coefficients are not zero at some of the values of C."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis = ax.secondary_xaxis("top")
    shown = np.unique(np.linspace(0, len(Cs) - 1, min(len(Cs), MOST_COUNTS)).round().astype(int))
    axis.xaxis.set_major_locator(FixedLocator(Cs[shown].tolist()))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([str(n) for n in n_nonzero[shown]])
    axis.set_xlabel("Non-zero coefficients")
    return axis
