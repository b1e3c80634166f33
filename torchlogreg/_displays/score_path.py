"""What each value of C is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.array_api import numpy_of
from torchlogreg._displays.shared import axes_for, checked_Cs, index_of_ratio, mark_chosen
from torchlogreg._model_selection.batches import same_value
from torchlogreg._model_selection.logistic_cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES_BY_HAND = "ScorePathDisplay(Cs=..., scores=..., C=...), with scores of shape (n_folds, n_cs)"


class ScorePathDisplay:
    """Cross-validated score against C, with the value that was chosen.

    Create it from a fitted estimator with :meth:`from_estimator`, or from arrays with the constructor, which stores its
    parameters as attributes; :meth:`plot` draws it.

    Parameters
    ----------
    Cs : array-like of shape (n_cs,)
        Values of C: positive and finite, in any order.

    scores : array-like of shape (n_folds, n_cs)
        Score of each fold at each value of C. A value of C whose score is not finite on one of the folds has no mean,
        and the line has a gap there.

    C : float, default=None
        The chosen value, which need not be one of `Cs`. None marks none.

    score_name : str, default=None
        Name of the score, the label of the y-axis. None means ``"Score"``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that were drawn on.

    figure_ : matplotlib Figure
        Figure that holds them.

    line_ : matplotlib Line2D
        Mean score over the folds.

    fill_between_ : matplotlib PolyCollection
        Band of one standard deviation over the folds to either side of the mean.

    chosen_ : matplotlib Line2D or None
        Vertical line at the chosen value of C; None without one.

    See Also
    --------
    TorchLogisticRegressionCV : Chooses C by cross-validation, for two classes.
    TorchSoftmaxClassifierCV : The same for any number of classes.
    sklearn.model_selection.ValidationCurveDisplay : Fits, and draws scores against any parameter.

    Examples
    --------
    >>> from torchlogreg import ScorePathDisplay
    >>> scores = [[-0.6, -0.3, -0.4], [-0.5, -0.2, -0.6]]
    >>> display = ScorePathDisplay(Cs=[0.1, 1, 10], scores=scores, C=1, score_name="Negative log loss")
    >>> display.plot().line_.get_ydata().round(2).tolist()
    [-0.55, -0.25, -0.5]
    >>> display.chosen_.get_label()
    'C = 1'
    """

    def __init__(self, *, Cs: ArrayLike, scores: ArrayLike, C: float | None = None, score_name: str | None = None):
        self.Cs = Cs
        self.scores = scores
        self.C = C
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: TorchLogisticRegressionCV | TorchSoftmaxClassifierCV | LogisticRegressionCV | GridSearchCV,
        *,
        l1_ratio: float | None = None,
        ax: Axes | None = None,
        score_name: str | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        chosen_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the scores by which a fitted estimator chose C.

        Parameters
        ----------
        estimator : object
            One of these, fitted:

            - :class:`TorchLogisticRegressionCV` or :class:`TorchSoftmaxClassifierCV`. With ``refit=False`` the marked C
              is their ``C_``, the mean of what the folds chose;
            - :class:`~sklearn.linear_model.LogisticRegressionCV` with ``use_legacy_attributes=False``;
            - :class:`TorchGridSearchCV` or :class:`~sklearn.model_selection.GridSearchCV` whose candidates differ in
              ``C`` only, or in ``C`` and ``l1_ratio``; in a pipeline, in parameters that end in ``__C`` and
              ``__l1_ratio``. Of several metrics, the one that `refit` names is drawn.

        l1_ratio : float, default=None
            The value of l1_ratio whose scores are drawn, of several that were tried. None is the chosen one. The chosen
            C is marked on the curve of the chosen l1_ratio alone. Give `ax` to draw another curve on the same axes.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        score_name : str, default=None
            Name of the score, the label of the y-axis. None derives it from the estimator's `scoring`:
            ``"neg_log_loss"`` becomes ``"Negative log loss"``, a function ``"Score"``.

        line_kw : dict, default=None
            Options of the line, for :meth:`matplotlib.axes.Axes.plot`.

        fill_between_kw : dict, default=None
            Options of the band, for :meth:`matplotlib.axes.Axes.fill_between`.

        chosen_kw : dict, default=None
            Options of the line at the chosen C, for :meth:`matplotlib.axes.Axes.axvline`.

        Returns
        -------
        display : ScorePathDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If `estimator` is none of the above.
        NotFittedError
            If it is not fitted.
        ValueError
            If its scores are not one curve over C, `l1_ratio` was not tried, or the scores cannot be drawn; see
            :meth:`plot`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import scale
        >>> from torchlogreg import ScorePathDisplay, TorchSoftmaxClassifierCV
        >>> X, y = load_wine(return_X_y=True)
        >>> model = TorchSoftmaxClassifierCV(Cs=[0.001, 0.1, 10, 1000]).fit(scale(X), y)
        >>> display = ScorePathDisplay.from_estimator(model)
        >>> display.score_name
        'Negative log loss'
        >>> display.chosen_.get_label()
        'C = 10'
        """
        if isinstance(estimator, GridSearchCV):
            curve = _curve_of_search
        elif isinstance(estimator, TorchLogisticRegressionCV | TorchSoftmaxClassifierCV | LogisticRegressionCV):
            curve = _curve_of_cv
        else:
            raise TypeError(
                f"ScorePathDisplay does not know how {type(estimator).__name__} chooses C: it takes a "
                "TorchLogisticRegressionCV, a TorchSoftmaxClassifierCV, a LogisticRegressionCV or a grid search. Of a "
                f"pipeline that ends in one, give the last step, pipeline[-1]; otherwise use {SCORES_BY_HAND}."
            )
        check_is_fitted(estimator)
        Cs, scores, C, scoring, label = curve(estimator, l1_ratio)
        if label is not None:
            line_kw = {"label": label, **(line_kw or {})}
        display = cls(Cs=Cs, scores=scores, C=C, score_name=_named(scoring) if score_name is None else score_name)
        return display.plot(ax, line_kw=line_kw, fill_between_kw=fill_between_kw, chosen_kw=chosen_kw)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        chosen_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the mean over the folds, a band around it, and the chosen value of C.

        The band reaches from one standard deviation over the folds below the mean to one above, with the number of
        folds as divisor, like ``std_test_score`` of a grid search. It shows how much the folds differ; it is no
        interval of confidence.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, whose x-axis becomes logarithmic. None makes a new figure.

        line_kw : dict, default=None
            Options of the line, for :meth:`matplotlib.axes.Axes.plot`. They take precedence over the display's own.

        fill_between_kw : dict, default=None
            Options of the band, for :meth:`matplotlib.axes.Axes.fill_between`. Its default colour is the line's.

        chosen_kw : dict, default=None
            Options of the line at the chosen C, for :meth:`matplotlib.axes.Axes.axvline`. Its default colour is the
            line's. Without a chosen C they have no effect.

        Returns
        -------
        display : ScorePathDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the shapes do not fit, no value of C has finite scores, or a value of C is infinite, for which a
            logarithmic axis has no place: put a large number in its place, or leave it and its scores out.
        ImportError
            If matplotlib is not installed.
        """
        Cs, mean, std = self._curve()
        ax = axes_for(self, ax)
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.collections import PolyCollection
        from matplotlib.lines import Line2D

        ax.set_xscale("log")  # before anything is drawn: limits around a single C are then right
        n_folds = len(np.asarray(self.scores))
        folds = f"mean of {n_folds} folds" if n_folds > 1 else "1 fold"
        options = {"marker": "o", "markersize": 4, "label": folds}
        (line,) = ax.plot(Cs, mean, **{**options, **normalize_kwargs(line_kw or {}, Line2D)})
        given = normalize_kwargs(fill_between_kw or {}, PolyCollection)
        options = {"alpha": 0.2, "linewidth": 0, "label": "± 1 standard deviation"}
        if not {"color", "facecolor"} & given.keys():
            options["facecolor"] = line.get_color()
        band = ax.fill_between(Cs, mean - std, mean + std, **{**options, **given})
        # The curve's colour rather than a second one, so that two displays on the same axes can be told apart.
        chosen = mark_chosen(ax, self.C, chosen_kw, color=line.get_color())
        name = "Score" if self.score_name is None else self.score_name
        ax.set(xlabel="C (inverse penalty strength)", ylabel=name)
        ax.legend()
        self.ax_, self.figure_, self.line_, self.fill_between_, self.chosen_ = ax, ax.figure, line, band, chosen
        return self

    def _curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cs in ascending order, mean and standard deviation over the folds, each (n_cs,)."""
        Cs, scores = np.asarray(self.Cs, dtype=np.float64), np.asarray(self.scores, dtype=np.float64)
        if Cs.ndim != 1 or scores.ndim != 2 or scores.shape[1] != len(Cs) or not scores.size:
            raise ValueError(
                f"scores must have the shape (n_folds, n_cs), and Cs (n_cs,); got {scores.shape} and {Cs.shape}."
            )
        checked_Cs(Cs, self.C, SCORES_BY_HAND)
        # Not nanmean: a mean over fewer folds is not comparable. Infinities become NaN, as inf - inf would warn.
        scores = np.where(np.isfinite(scores), scores, np.nan)[:, np.argsort(Cs, kind="stable")]
        mean = scores.mean(axis=0)
        if np.isnan(mean).all():
            raise ValueError("There is nothing to draw: no value of C has a finite score on every fold.")
        return np.sort(Cs), mean, scores.std(axis=0)


