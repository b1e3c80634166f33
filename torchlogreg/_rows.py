"""Rows of data on a device, and the three linear maps that a fit needs from them.

`predict` takes coefficients to logits, `pull` is its adjoint, `gram` gives weighted second moments. X is stored
without the intercept; its column of ones is written out in blocks only.
Shapes: X (n, p), d = p + intercept, W (B, d, K) with the intercept as last row, eta (n, B, K).
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

# Rows are read in blocks that stay in a core's cache between `predict` and `pull`: on two Zen 4 cores 4 MiB reads
# 500k x 54 float64 at 12 GB/s, 512 KiB at 9. Accelerators want few, large kernels instead.
CPU_BLOCK_BYTES = 4 * 2**20
ACCELERATOR_BLOCK_BYTES = 256 * 2**20


@np.errstate(over="ignore", invalid="ignore")  # what overflows is reported where the objective is looked at
def _dot(a, b):
    return np.dot(a, b)


class Home(NamedTuple):
    """Where coefficients and all small algebra live: float64, on the device of X if it has float64."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def beside(cls, device):
        return cls(torch.device("cpu") if device.type == "mps" else device, torch.float64)


class Rows:
    """n rows with their labels `y` (n,) and weights (n, B) or (n, 1).

    Products with X run in X's own dtype (`exact` lifts each block to float64); everything around them is float64.
    """

    def __init__(self, X, y, weight, *, intercept, products=None):
        self.X, self.y, self.weight, self.intercept = X, y, weight, intercept
        self.home = Home.beside(X.device)
        self.products = products or Home(X.device, X.dtype)

    @property
    def shape(self):
        """(n, d)"""
        n, p = self.X.shape
        return n, p + self.intercept

    @property
    def is_exact(self):
        return self.products.dtype == self.home.dtype

    def exact(self):
        """The same rows, with products in float64; X itself is not copied."""
        return Rows(self.X, self.y, self.weight, intercept=self.intercept, products=self.home)

    def reweighted(self, weight):
        """The same rows with other weights."""
        return self._with(self.X, self.y, weight)

    def take(self, index):
        """The rows at `index`, copied."""
        return self._with(self.X[index], self.y[index], self.weight[index])

    def blocks(self):
        """Cache-sized views, one after the other; each holds X as `products` wants it."""
        n, p = self.X.shape
        size = max(64, self._block_bytes // (p * self.X.element_size()))
        if n <= size:
            return (self.whole,)
        return (self._block(slice(start, start + size)) for start in range(0, n, size))

    @cached_property
    def whole(self):
        """All rows as one block, kept between passes: column-major, the column of ones written out."""
        X = self._block(slice(None)).X.T
        if self.intercept:
            X = torch.cat([X, X.new_ones(1, X.shape[1])])
        y, weight = self.y.to(X.device), self.weight.to(X.device)
        return Rows(X.contiguous().T, y, weight, intercept=False, products=self.products)

    def _block(self, rows):
        X = self.X[rows].to(device=self.products.device, dtype=self.products.dtype)
        return self._with(X, self.y[rows].to(X.device), self.weight[rows].to(X.device))

    @property
    def _block_bytes(self):
        return CPU_BLOCK_BYTES if self.X.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES

    def _with(self, X, y, weight):
        return Rows(X, y, weight, intercept=self.intercept, products=self.products)

    def predict(self, W):
        """Logits (n, B, K) in W's dtype."""
        n_models, d, n_logits = W.shape
        flat = W.to(device=self.X.device, dtype=self.X.dtype).mT.reshape(-1, d)  # (B K, d)
        # Class-major products, (B K, n), are up to twice as fast as row-major ones for a few logits; the view handed
        # back has the layout of the package.
        if not self.intercept:
            eta = flat @ self.X.T
        elif self._on_numpy(flat):
            eta = torch.from_numpy(_dot(self.X.numpy(), flat[0, :-1].numpy()))[None].add_(flat[0, -1])
        else:
            eta = torch.addmm(flat[:, -1:], flat[:, :-1], self.X.T)
        return eta.T.view(-1, n_models, n_logits).to(self._wide(W.dtype))

    def pull(self, residual):
        """Sums of x_i residual_i over the rows, (B, d, K): the adjoint of `predict`."""
        n, n_models, n_logits = residual.shape
        flat = residual.reshape(n, -1).T  # (B K, n)
        narrow = flat.to(self.X.dtype)
        if self._on_numpy(flat):
            out = torch.from_numpy(_dot(narrow[0].numpy(), self.X.numpy()))[None].to(residual.dtype)
        else:
            out = (narrow @ self.X).to(residual.dtype)
        if self.intercept:
            out = torch.cat([out, flat.sum(dim=1, keepdim=True)], dim=1)
        return self.bring_home(out.view(n_models, n_logits, -1).mT)

    def _on_numpy(self, columns):
        """Whether NumPy multiplies: torch's matrix-vector products reach half of its bandwidth on a CPU."""
        return self.X.device.type == "cpu" and len(columns) == 1 and not columns.requires_grad

    def gram(self, weight):
        """Sums of weight_im x_i x_i' over the rows, one matrix (d, d) for each column m: (n, M) -> (M, d, d)."""
        n, n_columns = weight.shape
        d, weight = self.shape[1], weight.to(self.X.dtype)
        if self.X.device.type == "cpu":
            # Pieces are copied, weighted, at a size that stays in cache and outweighs the sum of (d, d) matrices.
            size = max(2 * d, self._block_bytes // (d * self.X.element_size()))
            out = torch.zeros(n_columns, d, d, dtype=torch.float64, device=self.X.device)
            for x, w in zip(self.X.split(size), weight.split(size), strict=True):
                for m in range(n_columns):
                    out[m] += torch.from_numpy(self._weighted_gram(x.numpy(), w[:, m].numpy()))
            return self.bring_home(out)
        X = torch.cat([self.X, self.X.new_ones(n, 1)], dim=1) if self.intercept else self.X
        size = max(64, self._block_bytes // (n_columns * d * X.element_size()))
        out = sum(
            torch.bmm(x.T.expand(n_columns, -1, -1), w.T[:, :, None] * x).to(self._wide(torch.float64))
            for x, w in zip(X.split(size), weight.split(size), strict=True)
        )
        return self.bring_home(out)

    def _weighted_gram(self, X, weight):
        """X' diag(weight) X with the intercept's column; NumPy halves the work of a matrix times its own transpose."""
        n, p = X.shape
        root = np.sqrt(np.abs(weight))[:, None]
        weighted = np.empty((n, self.shape[1]), X.dtype)
        np.multiply(X, root, out=weighted[:, :p])
        weighted[:, p:] = root
        if weight.min() >= 0:
            return _dot(weighted.T, weighted)
        if weight.max() <= 0:  # between two classes of a softmax
            return -_dot(weighted.T, weighted)
        return _dot(weighted.T, np.sign(weight)[:, None] * weighted)

    def inner_products(self):
        """X X' (n, n) in float64, the intercept left out; one read."""
        n, p = self.X.shape
        home = Home.beside(self.X.device)
        size = p if self.X.dtype == home.dtype else max(n, self._block_bytes // (n * 8))
        out = torch.zeros(n, n, dtype=home.dtype, device=home.device)
        for panel in self.X.split(size, dim=1):
            panel = self.bring_home(panel)
            out += (
                torch.from_numpy(_dot(panel.numpy(), panel.T.numpy())) if home.device.type == "cpu" else panel @ panel.T
            )
        return out

    def gram_diagonal(self, weight):
        """The diagonals of `gram`: (n, M) -> (M, d)."""
        out = (weight.T.to(self.X.dtype) @ self.X.square()).to(weight.dtype)
        if self.intercept:
            out = torch.cat([out, weight.sum(dim=0)[:, None]], dim=1)
        return self.bring_home(out)

    def scatter(self):
        """Weighted variance of each column, or its mean square without an intercept, (B, d); weights sum to one."""
        square = self.gram_diagonal(self.weight)
        if not self.intercept:
            return square
        mean = self.pull(self.weight[..., None])[..., 0]  # (B, d)
        return (square - mean.square()).clamp(min=0.0)

    def squared_norms(self):
        """(n,), the intercept's column included."""
        return self.X.to(self._wide(torch.float64)).square().sum(dim=1) + self.intercept

    def _wide(self, dtype):
        """The widest dtype up to `dtype` that the device of X computes in."""
        return torch.float32 if self.X.device.type == "mps" else dtype

    def bring_home(self, tensor):
        """`tensor` where coefficients live."""
        return tensor.to(self.home.device).to(self.home.dtype)
