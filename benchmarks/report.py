"""The page in Markdown and its two pictures, from the raw numbers of one or two devices."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cell import RIVAL, TARGETS, first, seconds_of
from matplotlib.ticker import NullFormatter
from peers import AUTO, DEFAULT_PEER, OURS, SCIKIT_LEARN

NONE, NOT_REACHED = "-", "not reached"
NO_SLOWER, OWN_MARGIN = 1.0, 1.2
FLOOR = 1e-12  # gaps below are drawn there
TITLES = {"cpu": "CPU", "cuda": "CUDA device"}

# Okabe and Ito's colours, which differ for all kinds of colour vision.
# A colour is a family, whose members differ in line style.
STYLES = {
    "torchlogreg auto": ("#000000", "-", "o"),
    "torchlogreg lbfgs": ("#D55E00", "-", "s"),
    "torchlogreg newton-cholesky": ("#D55E00", "--", "D"),
    "scikit-learn lbfgs": ("#0072B2", "-", "v"),
    "scikit-learn newton-cholesky": ("#0072B2", "--", "^"),
    "scikit-learn newton-cg": ("#0072B2", ":", "<"),
    "scikit-learn liblinear": ("#56B4E9", "-", ">"),
    "scikit-learn saga": ("#56B4E9", "--", "P"),
    "scikit-learn lbfgs, tensors": ("#56B4E9", ":", "X"),
    "scikit-learn-intelex lbfgs": ("#009E73", "-", "h"),
    "snapml": ("#009E73", "--", "p"),
    "glum": ("#E69F00", "-", "d"),
    "skorch": ("#CC79A7", "-", "*"),
    "torch LBFGS": ("#CC79A7", "--", "8"),
}
OTHER_STYLES = [(color, "-", "o") for color in ("#000000", "#D55E00", "#0072B2", "#56B4E9", "#009E73", "#E69F00")]


def write(results, out):
    """Write `out` with the suffix .md, and two pictures for each device; those of an accelerator have its name."""
    parts, targets = ["# Performance\n"], []
    for device, title in TITLES.items():
        if device in results:
            name = out.name if device == "cpu" else f"{out.name}-{device}"
            overview_picture(results[device], out.with_name(f"{name}.png"))
            gap_picture(results[device], out.with_name(f"{name}-gaps.png"))
            parts += section(results[device], title, name)
            if device == "cpu" and not results[device]["quick"]:
                targets = ["## Targets, met and missed\n", TARGETS_TEXT, targets_table(results[device]["rows"])]
        else:
            options = f" --device {device}" if device != "cpu" else ""
            parts.append(f"## {title}\n\nNot run. `python benchmarks/suite.py{options}` runs it.\n")
    out.with_suffix(".md").write_text("\n".join(parts + targets))
    print(f"\nwritten: {out}.md, .json, .png, -gaps.png")


INTRODUCTION = """\
How long does a fit take until its objective is within a relative gap of the minimum? The gap is 1e-6, for MNIST 1e-3.
Every solver minimises the same objective, `F = (sum of losses + ||W||^2 / (2 C)) / n` without a penalty on the
intercept, and every gap is computed in float64 by the same code. The clock stops as soon as the gap is reached.
"""

TABLE_TEXT = """\
`torchlogreg` is `solver="auto"`. *Times faster* is the time of the other divided by ours: below 1, we
are slower. *Not reached* means that none of them reached the gap in the time that the suite allows each of them.
"""

DATA = """\
**The data.** digits, iris, wine and breast_cancer are scikit-learn's tables. They are standardised, except for digits
and where the name says "raw". mnist has pixels in float32 between 0 and 1. The others are generated:

- *isotropic*, *gauss*, *wide*, *many-classes*: independent normal columns;
- *correlated*, *corr*: columns of which twenty common factors explain all but a tenth;
- *scaled*, *scales*: normal columns in units from 1e-4 (or 1e-3) to 1e4;
- *lognormal*: positive columns with long tails;
- *rarecat*: indicators of categories, some of which occur in a few rows only, beside numeric columns;
- *outliers*: five rows are ten thousand times as long as the others.

