"""The table in Markdown and the plot of gap against time, from the raw numbers of one or two devices."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cell import RIVAL, TARGETS, first, seconds_of
from matplotlib.ticker import NullFormatter
from peers import AUTO, DEFAULT_PEER, OURS, SCIKIT_LEARN

NONE = "-"
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
    """Write `out` with the suffixes .md and .png; a device's plot has its name in it."""
    parts = ["# Performance\n", INTRODUCTION]
    for device in ("cpu", "cuda"):
        if device in results:
            picture = out.with_name(out.name + ("" if device == "cpu" else f"-{device}")).with_suffix(".png")
            parts += section(results[device], TITLES[device], picture.name)
            plot(results[device], picture)
        else:
            options = f" --device {device}" if device != "cpu" else ""
            parts.append(f"## {TITLES[device]}\n\nNot run. `python benchmarks/suite.py{options}` runs it.\n")
    out.with_suffix(".md").write_text("\n".join(parts))
    print(f"\nwritten: {out}.md, .json, .png")


INTRODUCTION = """\
Seconds until a fit is within a relative gap of the optimum of one objective,
`F = (sum of losses + ||W||^2 / (2 C)) / n` with the intercept not penalised, computed in float64 for every solver's
coefficients by the same lines. `python benchmarks/suite.py` measures and writes this page;
[benchmarks/README.md](../benchmarks/README.md) says how.
"""

NOTES = f"""\
- *Seconds* are medians of whole calls of `fit`, checks and copies included. Each solver gets the least number of
  iterations that reaches the gap, as if someone had told it when to stop. *Runs* counts those behind the column of the
  row's own gap (printed in bold). Ours, scikit-learn's default, and peers less than {RIVAL:g} times slower than the
  fastest peer are timed several times, in turn; of the others the least effort is known to a factor of 1.5 or 2, and
  timed once. `-`: not reached within the seconds that a solver may spend on the row.
- *Reads of X*: evaluations of X w and of X' r count one each unless a kernel does both at once; at the row's gap and at
  1e-8. A lower bound (`>=`) where a solver tells its iterations only: two reads each, saga one.
- *Extra memory* is the largest resident memory during the fit beyond that before it.
- *Threads*: solvers run with the default number of threads or with one, whichever is faster for three iterations; `1`
  marks the latter. Ours always run with the default.
- *other model*: one-against-the-rest or two classes only. *Hessian too large*: one iteration would take longer than all
  of the row's seconds. *failed*: it raised an error.
"""


def section(result, title, picture):
    """Markdown of one device."""
    parts = [f"## {title}\n"]
    if result["quick"]:
        parts.append("**Quick mode: small data, short runs. It shows that everything runs; no condition is judged.**\n")
    parts += [f"- {name}: {text}" for name, text in result["machine"].items()]
    parts += [f"- Command: `{result['command']}`, {result['minutes']:.1f} minutes\n"]
    if title == TITLES["cpu"] and not result["quick"]:
        parts += ["### Conditions\n", conditions_table(result["rows"])]
    parts += ["### Overview\n", overview(result["rows"]), f"![gap against time]({picture})\n"]
    for row in result["rows"]:
        parts.append(row_table(row))
    parts += ["### Notes\n", NOTES.rstrip(), *(f"- {name}: {note}." for name, note in result["notes"].items()), ""]
    parts += ["### Peers that could not be installed\n", missing(result["missing"])]
    return parts


def missing(reasons):
    return "\n".join(f"- {name}: {reason}" for name, reason in reasons.items()) + "\n" if reasons else "None.\n"


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
    """One line a data set: its shape, and the fastest of each kind at the row's gap."""
    header = (
        "data",
        "n",
        "p",
        "K",
        "C",
        "gap",
        "auto, s",
        "fastest peer, s",
        "fastest of scikit-learn, s",
        "ratio to the fastest peer",
    )
    lines = []
    for row in rows:
        names = row["solvers"]
        own = (
            reached(row, AUTO)
            if AUTO in names
            else fastest(row, [name for name in names if name.startswith("torchl")])[1]
        )
        peer, theirs = fastest(row, [name for name in names if not name.startswith("torchlogreg")])
        sklearn, native = fastest(row, [name for name in names if name.startswith("scikit-learn ")])
        ratio = f"{own / theirs:.2f}" if own and theirs else NONE
        cells = (number(own), named(theirs, peer), named(native, sklearn), ratio)
        lines.append(
            (
                row["name"],
                f"{row['n']:,}",
                f"{row['p']:,}",
                str(row["K"]),
                f"{row['C']:g}",
                power(row["target"]),
                *cells,
            )
        )
    return table(header, lines)


