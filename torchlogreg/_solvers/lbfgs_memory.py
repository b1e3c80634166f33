"""The memory of L-BFGS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from torchlogreg._solvers import tuning


class LBFGSMemory(NamedTuple):
    """The last steps s and changes y of the gradient, and the inverse Hessian that they make of a preconditioner.

    The two-loop recursion of Nocedal and Wright (2006), algorithm 7.4, written with triangular solves (after Byrd,
    Nocedal and Schnabel 1994, doi:10.1007/BF01582063): with R the upper triangle of S Y', its first loop solves
    R alpha = S g, and its second R' c = diag(R) alpha - Y r. That is four products instead of four for each pair.
    """

    capacity: int  # most pairs
    order: tuple[int, ...]  # slots of the pairs, the oldest first
    steps: torch.Tensor  # (B, slots, N)
    changes: torch.Tensor  # (B, slots, N)
    products: torch.Tensor  # (B, slots, slots) S Y'

    @classmethod
    def empty(cls, n_models, n_unknowns, capacity, placement):
        """Without a pair."""
        # Slots are added in powers of two, so that a fit of few iterations does not pay for all of them.
        steps = torch.empty(n_models, 0, n_unknowns, dtype=placement.dtype, device=placement.device)
        return cls(capacity, (), steps, torch.empty_like(steps), steps.new_empty(n_models, 0, 0))

    def cleared(self):
        """Without its pairs."""
        return self._replace(order=())

    def trimmed(self):
        """A copy without the slots that are still to be filled."""
        k = len(self.order)
        return self._replace(
            steps=self.steps[:, :k].clone(),
            changes=self.changes[:, :k].clone(),
            products=self.products[:, :k, :k].clone(),
        )

    def to(self, device):
        """The pairs on a device, to read them there."""
        k = len(self.order)
        steps, changes = (pairs[:, :k].to(device) for pairs in (self.steps, self.changes))
        return self._replace(steps=steps, changes=changes)

    def select(self, index):
        """The memory of the models at `index` alone."""
        return self._replace(steps=self.steps[index], changes=self.changes[index], products=self.products[index])

    def appended(self, s, y, usable):
        """With one more pair (B, d, K) each, in the same tensors; where not `usable` (B,), one that changes nothing."""
        if len(self.order) == self.steps.shape[1] < self.capacity:
            self = self._grown()
        order = self.order
        k, order = (order[0], order[1:]) if len(order) == self.capacity else (len(order), order)
        order = (*order, k)
        torch.mul(_flat(s), usable[:, None], out=self.steps[:, k])
        torch.mul(_flat(y), usable[:, None], out=self.changes[:, k])
        steps = self.steps[:, : len(order)]
        self.products[:, : len(order), k] = _times(steps, self.changes[:, k])
        self.products[:, k, k].add_(~usable)
        return self._replace(order=order)

    def moved(self, model: int) -> np.ndarray:
        """Which coefficients of a model the steps have changed, (N,); on the host."""
        return np.asarray(self.steps[model].numpy().any(axis=0))

    def pairs(self, model: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps and changes of a model's coefficients at an index (a,), (k, a) each, the oldest first; on the host.

        Those of weight zero are left out.
        """
        S, Y = (pairs[model].numpy() for pairs in (self.steps, self.changes))
        order = [slot for slot in self.order if S[slot].any()]
        out = np.empty((2, len(order), len(index)))
        for to, slot in enumerate(order):
            np.take(S[slot], index, out=out[0, to])
            np.take(Y[slot], index, out=out[1, to])
        return out[0], out[1]

    def _grown(self):
        extra = min(self.capacity, max(8, 2 * len(self.order))) - len(self.order)
        n_models, _, n_unknowns = self.steps.shape
        slots = self.steps.new_empty(n_models, extra, n_unknowns)
        return self._replace(
            steps=torch.cat([self.steps, slots], dim=1),
            changes=torch.cat([self.changes, slots], dim=1),
            products=torch.nn.functional.pad(self.products, (0, extra, 0, extra)),
        )

    def solve(self, gradient, gamma, preconditioner):
        """The inverse Hessian's estimate times gradient (B, d, K), from gamma (B,) times the preconditioner on."""
        k = len(self.order)
        scale = gamma[:, None, None]
        if k == 0:
            return scale * preconditioner.solve(gradient)
        steps, changes = self.steps[:, :k], self.changes[:, :k]
        order = slots = slice(None)
        if self.order != tuple(range(k)):  # a full memory, in which the newest pair took the slot of the oldest
            order = torch.tensor(self.order, device=steps.device)
            slots = order.argsort()
        upper = self.products[:, :k, :k][:, order][:, :, order]
        g = _flat(gradient)
        alpha = torch.linalg.solve_triangular(upper, _times(steps, g)[:, order, None], upper=True)
        r = _unflat(_times(changes.mT, alpha[:, slots, 0], plus=g, sign=-1.0), gradient)
        r = _flat(scale * preconditioner.solve(r))
        right = (upper.diagonal(dim1=1, dim2=2)[..., None] * alpha)[:, slots, 0]
        right = _times(changes, r, plus=right, sign=-1.0)[:, order, None]
        c = torch.linalg.solve_triangular(upper.mT, right, upper=False)
        return _unflat(_times(steps.mT, c[:, slots, 0], plus=r), gradient)


def _flat(W):
    """Coefficients (B, d, K) as vectors (B, N), class-major, as solvers lay them out: a view of them."""
    return W.mT.flatten(1)


def _unflat(vectors, W):
    """Vectors (B, N) as coefficients like W."""
    return vectors.view(W.mT.shape).mT


def _times(matrices, vectors, plus=None, sign=1.0):
    """plus + sign matrix vector for each of B models: (B, k, N), (B, N) -> (B, k).

    On a CPU large ones are multiplied one by one: four to ten times as fast as torch's batched product, which knows no
    vectors.
    """
    if matrices.device.type != "cpu" or matrices[0].numel() < tuning.BATCHED_PRODUCT_NUMBERS:
        if plus is None:
            return torch.bmm(matrices, vectors[..., None])[..., 0]
        return torch.baddbmm(plus[..., None], matrices, vectors[..., None], alpha=sign)[..., 0]
    out = torch.stack([matrix @ vector for matrix, vector in zip(matrices, vectors, strict=True)])
    return out if plus is None else torch.add(plus, out, alpha=sign)
