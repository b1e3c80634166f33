"""One solver on one data set: how far it gets with how much effort, and how long that takes."""

from statistics import median

import numpy as np
from measure import peak_memory, synchronize, threads, timed
from scipy.sparse import csr_array, issparse

TARGETS = (1e-2, 1e-4, 1e-6, 1e-8)  # relative gaps
RUNS = 5  # timed runs that a median is of
CHUNK = 0.05  # seconds of fits in a row, where fits are short: pools of threads need some time to wake up
RIVAL = 2.0  # times slower than the fastest peer: worth no second run
COARSE = 0.03  # share of the budget that makes a fit long
STALLED = 3  # rungs with the same result after which a solver is taken to have ended
FAR = 1e99  # the gap of a result that is not finite


def next_rung(effort, coarse):
    """Efforts 1, 2, 3, 4, 6, 8, 12, 16, ..., or only the powers of two where fits take long."""
    power = 1 << effort.bit_length() - 1  # the largest one not above the effort
    return power + power // 2 if effort == power > 1 and not coarse else 2 * power


class Cell:
    """What was measured of a contestant on a problem.

    `points` maps each effort to a dict with the relative gap, passes over X, peak extra bytes, the seconds of the run
    that found these (`climb`) and of those that were run for the clock alone (`seconds`).
    """

    def __init__(self, contestant, X, y, C, objective, optimum, budget, device="cpu"):
        self.contestant, self.C, self.objective, self.optimum = contestant, C, objective, optimum
        self.budget, self.device = contestant.patience * budget, device
        self.points, self.limit = {}, None
        self.searched = self.repeated = 0.0  # seconds spent so far
        self.data = contestant.prepare(X, y)
        synchronize(device)

    def explore(self):
        """Warm up, choose the number of threads, and climb the ladder."""
        self.contestant.fit(*self.contestant.prepare(*small_problem(self.objective)), self.C, 2)
        self.choose_threads()
        self.climb()

    def choose_threads(self, effort=3):
        """Keep the limit under which a short fit is fastest, by the better of two runs; a warm-up in any case."""
        seconds = dict.fromkeys(self.contestant.threads, np.inf)
        spent = 0.0
        for limit in 2 * self.contestant.threads:
            if spent < 0.5 * self.budget:
                elapsed, _ = self.fit(effort, limit)
                seconds[limit] = min(elapsed, seconds[limit])
                spent += elapsed
        self.limit = min(seconds, key=seconds.get)

    def climb(self):
        """Raise the effort until the last target is met, nothing changes any more, or the budget would be exceeded."""
        effort, predicted, gaps = 1, 0.0, []
        while self.searched + predicted <= self.budget:
            self.probe(effort)
            gaps = [*gaps, self.points[effort]["gap"]][-STALLED:]
            if gaps[-1] <= TARGETS[-1] or (len(gaps) == STALLED and len(set(gaps)) == 1):
                return
            seconds, before = self.points[effort]["climb"], effort
            effort = next_rung(before, coarse=seconds > COARSE * self.budget)
            predicted = seconds * effort / before

    def bisect(self, target):
        """Narrow down the least effort that meets the target, to a tenth."""
        hit = self.first(target)
        while hit:
            miss = max((effort for effort in self.points if effort < hit), default=0)
            if hit - miss <= max(1, hit // 10) or self.searched > 1.5 * self.budget:
                return
            self.probe((hit + miss) // 2)
            hit = self.first(target)

    def repeat(self, effort):
        """Time a fit with an effort that was probed, a few times in a row if it is short, within twice the budget."""
        point = self.points[effort]
        for _ in range(int(np.clip(CHUNK / point["climb"], 1, RUNS))):
            if self.repeated + point["climb"] > 2.0 * self.budget:
                return
            seconds, _ = self.fit(effort, self.limit)
            self.repeated += seconds
            point["seconds"].append(seconds)

    def probe(self, effort):
        """Fit once, and note all but the median of several times."""
        with peak_memory(self.device) as peak:
            seconds, result = self.fit(effort, self.limit)
        self.searched += seconds
        gap = self.objective.relative_gap(result.coef, result.intercept, self.optimum)
        self.points[effort] = {
            "gap": gap if gap < FAR else FAR,
            "passes": result.passes,
            "exact": result.exact,
            "bytes": peak[0] if peak else None,
            "climb": seconds,
            "seconds": [],
        }

    def fit(self, effort, limit):
        """Seconds of one fit, and its result."""
        with threads(limit):
            return timed(self.contestant.fit, *self.data, self.C, effort)

    def seconds(self, target):
        """Seconds to the target as known so far; infinite if it was not met."""
        effort = self.first(target)
        return np.inf if effort is None else seconds_of(self.points[effort])

    def first(self, target):
        """Return the least effort that met the target, or None."""
        return first(self.points, target)

    def record(self):
        """Everything that was measured, for the file; the points in the order of their effort."""
        points = [{"effort": effort, **self.points[effort]} for effort in sorted(self.points)]
        return {"threads": self.limit, "points": points}


def first(points, target):
    """Return the least effort that meets the target, or None."""
    return min((effort for effort, point in points.items() if point["gap"] <= target), default=None)


def seconds_of(point):
    """Median of the runs for the clock, or the only run there is."""
    return median(point["seconds"]) if point["seconds"] else point["climb"]


def small_problem(objective):
    """Return a problem of the same kind, with which libraries load what they load at first use."""
    y = np.arange(20 * objective.n_classes) % objective.n_classes
    X = np.random.default_rng(0).standard_normal((len(y), 4)).astype(objective.dtype)
    return csr_array(X) if issparse(objective.raw) else X, y


def explored(cell):
    """Why a contestant failed on the data, or an empty string; its line of progress is printed."""
    try:
        cell.explore()
    except Exception as error:  # of somebody else's library: no reason to lose the others' numbers
        print(f"  {cell.contestant.name}: {error!r}"[:200], flush=True)
        return f"failed: {type(error).__name__}"
    gap = min((point["gap"] for point in cell.points.values()), default=float("inf"))
    print(f"  {cell.contestant.name}: gap {gap:.0e} after {cell.searched:.2f} s of fits", flush=True)
    return ""
