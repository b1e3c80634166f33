"""The tables of bench_l1 in Markdown, from its numbers alone."""

from cell import FAR
from l1_peers import OURS, PER_DECADE, is_ours
from l1_rows import FASTEST, SCIKIT_LEARN

NONE = "-"
HEADER = ("solver", "s to the gap", "times ours", "passes over X", "effort", "gap", "runs")
SURE = 0.01  # share of the target by which the optimum may have been too high
BUSY = 0.5  # processes in the last minute beyond which a machine does not count as idle

INTRODUCTION = """\
# Fits with an L1 norm

Seconds of whole calls of `fit` until the relative gap (F - F*) / F* is at most {target:g}, for a path in the worst of
its models. Each solver gets the least number of iterations, or the coarsest tolerance, that gets there.
`benchmarks/README.md` says how this is measured.
"""
UNRELIABLE = "**The machine was busy (load {load:.1f} before the first fit): do not quote these numbers.**\n"
QUICK = "**Quick mode: small data, short runs. It shows that everything runs; no goal is judged.**\n"


def markdown(result):
    """Return the whole page."""
    parts = [INTRODUCTION.format(target=result["target"])]
    if result["quick"]:
        parts.append(QUICK)
    if result["load"] is not None and result["load"] > BUSY:
        parts.append(UNRELIABLE.format(load=result["load"]))
    parts += [f"- {key}: {text}" for key, text in result["machine"].items()]
    parts += [f"- Command: `{result['command']}`, {result['minutes']:.1f} minutes"]
    missing = (f"{name} ({reason})" for name, reason in result["missing"].items())
    parts += [f"- Peers that are not there: {', '.join(missing) or 'none'}\n", "## Goals\n"]
    parts += table(("data", "goal", "torchlogreg, s", "theirs, s", "times as fast", "verdict"), goals(result))
    for row in result["rows"]:
        parts += ["", *row_lines(row)]
    return "\n".join(parts) + "\n"


def goals(result):
    """Lines of the table of what is asked for, and whether it is met."""
    lines = [line for row in result["rows"] for line in goals_of(row)]
    return [(*line[:-1], "not judged") if result["quick"] else line for line in lines]


def goals_of(row):
    name, own = fastest(row, is_ours)
    lines = [(row["name"], "reaches the gap", number(own), NONE, NONE, met(own is not None))]
    for whom, factor in row["goals"].items():
        peer, theirs = fastest(row, lambda name, whom=whom: belongs(name, whom))
        ratio = theirs / own if own and theirs else None
        fine = own is not None and (ratio is None or ratio >= factor)
        shown = "none got there" if theirs is None else f"{theirs:.3g} ({peer})"
        text = f"{factor:.2g} times as fast as {whom}"
        mine = number(own) if name in (OURS, None) else f"{own:.3g} ({name})"
        lines.append((row["name"], text, mine, shown, number(ratio), met(fine)))
    return lines[1:] or lines


def belongs(name, whom):
    """Whether a peer is in the group that a goal names."""
    if whom == SCIKIT_LEARN:
        return name.startswith("scikit-learn ")
    return not is_ours(name) if whom == FASTEST else name == whom


def fastest(row, wanted):
    """Name and seconds of the fastest of some solvers; None and None if none got there."""
    times = {name: s["seconds"] for name, s in row["solvers"].items() if wanted(name) and s["seconds"] is not None}
    name = min(times, key=times.get, default=None)
    return name, times.get(name)


def row_lines(row):
    """Title, optimum and table of one row."""
    C = row["C"]
    strength = f"{len(C)} values of C from {C[0]:.3g} to {C[-1]:.3g}" if isinstance(C, list) else f"C = {C:.3g}"
    intercept = "" if row["intercept"] else ", no intercept"
    budget = f"A solver may try for {row['budget']:g} s, ours for twice as long."
    yield f"### {row['name']}: {row['n']:,} x {row['p']:,}, K = {row['K']}, {strength}{intercept}\n"
    yield f"F* is at most {max(0.0, row['uncertainty']):.0e} of it too high by its dual bound. {budget}\n"
    if row["excess"] > SURE * 1e-6:
        yield f"**A result was below F* by {row['excess']:.0e} of it. Run this row again: the lower F* is kept.**\n"
    _, own = fastest(row, is_ours)
    lines = [solver_line(name, solver, own) for name, solver in row["solvers"].items()]
    lines += [(name, reason, *[NONE] * (len(HEADER) - 2)) for name, reason in row["absent"].items()]
    yield from table(HEADER, lines)
    if row["notes"]:
        yield ""
        yield from (f"- {name}: {note}." for name, note in row["notes"].items())


def solver_line(name, solver, own):
    seconds, passes = solver["seconds"], solver["passes"]
    gap = "none" if solver["gap"] >= FAR else f"{solver['gap']:.0e}"
    if seconds is None:
        return (name, f"{solver['ended']}, {solver['spent']:.3g} s", NONE, NONE, NONE, gap, NONE)
    counted = NONE if passes is None else f"{'' if solver['exact'] else '>= '}{passes:.3g}"
    effort = solver["effort"]
    effort = f"tol {10.0 ** (-effort / PER_DECADE):.0e}" if solver["by_tolerance"] else f"{effort} iterations"
    runs = str(max(1, solver["runs"]))
    return (name, f"{seconds:.3g}", NONE if own is None else f"{seconds / own:.2f}", counted, effort, gap, runs)


def table(header, lines):
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    yield from ("| " + " | ".join(line) + " |" for line in lines)


def number(value):
    return NONE if value is None else f"{value:.3g}"


def met(fine):
    return "met" if fine else "NOT met"
