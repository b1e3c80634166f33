"""Scores of models whose logits are known: by name from the logits of all models at once, or by any scorer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.device import Placement
from torchlogreg._estimators.predictor import LinearPredictor, LogitClassifier, Response
from torchlogreg._monitoring.monitors import summable
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._runtime.threads import package_settings

# From a loss, logits (m, Q, K) and class codes (m,) to what each row adds to the scores, (m, Q).
RowScore = Callable[[Loss, torch.Tensor, torch.Tensor], torch.Tensor]


class CachedPredictor(LogitClassifier, BaseEstimator):
    """A fitted model beside the logits (m, 1, K) of some rows X, from which it predicts those rows.

    Scorers get one in place of the model, so that no row is predicted once for each scorer and candidate.
    """

    def __init__(self, model: LinearPredictor, X: Any, logits: torch.Tensor):
        self.model, self.X, self.logits = model, X, logits
        self.classes_ = numpy_of(model.classes_)

    def _respond(self, X, response: Response) -> Any:
        if X is not self.X:
            return self.model._respond(X, response)
        labels = self.classes_ if response.is_class else None
        with package_settings():
            answer = response.of_logits(loss_of(len(self.classes_)), self.logits)[:, 0]
            return Space().joined([answer], len(self.logits), labels)

    def __sklearn_tags__(self):
        return self.model.__sklearn_tags__()


def neg_log_loss(loss: Loss, eta: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """What each row adds to `sklearn.metrics.log_loss`, negative, for each of Q models: (m, Q)."""
    log_proba = loss.log_proba(eta)
    own = log_proba.gather(2, codes[:, None, None].expand(-1, eta.shape[1], 1))[..., 0]
    eps = torch.finfo(own.dtype).eps
    return own.clamp(min=np.log(eps), max=np.log1p(-eps))


def accuracy(loss: Loss, eta: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """What each row adds to `sklearn.metrics.accuracy_score`, for each of Q models: (m, Q)."""
    return loss.choice(eta) == codes[:, None]


# Scores that are means over the rows, computed from the logits of all models at once, in a fraction of the time of
# scikit-learn's.
FROM_LOGITS: dict[str, RowScore] = {"neg_log_loss": neg_log_loss, "accuracy": accuracy}


@package_settings()
def score_sums(name: str, loss: Loss, eta: torch.Tensor, codes: np.ndarray, weight: Any) -> list[torch.Tensor]:
    """The sums (Q,) over the rows of a score in FROM_LOGITS, and those of the weights, which the means are made of."""
    return _summed(FROM_LOGITS[name](loss, eta, torch.from_numpy(codes).to(eta.device)), weight)


def _summed(values: torch.Tensor, weight: Any) -> list[torch.Tensor]:
    """The weighted sums of (m, Q) over the rows, and that of the weights, in float64."""
    values = Placement.beside(values.device).take(values)
    if weight is None:
        return [values.sum(dim=0), values.new_tensor(float(len(values)))]
    weight = torch.from_numpy(weight).to(values)
    return [weight @ values, weight.sum()]


def mean_scores(name: str, loss: Loss, eta: torch.Tensor, codes: np.ndarray, weight: Any) -> np.ndarray:
    """A score in FROM_LOGITS of each of Q models, (Q,)."""
    total, mass = score_sums(name, loss, eta, codes, balanced(weight))
    return (total / mass).numpy(force=True)


def balanced(weight: Any) -> Any:
    """Weights (m,) whose sum does not overflow, or None."""
    if weight is None:
        return None
    return summable(torch.from_numpy(np.array(numpy_of(weight), dtype=np.float64))).numpy()


def refuse_local_scores(scoring: Any, params: dict[str, Any]) -> None:
    """Raise unless a score is a sum over rows that may be in several processes."""
    if score_by_name(scoring, params) is None:
        raise NotImplementedError(
            f"Within shared_rows, scores are sums over the rows of all processes: scoring={scoring!r} with "
            f"{sorted(params) or 'no metadata'} is not among them. Choose {' or '.join(map(repr, FROM_LOGITS))}, with "
            "no metadata but sample_weight."
        )


def score_by_name(scoring: Any, params: dict[str, Any]) -> str | None:
    """The name of a score in FROM_LOGITS, if it is that and takes these parameters."""
    is_known = isinstance(scoring, str) and set(params) <= {"sample_weight"} and scoring in FROM_LOGITS
    return scoring if is_known else None