C is 1, or 1e6 where the name says so.
"""

TARGETS_TEXT = """\
What the project set out to reach, and whether this run reached it. *Ratio* is our time divided by that of the other.
"""

NOTES = f"""\
- *Seconds* are medians of whole calls of `fit`, including checks and copies. Each solver gets the smallest number of
  iterations that reaches the gap, as if someone had told it when to stop. *Runs* is the number of timed fits behind the
  column in bold, the gap at which the data set is judged. Our solvers, scikit-learn's default and peers that take less
  than {RIVAL:g} times as long as the fastest peer are timed several times, in turn. For the others the smallest number
  of iterations is known to a factor of 1.5 or 2, and they are timed once. `-`: not reached in the time allowed.
- *Passes over X*: an evaluation of X w counts as one pass and an evaluation of X' r as another, unless a kernel does
  both at once. The first number is for the gap in bold, the second for 1e-8. `>=` marks a lower bound for solvers that
  report iterations only: two passes for each, one for saga.
- *Extra memory* is the largest resident memory during the fit beyond that before it.
- *Threads*: solvers run with the default number of threads or with one, whichever is faster for three iterations; `1`
  marks the latter. Our solvers always run with the default.
- *other model*: one-versus-rest, or two classes only. *Hessian too large*: one iteration would take longer than the
  time allowed. *failed*: it raised an error.
"""


def section(result, title, name):
    """Markdown of one device: what a reader wants first, then how it was measured, then every solver."""
    parts = [] if title == TITLES["cpu"] else [f"## {title}\n"]
    parts += [f"![Seconds to the gap for each data set: torchlogreg, scikit-learn, other libraries]({name}.png)\n"]
    if result["quick"]:
        parts.append("**Quick mode: small data, short runs. It shows that everything runs; no target is judged.**\n")
    parts += [INTRODUCTION, overview(result["rows"]), TABLE_TEXT, DATA]
    parts += [f"## How it was measured: {title}\n"]
    parts += [f"- {key}: {text}" for key, text in result["machine"].items()]
    parts += [f"- Command: `{result['command']}`, {result['minutes']:.1f} minutes. It measures and writes this page;"]
    parts += ["  [benchmarks/README.md](../benchmarks/README.md) says how.", NOTES.rstrip()]
    parts += [f"- {key}: {note}." for key, note in result["notes"].items()]
    parts += [f"- Peers that could not be installed: {missing(result['missing'])}\n"]
    parts += [f"## Every solver: {title}\n", f"![Relative gap against seconds]({name}-gaps.png)\n"]
    return parts + [row_table(row) for row in result["rows"]]


def missing(reasons):
    return ", ".join(f"{name} ({reason})" for name, reason in reasons.items()) + "." if reasons else "none."


def table(header, lines):
    return "\n".join(
        [
            "| " + " | ".join(header) + " |",
            "|---" * len(header) + "|",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
    )


def overview(rows):
    """One line a data set: its size, our time, and the fastest of scikit-learn and of all peers."""
    header = ("data", "rows x columns, classes", "torchlogreg, s")
    header += ("fastest of scikit-learn, s", "times faster", "fastest peer of all, s", "times faster")
    lines = []
    for row in rows:
        own = own_seconds(row)
        size = f"{row['n']:,} x {row['p']:,}, {row['K']}"
        cells = []
        for prefix in ("scikit-learn ", ""):
            peer, theirs = fastest(row, [name for name in row["solvers"] if is_peer(name) and name.startswith(prefix)])
            cells += [named(theirs, peer, NOT_REACHED), times(theirs, own)]
        lines.append((row["name"], size, number(own), *cells))
    return table(header, lines)


def times(theirs, own):
    if not (own and theirs):
        return NONE
    return f"{theirs / own:.1f}" if theirs >= own else f"{theirs / own:.2f}"


def is_peer(name):
    return not name.startswith("torchlogreg")


def own_seconds(row):
    """Seconds of `auto`; on an accelerator of the faster of its two variants."""
    if AUTO in row["solvers"]:
        return reached(row, AUTO)
    return fastest(row, [name for name in row["solvers"] if not is_peer(name)])[1]


def row_table(row):
    """Return the table of one data set."""
    targets = [f"**{power(gap)}**" if gap == row["target"] else power(gap) for gap in gaps(row)]
    header = ("solver", "passes over X", *(f"s to {gap}" for gap in targets), "runs", "extra memory, MB", "threads")
    lines = [line(name, row, solver) for name, solver in row["solvers"].items()]
    lines += [(name, reason, *[NONE] * (len(header) - 2)) for name, reason in row["absent"].items()]
    dtype = "" if row["dtype"] == "float64" else f", {row['dtype']}"
    title = f"### {row['name']}: n = {row['n']:,}, p = {row['p']:,}, K = {row['K']}, C = {row['C']:g}{dtype}\n"
    optimum = f"F* = {row['optimum']:.12g}, at most {row['bound'] / row['optimum']:.0e} of it too high.\n"
    return "\n".join((title, optimum, table(header, lines)))


def line(name, row, solver):
    """One solver's cells."""
    points = by_effort(solver)
    passes = " / ".join(passes_of(points, gap) for gap in (row["target"], TARGETS[-1]))
    seconds = [number(seconds_at(points, gap)) for gap in gaps(row)]
    effort = first(points, row["target"])
    runs = str(max(1, len(points[effort]["seconds"]))) if effort else NONE
    used = points[effort or max(points)]["bytes"]
    memory = NONE if used is None else f"{used / 1e6:.1f}"
    return (name, passes, *seconds, runs, memory, str(solver["threads"] or ""))


