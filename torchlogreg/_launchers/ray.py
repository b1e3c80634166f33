"""A fit on the workers of a Ray cluster, each an actor with a share of the blocks of a dataset."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torchlogreg._launchers.launch import PATIENCE_S, concluded, engine, for_workers
from torchlogreg._launchers.shares import Columns, Share
from torchlogreg._launchers.worker import Outcome, Place, fit_in_rank, opened_store


def fit_on_ray(
    estimator: Any,
    dataset: Any,
    *,
    features: str | Sequence[str],
    label: str,
    weight: str | None = None,
    validation: Any = None,
    num_workers: int,
    use_gpu: bool = False,
    timeout: float = 1800,
) -> Any:
    """Fit a model to the rows of a Ray dataset, on several workers of the cluster.

    Each worker is an actor with one CPU. The rows are shared out evenly in their order, and the model is the one that
    a single process fits to all of them. A share has to fit in the memory of its worker.

    Parameters
    ----------
    estimator : TorchLogisticRegression or TorchSoftmaxClassifier
        The model. It stays unfitted.

    dataset : ray.data.Dataset
        The training rows.

    features : str or list of str
        A column of arrays of equal length, or columns of numbers, which give the model its feature names.

    label : str
        The column of class labels.

    weight : str, default=None
        The column of sample weights. None gives every row the weight 1.

    validation : ray.data.Dataset, default=None
        Validation rows, in the same columns; see `X_val` of `fit`.

    num_workers : int
        Number of workers.

    use_gpu : bool, default=False
        Whether each worker gets a GPU.

    timeout : float, default=1800
        Seconds that a worker waits for the others, each time.

    Returns
    -------
    model : TorchLogisticRegression or TorchSoftmaxClassifier
        A fitted copy of the estimator.

    Raises
    ------
    ImportError
        If Ray is not installed: ``pip install "torchlogreg[ray]"``.
    RuntimeError
        If a worker is lost, or does not answer in time.
    TimeoutError
        If the cluster has no room for the workers in time.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.distributed import fit_on_ray
    >>> dataset = ray.data.read_parquet("clicks.parquet")  # doctest: +SKIP
    >>> model = fit_on_ray(
    ...     TorchLogisticRegression(), dataset, features=["age", "visits"], label="bought", num_workers=4
    ... )  # doctest: +SKIP
    """
    ray, columns = engine("ray", "ray"), Columns.of(features, label, weight)
    engine("ray.data", "ray")
    worker = for_workers(estimator, num_workers=num_workers, timeout=timeout, use_gpu=use_gpu)
    tables = _shared_out(ray, dataset, columns, num_workers)
    others = [None] * num_workers if validation is None else _shared_out(ray, validation, columns, num_workers)
    room = _room(ray, num_workers, use_gpu, timeout)
    try:
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actors = [
            ray.remote(RankActor)
            .options(num_cpus=1, num_gpus=int(use_gpu), scheduling_strategy=strategy(room, rank))
            .remote(worker, columns)
            for rank in range(num_workers)
        ]
        address = ray.get(actors[0].opened.remote(timeout), timeout=timeout)
        answers = [
            actor.fit.remote(Place(rank, num_workers, address, timeout), tables[rank], others[rank])
            for rank, actor in enumerate(actors)
        ]
        outcomes, lost = _answered(ray, answers)
    finally:
        ray.util.remove_placement_group(room)  # and with it all actors, also those that wait for a lost one
    return concluded(estimator, outcomes, lost)


class RankActor:
    """One worker."""

    def __init__(self, estimator: Any, columns: Columns):
        self.estimator, self.columns, self.store = estimator, columns, None

    def opened(self, timeout: float) -> tuple[str, int]:
        """Where the others meet this one, which is rank 0."""
        host = engine("ray", "ray").util.get_node_ip_address()
        self.store = opened_store(host, timeout)
        return host, self.store.port

    def fit(self, place: Place, tables: list, validation: list | None) -> Outcome:
        """See `fit_in_rank`; tables are references."""
        other = None if validation is None else partial(self._share, validation)
        return fit_in_rank(self.estimator, partial(self._share, tables), place, self.store, other)

    def _share(self, references) -> Share | None:
        pa = engine("pyarrow", "ray")
        tables = [table for table in engine("ray", "ray").get(references) if table.num_rows]
        return self.columns.share(pa.concat_tables(tables, promote_options="permissive")) if tables else None


def _shared_out(ray, dataset, columns: Columns, n: int) -> list[list]:
    """References to the tables of each worker: all rows, in their order.

    `Dataset.split` would give whole blocks, and `streaming_split` drop rows or share them out as workers ask for them.
    """
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        rows = dataset.select_columns(columns.names).materialize()
        total = rows.count()
        shares = rows.split_at_indices([total * rank // n for rank in range(1, n)]) if n > 1 else [rows]
        tables = [share.to_arrow_refs() for share in shares]
    finally:
        options.preserve_order = before
    references = [reference for table in tables for reference in table]
    if references:  # before the workers take the CPUs that make them
        ray.wait(references, num_returns=len(references), fetch_local=False)
    return tables


def _room(ray, n: int, use_gpu: bool, timeout: float) -> Any:
    """Resources for all workers at once: two fits that each have half of them would wait for each other."""
    bundle = {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}
    room = ray.util.placement_group([bundle] * n, strategy="PACK")
    try:
        ray.get(room.ready(), timeout=timeout)
    except BaseException as error:  # an interrupt, too: the room would be taken as soon as it is there
        ray.util.remove_placement_group(room)
        if not isinstance(error, ray.exceptions.GetTimeoutError):
            raise
        wanted = "one CPU and one GPU" if use_gpu else "one CPU"
        raise TimeoutError(
            f"Ray had no room for {n} workers, each with {wanted}, within {timeout:g} seconds. Ask for fewer workers."
        ) from error
    return room


def _answered(ray, answers: list) -> tuple[list[Outcome], dict[int, Exception]]:
    """What the ranks have answered, and the errors of those that were lost."""
    outcomes, lost, waiting = [], {}, list(answers)
    while waiting:
        has_failed = bool(lost) or any(outcome.error is not None for outcome in outcomes)
        done, waiting = ray.wait(waiting, timeout=PATIENCE_S if has_failed else None)
        if not done:
            break
        try:
            outcomes.append(ray.get(done[0]))
        except ray.exceptions.RayError as error:
            lost[answers.index(done[0])] = error
    return outcomes, lost
