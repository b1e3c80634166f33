"""The memory of L-BFGS."""

from copy import copy

import torch

LARGE = 2**12  # numbers in a matrix


class LBFGSMemory:
    """The last steps s and changes y of the gradient, and the inverse Hessian's estimate that they make of a metric.

    The two-loop recursion of Nocedal and Wright (2006), algorithm 7.4, written with triangular solves (after Byrd,
    Nocedal and Schnabel 1994, doi:10.1007/BF01582063): with R the upper triangle of S Y', its first loop solves
    R alpha = S g, and its second R' c = diag(R) alpha - Y r. That is four products instead of four for each pair.
    """

    def __init__(self, n_models, n_unknowns, memory, accumulation):
        self.memory = memory
        self.order = []  # slots of the pairs, the oldest first
        # Rows are added in powers of two, lest a fit of few iterations pay for its memory.
        self.steps = torch.empty(n_models, 0, n_unknowns, dtype=accumulation.dtype, device=accumulation.device)
        self.changes = torch.empty_like(self.steps)
        self.compute = torch.empty(n_models, 0, 0, dtype=accumulation.dtype, device=accumulation.device)  # S Y'

    def clear(self):
        self.order = []

    def state(self):
        """The pairs, without the rows that are still to be filled: order, steps, changes and products."""
        k = len(self.order)
        return (
            list(self.order),
            self.steps[:, :k].clone(),
            self.changes[:, :k].clone(),
            self.compute[:, :k, :k].clone(),
        )

    def resume(self, state):
        """Go on from a `state`."""
        self.order, self.steps, self.changes, self.compute = state

    def select(self, index):
        """The memory of the models at `index` alone."""
        out = copy(self)
        out.order = list(self.order)
        out.steps, out.changes, out.compute = self.steps[index], self.changes[index], self.compute[index]
        return out

    def append(self, s, y, usable):
        """Add a pair (B, d, K) each; where not `usable` (B,), one that changes nothing."""
        if len(self.order) == self.steps.shape[1] < self.memory:
            self._grow()
        k = self.order.pop(0) if len(self.order) == self.memory else len(self.order)
        self.order.append(k)
        used = usable[:, None].to(s.dtype)
        self.steps[:, k] = used * s.flatten(1)
        self.changes[:, k] = used * y.flatten(1)
        steps = self.steps[:, : len(self.order)]
        self.compute[:, : len(self.order), k] = _times(steps, self.changes[:, k])
        self.compute[:, k, k] += 1.0 - used[:, 0]

    def _grow(self):
        extra = min(self.memory, max(8, 2 * len(self.order))) - len(self.order)
        n_models, _, n_unknowns = self.steps.shape
        rows = self.steps.new_empty(n_models, extra, n_unknowns)
        self.steps = torch.cat([self.steps, rows], dim=1)
        self.changes = torch.cat([self.changes, rows], dim=1)
        self.compute = torch.nn.functional.pad(self.compute, (0, extra, 0, extra))

    def solve(self, gradient, gamma, preconditioner):
        """The inverse Hessian's estimate times gradient (B, d, K), starting from gamma (B,) times the metric's."""
        k = len(self.order)
        scale = gamma[:, None, None]
        if k == 0:
            return scale * preconditioner.solve(gradient)
        steps, changes = self.steps[:, :k], self.changes[:, :k]
        order = torch.tensor(self.order, device=steps.device)
        slots = order.argsort()
        upper = self.compute[:, order][:, :, order]
        g = gradient.flatten(1)  # (B, N)
        alpha = torch.linalg.solve_triangular(upper, _times(steps, g)[:, order, None], upper=True)
        r = scale * preconditioner.solve((g - _times(changes.mT, alpha[:, slots, 0])).view(gradient.shape))
        r = r.flatten(1)
        right = upper.diagonal(dim1=1, dim2=2)[..., None] * alpha - _times(changes, r)[:, order, None]
        c = torch.linalg.solve_triangular(upper.mT, right, upper=False)
        return (r + _times(steps.mT, c[:, slots, 0])).view(gradient.shape)


def _times(matrices, vectors):
    """Matrix times vector for each of B models: (B, k, N), (B, N) -> (B, k).

    On a CPU large ones are multiplied one by one: four to ten times as fast as torch's batched product, which knows no
    vectors.
    """
    if matrices.device.type != "cpu" or matrices[0].numel() < LARGE:
        return (matrices @ vectors[..., None])[..., 0]
    return torch.stack([matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)])
