"""The rows of bench_l1: data, the C or the path of C, and what is asked of ours. All seeds are fixed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from bench_sparse import zipf
from datasets import SHIFT, SPREAD, correlated, isotropic, mnist, table
from measure import BLOCK
from scipy.signal import lfilter
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_iris, load_wine

FREQUENT, TELLING = 0.1, 0.1  # share of frequent words, and share of these that the labels of texts depend on
RHO, N_CAUSES = 0.7, 40  # correlation of neighbouring columns, and how many columns the labels depend on
LEAST = 10**0.02  # where paths begin, as a multiple of the least useful C


@dataclass(frozen=True)
class Row:
    """A data set, its strength, and what is judged.

    C is a number, or with `relative` a multiple of the least useful one, below which all coefficients are zero. With
    `decades`, the models are a path of `n_models` values of C from the least useful one upwards. `goals` maps a group
    of peers, or one by name, to how many times as fast as the fastest of them ours should be.
    """

    name: str
    make: Callable  # make(n) -> X, y
    n: int | None = None  # rows; None for a table that is what it is
    quick: int | None = None  # rows in quick mode
    C: float = 1.0
    relative: bool = False
    decades: float = 0.0
    intercept: bool = True
    budget: float = 20.0  # seconds a contestant may spend on its way to the target
    goals: dict[str, float] = field(default_factory=dict)

    @property
    def is_path(self):
        """Whether the row asks for many models."""
        return self.decades > 0

    def data(self, quick):
        """X and the class codes 0 .. K-1."""
        X, y = self.make(self.quick if quick else self.n)
        return X, np.unique(y, return_inverse=True)[1]

    def values_of_C(self, X, y, n_models):
        """Return the values of C, (n_models,) for a path and (1,) for a single model."""
        if self.is_path:
            return least_useful_C(X, y, self.intercept) * np.logspace(np.log10(LEAST), self.decades, n_models)
        return np.array([self.C * least_useful_C(X, y, self.intercept) if self.relative else self.C])


def least_useful_C(X, y, intercept):
    """Return the C below which all coefficients are zero: 1 / max |X'(Y - P)|, P the probabilities then."""
    K = int(y.max()) + 1
    Y = np.eye(K)[y]
    residual = Y - (Y.mean(axis=0) if intercept else 1.0 / K)
    residual = residual[:, 1:] if K == 2 else residual
    largest = np.zeros((X.shape[1], residual.shape[1]))
    for start in range(0, len(y), BLOCK):
        largest += X[start : start + BLOCK].T @ residual[start : start + BLOCK]
    return 1.0 / float(np.abs(largest).max())


def text(n, length=50):
    """Texts whose words follow Zipf's law, half as many as there are texts; labels depend on some frequent ones."""
    p = n // 2
    X, _ = zipf(n, p, length)
    rng = np.random.default_rng(5)
    n_frequent = int(FREQUENT * p)
    telling = rng.choice(n_frequent, int(TELLING * n_frequent), replace=False)
    w = np.zeros(p)
    w[telling] = rng.standard_normal(len(telling))
    return X, labels(X @ w, rng, shift=0.0)


def neighbours(n, p=20_000):
    """Columns each of which is correlated with the next, as along a genome; the labels depend on a few."""
    rng = np.random.default_rng(11)
    noise = rng.standard_normal((n, p))
    noise[:, 1:] *= np.sqrt(1.0 - RHO**2)
    X = np.ascontiguousarray(lfilter([1.0], [1.0, -RHO], noise, axis=1))
    w = np.zeros(p)
    w[rng.choice(p, N_CAUSES, replace=False)] = rng.standard_normal(N_CAUSES)
    return X, labels(X @ w, rng, shift=0.0)


def labels(logits, rng, shift=SHIFT):
    """Labels from these logits, standardised."""
    logits = SPREAD * (logits - logits.mean()) / logits.std()
    return (rng.random(len(logits)) < expit(logits + shift)).astype(np.int64)


FASTEST = "the fastest peer"
SCIKIT_LEARN = "the faster of liblinear and saga"
SIX, FOUR, LEVEL = {FASTEST: 6.0}, {FASTEST: 4.0}, {FASTEST: 1 / 1.2}
TALL = {"make": partial(isotropic, p=54), "n": 500_000, "quick": 10_000, "budget": 60.0}
CORRELATED = {"make": partial(correlated, p=300), "n": 100_000, "quick": 2_000, "budget": 60.0}
IMAGES = {"make": mnist, "n": 20_000, "quick": 500, "budget": 60.0}
# celer and snapml, strong on these, have no intercept that is free of a penalty; so nobody gets one.
WORDS = {"make": text, "n": 60_000, "quick": 2_000, "intercept": False}
AR = {"make": neighbours, "n": 500, "quick": 60, "intercept": False}
WIDE = {"make": partial(isotropic, p=20_000), "n": 500, "quick": 60, "intercept": False}
PATH = {"budget": 240.0}


def words(C, goals):
    """One of the fits to text."""
    return Row(f"text-{C:g}", **WORDS, C=C, goals=goals)


def tiny(name, load):
    """One of scikit-learn's tables, standardised."""
    return Row(name, lambda n: table(load, n), budget=2.0, goals={SCIKIT_LEARN: 1 / 1.5})


ROWS = (
    Row("tall", **TALL, goals=SIX),
    Row("tall-strong", **TALL, C=10.0, relative=True, goals=SIX),
    Row("correlated", **CORRELATED, goals=SIX),
    Row("correlated-strong", **CORRELATED, C=300.0, relative=True, goals=SIX),
    Row("mnist-strong", **IMAGES, C=10.0, relative=True, goals={FASTEST: 3.0}),
    Row("mnist", **IMAGES, goals={FASTEST: 1.2}),
    *(words(C, {FASTEST: 1 / 1.1}) for C in (0.07, 1.0, 10.0)),
    words(100.0, {}),
    Row("wide", **AR, goals=LEVEL),
    Row("wide-strong", **AR, C=30.0, relative=True, goals=LEVEL),
    Row("wide-isotropic", **WIDE, goals=LEVEL),
    Row("tall-path", **TALL | PATH, decades=3.0, goals=FOUR),
    Row("correlated-path", **CORRELATED | PATH, decades=3.0, goals=FOUR),
    Row("wide-path", **AR | PATH, decades=2.0, goals={FASTEST: 1.0}),
    tiny("iris", load_iris),
    tiny("wine", load_wine),
    tiny("breast_cancer", load_breast_cancer),
)
