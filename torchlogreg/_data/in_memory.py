"""Designs whose rows are all in memory: what is the same however X is stored."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch

from torchlogreg._data import tuning
from torchlogreg._data.blocking import even_slices, slices_of_size
from torchlogreg._data.design import LocalDesign
from torchlogreg._data.device import Placement
from torchlogreg._data.gram import with_ones
from torchlogreg._data.mini_batches import MiniBatch
from torchlogreg._data.products import PRODUCT_DTYPES, product_dtype
from torchlogreg._data.sample_weights import (
    Models,
    index_of_selected,
    models_with_weight,
    sample_weighted_rows,
)
from torchlogreg._runtime.threads import in_threads, n_workers

if TYPE_CHECKING:
    from torchlogreg._data.dense import DenseDesign


class InMemoryDesign(LocalDesign):
    """n rows with their labels `y` (n,) and columns of weights (n, V).

    Three linear maps are what a fit needs of them: `matvec` takes coefficients to logits, `rmatvec` is its adjoint,
    `gram` gives weighted second moments. Subclasses know how X is stored and implement them; they override nothing.
    The flat maps have the columns of all models and logits side by side: coefficients (B K, d), logits (B K, n).
    """

    in_memory = at_hand = True
    n_passes_before = 0

    def __init__(
        self,
        X,  # (n, p) a tensor or a `CSRTensor`, without the intercept's column of ones
        y: torch.Tensor,
        sample_weights: torch.Tensor,
        *,
        intercept: bool,
        compute: Placement | None = None,
        weight_index: torch.Tensor | None = None,
    ):
        self.X, self.y, self.sample_weights = X, y, sample_weights
        self.intercept, self.weight_index = intercept, weight_index
        self.accumulation = Placement.beside(X.device)
        self.compute = compute or Placement(X.device, product_dtype(X))
        self.cache: dict[str, Any] | None = {}  # what serves all models over these rows; None for a part of others
        self._pieces: dict[str, tuple[int, tuple[Self, ...]]] = {}  # of the last size, by kind

    # --- How X is stored.

    @abstractmethod
    def flat(self, W: torch.Tensor) -> torch.Tensor:
        """Coefficients (B, d, K) as (B K, d), where and as products want them."""

    @abstractmethod
    def flat_matvec(self, flat: torch.Tensor) -> torch.Tensor:
        """Logits (B K, n) in X's dtype."""

    @abstractmethod
    def flat_rmatvec(self, flat: torch.Tensor) -> torch.Tensor:
        """Sums of x_i flat_i over the rows, (B K, n) -> (B K, d), accumulated in float64."""

    @abstractmethod
    def gram(self, weight: torch.Tensor) -> torch.Tensor:
        """Sums of weight_im x_i x_i' over the rows, weight >= 0, a matrix for each column m: (n, M) -> (M, d, d)."""

    @abstractmethod
    def gram_of_copies(self, factor: torch.Tensor) -> torch.Tensor:
        """Sums of (factor_i x x_i) (factor_i x x_i)', Kronecker products: (n, B, K) -> (B, K d, K d)."""

    @abstractmethod
    def gram_diagonal(self, weight: torch.Tensor) -> torch.Tensor:
        """The diagonals of `gram`: (n, M) -> (M, d)."""

    @abstractmethod
    def inner_products(self) -> torch.Tensor:
        """X X' (n, n) in float64, the intercept left out; one pass over the data."""

    @abstractmethod
    def squared_norms(self, scale: torch.Tensor) -> torch.Tensor:
        """Sums of scale_j x_ij^2 over the columns, (d,) -> (n,)."""

    @abstractmethod
    def weight_unlike(self, candidates: Self, weights: torch.Tensor) -> torch.Tensor:
        """The weights (2, n) of the rows whose number in a column is not that of a row of `candidates`, (2, 2, p)."""

    @abstractmethod
    def dense(self, columns: torch.Tensor | None = None) -> "DenseDesign":
        """Dense rows of all columns of X, or of those at an index."""

    @property
    @abstractmethod
    def whole(self) -> "DenseDesign":
        """All rows as one dense block, with the column of ones as a column of its X."""

    @abstractmethod
    def parts(self, n_parts: int, n_columns: int = 1) -> tuple[Self, ...]:
        """Up to `n_parts` consecutive parts, cached between passes; fewer of rows that make few blocks."""

    @abstractmethod
    def mini_batches(self, order: torch.Tensor, size: int) -> Iterator[list[MiniBatch]]:
        """Mini-batches of the rows in `order`, several at a time."""

    # --- Shapes, labels and weights.

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.X.shape
        return n, p + self.intercept

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    @property
    def n_numbers(self) -> int:
        return self.X.numel()

    @property
    def n_bytes(self) -> int:
        return self.X.element_size() * self.X.numel()

    @property
    def device(self) -> torch.device:
        return self.X.device

    @property
    def weight(self) -> torch.Tensor:
        """The weights that each model uses, laid out as logits are: (n, B), or (n, 1) if all use the same ones."""
        return self.sample_weights if self.weight_index is None else self.sample_weights.T[self.weight_index].T

    @property
    def n_weightings(self) -> int:
        return self.sample_weights.shape[1] if self.weight_index is None else len(self.weight_index)

    @cached_property
    def active_models(self) -> Models:
        """Index of the models that weigh some of these rows; all of them, if most do or none."""
        return models_with_weight(self.sample_weights, self.weight_index)

    @cached_property
    def extreme_weights(self) -> tuple[float, float]:
        """The smallest and the largest weight of a row."""
        smallest, largest = torch.stack(torch.aminmax(self.sample_weights)).tolist()
        return smallest, largest

    def largest_weight(self) -> torch.Tensor:
        return self.sample_weights.amax(dim=0)

    def total_weight(self) -> torch.Tensor:
        return self.sample_weights.sum(dim=0)

    # --- The same rows in another way.

    def select(self, models: Models) -> Self:
        index = index_of_selected(self.sample_weights, self.weight_index, models)
        if index is None:
            return self
        out = self._with(weight_index=index)
        out.cache = self.cache
        return out

    def reweighted(self, sample_weights: torch.Tensor) -> Self:
        """The same rows with other columns of weights."""
        return self._with(sample_weights=sample_weights.to(self.sample_weights))

    def labelled(self, y: torch.Tensor) -> Self:
        """The same rows with other labels."""
        return self._with(y=y)

    def divided(self, by: torch.Tensor) -> Self:
        return self.reweighted(self.sample_weights / by)

    def exact(self) -> Self:
        return self if self.is_exact else self._with(compute=self.accumulation)

    def in_float64(self) -> Self:
        X = self.X.to(device=self.accumulation.device, dtype=self.accumulation.dtype)
        y, sample_weights = self.y.to(X.device), self.sample_weights.to(X.device)
        return self._with(X=X, y=y, sample_weights=sample_weights, compute=None)

    def as_sample(self, *, spread: bool = False) -> Self:  # noqa: ARG002 - they are here
        return self if self.X.dtype in PRODUCT_DTYPES else self._with(X=self.X.to(dtype=self.compute.dtype))

    # --- Some of the rows.

    @property
    def n_samplable(self) -> int:
        return self.shape[0]

    def sample_rows(self, size: int, generator: torch.Generator) -> torch.Tensor:
        return sample_weighted_rows(self.sample_weights, size, generator)

    def draw(self, shares: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cumulative = self.to_accumulation(shares).cumsum(dim=0)
        index = torch.searchsorted(cumulative, uniform.to(cumulative) * cumulative[-1]).to(shares.device)
        return index, shares[index]

    def take(self, index: Models, factor: Any = 1.0, *, spread: bool = False) -> Self:  # noqa: ARG002 - they are here
        sample_weights = self.sample_weights[index] * factor
        return self._with(X=_gathered(self.X, index), y=self.y[index], sample_weights=sample_weights).as_sample()

    def chunks(self, size: int = 1) -> Iterable[Self]:  # noqa: ARG002 - one chunk is all rows
        return (self,)

    def view(self, rows: slice) -> Self:
        """The rows at a slice, as they are."""
        out = self._with(X=self.X[rows], y=self.y[rows], sample_weights=self.sample_weights[rows])
        out.cache = None
        return out

    def cast(self, rows: slice) -> Self:
        """The rows at a slice, where and as products want them."""
        X = self.X[rows].to(device=self.compute.device, dtype=self.compute.dtype)
        out = self._with(X=X, y=self.y[rows].to(X.device), sample_weights=self.sample_weights[rows].to(X.device))
        out.cache = None
        return out

    def blocks_of_size(self, size: int) -> Iterable[Self]:
        """Blocks of `size` rows: cached views, or copies one after the other where X must be cast or moved."""
        blocks = (self.cast(rows) for rows in slices_of_size(len(self.X), size))
        is_copy = self.X.dtype != self.compute.dtype or self.X.device != self.compute.device
        return blocks if is_copy else self._cached("blocks", size, blocks)

    def parts_at(self, n_parts: int, slices: Iterable[slice]) -> tuple[Self, ...]:
        """The `n_parts` parts at these slices."""
        return self._cached("parts", n_parts, (self.view(rows) for rows in slices))

    def _cached(self, kind: str, size: int, pieces: Iterator[Self]) -> tuple[Self, ...]:
        """Pieces of that kind and size, cached between passes: to make views takes a third of the time of a product."""
        if self._pieces.get(kind, (None,))[0] != size:
            self._pieces[kind] = size, tuple(pieces)
        return self._pieces[kind][1]

    # --- The linear maps.

    def matvec(self, W: torch.Tensor) -> torch.Tensor:
        """Logits (n, B, K) in X's dtype."""
        n_models, _, n_logits = W.shape
        return self.flat_matvec(self.flat(W)).T.view(-1, n_models, n_logits)

    def rmatvec(self, residual: torch.Tensor) -> torch.Tensor:
        """Sums of x_i residual_i over the rows, (B, d, K): the adjoint of `matvec`."""
        n, n_models, n_logits = residual.shape
        flat = self.flat_rmatvec(residual.reshape(n, -1).T)
        return self.to_accumulation(flat.view(n_models, n_logits, -1).mT)

    def features(self) -> torch.Tensor:
        """All columns of X and the column of ones, dense and in float64, (n, d)."""
        return self.to_accumulation(with_ones(self.dense().X, self.intercept))

    def _with(self, **changes: Any) -> Self:
        """The same design with other values; its cache is a new one."""
        values = {
            "X": self.X,
            "y": self.y,
            "sample_weights": self.sample_weights,
            "intercept": self.intercept,
            "compute": self.compute,
            "weight_index": self.weight_index,
            **changes,
        }
        return type(self)(**values)


def _gathered(X, index: Models):
    """The rows of X at an index; of a tensor on the host in threads, which all wait for memory at random."""
    if not isinstance(X, torch.Tensor) or not isinstance(index, torch.Tensor):
        return X[index]
    if X.device.type != "cpu" or index.dtype == torch.bool or len(index) * X.shape[1] < tuning.CPU_BLOCK_NUMBERS:
        return X[index]
    out = X.new_empty(len(index), X.shape[1])
    parts = even_slices(len(index), n_workers())
    in_threads(lambda part: torch.index_select(X, 0, index[part], out=out[part]), parts)
    return out
