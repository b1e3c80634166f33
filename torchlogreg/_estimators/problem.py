"""From the arguments of `fit` to the objective that is minimised."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedShuffleSplit

from torchlogreg._data.agreement import check_same
from torchlogreg._data.checksum import checksum
from torchlogreg._data.design import Access, Design
from torchlogreg._data.sharded import ShardedDesign
from torchlogreg._data.training_data import TrainingData, design_of, fit_data
from torchlogreg._estimators.per_feature import bounding_parameter, per_feature
from torchlogreg._estimators.start import start_coefficients
from torchlogreg._monitoring.monitors import (
    WEIGHTLESS_VALIDATION,
    SharedMonitor,
    SharedValidation,
    Validation,
    held_out_data,
    training_monitor,
    validation_data,
)
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, PerFeature, strengths
from torchlogreg._objective.reparametrisation import NonEmptyColumns
from torchlogreg._runtime.desk import NOTHING, Lead, Remote
from torchlogreg._runtime.out_of_memory import translated
from torchlogreg._runtime.ranks import current_ranks
from torchlogreg._solvers import access_of, is_stochastic, solver_class, takes_kinks, tuning
from torchlogreg._solvers.base import Solver


def check_combination(estimator: Any, *, in_mini_batches: bool | None = None) -> None:
    """Raise for parameters that do not go together, or not with rows in several processes."""
    if in_mini_batches is None:
        in_mini_batches = is_stochastic(estimator.solver)
    if in_mini_batches and current_ranks().size > 1:
        raise NotImplementedError(
            "solver='sgd' and partial_fit take mini-batches of rows that one process has: inside shared_rows use fit "
            "with another solver, such as solver='auto'; with X_val it takes the callback EarlyStopping."
        )
    if estimator.nesterov and not estimator.momentum:
        raise ValueError("nesterov=True needs a momentum greater than 0.")
    if estimator.l1_ratio != 0 and not takes_kinks(estimator.solver):
        raise ValueError(
            f"solver={estimator.solver!r} takes no L1 norm: use solver='auto', 'prox-newton' or 'sgd' with "
            f"l1_ratio={estimator.l1_ratio}."
        )
    bounding = None if takes_kinks(estimator.solver) else bounding_parameter(estimator)
    if bounding is not None:
        raise ValueError(
            f"solver={estimator.solver!r} takes no bounds: use solver='auto', 'prox-newton' or 'sgd' with {bounding}."
        )


def fit_access(estimator: Any, n_models: int = 1) -> Access:
    """How the solver of an estimator goes through X for so many models."""
    access = access_of(estimator.solver)._replace(n_models=n_models)
    return access._replace(batch_rows=batch_rows(estimator)) if access.in_random_order else access


def batch_rows(estimator: Any) -> int | None:
    """The rows of a mini-batch; None for all."""
    return tuning.AUTOMATIC_BATCH_ROWS if estimator.batch_size == "auto" else estimator.batch_size


class FitInputs(NamedTuple):
    """What a fit was given, checked."""

    data: TrainingData
    loss: Loss
    W: torch.Tensor  # (1, d, K) in float64, where to start
    validation: Validation | None  # of the user's validation data
    own: PerFeature  # weights and bounds of the features
    is_validated: bool = False  # whether any process has validation data
    lead: Lead | None = None  # how the other processes are asked, in the one that leads them

    def shared(self, intercept: bool) -> dict[str, Any]:
        """What this process has that the one which leads asks for, by name."""
        has_rows = self.data.X.shape[0] > 0
        design = design_of(self.data, self.loss, intercept=intercept) if has_rows else NOTHING
        return {
            "design": design,
            "training": training_monitor(self.data, None) if has_rows else NOTHING,
            "validation": self.validation or NOTHING,
            "X": self.data.X,
        }

    def design(self, index: np.ndarray | None, intercept: bool) -> Design:
        """The rows of all processes, or those at an index of the rows here."""
        if self.lead is None:
            return design_of(self.data, self.loss, index, intercept=intercept)
        return ShardedDesign.of(Remote(self.lead, "design"))


def fit_inputs(estimator: Any, X, y, sample_weight, *, start: tuple, validation: tuple) -> FitInputs:
    """Check the arguments of `fit`, among them a `start` (coef, intercept) and `validation` (X, y, sample_weight)."""
    with translated():
        access = fit_access(estimator)
        data = fit_data(estimator, X, y, sample_weight, access, validated=validation[0] is not None)

        def look():
            monitor = validation_data(estimator, data, *validation)
            loss, own = loss_of(len(data.classes)), per_feature(estimator, data)
            W = start_coefficients(estimator, data, loss, *start, continued=estimator.warm_start)
            inputs = FitInputs(data, loss, own.clipped(W), monitor, own)
            start_of_all = {}
            if current_ranks().size > 1:
                start_of_all["the coefficients to start from"] = f"the checksum {checksum([W])}"
            return inputs, (start_of_all, None if monitor is None else float(monitor.weight.sum()))

        inputs, told = current_ranks().introduced(look)
        terms, weights = zip(*told, strict=True)
        check_same(terms)
    is_validated = any(weight is not None for weight in weights)
    if is_validated and not any(weights):
        raise ValueError(WEIGHTLESS_VALIDATION)
    return inputs._replace(is_validated=is_validated)


class FitProblem(NamedTuple):
    """What a fit minimises, and by which solver."""

    objective: Objective
    solver: Solver
    inputs: FitInputs
    columns: NonEmptyColumns  # from the coefficients of all features to those that are solved for, and back
    train: np.ndarray | None  # index of the training rows; None for all
    held_out: np.ndarray | None  # index of those that `early_stopping` holds out; None for none
    validation: Validation | SharedMonitor | None  # of the user's validation data, or of the rows held out
    keeps_best: bool  # whether the result is the best iterate on the validation data

    @property
    def start(self) -> torch.Tensor:
        """The coefficients to start from, where the objective takes them."""
        return self.columns.enter(self.inputs.W).to(self.columns.design.accumulation.device)


def fit_problem(estimator: Any, inputs: FitInputs) -> FitProblem:
    """The objective of a fit on the training rows, and its solver."""
    data, loss, W, validation, own, is_validated, lead = inputs
    intercept, train, held_out = estimator.fit_intercept, None, None
    if lead is not None and is_validated:
        validation = SharedValidation(lead)
    if validation is None and estimator.early_stopping and is_stochastic(estimator.solver):
        train, held_out = _split(estimator, data)
        validation = held_out_data(data, loss, held_out, intercept=intercept)
    columns = NonEmptyColumns.of(inputs.design(train, intercept), W, wanted=not is_stochastic(estimator.solver))
    design = columns.design
    if columns.columns is not None:
        kept = columns.columns.numpy()
        own = own.of_columns(kept[: design.n_features])
    penalty = ElasticNet.of(
        strengths(estimator.C, estimator.l1_ratio),
        design.n_features,
        intercept=intercept,
        accumulation=design.accumulation,
        own=own,
    )
    objective = Objective.of(design, loss, penalty)
    keeps_best = estimator.early_stopping and validation is not None
    solver = solver_class(estimator.solver, design, loss.n_logits, penalty)
    solver = solver.from_params(vars(estimator), validated=keeps_best)
    return FitProblem(objective, solver, inputs, columns, train, held_out, validation, keeps_best)


def _split(estimator: Any, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training rows and of those held out, among the rows that have a weight."""
    assert data.codes is not None  # `fit_data` refuses a stream
    assert data.weight is not None
    usable = np.flatnonzero(data.weight > 0)
    codes = data.codes[usable]
    single = np.bincount(codes)[codes] == 1  # the only row of a class that has a weight is trained on
    usable, always = usable[~single], usable[single]
    splitter = StratifiedShuffleSplit(1, test_size=estimator.validation_fraction, random_state=estimator.random_state)
    train, held_out = next(splitter.split(usable, data.codes[usable]))
    return np.concatenate([usable[train], always]), usable[held_out]
