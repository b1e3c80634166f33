"""The objective, stated once.

    F(W) = ( sum_i s_i loss(y_i, x_i W) + penalty(W) ) / S        S = sum_i s_i

W (B, d, K) holds B models over the same rows, K logits each, the intercept as last of the d = p + 1 rows (d = p
without). Labels y (n,), weights s (n, B) or (n, 1), logits (n, B, K); values and gaps are (B,). scikit-learn's
objective is C S F, with penalty = ||W||^2 / (2 C), so the minimisers agree. Weights, S and a reduction over
processes, should there be several, belong here and nowhere else: rows reach the solvers with s_i / S as their weight,
penalties with strength / S.
"""

import math
from itertools import accumulate
from typing import NamedTuple

import torch

from torchlogreg._data import kernels, moments
from torchlogreg._data.sample_weights import ALL_MODELS
from torchlogreg._objective.penalties import Ridge
from torchlogreg._runtime.threads import in_threads, n_readers

# Bytes of logits that a Point may keep: an eighth of X, and what is small anyway.
LOGITS_SHARE, LOGITS_BYTES = 1 / 8, 2**23
HESSIANS_SHARE = 0.1  # of the numbers of X that the Hessians of all parts of the rows may hold
SMALLEST = {torch.float32: 1e-32, torch.float64: 1e-300}  # curvature that sums of products hold
BEST = 1e-10  # gradient at intercepts that count as best: they are then within its square of the least value
ROOT_NUMBERS = 2**23  # of derivatives of the logits that are written out together
CHEAP_READ, DEAR_READ = 2**18, 20  # numbers of X, or reads before it, that make another read cheap


class Point(NamedTuple):
    """The objective at W (B, d, K)."""

    W: torch.Tensor
    value: torch.Tensor  # (B,)
    gradient: torch.Tensor  # (B, d, K)
    eta: torch.Tensor | None = None  # the logits of all rows (B, K, n), where they are small beside X
    hessian: torch.Tensor | None = None  # (B, 1, K d, K d), classes outermost, where it was asked for

    @property
    def gradient_norm(self):
        """max|gradient|, (B,)"""
        return self.gradient.abs().amax(dim=(1, 2))


class OutOfRange(ValueError):
    """Squares of the numbers of X overflow or underflow, in the dtype of products with it."""

    def __init__(self, what):
        super().__init__(
            f"Squares of the numbers of X {what} in float64. Standardise X (sklearn.preprocessing.StandardScaler)."
        )


def in_range(moments):
    """`moments`, sums of squares of the numbers of X, where they do not overflow."""
    if not torch.isfinite(moments).all():
        raise OutOfRange("overflow")
    return moments


def normalised(rows):
    """The rows with weights that sum to one, and the factors (V,) of S, which itself may overflow."""
    largest = rows.largest_weight()
    rows = rows.divided(largest)
    total = rows.total_weight()
    return rows.divided(total), (rows.to_accumulation(largest), rows.to_accumulation(total))


class PassCounter:
    """How often the rows were read, in full reads: a read of a tenth of them counts 0.1."""

    def __init__(self, n_rows, n_before=0):
        self.n_rows, self.n_visited = n_rows, n_before * n_rows

    @property
    def total(self):
        return self.n_visited / self.n_rows


