"""What ScorePathDisplay draws, read back from the picture."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import table
from matplotlib.colors import to_rgb, to_rgba
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    ScorePathDisplay,
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)

pytestmark = pytest.mark.usefixtures("no_windows")

CS = [0.01, 0.1, 1.0, 10.0]
SCORES = np.array([[-0.6, -0.3, -0.1, -0.4], [-0.5, -0.1, -0.2, -0.6], [-0.4, -0.2, -0.3, -0.5]])


def drawn(display):
    """(Cs, mean, lower edge, upper edge) as the picture has them."""
    Cs, mean = np.asarray(display.line_.get_data())
    corners = np.concatenate([path.vertices for path in display.fill_between_.get_paths()])
    edges = [[corners[corners[:, 0] == C, 1].min(), corners[corners[:, 0] == C, 1].max()] for C in Cs]
    return Cs, mean, *np.transpose(edges)


def check(display, Cs, scores, C):
    """The picture shows these scores."""
    mean, std = scores.mean(axis=0), scores.std(axis=0)
    for actual, expected in zip(drawn(display), (Cs, mean, mean - std, mean + std), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert set(display.chosen_.get_xdata()) == {C}
    assert display.chosen_.get_label() == f"C = {C:.3g}"
    assert display.ax_.get_xscale() == "log"
    display.figure_.canvas.draw()  # warnings are errors


def test_draws_the_mean_a_band_and_the_choice():
    display = ScorePathDisplay(Cs=CS, scores=SCORES, C=0.359)
    assert display.plot() is display
    check(display, CS, SCORES, 0.359)
    assert display.figure_ is display.ax_.figure
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("C (inverse penalty strength)", "Score")
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["mean of 3 folds", "± 1 standard deviation", "C = 0.359"]


def test_the_order_of_the_grid_does_not_matter():
    order = [2, 0, 3, 1]
    display = ScorePathDisplay(Cs=np.array(CS)[order], scores=SCORES[:, order], C=0.1, score_name="Gain").plot()
    check(display, CS, SCORES, 0.1)
    assert display.ax_.get_ylabel() == "Gain"


def test_without_a_choice():
    display = ScorePathDisplay(Cs=CS, scores=SCORES).plot(chosen_kw={"lw": 3})
    assert display.chosen_ is None
    assert len(display.ax_.lines) == 1


@pytest.mark.parametrize("scores", [SCORES[:, :1], SCORES[:1], SCORES[:1, :1]], ids=["one C", "one fold", "one score"])
def test_the_smallest_grids(scores):
    Cs = CS[: scores.shape[1]]
    check(ScorePathDisplay(Cs=Cs, scores=scores.tolist(), C=CS[0]).plot(), Cs, scores, CS[0])


def test_given_axes_and_options_are_used():
    figure, (ax, other) = plt.subplots(1, 2)
    display = ScorePathDisplay(Cs=CS, scores=SCORES, C=1).plot(
        other,
        line_kw={"c": "C3", "label": "mine"},
        fill_between_kw={"alpha": 0.5},
        chosen_kw={"ls": ":", "color": "k"},
    )
    assert display.ax_ is other
    assert display.figure_ is figure
    assert not ax.lines
    assert (display.line_.get_color(), display.line_.get_label()) == ("C3", "mine")
    expected = to_rgba("C3", 0.5)  # the band follows the line
    np.testing.assert_allclose(display.fill_between_.get_facecolor(), [expected])
    assert (display.chosen_.get_linestyle(), display.chosen_.get_color()) == (":", "k")
    display.plot(other, fill_between_kw={"color": "k"})
    np.testing.assert_allclose(display.fill_between_.get_facecolor(), [(0, 0, 0, 0.2)])


def test_two_displays_on_the_same_axes_differ_in_colour():
    one = ScorePathDisplay(Cs=CS, scores=SCORES, C=1).plot()
    two = ScorePathDisplay(Cs=CS, scores=SCORES - 1, C=10).plot(one.ax_)
    assert one.ax_ is two.ax_
    for display, colour in ((one, "C0"), (two, "C1")):
        rgb = to_rgb(colour)
        artists = (display.line_.get_color(), display.chosen_.get_color(), display.fill_between_.get_facecolor()[0, :3])
        assert [to_rgb(c) for c in artists] == [rgb] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_leaves_a_gap(bad):
    scores = SCORES.copy()
    scores[1, 1] = bad
    display = ScorePathDisplay(Cs=CS, scores=scores, C=1).plot()
    mean = SCORES.mean(axis=0)
    np.testing.assert_allclose(display.line_.get_ydata(), [mean[0], np.nan, mean[2], mean[3]])
    assert len(display.fill_between_.get_paths()) == 2
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": SCORES.T}, r"shape \(n_folds, n_cs\).* got \(4, 3\) and \(4,\)"),
        ({"scores": SCORES[0]}, r"got \(4,\)"),
        ({"Cs": [CS]}, r"and \(1, 4\)"),
        ({"scores": np.empty((0, 4))}, r"got \(0, 4\)"),
        ({"scores": SCORES * np.nan}, "nothing to draw"),
        ({"Cs": [*CS[:3], np.inf]}, "C=inf has no place on a logarithmic axis.* such as 1e6"),
        ({"C": np.inf}, "C=inf has no place.* C=None"),
        ({"C": np.nan}, "C=nan has no place"),
        ({"Cs": [0, *CS[1:]]}, r"C=0\.0 has no place"),
    ],
)
def test_errors_leave_no_figure_behind(changes, message):
    display = ScorePathDisplay(**{"Cs": CS, "scores": SCORES, "C": 1, **changes})
    with pytest.raises(ValueError, match=message):
        display.plot()
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("scoring", "name"),
    [
        ("neg_log_loss", "Negative log loss"),
        ("balanced_accuracy", "Balanced accuracy"),
        (None, "Accuracy"),
        (lambda model, X, y: model.score(X, y), "Score"),
    ],
)
@pytest.mark.parametrize("cv_class", [TorchLogisticRegressionCV, TorchSoftmaxClassifierCV])
def test_our_cv_estimators(cv_class, scoring, name):
    X, y = table("wine", True, cv_class is TorchLogisticRegressionCV)
    model = cv_class(Cs=CS[::-1], cv=3, scoring=scoring).fit(X, y)
    display = ScorePathDisplay.from_estimator(model)
    check(display, CS, model.scores_[:, 0, ::-1], model.C_)
    assert display.ax_.get_ylabel() == display.score_name == name
    assert ScorePathDisplay.from_estimator(model, score_name="Mine", ax=display.ax_).ax_.get_ylabel() == "Mine"


def test_a_mean_of_the_folds_choices_is_drawn_where_it_is():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifierCV(Cs=CS, cv=3, refit=False).fit(X, y)
    model.C_ = 0.37  # between two values of the grid
    check(ScorePathDisplay.from_estimator(model), CS, model.scores_[:, 0], 0.37)


def test_scikit_learns_cv_estimator():
    X, y = table("wine", True)
    settings = {"Cs": CS, "cv": 3, "scoring": "neg_log_loss", "l1_ratios": (0.0,)}
    model = LogisticRegressionCV(**settings, use_legacy_attributes=False).fit(X, y)
    display = ScorePathDisplay.from_estimator(model)
    check(display, CS, model.scores_[:, 0], model.C_)
    assert display.score_name == "Negative log loss"
    legacy = LogisticRegressionCV(**settings, use_legacy_attributes=True).fit(X, y)
    with pytest.raises(ValueError, match="use_legacy_attributes=False"):
        ScorePathDisplay.from_estimator(legacy)
    settings |= {
        "Cs": CS[:2],
        "l1_ratios": (0.0, 0.5),
        "solver": "saga",
        "random_state": 0,
        "tol": 1e-2,
        "max_iter": 1000,
    }
    both = LogisticRegressionCV(**settings, use_legacy_attributes=False).fit(X, y)
    chosen = int(both.l1_ratio_ == 0.5)
    check(ScorePathDisplay.from_estimator(both), CS[:2], both.scores_[:, chosen], both.C_)


def test_one_curve_for_each_l1_ratio():
    X, y = table("wine", True)
    model = TorchSoftmaxClassifierCV(Cs=CS, l1_ratios=(0.0, 0.5), cv=3).fit(X, y)
    search = TorchGridSearchCV(
        make_pipeline(TorchSoftmaxClassifier()),
        {"torchsoftmaxclassifier__C": CS, "torchsoftmaxclassifier__l1_ratio": [0.0, 0.5]},
        scoring="neg_log_loss",
        cv=3,
    ).fit(X, y)
    assert search.best_params_["torchsoftmaxclassifier__l1_ratio"] == model.l1_ratio_
    other = 0.5 - model.l1_ratio_
    for estimator in (model, search):
        display = ScorePathDisplay.from_estimator(estimator)
        second = ScorePathDisplay.from_estimator(estimator, l1_ratio=other, ax=display.ax_)
        chosen = int(model.l1_ratio_ == 0.5)
        np.testing.assert_allclose(display.line_.get_ydata(), model.scores_[:, chosen].mean(axis=0), rtol=1e-2)
        np.testing.assert_allclose(second.line_.get_ydata(), model.scores_[:, 1 - chosen].mean(axis=0), rtol=1e-2)
        assert display.chosen_ is not None
        assert second.chosen_ is None
        labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert f"l1_ratio = {model.l1_ratio_:g}, mean of 3 folds" in labels
        assert f"l1_ratio = {other:g}, mean of 3 folds" in labels
        with pytest.raises(ValueError, match=r"values that were tried, \[0.0, 0.5\]; got 0.7"):
            ScorePathDisplay.from_estimator(estimator, l1_ratio=0.7)


def fold_scores(search, metric="score"):
    return np.stack([search.cv_results_[f"split{f}_test_{metric}"] for f in range(search.n_splits_)])


@pytest.mark.parametrize("search_class", [GridSearchCV, TorchGridSearchCV])
def test_grid_searches(search_class):
    X, y = table("wine", True)
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier())
    name = "torchsoftmaxclassifier__C"
    grid = {name: CS[::-1], "standardscaler__with_mean": [True]}  # the second does not vary
    search = search_class(pipeline, grid, scoring="neg_log_loss", cv=3).fit(X, y)
    display = ScorePathDisplay.from_estimator(search)
    check(display, CS, fold_scores(search)[:, ::-1], search.best_params_[name])
    assert display.score_name == "Negative log loss"


def test_a_grid_search_by_default_and_of_a_single_candidate():
    X, y = table("wine", True)
    search = GridSearchCV(LogisticRegression(), {"C": [2]}, cv=3, refit=False).fit(X, y)
    display = ScorePathDisplay.from_estimator(search)
    check(display, [2], fold_scores(search), 2)
    assert display.score_name == "Score"


def test_of_several_metrics_the_one_of_refit_is_drawn():
    X, y = table("wine", True)
    grid, scoring = {"C": CS}, ["accuracy", "neg_log_loss"]
    search = TorchGridSearchCV(TorchSoftmaxClassifier(), grid, scoring=scoring, refit="neg_log_loss", cv=3).fit(X, y)
    display = ScorePathDisplay.from_estimator(search)
    check(display, CS, fold_scores(search, "neg_log_loss"), search.best_params_["C"])
    assert display.score_name == "Negative log loss"
    search = TorchGridSearchCV(TorchSoftmaxClassifier(), grid, scoring=scoring, refit=False, cv=3).fit(X, y)
    with pytest.raises(ValueError, match=r"several metrics.* set refit"):
        ScorePathDisplay.from_estimator(search)


@pytest.mark.parametrize(
    ("grid", "varied"),
    [
        ({"C": CS[:2], "fit_intercept": [True, False]}, "varied 'C', 'fit_intercept'"),
        ({"tol": [1e-3, 1e-4]}, "varied 'tol'"),
        ({"C": [1], "class_weight": [{0: 2}, {0: 3}]}, "varied 'class_weight'"),
        ([{"C": [0.1]}, {"tol": [1e-3]}], "varied 'C', 'tol'"),
        ([{"C": [0.1]}, {}], "varied 'C'"),
        ({"tol": [1e-3]}, "varied 'tol'"),
        ({}, "varied nothing"),
    ],
)
def test_a_search_over_anything_else_is_an_error(grid, varied):
    X, y = table("wine", True)
    search = GridSearchCV(TorchSoftmaxClassifier(), grid, cv=2).fit(X, y)
    with pytest.raises(ValueError, match=f"{varied}[.].*over C alone"):
        ScorePathDisplay.from_estimator(search)


def test_a_grid_in_two_parts_is_one_curve():
    X, y = table("wine", True)
    search = GridSearchCV(TorchSoftmaxClassifier(), [{"C": CS[2:]}, {"C": CS[:2]}], cv=2).fit(X, y)
    check(ScorePathDisplay.from_estimator(search), CS, fold_scores(search)[:, [2, 3, 0, 1]], search.best_params_["C"])


@pytest.mark.parametrize(
    "estimator", [TorchSoftmaxClassifierCV(), LogisticRegressionCV(), GridSearchCV(LogisticRegression(), {"C": [1]})]
)
def test_an_estimator_that_is_not_fitted_is_an_error(estimator):
    with pytest.raises(NotFittedError):
        ScorePathDisplay.from_estimator(estimator)


@pytest.mark.parametrize("estimator", [TorchLogisticRegression(), make_pipeline(TorchLogisticRegressionCV()), None])
def test_other_estimators_are_an_error(estimator):
    with pytest.raises(TypeError, match=rf"{type(estimator).__name__} chooses C.*pipeline\[-1\]"):
        ScorePathDisplay.from_estimator(estimator)


def test_matplotlib_is_needed_only_to_draw(monkeypatch):
    display = ScorePathDisplay(Cs=CS, scores=SCORES)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"ScorePathDisplay\.plot requires matplotlib"):
            display.plot()
