"""The objective with an L1 norm of one model or of a path, in NumPy and float64, with a bound from its dual."""

import hashlib
import json

import numpy as np
from measure import BLOCK, CACHE
from scipy.sparse import issparse
from scipy.special import entr, expit, logsumexp, softmax

ENDED_WELL = 1e-7  # largest relative distance between an optimum and its lower bound that is worth keeping


class L1Objective:
    """F(W) = mean loss + ||coefficients||_1 / (C n) for each of B values of C.

    Coefficients are (B, K, p) and intercepts (B, K), with one of K for two classes; a single model may leave out B.
    """

    def __init__(self, X, y, Cs, intercept):
        self.raw, self.y, self.dtype = X, y, X.dtype
        self.n, self.n_classes = X.shape[0], int(y.max()) + 1
        self.K = 1 if self.n_classes == 2 else self.n_classes
        self.Cs, self.intercept = Cs, intercept
        self.strengths = 1.0 / (Cs * self.n)

    def relative_gap(self, coef, intercept, optimum):
        """The largest (F - optimum) / optimum of all models; infinite if some are missing."""
        coef, intercept = self._shaped(coef, intercept)
        if len(coef) < len(self.Cs):
            return np.inf
        gap = np.max(self.values(coef, intercept) / optimum - 1.0)
        return float(gap) if np.isfinite(gap) else np.inf

    def values(self, coef, intercept):
        """F of every model."""
        losses = sum(self._losses(eta, y).sum(axis=0) for _, y, eta in self._blocks(coef, intercept))
        return losses / self.n + self.strengths * np.abs(coef).sum(axis=(1, 2), dtype=np.float64)

    def bounds(self, coef, intercept):
        """Values that no coefficients are below: the dual objective, valid where the intercepts are optimal.

        The dual variables are the residuals, shrunk until the largest entry of their product with X is allowed.
        """
        pulled = 0.0
        for X, y, eta in self._blocks(coef, intercept):
            residual = self._probabilities(eta) - self._targets(y)
            pulled = pulled + X.T @ residual.reshape(len(y), -1)
        largest = np.abs(pulled).reshape(coef.shape[2], len(coef), self.K).max(axis=(0, 2)) / self.n
        shrunk = np.minimum(1.0, self.strengths / np.maximum(largest, np.finfo(np.float64).tiny))[:, None]
        dual = 0.0
        for _, y, eta in self._blocks(coef, intercept):
            targets = self._targets(y)
            dual = dual + self._entropy(targets + shrunk * (self._probabilities(eta) - targets)).sum(axis=0)
        return dual / self.n

    def _shaped(self, coef, intercept):
        intercept = np.asarray(intercept, dtype=np.float64).reshape(-1, self.K)
        return np.asarray(coef, dtype=np.float64).reshape(len(intercept), self.K, -1), intercept

    def _blocks(self, coef, intercept):
        """Rows of X, labels and logits (rows, B, K), a block at a time."""
        W = coef.reshape(-1, coef.shape[2]).T
        for start in range(0, self.n, BLOCK):
            X = self.raw[start : start + BLOCK].astype(np.float64)
            yield X, self.y[start : start + BLOCK], (X @ W).reshape(-1, *intercept.shape) + intercept

    def _losses(self, eta, y):
        if self.K == 1:
            return np.logaddexp(0.0, eta[..., 0]) - y[:, None] * eta[..., 0]
        return logsumexp(eta, axis=2) - eta[np.arange(len(y)), :, y]

    def _targets(self, y):
        return (y[:, None] if self.K == 1 else np.eye(self.K)[y])[:, None]

    def _probabilities(self, eta):
        return expit(eta) if self.K == 1 else softmax(eta, axis=2)

    def _entropy(self, probabilities):
        own = entr(probabilities).sum(axis=2)
        return own + entr(1.0 - probabilities).sum(axis=2) if self.K == 1 else own


class Optimum:
    """Least known values of an objective, with the distance to their bounds, kept in a file under the data's hash."""

    def __init__(self, objective):
        self.objective = objective
        self.path = CACHE / f"l1-{fingerprint(objective)}.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.values = np.array(known["values"]) if known else None
        self.uncertainty = known.get("uncertainty")  # relative, the largest of all models

    def find(self, fit):
        """Compute them from what `fit()` returns, unless they are known."""
        if self.values is None:
            coef, intercept = self.objective._shaped(*fit()[:2])
            self.values = self.objective.values(coef, intercept)
            bounds = self.objective.bounds(coef, intercept)
            self.uncertainty = float(np.max(1.0 - bounds / self.values))
            if self.uncertainty <= ENDED_WELL:
                self.store()
        return self

    def lower(self, gap):
        """Note that some result was below, by the relative gap."""
        self.values = self.values * (1.0 + gap)
        self.store()

    def store(self):
        """Write the file."""
        CACHE.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({"values": self.values.tolist(), "uncertainty": self.uncertainty}))


def fingerprint(objective):
    """Hash of the data, C and whether there is an intercept."""
    X = objective.raw
    arrays = (X.data, X.indices, X.indptr) if issparse(X) else (X,)
    words = (X.shape, X.dtype.str, objective.Cs.tolist(), objective.intercept)
    digest = hashlib.blake2b(repr(words).encode(), digest_size=12)
    for array in (*arrays, objective.y):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
