"""Time fits with an L1 norm to a relative gap of 1e-6, single models and paths, against every peer that is installed.

Contestants run side by side in this process; ``benchmarks/README.md`` says how to read the tables.
"""

import argparse
import gc
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from cell import RIVAL, RUNS, explored
from l1_cell import TARGET, L1Cell
from l1_objective import L1Objective, Optimum
from l1_peers import TIGHTEST, contestants, fit_ours, is_ours, path_ours_in_turn
from l1_report import markdown, row_lines
from l1_rows import ROWS
from measure import alternated, machine

OUT = Path(__file__).resolve().parents[1] / "output" / "l1"
PACKAGES = ("torchlogreg", "torch", "numpy", "scipy", "threadpoolctl")
N_MODELS, N_MODELS_QUICK = 100, 10  # of a path
MOST = 300  # iterations of the fit that finds the optimum: it ends there where rounding hides the tolerance of 1e-12
QUICK_BUDGET = 0.3  # seconds, whatever the row's budget


def main(argv=None):
    arguments = parsed_arguments(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # most fits end on purpose before they converge
    start = time.perf_counter()
    everyone = {one.name: one for row in chosen(arguments) for one in contestants(row)}
    if unknown := set(arguments.without) - set(everyone):
        raise SystemExit(f"no such contestants: {', '.join(sorted(unknown))}; there are {', '.join(everyone)}")
    missing = {name: reason for name, one in everyone.items() if (reason := one.missing())}
    missing |= dict.fromkeys(arguments.without, "left out")
    gc.freeze()  # what was imported needs no looking at when memory is measured
    result = {
        "command": command(arguments),
        "quick": arguments.quick,
        "target": TARGET,
        "machine": machine("cpu", dict.fromkeys((*PACKAGES, *(one.package for one in everyone.values())))),
        "load": load(),
        "missing": missing,
        "rows": [],
    }
    print("\n".join(f"{key}: {text}" for key, text in result["machine"].items()), flush=True)
    for row in chosen(arguments):
        result["rows"].append(run_row(row, missing, arguments))
        result["minutes"] = (time.perf_counter() - start) / 60.0
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")  # what there is, is kept
        arguments.out.with_suffix(".md").write_text(markdown(result))
    print(f"\n{arguments.out.with_suffix('.md')}: {result['minutes']:.1f} minutes", flush=True)
    return result


def parsed_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="small data and hardly any time: does everything run?")
    parser.add_argument("--rows", type=lambda text: text.split(","), help=f"some of: {', '.join(names)}")
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help="contestants to leave out")
    parser.add_argument("--budget", type=float, default=1.0, help="factor for the seconds that a contestant may spend")
    parser.add_argument("--out", type=Path, default=OUT, help="path of the results without suffix (default: output/l1)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.rows or ()) - set(names):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    return arguments


def chosen(arguments):
    return [row for row in ROWS if not arguments.rows or row.name in arguments.rows]


def run_row(row, missing, arguments):
    """Measure all contestants on one row."""
    start = time.perf_counter()
    budget = arguments.budget * (QUICK_BUDGET if arguments.quick else row.budget)
    X, y = row.data(arguments.quick)
    Cs = row.values_of_C(X, y, N_MODELS_QUICK if arguments.quick else N_MODELS)
    objective = L1Objective(X, y, Cs, row.intercept)
    print(f"\n{row.name}: {X.shape[0]} x {X.shape[1]}, {objective.n_classes} classes", flush=True)
    optimum = Optimum(objective).find(lambda: reference(row, X, y, Cs))
    cells, absent = {}, {}
    for one in contestants(row):
        reason = missing.get(one.name) or one.excluded(*X.shape, objective.n_classes, budget)
        if not reason:
            cell = L1Cell(one, (X, y), objective, optimum, budget)
            reason = explored(cell)
        if reason:
            absent[one.name] = reason
        else:
            cells[one.name] = cell
    refine(rivals(cells), 1 if arguments.quick else RUNS)
    record = {
        "name": row.name,
        "n": X.shape[0],
        "p": X.shape[1],
        "K": objective.n_classes,
        "C": Cs.tolist() if row.is_path else float(Cs[0]),
        "intercept": row.intercept,
        "goals": row.goals,
        "budget": budget,
        "optimum": optimum.values.tolist(),
        "uncertainty": optimum.uncertainty,
        "excess": optimum.correct(),
        "solvers": {name: cell.record() for name, cell in cells.items()},
        "absent": absent,
        "notes": {name: cell.contestant.note for name, cell in cells.items() if cell.contestant.note},
        "load": load(),
        "seconds": time.perf_counter() - start,
    }
    print("\n".join(row_lines(record)), flush=True)
    return record


def reference(row, X, y, Cs):
    """Ours, run for long and in float64; a path one model after the other."""
    if row.is_path:
        return path_ours_in_turn(X, y, Cs, TIGHTEST, row.intercept)
    return fit_ours(X.astype(np.float64), y, float(Cs[0]), MOST, row.intercept, tol=1e-12)


def rivals(cells):
    """Return ours, and the peers that are not far behind the fastest of them."""
    fastest = min((cell.seconds(TARGET) for name, cell in cells.items() if not is_ours(name)), default=0.0)
    return [cell for name, cell in cells.items() if is_ours(name) or cell.seconds(TARGET) < RIVAL * fastest]


def refine(cells, turns):
    """Find the least efforts for the target, then time fits with them in turn."""
    for cell in cells:
        cell.bisect(TARGET)
    for turn in range(turns):
        for cell in alternated(cells, turn):
            if (effort := cell.first(TARGET)) is not None:
                cell.repeat(effort)


def load():
    """How many processes wanted to run in the last minute, on average; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def command(arguments):
    """Return the command without the paths of this machine."""
    words = ["python benchmarks/bench_l1.py"]
    if arguments.quick:
        words.append("--quick")
    if arguments.rows:
        words.append(f"--rows {','.join(arguments.rows)}")
    if arguments.without:
        words.append(f"--without '{','.join(arguments.without)}'")
    if arguments.budget != 1.0:
        words.append(f"--budget {arguments.budget:g}")
    return " ".join(words)


if __name__ == "__main__":
    main()
