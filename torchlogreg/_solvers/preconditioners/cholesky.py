"""Cholesky factors of Hessians, whole or of blocks down to single coefficients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from torchlogreg._objective.objective import in_range
from torchlogreg._runtime.linalg import root_cholesky, scaled_cholesky, scaled_cholesky_ex
from torchlogreg._solvers import tuning
from torchlogreg._solvers.preconditioners.base import Preconditioner


@dataclass(frozen=True, eq=False, repr=False)
class CholeskyPreconditioner(Preconditioner):
    """Block-diagonal approximation of the Hessian, factored: M blocks of size m, M m = K d."""

    scale: torch.Tensor  # (B, M, m)
    factor: torch.Tensor  # (B, M, m, m)
    shift: torch.Tensor  # (B, M, 1) what was added to the unit diagonal before factoring

    @classmethod
    def of(cls, hessian: torch.Tensor) -> CholeskyPreconditioner:
        """Factor `hessian` (B, M, m, m)."""
        in_range(hessian.diagonal(dim1=2, dim2=3))
        return cls(*scaled_cholesky(hessian))

    @classmethod
    def untested(cls, hessian: torch.Tensor) -> tuple[CholeskyPreconditioner, torch.Tensor]:
        """Factor it without a wait; and `info` (B, M), zero where that went well and the first shift was enough."""
        factored, info = scaled_cholesky_ex(hessian)
        return cls(*factored), info

    def with_roots(self, roots: Iterable[torch.Tensor], index: torch.Tensor) -> CholeskyPreconditioner:
        """These, but those of the models at `index` from triangular roots (K d, K d) of the Hessian; M = 1."""
        out = CholeskyPreconditioner(self.scale.clone(), self.factor.clone(), self.shift.clone())
        for b, root in zip(index.tolist(), roots, strict=True):
            out.scale[b, 0], out.factor[b, 0], out.shift[b, 0] = root_cholesky(root)
        return out

    def select(self, index):
        """See `Preconditioner`."""
        return CholeskyPreconditioner(self.scale[index], self.factor[index], self.shift[index])

    def raised(self, x, groups=None):
        """See `Preconditioner`."""
        n_models, d, n_logits = x.shape
        scale, shift = (
            (self.scale, self.shift) if groups is None else (self.scale[groups.number], self.shift[groups.number])
        )
        product = (x.mT.reshape(scale.shape) * shift / scale.square()).reshape(n_models, n_logits, d).mT
        noise = (tuning.GRADIENT_ROUNDINGS * torch.finfo(scale.dtype).eps) ** 2 / shift.clamp(
            min=torch.finfo(scale.dtype).tiny
        )
        return product, (scale.shape[2] * noise).sum(dim=(1, 2))

    def most_raised(self, groups=None):
        """See `Preconditioner`."""
        most = (self.shift / self.scale.square()).amax(dim=(1, 2))
        return most if groups is None else most[groups.number]

    def solve(self, gradient, groups=None):
        """See `Preconditioner`."""
        n_models, d, n_logits = gradient.shape
        scale = self.scale if groups is None else self.scale[groups.number]
        flat = gradient.mT.reshape(scale.shape) * scale  # (B, M, m)
        if groups is None:
            flat = torch.cholesky_solve(flat[..., None], self.factor)[..., 0]
        else:  # the models of a group side by side, for a factor is read once then
            columns = groups.padded(flat, len(self.factor)).permute(0, 2, 3, 1)  # (G, M, m, models)
            flat = groups.unpadded(torch.cholesky_solve(columns, self.factor).permute(0, 3, 1, 2))
        return (flat * scale).reshape(n_models, n_logits, d).mT
