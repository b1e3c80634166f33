"""What a fit may ask of X: the interface of a design, which every way to store X implements.

Shapes, here and in the whole room: X (n, p), d = p + intercept, coefficients W (B, d, K) of B models and K logits with
the intercept as last row, logits eta (n, B, K), weights (n, B) or (n, 1).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from torchlogreg._data import tuning
from torchlogreg._data.device import Placement
from torchlogreg._data.sample_weights import Models

if TYPE_CHECKING:
    from torchlogreg._data.in_memory import InMemoryDesign


class Access(NamedTuple):
    """How a solver goes through X, which decides how X is best stored, and where."""

    in_random_order: bool = False  # row by row, not in blocks of consecutive rows
    by_products: bool = True  # through products with X and samples of its rows alone
    batch_rows: int | None = None  # rows that are multiplied together; None for blocks of many
    n_models: int = 1  # that share the passes
    n_passes: int | None = None  # None where it is not known beforehand


class Design(ABC):
    """Rows of X with their labels and weights.

    `DenseDesign` and `SparseDesign` hold them in memory (see `InMemoryDesign`); `StreamedDesign` passes over a stream;
    `ShardedDesign` has some of them in each of several processes.
    A class either declares a method or implements it: nothing concrete is overridden.
    Products run in `compute`, in X's own dtype unless that is half precision or integer; sums over the rows and
    everything else in `accumulation`, which is float64.
    """

    n_processes: int  # that have them; what is in memory beside them is in one alone
    in_memory: bool  # whether all rows are there at once, in a fixed order
    at_hand: ClassVar[bool]  # whether they are so in this process
    n_passes_before: int  # passes over the data before the first one of the fit

    intercept: bool  # whether there is a column of ones beside X
    compute: Placement
    accumulation: Placement
    weight_index: torch.Tensor | None  # (B,) the column of weights of each model; see `sample_weights`

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, d)"""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """The number of columns of X, p."""

    @property
    @abstractmethod
    def n_numbers(self) -> int:
        """How many numbers X holds; of a sparse X those that are stored."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """How many bytes of them are in memory."""

    @property
    @abstractmethod
    def n_weightings(self) -> int:
        """How many weights each row has: as many as there are models, or one if all use the same."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where X is."""

    @abstractmethod
    def n_frequent_columns(self, n_logits: int) -> int:
        """How many columns hold most of the numbers, where the others are nearly empty; 0 where they are not."""

    @abstractmethod
    def filled_columns(self) -> np.ndarray | None:
        """Mask of the columns of a sparse X that hold numbers, or of some once too many do; None of a dense X."""

    @abstractmethod
    def of_filled_columns(self, is_filled: np.ndarray) -> "Design":
        """The same rows of a sparse X without the columns that hold no number."""

    @abstractmethod
    def fingerprint(self) -> int:
        """A checksum of X, labels and weights."""

    @abstractmethod
    def exact(self) -> "Design":
        """The same rows, with products in float64; X itself is not copied."""

    @abstractmethod
    def in_float64(self) -> "Design":
        """The same rows with X in float64: a copy."""

    @abstractmethod
    def as_sample(self, *, spread: bool) -> "Design":
        """All rows as `take` returns them."""

    @abstractmethod
    def select(self, models: Models) -> Self:
        """The same rows for the models at an index alone."""

    @abstractmethod
    def divided(self, by: torch.Tensor) -> Self:
        """The same rows with each column of weights divided by a number, (V,)."""

    @abstractmethod
    def largest_weight(self) -> torch.Tensor:
        """The largest weight of each column, (V,)."""

    @abstractmethod
    def total_weight(self) -> torch.Tensor:
        """The sum of each column of weights, (V,)."""

    @abstractmethod
    def total(
        self, function: Callable[..., list], *arguments: Any, shapes: list[tuple[int, ...]], n_kept: int = 0
    ) -> list:
        """What `function(design, *arguments)` returns of all rows: sums over them, which have these shapes.

        The `n_kept` things after those belong to single rows, and stay where they are. The function is one of a module,
        so that other processes find it.
        """

    @abstractmethod
    def each(self, function: Callable[..., Any], *arguments: Any) -> list:
        """What `function(design, *arguments)` returns, of the rows of every process that has some."""

    @abstractmethod
    def chunks(self, size: int = 1) -> "Iterable[InMemoryDesign]":
        """All rows in one pass, as they come into memory; each chunk but the last has a multiple of `size` rows."""

    @abstractmethod
    def blocks(self, n_columns: int = 1) -> "Iterable[InMemoryDesign]":
        """All rows in one pass, in cache-sized blocks for so many logits; X is in the dtype of products with it."""

    @property
    @abstractmethod
    def n_samplable(self) -> int:
        """How many rows `sample_rows` chooses from; 0 where there is no sample."""

    @abstractmethod
    def sample_rows(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Index, for `take`, of `size` random rows that have a weight."""

    @abstractmethod
    def draw(self, shares: Any, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index, for `take`, of a random row for each of the numbers `uniform` in (0, 1], and the shares of these.

        Rows are drawn in proportion to `shares` (n,), one of those results of `total` that belong to single rows.
        """

    @abstractmethod
    def take(self, index: Models, factor: Any = 1.0, *, spread: bool = False) -> "Design":
        """The rows at an index, copied and upcast, their weights times a factor, of numbers or (m, 1).

        Where `spread`, many of them may stay in the processes that have them.
        """

    @property
    def is_exact(self) -> bool:
        """Whether products run in float64."""
        return self.compute.dtype == self.accumulation.dtype

    def to_accumulation(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device and in the dtype of the coefficients."""
        return self.accumulation.take(tensor)


class LocalDesign(Design):
    """Rows that this process alone has."""

    n_processes = 1

    @abstractmethod
    def row_fingerprint(self) -> int:
        """A checksum of 64 bits that adds up: that of all rows is the sum of those of their parts, in any order."""

    def total(self, function, *arguments, shapes, n_kept=0):  # noqa: ARG002 - for those who have no rows
        return function(self, *arguments)

    def each(self, function, *arguments):
        return [function(self, *arguments)]


def is_wide_table(n: int, d: int) -> bool:
    """Whether n rows of d coefficients, hardly any of them zero, are better seen by their inner products."""
    return d > 2 * n and n <= tuning.MAX_INNER_PRODUCT_ROWS
