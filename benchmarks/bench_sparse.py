"""Time and memory of fits to sparse text, against every solver of scikit-learn's that takes sparse X, at equal gap.

Contestants run side by side in this process; ``benchmarks/README.md`` says how to read the table.
"""

import argparse
import sysconfig
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from bench_fit import describe_machine
from measure import alternated, peak_memory, timed
from scipy.sparse import coo_array
from scipy.special import logsumexp
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from torchlogreg import TorchSoftmaxClassifier

GAP = 1e-6
LADDER = 10.0 ** -np.arange(2, 9.5, 0.5)  # tolerances, the loosest first
PATIENCE = 60.0  # seconds of a fit after which no tighter tolerance is tried
OURS, DEFAULT = "torchlogreg", "lbfgs"


def zipf(n=100_000, p=50_000, length=65, seed=0):
    """Documents whose words follow Zipf's law, as tf-idf with rows of length one, and two classes."""
    rng = np.random.default_rng(seed)
    probability = 1.0 / np.arange(1, p + 1)
    lengths = rng.poisson(length, n)
    words = rng.choice(p, size=lengths.sum(), p=probability / probability.sum())
    index = np.repeat(np.arange(n), lengths).astype(np.int32), words.astype(np.int32)  # sag takes no wider ones
    X = coo_array((np.ones(len(words)), index), shape=(n, p)).tocsr()
    idf = 1.0 + np.log((1 + n) / (1 + np.bincount(X.indices, minlength=p)))
    X.data = (1.0 + np.log(X.data)) * idf[X.indices]
    norms = np.sqrt(np.asarray(X.power(2).sum(axis=1)).ravel())
    X.data /= np.repeat(norms, np.diff(X.indptr))
    eta = X @ (4.0 * rng.standard_normal(p))
    return X, (eta + rng.logistic(size=n) > 0).astype(int)


def source_lines(n_packages=10, most=4000, n_features=2**16):
    """Lines of the standard library's largest packages as hashed n-grams of characters, and the package of each."""
    root = Path(sysconfig.get_path("stdlib"))
    lines = {}
    for package in root.iterdir():
        if (package / "__init__.py").exists():
            files = sorted(f for f in package.rglob("*.py") if not {"test", "tests"} & set(f.relative_to(root).parts))
            text = "\n".join(f.read_text(encoding="utf-8", errors="ignore") for f in files)
            lines[package.name] = [line.strip() for line in text.split("\n") if len(line.strip()) >= 20][:most]
    largest = sorted(lines, key=lambda name: (-len(lines[name]), name))[:n_packages]
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=n_features, alternate_sign=False)
    X = vectorizer.transform([line for name in largest for line in lines[name]])
    return X, np.repeat(np.arange(len(largest)), [len(lines[name]) for name in largest])


@dataclass(frozen=True)
class Row:
    """A data set, C, and how many times as fast as scikit-learn's fastest solver and its default ours should be."""

    name: str
    make: object  # make() -> X, y
    C: float
    goals: tuple


ROWS = [
    Row("Zipf text, C = 1", zipf, 1.0, (2, 10)),
    Row("Zipf text, C = 100", zipf, 100.0, (2, 10)),
    Row("Zipf text in float32, C = 1", lambda: as_float32(*zipf()), 1.0, (2, 10)),
    Row("source lines, C = 1", source_lines, 1.0, (1, 10)),
]


def as_float32(X, y):
    return X.astype(np.float32), y


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="numbers of the rows to run, such as 0,2 (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each contestant at its tolerance (default: 3)")
    arguments = parser.parse_args()
    chosen = range(len(ROWS)) if arguments.rows is None else [int(i) for i in arguments.rows.split(",")]
    warnings.simplefilter("ignore")  # that a fit to a loose tolerance did not converge
    describe_machine()
    for i in chosen:
        bench(ROWS[i], arguments.repeats)