def _curve_of_cv(model: Any, l1_ratio: float | None) -> tuple:
    """(Cs, scores, C, scoring, label) of an estimator that cross-validates C, at one value of l1_ratio."""
    if isinstance(model.scores_, dict):
        raise ValueError(
            f"The scores of this {type(model).__name__} are a dict, one entry a class. Fit it with "
            "use_legacy_attributes=False."
        )
    i, is_chosen = index_of_ratio(model, l1_ratio)
    unset = model.scoring is None or model.scoring == "warn"  # scikit-learn 1.9 announces a new default by "warn"
    scores = np.asarray(numpy_of(model.scores_))[:, i]
    label = None if len(model.l1_ratios_) == 1 else _label(model.l1_ratios_[i], len(scores))
    C = model.C_ if is_chosen else None
    return numpy_of(model.Cs_), scores, C, "accuracy" if unset else model.scoring, label


def _label(l1_ratio: float, n_folds: int) -> str:
    """What the legend calls one of several curves."""
    return f"l1_ratio = {float(l1_ratio):g}, " + (f"mean of {n_folds} folds" if n_folds > 1 else "1 fold")


def _curve_of_search(search: Any, l1_ratio: float | None) -> tuple:
    """(Cs, scores, C, scoring, label) of a grid search over C, at one value of l1_ratio."""
    candidates = search.cv_results_["params"]
    ratio = _name_of_ratio(candidates)
    name = _name_of_C([{k: v for k, v in candidate.items() if k != ratio} for candidate in candidates])
    metric, scoring = "score", search.scoring
    if search.multimetric_:
        if not isinstance(search.refit, str):
            raise ValueError(
                "The search has several metrics, and ScorePathDisplay draws one: set refit to its name, or use "
                f"{SCORES_BY_HAND}, from cv_results_['split0_test_<metric>'] and so on."
            )
        metric = scoring = search.refit
    best, drawn, label = search.best_params_, [*range(len(candidates))], None
    C = best[name]
    if ratio is not None:
        tried = [float(candidate[ratio]) for candidate in candidates]
        wanted = float(best[ratio] if l1_ratio is None else l1_ratio)
        C, drawn = C if wanted == best[ratio] else None, [i for i, value in enumerate(tried) if value == wanted]
        if not drawn:
            raise ValueError(f"Set l1_ratio to one of the values that were tried, {sorted({*tried})}; got {wanted}.")
        label = _label(wanted, search.n_splits_)
    scores = np.stack([search.cv_results_[f"split{f}_test_{metric}"] for f in range(search.n_splits_)])
    return [candidates[i][name] for i in drawn], scores[:, drawn], C, scoring, label


