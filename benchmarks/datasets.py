"""The rows of the suite: real tables, and generated ones that are hard for a reason. All seeds are fixed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.preprocessing import StandardScaler

from torchlogreg.datasets import fetch_mnist

SPREAD, SHIFT = 2.0, 0.5  # standard deviation and mean of the logits that generated labels are drawn from


@dataclass(frozen=True)
class Row:
    """A data set with its C, the relative gap at which it is judged, and what is judged.

    `goals` maps a group of peers ("all", "scikit-learn", or one by name) to how many times faster than the fastest of
    them ours should reach the target; `passes` maps a gap to the most passes over X that ours should take. `defaults`
    also compares default fits, `device` also runs the row on an accelerator.
    """

    name: str
    make: Callable  # make(n) -> X, y
    n: int | None = None  # rows; None for a table that is what it is
    quick: int | None = None  # rows in quick mode
    C: float = 1.0
    target: float = 1e-6
    budget: float = 0.8  # seconds a peer may spend on its way up the ladder of efforts
    goals: dict[str, float] = field(default_factory=dict)
    passes: dict[float, int] = field(default_factory=dict)
    defaults: bool = False
    device: bool = False

    def data(self, quick):
        """Return X and the class codes 0 .. K-1."""
        X, y = self.make(self.quick if quick else self.n)
        return np.ascontiguousarray(X), np.unique(y, return_inverse=True)[1]


def drawn_labels(Z, rng, n_classes=2):
    """Labels from a logistic or softmax model of Z with random coefficients."""
    logits = Z @ rng.standard_normal((Z.shape[1], n_classes if n_classes > 2 else 1))
    logits = SPREAD * (logits - logits.mean(axis=0)) / logits.std(axis=0)
    if n_classes > 2:
        return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return (rng.random(len(Z)) < expit(logits[:, 0] + SHIFT)).astype(np.int64)


def isotropic(n, p, n_classes=2):
    """Independent standard normal columns."""
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((n, p))
    return Z, drawn_labels(Z, rng, n_classes)


def correlated(n, p, rank=20):
    """Columns that `rank` common factors explain but for a tenth."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p))
    X += 0.1 * rng.standard_normal((n, p))
    return X, drawn_labels(X, rng)


def lognormal(n, p):
    """Skewed, positive columns with long tails."""
    rng = np.random.default_rng(2)
    X = np.exp(rng.standard_normal((n, p)))
    return X, drawn_labels(X, rng)


def scaled(n, p, low, high):
    """Independent normal columns in units that range from 10^low to 10^high."""
    rng = np.random.default_rng(3)
    Z = rng.standard_normal((n, p))
    y = drawn_labels(Z, rng)
    return Z * rng.permutation(np.logspace(low, high, p)), y


def rare_categories(n, n_factors=3, n_levels=50, n_numeric=17):
    """One-hot columns of factors whose rarest levels occur in a handful of rows, beside numeric columns."""
    rng = np.random.default_rng(4)
    frequency = np.arange(1.0, n_levels + 1) ** -2.5
    levels = rng.choice(n_levels, size=(n, n_factors), p=frequency / frequency.sum())
    X = np.hstack([rng.standard_normal((n, n_numeric)), *(np.eye(n_levels)[column] for column in levels.T)])
    return X, drawn_labels(X, rng)


def outliers(n, p, n_outliers=5, factor=1e4):
    """Independent normal columns; a few rows are `factor` times as long, and their labels do not know it."""
    X, y = isotropic(n, p)
    X[:n_outliers] *= factor
    return X, y


def table(load, n=None, scale=StandardScaler):
    """One of scikit-learn's tables, standardised or raw."""
    X, y = load(return_X_y=True)
    return (scale().fit_transform(X) if scale else X)[:n], y[:n]


def mnist(n):
    """Return the first n training images; pixels are float32 in [0, 1]."""
    images = fetch_mnist()
    return images.X_train[:n], images.y_train[:n]


def pathological(name, make, C=1.0, **settings):
    """One of the sets with 50,000 rows on which preconditioners fail."""
    return Row(name, partial(make, **settings), 50_000, 4_000, C, budget=1.2, passes={1e-8: 15})


def real(name, load, goals, scale=StandardScaler):
    """One of the small tables."""
    return Row(name, lambda n: table(load, n, scale), goals=goals, defaults=True)


DEFAULT = "scikit-learn lbfgs"
SMALL = {"scikit-learn": 1 / 1.1}
HARD = {DEFAULT: 20.0}
LARGE = {"goals": {"scikit-learn": 6.0, "all": 3.0}, "passes": {1e-6: 6}, "device": True, "budget": 1.9}

ROWS = (
    Row("isotropic-500k", partial(isotropic, p=54), 500_000, 20_000, **LARGE),
    Row("correlated-500k", partial(correlated, p=54), 500_000, 20_000, **LARGE),
    Row("isotropic-100k", partial(isotropic, p=300), 100_000, 4_000, **LARGE),
    Row("correlated-100k", partial(correlated, p=300), 100_000, 4_000, **LARGE),
    Row("scaled-100k", partial(scaled, p=50, low=-4, high=4), 100_000, 10_000, budget=2.2, goals=HARD),
    Row("wide", partial(isotropic, p=20_000), 500, 100, budget=2.2, goals={"scikit-learn": 10.0}, device=True),
    Row("mnist", mnist, 60_000, 1_000, target=1e-3, budget=6.0, goals={DEFAULT: 5.0}, defaults=True, device=True),
    Row("many-classes", partial(isotropic, p=50, n_classes=50), 20_000, 2_000, budget=2.2, device=True),
    Row("digits", lambda n: table(load_digits, n, scale=None)),
    real("iris", load_iris, SMALL),
    real("wine", load_wine, SMALL),
    real("breast_cancer", load_breast_cancer, SMALL),
    real("wine-raw", load_wine, HARD, scale=None),
    real("breast_cancer-raw", load_breast_cancer, HARD, scale=None),
    pathological("gauss", isotropic, p=101),
    pathological("corr", correlated, p=101),
    pathological("lognormal", lognormal, p=101),
    pathological("scales", scaled, p=101, low=-3, high=4),
    pathological("scales-C1e6", scaled, C=1e6, p=101, low=-3, high=4),
    pathological("rarecat", rare_categories),
    pathological("rarecat-C1e6", rare_categories, C=1e6),
    pathological("outliers", outliers, p=101),
)
