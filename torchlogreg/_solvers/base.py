"""The interface of a solver: its configuration is frozen, and its state is a value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from sklearn.utils import check_random_state

from torchlogreg._objective.objective import Objective, Point


class Reading(NamedTuple):
    """What the host has to know of B models after an iteration."""

    value: list[float]  # NaN where it is not known
    norm: list[float]  # max|gradient|
    gap: list[float]  # estimate of (value - optimum) / optimum
    stuck: list[bool]  # whether no step helps at this precision
    blind: list[bool]  # whether the gap holds more than the preconditioner can see

    @classmethod
    def of(
        cls,
        point: Point,
        gap: torch.Tensor | None = None,
        stuck: list[bool] | None = None,
        blind: torch.Tensor | None = None,
    ) -> Reading:
        """In one transfer from the device, for each of them waits until it has caught up with the host; (B,) each."""
        return cls.with_more(point, gap, (), stuck, blind)[0]

    @classmethod
    def with_more(
        cls,
        point: Point,
        gap: torch.Tensor | None,
        more: Iterable[torch.Tensor],
        stuck: list[bool] | None = None,
        blind: torch.Tensor | None = None,
    ) -> tuple[Reading, list[list[float]]]:
        """The same, and other columns (B,) in that one transfer."""
        B = len(point.W)
        norm = None if point.gradient is None else point.gradient_norm
        columns = point.value, norm, gap, blind, *more
        dtype = (point.W if point.value is None else point.value).dtype
        known = [column.to(dtype) for column in columns if column is not None]
        numbers = iter(torch.stack(known).tolist() if known else [])
        values, norms, gaps, blind_ = (None if column is None else next(numbers) for column in columns[:4])
        unknown = [math.nan] * B
        flags = stuck or [False] * B, [bool(flag) for flag in blind_ or [0.0] * B]
        return cls(values or unknown, norms or unknown, gaps or [math.inf] * B, *flags), list(numbers)

    def select(self, index: list[int]) -> Reading:
        """Of the models at `index` alone."""
        columns: Any = ([column[b] for b in index] for column in self)
        return Reading(*columns)


class State(Protocol):
    """Where a solver is after an iteration: a NamedTuple of tensors and plain values.

    What the driver looks at is the same for all solvers. The tensors of a state may be used again by the next one, so
    each state is stepped from once.
    """

    @property
    def point(self) -> Point:
        """The iterate; for "sgd" without a gradient, and with the mean objective of the epoch's batches as value."""
        ...

    @property
    def reading(self) -> Reading:
        """What the host has to know of it."""
        ...

    @property
    def settled(self) -> bool:
        """Whether a schedule of the solver's own has come to its end."""
        ...


class Rule(Protocol):
    """When a solver has done enough."""

    @property
    def gap(self) -> float:
        """What the estimated gap has to be, infinite if nothing."""
        ...

    def met(self, state: State) -> list[bool]:
        """Which of the B models may stop."""
        ...


class Solver(ABC):
    """An algorithm with its settings: a frozen dataclass, final."""

    name: ClassVar[str]
    matrix_free: ClassVar[bool] = False  # whether products with X and samples of its rows are all that it needs
    whole_hessian: ClassVar[bool] = False  # whether it needs a matrix of all coefficients
    takes_kinks: ClassVar[bool] = False  # whether the penalty may have an L1 norm and bounds
    stochastic: ClassVar[bool] = False  # whether its steps estimate the gradient from some of the rows

    @abstractmethod
    def init(self, objective: Objective, W: torch.Tensor) -> Any:
        """The state at the start W (B, d, K)."""

    @abstractmethod
    def step(self, objective: Objective, state: Any) -> Any:
        """The state after one more iteration."""

    @abstractmethod
    def select(self, state: Any, index: torch.Tensor) -> Any:
        """The state of the models at `index` of the batch alone."""

    @abstractmethod
    def pack(self, state: Any) -> Any:
        """The state without what is large and computed again by `unpack`, for a checkpoint."""

    @abstractmethod
    def unpack(self, objective: Objective, packed: Any) -> Any:
        """The state that was packed, from which the iterates are the same as from the original."""

    @abstractmethod
    def stopping(self, tol: float) -> Rule:
        """The rule that says whether a state is good enough."""

    def for_models(self, index: torch.Tensor) -> Solver:  # noqa: ARG002 - unless it knows of its models
        """The solver for the models at `index` of the batch alone, wherever they are now."""
        return self

    def specialised(self, objective: Objective, W: torch.Tensor) -> Solver:  # noqa: ARG002 - unless there is another
        """The implementation of the same algorithm that is fastest for this objective."""
        return self

    def finisher(self, objective: Objective) -> Solver | None:  # noqa: ARG002 - unless it may be in doubt
        """The solver that takes over where this one cannot tell how far it is from the optimum, if there is one."""
        return None

    def in_float64(self) -> Solver:
        """The solver for an objective that became `in_float64`."""
        return self


class SelectableSolver(Solver):
    """A solver that an estimator's parameter `solver` can name."""

    takes_centre: ClassVar[bool] = False  # whether it shares what was computed at a nearby optimum, see `around`

    @classmethod
    @abstractmethod
    def from_params(cls, params: Mapping[str, Any], *, validated: bool = False) -> Self:
        """The solver with an estimator's parameters, by name; `validated` if validation data say when to stop."""

    def is_faster_alone(self, objective: Objective, W: torch.Tensor) -> bool:  # noqa: ARG002 - unless there is such a one
        """Whether a single model, from W (1, d, K), has an implementation that a batch of them has not."""
        return False

    def around(self, centre: Any) -> Self:  # noqa: ARG002 - unless it takes_centre
        """The solver for models near a `Centre`, the optimum of others."""
        return self


def drawn_seed(random_state: Any, default: int | None) -> int:
    """A seed from an estimator's `random_state`, for which None stands for `default`; None is another one each time."""
    return check_random_state(default if random_state is None else random_state).randint(2**31 - 1)
