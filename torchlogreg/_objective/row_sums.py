"""What passes over rows add up: functions of a design, for `Design.total` and `Design.each`.

They see a loss, coefficients W (B, d, K) and logits eta (B, K, n), and neither the penalty nor rows that other
processes have.
"""

from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any

import torch

from torchlogreg._data import kernels
from torchlogreg._data.blocking import even_slices, slices_of_size
from torchlogreg._data.device import widest_dtype
from torchlogreg._data.sample_weights import EVERY_MODEL, added_to_models
from torchlogreg._objective import tuning
from torchlogreg._runtime.threads import in_threads, n_workers


def sums_at(design, loss, W, group, with_hessian, keeps_logits) -> list:
    """The losses' value (B,), gradient (B, d, K) and Hessian (B, K d, K d) at W, and the logits, as far as asked for.

    At W[group] if models share coefficients, group (B,).
    """
    n_models = len(W) if group is None else len(group)
    logits = _room_for_logits(design, W) if keeps_logits else None

    def look_at(part):
        rows, start = part
        kernel = None if with_hessian or group is not None else loss.one_logit_kernel
        if kernel is not None and kernels.takes_one_logit_kernel(rows, W):
            eta = None if logits is None else logits[0, 0, start : start + rows.shape[0]].numpy()
            value, gradient = kernels.one_logit_pass(rows, W, kernel, eta)
            return [gradient.new_tensor([value]), gradient]
        dtype = widest_dtype(rows.compute.device)  # of the blocks, which `exact` moves
        value: Any = None
        hessian: Any = None

        def visit(block, eta, models):
            nonlocal start, value, hessian
            block = block if models is EVERY_MODEL else block.select(models)
            losses, residual = loss.value_and_residual(eta, block.y)
            if group is not None:
                own = group[models]
                losses, residual = losses.T[own].T, residual.permute(1, 2, 0)[own].permute(2, 0, 1)
            weight = block.weight
            value = added_to_models(value, models, (weight * losses).sum(dim=0, dtype=dtype), n_models)
            if with_hessian:
                hessian = added_to_models(hessian, models, data_hessian(block, loss, eta), n_models)
            if logits is not None:
                logits[models, :, start : start + len(eta)] = eta.permute(1, 2, 0)
                start += len(eta)
            return residual.mul_(weight[..., None])

        gradient = kernels.sweep(rows, W, visit, group)
        sums = [rows.to_accumulation(value), gradient]
        return [*sums, hessian] if with_hessian else sums

    n_columns = n_models * W.shape[2]
    n_hessian = len(W) * (W.shape[1] * W.shape[2]) ** 2 if with_hessian else 0
    total: Any = None
    for chunk in design.chunks():
        # Every part makes Hessians of its own; where those are large, sums over one part have threads instead.
        together = n_workers() * n_hessian > tuning.PARTIAL_HESSIANS_SHARE * chunk.n_numbers
        parts = chunk.parts(1 if together else n_workers(), n_columns)
        starts = accumulate((part.shape[0] for part in parts), initial=0)
        pairs = [*zip(parts, starts, strict=False)]
        sums = [look_at(pairs[0])] if len(pairs) == 1 else in_threads(look_at, pairs)
        total = reduce(_added, sums if total is None else [total, *sums])
    return total if logits is None else [*total, logits]


def _added(a, b):
    """Two lists, added entry by entry."""
    return list(map(add, a, b))


def _room_for_logits(design, W):
    # A model that holds out a block leaves its logits as they are.
    new = torch.empty if design.weight_index is None else torch.zeros
    n_models, _, n_logits = W.shape
    return new(n_models, n_logits, design.shape[0], dtype=design.compute.dtype, device=design.compute.device)


def data_hessian(rows, loss, eta):
    """What rows with logits eta (n, B, K) add to the Hessian, (B, K d, K d)."""
    n_models, n_logits = eta.shape[1:]
    a, b = loss.curvature(eta)
    blocks = rows.gram((rows.weight[..., None] * a).flatten(1)).view(n_models, n_logits, *2 * rows.shape[1:])
    if n_logits == 1:
        return blocks[:, 0]
    hessian = rows.gram_of_copies(rows.weight.sqrt()[..., None] * b).neg_()
    d = rows.shape[1]
    hessian.view(n_models, n_logits, d, n_logits, d).diagonal(dim1=1, dim2=3).add_(blocks.permute(0, 2, 3, 1))
    return hessian


def hessian_at(design, loss, W) -> list:
    """The Hessian (B, K d, K d) of the losses over rows in one block."""
    return [data_hessian(design, loss, design.matvec(W))]


def diagonal_at(design, loss, W) -> list:
    """Its diagonal, (B K, d)."""
    n_columns = W.shape[0] * W.shape[2]

    def look_at(part):
        out: Any = 0.0
        for rows in part.blocks(n_columns):
            own = loss.logit_curvature(rows.matvec(W))
            out = out + rows.gram_diagonal((rows.weight[..., None] * own).flatten(1))
        return out

    out: Any = 0.0
    for chunk in design.chunks():
        out = out + sum(in_threads(look_at, chunk.parts(n_workers(), n_columns)))
    return [out]


