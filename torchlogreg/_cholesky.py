"""Cholesky factors of matrices that may be singular to rounding."""

import torch


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
    while True:
        raised = correlation + torch.diag_embed(shift.expand_as(diagonal))
        factor, info = torch.linalg.cholesky_ex(raised)
        if not info.any():
            return scale, factor
        if shift.max() > 1:
            return scale, torch.diag_embed(torch.ones_like(diagonal))  # rounding left nothing but the scale
        shift = torch.where(info[..., None] > 0, 10 * shift, shift)
