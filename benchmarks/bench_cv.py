"""Time of a cross-validated grid over C, against scikit-learn's LogisticRegressionCV and GridSearchCV.

Contestants run side by side in this process; ``benchmarks/README.md`` says how to read the table.
"""

import argparse
import warnings
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from bench_fit import describe_machine
from datasets import correlated, isotropic, mnist, rare_categories
from measure import Objective, alternated, timed
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)


def standardised(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@dataclass(frozen=True)
class Row:
    """A data set, its grid, and how many times as fast as each peer ours should be."""

    name: str
    make: object  # make() -> X, y
    n_folds: int
    n_Cs: int
    goals: dict
    equal_tol: float | None = None  # at which LogisticRegressionCV comes as near to its optima as ours does to them
    repeats: int = 3  # of ours and of what takes less than `PATIENCE`
    pipeline: bool = False


CV, GRID = "LogisticRegressionCV", "GridSearchCV"
EQUAL = "equal objective"
PATIENCE = 20.0  # seconds from which a peer runs once
COVER_TYPE = partial(rare_categories, 200_000, n_factors=1, n_levels=44, n_numeric=10)  # the shape of that table
ROWS = [
    Row("200k x 54, isotropic", partial(isotropic, 200_000, 54), 5, 10, {CV: 15, GRID: 40}),
    Row("200k x 54, correlated", partial(correlated, 200_000, 54), 5, 10, {CV: 15, GRID: 40}),
    Row("200k x 54, numbers and categories", COVER_TYPE, 5, 10, {CV: 15, GRID: 40}),
    Row("MNIST 20k x 784, 10 classes", partial(mnist, 20_000), 3, 6, {CV: 8}),
    Row("digits 1797 x 64, 10 classes", partial(standardised, load_digits), 5, 10, {CV: 5}, 1e-6),
    Row("breast_cancer 569 x 30", partial(standardised, load_breast_cancer), 5, 10, {CV: 5}, 1e-7, repeats=9),
    Row("100k x 50, with a StandardScaler", partial(isotropic, 100_000, 50), 5, 10, {GRID: 5}, pipeline=True),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="numbers of the rows to run, such as 3,4 (default: all)")
    arguments = parser.parse_args()
    chosen = range(len(ROWS)) if arguments.rows is None else [int(i) for i in arguments.rows.split(",")]
    describe_machine()
    print("| data, folds x Cs | contestant | seconds | times ours | goal | worst gap | log loss | its C |")
    print("|---|---|---|---|---|---|---|---|")
    for i in chosen:
        bench(ROWS[i])


def bench(row):
    X, y = row.make()
    contestants = _contestants(row, binary=len(np.unique(y)) == 2)
    seconds, found, models = {name: [] for name in contestants}, {}, {}
    for repeat in range(row.repeats):
        for name, (make, threads) in alternated(contestants.items(), repeat):
            if seconds[name] and seconds[name][0] > PATIENCE:
                continue
            with threadpool_limits(threads), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a model did not converge
                elapsed, model = timed(make().fit, X, y)
            seconds[name].append(elapsed)
            found[name], models[name] = _found(model), model
    gaps = _worst_gaps(row, X, y, {name: m for name, m in models.items() if hasattr(m, "coefs_paths_")})
    per_fit = {name: median(times) for name, times in seconds.items()}
    for name, t in per_fit.items():
        loss, C = found[name]
        kind = name.split(",")[0]
        peer, goal = not name.startswith("Torch"), row.goals.get(kind)
        own = "TorchGridSearchCV" if kind == GRID else "Torch...CV"
        ratio = f"{t / per_fit[own]:.1f}" if peer else ""
        verdict = "" if not peer else f"{goal}: " + ("met" if t >= goal * per_fit[own] else "NOT met")
        gap = f"{gaps[name]:.1e}" if name in gaps else ""
        data = f"{row.name}, {row.n_folds} x {row.n_Cs}"
        print(f"| {data} | {name} | {t:.3g} | {ratio} | {verdict} | {gap} | {loss:.6f} | {C:.3g} |", flush=True)


def _worst_gaps(row, X, y, models):
    """Of the models of each contestant, the largest relative distance of the objective from its least known value."""
    if not models:
        return {}
    codes = np.unique(y, return_inverse=True)[1]
    ours = next(iter(models.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model did not converge
        best = clone(ours).set_params(tol=1e-8, max_iter=500).fit(X, y)
    values = {}
    for name, model in {**models, "best": best}.items():
        values[name] = np.array(
            [
                [
                    Objective(X[train], codes[train], C).value(w.T)
                    for C, w in zip(model.Cs_, paths[0], strict=True)  # of the one l1_ratio
                ]
                for (train, _), paths in zip(StratifiedKFold(row.n_folds).split(X, y), model.coefs_paths_, strict=True)
            ]
        )
    least = np.min(list(values.values()), axis=0)
    return {name: float((values[name] / least - 1.0).max()) for name in models}


def _contestants(row, binary):
    """Each contestant as a function that makes it, and its number of BLAS threads (None for the default)."""
    Cs = np.logspace(-4, 4, row.n_Cs)
    single, cross = (
        (TorchLogisticRegression, TorchLogisticRegressionCV)
        if binary
        else (TorchSoftmaxClassifier, TorchSoftmaxClassifierCV)
    )

    def search(kind, estimator):
        parameter = "C"
        if row.pipeline:
            parameter = f"{type(estimator).__name__.lower()}__C"
            estimator = make_pipeline(StandardScaler(), estimator)
        return kind(estimator, {parameter: Cs}, cv=row.n_folds, scoring="neg_log_loss")

    peer = partial(
        LogisticRegressionCV,
        Cs=Cs,
        cv=row.n_folds,
        scoring="neg_log_loss",
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    out = {}
    if CV in row.goals:
        out["Torch...CV"] = partial(cross, Cs=Cs, cv=row.n_folds), None
        out[CV] = peer, None
        if len(row.goals) == 1:
            out[f"{CV}, one BLAS thread"] = peer, 1
        if row.equal_tol is not None:
            out[f"{CV}, {EQUAL} (tol={row.equal_tol:g})"] = partial(peer, tol=row.equal_tol, max_iter=10_000), 1
    if GRID in row.goals:
        out["TorchGridSearchCV"] = partial(search, TorchGridSearchCV, single()), None
        out[GRID] = partial(search, GridSearchCV, LogisticRegression()), None
        out[f"{GRID}, one BLAS thread"] = partial(search, GridSearchCV, LogisticRegression()), 1
    return out


def _found(model):
    """Cross-validated log loss at the chosen C, and that C."""
    if hasattr(model, "best_score_"):
        return -model.best_score_, next(iter(model.best_params_.values()))
    return -model.scores_.mean(axis=0).max(), model.C_


if __name__ == "__main__":
    main()
