"""What the launchers share where the user calls them: engines, and one answer out of those of all processes."""

import importlib
import re
from collections.abc import Sequence
from typing import Any

from sklearn.base import clone
from sklearn.utils import check_scalar

from torchlogreg._estimators.predictor import LinearPredictor
from torchlogreg._launchers.worker import Outcome
from torchlogreg._runtime.rank_errors import Told, made, remote_error
from torchlogreg._runtime.warn import warn

PATIENCE_S = 10  # after one process has failed, for each further one to say why


def engine(module: str, extra: str) -> Any:
    """A module of an engine, which is loaded at the first use of it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'fit_on_{extra} needs {module}: pip install "torchlogreg[{extra}]".') from error


def for_workers(estimator: Any, *, num_workers: int = 1, timeout: float, use_gpu: bool = True) -> Any:
    """An unfitted copy for the workers, which leave GPUs alone that they were not given."""
    if not isinstance(estimator, LinearPredictor):
        raise TypeError(
            "The launchers fit TorchLogisticRegression, TorchSoftmaxClassifier and those of them that choose C, and "
            f"this is a {type(estimator).__name__}. Fit others in processes of your own, within shared_rows()."
        )
    check_scalar(num_workers, "num_workers", int, min_val=1)
    check_scalar(timeout, "timeout", (int, float), min_val=0, include_boundaries="neither")
    out: Any = clone(estimator)
    if not use_gpu and out.device == "auto":
        out.device = "cpu"
    return out


def concluded(estimator: Any, outcomes: Sequence[Outcome], lost: dict[int, Exception]) -> Any:
    """The model, or the error that tells most: one of a process's own, then a lost process, then silence."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.rank)
    told = [(outcome.error, outcome.rank) for outcome in outcomes if outcome.error and not outcome.is_broken]
    if told:
        raise _first_hand(told)
    if lost:
        rank, error = min(lost.items(), key=lambda item: item[0])
        raise RuntimeError(
            f"The process of rank {rank} was lost, and no model was fitted: {_first_line(error)}"
        ) from error
    for outcome in outcomes:
        if outcome.error:
            raise made(*outcome.error)
    if not outcomes:  # an engine has no task for no rows
        raise ValueError("There are no rows: the dataset is empty.")
    first = outcomes[0]
    for category, text in first.warned:
        warn(text, category)
    first.model.device = estimator.device
    return first.model


def lost_stage(error: Exception) -> RuntimeError:
    """What is said where an engine ends all processes because of one of them, or of what computes the rows."""
    return RuntimeError(f"The engine ended the processes, and no model was fitted: {_named_last(error)}")


def _first_hand(told: list[tuple[Told, int]]) -> Exception:
    """What all processes know alike, or what one has told the others of, or what the first one knows of itself."""
    is_common = len(told) > 1 and len({error.text for error, _ in told}) == 1
    for error, _ in told:
        if is_common or error.text.startswith("In rank "):
            return made(*error)
    return remote_error(*told[0])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _named_last(error: Exception) -> str:
    """The last line of an error and its causes that names a type and says something: what began it all."""
    named = re.findall(r"^(?:Caused by: )?((?:\w+\.)*\w+(?:Error|Exception): .+)$", f"{error}", re.MULTILINE)
    return named[-1] if named else _first_line(error)
