"""The one loop that every solver runs in, for a single model as for a batch of them.

A fit has up to three stages. The first iterates in the coordinates that are cheapest. Where products in float32 or
inner products of rows cannot tell the gradient well enough, a second one goes on with float64 products of the rows
themselves. Where nothing confirms that a model is as near to its optimum as it seems, a third one finishes with a
solver that has the whole Hessian. The result is judged where it will be stored: in float64, at the rounded
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning

from torchlogreg._objective.certificate import best_intercepts, check_squares, optimality_bound
from torchlogreg._objective.objective import Objective, OutOfRange, Point
from torchlogreg._objective.reparametrisation import Identity, Reparametrisation, RowSpace, is_solved_in_row_space
from torchlogreg._objective.sampling import second_moments
from torchlogreg._objective.separation import is_separated
from torchlogreg._runtime.warn import warn
from torchlogreg._solvers import tuning
from torchlogreg._solvers.base import Rule, Solver
from torchlogreg._solvers.line_search import select
from torchlogreg._solvers.observer import Observer, Unobserved
from torchlogreg._solvers.remedies import remedy, standing
from torchlogreg._solvers.stopping import End


class Result(NamedTuple):
    """What a fit of B models found, in float64 at the coefficients as they will be stored."""

    point: Point
    n_iter: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


class Settings(NamedTuple):
    """What is asked of a fit, whatever the solver."""

    tol: float
    max_iter: int
    rounded: Callable[[torch.Tensor], torch.Tensor] | None = None  # to the precision in which W will be stored
    floor: torch.Tensor | None = None  # (B,) a model whose objective falls below has gone far enough
    warn: bool = False  # whether a ConvergenceWarning says what to do about a single model that did not converge


class _Ends(NamedTuple):
    """Where B models ended, and why."""

    W: torch.Tensor  # (B, d, K) as iterated
    point: Point  # as it will be stored
    n_iter: list[int]
    ended: list[Any]  # of End
    gap: list[float]  # the estimate at W
    threshold: list[float]  # what it had to be


class _Stage(NamedTuple):
    name: str
    solver: Solver
    space: Reparametrisation
    blind_ends: bool  # whether another solver goes on where this one is blind
    needed: Callable[[_Ends], list[int]] | None = None  # index of the models that it is for


def minimise(
    objective: Objective,
    solver: Solver,
    W: torch.Tensor,
    settings: Settings,
    observer: Observer | None = None,
) -> Result:
    """Minimise B models over the same rows from W (B, d, K); each leaves the batch when it is done.

    `observer` is told of every iteration, and may know where an interrupted fit stood.
    """
    observer = observer or Unobserved()
    given, fit = objective, _Fit(settings, observer)
    finisher = solver.finisher(objective)
    wide = not solver.stochastic and is_solved_in_row_space(objective)
    saved = observer.resume()
    first = _Stage("first", solver, Identity(objective), blind_ends=finisher is not None)
    ends: _Ends | None = None
    try:
        space = RowSpace(objective) if wide else Identity(objective)
        if saved is None or saved[0] == "first":
            ends, saved = fit.run(first._replace(space=space), W, saved), None
    except OutOfRange:
        if objective.design.is_exact or solver.stochastic:
            observer.forget()
            raise
        objective, solver = objective.in_float64(), solver.in_float64()
        observer.restart()
        space = RowSpace(objective) if wide else Identity(objective)
        ends, saved = fit.run(first._replace(solver=solver, space=space), W), None
    exact = objective.exact()
    for stage in _later_stages(objective, exact, solver, finisher, space, settings.tol):
        if ends is not None:
            ends = fit.go_on(stage, ends)
        elif saved is not None and saved[0] == stage.name:
            ends = fit.run(stage, W, saved)
    assert ends is not None  # an interrupted fit stood in one of the stages
    check_squares(exact, ends.point)
    if End.OVERFLOW in ends.ended or not bool(torch.isfinite(ends.point.value).all()):
        observer.forget()  # other parameters, which the message advises, are those of another fit
        raise ValueError(
            f"The objective overflowed after {max(ends.n_iter)} iterations of solver={solver.name!r}. "
            + ("Lower learning_rate, or standardise X." if solver.stochastic else "Standardise X, or use a larger C.")
        )
    judged, norms = _judged(given, exact, ends, settings.tol, solver)
    if settings.warn and (advice := remedy(given, solver, judged, norms, ends.point.W, settings)):
        warn(
            f"solver={solver.name!r} did not converge: after {ends.n_iter[0]} iterations the objective is "
            f"{float(ends.point.value.max()):.6g}, {standing(ends, settings.tol)}. {advice}",
            ConvergenceWarning,
        )
    point = ends.point
    if observer.best is not None:
        point = fit.stored(exact, Point(observer.best, None, None))
    done = {End.CONVERGED, End.VALIDATION} if solver.stochastic else {End.CONVERGED, End.VALIDATION, End.CALLBACK}
    converged = [end in done for end in judged]
    if not solver.stochastic:  # at the very point that is the result, whoever ended the fit
        is_last = observer.best is None or torch.equal(observer.best.to(ends.W), ends.W)
        near = _are_near(ends)
        converged = [
            c and is_last and n and norm <= settings.tol for c, n, norm in zip(converged, near, norms, strict=True)
        ]
    device = point.W.device
    return Result(point, torch.tensor(ends.n_iter, device=device), torch.tensor(converged, device=device))


def _later_stages(objective, exact, solver, finisher, space, tol):
    """What may follow the first stage, that was in `space`."""
    stages = []
    in_row_space = isinstance(space, RowSpace)
    if not solver.stochastic and (not objective.design.is_exact or (in_row_space and not solver.whole_hessian)):
        unfinished = partial(_unfinished, tol=tol)
        stages.append(_Stage("exact", solver, Identity(exact), finisher is not None, unfinished))
    if finisher is not None:
        in_doubt = partial(_in_doubt, exact, tol=tol)
        stages.append(_Stage("last", finisher, space if in_row_space else Identity(exact), False, in_doubt))
    return stages


class _Fit(NamedTuple):
    """What all stages have in common."""

    settings: Settings
    observer: Observer

    def run(self, stage: _Stage, W: torch.Tensor, saved: Any = None, n_iter: list[int] | None = None) -> _Ends:
        """Iterate from W, or from what was saved of this stage, until every model has left the batch."""
        space, inside = stage.space, stage.space.objective
        start = space.enter(W)
        solver = stage.solver.specialised(inside, start)
        state = solver.init(inside, start) if saved is None else solver.unpack(inside, saved[1])
        if not inside.design.is_exact:
            check_squares(inside, state.point)
        n_iter = [self.observer.n_iter] * len(W) if n_iter is None else n_iter
        out = _iterate(stage._replace(solver=solver), state, self, n_iter)
        point = space.leave_point(out.point)
        stored = self.stored(space.original, point)
        return out._replace(W=point.W.to(stored.W), point=stored)

    def go_on(self, stage: _Stage, ends: _Ends) -> _Ends:
        """`ends` after another stage for the models that are in need of it."""
        index = stage.needed(ends) if stage.needed else []
        if not index:
            return ends
        models = torch.tensor(index, device=ends.W.device)
        if len(index) == len(ends.n_iter) == 1:
            return self.run(stage._replace(solver=stage.solver.for_models(models)), ends.W, n_iter=ends.n_iter)
        n_together = len(index)
        if stage.solver.whole_hessian:
            n_unknowns = stage.space.objective.design.shape[1] * ends.W.shape[2]
            n_together = max(1, tuning.FINISHED_TOGETHER_NUMBERS // n_unknowns**2)
        ends = ends._replace(W=ends.W.clone(), point=Point(*(t.clone() for t in ends.point[:3])))
        for part in models.split(n_together):
            some = stage._replace(solver=stage.solver.for_models(part), space=stage.space.select(part))
            fit = _Fit(self.settings._replace(floor=select(part, self.settings.floor)), Unobserved())
            _put(fit.run(some, ends.W[part], n_iter=[ends.n_iter[b] for b in part.tolist()]), ends, part)
        return ends

    def stored(self, objective: Objective, point: Point) -> Point:
        """The objective in float64 at the coefficients as they will be stored; no pass where `point` is there."""
        placement = objective.design.accumulation
        W = point.W.to(placement.device).to(placement.dtype)
        rounded = W if self.settings.rounded is None else self.settings.rounded(W)
        if rounded is W and point.gradient is not None and objective.design.is_exact:
            return point
        return objective.exact().value_and_gradient(rounded)


def _iterate(stage, state, fit, n_before):
    """Step until every model has left; its `point` is in the coordinates of the stage."""
    objective, solver, observer, settings = stage.space.objective, stage.solver, fit.observer, fit.settings
    floor = None if settings.floor is None else settings.floor.tolist()
    limits = _Limits(solver.stopping(settings.tol), settings.max_iter, floor, stage.blind_ends)
    active, n_iter, asked, parts = list(range(len(n_before))), 0, None, []
    while True:
        totals = [n_before[b] + n_iter for b in active]
        ended = _verdicts(state, limits, totals, asked, has_stepped=n_iter > 0)
        leaving = [i for i, end in enumerate(ended) if end]
        if leaving:
            index = torch.tensor(leaving, device=state.point.W.device)
            point = state.point if len(leaving) == len(active) else select(index, Point(*state.point[:3]))
            gap = [state.reading.gap[i] for i in leaving]
            why, when = [ended[i] for i in leaving], [totals[i] for i in leaving]
            left = _Ends(point.W, point, when, why, gap, [limits.rule.gap] * len(leaving))
            parts.append(([active[i] for i in leaving], left))
            if stage.name == "first":
                observer.left(len(leaving))
            if len(leaving) == len(active):
                return _together(parts)
            staying = [i for i, end in enumerate(ended) if not end]
            active, index = [active[i] for i in staying], torch.tensor(staying, device=index.device)
            floor = None if limits.floor is None else [limits.floor[i] for i in staying]
            objective, limits = objective.select(index), limits._replace(floor=floor)
            solver, state = solver.for_models(index), solver.select(state, index)
        observer.begin(partial(_packed, stage.name, solver, state))
        state = solver.step(objective, state)
        n_iter += 1
        asked = observer.end(objective, state, stage.space.leave)


class _Limits(NamedTuple):
    """What ends an iteration."""

    rule: Rule
    max_iter: int
    floor: list[float] | None
    blind_ends: bool


def _together(parts):
    """The ends of all models, from those of the models that left together, each with their index."""
    (_, first), *others = parts
    if not others:
        return first
    W, value, gradient = (torch.cat([ends.point[i] for _, ends in parts]) for i in range(3))
    order = torch.tensor([b for index, _ in parts for b in index], device=W.device).argsort()
    point = select(order, Point(W, value, gradient))
    columns = ([value for _, ends in parts for value in ends[i]] for i in range(2, 6))
    return _Ends(point.W, point, *([column[b] for b in order.tolist()] for column in columns))


def _packed(name, solver, state):
    return name, solver.pack(state)


def _verdicts(state, limits, n_iter, asked, *, has_stepped):
    """Why each of the models ends, or None for those that go on."""
    if asked is End.CALLBACK:
        return [End.CALLBACK] * len(n_iter)
    met, (values, _, _, stuck, blind) = limits.rule.met(state), state.reading
    low = [False] * len(met)
    if limits.floor is not None:
        low = [value < floor for value, floor in zip(values, limits.floor, strict=True)]
    out: list[End | None] = []
    for i, n in enumerate(n_iter):
        if stuck[i] and not met[i]:
            out.append(End.PRECISION)
        elif has_stepped and not abs(values[i]) < torch.inf:
            out.append(End.OVERFLOW)
        elif met[i]:
            out.append(End.CONVERGED)
        elif low[i]:
            out.append(End.FLOOR)
        elif limits.blind_ends and blind[i]:
            out.append(End.BLIND)
        elif asked is not None:
            out.append(asked)
        else:
            out.append(End.LIMIT if n >= limits.max_iter else None)
    return out


def _put(new, ends, index):
    """Write the ends of the models at `index` into those of all."""
    ends.W[index] = new.W
    for old, part in zip(ends.point[:3], new.point[:3], strict=True):
        old[index] = part
    for old, part in zip(ends[2:], new[2:], strict=True):
        for b, value in zip(index.tolist(), part, strict=True):
            old[b] = value


def _unfinished(ends, tol):
    """Index of the models that exact products would help: no step did with others, or the gradient was larger."""
    norms = ends.point.gradient_norm.tolist()
    return [
        b
        for b, (end, norm) in enumerate(zip(ends.ended, norms, strict=True))
        if end is End.PRECISION or (end is End.CONVERGED and norm > tol)
    ]


def _in_doubt(objective, ends, tol):
    """Index of the models that seem done but may be far from it, and no bound says otherwise."""
    small = (ends.point.value < tuning.DOUBTFUL_VALUE_SHARE * objective.loss.at_zero).tolist()
    index = [b for b, end in enumerate(ends.ended) if end is End.BLIND or (end is End.CONVERGED and small[b])]
    questionable = [b for b in index if ends.ended[b] is End.CONVERGED]
    if not questionable:
        return index
    models = torch.tensor(questionable, device=ends.point.W.device)
    some, point = objective, ends.point
    if len(questionable) < len(ends.ended):
        some, point = objective.select(models), select(models, ends.point)
    if point.eta is None:
        point = some.value_and_gradient(point.W)
    certain = (optimality_bound(some, point) <= tol * point.value).tolist()
    sure = {b for b, is_certain in zip(questionable, certain, strict=True) if is_certain}
    return [b for b in index if b not in sure]


def _are_near(ends):
    """Which models were estimated to be near the optimum where they ended."""
    zero = (ends.point.value <= tuning.ZERO_VALUE).tolist()
    return [g <= threshold or z for g, threshold, z in zip(ends.gap, ends.threshold, zero, strict=True)]


def _judged(given, exact, ends, tol, solver):
    """Why each model ended, judged at the stored point, and max|gradient| there."""
    norms, ended = ends.point.gradient_norm.tolist(), list(ends.ended)
    if solver.stochastic:
        return ended, norms
    spoilt, unpenalised = None, given.penalty.is_free[:, : given.design.n_features].any(dim=1)[:, 0].tolist()
    for b, end in enumerate(ended):
        if end is End.PRECISION and ends.gap[b] <= ends.threshold[b]:
            norms[b] = _norm_at_best_intercepts(exact, ends.point, b, tol)
            ended[b] = End.CONVERGED if norms[b] <= tol else end
        if ended[b] is End.CONVERGED:
            spoilt = _spoilt(ends, tol) if spoilt is None else spoilt
            ended[b] = End.ROUNDING if spoilt[b] else End.CONVERGED
        without = ended[b] is End.CONVERGED and norms[b] <= tol and unpenalised[b]
        if without and is_separated(*_alone(given, ends.point, b)):
            ended[b] = End.SEPARATED
    return ended, norms


def _alone(objective, point, b):
    """Objective and coefficients of one model."""
    if len(point.W) == 1:
        return objective, point.W
    index = torch.tensor([b], device=point.W.device)
    return objective.select(index), point.W[index]


def _norm_at_best_intercepts(objective, point, b, tol):
    """max|gradient| where the intercepts are best for a model's coefficients, less what is rounding there.

    A column whose mean is huge beside its spread, as that of times in seconds, has an intercept that no float64 can
    hold well enough: a rounding error of it moves the column's gradient by more than tol, and the value by nothing. And
    logits that are small differences of large numbers have errors in proportion to these. Where the value is more than
    tol above the one at the best intercepts, or they are not found, it is that of `point` itself.
    """
    alone, W = _alone(objective, point, b)
    if len(point.W) > 1:
        point = select(torch.tensor([b], device=W.device), point)
    norm = float(point.gradient_norm.max())
    if not (alone.design.intercept and alone.design.in_memory):
        return norm
    seen = point if point.eta is not None else alone.value_and_gradient(W)
    best = None if seen.eta is None else best_intercepts(alone, seen)  # there may be no room for all logits
    if best is None or not bool((point.value - best[0].value <= tol * point.value).all()):
        return norm
    size = second_moments(alone).sqrt()[:, None]  # (d, 1) of the columns
    logits = (W.abs() * size).sum(dim=1, keepdim=True)  # (1, 1, K) what they are differences of
    rounding = torch.finfo(size.dtype).eps * size * logits
    return float((best[0].gradient.abs() - rounding).clamp(min=0.0).max())


def _spoilt(ends, tol):
    """Which models rounding has raised the objective by more than tol.

    As it is convex, it rose at most by what its gradient here, times the change of the coefficients, says.
    """
    point = ends.point
    if point.W is ends.W:
        return [False] * len(ends.ended)
    return ((point.W - ends.W).mul(point.gradient).sum(dim=(1, 2)) > tol * point.value).tolist()
