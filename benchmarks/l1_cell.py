"""One contestant on one row of bench_l1: the least effort that meets the target, and the time that it takes."""

import time

import numpy as np
from cell import COARSE, FAR, STALLED, Cell, next_rung, small_problem
from l1_peers import PER_DECADE
from measure import OutOfTime, time_limit
from peers import Fit

TARGET = 1e-6  # relative gap
FINEST = 15 * PER_DECADE  # the effort of the smallest tolerance
WARM = np.array([1.0, 10.0])  # values of C for the first fit, at which coefficients are not zero: skglm compiles then
GROWTH = 1.5  # times the seconds of a fit that one with the next tolerance is taken to need
OVERTIME = 1.5  # times the budget after which a fit is stopped


class L1Cell(Cell):
    """A `Cell` that looks for one target, and stops a fit that takes too long; `ended` says why it did not get there.

    Tolerances become finer by a factor of ten, or of a hundred where fits take long. Several in a row may have the same
    result without a meaning; a solver that gets a number of iterations has come to its end then.
    """

    def __init__(self, contestant, data, objective, optimum, budget):
        Cs = objective.Cs
        super().__init__(contestant, *data, Cs if len(Cs) > 1 else float(Cs[0]), objective, optimum, budget)
        self.ended = ""

    def explore(self):
        """Warm up, choose the number of threads where there is a choice, and climb the ladder."""
        C = WARM if np.ndim(self.C) else float(WARM[0])
        self.contestant.fit(*self.contestant.prepare(*small_problem(self.objective)), C, FINEST // 5)
        if len(self.contestant.threads) > 1:
            self.choose_threads()
        self.climb()

    def climb(self):
        """Raise the effort until the target is met, nothing changes any more, or the budget would be exceeded."""
        by_tolerance = self.contestant.by_tolerance
        self.ended = ""
        effort, predicted, gaps = PER_DECADE if by_tolerance else 1, 0.0, []
        while self.searched + predicted <= self.budget:
            self.probe(effort)
            gaps = [*gaps, self.points[effort]["gap"]][-STALLED:]
            stalled = not by_tolerance and len(gaps) == STALLED and len(set(gaps)) == 1
            if gaps[-1] <= TARGET or self.ended:
                return
            if stalled or (effort >= FINEST and by_tolerance):
                self.ended = "no closer"
                return
            seconds, before = self.points[effort]["climb"], effort
            coarse = seconds > COARSE * self.budget
            effort = before + PER_DECADE * (1 + coarse) if by_tolerance else next_rung(before, coarse)
            predicted = seconds * (GROWTH if by_tolerance else effort / before)
        self.ended = "out of time"

    def fit(self, effort, limit):
        """Seconds of one fit, and its result, which is without coefficients if the fit had to be stopped."""
        start, most = time.perf_counter(), OVERTIME * self.budget
        try:
            with time_limit(most):
                return super().fit(effort, limit)
        except (OutOfTime, Exception):  # compiled code may make another error of it
            elapsed = time.perf_counter() - start
            if elapsed < most:
                raise
            self.ended = "out of time"
            return elapsed, Fit(None, None)

    def record(self):
        """Return what the table needs, and everything that was measured."""
        effort = self.first(TARGET)
        point = self.points.get(effort)
        reached = {} if point is None else {"seconds": self.seconds(TARGET), "passes": point["passes"]}
        return {
            **super().record(),
            "effort": effort,
            "by_tolerance": self.contestant.by_tolerance,
            "exact": bool(point and point["exact"]),
            "runs": len(point["seconds"]) if point else 0,
            "gap": point["gap"] if point else min((p["gap"] for p in self.points.values()), default=FAR),
            "ended": "" if point else self.ended,
            "spent": self.searched,
            "seconds": None,
            "passes": None,
            **reached,
        }
