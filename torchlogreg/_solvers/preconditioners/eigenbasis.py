"""A preconditioner for several logits, where the whole Hessian is too large and its class blocks too dear.

In a basis of eigenvectors of the features' covariance, the Hessian of a softmax is close to block diagonal. On the
leading eigenvectors and the intercept it is the whole Hessian, couplings between classes included. On the
others it is diagonal in the product of that basis and the eigenvectors of the classes' mean curvature, with the
diagonal's exact values there (as in EKFAC, George et al. 2018, arXiv:1806.03884).
On 12,000 rows of MNIST, C = 1, it takes 20 iterations to a relative gap of 1e-3; class blocks take 26, none 78.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from torchlogreg._data import tuning as data_tuning
from torchlogreg._data.dense import DenseDesign
from torchlogreg._objective.objective import Objective, in_range
from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._runtime.threads import in_threads, n_workers
from torchlogreg._solvers import tuning
from torchlogreg._solvers.preconditioners.base import Preconditioner
from torchlogreg._solvers.preconditioners.cholesky import CholeskyPreconditioner


def n_leading(m, n, p, n_logits):
    """How many eigenvectors the whole Hessian covers: those that cost some three passes over n rows, from m of them."""
    pairs = n_logits * (n_logits + 1) / 2
    return max(1, min(p, tuning.COUPLED_UNKNOWNS // n_logits - 1, math.isqrt(int(18 * n * p * n_logits / (pairs * m)))))


@dataclass(frozen=True, eq=False, repr=False)
class EigenbasisPreconditioner(Preconditioner):
    """The preconditioners of G models on one basis; r of its p eigenvectors are leading."""

    mean: torch.Tensor  # (p,) of the features, weighted by curvature; zero without an intercept
    basis: torch.Tensor  # (p, p), leading eigenvectors last
    coupled_block: CholeskyPreconditioner  # (G models, K blocks coupled in one) of the r leading ones and the intercept
    classes: torch.Tensor  # (G, K, K) eigenvectors
    diagonal: torch.Tensor  # (G, p - r, K)
    lift: torch.Tensor  # (G, r, 1) what was added to the penalty of the leading ones

    def select(self, index):
        """See `Preconditioner`."""
        return replace(
            self,
            coupled_block=self.coupled_block.select(index),
            classes=self.classes[index],
            diagonal=self.diagonal[index],
            lift=self.lift[index],
        )

    def raised(self, x, groups=None):
        """See `Preconditioner.raised`; only the leading eigenvectors are raised, the others have a diagonal."""
        p, n_rest = len(self.mean), self.diagonal.shape[1]
        rotated = self.basis.T[n_rest:] @ x[:, :p]  # (B, r, K)
        at_intercept = x[:, p:] + (self.mean @ x[:, :p])[:, None][:, : x.shape[1] - p]
        product, rounding = self.coupled_block.raised(torch.cat([rotated, at_intercept], dim=1), groups)
        r = rotated.shape[1]
        coupled_block = product[:, :r] + (self.lift if groups is None else self.lift[groups.number]) * rotated
        out = self.basis[:, n_rest:] @ coupled_block + self.mean[:, None] * product[:, r:].sum(dim=1, keepdim=True)
        return torch.cat([out, product[:, r:]], dim=1), rounding

    def most_raised(self, groups=None):
        """See `Preconditioner`."""
        most = self.coupled_block.most_raised() + self.lift.amax(dim=(1, 2))
        return most if groups is None else most[groups.number]

    def solve(self, gradient, groups=None):
        """See `Preconditioner`."""
        p, n_rest = len(self.mean), self.diagonal.shape[1]
        classes, diagonal = (
            (self.classes, self.diagonal)
            if groups is None
            else (self.classes[groups.number], self.diagonal[groups.number])
        )
        at_intercept = gradient[:, p:]  # (B, 1 or 0, K)
        rotated = _times(self.basis.T, gradient[:, :p] - self.mean[:, None] * at_intercept.sum(dim=1, keepdim=True))
        rest = (rotated[:, :n_rest] @ classes / diagonal) @ classes.mT
        coupled_block = self.coupled_block.solve(torch.cat([rotated[:, n_rest:], at_intercept], dim=1), groups)
        out = _times(self.basis, torch.cat([rest, coupled_block[:, : p - n_rest]], dim=1))
        return torch.cat([out, coupled_block[:, p - n_rest :] - self.mean @ out[:, None]], dim=1)


def _times(matrix, W):
    """matrix (p, p) times each of W (B, p, K), as one product."""
    B, p, K = W.shape
    return (matrix @ W.permute(1, 0, 2).reshape(p, B * K)).view(p, B, K).permute(1, 0, 2)


def eigenbasis_preconditioner(sample, W, r, before=None, eta=None):
    """The preconditioners of a sample of rows at W (B, d, K), on the basis of earlier ones if those are given.

    `eta` are the logits of those rows, where W and the sample's columns alone do not make them.

    All models are seen from one mean and in one basis, of their mean curvature. Any will do, and one that nearly fits
    does nearly as well.
    """
    rows, loss, l2 = sample.design, sample.loss, sample.penalty.l2.expand(len(W), -1, 1)
    X, intercept, p = rows.X, rows.intercept, rows.X.shape[1]
    if eta is None:
        eta = rows.matvec(W)  # (m, B, K)
        sample.passes.n_visited += rows.shape[0]
    own = rows.weight[..., None] * loss.logit_curvature(eta)
    curvature = own.sum(dim=-1).mean(dim=1, keepdim=True)  # (m, 1)
    if intercept and not l2[:, p:].any():  # a change of the mean would pull at intercepts that are held at zero
        mean = rows.rmatvec((curvature / curvature.sum().clamp(min=1e-300))[..., None])[0, :p, 0]
        X = X - mean.to(X)
    else:
        mean = W.new_zeros(p)
    even = l2[:, :p].amin(dim=1, keepdim=True)  # (B, 1, 1)
    uneven = l2[:, :p] - even
    if before is None:
        gram = in_range(DenseDesign(X, rows.y, curvature, intercept=False).gram(curvature)[0])
        gram.diagonal().add_(W.shape[2] * uneven.mean(dim=0)[:, 0])  # it sums over the logits
        basis = torch.linalg.eigh(gram)[1]
    else:
        basis = before.basis
    n_parts = max(1, min(n_workers(), X.numel() * p // data_tuning.MIN_PRODUCTS_PER_THREAD))
    X = torch.cat(in_threads(partial(torch.matmul, other=basis.to(X)), X.tensor_split(n_parts)))
    leading, rest = X[:, p - r :], X[:, : p - r].square()
    inside = DenseDesign(
        leading.contiguous(), rows.y, rows.sample_weights, intercept=intercept, weight_index=rows.weight_index
    )
    # What is left of columns that depend on others is rounding, which a factor scaled to a unit diagonal would blow up.
    floor = tuning.EIGENBASIS_ROUNDING * float((curvature * leading.square()).sum(dim=0).max())
    strengths = even + basis.square().T @ uneven  # (B, p, 1)
    lifted = strengths[:, p - r :].clamp(min=floor)
    penalty = ElasticNet(torch.cat([lifted, l2[:, p:]], dim=1))
    coupled_block = CholeskyPreconditioner.of(Objective(inside, loss, penalty, sample.passes).hessian_at(eta))
    classes = torch.linalg.eigh(rows.to_accumulation(loss.summed_curvature(eta, rows.weight)))[1]  # (B, K, K)
    along = rows.weight[..., None] * loss.curvature_along(eta, classes.to(rows.weight))  # (m, B, K)
    diagonal = rows.to_accumulation(rest.T @ along.flatten(1).to(X)).view(p - r, *along.shape[1:]).transpose(0, 1)
    diagonal = diagonal + strengths[:, : p - r]
    smallest = torch.finfo(diagonal.dtype).eps * max(1.0, float(diagonal.max())) if p > r else 0.0
    return EigenbasisPreconditioner(
        mean, basis, coupled_block, classes, diagonal.clamp(min=smallest), lifted - strengths[:, p - r :]
    )
