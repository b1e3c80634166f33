"""What the displays of curves and coefficients draw, read back from the picture."""

import sys
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import table
from matplotlib.colors import to_hex
from matplotlib.text import Text
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from torchlogreg import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

pytestmark = pytest.mark.usefixtures("no_windows")

NAMES = [f"feature {i}" for i in range(13)]


def texts_of(figure):
    """Every text that the figure shows, with its place, after drawing it: warnings are errors."""
    figure.canvas.draw()
    hidden = set()  # labels of ticks outside the limits
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.majorTicks, *axis.minorTicks):
                if not (ax.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def check_layout(figure):
    """All text lies in the figure, and no two texts overlap."""
    texts = texts_of(figure)
    assert texts
    for name, box in texts:
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.x1 + 1, name
        assert box.y1 <= figure.bbox.y1 + 1, name
    for (name, box), (other, another) in combinations(texts, 2):
        assert not box.padded(-1).overlaps(another.padded(-1)), (name, other)


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


# LossCurveDisplay


def test_loss_curve_of_an_estimator():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifier(solver="lbfgs", tol=1e-8).fit(X, y)
    display = LossCurveDisplay.from_estimator(model)
    x, height = display.line_.get_data()
    np.testing.assert_array_equal(x, np.arange(1, model.n_iter_[0] + 1))
    np.testing.assert_array_equal(height, model.loss_curve_)
    assert display.ax_.get_yscale() == "log"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Iteration", "Objective")
    assert legend(display) == ["TorchSoftmaxClassifier, lbfgs"]
    check_layout(display.figure_)


def test_loss_curves_of_several_estimators_on_the_same_axes():
    X, y = table("wine", True)
    best = TorchSoftmaxClassifier(tol=1e-12).fit(X, y).objective_
    ax, colours = None, set()
    for solver in ("newton-cholesky", "lbfgs", "sgd"):
        model = TorchSoftmaxClassifier(solver=solver, tol=0 if solver == "sgd" else 1e-6, max_iter=80).fit(X, y)
        display = LossCurveDisplay.from_estimator(model, ax=ax, minimum=best, name=solver)
        above = model.loss_curve_ - best
        np.testing.assert_array_equal(display.line_.get_ydata(), np.where(above > 0, above, np.nan))
        assert display.ax_ is ax or ax is None
        ax = display.ax_
        colours.add(display.line_.get_color())
    assert legend(display) == ["newton-cholesky", "lbfgs", "sgd"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Iteration or epoch", "Objective above its minimum")
    assert len(colours) == 3
    check_layout(display.figure_)


def test_loss_curve_of_scikit_learn():
    X, y = table("wine", True)
    model = MLPClassifier((), max_iter=500, tol=1e-2, random_state=0).fit(X, y)
    assert LossCurveDisplay.from_estimator(model).line_.get_ydata().tolist() == model.loss_curve_


def test_a_loss_without_a_logarithm_leaves_a_gap():
    display = LossCurveDisplay(loss_curve=[3, 1, np.inf, 2, np.nan, 1.5], minimum=1).plot(line_kw={"c": "r", "lw": 3})
    np.testing.assert_array_equal(display.line_.get_ydata(), [2, np.nan, np.nan, 1, np.nan, 0.5])
    assert (display.line_.get_color(), display.line_.get_linewidth()) == ("r", 3)
    assert display.ax_.get_legend() is None
    check_layout(display.figure_)


@pytest.mark.parametrize(
    ("curve", "message"), [([], "nothing to draw"), ([1.0, 0.5], "finite and above 1"), ([[2.0]], r"got \(1, 1\)")]
)
def test_loss_curves_that_cannot_be_drawn(curve, message):
    with pytest.raises(ValueError, match=message):
        LossCurveDisplay(loss_curve=curve, minimum=1).plot()
    assert not plt.get_fignums()


def test_loss_curves_need_a_fitted_estimator_with_one():
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(TorchLogisticRegression())
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(*table("wine", False))
    with pytest.raises(TypeError, match=r"Pipeline has no loss_curve_.*pipeline\[-1\]"):
        LossCurveDisplay.from_estimator(pipeline)


# CoefficientPathDisplay

CS = [0.01, 1.0, 100.0]


def check_paths(display, Cs, coefs, C):
    """A line for each feature, the largest in colour, the legend in their order at the right end."""
    assert len(display.lines_) == coefs.shape[1]
    for line, path in zip(display.lines_, coefs.T, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), Cs)
        np.testing.assert_allclose(line.get_ydata(), path, rtol=1e-12)
    size = abs(coefs).max(axis=0)
    coloured = [j for j, line in enumerate(display.lines_) if line.get_color() != "0.8"]
    assert sorted(size[coloured]) == sorted(size)[-len(coloured) :]
    in_order = sorted(coloured, key=lambda j: -coefs[-1, j])
    assert legend(display) == [*[display.lines_[j].get_label() for j in in_order], f"C = {C:.3g}"]
    assert len({display.lines_[j].get_color() for j in coloured}) == len(coloured)
    assert set(display.chosen_.get_xdata()) == {C}
    assert display.ax_.get_xscale() == "log"
    check_layout(display.figure_)


@pytest.mark.parametrize("parameters", [{}, {"fit_intercept": False}, {"refit": False}], ids=str)
def test_coefficient_paths_of_two_classes(parameters):
    X, y = table("breast_cancer", True)
    model = TorchLogisticRegressionCV(Cs=CS, cv=3, max_iter=200, **parameters).fit(X, y)
    display = CoefficientPathDisplay.from_estimator(model, max_names=7)
    assert display.coefs.shape == (3, 30)
    check_paths(display, CS, model.coefs_paths_[:, 0, :, 0, :30].mean(axis=0), model.C_)
    assert len(legend(display)) == 8
    assert display.ax_.get_ylabel() == "Coefficient, class 1"


@pytest.mark.parametrize("target", ["a", "c"])
def test_coefficient_paths_of_a_class(target):
    X, y = table("wine", True)
    frame, labels = pd.DataFrame(X, columns=NAMES), np.array(["a", "b", "c"])[y]
    ours = TorchSoftmaxClassifierCV(Cs=CS[::-1], cv=3).fit(frame, labels)
    theirs = LogisticRegressionCV(
        Cs=CS, cv=3, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy", max_iter=1000, tol=1e-6
    ).fit(frame, labels)
    k = "abc".index(target)
    for model in (ours, theirs):
        display = CoefficientPathDisplay.from_estimator(model, target=target)
        order = np.argsort(model.Cs_)
        check_paths(display, CS, model.coefs_paths_[:, 0, order, k, :13].mean(axis=0), model.C_)
        assert display.lines_[3].get_label() == "feature 3"
        assert display.ax_.get_ylabel() == f"Coefficient, class {target}"
        assert len(legend(display)) == 7


def test_paths_with_an_l1_norm_leave_the_axis_where_a_coefficient_enters():
    X, y = table("breast_cancer", True)
    model = TorchLogisticRegressionCV(Cs=8, l1_ratios=(0.5, 1.0), cv=3, max_iter=500).fit(X, y)
    other = 1.5 - model.l1_ratio_
    for l1_ratio in (None, other):
        display = CoefficientPathDisplay.from_estimator(model, l1_ratio=l1_ratio)
        drawn = model.l1_ratio_ if l1_ratio is None else other
        coefs = model.coefs_paths_[:, int(drawn == 1.0), :, 0, :30].mean(axis=0)
        assert (display.chosen_ is None) == (l1_ratio is not None)
        for line, path in zip(display.lines_, coefs.T, strict=True):
            y_drawn = line.get_ydata()
            on = np.isfinite(y_drawn)
            np.testing.assert_array_equal(y_drawn[on], path[on])
            assert not path[~on].any()
            first = np.flatnonzero(path).min(initial=len(path))
            assert np.isnan(y_drawn[: max(first - 1, 0)]).all()
            assert on[first:].all() or (path[first:] == 0).any()
        np.testing.assert_array_equal(display.n_nonzero_, (coefs != 0).sum(axis=1))
        shown = [text.get_text() for text in display.counts_ax_.get_xticklabels()]
        assert shown == [str(n) for n in display.n_nonzero_[[0, 1, 2, 4, 5, 6, 7]]]
        check_layout(display.figure_)
    smooth = CoefficientPathDisplay(Cs=[1, 2], coefs=np.ones((2, 3))).plot()
    assert smooth.counts_ax_ is None
    with pytest.raises(ValueError, match=r"values that were tried, \[0.5, 1.0\]; got 0.7"):
        CoefficientPathDisplay.from_estimator(model, l1_ratio=0.7)
    display = CoefficientPathDisplay(Cs=[1, 2, 4, 8], coefs=[[0, 0], [0, 0], [1, 0], [0, 0]], C=2).plot()
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), [np.nan, 0, 1, 0])
    assert legend(display) == ["x0", "C = 2"]  # the other is nowhere


