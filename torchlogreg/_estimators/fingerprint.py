"""How a checkpoint recognises the fit that it belongs to."""

from importlib.metadata import version
from typing import Any

import numpy as np

from torchlogreg._data.checksum import checksum
from torchlogreg._estimators.problem import FitProblem


def fit_fingerprint(estimator: Any, problem: FitProblem, *, watches_training: bool) -> dict[str, Any]:
    """Plain values that tell a fit from others, by the names that messages use for them."""
    data, solver, validation = problem.inputs.data, problem.solver, problem.validation
    if problem.held_out is not None and estimator.random_state is None:
        raise ValueError("Other rows would be held out when the fit is resumed: set random_state, or pass X_val.")
    parameters = estimator.get_params(deep=False)
    for name in ("verbose", "device", "penalty_weights", "coef_bounds", *([] if solver.stochastic else ["max_iter"])):
        del parameters[name]
    if isinstance(estimator.random_state, np.random.RandomState):
        parameters["random_state"] = np.random.RandomState  # not its place in memory
    return {
        "version": version("torchlogreg"),
        "estimator": type(estimator).__name__,
        **{name: repr(value) for name, value in parameters.items()},
        "penalty_weights or coef_bounds": checksum(part for part in problem.inputs.own if part is not None),
        "solver_": solver.name,
        "device_": str(data.X.device),
        "shape of X": (data.n_rows, data.X.shape[1]),
        "dtype of coef_": str(data.dtype),
        "classes": repr(data.classes.tolist()),
        # The weights before S divides them, for the penalty depends on S.
        "data or weights": problem.columns.design.fingerprint(),
        "start": checksum([problem.inputs.W]),
        "validation data": None if validation is None else validation.fingerprint(),
        "train_loss in history_": watches_training,
    }
