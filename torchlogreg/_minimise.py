"""The one loop that every solver runs in: stopping, the iteration limit, warnings.

A solver is a generator of `Step`s; the first is its starting point, each further one an iteration. `minimise`
draws from it until the solver's own stopping rule holds, rows to validate on see no improvement, the limit is reached,
a callback asks to stop or the generator ends because arithmetic allows no further progress.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from torchlogreg._problem import OutOfRange, Point
from torchlogreg._separation import is_separated
from torchlogreg._watch import Watch
from torchlogreg._wide import Rotated, is_wide


class Step(NamedTuple):
    """Where a solver stands after an iteration."""

    point: Point  # for "sgd" without a gradient, and with the mean objective of the epoch's mini-batches as value
    gap: torch.Tensor | None = None  # (B,) estimate of (value - optimum) / optimum
    score: float | None = None  # accuracy on the rows to validate on, if they may end the fit
    settled: bool = False  # whether a schedule of the solver's own has come to its end
    stuck: torch.Tensor | None = None  # (B,) models that no step helps at this precision
    state: Callable[[], dict] | None = None  # what the next iteration goes on from, to be asked for before it begins


class Result(NamedTuple):
    """What a fit found. `point` is in float64 at the coefficients as they will be stored."""

    point: Point
    n_iter: int
    converged: bool
    loss_curve: np.ndarray  # (n_iter, B)


class Optimality:
    """Stop when max|gradient| <= tol and the estimated relative gap <= gap.

    The first is scikit-learn's test. Alone it is a weak one: with tol = 1e-4 on the digits, standardised, C = 1, it
    held 4e-4 of the objective above the optimum.
    """

    def __init__(self, tol, gap):
        self.tol, self.gap = tol, gap

    def __call__(self, step):
        return bool(self.each(step).all())

    def each(self, step):
        """Which of the models may stop, (B,)."""
        return (step.point.gradient_norm <= self.tol) & (step.gap <= self.gap)


class NoImprovement:
    """Stop after `patience` iterations in a row without an improvement by `tol`, as SGDClassifier does.

    It looks at the training objective or, if `validated`, at the accuracy on the rows to validate on. Never if tol = 0.
    """

    def __init__(self, tol, patience, *, validated=False):
        self.tol, self.patience, self.validated = tol, patience, validated
        self.state = math.inf, 0  # the best so far, and how many iterations ago

    def __call__(self, step):
        monitor = step.score if self.validated else step.point.value
        if monitor is None:  # the start
            return False
        return self.stale_after(-monitor if self.validated else float(monitor))

    def stale_after(self, monitor):
        """Note one more iteration's value, the lower the better; whether it was one too many without improvement."""
        if self.tol == 0:
            return False
        best, stale = self.state
        self.state = min(best, monitor), stale + 1 if monitor > best - self.tol else 0
        return self.state[1] >= self.patience


class Rules(NamedTuple):
    """When a fit is done: by the solver's rule, or by that of the rows to validate on."""

    own: Callable
    validation: NoImprovement | None

    def met(self, step):
        """Which rule a Step meets, as `_Run.ended` has it, if any."""
        # The second one counts iterations, so it is asked in any case.
        validated = self.validation is not None and self.validation(step)
        return "converged" if self.own(step) else "validation" if validated else None

    @property
    def counting(self):
        """The rules that count iterations."""
        return [rule for rule in self if isinstance(rule, NoImprovement)]


class _Run(NamedTuple):
    point: Point
    ended: str  # "converged", "validation", "limit", "callback", "precision" (no step helps) or "overflow"


def minimise(problem, solver, W, *, tol, max_iter, store=None, watch=None, patience=None):
    """Minimise `problem` from W.

    `store` rounds coefficients to the precision in which they will be kept. The result, and whether it has
    converged, is judged there, in float64. `watch` notes every iteration, and may know where an interrupted fit stood.
    With a `patience` the rows that it validates on may end the fit, too, and the best iterate on them is the result.
    """
    watch = watch or Watch(problem, solver)
    rules = Rules(solver.stopping(tol), patience and NoImprovement(tol, patience, validated=True))
    run, state, finishing = None, None, False
    if saved := watch.resume():
        state, finishing, states = saved
        for rule, state_of_rule in zip(rules.counting, states, strict=True):
            rule.state = state_of_rule
    wide, wider = is_wide(problem.rows) and not solver.stochastic, problem
    if not finishing:
        draw = _draw_rotated if wide else _draw
        try:
            run = draw(problem, solver, W, rules, max_iter, watch, state)
        except OutOfRange:
            if problem.rows.is_exact or solver.stochastic:
                raise
            wider = problem.in_float64()
            run = draw(wider, solver, W, rules, max_iter, watch, None)
        point, state = _stored(wider, run, store), None
    again = not wider.rows.is_exact or (wide and not solver.whole_hessian)
    if run is None or (again and not solver.stochastic and _is_unfinished(run, point, tol)):
        # float32 products certify a float32 gradient, and inner products of rows hold little of what is small beside a
        # common offset. Where that is not enough, float64 products of the rows themselves finish the work.
        start = W if run is None else run.point.W
        run = _draw(wider.exact(), solver, start, rules, max_iter, watch, state, finishing=True)
        point = _stored(wider, run, store)
    wider.exact().check_squares(point)
    n_iter = len(watch.values)
    if run.ended == "overflow" or not bool(torch.isfinite(point.value).all()):
        watch.forget()  # other parameters, which the message advises, are those of another fit
        raise ValueError(
            f"The objective overflowed after {n_iter} iterations of solver={solver.name!r}. "
            + ("Lower learning_rate, or standardise X." if solver.stochastic else "Standardise X, or use a larger C.")
        )
    remedy = _remedy(problem, solver, run, point, tol, max_iter)
    if remedy:
        warnings.warn(
            f"solver={solver.name!r} did not converge: after {n_iter} iterations the objective is "
            f"{float(point.value.max()):.6g} and max|gradient| is {float(point.gradient_norm.max()):.3g} "
            f"(tol={tol:g}). {remedy}",
            ConvergenceWarning,
            stacklevel=6,
        )
    if watch.best is not None:
        point = _stored(problem, run._replace(point=Point(watch.best.W, None, None)), store)
    certified = float(point.gradient_norm.max()) <= tol
    converged = not remedy and (certified or (solver.stochastic and run.ended in ("converged", "validation")))
    return Result(point, n_iter, converged, np.array(watch.values).reshape(n_iter, len(W)))