def test_options_of_the_path():
    _, ax = plt.subplots()
    display = CoefficientPathDisplay(Cs=CS, coefs=np.eye(3)).plot(ax, max_names=0, line_kw={"lw": 3, "c": "g"})
    assert display.ax_ is ax
    assert display.chosen_ is None
    assert ax.get_legend() is None
    assert [(line.get_linewidth(), line.get_color(), line.get_label()) for line in display.lines_] == [
        (3, "g", name) for name in ("x0", "x1", "x2")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coefs": np.ones((2, 3))}, r"got \(2, 3\) and \(3,\)"),
        ({"coefs": np.ones(3)}, r"got \(3,\)"),
        ({"coefs": np.ones((3, 0))}, r"got \(3, 0\)"),
        ({"coefs": np.full((3, 2), np.nan)}, "NaN"),
        ({"Cs": [1, 2, np.inf]}, "C=inf has no place"),
        ({"C": 0}, "C=0.0 has no place"),
        ({"feature_names": ["a"]}, "1 names for 2 features"),
    ],
)
def test_paths_that_cannot_be_drawn(changes, message):
    display = CoefficientPathDisplay(**{"Cs": CS, "coefs": np.ones((3, 2)), **changes})
    with pytest.raises(ValueError, match=message):
        display.plot()
    assert not plt.get_fignums()


