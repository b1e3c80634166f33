"""A fit: the objective, its minimum, and the attributes that come of it."""

from functools import partial
from typing import Any

import numpy as np

from torchlogreg._estimators.attributes import model_attributes, storage_rounding
from torchlogreg._estimators.fingerprint import fit_fingerprint
from torchlogreg._estimators.problem import FitInputs, FitProblem, fit_problem
from torchlogreg._monitoring.callback_context import CallbackRunner, FitCall, required_monitors
from torchlogreg._monitoring.history import FitHistory, iteration_name
from torchlogreg._monitoring.monitors import SharedTraining, training_monitor
from torchlogreg._objective.certificate import optimality_bound
from torchlogreg._runtime.desk import Lead
from torchlogreg._runtime.out_of_memory import attempts
from torchlogreg._runtime.threads import fit_arithmetic
from torchlogreg._solvers.driver import Result, Settings, minimise


def fitted_model(estimator: Any, inputs: FitInputs, call: FitCall, lead: Lead | None) -> dict[str, Any]:
    """The attributes of the model that minimises the objective; `lead` asks other processes that have rows of it."""
    for attempt in attempts():
        with attempt, fit_arithmetic(inputs.data.X):
            problem = fit_problem(estimator, inputs._replace(lead=lead))
            history = fit_history(estimator, problem, call)
            settings = Settings(estimator.tol, estimator.max_iter, storage_rounding(inputs.data), warn=True)
            result = minimise(problem.objective, problem.solver, problem.start, settings, history)
            return fitted_attributes(problem, result, history)
    raise AssertionError  # the last attempt raises


def fit_history(estimator: Any, problem: FitProblem, call: FitCall) -> FitHistory:
    """The history of a fit that begins, with its callbacks."""
    data, solver = problem.inputs.data, problem.solver
    lead = problem.inputs.lead
    training = training_monitor(data, problem.train) if lead is None else SharedTraining(lead)
    monitors = required_monitors(estimator, solver, training, problem.validation)
    attributes = partial(model_attributes, data=data, intercept=estimator.fit_intercept)
    fingerprint = partial(fit_fingerprint, estimator, problem, watches_training="train" in monitors)
    callbacks = CallbackRunner(call, iteration_name(solver), attributes, fingerprint) if call.is_watched else None
    return FitHistory(
        problem.objective,
        solver,
        estimator.max_iter,
        monitors=monitors,
        keeps_best=problem.keeps_best,
        callbacks=callbacks,
        leave=problem.columns.leave,
        verbose=estimator.verbose,
        began=call.began,
        patience=estimator.n_iter_no_change if problem.keeps_best else None,
        tol=estimator.tol,
    )


def fitted_attributes(problem: FitProblem, result: Result, history: FitHistory) -> dict[str, Any]:
    """The attributes of a model at the minimum that was found."""
    data, objective, design = problem.inputs.data, problem.objective, problem.columns.design
    gap = optimality_bound(objective, result.point)
    return {
        **model_attributes(problem.columns.leave(result.point.W), data, design.intercept),
        "solver_": problem.solver.name,
        "device_": str(design.device),
        "device_reason_": data.device_reason,
        "n_iter_": data.space.array(result.n_iter.numpy(force=True).astype(np.int32)),
        "converged_": bool(result.converged),
        "objective_": float(result.point.value),
        "gradient_norm_": float(result.point.gradient_norm),
        "optimality_gap_": float(gap),
        "n_passes_": objective.passes.total,
        "loss_curve_": data.space.array(np.array(history.values).reshape(-1)),
        "history_": history.history(),
    }
