"""The one loop that every solver runs in: stopping, the iteration limit, warnings.

A solver is a generator of `Step`s; the first is its starting point, each further one an iteration. `minimise`
draws from it until the solver's own stopping rule holds, rows to validate on see no improvement, the limit is reached,
a callback asks to stop or the generator ends because arithmetic allows no further progress.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from torchlogreg._objective.objective import OutOfRange, Point
from torchlogreg._objective.reparametrisation import RowSpace, is_wide
from torchlogreg._objective.separation import is_separated
from torchlogreg._runtime.warn import warn

# Of the objective at zero: what is below fell so far that curvature seen on the way says little of that at the end, and
# estimates of the gap are believed only where a bound or the whole Hessian confirms them.
DOUBT = 0.02
HESSIANS = 2**25  # numbers in the Hessians of models that are finished together
# An objective that counts as zero, its lower bound. Zero is the infimum where one class has all the weight, to which
# nothing is near by a relative gap.
ZERO = np.finfo(np.float64).eps


class Step(NamedTuple):
    """Where a solver stands after an iteration."""

    point: Point  # for "sgd" without a gradient, and with the mean objective of the epoch's mini-batches as value
    gap: torch.Tensor | None = None  # (B,) estimate of (value - optimum) / optimum
    score: float | None = None  # accuracy on the rows to validate on, if they may end the fit
    settled: bool = False  # whether a schedule of the solver's own has come to its end
    stuck: torch.Tensor | None = None  # (B,) models that no step helps at this precision
    blind: torch.Tensor | None = None  # (B,) models whose gap holds more than their preconditioner can see
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
        return (step.point.gradient_norm <= self.tol) & ((step.gap <= self.gap) | (step.point.value <= ZERO))


class NoImprovement:
    """Stop after `patience` iterations in a row without an improvement by `tol`, as SGDClassifier does.

    It looks at the training objective or, if `validated`, at the accuracy on the rows to validate on. Never if tol = 0.
    """

    def __init__(self, tol, patience, *, validated=False):
        self.tol, self.patience, self.validated = tol, patience, validated
        self.restart()

    def restart(self):
        """Forget what was seen."""
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
    validation: NoImprovement | None = None
    blind_ends: bool = False  # whether another solver goes on where one is blind

    def met(self, step):
        """Which rule a Step meets, as `_Run.ended` has it, if any."""
        # The second one counts iterations, so it is asked in any case.
        validated = self.validation is not None and self.validation(step)
        if self.own(step):
            return "converged"
        if self.blind_ends and step.blind is not None and bool(step.blind.any()):
            return "blind"
        return "validation" if validated else None

    @property
    def counting(self):
        """The rules that count iterations."""
        return [rule for rule in self if isinstance(rule, NoImprovement)]


class _Run(NamedTuple):
    point: Point
    # "converged", "validation", "limit", "callback", "precision" (no step helps), "blind" (see `Step`), "overflow", or
    # "rounding": what had converged has not in the precision in which it is kept.
    ended: str
    gap: torch.Tensor | None = None  # see `Step`


def minimise(objective, solver, W, *, tol, max_iter, store=None, history=None, patience=None):
    """Minimise `objective` from W.

    `store` rounds coefficients to the precision in which they will be kept. The result, and whether it has
    converged, is judged there, in float64. `history` notes every iteration, and may know where an
    interrupted fit stood. With a `patience` the validation data may end the fit, too, and the best iterate on them is
    the result.
    """
    history = history or Unwatched()
    finisher = solver.finisher(objective)
    rules = Rules(
        solver.stopping(tol), patience and NoImprovement(tol, patience, validated=True), blind_ends=finisher is not None
    )
    run, state, stage, given = None, None, "first", objective
    if saved := history.resume():
        state, stage, states = saved
        for rule, state_of_rule in zip(rules.counting, states, strict=True):
            rule.state = state_of_rule
    wide = is_wide(objective.design) and not solver.stochastic
    sample_rows = _draw_in_row_space if wide else _draw
    if stage == "first":
        try:
            run = sample_rows(objective, solver, W, rules, max_iter, history, state)
        except OutOfRange:
            if objective.design.is_exact or solver.stochastic:
                history.forget()
                raise
            objective = objective.in_float64()
            history.restart()
            for rule in rules.counting:
                rule.restart()
            run = sample_rows(objective, solver, W, rules, max_iter, history, None)
        point, state = _stored(objective, run, store), None
    again = not objective.design.is_exact or (wide and not solver.whole_hessian)
    if stage == "exact" or (run and again and not solver.stochastic and _is_unfinished(run, point, tol)):
        # float32 products certify a float32 gradient, and inner products of rows hold little of what is small beside a
        # common offset. Where that is not enough, float64 products of the rows themselves finish the work.
        start = W if run is None else run.point.W
        run = _draw(objective.exact(), solver, start, rules, max_iter, history, state, stage="exact")
        point, state = _stored(objective, run, store), None
    if stage == "last" or (finisher and _is_in_doubt(objective, run, tol)):
        start, rules = W if run is None else run.point.W, rules._replace(own=finisher.stopping(tol), blind_ends=False)
        run = sample_rows(objective.exact(), finisher, start, rules, max_iter, history, state, stage="last")
        point = _stored(objective, run, store)
    objective.exact().check_squares(point)
    n_iter = len(history.values)
    if run.ended == "overflow" or not bool(torch.isfinite(point.value).all()):
        history.forget()  # other parameters, which the message advises, are those of another fit
        raise ValueError(
            f"The objective overflowed after {n_iter} iterations of solver={solver.name!r}. "
            + ("Lower learning_rate, or standardise X." if solver.stochastic else "Standardise X, or use a larger C.")
        )
    judged = point
    if run.ended == "precision" and bool((run.gap <= rules.own.gap).all()):
        judged = _at_best_intercepts(objective, point, tol)
        if bool((judged.gradient_norm <= tol).all()):
            run = run._replace(ended="converged")
    if run.ended == "converged" and not solver.stochastic and bool(_spoilt(run.point, point, tol).any()):
        run = run._replace(ended="rounding")
    remedy = _remedy(given, solver, run, judged, tol, max_iter)
    if remedy:
        warn(
            f"solver={solver.name!r} did not converge: after {n_iter} iterations the objective is "
            f"{float(point.value.max()):.6g}, {_tested(rules.own, run, point)}. {remedy}",
            ConvergenceWarning,
        )
    if history.best is not None:
        point = _stored(objective, run._replace(point=Point(history.best.W, None, None)), store)
    if solver.stochastic:
        converged = not remedy and run.ended in ("converged", "validation")
    else:  # at the very point that is the result, whoever ended the fit
        near = run.gap is not None and bool((run.gap <= rules.own.gap).all() or (point.value <= ZERO).all())
        kept = history.best is None or torch.equal(history.best.W.to(run.point.W), run.point.W)
        converged = not remedy and near and kept and float(judged.gradient_norm.max()) <= tol
    return Result(point, n_iter, converged, np.array(history.values).reshape(n_iter, len(W)))


def _is_unfinished(run, point, tol):
    """Whether exact products would help: no step did with those of X, or the gradient is larger than it seemed."""
    return run.ended == "precision" or (run.ended == "converged" and float(point.gradient_norm.max()) > tol)


def _is_in_doubt(objective, run, tol):
    """Whether a fit that seems done may be far from it, and no bound says otherwise."""
    if run.ended != "converged":
        return run.ended == "blind"
    point = run.point
    if not bool((point.value < DOUBT * objective.loss.at_zero).any()):
        return False
    if point.eta is None:
        point = objective.exact().value_and_gradient(point.W)
    return not bool((objective.optimality_bound(point) <= tol * point.value).all())


def _at_best_intercepts(objective, point, tol):
    """`point` with the gradient where the intercepts are best for its coefficients, less what is rounding there.

    A column whose mean is huge beside its spread, as that of times in seconds, has an intercept that no float64 can
    hold well enough: a rounding error of it moves the column's gradient by more than tol, and the value by nothing. And
    logits that are small differences of large numbers have errors in proportion to these. Where the value is more than
    tol above the one at the best intercepts, or they are not found, it is `point` itself.
    """
    if not (objective.design.intercept and objective.design.in_memory):
        return point
    objective = objective.exact()
    seen = point if point.eta is not None else objective.value_and_gradient(point.W)
    best = None if seen.eta is None else objective.best_intercepts(seen)  # there may be no room for all logits
    if best is None or not bool((point.value - best[0] <= tol * point.value).all()):
        return point
    size = objective.second_moments().sqrt()[:, None]  # (d, 1) of the columns
    logits = (point.W.abs() * size).sum(dim=1, keepdim=True)  # (B, 1, K) what they are differences of
    rounding = torch.finfo(size.dtype).eps * size * logits
    return point._replace(gradient=(best[1].abs() - rounding).clamp(min=0.0))


def _spoilt(before, point, tol):
    """Which models rounding has raised the objective by more than tol, (B,).

    As it is convex, it rose at most by what its gradient here, times the change of the coefficients, says.
    """
    if point.W is before.W:
        return torch.zeros_like(point.value, dtype=torch.bool)
    return (point.W - before.W.to(point.W)).mul(point.gradient).sum(dim=(1, 2)) > tol * point.value


class Unwatched:
    """Notes the objective and nothing else."""

    best = None

    def __init__(self):
        self.values = []

    def resume(self):
        return None

    def restart(self):
        self.values = []

    def forget(self):
        pass

    def begin(self, state):
        pass

    def end(self, objective, point, coefficients):  # noqa: ARG002 - see `FitHistory`
        self.values.append(point.value.tolist())
        return None, False


class Results(NamedTuple):
    """What a batch of B models found, each judged as a single fit is."""

    W: torch.Tensor  # (B, d, K)
    n_iter: torch.Tensor  # (B,)
    value: torch.Tensor  # (B,)
    gradient_norm: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


def minimise_all(objective, solver, W, *, tol, max_iter, store=None, left=None, floor=None):
    """Minimise B models over the same rows; each leaves the batch when it has converged, is stuck or out of iterations.

    `left(k)` is told that k models have. One whose value falls below `floor` (B,) has gone far enough, too.
    """
    left = left or _ignore
    floor = torch.full_like(W[:, 0, 0], -math.inf) if floor is None else floor
    wide = is_wide(objective.design)
    try:
        ends = _draw_anywhere(objective, solver, W, tol, max_iter, left, floor, wide)
    except OutOfRange:  # hardly ever after some models have left
        if objective.design.is_exact:
            raise
        objective, solver = objective.in_float64(), solver.in_float64()
        ends = _draw_anywhere(objective, solver, W, tol, max_iter, left, floor, wide)
    before = ends.point
    ends = ends._replace(point=_stored_all(objective, ends.point, store))
    objective.exact().check_squares(ends.point)
    again = not objective.design.is_exact or (wide and not solver.whole_hessian)
    unfinished = ~ends.limited & (ends.stuck | (ends.point.gradient_norm > tol)) & (ends.point.value >= floor)
    if again and unfinished.any():
        index = torch.nonzero(unfinished).flatten()
        exact = objective.exact().select(index)
        limit = max_iter - ends.n_iter[index]
        more = _draw_certainly(
            exact, solver.select(index), ends.point.W[index], tol, limit, _ignore, floor[index], finished=not wide
        )
        _put(before.W, index, more.point.W)
        more = more._replace(point=_stored_all(exact, more.point, store), n_iter=ends.n_iter[index] + more.n_iter)
        ends = _Ends(*(_put(old, index, new) for old, new in zip(ends, more, strict=True)))
    point = ends.point
    if not bool(torch.isfinite(point.value).all()):
        raise ValueError(f"The objective overflowed with solver={solver.name!r}. Standardise X, or use larger Cs.")
    small = point.gradient_norm <= tol
    for b in torch.nonzero(ends.stuck & ~small & (ends.gap <= solver.stopping(tol).gap)).flatten():
        alone = Point(*(t[b : b + 1] for t in point[:3]))
        small[b] = (_at_best_intercepts(objective.select(b[None]), alone, tol).gradient_norm <= tol)[0]
        ends.stuck[b] &= ~small[b]
    converged = small & ~ends.limited & ~ends.stuck & ~_spoilt(before, point, tol)
    penalised = objective.penalty.l2[:, : objective.design.n_features, 0].any(dim=1).expand(len(W))
    for b in torch.nonzero(~penalised & converged).flatten():
        converged[b] &= not is_separated(objective.select(b[None]), point.W[b : b + 1])
    return Results(point.W, ends.n_iter, point.value, point.gradient_norm, converged)


def _draw_anywhere(objective, solver, W, tol, max_iter, left, floor, wide):
    """Where B models end, in the span of the rows if they are `wide`, and finished where that is not certain."""
    if not wide:
        return _draw_certainly(objective, solver, W, tol, max_iter, left, floor)
    rotated = RowSpace(objective)
    ends = _draw_certainly(rotated.objective, solver, rotated.enter(W), tol, max_iter, left, floor)
    return ends._replace(point=rotated.leave(ends.point.W))


def _draw_certainly(objective, solver, W, tol, max_iter, left, floor, *, finished=True):
    """`_draw_all`; where it is not certain that models are done, they are `finished`."""
    finisher = solver.finisher(objective) if finished else None
    ends = _draw_all(objective, solver, W, solver.stopping(tol), max_iter, left, floor, blind_ends=finisher is not None)
    return ends if finisher is None else _finish_all(objective.exact(), finisher, ends, tol, max_iter, floor)


def _ignore(k):
    pass


class _Ends(NamedTuple):
    """Where B models ended, and why."""

    point: Point
    n_iter: torch.Tensor  # (B,)
    limited: torch.Tensor  # (B,) whether by max_iter
    stuck: torch.Tensor  # (B,) whether because no step helps
    blind: torch.Tensor  # (B,) see `Step`
    gap: torch.Tensor  # (B,) see `Step`


def _draw_all(objective, solver, W, stop, max_iter, left, floor, *, blind_ends=False):
    """Iterate until every model has left the batch; max_iter is a number or (B,), floor (B,)."""
    B, accumulation = len(W), objective.design.accumulation
    ends = _Ends(
        Point(W.clone(), W.new_empty(B), torch.empty_like(W)),
        torch.zeros(B, dtype=torch.long, device=accumulation.device),
        *(torch.zeros(B, dtype=torch.bool, device=accumulation.device) for _ in range(3)),
        torch.full((B,), math.inf, dtype=accumulation.dtype, device=accumulation.device),
    )
    limit = torch.as_tensor(max_iter, device=accumulation.device).expand(B)
    active = torch.arange(B, device=accumulation.device)
    iterates = solver.iterates(objective, W)
    step, n_iter = next(iterates), 0
    if not objective.design.is_exact:
        objective.check_squares(step.point)
    while True:
        stuck = torch.zeros_like(ends.stuck[active]) if step.stuck is None else step.stuck
        done = stop.each(step) | (step.point.value < floor[active])
        limited = ~done & (n_iter >= limit[active])
        blind = step.blind & ~done if blind_ends and step.blind is not None else torch.zeros_like(done)
        leaving = done | stuck | limited | blind | ~torch.isfinite(step.point.value)
        if leaving.any():
            out = active[leaving]
            _put(ends.point, out, Point(*(t[leaving] for t in step.point[:3])))
            ends.n_iter[out], ends.limited[out], ends.stuck[out] = n_iter, limited[leaving], (stuck & ~done)[leaving]
            ends.blind[out], ends.gap[out] = blind[leaving], step.gap[leaving]
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
            ends.n_iter[active], ends.stuck[active], ends.gap[active] = n_iter + 1, True, last.gap[stay]
            left(len(active))
            return ends
        n_iter += 1


def _finish_all(objective, solver, ends, tol, max_iter, floor):
    """The ends of models of which it is not certain that they are done, after more iterations by another solver."""
    done = ~ends.limited & ~ends.stuck & (ends.point.value >= floor)
    doubtful = torch.nonzero(done & (ends.blind | (ends.point.value < DOUBT * objective.loss.at_zero))).flatten()
    if not len(doubtful):
        return ends
    some = objective.select(doubtful)
    point = some.value_and_gradient(ends.point.W[doubtful])
    certain = (some.optimality_bound(point) <= tol * point.value) & (point.gradient_norm <= tol)
    doubtful = doubtful[~certain]
    n_together = max(1, HESSIANS // ends.point.W[0].numel() ** 2)
    most = torch.as_tensor(max_iter, device=doubtful.device).expand(len(ends.n_iter))
    for index in doubtful.split(n_together) if len(doubtful) else ():
        limit = most[index] - ends.n_iter[index]
        W, stop = ends.point.W[index], solver.stopping(tol)
        more = _draw_all(objective.select(index), solver, W, stop, limit, _ignore, floor[index])
        more = more._replace(n_iter=ends.n_iter[index] + more.n_iter)
        ends = _Ends(*(_put(old, index, new) for old, new in zip(ends, more, strict=True)))
    return ends


def _put(old, index, new):
    """`old` with `new` written to the models at `index`: tensors (B, ...), or points of them."""
    if isinstance(old, Point):
        return Point(*(_put(o, index, n) for o, n in zip(old[:3], new[:3], strict=True)))
    old[index] = new
    return old


def _stored_all(objective, point, store):
    """`_stored` for the points of a batch."""
    if store is None and objective.design.is_exact:
        return point
    return objective.exact().value_and_gradient(point.W if store is None else store(point.W))


def _draw_in_row_space(objective, solver, W, rules, max_iter, history, state, stage="first"):
    """`_draw` in the span of the rows; the point that it ends at is back among the features."""
    rotated = RowSpace(objective)
    start = rotated.enter(W)
    leave = lambda U: rotated.leave(U).W  # noqa: E731
    run = _draw(rotated.objective, solver, start, rules, max_iter, history, state, leave, stage=stage)
    return run._replace(point=rotated.leave(run.point.W))


def _draw(objective, solver, W, rules, max_iter, history, state, coefficients=lambda W: W, *, stage="first"):
    """Iterate until something ends it; `coefficients` turns the iterates' W into that of the features."""
    iterates = solver.iterates(objective, W, state)
    step = next(iterates)
    if not objective.design.is_exact:
        objective.check_squares(step.point)
    while True:
        if met := rules.met(step):
            return _Run(step.point, met, step.gap)
        if len(history.values) >= max_iter:
            return _Run(step.point, "limit", step.gap)
        history.begin(step.state and partial(_state, step, stage, rules))
        following = next(iterates, None)
        step = following or step
        score, asked = history.end(objective, step.point, coefficients)
        if asked:
            return _Run(step.point, "callback", step.gap)
        if following is None:
            return _Run(step.point, "precision", step.gap)
        if not math.isfinite(sum(history.values[-1])):
            return _Run(step.point, "overflow")
        if score is not None:
            step = step._replace(score=score)


