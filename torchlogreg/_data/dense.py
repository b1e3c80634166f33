"""Rows of data on a device, and the three linear maps that a fit needs from them.

`matvec` takes coefficients to logits, `rmatvec` is its adjoint, `gram` gives weighted second moments. X is stored
without the intercept; its column of ones is written out in blocks only.
Shapes: X (n, p), d = p + intercept, W (B, d, K) with the intercept as last row, eta (n, B, K).
"""

from functools import cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch

from torchlogreg._data.device import Placement
from torchlogreg._runtime.out_of_memory import divisor
from torchlogreg._runtime.threads import in_threads, n_readers

# Numbers of X that are read at a time, but at least 64 rows. On a CPU a block stays in cache between `matvec` and
# `rmatvec`; accelerators want few, large kernels instead.
CPU_BLOCK = 440_000
ACCELERATOR_BLOCK = 2**26
LOGIT = 4
ALL, MOST = slice(None), 0.9  # of the models
GATHERED = 1024  # rows gathered at a time
COLUMN_PRODUCTS = 2**23  # numbers in twice the products of pairs of columns, up to which they may be kept
FEWEST_BLOCKS, PRODUCTS = 4, 2**23  # blocks, or products of sums over the rows, that are worth a thread
PARTIAL_SUMS = 2**22  # numbers that such sums may take in all threads together
FACTORS = torch.float32, torch.float64  # dtypes that are multiplied as they are; X of others is lifted block by block


def _dot(a, b):
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported where the objective is looked at
        return np.dot(a, b)


def _matrix_product(a, b):
    """a b; by NumPy, which halves the work where one is the other's transpose, unless torch has several threads."""
    if a.device.type != "cpu" or torch.get_num_threads() > 1:
        return a @ b
    return torch.from_numpy(_dot(a.numpy(), b.numpy()))


def product_dtype(X):
    """The dtype of products with X: its own, or for half precision float32 and for integers float64."""
    if X.dtype in FACTORS:
        return X.dtype
    return torch.float32 if X.is_floating_point() or X.device.type == "mps" else torch.float64


def checksum(arrays):
    """A checksum of tensors and of NumPy's arrays."""
    fingerprint = 0
    for array in arrays:
        if isinstance(array, torch.Tensor):
            array = array.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        fingerprint = crc32(np.ascontiguousarray(array), fingerprint)
    return fingerprint


class MiniBatch(NamedTuple):
    """Some rows, gathered for one step of SGD; coefficients are flat here, (K, d)."""

    X: torch.Tensor  # (b, d)

    def logits(self, flat):
        """(K, b)"""
        return torch.mm(flat, self.X.T)

    def add_products(self, out, residual, beta, alpha):
        """out := beta out + alpha residual X, in place, with residual (K, b)."""
        out.addmm_(residual, self.X, beta=beta, alpha=alpha)