def test_there_are_seven_colours():
    with pytest.raises(ValueError, match="max_names=8, and there are 7 colours"):
        CoefficientPathDisplay(Cs=CS, coefs=np.ones((3, 9))).plot(max_names=8)


def test_paths_need_a_class_and_an_estimator_that_tried_several_C():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifierCV(Cs=CS, cv=3).fit(X, y)
    for target in (None, 5, "a"):
        with pytest.raises(ValueError, match=r"one of the classes \[0, 1, 2\]; got"):
            CoefficientPathDisplay.from_estimator(model, target=target)
    two = TorchLogisticRegressionCV(Cs=CS, cv=3).fit(X[y > 0], y[y > 0])
    with pytest.raises(ValueError, match="one row of coefficients, for 2; got target=1"):
        CoefficientPathDisplay.from_estimator(two, target=1)
    with pytest.raises(NotFittedError):
        CoefficientPathDisplay.from_estimator(TorchSoftmaxClassifierCV())
    for other in (TorchSoftmaxClassifier().fit(X, y), make_pipeline(model)):
        with pytest.raises(TypeError, match=r"not a .*pipeline\[-1\]"):
            CoefficientPathDisplay.from_estimator(other)
    legacy = LogisticRegressionCV(Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=True, scoring="accuracy")
    with pytest.raises(ValueError, match="use_legacy_attributes=False"):
        CoefficientPathDisplay.from_estimator(legacy.fit(X, y), target=0)


