"""The interface of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from sklearn.utils import check_random_state

from torchlogreg._solvers.driver import Step


class Solver(ABC):
    """An algorithm with its settings: a frozen dataclass."""

    name: str
    whole_hessian: bool = False  # whether it needs a matrix of all coefficients
    matrix_free: bool = False  # whether products with X and samples of its rows are all that it needs
    stochastic: bool = False  # whether its steps estimate the gradient from some of the rows
    takes_centre: bool = False  # whether it can share what was computed at a nearby optimum, see `around`
    default_seed: int | None = None  # what random_state=None stands for; None itself is another seed in every fit

    @classmethod
    def from_params(cls, params: Mapping[str, Any], *, validated: bool = False):  # noqa: ARG003 - most have no settings
        """The solver with an estimator's parameters, by name; `validated` if validation data say when to stop."""
        return cls()

    @classmethod
    def seed_from(cls, random_state) -> int:
        """The seed that an estimator's `random_state` stands for, drawn from it if it is a generator."""
        return check_random_state(cls.default_seed if random_state is None else random_state).randint(2**31 - 1)

    def around(self, centre):  # noqa: ARG002 - for those that take one
        """The solver for models near a `Centre`, the optimum of others."""
        return self

    @abstractmethod
    def iterates(self, objective, W, state=None) -> Iterator[Step]:
        """The start W, then one Step an iteration; ends when arithmetic allows no further progress.

        With a `state`, that of a Step of an earlier run, it goes on from there, to the same iterates; the first Step is
        then the one that had the state. What is sent into it, if anything, is the index of the models that remain in
        the batch.
        """

    def select(self, index):  # noqa: ARG002 - most know nothing of single models
        """The solver for the models at `index` of the batch alone, wherever they are now."""
        return self

    def finisher(self, objective):  # noqa: ARG002 - most need none
        """The solver that takes over where this one cannot tell how far it is from the optimum, if there is one."""
        return None  # noqa: RET501

    def in_float64(self):
        """The solver for a problem that became `in_float64`."""
        return self

    @abstractmethod
    def stopping(self, tol):
        """The rule that says whether a Step is good enough."""
