"""The contestants of bench_l1, each through its own public API, as fit(X, y, C, effort) -> Fit.

Effort is a number of iterations or, for those with `by_tolerance`, the tolerance in quarters of a decade. For a path, C
is an ascending array and the coefficients that are returned are (B, p). Peers get X as they like it best, made before.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from measure import THREADS
from peers import TINY, Contestant, Fit, ours
from scipy.sparse import csc_matrix, csr_matrix, hstack, issparse
from sklearn.linear_model import LogisticRegression

from torchlogreg import TorchLogisticRegression, TorchLogisticRegressionCV

OURS, OURS_IN_TURN = "torchlogreg", "torchlogreg, warm starts"
LIBLINEAR, SAGA = "scikit-learn liblinear", "scikit-learn saga"
PER_DECADE = 4  # efforts by tolerance
MANY = 100_000  # iterations, where the tolerance ends a fit
TIGHTEST = 12 * PER_DECADE
CONSTANT = 1000.0  # of the column that stands for an intercept where a peer penalises it; 100 leaves gaps above 1e-6
PENALISED = f"penalises the intercept, a little: it is the coefficient of a column of {CONSTANT:g}s"
HESSIAN = 2**30  # bytes of the largest one that is formed
MODULES = {"scikit-learn": "sklearn"}


def is_ours(name):
    """Whether a contestant is ours."""
    return name.startswith(OURS)


@dataclass(frozen=True)
class L1Contestant(Contestant):
    """A solver for the L1 norm; most have a tolerance that decides how far they go."""

    by_tolerance: bool = True
    threads: tuple[int | None, ...] = (None,)

    def excluded(self, n, p, K, budget):
        """Why it sits out a data set, or an empty string."""
        if self.hessian and 8 * p**2 > HESSIAN:
            return "Hessian too large"
        return super().excluded(n, p, K, budget)


def contestant(intercept, name, fit, prepare, **settings):
    """Return a contestant whose package is the first word of its name."""
    package = name.split()[0].rstrip(",")
    return L1Contestant(
        name, partial(fit, intercept=intercept), prepare, package, MODULES.get(package, package), **settings
    )


def contestants(row):
    """Those of a row: of paths or of single models, with or without an intercept."""
    return paths(row.intercept) if row.is_path else singles(row.intercept)


def singles(intercept):
    """All that fit one model."""
    one = partial(contestant, intercept)
    penalised = {"binary": True, "note": PENALISED if intercept else ""}
    constant = partial(with_constant, intercept=intercept)
    return [
        one(OURS, fit_ours, as_it_is, by_tolerance=False, patience=2.0),
        one(LIBLINEAR, fit_liblinear, as_it_is, **penalised),
        one(SAGA, fit_saga, as_it_is, by_tolerance=False),
        one("celer", fit_celer, constant, **penalised),
        one("skglm", fit_skglm, by_column, binary=True),
        one("adelie", fit_adelie, for_adelie, binary=True, note="both of its loops get the same tolerance"),
        one("glum", fit_glum, by_column, binary=True, hessian=True, threads=(None, 1), note="`irls-cd`"),
        one("snapml", fit_snapml, partial(constant, prepare=for_snapml), by_tolerance=False, **penalised),
        one("cyanure", fit_cyanure, for_cyanure, by_tolerance=False),
    ]


def paths(intercept):
    """All that fit a path of values of C; the time is that of all models."""
    one = partial(contestant, intercept, binary=True)
    penalised = PENALISED if intercept else ""
    in_turn = "a fit for each C, with `warm_start`"
    liblinear = "a fit for each C" + (f"; {penalised}" if penalised else "")
    return [
        one(OURS, path_ours, as_it_is, patience=2.0, note="`TorchLogisticRegressionCV`, a split of all rows"),
        one(OURS_IN_TURN, path_ours_in_turn, as_it_is, patience=2.0, note=in_turn),
        one(LIBLINEAR, path_liblinear, as_it_is, note=liblinear),
        one(SAGA, path_saga, as_it_is, by_tolerance=False, note=in_turn),
        one("celer", path_celer, partial(with_constant, intercept=intercept), note=penalised),
        one("skglm", path_skglm, by_column, note=in_turn),
        one("adelie", fit_adelie, for_adelie, note="both of its loops get the same tolerance"),
        one("glum", path_glum, by_column, hessian=True, threads=(None, 1), note="`irls-cd`, `alpha_search`"),
    ]


def tolerance(effort):
    """Return the tolerance that an effort stands for."""
    return 10.0 ** (-effort / PER_DECADE)


def as_it_is(X, y):
    """Rows one after the other, dense or CSR."""
    return X, y


def by_column(X, y):
    """Columns one after the other, dense or CSC."""
    return csc_matrix(X) if issparse(X) else np.asfortranarray(X), y


def with_constant(X, y, intercept, prepare=by_column):
    """One more column, a constant one, where there is to be an intercept; labels -1 and 1."""
    if intercept:
        column = np.full((X.shape[0], 1), CONSTANT, dtype=X.dtype)
        X = hstack([X, column], format="csr") if issparse(X) else np.hstack([X, column])
    return prepare(X, 2.0 * y - 1.0)


def for_adelie(X, y):
    """Its view of sparse matrices, or columns one after the other."""
    if not issparse(X):
        return np.asfortranarray(X), y
    from adelie.matrix import sparse

    return sparse(csc_matrix(X), method="naive", n_threads=1), y


def for_snapml(X, y):
    """Sparse: the older kind of CSC matrix, or rows one after the other."""
    return csc_matrix(X) if issparse(X) else X, y


def for_cyanure(X, y):
    """Sparse: the older kind of CSR matrix."""
    return csr_matrix(X) if issparse(X) else X, y


def fit_ours(X, y, C, effort, intercept, tol=0.0):
    """Our estimators with their default solver."""
    model = ours(y)(C=C, l1_ratio=1.0, fit_intercept=intercept, max_iter=effort, tol=tol, device="cpu").fit(X, y)
    return Fit(model.coef_, model.intercept_, model.n_passes_, exact=True)


def fit_liblinear(X, y, C, effort, intercept):
    model = liblinear(intercept, tolerance(effort)).set_params(C=C).fit(X, y)
    return Fit(model.coef_, model.intercept_)


def fit_saga(X, y, C, effort, intercept):
    model = saga(intercept, effort).set_params(C=C).fit(X, y)
    return Fit(model.coef_, model.intercept_, int(np.max(model.n_iter_)))


def fit_celer(X, y, C, effort, intercept):
    from celer import LogisticRegression as Celer

    model = Celer(C=C, tol=tolerance(effort), max_iter=MANY).fit(X, y)
    return without_constant(model.coef_, intercept)


def fit_skglm(X, y, C, effort, intercept):
    model = skglm(intercept, effort).set_params(alpha=1.0 / (C * X.shape[0])).fit(X, y)
    return Fit(model.coef_, np.reshape(model.intercept_, -1))


def fit_adelie(X, y, C, effort, intercept):
    """Fit a model or a path."""
    from adelie import grpnet
    from adelie.glm import binomial

    tol, strengths = tolerance(effort), 1.0 / (np.atleast_1d(C) * len(y))
    settings = {"intercept": intercept, "early_exit": False, "progress_bar": False, "n_threads": THREADS}
    state = grpnet(X, binomial(y.astype(np.float64)), lmda_path=strengths, tol=tol, irls_tol=tol, **settings)
    return Fit(state.betas.toarray(), np.asarray(state.intercepts).ravel())


def fit_glum(X, y, C, effort, intercept):
    model = glum(intercept, effort).set_params(alpha=1.0 / (C * X.shape[0])).fit(X, y)
    return Fit(model.coef_[None], np.array([model.intercept_]), 2 * int(model.n_iter_))


def fit_snapml(X, y, C, effort, intercept):
    """Its own `fit_intercept` leaves the intercept at zero where the penalty is an L1 norm."""
    from snapml import LogisticRegression as SnapML

    settings = {"penalty": "l1", "dual": False, "fit_intercept": False, "n_jobs": 1, "random_state": 0}
    model = SnapML(regularizer=1.0 / C, max_iter=effort, tol=TINY, **settings).fit(X, y)
    return without_constant(np.reshape(model.coef_, (1, -1)), intercept)


def fit_cyanure(X, y, C, effort, intercept):
    from cyanure.estimators import Classifier

    settings = {"penalty": "l1", "lambda_1": 1.0 / (C * X.shape[0]), "fit_intercept": intercept, "tol": TINY}
    settings |= {"loss": "multiclass-logistic", "multi_class": "multinomial"} if y.max() > 1 else {"loss": "logistic"}
    model = Classifier(max_iter=effort, n_threads=THREADS, verbose=False, **settings).fit(X, y)
    coef = np.reshape(model.coef_, (X.shape[1], -1)).T  # (p, K)
    return Fit(coef, np.reshape(model.intercept_, -1) if intercept else np.zeros(len(coef)))


def path_ours(X, y, Cs, effort, intercept):
    """All models at once, trained on all rows; those that they are scored on do not matter."""
    split = [(np.arange(len(y)), np.array([y.argmin(), y.argmax()]))]
    settings = {"l1_ratios": (1.0,), "cv": split, "refit": False, "scoring": "neg_log_loss", "device": "cpu"}
    model = TorchLogisticRegressionCV(Cs=Cs, fit_intercept=intercept, tol=tolerance(effort), max_iter=1000, **settings)
    model.fit(X, y)
    coef = model.coefs_paths_.reshape(len(Cs), -1)
    passes = getattr(model, "n_passes_", None)
    return Fit(coef[:, : X.shape[1]], coef[:, -1] if intercept else np.zeros(len(Cs)), passes, exact=True)


def path_ours_in_turn(X, y, Cs, effort, intercept):
    settings = {"fit_intercept": intercept, "tol": tolerance(effort), "max_iter": 300, "device": "cpu"}
    model = TorchLogisticRegression(l1_ratio=1.0, warm_start=True, **settings)
    passes = []
    fit = in_turn(model, X, y, [{"C": C} for C in Cs], then=lambda: passes.append(model.n_passes_))
    return fit._replace(passes=sum(passes), exact=True)


def path_liblinear(X, y, Cs, effort, intercept):
    return in_turn(liblinear(intercept, tolerance(effort)), X, y, [{"C": C} for C in Cs])


def path_saga(X, y, Cs, effort, intercept):
    fit = in_turn(saga(intercept, effort).set_params(warm_start=True), X, y, [{"C": C} for C in Cs])
    return fit._replace(passes=effort * len(Cs))


def path_celer(X, y, Cs, effort, intercept):
    from celer.homotopy import celer_path

    settings = {"alphas": 1.0 / Cs, "tol": tolerance(effort), "max_iter": MANY, "use_PN": True}
    return without_constant(celer_path(X, y, "logreg", **settings)[1].T, intercept)


def path_skglm(X, y, Cs, effort, intercept):
    model = skglm(intercept, effort).set_params(warm_start=True)
    return in_turn(model, X, y, [{"alpha": 1.0 / (C * X.shape[0])} for C in Cs])


def path_glum(X, y, Cs, effort, intercept):
    model = glum(intercept, effort).set_params(alpha=1.0 / (Cs * X.shape[0]), alpha_search=True).fit(X, y)
    return Fit(model.coef_path_, np.asarray(model.intercept_path_) * np.ones(len(Cs)))


def in_turn(model, X, y, parameters, then=None):
    """Fit a model once for each set of parameters."""
    coefs, intercepts = [], []
    for values in parameters:
        model.set_params(**values).fit(X, y)
        coefs.append(np.array(model.coef_).ravel())
        intercepts.append(float(np.ravel(model.intercept_)[0]))
        if then:
            then()
    return Fit(np.array(coefs), np.array(intercepts))


def liblinear(intercept, tol):
    settings = {"fit_intercept": intercept, "intercept_scaling": CONSTANT, "max_iter": MANY, "random_state": 0}
    return LogisticRegression(l1_ratio=1.0, solver="liblinear", tol=tol, **settings)


def saga(intercept, max_iter):
    settings = {"fit_intercept": intercept, "max_iter": max_iter, "tol": 0.0, "random_state": 0}
    return LogisticRegression(l1_ratio=1.0, solver="saga", **settings)


def skglm(intercept, effort):
    from skglm import SparseLogisticRegression

    return SparseLogisticRegression(tol=tolerance(effort), max_iter=1000, fit_intercept=intercept)


def glum(intercept, effort):
    from glum import GeneralizedLinearRegressor

    settings = {"family": "binomial", "l1_ratio": 1.0, "solver": "irls-cd", "max_iter": 1000}
    return GeneralizedLinearRegressor(gradient_tol=tolerance(effort), fit_intercept=intercept, **settings)


def without_constant(coef, intercept):
    """Separate the coefficients of the constant column."""
    if not intercept:
        return Fit(coef, np.zeros(len(coef)))
    return Fit(coef[:, :-1], CONSTANT * coef[:, -1])
