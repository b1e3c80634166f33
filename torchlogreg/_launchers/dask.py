"""A fit on the workers of a Dask cluster, each with some consecutive partitions."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean
from typing import Any

from torchlogreg._launchers.launch import PATIENCE_S, concluded, engine, for_workers
from torchlogreg._launchers.shares import Share, joined
from torchlogreg._launchers.worker import Outcome, Place, fit_in_rank, opened_store

POLL_S = 2  # between two looks at which workers are alive
_stores: dict[int, Any] = {}  # in a worker that others are to meet, by port, until its fit begins


def fit_on_dask(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    client: Any = None,
    timeout: float = 1800,
) -> Any:
    """Fit a model to a Dask array or frame, on the workers of the cluster that have its partitions.

    Each worker gets consecutive partitions, most of them those that it has already, and the model is the one that a
    single process fits to all rows in their order. What a worker gets has to fit in its memory twice. Fits on one
    cluster wait for each other.

    Parameters
    ----------
    estimator : TorchLogisticRegression or TorchSoftmaxClassifier
        The model. It stays unfitted.

    X : dask.array.Array or dask.dataframe.DataFrame
        The training rows. The blocks of an array are NumPy's, or sparse matrices.

    y : dask.array.Array or dask.dataframe.Series
        Class labels, in partitions of the same rows.

    sample_weight : dask.array.Array or dask.dataframe.Series, default=None
        Weight of each row. None gives every row the weight 1.

    client : distributed.Client, default=None
        The cluster. None for the current one.

    timeout : float, default=1800
        Seconds that a worker waits for the others, each time.

    Returns
    -------
    model : TorchLogisticRegression or TorchSoftmaxClassifier
        A fitted copy of the estimator.

    Raises
    ------
    ImportError
        If Dask is not installed: ``pip install "torchlogreg[dask]"``.
    RuntimeError
        If a worker is lost, or does not answer in time.
    TimeoutError
        If other fits on the cluster do not end in time.

    Examples
    --------
    >>> import dask.dataframe as dd  # doctest: +SKIP
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.distributed import fit_on_dask
    >>> frame = dd.read_parquet("clicks.parquet")  # doctest: +SKIP
    >>> model = fit_on_dask(TorchLogisticRegression(), frame[["age", "visits"]], frame["bought"])  # doctest: +SKIP
    """
    distributed = engine("distributed", "dask")
    worker = for_workers(estimator, timeout=timeout)
    client = distributed.get_client() if client is None else client
    with client.as_current():
        parts = client.compute(_partitions(X, y, sample_weight), retries=0)
        distributed.wait(parts)
        for part in parts:
            if part.status != "finished":
                part.result()  # raises
        shares = _shares(client, parts)
        one_at_a_time = distributed.Lock("torchlogreg")
        if not one_at_a_time.acquire(timeout=timeout):
            raise TimeoutError(f"Another fit on this cluster has not ended within {timeout:g} seconds.")
        try:
            outcomes, lost = _fitted(client, distributed, worker, shares, timeout)
        finally:
            one_at_a_time.release()
    return concluded(estimator, outcomes, lost)


def _partitions(X, y, sample_weight) -> list:
    """The partitions as delayed shares, in their order."""
    dask = engine("dask", "dask")
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    given = {name: value for name, value in given.items() if value is not None}
    odd = [f"{name} is a {type(value).__name__}" for name, value in given.items() if not hasattr(value, "to_delayed")]
    if odd:
        raise TypeError(f"X, y and sample_weight have to be Dask arrays, frames or series: {', '.join(odd)}.")
    if hasattr(X, "chunks"):
        X = X.rechunk({1: -1}) if len(X.chunks[1]) > 1 else X
    parts = {name: _delayed(X if name == "X" else value, X) for name, value in given.items()}
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"Inconsistent numbers of partitions: {found}. They need to hold the same rows.")
    share = dask.delayed(Share)
    return [share(*part) for part in zip(*parts.values(), strict=True)]


def _delayed(value, X) -> list:
    """The partitions of an array or a frame, those of an array cut as X is where both are known."""
    if hasattr(value, "chunks") and hasattr(X, "chunks") and value.shape[0] == X.shape[0]:
        value = value.rechunk({0: X.chunks[0]})
    if hasattr(value, "chunks"):
        return value.to_delayed().ravel().tolist()
    return value.to_delayed(optimize_graph=False)  # which may join partitions, in y others than in X


def _shares(client, parts: Sequence) -> dict[str, list]:
    """Consecutive partitions for each worker that has some, as many as it has.

    The row numbers of a fit follow the ranks, so that the ranks have to follow the partitions, and those may lie
    anywhere. Workers in the order of what they have need to get the fewest from others.
    """
    holders = client.who_has(parts)
    held: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        addresses = holders.get(part.key)
        if not addresses:
            raise RuntimeError("Dask lost a worker before the fit began, and no model was fitted.")
        held.setdefault(sorted(addresses)[0], []).append(i)
    shares, begin = {}, 0
    for address in sorted(held, key=lambda address: fmean(held[address])):
        end = begin + len(held[address])
        shares[address] = list(parts[begin:end])
        begin = end
    return shares


def _fitted(client, distributed, estimator, shares: dict[str, list], timeout: float) -> tuple[list[Outcome], dict]:
    """What the ranks have answered, and the errors of those that were lost."""
    workers = list(shares)
    if any(address.startswith("inproc://") for address in workers):
        raise RuntimeError(
            "The workers of this cluster are threads of one process, and ranks have to be processes of their own: use "
            "LocalCluster(processes=True) or Client(processes=True)."
        )
    here = partial(client.submit, allow_other_workers=False, pure=False, retries=0)
    address = here(_opened, timeout, workers=workers[:1]).result(timeout=timeout)
    waiting = {
        rank: here(_fit, estimator, shares[worker], Place(rank, len(workers), address, timeout), workers=[worker])
        for rank, worker in enumerate(workers)
    }
    outcomes: list[Outcome] = []
    lost: dict = {}
    try:
        _collect(client, distributed, workers, waiting, outcomes, lost)
    finally:  # an interrupt, too
        client.cancel(list(waiting.values()))
    return outcomes, lost


def _collect(client, distributed, workers: list[str], waiting: dict, outcomes: list, lost: dict) -> None:
    """Wait for the ranks, and not for long once one has failed."""
    failed_at = None
    while waiting and (failed_at is None or time.monotonic() - failed_at < PATIENCE_S):
        with suppress(TimeoutError):
            distributed.wait(list(waiting.values()), timeout=POLL_S, return_when="FIRST_COMPLETED")
        alive = client.nthreads()
        for rank, future in list(waiting.items()):
            if future.status == "finished":
                outcomes.append(waiting.pop(rank).result())
            elif future.status != "pending":
                lost[rank] = waiting.pop(rank).exception() or RuntimeError(future.status)
            elif workers[rank] not in alive:  # Dask would wait for a worker at this address to come
                lost[rank] = RuntimeError(f"the worker at {workers[rank]} has ended.")
                waiting.pop(rank).cancel()
        if failed_at is None and (lost or any(outcome.error is not None for outcome in outcomes)):
            failed_at = time.monotonic()


def _opened(timeout: float) -> tuple[str, int]:
    """Where the others meet this worker."""
    address = engine("distributed", "dask").get_worker().address
    host = address.split("://")[-1].rsplit(":", 1)[0].strip("[]")  # of IPv6
    store = opened_store(host, timeout)
    _stores[store.port] = store
    return host, store.port


def _fit(estimator, shares: list[Share], place: Place) -> Outcome:
    store = _stores.pop(place.address[1], None) if place.rank == 0 else None
    return fit_in_rank(estimator, lambda: joined(shares), place, store)