def bench(row, repeats):
    X, y = row.make()
    K = int(y.max()) + 1
    print(f"{row.name}: {X.shape[0]} x {X.shape[1]}, {X.nnz} numbers, {K} classes\n")
    optimum = objective(TorchSoftmaxClassifier(C=row.C, tol=1e-8, max_iter=2000).fit(*as_float64(X, y)), X, y, row.C)
    makers = contestants(row.C, K)
    found = {name: loosest(make, X, y, row.C, optimum) for name, make in makers.items()}
    meet = {name: partial(makers[name], tol=tol) for name, (tol, gap, _) in found.items() if gap <= GAP}
    seconds = {name: [] for name in meet}
    for repeat in range(repeats):
        for name, make in alternated(meet.items(), repeat):
            if not seconds[name] or seconds[name][0] < PATIENCE / 3:
                seconds[name].append(timed(make().fit, X, y)[0])
    per_fit = {name: median(times) for name, times in seconds.items()}
    print("| solver | tol | gap | seconds | ours is so many times as fast |")
    print("|---|---|---|---|---|")
    for name, (tol, gap, once) in found.items():
        if name in per_fit:
            ratio = "" if name == OURS else f"{per_fit[name] / per_fit[OURS]:.1f}"
            print(f"| {name} | {tol:.0e} | {gap:.1e} | {per_fit[name]:.3g} | {ratio} |")
        else:
            print(f"| {name} | {tol:.0e} | {gap:.1e}, not met | {once:.3g} for this | |")
    peers = {name: t / per_fit[OURS] for name, t in per_fit.items() if name != OURS}
    default = peers.get(DEFAULT, found[DEFAULT][2] / per_fit[OURS])
    for what, ratio, goal in zip(("fastest", "default"), (min(peers.values()), default), row.goals, strict=True):
        print(f"\nAgainst scikit-learn's {what}: {ratio:.1f}, goal {goal}: {'met' if ratio >= goal else 'NOT met'}.")
    with peak_memory("cpu") as peak:
        model = meet[OURS]().fit(X, y)
    if peak:
        values, whole = X.data.nbytes, X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        print(f"\nPeak memory beyond X: {peak[0] / 2**20:.0f} MiB, {peak[0] / values:.2f} times the values of X,")
        print(f"{peak[0] / whole:.2f} times the values with their indices.")
    print(f"\n{model.solver_}: {model.n_iter_[0]} iterations, {model.n_passes_:.1f} passes over X.\n", flush=True)


def contestants(C, K):
    """Each contestant as a function of its tolerance."""
    out = {OURS: partial(TorchSoftmaxClassifier, C=C, max_iter=1000)}
    for solver in ("newton-cg", "lbfgs", "sag", "saga"):
        out[solver] = partial(LogisticRegression, C=C, solver=solver, max_iter=2000)
    if K == 2:  # it penalises the intercept, by the less the larger this is
        out["liblinear"] = partial(LogisticRegression, C=C, solver="liblinear", intercept_scaling=100.0, max_iter=2000)
    return out


def loosest(make, X, y, C, optimum):
    """Find the loosest tolerance that meets the gap, with the gap there and seconds; the last tried if none does."""
    for tol in LADDER:
        seconds, model = timed(make(tol=tol).fit, X, y)
        gap = (objective(model, X, y, C) - optimum) / optimum
        if gap <= GAP or seconds > PATIENCE:
            break
    return tol, gap, seconds


def objective(model, X, y, C):
    """Mean loss plus penalty in float64."""
    coef = model.coef_.astype(np.float64)
    eta = X.astype(np.float64) @ coef.T + model.intercept_
    if len(coef) == 1:
        losses = np.logaddexp(0.0, eta[:, 0]) - y * eta[:, 0]
    else:
        losses = logsumexp(eta, axis=1) - eta[np.arange(len(y)), y]
    return losses.mean() + np.square(coef).sum() / (2.0 * C * len(y))


def as_float64(X, y):
    return X.astype(np.float64), y


if __name__ == "__main__":
    main()
