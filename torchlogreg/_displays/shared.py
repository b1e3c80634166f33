"""What several displays need."""

from contextlib import suppress

import numpy as np
from sklearn.pipeline import Pipeline

from torchlogreg._runtime.sklearn_private import check_matplotlib_support

# Okabe and Ito's colours, which colour-blind people tell apart, less the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FOR, AGAINST = "#B2182B", "#2166AC"  # the ends of the colour map
DIVERGING = "RdBu_r"


def axes_for(display, ax):
    """The given axes, or those of a new figure that makes room for labels and legends."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1] if ax is None else ax


def next_colour(ax):
    """The colour of the next curve on these axes."""
    n_curves = sum(not str(line.get_label()).startswith("_") for line in ax.lines)
    return COLOURS[n_curves % len(COLOURS)]


def checked_Cs(Cs, C, by_hand):
    """Values of C as an array of numbers that a logarithmic axis has a place for; so must be the chosen one."""
    Cs = np.asarray(Cs, dtype=np.float64)
    drawn = Cs if C is None else np.append(Cs, C)
    wrong = drawn[~((drawn > 0) & (drawn < np.inf))]
    if len(wrong):
        raise ValueError(
            f"C={wrong[0]} has no place on a logarithmic axis. For C=inf, no penalty, search with a large number such "
            f"as 1e6 in its place; or leave that value and its results out: {by_hand}, and C=None to mark none."
        )
    return Cs


def mark_chosen(ax, C, given, **options):
    """The vertical line at the chosen C, drawn with the caller's options over the display's; None if there is none."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    if C is None:
        return None
    options = {"linestyle": "--", "label": f"C = {C:.3g}", **options}
    return ax.axvline(C, **{**options, **normalize_kwargs(given, Line2D)})


def names_of_features(names, estimator, n_features):
    """Names: those given, else those that the estimator or the steps before it know, else x0, x1 and so on."""
    if names is None:
        names = getattr(estimator, "feature_names_in_", None)
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        with suppress(AttributeError):  # of a step that has no names for what it makes
            names = estimator[:-1].get_feature_names_out(names)
    return [f"x{i}" for i in range(n_features)] if names is None else [str(name) for name in names]


def row_of_class(classes, target):
    """Index of the row of coefficients for a class, and that class."""
    if len(classes) == 2:
        if target is not None and target != classes[1]:
            raise ValueError(f"Two classes have one row of coefficients, for {classes[1]}; got target={target!r}.")
        return 0, classes[1]
    if target is None or target not in classes.tolist():
        raise ValueError(f"Set target to one of the classes {classes.tolist()}; got {target!r}.")
    return classes.tolist().index(target), target
