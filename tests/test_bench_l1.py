"""The benchmark of L1 norms runs to its end on small data, and its objective is the one that is meant."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.exists(), reason="the benchmarks are not installed"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """Import its modules, which keep nothing outside the temporary folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    modules = set(sys.modules)
    import bench_l1
    import l1_objective

    monkeypatch.setattr(l1_objective, "CACHE", tmp_path / "cache")
    yield bench_l1, l1_objective
    for name in set(sys.modules) - modules:  # names such as `datasets` are not for other tests
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.slow
def test_rows_run_to_their_end(benchmarks, tmp_path):
    bench_l1, _ = benchmarks
    rows = ["text-1", "iris", "breast_cancer", "wide-path"]
    bench_l1.main(["--quick", "--budget", "0.25", "--rows", ",".join(rows), "--out", str(tmp_path / "l1")])
    result = json.loads((tmp_path / "l1.json").read_text())
    assert {row["name"] for row in result["rows"]} == set(rows)
    for row in result["rows"]:
        assert row["excess"] <= 1e-9  # no result is below the optimum
        assert row["uncertainty"] <= 1e-7
        assert "torchlogreg" in {**row["solvers"], **row["absent"]}
        assert all(solver["ended"] or solver["gap"] <= result["target"] for solver in row["solvers"].values())
    page = (tmp_path / "l1.md").read_text()
    assert all(f"### {name}: " in page for name in rows)
    assert "not judged" in page


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_dual_bound_meets_the_objective(benchmarks, n_classes):
    _, l1_objective = benchmarks
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 5))
    y = np.arange(90) % n_classes
    X[:, 0] += y
    C = 0.5
    objective = l1_objective.L1Objective(X, y, np.array([C]), True)
    model = LogisticRegression(C=C, l1_ratio=1.0, solver="saga", random_state=0, tol=1e-10, max_iter=20_000).fit(X, y)
    coef, intercept = objective.shaped(model.coef_, model.intercept_)
    value, bound = objective.values(coef, intercept), objective.bounds(coef, intercept)
    P = model.predict_proba(X)[np.arange(90), y]
    np.testing.assert_allclose(value, -np.log(P).mean() + np.abs(model.coef_).sum() / (C * 90), rtol=1e-12)
    np.testing.assert_allclose(bound, value, rtol=1e-7)
    elsewhere = objective.shaped(model.coef_ + 0.1, model.intercept_)
    assert objective.values(*elsewhere) > value


def test_below_the_least_useful_C_all_coefficients_are_zero(benchmarks):
    from l1_rows import least_useful_C

    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((80, 6)), np.arange(80) % 2
    for intercept in (False, True):
        C = least_useful_C(X, y, intercept)
        settings = {
            "l1_ratio": 1.0,
            "solver": "saga",
            "random_state": 0,
            "tol": 1e-10,
            "max_iter": 20_000,
            "fit_intercept": intercept,
        }
        assert not LogisticRegression(C=0.99 * C, **settings).fit(X, y).coef_.any()
        assert np.count_nonzero(LogisticRegression(C=1.05 * C, **settings).fit(X, y).coef_) == 1