# CoefficientDisplay


@pytest.mark.parametrize("max_features", [5, 100])
def test_the_largest_coefficients_as_bars(max_features):
    X, y = table("breast_cancer", True)
    names = [f"a rather long name of feature {i}" for i in range(30)]
    model = TorchLogisticRegression().fit(X, y)
    display = CoefficientDisplay.from_estimator(model, feature_names=names, max_features=max_features)
    largest = np.argsort(-abs(model.coef_[0]))[:max_features]
    np.testing.assert_array_equal(display.features_, largest)
    np.testing.assert_array_equal([bar.get_width() for bar in display.bars_], model.coef_[0, largest])
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == [names[j] for j in largest]
    assert display.ax_.get_xlabel() == "Coefficient, class 1"
    colours = [to_hex(bar.get_facecolor()) for bar in display.bars_]
    assert [colour == "#b2182b" for colour in colours] == (model.coef_[0, largest] > 0).tolist()
    assert display.image_ is None
    y_of_first, y_of_last = (display.ax_.transData.transform((0, i))[1] for i in (0, len(largest) - 1))
    assert y_of_first > y_of_last  # the largest is on top
    if max_features < 30:
        check_layout(display.figure_)


def test_the_coefficients_of_all_classes_as_a_table():
    X, y = table("wine", False)
    labels = np.array(["cultivar one", "cultivar two", "cultivar three"])[y]
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(pd.DataFrame(X, columns=NAMES), labels)
    display = CoefficientDisplay.from_estimator(pipeline, max_features=10)
    coef = pipeline[-1].coef_
    largest = np.argsort(-abs(coef).max(axis=0))[:10]
    np.testing.assert_array_equal(display.image_.get_array(), coef[:, largest].T)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == [NAMES[j] for j in largest]
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == pipeline.classes_.tolist()
    low, high = display.image_.get_clim()
    assert -low == high == abs(coef[:, largest]).max()  # white is zero
    check_layout(display.figure_)


def test_one_of_several_classes():
    X, y = table("wine", True)
    model = LogisticRegression().fit(X, y)
    display = CoefficientDisplay.from_estimator(model, target=2, max_features=1)
    j = abs(model.coef_[2]).argmax()
    assert [bar.get_width() for bar in display.bars_] == [model.coef_[2, j]]
    assert display.ax_.get_yticklabels()[0].get_text() == f"x{j}"
    with pytest.raises(ValueError, match="one of the classes"):
        CoefficientDisplay.from_estimator(model, target=3)


@pytest.mark.parametrize("target", [None, 3])
def test_coefficients_as_pictures(target):
    X, y = table("digits", False)
    model = TorchSoftmaxClassifier(C=0.01).fit(X, y)
    display = CoefficientDisplay.from_estimator(model, image_shape=(8, 8), target=target)
    mosaic = np.ma.filled(display.image_.get_array(), np.nan)
    rows = model.coef_ if target is None else model.coef_[[target]]
    labels = list(range(10)) if target is None else [target]
    assert [text.get_text() for text in display.ax_.texts] == list(map(str, labels))
    for text, row in zip(display.ax_.texts, rows, strict=True):
        x, y = text.get_position()  # the picture is the one below the label
        left, top = round(x - 3.5), round(y + 0.75)
        np.testing.assert_array_equal(mosaic[top : top + 8, left : left + 8], row.reshape(8, 8))
    assert np.isfinite(mosaic).sum() == rows.size
    check_layout(display.figure_)


@pytest.mark.parametrize("n_classes", [1, 2, 3, 7, 11, 26])
@pytest.mark.parametrize("shape", [(2, 3), (16, 4), (3, 20)], ids=str)
def test_any_number_of_pictures_fits(n_classes, shape):
    coef = np.random.default_rng(0).normal(size=(n_classes, np.prod(shape)))
    display = CoefficientDisplay(coef=coef, image_shape=shape).plot()
    drawn = display.image_.get_array().compressed()
    assert sorted(drawn) == sorted(coef.ravel())
    assert len(display.ax_.texts) == n_classes


