"""What several displays need."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline

from torchlogreg._runtime.sklearn_private import check_matplotlib_support

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow that is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FOR, AGAINST = "#B2182B", "#2166AC"  # the ends of the colour map
DIVERGING = "RdBu_r"


def axes_for(display: Any, ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure that makes room for labels and legends."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1] if ax is None else ax


def next_colour(ax: Axes) -> str:
    """The colour of the next curve on these axes."""
    n_curves = sum(not str(line.get_label()).startswith("_") for line in ax.lines)
    return COLOURS[n_curves % len(COLOURS)]


def checked_Cs(Cs: ArrayLike, C: float | None, by_hand: str) -> np.ndarray:
    """Values of C as an array, all of which must fit on a logarithmic axis; so must the chosen one."""
    Cs = np.asarray(Cs, dtype=np.float64)
    drawn = Cs if C is None else np.append(Cs, C)
    wrong = drawn[~((drawn > 0) & (drawn < np.inf))]
    if len(wrong):
        raise ValueError(
            f"C={wrong[0]} has no place on a logarithmic axis. For C=inf, no penalty, search with a large number such "
            f"as 1e6 in its place; or leave that value and its results out: {by_hand}, and C=None to mark none."
        )
    return Cs


def index_of_ratio(model: Any, l1_ratio: float | None) -> tuple[int, bool]:
    """Which of the values of l1_ratio that were tried is drawn, the chosen one for None, and whether it is that."""
    ratios = [0.0 if ratio is None else float(ratio) for ratio in model.l1_ratios_]
    chosen = ratios[0] if len(ratios) == 1 else float(model.l1_ratio_)
    wanted = chosen if l1_ratio is None else float(l1_ratio)
    if wanted not in ratios:
        raise ValueError(f"Set l1_ratio to one of the values that were tried, {ratios}; got {wanted}.")
    return ratios.index(wanted), wanted == chosen


def mark_chosen(ax: Axes, C: float | None, given: dict[str, Any] | None, **options: Any) -> Line2D | None:
    """The vertical line at the chosen C, drawn with the caller's options over the display's; None if there is none."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    if C is None:
        return None
    options = {"linestyle": "--", "label": f"C = {C:.3g}", **options}
    return ax.axvline(C, **{**options, **normalize_kwargs(given or {}, Line2D)})


def names_of_features(names: Any, estimator: Any, n_features: int) -> list[str]:
    """Names: those given, else those of the estimator or of the steps before it, else x0, x1 and so on."""
    if names is None:
        names = getattr(estimator, "feature_names_in_", None)
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        with suppress(AttributeError):  # of a step that has no names for what it makes
            names = estimator[:-1].get_feature_names_out(names)
    return [f"x{i}" for i in range(n_features)] if names is None else [str(name) for name in names]


def row_of_class(classes: np.ndarray, target: Any) -> tuple[int, Any]:
    """Index of the row of coefficients for a class, and that class."""
    if len(classes) == 2:
        if target is not None and target != classes[1]:
            raise ValueError(f"Two classes have one row of coefficients, for {classes[1]}; got target={target!r}.")
        return 0, classes[1]
    if target is None or target not in classes.tolist():
        raise ValueError(f"Set target to one of the classes {classes.tolist()}; got {target!r}.")
    return classes.tolist().index(target), target