def _state(step, stage, rules):
    """Where a fit stands, as `minimise` goes on from it."""
    return step.state(), stage, [rule.state for rule in rules.counting]


def _stored(objective, run, store):
    """The objective in float64 at the coefficients as they will be kept; no read where the solver was just there."""
    accumulation = objective.design.accumulation
    W = run.point.W.to(accumulation.device).to(accumulation.dtype)
    kept = W if store is None else store(W)
    if kept is W and run.point.gradient is not None and objective.design.is_exact:
        return run.point
    return objective.exact().value_and_gradient(kept)


def _tested(rule, run, point):
    """Where a fit that did not converge stands in the tests of its rule: which of them failed, and by how much."""
    norm, gap = (None if value is None else float(value.max()) for value in (point.gradient_norm, run.gap))
    if gap is None or not isinstance(rule, Optimality):
        return f"max|gradient| is {norm:.3g}"
    return (
        f"max|gradient| is {norm:.3g} ({'above' if norm > rule.tol else 'within'} tol={rule.tol:g}), and the estimated "
        f"gap to the optimum {gap:.3g} of the objective ({'above' if gap > rule.gap else 'within'} {rule.gap:.3g})"
    )


def _remedy(objective, solver, run, point, tol, max_iter):
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
    if is_separated(objective, point.W):
        return (
            "The classes, or some of their rows, are perfectly separated, so without a penalty the coefficients grow "
            "without limit. Use a finite C."
        )
    if float(point.gradient_norm.max()) <= tol and run.ended == "converged":
        return None
    if run.ended == "limit":
        other = "solver='newton-cholesky'" if solver.name == "lbfgs" else "solver='lbfgs'"
        return f"Raise max_iter (now {max_iter}), standardise X, or try {other}."
    if objective.design.is_exact and run.ended != "rounding":
        return (
            "No step from there lowers the objective by more than float64 rounding. Standardise X or raise tol, or "
            "start nearer to the optimum if you gave a start."
        )
    return (
        "Coefficients in float32 cannot express a point nearer to the optimum on data of this scale. Pass X as "
        "float64, standardise it, or raise tol."
    )