class Objective:
    """A loss over rows plus a penalty, both divided by S. `passes` counts the reads, those of samples included."""

    def __init__(self, rows, loss, penalty, passes):
        self.design, self.loss, self.penalty, self.passes = rows, loss, penalty, passes

    @classmethod
    def of(cls, rows, loss, penalty):
        """The problem for raw weights and strengths."""
        rows, factors = normalised(rows)
        penalty = penalty.divided(
            [factor if rows.weight_index is None else factor[rows.weight_index] for factor in factors]
        )
        return cls(rows, loss, penalty, PassCounter(rows.shape[0], rows.n_passes_before))

    def select(self, index):
        """The problem of the models at `index` alone."""
        return Objective(self.design.select(index), self.loss, self.penalty.select(index), self.passes)

    def of_columns(self, columns):
        """The problem of the columns at an index alone, the intercept's as last, over dense rows."""
        p = self.design.n_features
        rows = self.design.dense(columns[columns < p])
        return Objective(rows, self.loss, Ridge(self.penalty.l2[:, columns]), self.passes)

    def exact(self):
        """The same problem, with every product in float64."""
        if self.design.is_exact:
            return self
        return Objective(self.design.exact(), self.loss, self.penalty, self.passes)

    def in_float64(self):
        """The same problem with X itself in float64, so that samples of its rows are, too."""
        return Objective(self.design.in_float64(), self.loss, self.penalty, self.passes)

    def upcast(self):
        """The same problem, with X in a dtype that is multiplied as it is."""
        rows = self.design.upcast()
        return self if rows is self.design else Objective(rows, self.loss, self.penalty, self.passes)

    def value_and_gradient(self, W, of=None):
        """Value and gradient at W, in one read; at W[of] if `of` (B,) is given, where models share coefficients."""
        return self._read(W, of=of)

    def between(self, start, end, t):
        """The objective at start + t (end - start), t (B,), from the logits of the two points: no read of X."""
        W = start.W + t[:, None, None] * (end.W - start.W)
        eta = torch.lerp(start.eta, end.eta, t[:, None, None].to(start.eta))  # (B, K, n)
        y, weight = self.design.y.to(eta.device), self.design.weight.to(eta.device)
        losses = self.loss.value(eta.permute(2, 0, 1), y)
        return self.penalty.value(W) + self.design.to_accumulation((weight * losses).sum(dim=0))

    def second_order(self, W):
        """Value, gradient and Hessian at W, in one read."""
        point = self._read(W, with_hessian=True)
        return point._replace(hessian=self._completed(point.hessian, W.shape[2]))

    def hessian_at(self, eta, index, kind):
        """The Hessian (B, 1, K d, K d) where the rows, in one block, have the logits eta (n, B, K).

        The sum over the rows is made for the models at `index` only; model b takes number kind[b] of those sums.
        """
        data = self._data_hessian(self.design.select(index), eta[:, index])
        return self._completed(data[kind], eta.shape[2])

    def root(self, W):
        """A triangular R (K d, K d) with R' R the Hessian of one model at W (1, d, K), classes outermost; one read.

        It has twice as many digits of the Hessian as sums of products have. Triangles of blocks of rows are stacked
        (TSQR, Demmel et al. 2012, doi:10.1137/080731992).
        """
        _, d, n_logits = W.shape
        l2 = self.penalty.l2[0, :, 0]
        R = torch.diag(l2.repeat(n_logits).sqrt())
        for block in self.exact()._blocks():
            factor = self.design.to_accumulation(self.loss.curvature_root(block.matvec(W))[:, 0])  # (m, K, M)
            factor = factor * self.design.to_accumulation(block.weight[:, :1]).sqrt()[..., None]
            X, size = block.features(), max(64, min(2 * n_logits * d, ROOT_NUMBERS // (n_logits**2 * d)))
            for rows, f in zip(X.split(size), factor.split(size), strict=True):
                J = torch.einsum("nkm,nj->nmkj", f, rows).reshape(-1, n_logits * d)
                R = torch.linalg.qr(torch.cat([R, J]), mode="r").R
        if n_logits > 1:  # see `_pin`
            lift = R.square().sum(dim=0).view(n_logits, d).mean(dim=0).sqrt() * (l2 == 0)
            R = torch.linalg.qr(torch.cat([R, torch.diag(lift).repeat(1, n_logits)]), mode="r").R
        return R

    def _data_hessian(self, rows, eta):
        """What `rows` add to the Hessian, (B, K d, K d)."""
        n_models, n_logits = eta.shape[1:]
        a, b = self.loss.curvature(eta)
        blocks = rows.gram((rows.weight[..., None] * a).flatten(1)).view(n_models, n_logits, *2 * rows.shape[1:])
        if n_logits == 1:
            return blocks[:, 0]
        hessian = rows.gram_of_copies(rows.weight.sqrt()[..., None] * b).neg_()
        d = rows.shape[1]
        hessian.view(n_models, n_logits, d, n_logits, d).diagonal(dim1=1, dim2=3).add_(blocks.permute(0, 2, 3, 1))
        return hessian

    def _completed(self, hessian, n_logits):
        """The Hessian (B, 1, K d, K d) with what the penalty adds."""
        diagonal = hessian.diagonal(dim1=1, dim2=2).unflatten(1, (n_logits, -1))
        if n_logits > 1:
            self._pin(hessian, diagonal)
        diagonal += self.penalty.l2.mT
        return hessian[:, None]

    def diagonal(self, W):
        """The Hessian's diagonal at W in one read, (B, K d, 1, 1)."""
        n_models, d, n_logits = W.shape
        self.passes.n_visited += self.design.shape[0]

        def read(part):
            out = 0.0
            for rows in part.blocks(n_models * n_logits):
                own = self.loss.logit_curvature(rows.matvec(W))
                out = out + rows.gram_diagonal((rows.weight[..., None] * own).flatten(1))
            return out

        out = 0.0
        for chunk in self.design.chunks():
            out = out + sum(in_threads(read, chunk.parts(n_readers(), n_models * n_logits)))
        out = out.view(n_models, n_logits, d) + self.penalty.l2.mT
        return out.reshape(n_models, n_logits * d, 1, 1)

    def sampled(self, index, factor=1.0):
        """The problem estimated on the rows at `index`, with their weights times `factor` scaled to a sum of one.

        It is the whole problem if those rows weigh nothing in one of the models.
        """
        rows = self.design.take(index)
        rows = rows.reweighted(rows.sample_weights * factor)
        total = rows.sample_weights.sum(dim=0)
        if not total.all():
            return self.upcast()
        return Objective(rows.reweighted(rows.sample_weights / total), self.loss, self.penalty, self.passes)

    def check_squares(self, point):
        """Raise OutOfRange if the curvature of a coefficient without penalty underflows at `point`.

        A tiny gradient is what such a column has in common with few others; then one more read tells.
        """
        if point.gradient is None:
            return
        p, smallest = self.design.n_features, SMALLEST[self.design.compute.dtype]
        free = self.penalty.l2[:, :p] < smallest
        if not free.any():
            return
        gradient = point.gradient[:, :p].abs()
        tiny = free & (gradient > 0) & (gradient < math.sqrt(smallest))
        if tiny.any():
            curvature = self.exact().diagonal(torch.zeros_like(point.W)).view(len(point.W), point.W.shape[2], -1).mT
            if (tiny & (curvature[:, :p] < smallest)).any():
                raise OutOfRange("underflow")

    def second_moments(self):
        """See `DenseDesign`; one read, once."""
        return self._cached("moments", lambda: moments.second_moments(self.design))

    def leverages(self, W=None):
        """What each row adds, as shares, to the second moments, or how much it adds to the curvature at W, (n,).

        The former takes two reads once, the latter one more.
        """
        second_moments = self.second_moments()
        norms = self._cached("norms", lambda: moments.row_norms(self.design, second_moments))
        return norms * (self.design.sample_weights.amax(dim=1) if W is None else self._row_curvatures(W))

    def _row_curvatures(self, W):
        """The trace of each row's second derivative in the logits at W, weighted, summed over the models, (n,)."""
        self.passes.n_visited += self.design.shape[0]

        def read(part):
            out = []
            for rows in part.blocks(W.shape[0] * W.shape[2]):
                own = self.loss.logit_curvature(rows.matvec(W)).sum(dim=2)
                out.append((rows.weight * own).sum(dim=1))
            return torch.cat(out)

        parts = self.design.parts(n_readers(), W.shape[0] * W.shape[2])
        return torch.cat(in_threads(read, parts)).to(self.design.sample_weights)

    def _cached(self, name, compute):
        kept = self.design.cache
        if name not in kept:
            self.passes.n_visited += self.design.shape[0]
            kept[name] = compute()
        return kept[name]

    def scatter(self):
        """Weighted variance of each column, (B, d), or its mean square without an intercept, whose own entry is 1."""
        self.passes.n_visited += self.design.shape[0]
        return moments.scatter(self.design)

    def shrunk(self, floor):
        """The problem with penalties of at least `floor` (B, d)."""
        return Objective(self.design, self.loss, Ridge(torch.maximum(self.penalty.l2, floor[..., None])), self.passes)

    def mini_batch(self, W, index):
        """The objective (B,) estimated on the rows at `index`, differentiable; its mean over the batches is F."""
        rows = self.design.take(index)
        value = self.loss.value(rows.matvec(W), rows.y)
        scale = self.design.shape[0] / rows.shape[0]
        return scale * (rows.weight * value).sum(dim=0) + self.penalty.value(W)

    def reweighted(self, columns):
        """The same losses and penalty with other weights, already divided by S."""
        return Objective(self.design.reweighted(columns), self.loss, self.penalty, self.passes)

    def loss_bounds(self):
        """Smoothness of the data term: of its mean over all rows, and of the worst single row."""
        return self.loss.smoothness * self.largest_moment(), self.loss.smoothness * self.row_moments()[1]

    def largest_moment(self, n_reads=12):
        """The largest eigenvalue of the weighted second moments, by power iteration."""
        rows = self.design
        generator = torch.Generator("cpu").manual_seed(0)
        v = torch.randn(1, rows.shape[1], 1, generator=generator, dtype=torch.float64, device="cpu")
        v = v.to(rows.accumulation.device)
        top = v.new_zeros(())
        for _ in range(n_reads):
            v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
            v = sum(b.rmatvec((b.weight * b.matvec(v)[..., 0])[..., None]) for b in self._blocks())
            top = v.norm()
        return float(top)

    def row_moments(self):
        """The mean of the rows' squared norms, and n times the largest, both weighted; one read."""
        mean = longest = 0.0
        ones = self.penalty.l2.new_ones(self.design.shape[1])
        for block in self._blocks():
            norms = block.weight[:, 0] * block.squared_norms(ones)
            mean, longest = mean + float(norms.sum()), max(longest, float(norms.max()))
        return mean, self.design.shape[0] * longest

    def optimality_bound(self, point):
        """A bound on value - optimum at `point`, (B,), by strong convexity.

        With intercepts that are best for the coefficients, F is at most ||gradient||^2 / (2 l2) above its minimum. The
        logits tell the best intercepts, and one more read the gradient there. Infinite without a penalty, where that
        read would be more than a twentieth of all, and where the best intercepts were not found.
        """
        p = self.design.n_features
        weakest = self.penalty.l2[:, :p, 0].amin(dim=1)  # (B,)
        nothing = torch.full_like(point.value, math.inf)
        if not weakest.all():
            return nothing
        value, gradient = point.value, point.gradient
        if self.design.intercept:
            if point.eta is None or (self.passes.total < DEAR_READ and self.design.n_numbers > CHEAP_READ):
                return nothing
            best = self.best_intercepts(point)
            if best is None:
                return nothing
            value, gradient = best
        square = gradient[:, :p].square().sum(dim=(1, 2))
        return (point.value - value).clamp(min=0.0) + square / (2.0 * weakest)

    def best_intercepts(self, point, most_steps=20):
        """Value and gradient where the intercepts are best for the coefficients, by Newton; None if it fails."""
        p, exact = self.design.n_features, self.exact()
        eta = self.design.to_accumulation(point.eta).permute(2, 0, 1)  # (n, B, K)
        y, weight = self.design.y.to(eta.device), self.design.to_accumulation(self.design.weight)
        shift, slope = torch.zeros_like(point.gradient[:, p]), point.gradient[:, p]  # (B, K)
        held = self.penalty.l2[:, p]  # (B, 1) not zero where a grid holds an intercept at zero
        for _ in range(most_steps):
            curvature = self.loss.summed_curvature(eta + shift, weight)
            if shift.shape[1] > 1:  # lift the direction in which the softmax is flat, as `_pin` does
                curvature += curvature.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
            curvature = curvature + torch.diag_embed(held.expand_as(shift))
            step, failed = torch.linalg.solve_ex(curvature, slope)
            shift = shift - step
            if failed.any() or not torch.isfinite(shift).all():
                return None
            losses, residual = self.loss.value_and_residual(eta + shift, y)
            residual.mul_(weight[..., None])
            slope = residual.sum(dim=0) + held * (point.W[:, p] + shift)
            if float(slope.abs().max()) <= BEST:
                break
        else:
            return None
        W = point.W.clone()
        W[:, p] += shift
        gradient, start = self.penalty.gradient(W), 0
        for rows in exact._blocks():
            part = residual[start : start + rows.shape[0]]
            gradient = gradient + rows.rmatvec(part.to(rows.device))
            start += rows.shape[0]
        return self.penalty.value(W) + (weight * losses).sum(dim=0), gradient

    def centred(self, direction):
        """`direction` without its part along which the softmax is flat (see `_pin`)."""
        if direction.shape[2] == 1:
            return direction
        return direction - (self.penalty.l2 == 0) * direction.mean(dim=2, keepdim=True)

    def _blocks(self):
        self.passes.n_visited += self.design.shape[0]
        return self.design.blocks()

    def _read(self, W, with_hessian=False, of=None):
        """One pass over the rows: the point at W or W[of], with the Hessian of the losses if asked for."""
        self.passes.n_visited += self.design.shape[0]
        kept = self._room_for_logits(W) if of is None else None

        def read(part):
            rows, start = part
            kernel = None if with_hessian or of is not None else self.loss.one_logit_kernel
            if kernel is not None and kernels.takes_one_logit_kernel(rows, W):
                eta = None if kept is None else kept[0, 0, start : start + rows.shape[0]].numpy()
                value, gradient = kernels.one_logit_pass(rows, W, kernel, eta)
                return gradient.new_tensor([value]), gradient, 0.0
            value = rows.sample_weights.new_zeros(len(W) if of is None else len(of))
            hessian = W.new_zeros(len(W), *2 * [W.shape[1] * W.shape[2]]) if with_hessian else 0.0

            def visit(block, eta, models):
                nonlocal start
                block = block if models is ALL_MODELS else block.select(models)
                losses, residual = self.loss.value_and_residual(eta, block.y)
                if of is not None:
                    own = of[models]
                    losses, residual = losses.T[own].T, residual.permute(1, 2, 0)[own].permute(2, 0, 1)
                weight = block.weight
                value[models] += (weight * losses).sum(dim=0)
                if with_hessian:
                    hessian[models] += self._data_hessian(block, eta)
                if kept is not None:
                    kept[models, :, start : start + len(eta)] = eta.permute(1, 2, 0)
                    start += len(eta)
                return residual.mul_(weight[..., None])

            gradient = kernels.sweep(rows, W, visit, of)
            return rows.to_accumulation(value), gradient, hessian

        n_columns = (len(W) if of is None else len(of)) * W.shape[2]
        n_hessian = len(W) * (W.shape[1] * W.shape[2]) ** 2 if with_hessian else 0
        total = [0.0, 0.0, 0.0]
        for chunk in self.design.chunks():
            # Every part makes Hessians of its own; where those are large, sums over one part have threads instead.
            together = n_readers() * n_hessian > HESSIANS_SHARE * chunk.n_numbers
            parts = chunk.parts(1 if together else n_readers(), n_columns)
            starts = accumulate((part.shape[0] for part in parts), initial=0)
            sums = in_threads(read, [*zip(parts, starts, strict=False)])
            total = list(map(sum, zip(total, *sums, strict=True)))
        value, gradient, hessian = total
        W = W if of is None else W[of]
        point = Point(W, self.penalty.value(W) + value, self.penalty.gradient(W) + gradient, kept)
        return point._replace(hessian=hessian) if with_hessian else point

    def _room_for_logits(self, W):
        n_models, _, n_logits = W.shape
        n, dtype = self.design.shape[0], self.design.compute.dtype
        n_bytes = dtype.itemsize * n_models * n_logits * n
        if not self.design.in_memory or n_bytes > max(LOGITS_BYTES, LOGITS_SHARE * self.design.n_bytes):
            return None
        new = (
            torch.empty if self.design.weight_index is None else torch.zeros
        )  # a model that holds out a block leaves it as it is
        return new(n_models, n_logits, n, dtype=dtype, device=self.design.compute.device)

    def _pin(self, hessian, diagonal):
        """Lift the directions in which the softmax is flat, in place: hessian (B, K d, K d), diagonal (B, K, d).

        Adding a constant to the same row of all K logits changes no probability, so where that row has no penalty
        the Hessian is singular. The gradient has no part in those directions; any positive curvature there gives
        the same Newton step.
        """
        n_models, n_logits, d = diagonal.shape
        lift = torch.diag_embed(diagonal.mean(dim=1) * (self.penalty.l2[..., 0] == 0))  # (B, d, d)
        hessian.view(n_models, n_logits, d, n_logits, d).add_(lift[:, None, :, None, :])
