"""Just below and just above each size that decides a way of computing: another way, the same answer.

The limit moves, and not the table: each case sets one tuning constant to the least value at which its table takes the
one way, in the constant's unit, and to the value below it. The calls of the package's functions show that the ways
differ.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import halves
from scipy import sparse

import torchlogreg
from torchlogreg import (
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._data import tuning as data
from torchlogreg._model_selection import tuning as selection
from torchlogreg._objective import tuning as objective
from torchlogreg._solvers import tuning as solvers

PACKAGE = str(Path(torchlogreg.__file__).parent)


def rows(n, p, n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    return X, (X @ rng.normal(size=(p, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)


N, P = 1200, 8
D = P + 1  # with the intercept
BINARY, SEVERAL, WIDE = rows(N, P, 2), rows(N, P, 3), rows(40, 200, 2)
ORDERED = np.column_stack([BINARY[0], np.arange(N) >= N // 2]), (np.arange(N) >= N // 2).astype(int)  # separable
TWINS = np.column_stack([BINARY[0], BINARY[0][:, 0] + 1e-9 * BINARY[0][:, 1]]), BINARY[1]


def text():
    rng = np.random.default_rng(0)
    X = sparse.random_array((600, 300), density=0.05, rng=rng, format="csr")
    return X, (X @ rng.normal(size=300) + 0.3 * rng.normal(size=600) > 0).astype(int)


TEXT = text()
HALF_EMPTY = sparse.hstack([TEXT[0], sparse.csr_array(TEXT[0].shape)], format="csr"), TEXT[1]
N_TEXT, P_TEXT = TEXT[0].shape
MODEL = TorchLogisticRegression().fit(*BINARY)


def fit(kind, table, attribute="coef_", **options):
    return lambda: getattr(kind(**{"tol": 1e-10, "max_iter": 3000} | options).fit(*table), attribute)


def paths(kind, table, **options):
    return fit(kind, table, "coefs_paths_", Cs=4, cv=3, **options)


LBFGS = fit(TorchLogisticRegression, BINARY, solver="lbfgs")
NEWTON = fit(TorchLogisticRegression, BINARY, solver="newton-cholesky")
SOFTMAX = fit(TorchSoftmaxClassifier, SEVERAL, solver="lbfgs")
WORDS = fit(TorchLogisticRegression, TEXT, solver="lbfgs")
WORDS_AS_ARRAY = fit(TorchLogisticRegression, (TEXT[0].toarray(), TEXT[1]), solver="lbfgs")
WORDS_NEWTON = fit(TorchLogisticRegression, TEXT, solver="newton-cholesky")
PATHS = paths(TorchLogisticRegressionCV, BINARY, solver="lbfgs")
SEPARABLE = fit(TorchLogisticRegression, ORDERED, solver="lbfgs", C=np.inf, tol=1e-4, max_iter=100)


def stream():
    return TorchLogisticRegression(tol=1e-10, solver="lbfgs").fit(halves(*BINARY)).coef_


NO_NUMPY = {(solvers, "NUMPY_NEWTON_NUMBERS"): 0, (solvers, "NUMPY_LBFGS_NUMBERS"): 0}
NOTHING_SMALL = {(data, "MAX_SMALL_NUMBERS"): 0}
TOGETHER = NO_NUMPY | {(objective, "PARTIAL_HESSIANS_SHARE"): 0.0}


class Case(NamedTuple):
    module: ModuleType
    constant: str
    limit: float  # least value of the constant at which the table takes one way, below which the other
    answer: Callable[[], Any]
    others: dict = {}  # further constants, without which the table would be too small for this one
    n_threads: int = 1


ABOVE = 1 + 1e-10  # for a limit that the table's own share is just below
CASES = [
    Case(data, "CPU_BLOCK_NUMBERS", N * P, LBFGS),
    Case(data, "MIN_BLOCK_ROWS", N, LBFGS, {(data, "CPU_BLOCK_NUMBERS"): 1}),
    Case(data, "MIN_BLOCKS_PER_THREAD", N * P // 2 // 1000 + 1, LBFGS, {(data, "CPU_BLOCK_NUMBERS"): 1000}, 2),
    Case(data, "MIN_PRODUCTS_PER_THREAD", N * D**2 // 2 + 1, NEWTON, TOGETHER, 2),
    Case(data, "MAX_PARTIAL_SUM_NUMBERS", 2 * D**2, NEWTON, TOGETHER | {(data, "MIN_PRODUCTS_PER_THREAD"): 1}, 2),
    Case(data, "MAX_SPARSE_GRAM_DENSITY", 0.05 * ABOVE, WORDS_NEWTON, NO_NUMPY | NOTHING_SMALL),
    Case(data, "MAX_INNER_PRODUCT_ROWS", 40, fit(TorchLogisticRegression, WIDE, solver="lbfgs")),
    Case(data, "MAX_SMALL_NUMBERS", N_TEXT * P_TEXT, WORDS),
    Case(
        data,
        "MAX_SMALL_NUMBERS",
        300 * P_TEXT,
        fit(TorchLogisticRegression, (TEXT[0].toarray()[:300], TEXT[1][:300]), solver="lbfgs"),
    ),
    Case(
        data,
        "MAX_SPARSE_COPY_DENSITY",
        0.05 * ABOVE,
        WORDS_AS_ARRAY,
        NOTHING_SMALL | {(data, "PROBED_NUMBERS"): N_TEXT * P_TEXT},
    ),
    Case(data, "MIN_DENSE_DENSITY", 0.05 * ABOVE, WORDS, NOTHING_SMALL | {(data, "MAX_SPARSE_COPY_DENSITY"): 0.0}),
    Case(
        data, "GATHERED_ROWS", 64, fit(TorchLogisticRegression, BINARY, solver="sgd", tol=0, max_iter=2, random_state=0)
    ),
    Case(data, "STREAM_SAMPLE_BYTES", 1, stream),
    Case(data, "MAX_JOINED_BLOCK_NUMBERS", N * P // 2 + 1, stream),
    Case(data, "MIN_STREAMED_NUMBERS", N * P + 1, lambda: MODEL.predict_proba(BINARY[0])),
    Case(
        data,
        "MAPPED_BLOCK_BYTES",
        8 * N * P,
        lambda: MODEL.predict_proba(BINARY[0]),
        {(data, "MIN_STREAMED_NUMBERS"): 0},
    ),
    Case(selection, "BATCH_BYTES", 3 * 4 * 8 * D * 10_000, PATHS, {(selection, "ARRAYS_OF_A_MODEL"): 10_000}),
    Case(objective, "LOGITS_BYTES_SHARE", 1 / P, LBFGS, {(objective, "SMALL_LOGITS_BYTES"): 0}),
    Case(objective, "SMALL_LOGITS_BYTES", 8 * N, LBFGS, {(objective, "LOGITS_BYTES_SHARE"): 0.0}),
    Case(
        objective,
        "PARTIAL_HESSIANS_SHARE",
        2 * D**2 / (N * P),
        NEWTON,
        NO_NUMPY | {(data, "CPU_BLOCK_NUMBERS"): 1000},
        2,
    ),
    Case(objective, "CHEAP_PASS_NUMBERS", N * P, LBFGS),
    Case(objective, "ROW_SPACE_NUMBERS_PER_NUMBER", 40 / 200, fit(TorchLogisticRegression, WIDE, solver="lbfgs")),
    Case(
        data,
        "MAX_NON_EMPTY_SHARE",
        0.5 * ABOVE,
        fit(TorchLogisticRegression, HALF_EMPTY, solver="lbfgs"),
        NOTHING_SMALL,
    ),
    Case(objective, "IN_MEMORY_NUMBERS", N * (D + 1), SEPARABLE),
    Case(objective, "MOST_SEPARATION_UNKNOWNS", D + 1, SEPARABLE),
    Case(solvers, "AUTO_NEWTON_NUMBERS", N * D * 3**2, fit(TorchSoftmaxClassifier, SEVERAL)),
    Case(solvers, "NUMPY_NEWTON_NUMBERS", N * D, NEWTON),
    Case(solvers, "NUMPY_LBFGS_NUMBERS", N * D * 3, SOFTMAX, {(solvers, "AUTO_NEWTON_NUMBERS"): 0}),
    Case(
        solvers,
        "FINISHED_TOGETHER_NUMBERS",
        2 * D**2,
        fit(
            TorchLogisticRegressionCV,
            (BINARY[0] * 50, BINARY[0][:, 0] > 0),
            "coefs_paths_",
            Cs=[1e2, 1e4, 1e6],
            cv=3,
            solver="lbfgs",
        ),
    ),
    Case(solvers, "SMALLEST_SAMPLE_ROWS", N, LBFGS),
    Case(solvers, "SMALLEST_NESTED_ROWS", 100 + 1, LBFGS, {(solvers, "SMALLEST_SAMPLE_ROWS"): 4 * 100}),
    Case(solvers, "PRECONDITIONER_NUMBERS", D**2, LBFGS),
    Case(solvers, "PRECONDITIONER_NUMBERS", (3 * D) ** 2, SOFTMAX, NO_NUMPY),
    Case(solvers, "ALL_PRECONDITIONERS_NUMBERS", 4 * D**2, PATHS),
    Case(solvers, "BATCHED_PRODUCT_NUMBERS", 3 * D + 1, paths(TorchSoftmaxClassifierCV, SEVERAL, solver="lbfgs")),
]


def calls(function):
    """What a function returns, and how often it calls each function of the package, in any thread."""
    counts = Counter()

    def count(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            counts[code.co_filename, code.co_firstlineno] += 1

    before = sys.getprofile()
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        return function(), counts
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


@pytest.mark.filterwarnings("ignore:.*separate")
@pytest.mark.parametrize("case", CASES, ids=[f"{case.constant}-{case.limit:.3g}" for case in CASES])
def test_both_sides_give_the_same_answer(case, monkeypatch):
    for (module, constant), value in case.others.items():
        monkeypatch.setattr(module, constant, value)
    below = case.limit - 1 if isinstance(case.limit, int) else case.limit * (1 - 1e-9)
    threads = torch.get_num_threads()
    torch.set_num_threads(case.n_threads)
    try:
        monkeypatch.setattr(case.module, case.constant, below)
        answer_below, calls_below = calls(case.answer)
        monkeypatch.setattr(case.module, case.constant, case.limit)
        answer, calls_at = calls(case.answer)
    finally:
        torch.set_num_threads(threads)
    assert calls_below != calls_at
    np.testing.assert_allclose(answer_below, answer, atol=1e-6 * np.abs(answer).max())