def test_names_that_steps_make():
    X, y = table("wine", True)
    X = X[:, :2]
    pipeline = make_pipeline(PolynomialFeatures(2, include_bias=False), TorchSoftmaxClassifier()).fit(X, y)
    display = CoefficientDisplay.from_estimator(pipeline, feature_names=["a", "b"])
    assert sorted(label.get_text() for label in display.ax_.get_yticklabels()) == ["a", "a b", "a^2", "b", "b^2"]
    pipeline = make_pipeline(FunctionTransformer(np.tanh), TorchSoftmaxClassifier()).fit(X, y)  # has no names
    display = CoefficientDisplay.from_estimator(pipeline)
    assert sorted(label.get_text() for label in display.ax_.get_yticklabels()) == ["x0", "x1"]


def test_coefficients_that_are_all_zero():
    for parameters in ({}, {"image_shape": (1, 2)}):
        CoefficientDisplay(coef=np.zeros((3, 2)), **parameters).plot().figure_.canvas.draw()
    assert len(CoefficientDisplay(coef=np.zeros((1, 2))).plot().bars_) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coef": [1, 2]}, r"got \(2,\)"),
        ({"coef": [[1, np.nan]]}, "NaN"),
        ({"labels": [1, 2]}, "2 labels and 2 names do not fit"),
        ({"feature_names": ["a"]}, "1 labels and 1 names do not fit"),
        ({"image_shape": (2, 2)}, r"shape \(2, 2\) do not have 2 pixels"),
    ],
)
def test_coefficients_that_cannot_be_drawn(changes, message):
    display = CoefficientDisplay(**{"coef": [[1, 2]], **changes})
    with pytest.raises(ValueError, match=message):
        display.plot()
    assert not plt.get_fignums()


def test_coefficients_need_a_fitted_linear_classifier():
    with pytest.raises(NotFittedError):
        CoefficientDisplay.from_estimator(TorchSoftmaxClassifier())
    with pytest.raises(TypeError, match="got DecisionTreeClassifier"):
        CoefficientDisplay.from_estimator(DecisionTreeClassifier().fit(*table("wine", True)))


# ProbabilityCurveDisplay

HOURS, PASSED = np.array([[1.0], [2.0], [3.0], [4.5]]), np.array(["no", "yes", "no", "yes"])


def check_curve(display, model, X, y):
    grid, proba = display.line_.get_data()
    np.testing.assert_allclose(proba, model.predict_proba(X(grid))[:, 1], atol=1e-12)
    assert grid[0] == pytest.approx(0.65)
    assert grid[-1] == pytest.approx(4.85)
    at_boundary = model.predict_proba(X(np.array([display.boundary_])))
    np.testing.assert_allclose(at_boundary, 0.5, atol=1e-4)
    points = np.column_stack([HOURS[:, 0], y == model.classes_[1]])
    np.testing.assert_array_equal(display.points_.get_offsets(), points)
    np.testing.assert_array_equal(display.even_.get_ydata(), 0.5)
    name = type(model).__name__
    assert legend(display) == [f"{name}: even odds at {display.boundary_:.3g}", "data"]
    check_layout(display.figure_)


@pytest.mark.parametrize("sign", [1, -1])
def test_probability_curve(sign):
    y = PASSED if sign > 0 else PASSED[::-1]
    model = TorchLogisticRegression(C=10).fit(HOURS, y)
    display = ProbabilityCurveDisplay.from_estimator(model, HOURS, y, feature_name="hours")
    check_curve(display, model, lambda grid: grid[:, None], y)
    assert display.boundary_ == pytest.approx(-model.intercept_[0] / model.coef_[0, 0], abs=1e-3)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("hours", "Probability of yes")


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_probability_curve_of_a_pipeline_on_a_frame(frame):
    X = frame({"hours of study": HOURS[:, 0]})
    model = make_pipeline(StandardScaler(), TorchSoftmaxClassifier()).fit(X, PASSED)
    display = ProbabilityCurveDisplay.from_estimator(model, X, PASSED.tolist())
    check_curve(display, model, lambda grid: frame({"hours of study": grid}), PASSED)
    assert display.ax_.get_xlabel() == "hours of study"