def _name_of_ratio(candidates: list[dict[str, Any]]) -> str | None:
    """The parameter l1_ratio, if all candidates have one and they differ in it."""
    for name in sorted(set.intersection(*map(set, candidates))):
        if name.split("__")[-1] == "l1_ratio" and len({candidate[name] for candidate in candidates}) > 1:
            return name
    return None


def _name_of_C(candidates: list[dict[str, Any]]) -> str:
    """The one parameter in which the candidates differ, a C."""
    names = sorted({name for candidate in candidates for name in candidate})
    varied = [name for name in names if not all(_same(name, candidate, candidates[0]) for candidate in candidates)]
    found = varied or [name for name in names if _is_C(name)]  # a grid of one candidate varies nothing
    if len(found) == 1 and _is_C(found[0]) and all(found[0] in candidate for candidate in candidates):
        return found[0]
    raise ValueError(
        "ScorePathDisplay draws one curve, over a parameter named 'C' or ending in '__C' that every candidate sets; "
        f"the search varied {', '.join(map(repr, varied or names)) or 'nothing'}. Search over C alone, or draw the "
        f"candidates that differ in C only: {SCORES_BY_HAND}, from cv_results_['split0_test_score'] and so on."
    )


def _is_C(name: str) -> bool:
    return name == "C" or name.endswith("__C")


def _same(name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two candidates set a parameter to the same value."""
    if name not in one or name not in other:
        return name not in one and name not in other
    return same_value(one[name], other[name])


def _named(scoring: Any) -> str:
    """A name for a reader."""
    if not isinstance(scoring, str):
        return "Score"
    words = f"negative_{scoring[4:]}" if scoring.startswith("neg_") else scoring
    return words.replace("_", " ").capitalize()
