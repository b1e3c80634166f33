"""What scikit-learn would do with the rows of one process, where a fit is that of several: it is refused."""

import sys
from collections.abc import Iterator
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from torchlogreg._runtime.ranks import current_ranks

# Modules of scikit-learn through which `fit` may be called: decorators, and pipelines, whose steps are looked at.
HARMLESS = "sklearn.base", "sklearn.pipeline", "sklearn.utils", "sklearn.callback", "sklearn.frozen"


def refuse_local_callers() -> None:
    """Raise where something of scikit-learn's that knows the rows of this process alone fits or clones an estimator."""
    if current_ranks().size == 1:
        return
    owner = None  # the outermost one, which is what the user has called
    for frame in _frames():
        module = frame.f_globals.get("__name__", "")
        if module == "sklearn.pipeline" and isinstance(pipeline := frame.f_locals.get("self"), Pipeline):
            refuse_local_steps(pipeline)
        elif module.startswith("sklearn.") and not module.startswith(HARMLESS):
            owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else frame.f_code.co_name
    if owner is not None:
        raise NotImplementedError(
            f"Within shared_rows, {owner} would know the rows of this process alone. Choose parameters with "
            "TorchLogisticRegressionCV, TorchSoftmaxClassifierCV or TorchGridSearchCV, which know the rows of all "
            "processes, or call it outside of shared_rows on rows that are in one place."
        )


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def refuse_local_steps(pipeline: Pipeline) -> None:
    """Raise where a step before the last would learn from the rows of this process alone."""
    for name, step in pipeline.steps[:-1]:
        if step is None or step == "passthrough" or isinstance(step, FrozenEstimator):
            continue
        if get_tags(step).requires_fit:
            kind = type(step).__name__
            raise NotImplementedError(
                f"Within shared_rows, the step {name!r}, {kind}, was fitted to the rows of this process alone, and "
                "each process would have another one. Fit it beforehand to what stands for all rows and freeze it, as "
                "in make_pipeline(FrozenEstimator(scaler_over_shards(X)), model), with FrozenEstimator from "
                "sklearn.frozen and scaler_over_shards from torchlogreg.distributed."
            )