def _is_unfinished(run, point, tol):
    """Whether exact products would help: no step did with those of X, or the gradient is larger than it seemed."""
    return run.ended == "precision" or (run.ended == "converged" and float(point.gradient_norm.max()) > tol)


class Results(NamedTuple):
    """What a batch of B models found, each judged as a single fit is."""

    W: torch.Tensor  # (B, d, K)
    n_iter: torch.Tensor  # (B,)
    value: torch.Tensor  # (B,)
    gradient_norm: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


def minimise_all(problem, solver, W, *, tol, max_iter, store=None, left=None, floor=None):
    """Minimise B models over the same rows; each leaves the batch when it has converged, is stuck or out of iterations.

    `left(k)` is told that k models have. One whose value falls below `floor` (B,) has gone far enough, too.
    """
    stop, left = solver.stopping(tol), left or _ignore
    floor = torch.full_like(W[:, 0, 0], -math.inf) if floor is None else floor
    wide = is_wide(problem.rows)
    if wide:
        rotated = Rotated(problem)
        ends = _draw_all(rotated.problem, solver, rotated.enter(W), stop, max_iter, left, floor)
        ends = ends._replace(point=rotated.leave(ends.point.W))
    else:
        try:
            ends = _draw_all(problem, solver, W, stop, max_iter, left, floor)
        except OutOfRange:
            if problem.rows.is_exact:
                raise
            problem, solver = problem.in_float64(), solver.in_float64()
            ends = _draw_all(problem, solver, W, stop, max_iter, _ignore, floor)
    ends = ends._replace(point=_stored_all(problem, ends.point, store))
    problem.exact().check_squares(ends.point)
    again = not problem.rows.is_exact or (wide and not solver.whole_hessian)
    unfinished = ~ends.limited & (ends.stuck | (ends.point.gradient_norm > tol)) & (ends.point.value >= floor)
    if again and unfinished.any():
        index = torch.nonzero(unfinished).flatten()
        exact = problem.exact().of_models(index)
        limit = max_iter - ends.n_iter[index]
        more = _draw_all(exact, solver.of_models(index), ends.point.W[index], stop, limit, _ignore, floor[index])
        more = more._replace(point=_stored_all(exact, more.point, store), n_iter=ends.n_iter[index] + more.n_iter)
        ends = _Ends(*(_put(old, index, new) for old, new in zip(ends, more, strict=True)))
    point = ends.point
    if not bool(torch.isfinite(point.value).all()):
        raise ValueError(f"The objective overflowed with solver={solver.name!r}. Standardise X, or use larger Cs.")
    converged = (point.gradient_norm <= tol) & ~ends.limited & ~ends.stuck
    penalised = problem.penalty.l2[:, : problem.rows.n_features, 0].any(dim=1).expand(len(W))
    for b in torch.nonzero(~penalised).flatten():
        converged[b] &= not is_separated(problem.of_models(b[None]), point.W[b : b + 1])
    return Results(point.W, ends.n_iter, point.value, point.gradient_norm, converged)


def _ignore(k):
    pass


class _Ends(NamedTuple):
    """Where B models ended, and why."""

    point: Point
    n_iter: torch.Tensor  # (B,)
    limited: torch.Tensor  # (B,) whether by max_iter
    stuck: torch.Tensor  # (B,) whether because no step helps