def test_two_probability_curves_on_the_same_axes():
    _, ax = plt.subplots(layout="constrained")
    for C, y in ((0.1, PASSED), (100, None)):
        model = TorchLogisticRegression(C=C).fit(HOURS, PASSED)
        display = ProbabilityCurveDisplay.from_estimator(
            model, HOURS, y, grid=np.linspace(0, 10, 50), name=f"C={C}", ax=ax, line_kw={"lw": 3}
        )
        assert display.ax_ is ax
    assert [text.split(":")[0] for text in legend(display)] == ["C=0.1", "data", "C=100"]
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_linewidth() for line in curves] == [3, 3]
    assert curves[0].get_color() != curves[1].get_color()
    assert display.points_ is None
    check_layout(display.figure_)


def test_a_curve_that_does_not_cross():
    display = ProbabilityCurveDisplay(grid=[0, 1], proba=[0.1, 0.2]).plot()
    assert display.boundary_ is None
    assert legend(display) == ["probability"]
    one = ProbabilityCurveDisplay.from_estimator(
        TorchLogisticRegression().fit(HOURS, PASSED), HOURS[:1], PASSED[:1]
    )  # one row has no range
    assert np.ptp(one.line_.get_xdata()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proba": [0.1]}, r"got \(2,\) and \(1,\)"),
        ({"grid": [1, 0]}, "ascending"),
        ({"grid": [], "proba": []}, r"got \(0,\)"),
        ({"proba": [0.1, 1.1]}, "between 0 and 1"),
        ({"proba": [0.1, np.nan]}, "between 0 and 1"),
    ],
)
def test_curves_that_cannot_be_drawn(changes, message):
    display = ProbabilityCurveDisplay(**{"grid": [0, 1], "proba": [0.1, 0.2], **changes})
    with pytest.raises(ValueError, match=message):
        display.plot()
    assert not plt.get_fignums()


def test_curves_need_one_feature_and_two_classes():
    X, y = table("wine", True)
    with pytest.raises(NotFittedError):
        ProbabilityCurveDisplay.from_estimator(TorchLogisticRegression(), HOURS)
    with pytest.raises(ValueError, match=r"one feature.*DecisionBoundaryDisplay"):
        ProbabilityCurveDisplay.from_estimator(TorchSoftmaxClassifier().fit(X, y), X)
    with pytest.raises(ValueError, match="two classes, and the estimator has 3"):
        ProbabilityCurveDisplay.from_estimator(TorchSoftmaxClassifier().fit(X[:, :1], y), X[:, :1])
    model = TorchLogisticRegression().fit(HOURS, PASSED)
    with pytest.raises(ValueError, match=r"X the shape \(4,\)"):
        ProbabilityCurveDisplay.from_estimator(model, HOURS[:, 0])
    with pytest.raises(ValueError, match="not among the classes"):
        ProbabilityCurveDisplay.from_estimator(model, HOURS, [0, 1, 0, 1])


@pytest.mark.parametrize(
    "display",
    [
        LossCurveDisplay(loss_curve=[1]),
        CoefficientPathDisplay(Cs=[1], coefs=[[1]]),
        CoefficientDisplay(coef=[[1]]),
        ProbabilityCurveDisplay(grid=[0], proba=[0]),
    ],
    ids=lambda display: type(display).__name__,
)
def test_matplotlib_is_needed_only_to_draw(display, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=rf"{type(display).__name__}\.plot requires matplotlib"):
            display.plot()
    assert display.plot() is display
