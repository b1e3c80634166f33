"""Cholesky factors of matrices that may be singular to rounding."""

from functools import partial
from typing import NamedTuple

import torch

from torchlogreg._runtime.threads import in_pool

LARGE = 512  # rows of a matrix from which a second thread pays


class ScaledFactor(NamedTuple):
    """factor factor' = scale matrix scale + shift."""

    scale: torch.Tensor  # (..., m)
    factor: torch.Tensor  # (..., m, m), lower
    shift: torch.Tensor  # (..., 1) what was added to the diagonal


def scaled_cholesky(matrix):
    """The factor of `matrix` (..., m, m), scaled to a unit diagonal.

    That makes it indifferent to the units of the rows. The diagonal is then raised by a few rounding errors, which
    changes nothing where the matrix is regular and keeps solutions short where it is not, and by powers of ten more
    where Cholesky still fails.
    """
    factored, info = scaled_cholesky_ex(matrix)
    while info.any():
        if factored.shift.max() > 1:  # rounding left nothing but the scale
            one = torch.ones_like(matrix[..., 0])
            return ScaledFactor(factored.scale, torch.diag_embed(one), torch.ones_like(factored.shift))
        shift = torch.where(info[..., None] > 0, 10 * factored.shift, factored.shift)
        factored, info = scaled_cholesky_ex(matrix, shift)
    return factored


def scaled_cholesky_ex(matrix, shift=None):
    """The factor with a given shift, or the first one; and `info` (...,), zero where the factor exists.

    Whoever has other numbers to read reads that one with them: a host that asks at once waits for the device.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    m, limits = diagonal.shape[-1], torch.finfo(diagonal.dtype)
    scale = diagonal.masked_fill(diagonal <= 0, 1.0).clamp_(min=limits.tiny).rsqrt_()
    if shift is None:
        shift = torch.full_like(diagonal[..., :1], first_shift(m, diagonal.dtype))
    raised = (matrix * scale[..., None]).mul_(scale[..., None, :])
    raised.diagonal(dim1=-2, dim2=-1).add_(shift)
    factored = partial(in_pool, torch.linalg.cholesky_ex) if m >= LARGE else torch.linalg.cholesky_ex
    factor, info = factored(raised)
    return ScaledFactor(scale, factor, shift), info


def first_shift(m, dtype):
    """What is added to the diagonal of any matrix of m rows."""
    return 16 * m * torch.finfo(dtype).eps


def root_cholesky(root):
    """The same for a matrix root' root, from its triangular root (m, m), which has twice as many digits of it.

    What is singular even so, columns that depend on one another to the last digit, is raised as above.
    """
    m = root.shape[-1]
    norms = torch.linalg.vector_norm(root, dim=0)
    scale = torch.where(norms > 0, 1.0 / norms.clamp(min=torch.finfo(norms.dtype).tiny), 1.0)
    eps = torch.finfo(norms.dtype).eps
    _, singular, V = torch.linalg.svd(root * scale)
    raised = torch.where(singular > 8 * m * eps, singular.square(), singular.square() + 16 * m * eps)
    factor = torch.linalg.qr(raised.sqrt()[:, None] * V, mode="r").R.mT
    return scale, factor, torch.zeros_like(scale[:1])
