"""The methods that predict, and what they make of logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.prediction import prediction_parts
from torchlogreg._data.targets import known
from torchlogreg._data.validation import dense_coefficients
from torchlogreg._estimators.keywords import Suggesting
from torchlogreg._estimators.shards import refuse_local_callers
from torchlogreg._export.mixin import Portable
from torchlogreg._objective.losses import Loss, loss_of
from torchlogreg._runtime.out_of_memory import with_room
from torchlogreg._runtime.sklearn_private import SparseCoefMixin, check_same_namespace
from torchlogreg._runtime.threads import mapped, package_settings, plain_arithmetic


class Response(NamedTuple):
    """What a method that predicts makes of logits (n, B, K): something with one entry for each row and model."""

    method: str
    of_logits: Callable[[Loss, torch.Tensor], torch.Tensor]
    is_class: bool = False  # whether it is the index of a class


LOGITS = Response("decision_function", lambda _, eta: eta.squeeze(-1))
CLASS = Response("predict", lambda loss, eta: loss.choice(eta), is_class=True)
PROBABILITY = Response("predict_proba", lambda loss, eta: loss.log_proba(eta).exp_())
LOG_PROBABILITY = Response("predict_log_proba", lambda loss, eta: loss.log_proba(eta))


class LogitClassifier(ClassifierMixin):
    """The methods that predict, from the logits of the rows."""

    @abstractmethod
    def _respond(self, X, response: Response) -> Any:
        """The response to the rows of X, in the library of X."""

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits: the log-odds of the second class, or one score a class.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column for two classes, where a positive value predicts ``classes_[1]``.
        """
        return self._respond(X, LOGITS)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        return self._respond(X, CLASS)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns are ordered as ``classes_``.
        """
        return self._respond(X, PROBABILITY)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of the probability of each class, accurate where the probability itself underflows.

        Parameters
        ----------
        X : array-like, sparse matrix or tensor of shape (n_samples, n_features)
            Rows to classify.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            Columns are ordered as ``classes_``.
        """
        return self._respond(X, LOG_PROBABILITY)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy on the given rows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Test rows.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        Returns
        -------
        score : float
            Share of the rows, by weight, that `predict` classifies correctly.
        """
        return super().score(X, known(y), numpy_of(sample_weight))


class LinearPredictor(Portable, Suggesting, LogitClassifier, CallbackSupportMixin, SparseCoefMixin, BaseEstimator):
    """A fitted linear model: ``coef_``, ``intercept_`` and ``classes_``."""

    coef_: Any
    intercept_: Any
    classes_: Any

    def __sklearn_clone__(self):
        refuse_local_callers()  # before it goes to other threads and processes, which know nothing of shared rows
        return super().__sklearn_clone__()

    def _respond(self, X, response: Response) -> Any:
        check_is_fitted(self)
        check_same_namespace(X, self, attribute="coef_", method=response.method)
        space, classes = Space.of(X), numpy_of(self.classes_)
        loss, labels = loss_of(len(classes)), classes if response.is_class else None
        coef = np.column_stack([dense_coefficients(self.coef_), numpy_of(self.intercept_)])  # (K, p + 1)
        W = torch.from_numpy(coef.T[None].copy())

        def work():
            n_rows, parts = prediction_parts(self, X, W.dtype)
            return space.joined(_pieces(parts, W, loss, response), n_rows, labels)

        # A tensor that is an answer may meet autograd later.
        with package_settings(), torch.inference_mode(False), torch.no_grad():
            return with_room(work)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


def _pieces(parts: Iterable, W: torch.Tensor, loss: Loss, response: Response) -> Iterator[torch.Tensor]:
    """The response to several parts of the rows, block by block."""
    for rows in parts:
        V = W.to(rows.compute.device, rows.compute.dtype)

        def piece(block, X=rows.X, V=V):
            with plain_arithmetic(X):  # not while the caller takes the piece, which may raise
                return response.of_logits(loss, block.matvec(V))[:, 0]

        yield from mapped(piece, rows.blocks(W.shape[2]), rows.compute.device)
