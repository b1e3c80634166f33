"""Rows on several processes or machines: one fit over torch.distributed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchlogreg._estimators.shared_scaler import scaler_over_shards
from torchlogreg._launchers.dask import fit_on_dask
from torchlogreg._launchers.ray import fit_on_ray
from torchlogreg._launchers.spark import fit_on_spark
from torchlogreg._runtime.ranks import Ranks, shared_by

for _function in (fit_on_dask, fit_on_ray, fit_on_spark):
    _function.__module__ = "torchlogreg.distributed"  # where users find it
__all__ = ["fit_on_dask", "fit_on_ray", "fit_on_spark", "scaler_over_shards", "shared_rows"]


@contextmanager
def shared_rows(group: Any = None) -> Iterator[Ranks]:
    """Fit models together with the other processes of a group, each of which has some of the rows.

    Within, `fit` of `TorchLogisticRegression` and `TorchSoftmaxClassifier` is collective: every process of the group
    has to call it, with its own rows and the same parameters, and all of them get the same model.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        The processes. None for all of those that `torch.distributed.init_process_group` has joined.

    Yields
    ------
    ranks : object
        The processes, with the attributes ``rank`` and ``size``, and ``n_calls`` and ``n_bytes``, which count the
        messages of all fits within.

    Examples
    --------
    >>> import numpy as np
    >>> import torch.distributed as dist
    >>> from torchlogreg import TorchLogisticRegression
    >>> from torchlogreg.distributed import shared_rows
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> with shared_rows():
    ...     model = TorchLogisticRegression().fit(np.eye(4), [0, 1, 1, 0])
    >>> model.predict(np.eye(4))
    array([0, 1, 1, 0])
    >>> dist.destroy_process_group()
    """
    with shared_by(Ranks(group)) as ranks:
        yield ranks
