"""NaN and infinity in X: looked for before a fit or, where `assume_finite` forbids that, when one has failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from sklearn import get_config

from torchlogreg._data import tuning
from torchlogreg._data.blocking import even_slices
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.products import product_dtype
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._runtime.threads import in_threads, mapped, n_workers


def check_finite(X: torch.Tensor) -> None:
    """Raise if a tensor (n, p) holds NaN or infinity."""
    if not X.is_floating_point():
        return
    blocks = X.split(max(1, tuning.FINITE_CHECK_NUMBERS // X.shape[1]))
    for flaw in mapped(partial(_flaw, dtype=product_dtype(X)), blocks, X.device):
        if flaw:
            raise ValueError(f"Input X contains {flaw}. Impute or remove those rows first.")


def is_seen_finite(X) -> bool:
    """Whether threads have looked at a large array of NumPy's and found it finite: scikit-learn looks with one."""
    if not isinstance(X, np.ndarray) or X.dtype not in (np.float32, np.float64) or get_config()["assume_finite"]:
        return False
    if X.size < tuning.FINITE_CHECK_NUMBERS or not (X.flags.c_contiguous or X.flags.f_contiguous):
        return False
    rows = np.asarray(X if X.flags.c_contiguous else X.T)
    sums = in_threads(lambda part: np.sum(rows[part]), even_slices(len(rows), n_workers()))
    return bool(np.isfinite(sums).all())  # a sum may overflow: then scikit-learn looks again


def _flaw(block: torch.Tensor, dtype: torch.dtype) -> str | None:
    """What a block contains that is no finite number; None if there is nothing."""
    block = block.to(dtype)
    if bool(torch.isfinite(block.sum())) or bool(torch.isfinite(block).all()):  # a sum may overflow
        return None
    return "NaN" if bool(block.isnan().any()) else "infinity"


@contextmanager
def explained(X: torch.Tensor | CSRTensor | ScannedStream) -> Iterator[None]:
    """Where a fit fails and, as `assume_finite` asks, nobody has checked X, look for NaN and infinity in it."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError):  # pyright: ignore[reportPrivateImportUsage]
        if get_config()["assume_finite"]:
            for block in (X,) if isinstance(X, torch.Tensor) else X.stored():
                check_finite(block)
        raise
