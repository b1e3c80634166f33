"""The one loop that every solver runs in: stopping, the iteration limit, warnings, history, verbosity.

A solver is a generator of `Step`s; the first is its starting point, each further one an iteration. `minimise`
draws from it until the solver's own stopping rule holds, the limit is reached, the observer asks to stop or the
generator ends because arithmetic allows no further progress.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from torchlogreg._problem import Point
from torchlogreg._wide import Rotated, is_wide


class Step(NamedTuple):
    """Where a solver stands after an iteration."""

    point: Point  # for "sgd" without a gradient, and with the mean objective of the epoch's mini-batches as value
    gap: torch.Tensor | None = None  # (B,) estimate of (value - optimum) / optimum
    score: float | None = None  # accuracy on held-out rows
    settled: bool = False  # whether a schedule of the solver's own has come to its end
    stuck: torch.Tensor | None = None  # (B,) models that no step helps at this precision


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
    """Stop after `patience` epochs in a row without an improvement by `tol`, as SGDClassifier does; never if tol = 0.

    The held-out score decides where there is one, the training objective otherwise.
    """

    def __init__(self, tol, patience):
        self.tol, self.patience = tol, patience
        self.best, self.stale = np.inf, 0

    def __call__(self, step):
        if step.point.value is None:  # the start
            return False
        return self.stale_after(float(step.point.value) if step.score is None else -step.score)

    def stale_after(self, monitor):
        """Note one more epoch's value, the lower the better; whether it was one too many without improvement."""
        if self.tol == 0:
            return False
        self.stale = self.stale + 1 if monitor > self.best - self.tol else 0
        self.best = min(self.best, monitor)
        return self.stale >= self.patience


class Silent:
    """The observer that watches nothing."""

    def begin(self):
        """Called before an iteration."""

    def end(self, step, coefficients):  # noqa: ARG002 - an observer that looks at nothing
        """Called after it; True stops the fit. `coefficients` takes the step's W to that of the problem."""
        return False


class _Run(NamedTuple):
    point: Point
    ended: str  # "converged", "limit", "observer", "precision" (no step helps) or "overflow"


class _History:
    def __init__(self, solver, max_iter, verbose):
        self.solver, self.max_iter, self.verbose = solver, max_iter, verbose
        self.values = []

    def add(self, step):
        self.values.append(step.point.value.tolist())
        if self.verbose:
            line = f"{self.solver.name} {len(self.values):>4}/{self.max_iter}"
            line += f"  objective {float(step.point.value.mean()):.8g}"
            if step.gap is not None:
                line += f"  max|gradient| {float(step.point.gradient_norm.max()):.3e}"
            if step.score is not None:
                line += f"  held-out accuracy {step.score:.4f}"
            print(line)


def minimise(problem, solver, W, *, tol, max_iter, store=None, observer=None, verbose=0):
    """Minimise `problem` from W.

    `store` rounds coefficients to the precision in which they will be kept. The result, and whether it has
    converged, is judged there, in float64.
    """
    history = _History(solver, max_iter, verbose)
    stop = solver.stopping(tol)
    observer = observer or Silent()
    wide = is_wide(problem.rows) and not solver.stochastic
    run = (_draw_rotated if wide else _draw)(problem, solver, W, stop, history, observer)
    point = _stored(problem, run, store)
    unfinished = run.ended == "precision" or (run.ended == "converged" and float(point.gradient_norm.max()) > tol)
    again = not problem.rows.is_exact or (wide and not solver.whole_hessian)
    if unfinished and again and not solver.stochastic:
        # float32 products certify a float32 gradient, and inner products of rows hold little of what is small beside a
        # common offset. Where that is not enough, float64 products of the rows themselves finish the work.
        run = _draw(problem.exact(), solver, run.point.W, stop, history, observer)
        point = _stored(problem, run, store)
    if run.ended == "overflow" or not bool(torch.isfinite(point.value).all()):
        raise ValueError(
            f"The objective overflowed after {len(history.values)} iterations of solver={solver.name!r}. "
            + ("Lower learning_rate, or standardise X." if solver.stochastic else "Standardise X, or use a larger C.")
        )
    remedy = _remedy(problem, solver, run, point, tol, max_iter)
    if remedy:
        warnings.warn(
            f"solver={solver.name!r} did not converge: after {len(history.values)} iterations the objective is "
            f"{float(point.value.max()):.6g} and max|gradient| is {float(point.gradient_norm.max()):.3g} "
            f"(tol={tol:g}). {remedy}",
            ConvergenceWarning,
            stacklevel=6,
        )
    certified = float(point.gradient_norm.max()) <= tol
    converged = not remedy and (certified or (solver.stochastic and run.ended == "converged"))
    return Result(point, len(history.values), converged, np.array(history.values).reshape(len(history.values), len(W)))


