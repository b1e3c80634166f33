"""The objective with an L1 norm of one model or of a path, in NumPy and float64, with a bound from its dual."""

import hashlib
import json

import numpy as np
from measure import BLOCK, CACHE
from scipy.sparse import issparse
from scipy.special import entr, expit, logsumexp, softmax


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
        """Return the largest (F - F*) / F* of all models; infinite if some are missing."""
        if coef is None or not np.size(coef):
            return np.inf
        coef, intercept = self.shaped(coef, intercept)
        return optimum.gap(self.values(coef, intercept)) if len(coef) == len(self.Cs) else np.inf

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

    def shaped(self, coef, intercept):
        """Coefficients (B, K, p) and intercepts (B, K)."""
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
    """The least known values of an objective, kept in a file under the data's hash.

    `uncertainty` is the largest relative distance to a bound from below, for the model where that is largest.
    """

    def __init__(self, objective):
        self.objective = objective
        self.path = CACHE / f"l1-{fingerprint(objective)}.json"
        self.values = self.least = self.uncertainty = None
        if self.path.exists():
            known = json.loads(self.path.read_text())
            self.values, self.uncertainty = np.array(known["values"]), known["uncertainty"]
            self.least = self.values

    def find(self, fit):
        """Take them from what `fit()` returns, unless they are known."""
        if self.values is None:
            coef, intercept = self.objective.shaped(*fit()[:2])
            self.values = self.least = self.objective.values(coef, intercept)
            self.uncertainty = float(np.max(1.0 - self.objective.bounds(coef, intercept) / self.values))
            self._store()
        return self

    def gap(self, values):
        """Return the largest relative distance of some other values, and keep them in mind."""
        gap = np.max(values / self.values - 1.0)
        if not np.isfinite(gap):
            return np.inf
        self.least = np.minimum(self.least, values)
        return float(gap)

    def correct(self):
        """Return by which relative distance some result was below, and keep what is less for the next time."""
        excess = float(np.max(1.0 - self.least / self.values))
        if excess > 0:
            self.values = self.least
            self._store()
        return excess

    def _store(self):
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
