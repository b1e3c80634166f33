"""NaN and infinity in X: looked for before a fit or, where `assume_finite` forbids that, when one has failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from sklearn import get_config

from torchlogreg._data import tuning
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.products import product_dtype
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._runtime.threads import mapped


def check_finite(X: torch.Tensor) -> None:
    """Raise if a tensor (n, p) holds NaN or infinity."""
    if not X.is_floating_point():
        return
    blocks = X.split(max(1, tuning.FINITE_CHECK_NUMBERS // X.shape[1]))
    for flaw in mapped(partial(_flaw, dtype=product_dtype(X)), blocks, X.device):
        if flaw:
            raise ValueError(f"Input X contains {flaw}. Impute or remove those rows first.")


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
