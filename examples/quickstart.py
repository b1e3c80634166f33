"""
Quickstart: compare with scikit-learn
=====================================

Both estimators in a pipeline and in a grid search on real data, next to scikit-learn's ``LogisticRegression``: the
accuracy, the objective, the coefficients and the time. The figure is saved as ``output/quickstart.png``. MNIST is
included if the environment variable ``TORCHLOGREG_DATA`` names a folder with ``mnist.npz``.
"""

import os
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # colour-blind readers can tell them apart
MNIST_ROWS = 2_000  # of 60,000, so that the script takes less than a minute
GRID = {"C": [0.01, 0.1, 1.0, 10.0]}


def fit(model, X, y):
    """Fit; return the seconds, and a remark if there was a convergence warning."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(X, y)
    seconds = time.perf_counter() - start
    return seconds, "not converged" if any(issubclass(w.category, ConvergenceWarning) for w in caught) else ""


def mean_loss(pipeline, X, y):
    """Return the mean log loss, computed from the logits."""
    logits = pipeline.decision_function(X).astype(np.float64)
    if logits.ndim == 1:
        logits = np.column_stack([np.zeros(len(y)), logits])
    return -log_softmax(logits, axis=1)[np.arange(len(y)), np.searchsorted(pipeline.classes_, y)].mean()


def objective(pipeline, X, y):
    """Return sum_i loss_i / S + ||W||^2 / (2 C S), by the same formula for all estimators."""
    model = pipeline[-1]
    return mean_loss(pipeline, X, y) + (model.coef_.astype(np.float64) ** 2).sum() / (2 * model.C * len(y))


def compare(title, estimator, X_train, X_test, y_train, y_test):
    """Print a table with one pipeline for each estimator, all with C = 1."""
    models = {
        type(estimator).__name__: estimator,
        "LogisticRegression": LogisticRegression(),
        "  the same, tol=1e-8": LogisticRegression(tol=1e-8, max_iter=10_000),
    }
    pipelines = {name: make_pipeline(StandardScaler(), model) for name, model in models.items()}
    timed = {name: fit(pipeline, X_train, y_train) for name, pipeline in pipelines.items()}
    exact = pipelines["  the same, tol=1e-8"][-1].coef_
    print(f"\n{title}: {len(X_train)} training rows, {len(X_test)} test rows, {X_train.shape[1]} features")
    print(f"{'':24}{'accuracy':>9}{'log loss':>10}{'objective':>13}{'|W - W*|':>10}{'seconds':>9}")
    for name, pipeline in pipelines.items():
        seconds, remark = timed[name]
        print(
            f"{name:24}{pipeline.score(X_test, y_test):9.4f}{mean_loss(pipeline, X_test, y_test):10.5f}"
            f"{objective(pipeline, X_train, y_train):13.9f}{np.abs(pipeline[-1].coef_ - exact).max():10.1e}"
            f"{seconds:9.2f}  {remark}"
        )


def search(estimator, X_train, X_test, y_train, y_test):
    """Print a table with a grid search over C for each estimator."""
    print(f"{'grid search, 5 folds':24}{'accuracy':>9}{'best C':>10}{'':23}{'seconds':>9}")
    for model in (estimator, LogisticRegression()):
        grid = {f"{type(model).__name__.lower()}__C": GRID["C"]}
        found = GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=5)
        seconds, remark = fit(found, X_train, y_train)
        (best,) = found.best_params_.values()
        print(f"{type(model).__name__:24}{found.score(X_test, y_test):9.4f}{best:10g}{'':23}{seconds:9.2f}  {remark}")


def draw_boundary(ax, data):
    """Draw the probabilities over two principal components."""
    X = make_pipeline(StandardScaler(), PCA(2)).fit_transform(data.data)
    model = TorchLogisticRegression().fit(X, data.target)
    display = DecisionBoundaryDisplay.from_estimator(
        model,
        X,
        ax=ax,
        response_method="predict_proba",
        plot_method="pcolormesh",
        cmap=LinearSegmentedColormap.from_list("classes", [ORANGE, "white", BLUE]),
        alpha=0.45,
        vmin=0,
        vmax=1,
        eps=0.5,
        grid_resolution=200,
    )
    ax.contour(display.xx0, display.xx1, display.response, levels=[0.5], colors="k", linewidths=1.5)
    for label, colour, marker in ((0, ORANGE, "^"), (1, BLUE, "o")):
        ax.scatter(
            *X[data.target == label].T,
            s=22,
            c=colour,
            marker=marker,
            edgecolor="white",
            linewidth=0.4,
            label=data.target_names[label],
        )
    ax.set(
        title=f"Breast cancer: accuracy {model.score(X, data.target):.3f} with two components",
        xlabel="first principal component",
        ylabel="second principal component",
    )
    ax.legend(title="tumour", loc="upper right")
    plt.colorbar(display.surface_, ax=ax, label=f"probability of {data.target_names[1]}", ticks=np.linspace(0, 1, 6))


def draw_losses(ax, X, y):
    """Draw how far each solver is from the optimum after each iteration."""
    X = StandardScaler().fit_transform(X)
    optimum = TorchSoftmaxClassifier(tol=1e-10, max_iter=1000).fit(X, y).objective_
    for solver, colour, style in (("sgd", ORANGE, "-"), ("lbfgs", BLUE, "--"), ("newton-cholesky", GREEN, ":")):
        model = TorchSoftmaxClassifier(solver=solver, random_state=0)
        fit(model, X, y)
        gap = model.loss_curve_ - optimum
        ax.plot(np.arange(1, len(gap) + 1), gap, style, c=colour, lw=2, label=solver)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="iteration (sgd: epoch)",
        ylabel="objective above the optimum",
        title="Digits: three solvers converge to one optimum",
    )
    ax.grid(alpha=0.3)
    ax.legend()


start = time.perf_counter()
cancer, digits = load_breast_cancer(), load_digits()
for title, data, estimator in (
    ("Breast cancer", cancer, TorchLogisticRegression()),
    ("Digits", digits, TorchSoftmaxClassifier()),
):
    split = train_test_split(data.data, data.target, stratify=data.target, random_state=0)
    compare(title, estimator, *split)
    search(estimator, *split)
if "TORCHLOGREG_DATA" in os.environ:
    X_train, y_train, X_test, y_test = fetch_mnist()
    X_train, y_train = X_train[:MNIST_ROWS], y_train[:MNIST_ROWS]
    compare(f"MNIST, first {MNIST_ROWS} rows", TorchSoftmaxClassifier(), X_train, X_test, y_train, y_test)
else:
    print("\nMNIST: skipped, as TORCHLOGREG_DATA is not set and the download from OpenML is large")

fig, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
draw_boundary(axes[0], cancer)
draw_losses(axes[1], digits.data, digits.target)
path = Path("output", "quickstart.png")
path.parent.mkdir(exist_ok=True)
fig.savefig(path, dpi=130)
print(
    f"\nW*: the coefficients found with tol=1e-8. Figure: {path}. {time.perf_counter() - start:.0f} seconds in total."
)