def root_at(design, loss, W) -> torch.Tensor:
    """A triangular R (K d, K d) with R' R the Hessian of the losses of one model.

    Triangles of blocks of rows are stacked (TSQR, Demmel et al. 2012, doi:10.1137/080731992).
    """
    _, d, n_logits = W.shape
    R = W.new_zeros(0, n_logits * d)
    for block in design.exact().blocks():
        factor = design.to_accumulation(loss.curvature_root(block.matvec(W))[:, 0])  # (m, K, M)
        factor = factor * design.to_accumulation(block.weight[:, :1]).sqrt()[..., None]
        X, size = block.features(), max(64, min(2 * n_logits * d, tuning.ROOT_BLOCK_NUMBERS // (n_logits**2 * d)))
        for rows, f in zip(X.split(size), factor.split(size), strict=True):
            J = torch.einsum("nkm,nj->nmkj", f, rows).reshape(-1, n_logits * d)
            R = torch.linalg.qr(torch.cat([R, J]), mode="r").R
    return R


def losses_between(design, loss, start, end, t) -> list:
    """The losses' value (B,) where the logits are start + t (end - start), t (B,): no pass over X."""
    eta = torch.lerp(start, end, t[:, None, None].to(start))  # (B, K, n)
    losses = loss.value(eta.permute(2, 0, 1), design.y.to(eta.device))
    return [design.to_accumulation((design.weight.to(eta.device) * losses).sum(dim=0))]


def shifted_curvature(design, loss, eta, shift) -> list:
    """The second derivative (B, K, K) of the losses in a shift of all logits, at logits eta + shift (B, K)."""
    return _row_by_row(design, eta, shift, lambda eta, _, weight, __: [loss.summed_curvature(eta, weight)])


def shifted_slope(design, loss, eta, shift) -> list:
    """The derivative (B, K) of the losses in such a shift there, their value (B,), and their residuals (B, K, n)."""
    residuals = torch.empty(eta.shape, dtype=design.accumulation.dtype, device=design.accumulation.device)

    def sums(eta, y, weight, rows):
        losses, residual = loss.value_and_residual(eta, y)
        residual.mul_(weight[..., None])
        residuals[..., rows] = residual.permute(1, 2, 0)
        return [residual.sum(dim=0), (weight * losses).sum(dim=0)]

    return [*_row_by_row(design, eta, shift, sums), residuals]


def gradient_of(design, residuals) -> list:
    """The losses' gradient (B, d, K) where they have these residuals (B, K, n); one pass."""
    n_columns = residuals.shape[0] * residuals.shape[1]

    def pull(pair):
        part, start = pair
        gradient: Any = 0.0
        for rows in part.blocks(n_columns):
            stop = start + rows.shape[0]
            own = residuals[..., start:stop].permute(2, 0, 1).to(rows.device)
            gradient, start = gradient + rows.rmatvec(own), stop
        return gradient

    parts = design.parts(n_workers(), n_columns)
    starts = accumulate((part.shape[0] for part in parts), initial=0)
    return [reduce(add, in_threads(pull, [*zip(parts, starts, strict=False)]))]


def divergences(design, loss, eta, shift, rhos) -> list:
    """Weighted sums of KL(q || p) for q = y + rho (p - y) and each of the `rhos` (m, B), (m, B), at eta + shift.

    For a row that is q_y log(q_y / p_y) + rho (1 - p_y) log(rho), where q_y / p_y = 1 + (1 - rho) (1 / p_y - 1) and
    its loss is -log p_y. Where that is more than `LARGE_LOSS`, p_y counts as e^-LARGE_LOSS but in the logarithm, which
    makes the sum larger, by less than rounding does.
    """

    def sums(eta, y, weight, _):
        losses = loss.value(eta, y)
        odds = torch.expm1(losses.clamp(max=tuning.LARGE_LOSS))
        proba, is_large = 1.0 / (1.0 + odds), bool((losses > tuning.LARGE_LOSS).any())
        others, out = odds * proba, []
        for rho in rhos:
            moved, log_ratio = rho * proba + (1.0 - rho), torch.log1p((1.0 - rho) * odds)
            if is_large:
                log_ratio = torch.where(losses > tuning.LARGE_LOSS, losses + moved.log(), log_ratio)
            divergence = moved.mul_(log_ratio).add_(others * torch.special.xlogy(rho, rho))
            out.append(torch.where(rho < 1.0, (weight * divergence).sum(dim=0), 0.0))
        return [torch.stack(out)]

    return _row_by_row(design, eta, shift, sums)


def _row_by_row(design, eta, shift, function) -> list:
    """Sums of what `function(logits, labels, weights, rows)` returns of slices of the rows that stay in cache.

    The logits (m, B, K), with a shift (B, K), and the weights are in float64. Threads have slices of their own. On an
    accelerator, all rows are one slice.
    """
    placement, n = design.accumulation, design.shape[0]
    size = max(1, tuning.ROW_BY_ROW_LOGITS // eta[..., 0].numel()) if placement.device.type == "cpu" else n
    y, weight = design.y, design.weight

    def own(rows):
        logits = placement.take(eta[..., rows]).permute(2, 0, 1)
        logits = logits if shift is None else logits + shift
        return function(logits, y[rows].to(logits.device), placement.take(weight[rows]), rows)

    slices = [*slices_of_size(n, size)]
    parts = [slices[part] for part in even_slices(len(slices), min(n_workers(), len(slices)))]
    return reduce(_added, in_threads(lambda part: reduce(_added, map(own, part)), parts))


def class_mass(design, loss, n_models) -> list:
    """The weight of each class in each model, (n_classes, B)."""
    codes = loss.codes(design.y).cpu()
    weights = design.to_accumulation(design.sample_weights).cpu()
    mass = torch.zeros(max(2, loss.n_logits), weights.shape[1], dtype=weights.dtype, device="cpu")
    mass.index_add_(0, codes, weights)  # of each column, which may be many models'
    index = design.weight_index
    return [mass.expand(-1, n_models).contiguous() if index is None else mass[:, index.cpu()]]
