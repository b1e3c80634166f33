"""A fit on the executors of a Spark cluster, as the tasks of one barrier stage."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from torchlogreg._launchers.launch import concluded, engine, for_workers, lost_stage
from torchlogreg._launchers.shares import Columns, Share
from torchlogreg._launchers.worker import Outcome, Place, fit_in_rank, opened_store

ROW = "__row"  # a column by which the rows are kept in order


def fit_on_spark(
    estimator: Any,
    frame: Any,
    *,
    features: str | Sequence[str],
    label: str,
    weight: str | None = None,
    num_workers: int,
    use_gpu: bool = False,
    timeout: float = 1800,
) -> Any:
    """Fit a model to the rows of a Spark frame, on several executors of the cluster.

    The workers are the tasks of one barrier stage, so that the cluster needs `num_workers` free cores at once. The rows
    are shared out in the order in which Spark has them, which is not always that of the files, and the model is the one
    that a single process fits to all of them. A share has to fit in the memory of its worker, which is what
    ``spark.executor.memoryOverhead`` reserves. The frame is computed twice, once to find even shares: cache it where
    that takes long.

    Parameters
    ----------
    estimator : TorchLogisticRegression or TorchSoftmaxClassifier
        The model. It stays unfitted.

    frame : pyspark.sql.DataFrame
        The training rows.

    features : str or list of str
        A column of arrays or of Spark ML's vectors, of equal length, or columns of numbers, which give the model its
        feature names.

    label : str
        The column of class labels.

    weight : str, default=None
        The column of sample weights. None gives every row the weight 1.

    num_workers : int
        Number of workers.

    use_gpu : bool, default=False
        Whether each worker uses the GPU that Spark has given to its task (``spark.task.resource.gpu.amount``).

    timeout : float, default=1800
        Seconds that a worker waits for the others, each time.

    Returns
    -------
    model : TorchLogisticRegression or TorchSoftmaxClassifier
        A fitted copy of the estimator.

    Raises
    ------
    ImportError
        If Spark is not installed: ``pip install "torchlogreg[spark]"``.
    RuntimeError
        If Spark ends the stage, because it has lost a worker for example, or a worker does not answer in time.

    Examples
    --------
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.distributed import fit_on_spark
    >>> frame = spark.read.parquet("clicks.parquet")  # doctest: +SKIP
    >>> model = fit_on_spark(
    ...     TorchLogisticRegression(), frame, features=["age", "visits"], label="bought", num_workers=4
    ... )  # doctest: +SKIP
    """
    engine("pyspark", "spark")
    errors, columns = engine("pyspark.errors", "spark"), Columns.of(features, label, weight)
    worker = for_workers(estimator, num_workers=num_workers, timeout=timeout, use_gpu=use_gpu)
    task = partial(_outcomes, worker, columns, use_gpu, timeout)
    answers = _in_order(frame, columns, num_workers).mapInArrow(task, "outcome binary", barrier=True)
    try:
        rows = answers.collect()
    except (errors.PySparkException, engine("py4j.protocol", "spark").Py4JJavaError) as error:
        raise lost_stage(error) from error
    pickle = engine("pyspark.cloudpickle", "spark")
    return concluded(estimator, [pickle.loads(row.outcome) for row in rows], {})


def _in_order(frame, columns: Columns, n: int) -> Any:
    """The columns of the frame in `n` partitions of consecutive rows.

    `repartition` would deal the rows out, in whatever order they arrive. A barrier stage cannot follow `coalesce`.
    """
    functions = engine("pyspark.sql.functions", "spark")
    selected = [_numbers(frame, name) for name in columns.names]
    numbered = frame.select(*selected, functions.monotonically_increasing_id().alias(ROW))
    return numbered.repartitionByRange(n, ROW).sortWithinPartitions(ROW).drop(ROW)


def _numbers(frame, name: str) -> Any:
    """A column of the frame, of vectors as arrays."""
    if type(frame.select(name).schema[0].dataType).__name__ != "VectorUDT":
        return frame[name]
    return engine("pyspark.ml.functions", "spark").vector_to_array(frame[name]).alias(name)


def _outcomes(estimator, columns: Columns, use_gpu: bool, timeout: float, batches) -> Iterator[Any]:
    """What a task answers, as a batch with one row."""
    pa, pickle = engine("pyarrow", "spark"), engine("pyspark.cloudpickle", "spark")
    context = engine("pyspark", "spark").BarrierTaskContext.get()
    rank, store, address = context.partitionId(), None, ""
    if use_gpu:
        torch.cuda.set_device(int(context.resources()["gpu"].addresses[0]))
    tasks = context.getTaskInfos()  # fewer than workers, where there are fewer rows
    host = tasks[0].address.rsplit(":", 1)[0]
    if rank == 0:
        store = opened_store(host, timeout)
        address = f"{store.port}"
    place = Place(rank, len(tasks), (host, int(context.allGather(address)[0])), timeout)

    def load() -> Share | None:
        full = [batch for batch in batches if batch.num_rows]
        return columns.share(pa.Table.from_batches(full)) if full else None

    outcome: Outcome = fit_in_rank(estimator, load, place, store)
    yield pa.RecordBatch.from_pydict({"outcome": [pickle.dumps(outcome)]})
