"""Which features speak for a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.validation import plain
from torchlogreg._displays.shared import AGAINST, DIVERGING, FOR, axes_for, names_of_features, row_of_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CoefficientDisplay:
    """The largest coefficients by name; or, where features are pixels, a picture for each class.

    One row of coefficients is drawn as bars, several as a table of colours with a column for each class, and with
    `image_shape` as pictures. Red speaks for a class, blue against it. Create it from a fitted estimator with
    :meth:`from_estimator`, or from arrays with the constructor, which stores its parameters as attributes; :meth:`plot`
    draws it.

    Parameters
    ----------
    coef : array-like of shape (n_rows, n_features)
        Coefficients, a row for each class in `labels`.

    labels : array-like of shape (n_rows,), default=None
        The classes that the rows speak for. None counts them.

    feature_names : array-like of shape (n_features,), default=None
        Names of the features. None calls them x0, x1 and so on.

    image_shape : tuple of two ints, default=None
        Height and width of the images whose pixels, row by row, are the features. None means that they are no images.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that were drawn on.

    figure_ : matplotlib Figure
        Figure that holds them.

    bars_ : matplotlib BarContainer or None
        The bars, the largest first; None for a table or pictures.

    image_ : matplotlib AxesImage or None
        The table, or all pictures in one; None for bars.

    features_ : ndarray of shape (n_drawn,) or None
        Indices of the features that were drawn, the largest first; None for pictures.

    See Also
    --------
    CoefficientPathDisplay : Coefficients against C.

    Examples
    --------
    >>> from torchlogreg import CoefficientDisplay
    >>> display = CoefficientDisplay(coef=[[0.1, -2, 1]], feature_names=["age", "dose", "weight"])
    >>> display.plot(max_features=2).features_.tolist()
    [1, 2]
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['dose', 'weight']
    """

    def __init__(
        self,
        *,
        coef: ArrayLike,
        labels: Sequence | np.ndarray | None = None,
        feature_names: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
    ):
        self.coef = coef
        self.labels = labels
        self.feature_names = feature_names
        self.image_shape = image_shape

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        target: object = None,
        feature_names: ArrayLike | None = None,
        image_shape: tuple[int, int] | None = None,
        max_features: int = 15,
        ax: Axes | None = None,
        artist_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the coefficients of a fitted linear classifier.

        Coefficients can be compared with each other where the features have the same spread, as after a
        :class:`~sklearn.preprocessing.StandardScaler`.

        Parameters
        ----------
        estimator : object
            A fitted classifier with ``coef_`` and ``classes_``, or a :class:`~sklearn.pipeline.Pipeline` that ends in
            one, whose steps then name the features.

        target : label, default=None
            The class to draw. None draws all; two classes have one row of coefficients, for ``classes_[1]``.

        feature_names : array-like of shape (n_features,), default=None
            Names of the features; those that go into the pipeline, if it is one. None takes those of the estimator.

        image_shape : tuple of two ints, default=None
            Height and width of the images whose pixels are the features.

        max_features : int, default=15
            How many features to draw, those with the largest absolute coefficients.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        artist_kw : dict, default=None
            Options of :meth:`matplotlib.axes.Axes.barh` for bars, else of :meth:`matplotlib.axes.Axes.imshow`.

        Returns
        -------
        display : CoefficientDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator is no linear classifier.
        NotFittedError
            If it is not fitted.
        ValueError
            If `target` is no class, or the shapes do not fit; see :meth:`plot`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from torchlogreg import CoefficientDisplay, TorchSoftmaxClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = TorchSoftmaxClassifier(C=0.01).fit(X, y)
        >>> display = CoefficientDisplay.from_estimator(model, image_shape=(8, 8))
        """
        check_is_fitted(estimator)
        last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if not hasattr(last, "coef_") or not hasattr(last, "classes_"):
            raise TypeError(f"CoefficientDisplay takes a linear classifier, with coef_; got {type(last).__name__}.")
        last = plain(last)
        coef, labels = last.coef_, list(last.classes_)
        if target is not None or len(labels) == 2:
            row, target = row_of_class(last.classes_, target)
            coef, labels = coef[[row]], [target]
        names = names_of_features(feature_names, estimator, coef.shape[1])
        display = cls(coef=coef, labels=labels, feature_names=names, image_shape=image_shape)
        return display.plot(ax, max_features=max_features, artist_kw=artist_kw)

    def plot(self, ax: Axes | None = None, *, max_features: int = 15, artist_kw: dict[str, Any] | None = None) -> Self:
        """Draw bars, a table or pictures.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        max_features : int, default=15
            How many features to draw, those with the largest absolute coefficients. Without effect on pictures.

        artist_kw : dict, default=None
            Options of :meth:`matplotlib.axes.Axes.barh` for bars, else of :meth:`matplotlib.axes.Axes.imshow`. They
            take precedence over the display's own.

        Returns
        -------
        display : CoefficientDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a coefficient is not finite.
        ImportError
            If matplotlib is not installed.
        """
        coef, labels, names = self._checked()
        ax = axes_for(self, ax)
        self.bars_ = self.image_ = self.features_ = None
        if self.image_shape is not None:
            self._draw_pictures(ax, coef, labels, self.image_shape, artist_kw or {})
        else:
            largest = np.argsort(-np.abs(coef).max(axis=0), kind="stable")[:max_features]
            draw = self._draw_bars if len(coef) == 1 else self._draw_table
            draw(ax, coef[:, largest], labels, artist_kw or {})
            ax.set_yticks(range(len(largest)), [names[j] for j in largest])
            self.features_ = largest
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _checked(self) -> tuple[np.ndarray, list, list[str]]:
        """Coefficients (n_rows, n_features), labels of the rows and names of the features."""
        coef = np.asarray(self.coef, dtype=np.float64)
        if coef.ndim != 2 or not coef.size:
            raise ValueError(f"coef must have the shape (n_rows, n_features), got {coef.shape}.")
        if not np.isfinite(coef).all():
            raise ValueError("coef contains NaN or infinity.")
        labels = list(range(len(coef))) if self.labels is None else list(self.labels)
        names = names_of_features(self.feature_names, None, coef.shape[1])
        if len(labels) != len(coef) or len(names) != coef.shape[1]:
            raise ValueError(f"{len(labels)} labels and {len(names)} names do not fit coef of shape {coef.shape}.")
        if self.image_shape is not None and np.prod(self.image_shape) != coef.shape[1]:
            raise ValueError(f"Images of shape {tuple(self.image_shape)} do not have {coef.shape[1]} pixels.")
        return coef, labels, names

    def _draw_bars(self, ax: Axes, coef: np.ndarray, labels: list, given: dict[str, Any]) -> None:
        options = {"color": [FOR if value > 0 else AGAINST for value in coef[0]]}
        self.bars_ = ax.barh(range(coef.shape[1]), coef[0], **{**options, **given})
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_ylim(coef.shape[1] - 0.4, -0.6)
        ax.set_xlabel("Coefficient" if self.labels is None else f"Coefficient, class {labels[0]}")

    def _draw_table(self, ax: Axes, coef: np.ndarray, labels: list, given: dict[str, Any]) -> None:
        self._draw_image(ax, coef.T, {"aspect": "auto", **given})
        ax.set_xticks(range(len(labels)), labels, rotation=90 if sum(map(len, map(str, labels))) > 40 else 0)
        ax.set_xlabel("Class")

    def _draw_pictures(
        self, ax: Axes, coef: np.ndarray, labels: list, shape: tuple[int, int], given: dict[str, Any]
    ) -> None:
        height, width = shape
        K = len(coef)  # a mosaic somewhat wider than high, with few places left empty
        n_columns = min(range(1, K + 1), key=lambda c: -K % c + abs(c - 1.5 * np.sqrt(K * height / width)))
        n_rows = -(-K // n_columns)
        gap, head = max(1, width // 8), max(2, height // 4)  # between pictures, and for the label above each
        mosaic = np.full((n_rows * (height + head), n_columns * (width + gap) - gap), np.nan)
        for k, picture in enumerate(coef.reshape(-1, height, width)):
            top, left = (k // n_columns) * (height + head) + head, (k % n_columns) * (width + gap)
            mosaic[top : top + height, left : left + width] = picture
            ax.text(left + width / 2 - 0.5, top - 0.5 - head / 8, labels[k], ha="center", va="bottom")
        self._draw_image(ax, mosaic, given, location="bottom")
        ax.set_axis_off()

    def _draw_image(self, ax: Axes, values: np.ndarray, given: dict[str, Any], location: str = "right") -> None:
        limit = np.nanmax(np.abs(values)) or 1.0
        options = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
        self.image_ = ax.imshow(values, **{**options, **given})
        ax.figure.colorbar(self.image_, ax=ax, label="Coefficient", location=location, shrink=0.7)
