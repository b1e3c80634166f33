"""Cholesky factors of matrices that may be singular to rounding."""

from functools import partial

import torch

from torchlogreg._threads import in_pool

LARGE = 512  # rows of a matrix from which a second thread pays


def scaled_cholesky(matrix):
    """`scale` (..., m) and lower `factor` (..., m, m) with factor factor' = scale matrix scale, nearly.

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
            return scale, factor
        if shift.max() > 1:
            return scale, torch.diag_embed(torch.ones_like(diagonal))  # rounding left nothing but the scale
        shift = torch.where(info[..., None] > 0, 10 * shift, shift)