def gaps(row):
    """Return the targets, the row's own among them."""
    return sorted({*TARGETS, row["target"]}, reverse=True)


def by_effort(solver):
    return {point["effort"]: point for point in solver["points"]}


def passes_of(points, gap):
    effort = first(points, gap)
    if effort is None or points[effort]["passes"] is None:
        return NONE
    return f"{'' if points[effort]['exact'] else '>= '}{points[effort]['passes']:.3g}"


def seconds_at(points, gap):
    effort = first(points, gap)
    return None if effort is None else seconds_of(points[effort])


def reached(row, name, gap=None):
    """Seconds of a solver to the gap (the row's own unless given), or None."""
    solver = row["solvers"].get(name)
    return seconds_at(by_effort(solver), gap or row["target"]) if solver else None


def fastest(row, names):
    """Name and seconds of the fastest of some solvers at the row's gap; None and None if none reached it."""
    times = {name: reached(row, name) for name in names}
    times = {name: seconds for name, seconds in times.items() if seconds is not None}
    name = min(times, key=times.get, default=None)
    return name, times.get(name)


def targets_table(rows):
    """Say what is asked for, what was measured, and whether it is met."""
    header = ("target", "data", "ours", "theirs", "ratio", "verdict")
    return table(header, [line for row in rows for line in targets_of(row)])


def targets_of(row):
    """Lines of the table of targets that concern one data set."""
    groups = {"all": [name for name in row["solvers"] if name not in OURS], "scikit-learn": [*SCIKIT_LEARN]}
    lines = []
    for group, factor in row["goals"].items():
        text = f"{factor:g} times as fast as" if factor > 1 else f"at most {1 / factor:.3g} times the time of"
        names = groups.get(group, [group])
        whom = {"all": "the fastest peer", "scikit-learn": "the fastest of scikit-learn"}.get(group, group)
        lines.append(compared(f"{text} {whom}", row, names, 1 / factor))
    lines.append(compared(f"auto within {OWN_MARGIN} of our fastest", row, OURS[1:], OWN_MARGIN))
    lines.append(against_default(row))
    if row["defaults"]:
        lines += default_lines(row)
    return lines + [passes_line(row, float(gap), most) for gap, most in row["passes"].items()]


def compared(text, row, names, limit):
    """`auto` against the fastest of `names` at the row's gap."""
    own = reached(row, AUTO)
    name, theirs = fastest(row, names)
    return verdict(f"{text}, gap {power(row['target'])}", row, own, theirs, name, limit)


def against_default(row):
    """`auto` against scikit-learn's default solver, at the smallest gap that the latter reached."""
    gap = next((gap for gap in reversed(gaps(row)) if reached(row, DEFAULT_PEER, gap) is not None), row["target"])
    own, theirs = reached(row, AUTO, gap), reached(row, DEFAULT_PEER, gap)
    return verdict(
        f"no slower than scikit-learn's default, gap {power(gap)}", row, own, theirs, DEFAULT_PEER, NO_SLOWER
    )


def default_lines(row):
    """Our default fit against the default fit of LogisticRegression, however far that gets."""
    (_, own), *others = row["defaults"].items()
    lines = []
    for name, peer in others:
        reached = f"ours at gap {own['gap']:.0e}, theirs at {peer['gap']:.0e} after {peer['n_iter']} iterations"
        text = f"default fits: {reached}"
        lines.append(verdict(text, row, own["seconds"], peer["seconds"], name, NO_SLOWER))
    return lines