class DenseDesign:
    """n rows with their labels `y` (n,) and columns of weights (n, V).

    Model b weighs the rows by column `of[b]`; by column b without `of`, or by the only one there is.
    Products with X run in X's own dtype; blocks of half precision or integers are lifted to a wider one, as `exact`
    lifts them to float64. Everything around them is float64.
    """

    in_memory = True  # `StreamedDesign` is not
    n_passes_before = 0  # reads before the first one of the fit

    def __init__(self, X, y, columns, *, intercept, products=None, of=None):
        self.X, self.y, self.sample_weights, self.intercept, self.of = X, y, columns, intercept, of
        self.accumulation = Placement.beside(X.device)
        self.compute = products or Placement(X.device, product_dtype(X))
        self._views, self._parts = (0, ()), ()
        self.cache = {}  # what serves all models over these rows, by name; None for a part of others

    @property
    def weight(self):
        """(n, B), or (n, 1) if all models weigh the rows alike."""
        return (
            self.sample_weights if self.of is None else self.sample_weights.T[self.of].T
        )  # laid out as the logits are

    @cached_property
    def trained(self):
        """Index of the models that weigh some of these rows; a slice of all, if most do or none."""
        if self.of is None:
            return ALL
        used = self.sample_weights.any(dim=0)[self.of]
        none_or_most = not used.any() or float(used.double().mean()) > MOST
        return ALL if none_or_most else torch.nonzero(used).flatten()

    def select(self, index):
        """The same rows for the models at `index` alone."""
        if self.of is not None:
            index = self.of[index]
        elif self.sample_weights.shape[1] == 1:
            return self
        out = type(self)(self.X, self.y, self.sample_weights, intercept=self.intercept, products=self.compute, of=index)
        out.cache = self.cache
        return out

    @property
    def shape(self):
        """(n, d)"""
        n, p = self.X.shape
        return n, p + self.intercept

    @property
    def n_features(self):
        return self.X.shape[1]

    @property
    def n_numbers(self):
        """How many numbers X holds."""
        return self.X.numel()

    @property
    def n_bytes(self):
        """How many bytes they take."""
        return self.X.element_size() * self.X.numel()

    def fingerprint(self):
        """A checksum of all that the rows are."""
        return checksum([*self.X.split(max(1, CPU_BLOCK // self.n_features)), self.y, self.sample_weights])

    def n_frequent_columns(self, n_logits):  # noqa: ARG002 - a table has none
        """How many columns hold most of the numbers, where the others are nearly empty."""
        return 0

    @property
    def device(self):
        """Where X is."""
        return self.X.device

    @property
    def is_exact(self):
        return self.compute.dtype == self.accumulation.dtype

    def exact(self):
        """The same rows, with products in float64; X itself is not copied."""
        if self.is_exact:
            return self
        return type(self)(
            self.X, self.y, self.sample_weights, intercept=self.intercept, products=self.accumulation, of=self.of
        )

    def in_float64(self):
        """The same rows with X in float64: a copy."""
        X = self.X.to(device=self.accumulation.device, dtype=self.accumulation.dtype)
        y, columns = self.y.to(X.device), self.sample_weights.to(X.device)
        return type(self)(X, y, columns, intercept=self.intercept, of=self.of)

    def reweighted(self, columns):
        """The same rows with other columns of weights."""
        return self._with(self.X, self.y, columns)

    def largest_weight(self):
        """The largest weight of each column, (V,)."""
        return self.sample_weights.amax(dim=0)

    def total_weight(self):
        """The sum of each column, (V,)."""
        return self.sample_weights.sum(dim=0)

    def divided(self, by):
        """The same rows with their weights divided by `by` (V,)."""
        return self.reweighted(self.sample_weights / by)

    @property
    def n_samplable(self):
        """How many rows `sample_rows` can find."""
        return self.shape[0]

    def sample_rows(self, size, generator):
        """Index of `size` random rows that have a weight; with replacement, which is cheaper than a permutation."""
        weight = self.sample_weights.amax(dim=1)
        if bool(weight.all()):
            return torch.randint(len(weight), (size,), generator=generator, device="cpu").to(weight.device)
        present = torch.nonzero(weight).flatten()
        drawn = torch.randint(len(present), (size,), generator=generator, device="cpu")
        return present[drawn.to(present.device)]

    def second_moments(self):
        """Of each column, (d,), weighted; where models have weights of their own, by the largest of a row's."""

        def moments(part):
            return sum(block.gram_diagonal(block.sample_weights.amax(dim=1, keepdim=True)) for block in part.blocks())

        return sum(in_threads(moments, self.parts(n_readers())))[0]

    def norms(self, moments):
        """Sums of the squares in each row, those of a column over its second moment: (d,) -> (n,)."""
        scale = torch.where(moments > 0, 1.0 / moments.clamp(min=torch.finfo(moments.dtype).tiny), 0.0)

        def norms(part):
            return torch.cat([block.squared_norms(scale) for block in part.blocks()])

        return torch.cat(in_threads(norms, self.parts(n_readers()))).to(self.sample_weights)

    def effective_row_count(self):
        """How many rows, as good as, are unlike most in each column, (d,): of an indicator the rarer kind."""
        weight = self.sample_weights.amax(dim=1)
        some, squares = self._weight_off_the_mode(torch.stack([weight, weight.square()]).to(self.X.dtype))  # (d,) each
        effective_row_count = (some.square() / squares).nan_to_num(0.0)  # that of a constant column is 0 / 0
        if self.intercept:
            effective_row_count = torch.cat(
                [effective_row_count, (weight.sum().square() / weight.square().sum())[None].to(effective_row_count)]
            )
        return self.to_accumulation(effective_row_count)

    def _weight_off_the_mode(self, weights):
        """The weight (2, n) of the rows whose number in a column is not that of most, (2, p)."""
        best = None
        for row in self.X[[0, len(self.X) // 2]]:  # hardly both are among the few in a column where these are few
            off = sum(w @ (x != row).to(w) for x, w in zip(self.X.split(1024), weights.split(1024, dim=1), strict=True))
            best = off if best is None else torch.where(off[0] < best[0], off, best)
        return best

    def chunks(self, size=1):  # noqa: ARG002 - one chunk is all rows
        """The rows as they are at hand, which is at once."""
        return (self,)

    def take(self, index):
        """The rows at `index`, copied and ready for products."""
        return self._with(self.X[index], self.y[index], self.sample_weights[index]).upcast()

    def upcast(self):
        """The same rows, with X in a dtype that is multiplied as it is."""
        if self.X.dtype in FACTORS:
            return self
        return self._with(self.X.to(self.compute.dtype), self.y, self.sample_weights)

    def gathered(self, order, size):
        """Mini-batches of the rows in `order`, several at a time, the column of ones written out.

        Gathering is bound by memory and gains from threads, unlike the arithmetic of a small batch.
        """
        n_gathered, dtype = size * max(1, GATHERED // size), self.compute.dtype
        buffer = torch.ones(min(n_gathered, len(order)), self.shape[1], dtype=dtype, device=self.device)
        for index in order.split(n_gathered):
            rows = buffer[: len(index)]
            if self.X.dtype == dtype:
                torch.index_select(self.X, 0, index, out=rows[:, : self.n_features])
            else:
                rows[:, : self.n_features] = self.X.index_select(0, index)
            yield [MiniBatch(X) for X in rows.split(size)]

    def blocks(self, n_columns=1):
        """Cache-sized views, one after the other, of rows with so many logits; each holds X as `products` wants it.

        A logit weighs as much as several numbers of X, for it is computed in several steps.
        """
        n, p = self.X.shape
        size = max(64, self._block // max(p, LOGIT * n_columns))
        if n <= size:
            return (self.whole,)
        blocks = (self._cast(slice(start, start + size)) for start in range(0, n, size))
        if self.X.dtype != self.compute.dtype or self.X.device != self.compute.device:
            return blocks
        # Views cost nothing to keep, and a third of the time between two products to make.
        if self._views[0] != size:
            self._views = size, tuple(blocks)
        return self._views[1]

    def parts(self, n_parts, n_columns=1):
        """Up to `n_parts` consecutive parts, kept between passes; fewer of rows that make few blocks (see `blocks`)."""
        n, p = self.X.shape
        n_parts = max(1, min(n_parts, n * max(p, LOGIT * n_columns) // (FEWEST_BLOCKS * self._block)))
        if n_parts == 1:
            return (self,)
        if len(self._parts) != n_parts:
            self._parts = tuple(self._part(rows) for rows in self._slices(n_parts))
        return self._parts

    def _slices(self, n_parts):
        """Slices of the rows, `n_parts` of nearly the same size."""
        n = len(self.X)
        return [slice(n * i // n_parts, n * (i + 1) // n_parts) for i in range(n_parts)]

    @cached_property
    def whole(self):
        """All rows as one block, kept between passes: column-major, the column of ones written out."""
        kept = {} if self.cache is None else self.cache
        if "whole" not in kept:
            X = self._cast(slice(None)).X.T
            if self.intercept:
                X = torch.cat([X, X.new_ones(1, X.shape[1])])
            kept["whole"] = X.contiguous().T
        X = kept["whole"]
        y, columns = self.y.to(X.device), self.sample_weights.to(X.device)
        out = DenseDesign(X, y, columns, intercept=False, products=self.compute, of=self.of)
        out.cache = self.cache
        return out

    def _cast(self, rows):
        X = self.X[rows].to(device=self.compute.device, dtype=self.compute.dtype)
        out = self._with(X, self.y[rows].to(X.device), self.sample_weights[rows].to(X.device))
        out.cache = None
        return out

    @property
    def _block(self):
        return (CPU_BLOCK if self.compute.device.type == "cpu" else ACCELERATOR_BLOCK) // divisor.get()

    def _with(self, X, y, columns):
        return type(self)(X, y, columns, intercept=self.intercept, products=self.compute, of=self.of)

    def matvec(self, W):
        """Logits (n, B, K) in X's dtype."""
        n_models, _, n_logits = W.shape
        return self._matvec(self.flat(W)).T.view(-1, n_models, n_logits)

    def rmatvec(self, residual):
        """Sums of x_i residual_i over the rows, (B, d, K): the adjoint of `matvec`."""
        n, n_models, n_logits = residual.shape
        return self._unflat(self._rmatvec(residual.reshape(n, -1).T), n_models, n_logits)

    def sweep(self, W, visit, of=None):
        """Sums of x_i residual_i, (B, d, K), with residual (n, B, K) = visit(block, logits, models) for each block.

        One read: a block is in cache when it is pulled. What is the same for all blocks is done once. `models` are
        those that weigh some of the block's rows; the others, which hold out all of them, are left out. With `of` (B,)
        the logits are those of W, of which model b shares number of[b].
        """
        n_models, n_logits = len(W) if of is None else len(of), W.shape[2]
        flat = self.flat(W)
        total = torch.zeros(
            n_models, n_logits, W.shape[1], dtype=self._wide(self.accumulation.dtype), device=flat.device
        )
        for block in self.blocks(n_models * n_logits):
            models = block.trained
            whole = of is not None or models is ALL
            some = flat if whole else flat.view(n_models, n_logits, -1)[models].flatten(0, 1)
            residual = visit(block, block._matvec(some).T.view(len(block.X), -1, n_logits), models)
            total[models] += block._rmatvec(residual.reshape(len(residual), -1).T).view(-1, n_logits, W.shape[1])
        return self._unflat(total, n_models, n_logits)

    def is_column(self, W):
        """Whether `sweep_column` reads these rows for W."""
        n, p = self.X.shape
        as_they_are = self.X.dtype == self.compute.dtype and self.X.device.type == "cpu"
        return as_they_are and self.intercept and W.shape[::2] == (1, 1) and n * p > self._block

    def sweep_column(self, W, visit, eta):
        """`sweep` for one model of one logit on the host, without torch's overheads: 12 ms instead of 21.

        `visit` takes logits (n,), labels and weights of a block in NumPy and returns its residual (n,). The logits are
        left in `eta` (n,) if there is one.
        """
        n, p = self.X.shape
        X, y, weight = self.X.numpy(), self.y.numpy(), self.weight[:, 0].numpy()
        w = self.flat(W)[0].numpy()
        total = np.zeros(p + 1)
        size = max(64, self._block // p)
        with np.errstate(over="ignore", invalid="ignore"):  # as in `_dot`
            for start in range(0, n, size):
                part = slice(start, start + size)
                logits = np.dot(X[part], w[:p], out=None if eta is None else eta[part])
                logits += w[p]
                residual = visit(logits, y[part], weight[part])
                total[:p] += np.dot(residual, X[part])
                total[p] += residual.sum(dtype=np.float64)
        return torch.from_numpy(total).view(W.shape)

    def flat(self, W):
        """(B, d, K) -> (B K, d) as products want it."""
        return W.mT.reshape(-1, W.shape[1]).to(device=self.compute.device, dtype=self.compute.dtype)

    def _unflat(self, flat, n_models, n_logits):
        return self.to_accumulation(flat.view(n_models, n_logits, -1).mT)

    def _matvec(self, flat):
        """Logits (B K, n): class-major products are up to twice as fast as row-major ones for a few logits."""
        flat = flat.to(self.X)
        p = self.X.shape[1]
        if self._on_numpy(flat):
            eta = torch.from_numpy(_dot(self.X.numpy(), flat[0, :p].numpy()))[None]
            return eta.add_(flat[0, p]) if self.intercept else eta
        return torch.addmm(flat[:, p:], flat[:, :p], self.X.T) if self.intercept else flat @ self.X.T

    def _rmatvec(self, flat):
        """Sums of x_i flat_i, (B K, n) -> (B K, d)."""
        narrow = flat.to(self.X.dtype)
        if self._on_numpy(flat):
            out = torch.from_numpy(_dot(narrow[0].numpy(), self.X.numpy()))[None]
        else:
            out = narrow @ self.X
        wide = self._wide(self.accumulation.dtype)
        out = out.to(wide)
        return torch.cat([out, flat.sum(dim=1, keepdim=True, dtype=wide)], dim=1) if self.intercept else out

    def _on_numpy(self, columns):
        """Whether NumPy multiplies: torch's matrix-vector products reach half of its bandwidth on a CPU."""
        return self.X.device.type == "cpu" and len(columns) == 1 and not columns.requires_grad

    def gram(self, weight):
        """Sums of weight_im x_i x_i' over the rows, weight >= 0, a matrix for each column m: (n, M) -> (M, d, d)."""
        n_columns, d = weight.shape[1], self.shape[1]
        if n_columns == 1:
            return self.gram_of_copies(weight.sqrt()[..., None])
        if self._column_products_pay(n_columns):
            return self.to_accumulation(self._gram_of_column_products(weight))

        def product(part):
            return sum(
                (piece._ones_written_out().T @ copies).view(d, n_columns, d).transpose(0, 1).to(weight.dtype)
                for piece, copies in self._part(part)._copies(weight[part])
            )

        return self.to_accumulation(self._summed(product, n_columns * d**2))

    def gram_of_copies(self, factor):
        """Sums of (factor_i x x_i) (factor_i x x_i)', Kronecker products: (n, B, K) -> (B, K d, K d)."""

        def product(part, factor=factor):
            rows = self._part(part)
            return torch.stack(
                [sum(_matrix_product(c.T, c).to(f.dtype) for _, c in rows._copies(f)) for f in factor[part].unbind(1)]
            )

        _, n_models, n_copies = factor.shape
        size = (n_copies * self.shape[1]) ** 2
        if n_models * n_readers() * size <= PARTIAL_SUMS:
            return self.to_accumulation(self._summed(product, n_models * size))
        groups = factor.tensor_split(min(n_models, n_readers()), dim=1)  # sums of their own, none of them partial
        return self.to_accumulation(torch.cat(in_threads(lambda group: product(slice(None), group), groups)))

    def _column_products_pay(self, n_columns):
        """Whether products of pairs of columns, which serve any weights, are there or soon repay their cost.

        A block of many would keep more of them than X has numbers.
        """
        n, d = self.shape
        if self.cache is None:
            return False
        return "column products" in self.cache or (n * d**2 <= COLUMN_PRODUCTS and n_columns >= d / 4)

    def _gram_of_column_products(self, weight):
        d = self.shape[1]
        if "column products" not in self.cache:
            X = self._ones_written_out()
            first, second = torch.triu_indices(d, d, device=X.device)
            index = torch.empty(d, d, dtype=torch.long, device=X.device)
            index[first, second] = index[second, first] = torch.arange(len(first), device=X.device)
            self.cache["column products"] = X[:, first] * X[:, second], index.flatten()
        products, index = self.cache["column products"]
        weight = weight.to(products.dtype)
        out = self._summed(lambda part: weight[part].T @ products[part], weight.shape[1] * products.shape[1])
        return out.index_select(1, index).view(-1, d, d)

    def _summed(self, function, size):
        """The sum of function(part), of `size` numbers, over slices of the rows, in threads where it pays.

        A row takes `size` products.
        """
        n = len(self.X)
        n_parts = max(1, min(n_readers(), n * size // PRODUCTS, PARTIAL_SUMS // size))
        return sum(in_threads(function, self._slices(n_parts)))

    def _part(self, rows):
        """The rows at a slice."""
        out = self._with(self.X[rows], self.y[rows], self.sample_weights[rows])
        out.cache = None
        return out

    def _copies(self, factor):
        """Pieces of the rows, each with its copies (rows, K d) scaled by the columns of factor (n, K).

        A piece stays in cache with its copies, but outweighs the matrices that are summed over the pieces.
        """
        d, n_copies = self.shape[1], factor.shape[1]
        size = max(2 * d, self._block // max(1, n_copies * d))
        for start in range(0, len(self.X), size):
            piece = self._part(slice(start, start + size))
            f = factor[start : start + size].to(self.X.dtype)
            copies = self.X.new_empty(len(f), n_copies, d)
            torch.mul(f[..., None], piece.X[:, None], out=copies[..., : self.X.shape[1]])
            copies[..., self.X.shape[1] :] = f[..., None]
            yield piece, copies.view(len(f), -1)

    def _ones_written_out(self):
        """X with the intercept's column."""
        return torch.cat([self.X, self.X.new_ones(len(self.X), 1)], dim=1) if self.intercept else self.X

    def features(self):
        """All columns of X and that of ones, dense and in float64, (n, d)."""
        return self.to_accumulation(self._ones_written_out())

    def inner_products(self):
        """X X' (n, n) in float64, the intercept left out; one read."""
        n, p = self.X.shape
        size = p if self.X.dtype == self.accumulation.dtype else max(n, self._block // n)
        n_threads = min(n_readers(), max(1, n * n * p // PRODUCTS))
        tiles = list(combinations_with_replacement(self._slices(2 * n_threads if n_threads > 1 else 1), 2))
        out = torch.zeros(n, n, dtype=self.accumulation.dtype, device=self.accumulation.device)
        for panel in self.X.split(size, dim=1):
            panel = self.to_accumulation(panel)

            def add(tiles, panel=panel):
                for i, j in tiles:
                    out[i, j] += _matrix_product(panel[i], panel[j].T)

            in_threads(add, [tiles[k::n_threads] for k in range(n_threads)])
        for i, j in tiles:  # to the last bit, which not every BLAS makes of a product of a matrix and its transpose
            out[j, i] = out[i, j].T if i != j else out[i, i].tril() + out[i, i].tril(-1).T
        return out

    def gram_diagonal(self, weight):
        """The diagonals of `gram`: (n, M) -> (M, d)."""
        out = (weight.T.to(self.X.dtype) @ self.X.square()).to(weight.dtype)
        if self.intercept:
            out = torch.cat([out, weight.sum(dim=0)[:, None]], dim=1)
        return self.to_accumulation(out)

    def scatter(self):
        """See `Objective.scatter`; of rows whose weights sum to one."""
        square = self.gram_diagonal(self.weight)
        if self.intercept:
            mean = self.rmatvec(self.weight[..., None])[..., 0]  # (B, d)
            square[:, :-1] -= mean[:, :-1].square()
        return square.clamp(min=0.0)

    def squared_norms(self, scale):
        """Sums of scale_j x_ij^2 over the columns, (n,)."""
        square = self.X.to(self._wide(torch.float64)).square()
        scale = scale.to(square)
        return square @ scale[: self.n_features] + (scale[-1] if self.intercept else 0.0)

    def _wide(self, dtype):
        """The widest dtype up to `dtype` that the device of X computes in."""
        return torch.float32 if self.X.device.type == "mps" else dtype

    def to_accumulation(self, tensor):
        """`tensor` where coefficients live."""
        return tensor.to(self.accumulation.device).to(self.accumulation.dtype)
