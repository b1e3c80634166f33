"""When a new preconditioner repays its cost."""

from __future__ import annotations

import math
from typing import NamedTuple

from torchlogreg._solvers import tuning


class Refresh(NamedTuple):
    """What is remembered of the pace, as plain values."""

    due: float = math.inf  # iteration of the next renewal from a sample
    gaps: tuple[float, ...] = ()  # logarithms, since the preconditioner became the Hessian of all rows or the start
    is_newton: bool = False  # whether it did
    gap_before: float = math.inf  # the last one by such a Hessian that was then renewed

    def with_hessian(self) -> Refresh:
        """The preconditioner becomes the Hessian of all rows."""
        before = self.gaps[-1] if self.is_newton and self.gaps else self.gap_before
        return Refresh(is_newton=True, gap_before=before)

    def postponed(self, iteration: int) -> Refresh:
        """The next renewal is at twice the iteration of this one."""
        return self._replace(due=2 * iteration)

    def seen(self, gap: float) -> Refresh:
        """With one more gap, the largest of the models'."""
        return self._replace(gaps=(*self.gaps, math.log(max(gap, 1e-300))))

    def hessian_pays(self, n_models: int, cost: float) -> bool:
        """Whether the passes still to come at the present pace cost more than the Hessian of all rows.

        Where even Newton's own step brings little, as on almost separable classes, only a fresh Hessian helps.
        """
        gaps = self.gaps
        if len(gaps) == 1 and self.gap_before - gaps[0] < tuning.SLOW_NEWTON_FALL:
            return True
        cost = cost * n_models / (1.0 + tuning.TOGETHER_SHARE * (n_models - 1))
        if len(gaps) <= max(1.0, tuning.RENEWAL_PATIENCE * cost):
            return False
        steps = min(tuning.PACE_WINDOW, len(gaps) - 1)
        fall = (gaps[-1 - steps] - gaps[-1]) / steps
        if self.is_newton and fall < tuning.SLOW_NEWTON_FALL:
            return True
        left = (gaps[-1] - math.log(tuning.RENEWAL_GOAL_GAP)) / fall if fall > 0 else math.inf
        return min(left, tuning.MOST_BELIEVED_PASSES) > 0.5 * cost + 1

    @property
    def is_near(self) -> bool:
        """Whether the gap is so small that nothing pays."""
        return self.gaps[-1] <= math.log(tuning.RENEWAL_GOAL_GAP)