def passes_line(row, gap, most):
    points = by_effort(row["solvers"][AUTO]) if AUTO in row["solvers"] else {}
    effort = first(points, gap)
    text = f"gap {power(gap)} in at most {most} passes over X"
    passes = points[effort]["passes"] if effort else None
    word = "NOT met" if effort is None else "not counted" if passes is None else met(passes <= most)
    return (text, row["name"], NONE if passes is None else f"{passes:.3g} passes", NONE, NONE, word)


def verdict(text, row, own, theirs, name, limit):
    """Return a line that compares seconds; a peer that did not get there is slower."""
    ratio = own / theirs if own is not None and theirs is not None else None
    fine = own is not None and (ratio is None or ratio <= limit)
    shown = NONE if ratio is None else f"{ratio:.2f}"
    return (text, row["name"], number(own), named(theirs, name), shown, met(fine))


def power(gap):
    """Return a power of ten as 1e-6."""
    return f"1e{round(math.log10(gap))}"


def met(fine):
    return "met" if fine else "NOT met"


def number(seconds):
    """Seconds with three digits."""
    return NONE if seconds is None else f"{seconds:.3g}"


def named(seconds, name, none=NONE):
    return none if seconds is None else f"{seconds:.3g} ({name})"


FAMILIES = {  # scikit-learn-intelex is another library
    "fastest of scikit-learn": ("#0072B2", "s", lambda name: name.startswith("scikit-learn ")),
    "fastest other library": ("#999999", "D", lambda name: is_peer(name) and not name.startswith("scikit-learn ")),
}


def overview_picture(result, path):
    """Draw one line a data set: seconds of ours, of the fastest of scikit-learn and of the fastest other library."""
    rows = result["rows"]
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.27 * len(rows)), layout="constrained")
    places = np.arange(len(rows))
    for label, (color, marker, belongs) in FAMILIES.items():
        times = [fastest(row, [name for name in row["solvers"] if belongs(name)])[1] for row in rows]
        axis.plot([t or np.nan for t in times], places, marker, color=color, label=label, markersize=6)
    own = [own_seconds(row) or np.nan for row in rows]
    axis.plot(own, places, "o", color="#D55E00", label="torchlogreg", markersize=8)
    for place, (seconds, row) in enumerate(zip(own, rows, strict=True)):
        if fastest(row, [name for name in row["solvers"] if is_peer(name)])[0] is None:
            style = {"textcoords": "offset points", "ha": "right", "va": "center"}
            axis.annotate("not reached by any other", (seconds, place), (-8, 0), **style)
    axis.set_yticks(places, [f"{row['name']}  {row['n']:,} x {row['p']:,}" for row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="seconds until the relative gap is reached")
    axis.grid(True, which="major", linewidth=0.4)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def gap_picture(result, path):
    """Draw one panel a data set: relative gap against seconds, both logarithmic."""
    rows, columns = result["rows"], min(3, len(result["rows"]))
    height = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.6 * columns, 3.4 * height + 1.2), squeeze=False, layout="constrained"
    )
    handles = {}
    for axis, row in zip(axes.flat, rows, strict=False):
        panel(axis, row, handles)
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns + 1, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def panel(axis, row, handles):
    """Draw one data set; `handles` collects a line of each solver for the legend."""
    others = iter(OTHER_STYLES)
    for name, solver in row["solvers"].items():
        color, dash, marker = STYLES.get(name) or next(others)
        points = [point for point in by_effort(solver).values() if point["gap"] < 1e3]
        if points:
            seconds, values = zip(*((seconds_of(p), max(p["gap"], FLOOR)) for p in points), strict=True)
            strong = name in OURS
            style = {"linewidth": 2.2 if strong else 1.1, "markersize": 4.5, "zorder": 3 if strong else 2}
            handles[name] = axis.plot(seconds, values, dash, color=color, marker=marker, **style)[0]
    axis.axhline(row["target"], color="#999999", linewidth=0.8, zorder=1)
    axis.set(xscale="log", yscale="log", ylim=(FLOOR / 2, 2e1))
    axis.set_title(f"{row['name']}: {row['n']:,} x {row['p']:,}, K = {row['K']}, C = {row['C']:g}", fontsize=10)
    axis.set_xlabel("seconds", fontsize=9)
    axis.set_ylabel("relative gap", fontsize=9)
    low, high = np.log10(axis.get_xlim())
    axis.set_xlim(10 ** math.floor(low), 10 ** math.ceil(high))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", linewidth=0.3)
