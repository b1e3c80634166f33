"""The design of rows that several processes have, as the one that leads them sees it."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, final

import numpy as np
import torch

from torchlogreg._data import tuning
from torchlogreg._data.design import Design, is_wide_table
from torchlogreg._data.device import Placement
from torchlogreg._data.in_memory import InMemoryDesign
from torchlogreg._data.sample_weights import Models, index_of_selected
from torchlogreg._data.sparse import SparseDesign, n_frequent_columns
from torchlogreg._data.storage import joined
from torchlogreg._data.streamed import StreamedDesign
from torchlogreg._runtime.desk import PerRank, Remote, itself


class Facts(NamedTuple):
    """What the leading process knows of the rows that another one has."""

    n: int
    n_features: int
    n_numbers: int
    n_bytes: int
    intercept: bool
    compute: Placement
    largest_weight: float  # of a row, as they are given
    n_present: int | None  # rows that have a weight; None where that was not asked
    is_stream: bool
    is_sparse: bool
    sample_keys: np.ndarray | None  # of a stream's sample, sorted
    is_all_sampled: bool

    @classmethod
    def of(cls, design: Design) -> "Facts":
        sampled = design.stream.sampled if isinstance(design, StreamedDesign) else None
        return cls(
            design.shape[0],
            design.n_features,
            design.n_numbers,
            design.n_bytes,
            design.intercept,
            design.compute,
            float(design.largest_weight().max()),
            _n_present(design) if isinstance(design, InMemoryDesign) else design.shape[0],
            isinstance(design, StreamedDesign),
            isinstance(design, SparseDesign),
            None if sampled is None else sampled.keys,
            sampled is not None and sampled.is_all,
        )


class RowTensor(Remote):
    """What belongs to single rows, of which each rank has its own; models may be picked and mixed as in a tensor."""

    ndim = 3
    device = torch.device("cpu")

    def __getitem__(self, models):
        return RowTensor(self.lead, self.lead.kept(_picked, self, models))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not torch.where:
            return NotImplemented
        lead = next(argument.lead for argument in args if isinstance(argument, RowTensor))
        return cls(lead, lead.kept(_mixed, *args[1:], args[0]))


def _picked(tensor, models):
    return tensor[models]


def _mixed(new, old, is_new):
    return torch.where(is_new.to(new.device), new, old)


@final
class ShardedDesign(Design):
    """Rows of which each rank has some, in the order of the ranks, or in another `order` (n,) in which they are drawn.

    Whatever is asked of it is asked of the designs of all ranks; what they keep is a `RowTensor` here.
    """

    at_hand = False

    def __init__(
        self,
        remote: Remote,
        facts: list[Facts | None],
        accumulation: Placement,
        *,
        compute: Placement | None = None,
        order: torch.Tensor | None = None,
        n_columns: int = 1,
        weight_index: torch.Tensor | None = None,
    ):
        self.n_columns, self.weight_index = n_columns, weight_index
        self.remote, self.lead, self.facts, self.order = remote, remote.lead, facts, order
        self.n_processes = len(self.known)
        first = self.known[0]
        self.intercept, self.accumulation = first.intercept, accumulation
        self.compute = compute or Placement(accumulation.device, first.compute.dtype)
        self.in_memory, self.n_passes_before = not first.is_stream, int(first.is_stream)
        self.cache: dict[str, Any] = {}

    @property
    def known(self) -> list[Facts]:
        """Of the ranks that have rows."""
        return [fact for fact in self.facts if fact is not None]

    @classmethod
    def of(cls, remote: Remote) -> Design:
        """That of the designs which the ranks have; small and wide ones are gathered here."""
        facts = remote.lead.each(Facts.of, remote)
        out = cls(remote, facts, Placement.beside(remote.lead.desk.device))
        n, d = out.shape
        is_small = n * d <= tuning.GATHERED_NUMBERS
        if out.in_memory and (is_small or is_wide_table(*out.shape)):
            return joined(out.each(itself))
        largest = [fact.largest_weight for fact in out.known]
        out.cache["largest"] = torch.tensor([max(largest)], dtype=torch.float64, device=out.device)
        return out

    @property
    def shape(self) -> tuple[int, int]:
        return sum(fact.n for fact in self.known), self.n_features + self.intercept

    @property
    def n_features(self) -> int:
        return self.known[0].n_features

    @property
    def n_numbers(self) -> int:
        return sum(fact.n_numbers for fact in self.known)

    @property
    def n_bytes(self) -> int:
        n_bytes = [fact.n_bytes for fact in self.known]
        return sum(n_bytes) if self.in_memory else max(n_bytes)

    @property
    def n_weightings(self) -> int:
        return self.n_columns if self.weight_index is None else len(self.weight_index)

    @property
    def device(self) -> torch.device:
        return self.accumulation.device

    def n_frequent_columns(self, n_logits: int) -> int:
        if not self.known[0].is_sparse:
            return 0
        return n_frequent_columns(self.n_features, self.n_numbers, n_logits)

    def filled_columns(self) -> np.ndarray | None:
        if not self.known[0].is_sparse:
            return None
        (counts,) = self.total(_filled, shapes=[(self.n_features,)])
        return counts.numpy(force=True) > 0

    def of_filled_columns(self, is_filled: np.ndarray) -> "ShardedDesign":
        n_filled = int(is_filled.sum())
        facts = [fact and fact._replace(n_features=n_filled) for fact in self.facts]
        return self._asked("of_filled_columns", is_filled, facts=facts)

    def dense(self, columns: torch.Tensor) -> InMemoryDesign:
        """Dense rows of the columns of X at an index, gathered here."""
        return joined(self.each(_called, "dense", columns))

    def fingerprint(self) -> int:
        """A checksum that does not depend on which process has which rows."""
        return sum(self.each(_called, "row_fingerprint")) % 2**64

    # --- The same rows in another way.

    def exact(self) -> "ShardedDesign":
        return self if self.is_exact else self._asked("exact", compute=self.accumulation)

    def in_float64(self) -> "ShardedDesign":
        return self._asked("in_float64", compute=self.accumulation)

    def as_sample(self, *, spread: bool) -> Design:
        if not self.in_memory:
            return self
        if not spread and self.n_numbers > tuning.MOST_GATHERED_NUMBERS:
            raise ValueError(
                "A sample of the rows weighs nothing in one of the models, and all rows are too many for one process. "
                "Leave out the rows that weigh nothing, or weigh more of them."
            )
        return self.take(slice(None), spread=spread)

    def select(self, models: Models) -> "ShardedDesign":
        like = torch.empty(0, self.n_columns, device=self.accumulation.device)
        index = index_of_selected(like, self.weight_index, models)
        if index is None:
            return self
        out = self._asked("select", models, weight_index=index)
        out.cache = self.cache
        return out

    def divided(self, by: torch.Tensor) -> "ShardedDesign":
        return self._asked("divided", by)

    def reweighted(self, sample_weights: torch.Tensor) -> "ShardedDesign":
        """The same rows with other columns of weights (n, V), in the order of the ranks."""
        columns = sample_weights.cpu()
        parts = PerRank([columns[a:b] for a, b in pairwise(self._ends)])
        facts = [fact and fact._replace(n_present=None) for fact in self.facts]
        return self._asked("reweighted", parts, facts=facts, n_columns=columns.shape[1], weight_index=None)

    def _asked(self, method, *arguments, **changes):
        """The designs that a method returns."""
        return self._with(Remote(self.lead, self.lead.kept(_called, self.remote, method, *arguments)), **changes)

    def _with(self, remote, **changes):
        """What the ranks have under another number, of which other values are known."""
        values = {
            "facts": self.facts,
            "accumulation": self.accumulation,
            "compute": self.compute,
            "order": self.order,
            "n_columns": self.n_columns,
            "weight_index": self.weight_index,
            **changes,
        }
        return ShardedDesign(remote, **values)

    # --- Weights.

    def largest_weight(self) -> torch.Tensor:
        if "largest" in self.cache:  # as the ranks have told
            return self.cache["largest"]
        return torch.stack([self.to_accumulation(own) for own in self.each(_called, "largest_weight")]).amax(dim=0)

    def total_weight(self) -> torch.Tensor:
        return self.total(_total_weight, shapes=[(self.n_columns,)])[0]

    # --- Passes over the data.

    def total(self, function, *arguments, shapes, n_kept=0):
        answers = self.lead.total(function, self.remote, *arguments, shapes=shapes, n_kept=n_kept)
        kept = [RowTensor(self.lead, number) for number in answers[len(shapes) :]]
        return [*answers[: len(shapes)], *kept]

    def each(self, function, *arguments):
        return [answer for answer in self._each(function, *arguments) if answer is not None]

    def _each(self, function: Callable, *arguments: Any) -> list:
        """What `function(design, *arguments)` returns in each rank; None where there are no rows."""
        return self.lead.each(function, self.remote, *arguments)

    def chunks(self, size: int = 1):
        raise NotImplementedError  # other processes have them

    def blocks(self, n_columns: int = 1):
        raise NotImplementedError

    # --- Samples.

    @property
    def n_samplable(self) -> int:
        if self.in_memory or all(fact.is_all_sampled for fact in self.known):
            return self.shape[0]
        return sum(self._n_sampled)

    @property
    def _n_sampled(self) -> list[int]:
        """How many rows of each rank's sample are in that of the stream: those of the smallest keys of all.

        Below the largest key of a sample that is not all rows, every rank has all of its rows.
        """
        keys = [np.empty(0) if fact is None or fact.sample_keys is None else fact.sample_keys for fact in self.facts]
        cut = [k[-1] for k, fact in zip(keys, self.facts, strict=True) if len(k) and fact and not fact.is_all_sampled]
        return [int(np.searchsorted(k, min(cut, default=np.inf), side="right")) for k in keys]

    @property
    def _ends(self) -> list[int]:
        """Where each rank's rows begin, and where the last one's end, among those that are drawn from."""
        counts = [0 if fact is None else fact.n for fact in self.facts] if self.in_memory else self._n_sampled
        return list(accumulate(counts, initial=0))

    def sample_rows(self, size: int, generator: torch.Generator) -> torch.Tensor:
        if not self.in_memory:
            return torch.randperm(self._ends[-1], generator=generator, device="cpu")[:size]
        if any(fact.n_present is None for fact in self.known):
            counted = self._each(_n_present)
            self.facts = [fact and fact._replace(n_present=n) for fact, n in zip(self.facts, counted, strict=True)]
        counts = [0 if fact is None else fact.n_present or 0 for fact in self.facts]
        numbers = torch.randint(sum(counts), (size,), generator=generator, device="cpu")
        if sum(counts) == self.shape[0]:
            return numbers
        places, own = self._of_ranks(numbers, list(accumulate(counts, initial=0)))
        return self._assembled(places, self._each(_present, own))

    def draw(self, shares: RowTensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masses = torch.tensor(
            [0.0 if m is None else m for m in self._each(_mass, shares)], dtype=torch.float64, device="cpu"
        )
        ends = masses.cumsum(dim=0)
        numbers = uniform.cpu() * ends[-1]
        rank = torch.searchsorted(ends, numbers).clamp(max=len(ends) - 1)
        places = [torch.nonzero(rank == r).flatten() for r in range(len(ends))]
        own = PerRank([numbers[place] - (ends[r] - masses[r]) for r, place in enumerate(places)])
        found = self._each(_placed, shares, own)
        index = self._assembled(places, [pair and pair[0] for pair in found])
        share = torch.empty(len(uniform), dtype=torch.float64, device="cpu")
        for place, pair in zip(places, found, strict=True):
            if pair is not None:
                share[place] = pair[1].double().cpu()
        return index, share

    def take(self, index: Models, factor: Any = 1.0, *, spread: bool = False) -> Design:
        index = torch.arange(self._ends[-1], device="cpu")[index] if isinstance(index, slice) else index.cpu()
        index = index if self.order is None else self.order[index]
        places, own = self._of_ranks(index, self._ends)
        factors: Any = factor
        if isinstance(factor, torch.Tensor):
            factors = PerRank([factor.cpu()[place] for place in places])
        numbers = len(index) * self.n_numbers / max(1, self.shape[0])
        if not spread or numbers <= tuning.GATHERED_SAMPLE_NUMBERS:
            present = [place for place, fact in zip(places, self.facts, strict=True) if fact is not None]
            return joined(self.each(_taken, own, factors), present)
        order = torch.cat(places).argsort()  # from the order of the index to that of the ranks
        remote = Remote(self.lead, self.lead.kept(_taken, self.remote, own, factors))
        known = {"n_present": None, "is_stream": False, "sample_keys": None, "is_all_sampled": False}
        facts = [
            fact and fact._replace(n=len(place), n_numbers=int(numbers * len(place) / max(1, len(index))), **known)
            for fact, place in zip(self.facts, places, strict=True)
        ]
        return self._with(remote, facts=facts, order=order, compute=None)

    def _of_ranks(self, numbers: torch.Tensor, ends: list[int]) -> tuple[list[torch.Tensor], PerRank]:
        """At which places there are numbers of each rank's rows, and these, counted from its first row."""
        inside = [(numbers >= a) & (numbers < b) for a, b in pairwise(ends)]
        places = [torch.nonzero(own).flatten() for own in inside]
        return places, PerRank([numbers[place] - a for place, a in zip(places, ends, strict=False)])

    def _assembled(self, places: list[torch.Tensor], own: list) -> torch.Tensor:
        """One index from those of the ranks, each counted from its first row."""
        out = torch.empty(sum(map(len, places)), dtype=torch.int64, device="cpu")
        for place, index, start in zip(places, own, self._ends, strict=False):
            if index is not None:
                out[place] = index.cpu() + start
        return out if self.order is None else self.order.argsort()[out]


# --- What the ranks are asked for.


def _called(design, method, *arguments):
    return getattr(design, method)(*arguments)


def _total_weight(design):
    return [design.total_weight()]


def _filled(design):
    return [torch.from_numpy(design.filled_columns().astype(np.float64))]


def _n_present(design: InMemoryDesign):
    return int((design.sample_weights.amax(dim=1) > 0).sum())


def _present(design: InMemoryDesign, numbers):
    return torch.nonzero(design.sample_weights.amax(dim=1)).flatten()[numbers.to(design.device)]


def _mass(design, shares):
    return float(design.to_accumulation(shares).sum())


def _placed(design, shares, numbers):
    cumulative = design.to_accumulation(shares).cumsum(dim=0)
    index = torch.searchsorted(cumulative, numbers.to(cumulative)).clamp(max=len(shares) - 1).to(shares.device)
    return index, shares[index]


def _taken(design, index, factor):
    factor = factor.to(design.device) if isinstance(factor, torch.Tensor) else factor
    return design.take(index.to(design.device), factor)