def _draw_all(problem, solver, W, stop, max_iter, left, floor):
    """Iterate until every model has left the batch; max_iter is a number or (B,), floor (B,)."""
    B, home = len(W), problem.rows.home
    ends = _Ends(
        Point(W.clone(), W.new_empty(B), torch.empty_like(W)),
        torch.zeros(B, dtype=torch.long, device=home.device),
        torch.zeros(B, dtype=torch.bool, device=home.device),
        torch.zeros(B, dtype=torch.bool, device=home.device),
    )
    limit = torch.as_tensor(max_iter, device=home.device).expand(B)
    active = torch.arange(B, device=home.device)
    iterates = solver.iterates(problem, W)
    step, n_iter = next(iterates), 0
    if not problem.rows.is_exact:
        problem.check_squares(step.point)
    while True:
        stuck = torch.zeros_like(ends.stuck[active]) if step.stuck is None else step.stuck
        done = stop.each(step) | (step.point.value < floor[active])
        limited = ~done & (n_iter >= limit[active])
        leaving = done | stuck | limited | ~torch.isfinite(step.point.value)
        if leaving.any():
            out = active[leaving]
            _put(ends.point, out, Point(*(t[leaving] for t in step.point[:3])))
            ends.n_iter[out], ends.limited[out], ends.stuck[out] = n_iter, limited[leaving], (stuck & ~done)[leaving]
            left(len(out))
            active = active[~leaving]
            if not len(active):
                return ends
            remaining = torch.nonzero(~leaving).flatten()
        else:
            remaining = None
        last = step
        try:
            step = iterates.send(remaining)
        except StopIteration:
            stay = slice(None) if remaining is None else remaining
            _put(ends.point, active, Point(*(t[stay] for t in last.point[:3])))
            ends.n_iter[active], ends.stuck[active] = n_iter + 1, True
            left(len(active))
            return ends
        n_iter += 1


def _put(old, index, new):
    """`old` with `new` written to the models at `index`: tensors (B, ...), or points of them."""
    if isinstance(old, Point):
        return Point(*(_put(o, index, n) for o, n in zip(old[:3], new[:3], strict=True)))
    old[index] = new
    return old


def _stored_all(problem, point, store):
    """`_stored` for the points of a batch."""
    if store is None and problem.rows.is_exact:
        return point
    return problem.exact().smooth(point.W if store is None else store(point.W))


def _draw_rotated(problem, solver, W, rules, max_iter, watch, state):
    """`_draw` in the span of the rows; the point that it ends at is back among the features."""
    rotated = Rotated(problem)
    start = rotated.enter(W)
    run = _draw(rotated.problem, solver, start, rules, max_iter, watch, state, lambda U: rotated.leave(U).W)
    return run._replace(point=rotated.leave(run.point.W))


def _draw(problem, solver, W, rules, max_iter, watch, state, coefficients=lambda W: W, *, finishing=False):
    """Iterate until something ends it; `coefficients` turns the iterates' W into that of the features."""
    iterates = solver.iterates(problem, W, state)
    step = next(iterates)
    if not problem.rows.is_exact:
        problem.check_squares(step.point)
    while True:
        if met := rules.met(step):
            return _Run(step.point, met)
        if len(watch.values) >= max_iter:
            return _Run(step.point, "limit")
        watch.begin(step.state and partial(_state, step, finishing, rules))
        following = next(iterates, None)
        step = following or step
        score, asked = watch.end(problem, step.point, coefficients)
        if asked:
            return _Run(step.point, "callback")
        if following is None:
            return _Run(step.point, "precision")
        if not math.isfinite(sum(watch.values[-1])):
            return _Run(step.point, "overflow")
        if score is not None:
            step = step._replace(score=score)


def _state(step, finishing, rules):
    """Where a fit stands, as `minimise` goes on from it."""
    return step.state(), finishing, [rule.state for rule in rules.counting]


def _stored(problem, run, store):
    """The objective in float64 at the coefficients as they will be kept; no read where the solver was just there."""
    home = problem.rows.home
    W = run.point.W.to(home.device).to(home.dtype)
    kept = W if store is None else store(W)
    if kept is W and run.point.gradient is not None and problem.rows.is_exact:
        return run.point
    return problem.exact().smooth(kept)


def _remedy(problem, solver, run, point, tol, max_iter):
    """What to do about a fit that did not converge, or None if it did or was stopped on request."""
    if run.ended in ("callback", "validation"):
        return None
    if solver.stochastic:
        if run.ended == "converged" or tol == 0:
            return None
        return (
            f"The objective still improved by more than tol within {max_iter} epochs. Raise max_iter, set tol=0 if "
            "this number of epochs is what you want, or use solver='auto', which needs no learning rate."
        )
    if is_separated(problem, point.W):
        return (
            "The classes, or some of their rows, are perfectly separated, so without a penalty the coefficients grow "
            "without limit. Use a finite C."
        )
    if float(point.gradient_norm.max()) <= tol and run.ended == "converged":
        return None
    if run.ended == "limit":
        other = "solver='newton-cholesky'" if solver.name == "lbfgs" else "solver='lbfgs'"
        return f"Raise max_iter (now {max_iter}), standardise X, or try {other}."
    if problem.rows.is_exact:
        return (
            "No step from there lowers the objective by more than float64 rounding. Standardise X or raise tol, or "
            "start nearer to the optimum if you gave a start."
        )
    return (
        "Coefficients in float32 cannot express a smaller gradient on data of this scale. Pass X as float64, "
        "standardise it, or raise tol."
    )
