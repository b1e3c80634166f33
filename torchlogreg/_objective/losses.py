"""Losses: what one row costs, given its logits.

A loss sees logits and labels only; weights, X and penalties live elsewhere. It is defined by `value`,
which autograd can differentiate; `value_and_residual` and `curvature` are closed forms that tests hold
to autograd. Shapes: eta (n, B, K), y (n,), values (n, B), residuals (n, B, K).
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch.nn import functional as F

from torchlogreg._data.kernels import OneLogitKernel, logistic_kernel
from torchlogreg._objective import tuning


class Loss(ABC):
    """A convex loss of K logits."""

    n_logits: int
    at_zero: float  # value of a row whose logits are zero
    smoothness: float  # largest eigenvalue that the second derivative in the logits can take
    one_logit_kernel: OneLogitKernel | None = None  # for `kernels.one_logit_pass`, where the loss has one

    @abstractmethod
    def targets(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Labels 0 .. n_classes - 1 (n,) in the type that the other methods take as `y`."""

    @abstractmethod
    def codes(self, y: torch.Tensor) -> torch.Tensor:
        """Labels 0 .. n_classes - 1 (n,) from those targets."""

    @abstractmethod
    def value(self, eta: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of every row, (n, B); differentiable by autograd."""

    @abstractmethod
    def value_and_residual(self, eta: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (n, B) and its derivative in the logits (n, B, K)."""

    @abstractmethod
    def residual(self, eta: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The derivative alone, (K, n), from logits (K, n) of one model and labels 0 .. n_classes - 1 (n,).

        For steps on a few rows, which are as long as they have kernels: these are two. Where there is one logit, labels
        are floating-point numbers, and what is below a rounding error of one is lost.
        """

    @abstractmethod
    def curvature(self, eta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The second derivative in the logits, diag(a) - b b', as a (n, B, K) and b (n, B, K) or None; a >= 0."""

    @abstractmethod
    def curvature_root(self, eta: torch.Tensor) -> torch.Tensor:
        """A root of the second derivative in the logits, r r', as r (n, B, K, M), without cancellation."""

    @abstractmethod
    def certain_logits(self, codes: torch.Tensor) -> torch.Tensor:
        """Logits (m, K) in float64 by which each of the classes `codes` (m,) is certain, nearly."""

    def logits_of(self, shares):
        """The logits of class probabilities, (..., n_classes) -> (..., K)."""
        logits = shares.log()
        if self.n_logits == 1:
            return logits[..., 1:] - logits[..., :1]
        return logits - logits.mean(dim=-1, keepdim=True)

    def logit_curvature(self, eta):
        """The second derivative by each logit alone, (n, B, K)."""
        a, b = self.curvature(eta)
        return a if b is None else a - b.square()

    def summed_curvature(self, eta, weight):
        """Sum of the second derivative over the rows, weight (n, B) -> (B, K, K)."""
        a, b = self.curvature(eta)
        weighted = weight[..., None] * a
        out = torch.diag_embed(weighted.sum(dim=0))
        if b is None:
            return out
        weighted = weighted if b is a else weight[..., None] * b
        return out - torch.einsum("nbk,nbl->bkl", weighted, b.to(out.dtype))

    def curvature_along(self, eta, directions):
        """u' (second derivative) u for each column u of `directions` (B, K, M): (n, B, M)."""
        a, b = self.curvature(eta.to(directions.dtype))
        along = torch.einsum("nbk,bkm->nbm", a, directions.square())
        return along if b is None else (along - torch.einsum("nbk,bkm->nbm", b, directions).square()).clamp(min=0.0)

    @abstractmethod
    def small(
        self, eta: np.ndarray, y: np.ndarray, k: np.ndarray, l: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value (n,), residual (n, K) and second derivatives by logits k[m], l[m] (n, M) of one model, in NumPy."""

    @abstractmethod
    def log_proba(self, eta: torch.Tensor) -> torch.Tensor:
        """Logarithm of the class probabilities, (n, B, n_classes)."""

    @abstractmethod
    def choice(self, eta: torch.Tensor) -> torch.Tensor:
        """Index of the most probable class, (n, B)."""


def loss_of(n_classes):
    """The loss for that many classes."""
    return Binomial() if n_classes == 2 else Multinomial(n_classes)


class Binomial(Loss):
    """Two classes, one logit: softplus(-y z) with y = -1 or 1."""

    n_logits = 1
    at_zero = math.log(2.0)
    smoothness = 0.25
    one_logit_kernel = staticmethod(logistic_kernel)

    def targets(self, codes, dtype):
        return codes.to(dtype).mul_(2).sub_(1)

    def codes(self, y):
        return (y > 0).long()

    def certain_logits(self, codes):
        return tuning.CERTAIN_LOGIT * self.targets(codes, torch.float64)[:, None]

    def value(self, eta, y):
        return -F.logsigmoid(y[:, None] * eta[..., 0])

    def value_and_residual(self, eta, y):
        # Signed labels spare a subtraction that would cancel, so a row that is predicted well keeps its digits.
        # torch's two fused operations take 60 % of the time of one exponential followed by plain arithmetic.
        y = y[:, None]
        margin = y * eta[..., 0]
        value = -F.logsigmoid(margin)
        return value, torch.sigmoid(margin.neg_()).mul_(-y)[..., None]

    def residual(self, eta, codes):
        return torch.sigmoid(eta).sub_(codes)

    def curvature(self, eta):
        e = torch.exp(-eta.abs())
        return e / (1.0 + e) ** 2, None

    def curvature_root(self, eta):
        e = torch.exp(-0.5 * eta.abs())
        return (e / (1.0 + e * e))[..., None]

    def small(self, eta, y, k, l):  # noqa: ARG002 - there is one logit
        margin = y * eta[:, 0]
        e = np.exp(-np.abs(margin))
        value = np.log1p(e) - np.minimum(margin, 0.0)
        residual = -y * np.where(margin >= 0, e, 1.0) / (1.0 + e)
        return value, residual[:, None], (e / (1.0 + e) ** 2)[:, None]

    def log_proba(self, eta):
        return F.logsigmoid(torch.cat([-eta, eta], dim=-1))

    def choice(self, eta):
        return (eta[..., 0] > 0).long()


class Multinomial(Loss):
    """K classes, K logits, symmetric parametrisation: logsumexp(z) - z_y."""

    smoothness = 0.5  # Boehning (1992), doi:10.1007/BF00048682

    def __init__(self, n_classes):
        self.n_logits = n_classes
        self.at_zero = math.log(n_classes)

    def targets(self, codes, dtype):  # noqa: ARG002 - class indices whatever the dtype of X
        return codes

    def codes(self, y):
        return y

    def certain_logits(self, codes):
        return tuning.CERTAIN_LOGIT * (F.one_hot(codes, self.n_logits).double() - 1.0 / self.n_logits)

    def value(self, eta, y):
        n_models = eta.shape[1]
        flat = F.cross_entropy(eta.flatten(0, 1), y.repeat_interleave(n_models), reduction="none")
        return flat.view(-1, n_models)

    def value_and_residual(self, eta, y):
        # Class-major, as `DenseDesign.matvec` lays logits out, is up to twice as fast. log_softmax shifts by the
        # largest logit before it takes the logarithm, so the loss of a row that is predicted well keeps its digits.
        log_proba = torch.log_softmax(eta.permute(1, 2, 0), dim=1)  # (B, K, n)
        index = y.view(1, 1, -1).expand(log_proba.shape[0], 1, -1)
        value = -log_proba.gather(1, index).squeeze(1).T
        return value, log_proba.exp_().scatter_(1, index, -1.0, reduce="add").permute(2, 0, 1)

    def residual(self, eta, codes):
        return torch.softmax(eta, dim=0).scatter_(0, codes[None], -1.0, reduce="add")

    def curvature(self, eta):
        proba = torch.softmax(eta.permute(1, 2, 0), dim=1).permute(2, 0, 1)  # class-major, as above
        return proba, proba

    def curvature_root(self, eta):
        # sum_m p_m (e_m - p) (e_m - p)'; the probability of the other classes is not 1 - p where p is nearly 1.
        proba = torch.softmax(eta, dim=-1)
        others = 1.0 - torch.eye(self.n_logits, dtype=eta.dtype, device=eta.device)
        root = -proba[..., None].expand(*proba.shape, self.n_logits).clone()
        root.diagonal(dim1=-2, dim2=-1).copy_(proba @ others)
        return root * proba.sqrt()[..., None, :]

    def small(self, eta, y, k, l):
        rows = np.arange(len(y))
        shifted = eta - eta.max(axis=1, keepdims=True)
        e = np.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        proba = e / total
        value = np.log(total[:, 0]) - shifted[rows, y]
        curvature = proba[:, k] * ((k == l) - proba[:, l])
        residual = proba
        residual[rows, y] -= 1.0
        return value, residual, curvature

    def log_proba(self, eta):
        return torch.log_softmax(eta, dim=-1)

    def choice(self, eta):
        return eta.argmax(dim=-1)