class Results(NamedTuple):
    """What a batch of B models found, each judged as a single fit is."""

    W: torch.Tensor  # (B, d, K)
    n_iter: torch.Tensor  # (B,)
    value: torch.Tensor  # (B,)
    gradient_norm: torch.Tensor  # (B,)
    converged: torch.Tensor  # (B,)


def minimise_all(problem, solver, W, *, tol, max_iter, store=None, left=None):
    """Minimise B models over the same rows; each leaves the batch when it has converged, is stuck or out of iterations.

    `left(k)` is told that k models have.
    """
    stop, left = solver.stopping(tol), left or _ignore
    wide = is_wide(problem.rows)
    if wide:
        rotated = Rotated(problem)
        ends = _draw_all(rotated.problem, solver, rotated.enter(W), stop, max_iter, left)
        ends = ends._replace(point=rotated.leave(ends.point.W))
    else:
        ends = _draw_all(problem, solver, W, stop, max_iter, left)
    ends = ends._replace(point=_stored_all(problem, ends.point, store))
    again = not problem.rows.is_exact or (wide and not solver.whole_hessian)
    unfinished = ~ends.limited & (ends.stuck | (ends.point.gradient_norm > tol))
    if again and unfinished.any():
        index = torch.nonzero(unfinished).flatten()
        exact = problem.exact().of_models(index)
        limit = max_iter - ends.n_iter[index]
        more = _draw_all(exact, solver.of_models(index), ends.point.W[index], stop, limit, _ignore)
        more = more._replace(point=_stored_all(exact, more.point, store), n_iter=ends.n_iter[index] + more.n_iter)
        ends = _Ends(*(_put(old, index, new) for old, new in zip(ends, more, strict=True)))
    point = ends.point
    if not bool(torch.isfinite(point.value).all()):
        raise ValueError(f"The objective overflowed with solver={solver.name!r}. Standardise X, or use larger Cs.")
    converged = (point.gradient_norm <= tol) & ~ends.limited & ~ends.stuck
    for b in torch.nonzero(~problem.penalty.l2.expand(len(W), -1, -1).any(dim=1).flatten()).flatten():
        converged[b] &= not problem.of_models(b[None]).separates(point.W[b : b + 1])
    return Results(point.W, ends.n_iter, point.value, point.gradient_norm, converged)


def _ignore(k):
    pass


class _Ends(NamedTuple):
    """Where B models ended, and why."""

    point: Point
    n_iter: torch.Tensor  # (B,)
    limited: torch.Tensor  # (B,) whether by max_iter
    stuck: torch.Tensor  # (B,) whether because no step helps


def _draw_all(problem, solver, W, stop, max_iter, left):
    """Iterate until every model has left the batch; max_iter is a number or (B,)."""
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
    while True:
        stuck = torch.zeros_like(ends.stuck[active]) if step.stuck is None else step.stuck
        done = stop.each(step)
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


def _draw_rotated(problem, solver, W, stop, history, observer):
    """`_draw` in the span of the rows; the point that it ends at is back among the features."""
    rotated = Rotated(problem)
    run = _draw(rotated.problem, solver, rotated.enter(W), stop, history, observer, lambda U: rotated.leave(U).W)
    return run._replace(point=rotated.leave(run.point.W))


def _draw(problem, solver, W, stop, history, observer, coefficients=lambda W: W):
    """Iterate until something ends it; `coefficients` turns the iterates' W into the observer's."""
    iterates = solver.iterates(problem, W)
    step = next(iterates)
    while not stop(step):
        if len(history.values) >= history.max_iter:
            return _Run(step.point, "limit")
        observer.begin()
        following = next(iterates, None)
        step = following or step
        history.add(step)
        if observer.end(step, coefficients):
            return _Run(step.point, "observer")
        if following is None:
            return _Run(step.point, "precision")
        if not math.isfinite(sum(history.values[-1])):
            return _Run(step.point, "overflow")
    return _Run(step.point, "converged")


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
    if run.ended == "observer":
        return None
    if solver.stochastic:
        if run.ended == "converged" or tol == 0:
            return None
        return (
            f"The objective still improved by more than tol within {max_iter} epochs. Raise max_iter, set tol=0 if "
            "this number of epochs is what you want, or use solver='auto', which needs no learning rate."
        )
    if problem.separates(point.W):
        return (
            "The classes are perfectly separated, so without a penalty the coefficients grow without limit. "
            "Use a finite C."
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
