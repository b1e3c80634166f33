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
from cell import RUNS, TARGETS, Cell
from datasets import ROWS
from measure import Objective, alternated, cached_optimum, machine, threads, timed
from peers import contestants, ours
from sklearn.linear_model import LogisticRegression

PACKAGES = ("torchlogreg", "torch", "scikit-learn", "numpy", "scipy", "threadpoolctl")
FULL, QUICK = "docs/performance", "output/performance"
QUICK_BUDGET = 0.1  # of a row's budget
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
        results[arguments.device] = run(arguments)
        path.write_text(json.dumps(rounded(results), separators=(",", ":")) + "\n")
    report.write(results, out)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="fewer rows of data and a tenth of the time")
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
    rows = [row for row in ROWS if row.name in arguments.rows] if arguments.rows else ROWS
    if arguments.device != "cpu":
        rows = [row for row in rows if "device" in row.judged]
    factor = arguments.budget * (QUICK_BUDGET if arguments.quick else 1.0)
    measured = [run_row(row, present, arguments.quick, factor, arguments.device) for row in rows]
    return {
        "command": command(arguments),
        "quick": arguments.quick,
        "machine": machine(arguments.device, dict.fromkeys((*PACKAGES, *(one.package for one in everyone)))),
        "minutes": (time.perf_counter() - start) / 60.0,
        "missing": {name: reason for name, reason in missing.items() if reason},
        "notes": {contestant.name: contestant.note for contestant in present if contestant.note},
        "rows": measured,
    }


def run_row(row, present, quick, factor, device):
    """Measure all contestants on one data set."""
    X, y = row.data(quick)
    n, p = X.shape
    objective = Objective(X, y, row.C)
    optimum, bound, _ = cached_optimum(X, y, row.C)
    print(f"\n{row.name}: {n} x {p}, {objective.n_classes} classes, C={row.C:g}, F*={optimum:.10f}", flush=True)
    cells, absent = {}, {}
    for contestant in present:
        reason = contestant.excluded(n, p, objective.n_classes)
        if not reason:
            cell = Cell(contestant, X, y, row.C, objective, optimum, factor * row.budget, device)
            reason = explored(cell, row.target)
        if reason:
            absent[contestant.name] = reason
        else:
            cells[contestant.name] = cell
    repeat(list(cells.values()), row.target)
    return {
        "name": row.name,
        "n": n,
        "p": p,
        "K": int(objective.n_classes),
        "C": row.C,
        "dtype": str(X.dtype),
        "target": row.target,
        "judged": row.judged,
        "optimum": optimum,
        "bound": bound,
        "solvers": {name: cell.record() for name, cell in cells.items()},
        "absent": absent,
        "defaults": default_fits(X, y, objective, optimum) if "defaults" in row.judged and device == "cpu" else {},
    }


def explored(cell, target):
    """Why a contestant failed on the data, or an empty string; its line of progress is printed."""
    gc.collect()
    try:
        cell.explore(target)
    except Exception as error:  # of somebody else's library: no reason to lose the others' numbers
        print(f"  {cell.contestant.name}: {error!r}"[:200], flush=True)
        return f"failed: {type(error).__name__}"
    gap = min(point["gap"] for point in cell.points.values())
    print(f"  {cell.contestant.name}: gap {gap:.0e} after {cell.searched:.2f} s of fits", flush=True)
    return ""


def repeat(cells, target):
    """Time what meets the row's target five times or more, in turn, and twice what meets the other targets."""
    for turn in range(RUNS):
        for cell in alternated(cells, turn):
            cell.repeat(target)
    for turn in range(2):
        for cell in alternated(cells, turn):
            for gap in TARGETS:
                if cell.first(gap) != cell.first(target):
                    cell.repeat(gap)


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
            "n_iter": int(max(model.n_iter_) if hasattr(model.n_iter_, "__len__") else model.n_iter_),
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
