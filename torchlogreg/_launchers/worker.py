"""What each process does that an engine has started, and what it answers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from sklearn.base import clone

from torchlogreg._launchers.shares import Share
from torchlogreg._runtime.rank_errors import BrokenGroup, Told, told_of
from torchlogreg._runtime.ranks import Ranks, shared_by

_c10d: Any = dist  # which does not declare its stores


class Place(NamedTuple):
    """The place of a process among those that fit a model together."""

    rank: int
    size: int
    address: tuple[str, int]  # host and port where they meet
    timeout: float  # seconds to wait for the others, each time


class Outcome(NamedTuple):
    """What a process answers: the model, in rank 0, or what went wrong."""

    rank: int
    model: Any = None
    error: Told | None = None
    is_broken: bool = False  # whether the error is that it did not hear the others any more
    warned: list[tuple[type[Warning], str]] = []


def opened_store(host: str, timeout: float) -> Any:
    """Where processes meet: at a free port of this host, which the system chooses, so that nobody else can take it."""
    return _c10d.TCPStore(host, 0, is_master=True, timeout=timedelta(seconds=timeout), wait_for_workers=False)


@contextmanager
def joined_group(place: Place, store: Any) -> Iterator[Ranks]:
    """The processes of a group, within; rank 0 has the store.

    gloo is the backend also of fits on GPUs: what they send are sums in float64, which are on the host.
    """
    if dist.is_initialized():
        raise RuntimeError("This process belongs to a group of torch.distributed already, and can join no other one.")
    timeout = timedelta(seconds=place.timeout)
    try:
        if store is None:
            store = _c10d.TCPStore(*place.address, is_master=False, timeout=timeout, wait_for_workers=False)
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=timeout)
    except RuntimeError as error:
        raise BrokenGroup(f"Not all {place.size} processes came together within {place.timeout:g} seconds.") from error
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()  # or gloo aborts at exit


def fit_in_rank(
    estimator: Any,
    load: Callable[[], Share | None],
    place: Place,
    store: Any = None,
    load_validation: Callable[[], Share | None] | None = None,
) -> Outcome:
    """Fit a model together with the others, to the rows that `load()` returns in each process; None for no rows."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with joined_group(place, store) as ranks, shared_by(ranks):
                rows = _rows(load, ranks, "dataset")
                named = {} if load_validation is None else _validation(_rows(load_validation, ranks, "validation"))
                model: Any = clone(estimator)
                model.fit(rows.X, rows.y, sample_weight=rows.weight, **named)
    except Exception as error:
        return Outcome(place.rank, error=told_of(error), is_broken=isinstance(error, BrokenGroup))
    if place.rank:
        return Outcome(place.rank)
    return Outcome(0, model, warned=[(warning.category, str(warning.message)) for warning in caught])


def _rows(load: Callable[[], Share | None], ranks: Ranks, what: str) -> Share:
    """The rows of this process; without rows, of the kind that others have."""

    def look():
        share = load()
        return share, None if share is None else share.without_rows()

    share, everyone = ranks.introduced(look)
    kinds = [kind for kind in everyone if kind is not None]
    if not kinds:
        raise ValueError(f"There are no rows: the {what} is empty.")
    return kinds[0] if share is None else share


def _validation(rows: Share) -> dict[str, Any]:
    """Validation rows as `fit` takes them, which need not be in all processes."""
    return {"X_val": rows.X, "y_val": rows.y, "sample_weight_val": rows.weight} if rows.X.shape[0] else {}