def row_table(row):
    """Return the table of one data set."""
    targets = [f"**{power(gap)}**" if gap == row["target"] else power(gap) for gap in gaps(row)]
    header = ("solver", "reads of X", *(f"s to {gap}" for gap in targets), "runs", "extra memory, MB", "threads")
    lines = [line(name, row, solver) for name, solver in row["solvers"].items()]
    lines += [(name, reason, *[NONE] * (len(header) - 2)) for name, reason in row["absent"].items()]
    dtype = "" if row["dtype"] == "float64" else f", {row['dtype']}"
    title = f"### {row['name']}: n = {row['n']:,}, p = {row['p']:,}, K = {row['K']}, C = {row['C']:g}{dtype}\n"
    optimum = f"F* = {row['optimum']:.12g}, at most {row['bound'] / row['optimum']:.0e} of it too high.\n"
    return "\n".join((title, optimum, table(header, lines)))


def line(name, row, solver):
    """One solver's cells."""
    points = by_effort(solver)
    reads = " / ".join(reads_of(points, gap) for gap in (row["target"], TARGETS[-1]))
    seconds = [number(seconds_at(points, gap)) for gap in gaps(row)]
    effort = first(points, row["target"])
    runs = str(max(1, len(points[effort]["seconds"]))) if effort else NONE
    used = points[effort or max(points)]["bytes"]
    memory = NONE if used is None else f"{used / 1e6:.1f}"
    return (name, reads, *seconds, runs, memory, str(solver["threads"] or ""))


def gaps(row):
    """Return the targets, the row's own among them."""
    return sorted({*TARGETS, row["target"]}, reverse=True)


def by_effort(solver):
    return {point["effort"]: point for point in solver["points"]}


def reads_of(points, gap):
    effort = first(points, gap)
    if effort is None or points[effort]["reads"] is None:
        return NONE
    return f"{'' if points[effort]['exact'] else '>= '}{points[effort]['reads']:.3g}"


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


def conditions_table(rows):
    """Say what is asked for, what was measured, and whether it is met."""
    header = ("condition", "data", "ours", "theirs", "ratio", "verdict")
    return table(header, [line for row in rows for line in conditions(row)])


def conditions(row):
    """Lines of the table of conditions that concern one data set."""
    groups = {"all": [name for name in row["solvers"] if name not in OURS], "scikit-learn": [*SCIKIT_LEARN]}
    lines = []
    for group, factor in row["goals"].items():
        text = f"{factor:g} times as fast as" if factor > 1 else f"at most {1 / factor:g} times the time of"
        names = groups.get(group, [group])
        whom = {"all": "the fastest peer", "scikit-learn": "the fastest of scikit-learn"}.get(group, group)
        lines.append(compared(f"{text} {whom}", row, names, 1 / factor))
    lines.append(compared(f"auto within {OWN_MARGIN} of our fastest", row, OURS[1:], OWN_MARGIN))
    lines.append(against_default(row))
    if row["defaults"]:
        lines += default_lines(row)
    return lines + [reads_line(row, float(gap), most) for gap, most in row["reads"].items()]


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


def reads_line(row, gap, most):
    points = by_effort(row["solvers"][AUTO]) if AUTO in row["solvers"] else {}
    effort = first(points, gap)
    text = f"gap {power(gap)} in at most {most} reads of X"
    reads = points[effort]["reads"] if effort else None
    word = "NOT met" if effort is None else "not counted" if reads is None else met(reads <= most)
    return (text, row["name"], NONE if reads is None else f"{reads:.3g} reads", NONE, NONE, word)


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


def named(seconds, name):
    return NONE if seconds is None else f"{seconds:.3g} ({name})"


def plot(result, path):
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
