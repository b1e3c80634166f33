"""Bounds on the curvature of the loss, from which a stable learning rate follows."""

import torch


def loss_bounds(objective):
    """Smoothness of the data term: of its mean over all rows, and of the worst single row."""
    return objective.loss.smoothness * largest_moment(objective), objective.loss.smoothness * row_moments(objective)[1]


def largest_moment(objective, n_passes=12):
    """The largest eigenvalue of the weighted second moments, by power iteration."""
    rows = objective.design
    generator = torch.Generator("cpu").manual_seed(0)
    v = torch.randn(1, rows.shape[1], 1, generator=generator, dtype=torch.float64, device="cpu")
    v = v.to(rows.accumulation.device)
    top = v.new_zeros(())
    for _ in range(n_passes):
        v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
        v = torch.zeros_like(v) + sum(
            b.rmatvec((b.weight * b.matvec(v)[..., 0])[..., None]) for b in objective.blocks()
        )
        top = v.norm()
    return float(top)


def row_moments(objective):
    """The mean of the rows' squared norms, and n times the largest, both weighted; one pass."""
    mean = longest = 0.0
    ones = objective.penalty.l2.new_ones(objective.design.shape[1])
    for block in objective.blocks():
        norms = block.weight[:, 0] * block.squared_norms(ones)
        mean, longest = mean + float(norms.sum()), max(longest, float(norms.max()))
    return mean, objective.design.shape[0] * longest
