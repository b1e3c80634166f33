"""The candidates of a search that are solved together: those that differ in what a batch may differ in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._estimators.logistic import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._estimators.problem import check_combination
from torchlogreg._model_selection.fit_and_score import BATCHED
from torchlogreg._solvers import is_stochastic


class NotBatched(Exception):
    """This search is left to scikit-learn."""


class Batch(NamedTuple):
    """Candidates that are solved together."""

    head: dict[str, Any] | None  # the candidates' parameters of the steps before the estimator; None without a pipeline
    full: Any  # the first candidate
    estimator: LinearClassifier  # its last step, or itself
    members: list[tuple[int, dict[str, Any]]]  # (index of the candidate, its parameters in BATCHED)


def last_step(estimator: Any) -> Any:
    """The last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) and estimator.steps else estimator


def batches_of(estimator: Any, candidates: list[dict[str, Any]]) -> list[Batch]:
    """The candidates as batches."""
    batches = []
    for i, candidate in enumerate(candidates):
        full: Any = clone(estimator)
        full.set_params(**clone_of(candidate))
        piped = isinstance(full, Pipeline)
        name, last = full.steps[-1] if piped else ("", full)
        _check_batchable(full, last)
        head = {k: v for k, v in candidate.items() if k.split("__")[0] != name} if piped else None
        parameters = last.get_params(deep=False)
        own = {k: parameters.pop(k) for k in BATCHED}
        for batch in batches:
            others = batch.estimator.get_params(deep=False)
            if _same(head, batch.head) and _same(parameters, {k: v for k, v in others.items() if k not in BATCHED}):
                batch.members.append((i, own))
                break
        else:
            batches.append(Batch(head, full, last, [(i, own)]))
    return batches


def _check_batchable(full: Any, last: Any) -> None:
    """Raise unless `full` ends in an estimator of ours, `last`, that can be in a batch, with valid parameters."""
    if type(last) not in (TorchLogisticRegression, TorchSoftmaxClassifier):
        raise NotBatched
    steps = [last]
    if full is not last:
        steps = [full, *(step for _, step in full.steps)]
        if len(full.steps) == 1 or full.transform_input:
            raise NotBatched
    if any(hasattr(step, "_skl_callbacks") for step in steps):
        raise NotBatched
    last._validate_params()
    if is_stochastic(last.solver):
        raise NotBatched
    check_combination(last)


def _same(a: dict | None, b: dict | None) -> bool:
    """Whether two sets of parameters are the same."""
    if a is None or b is None or a.keys() != b.keys():
        return a is b
    return all(same_value(a[k], b[k]) for k in a)


def same_value(a: Any, b: Any) -> bool:
    """Whether two values of a parameter are the same; those that cannot be compared count as different."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, dict):
        return _same(a, b)
    return (np.isscalar(a) or isinstance(a, torch.device)) and a == b


def clone_of(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters by name, with copies of the estimators among them."""
    return {name: clone(value, safe=False) for name, value in params.items()}
