"""Cholesky factors of matrices that may be singular to rounding."""

from functools import partial

import torch

from torchlogreg._runtime.threads import in_pool

LARGE = 512  # rows of a matrix from which a second thread pays


def scaled_cholesky(matrix):
    """`scale` (..., m), lower `factor` (..., m, m) and `shift` (..., 1): factor factor' = scale matrix scale + shift.

    The scaling to a unit diagonal makes the factor indifferent to the units of the rows. The diagonal is then raised
    by a few rounding errors, which changes nothing where the matrix is regular and keeps solutions short where it is
    not, and by powers of ten more where Cholesky still fails.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    m = diagonal.shape[-1]
    scale = torch.where(diagonal > 0, diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny).rsqrt(), 1.0)
    correlation = matrix * scale[..., None] * scale[..., None, :]
    shift = torch.full_like(diagonal[..., :1], 16 * m * torch.finfo(diagonal.dtype).eps)
    factored = partial(in_pool, torch.linalg.cholesky_ex) if m >= LARGE else torch.linalg.cholesky_ex
    while True:
        raised = correlation + torch.diag_embed(shift.expand_as(diagonal))
        factor, info = factored(raised)
        if not info.any():
            return scale, factor, shift
        if shift.max() > 1:  # rounding left nothing but the scale
            return scale, torch.diag_embed(torch.ones_like(diagonal)), torch.ones_like(shift)
        shift = torch.where(info[..., None] > 0, 10 * shift, shift)


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
