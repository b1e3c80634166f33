"""NaN and infinity in X: looked for before a fit or, where `assume_finite` forbids that, when one has failed."""

from contextlib import contextmanager
from functools import partial

import torch
from sklearn import get_config

from torchlogreg._data.dense import product_dtype
from torchlogreg._data.sparse import CSRTensor
from torchlogreg._data.streamed import ScannedStream
from torchlogreg._runtime.threads import mapped

CHECKED = 2**22  # numbers that are looked at together


def check_finite(X):
    """Raise if a tensor (n, p) holds NaN or infinity."""
    if not X.is_floating_point():
        return
    blocks = X.split(max(1, CHECKED // X.shape[1]))
    for what in mapped(partial(_flaw, dtype=product_dtype(X)), blocks, X.device):
        if what:
            raise ValueError(f"Input X contains {what}. Impute or remove those rows first.")


def _flaw(block, dtype):
    """What a block contains that is no finite number; None if there is nothing."""
    block = block.to(dtype)
    if bool(torch.isfinite(block.sum())) or bool(torch.isfinite(block).all()):  # a sum may overflow
        return None
    return "NaN" if bool(block.isnan().any()) else "infinity"


@contextmanager
def explained(X):
    """Where a fit fails that nobody has looked at X for, as `assume_finite` asks, look for NaN and infinity in it."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError):
        if get_config()["assume_finite"]:
            for block in _tables(X):
                check_finite(block)
        raise


def _tables(X):
    """The numbers of X as tensors (n, p)."""
    if isinstance(X, ScannedStream):
        return (block for block, *_ in X.blocks())
    return (torch.from_numpy(X.csr.data)[:, None],) if isinstance(X, CSRTensor) else (X,)
