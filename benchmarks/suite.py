"""Time every solver to four relative gaps on every data set, and write the table, the plot and the raw numbers.

``benchmarks/README.md`` says how to read them.
"""

import argparse
import gc
import json
import os
import time
import warnings
from pathlib import Path
from statistics import median

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API asks for it before scipy is imported

import report
import torch
from cell import RIVAL, RUNS, TARGETS, Cell, explored
from datasets import ROWS
from measure import Objective, alternated, cached_optimum, machine, threads, timed
from peers import AUTO, DEFAULT_PEER, contestants, ours
from sklearn.linear_model import LogisticRegression

PACKAGES = ("torchlogreg", "torch", "scikit-learn", "numpy", "scipy", "threadpoolctl")
FULL, QUICK = "docs/performance", "output/performance"
QUICK_BUDGET = 0.04  # seconds, whatever the row's budget
ROOT = Path(__file__).resolve().parents[1]


def main():
    arguments = parsed_arguments()
    partial = arguments.quick or arguments.rows
    out = arguments.out or ROOT / (QUICK if partial else FULL)
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.exists() else {}
    if not arguments.render:
        warnings.simplefilter("ignore")  # most fits end on purpose before they converge
        results[arguments.device] = rounded(run(arguments))
        path.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    report.write(results, out)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="fewer rows of data and hardly any time")
    parser.add_argument("--rows", type=lambda text: text.split(","), help=f"some of: {', '.join(names)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs the rows for accelerators")
    parser.add_argument("--budget", type=float, default=1.0, help="factor for the seconds that a solver may spend")
    parser.add_argument("--out", type=Path, help=f"path without suffix (default: {FULL}, or {QUICK} for a part)")
    parser.add_argument("--render", action="store_true", help="write table and plot again from the raw numbers")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows or ()) - set(names):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    if arguments.device == "cuda" and not arguments.render and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    return arguments


def run(arguments):
    """Run the suite on one device; everything that the report needs, as JSON has it."""
    start = time.perf_counter()
    everyone = contestants(arguments.device)
    missing = {contestant.name: contestant.missing() for contestant in everyone}
    present = [contestant for contestant in everyone if not missing[contestant.name]]
    gc.freeze()  # what was imported needs no looking at when memory is measured
    rows = [row for row in ROWS if row.name in arguments.rows] if arguments.rows else ROWS
    if arguments.device != "cpu":
        rows = [row for row in rows if row.device]
    measured = [run_row(row, present, arguments) for row in rows]
    return {
        "command": command(arguments),
        "quick": arguments.quick,
        "machine": machine(arguments.device, dict.fromkeys((*PACKAGES, *(one.package for one in everyone)))),
        "minutes": (time.perf_counter() - start) / 60.0,
        "missing": {name: reason for name, reason in missing.items() if reason},
        "notes": {contestant.name: contestant.note for contestant in present if contestant.note},
        "rows": measured,
    }


def run_row(row, present, arguments):
    """Measure all contestants on one data set."""
    device, budget = arguments.device, arguments.budget * (QUICK_BUDGET if arguments.quick else row.budget)
    start = time.perf_counter()
    X, y = row.data(arguments.quick)
    n, p = X.shape
    objective = Objective(X, y, row.C)
    optimum, bound, _ = cached_optimum(X, y, row.C)
    print(f"\n{row.name}: {n} x {p}, {objective.n_classes} classes, C={row.C:g}, F*={optimum:.10f}", flush=True)
    cells, absent = {}, {}
    for contestant in present:
        reason = contestant.excluded(n, p, objective.n_classes, budget)
        if not reason:
            cell = Cell(contestant, X, y, row.C, objective, optimum, budget, device)
            reason = explored(cell)
        if reason:
            absent[contestant.name] = reason
        else:
            cells[contestant.name] = cell
    refine(rivals(cells, row.target), row.target)
    defaults = default_fits(X, y, objective, optimum) if row.defaults and device == "cpu" else {}
    print(f"  {time.perf_counter() - start:.0f} s in all", flush=True)
    return {
        "name": row.name,
        "n": n,
        "p": p,
        "K": int(objective.n_classes),
        "C": row.C,
        "dtype": str(X.dtype),
        "target": row.target,
        "goals": row.goals,
        "passes": {str(gap): most for gap, most in row.passes.items()},
        "optimum": optimum,
        "bound": bound,
        "solvers": {name: cell.record() for name, cell in cells.items()},
        "absent": absent,
        "defaults": defaults,
    }


def rivals(cells, target):
    """Return ours, the default peer, and the peers that are not far behind the fastest of them."""
    peers = [cell for name, cell in cells.items() if not name.startswith(AUTO.split()[0])]
    slowest = RIVAL * min((cell.seconds(target) for cell in peers), default=0.0)
    far = [cell for cell in peers if cell.contestant.name != DEFAULT_PEER and not cell.seconds(target) < slowest]
    return [cell for cell in cells.values() if cell not in far]


def refine(cells, target):
    """Find the least efforts, then time in turn those for the row's target, and as far as there is time the others."""
    for cell in cells:
        for gap in (target, *TARGETS):
            cell.bisect(gap)
    for gaps, turns in (((target,), RUNS), (TARGETS, 2)):
        for turn in range(turns):
            for cell in alternated(cells, turn):
                for effort in sorted({cell.first(gap) for gap in gaps} - {None}):
                    cell.repeat(effort)


def default_fits(X, y, objective, optimum):
    """Time default fits of both libraries in turn, scikit-learn's also with one thread for BLAS."""
    fits = {
        "torchlogreg": (ours(y)(device="cpu"), None),
        "LogisticRegression()": (LogisticRegression(), None),
        "LogisticRegression(), one BLAS thread": (LogisticRegression(), 1),
    }
    seconds = {name: [] for name in fits}
    for turn in range(RUNS):
        for name, (model, limit) in alternated(fits.items(), turn):
            with threads(limit):
                seconds[name].append(timed(model.fit, X, y)[0])
    return {
        name: {
            "seconds": median(seconds[name]),
            "gap": objective.relative_gap(model.coef_, model.intercept_, optimum),
            "n_iter": int(max(model.n_iter_)),
        }
        for name, (model, _) in fits.items()
    }


def command(arguments):
    """Return the command without the paths of this machine."""
    words = ["python benchmarks/suite.py"]
    if arguments.quick:
        words.append("--quick")
    if arguments.rows:
        words.append(f"--rows {','.join(arguments.rows)}")
    if arguments.device != "cpu":
        words.append(f"--device {arguments.device}")
    if arguments.budget != 1.0:
        words.append(f"--budget {arguments.budget:g}")
    return " ".join(words)


def rounded(value):
    """Round floats to four digits, except those of which more are asked for."""
    if isinstance(value, dict):
        return {key: inner if key in ("optimum", "C") else rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
