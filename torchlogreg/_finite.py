"""NaN and infinity in X: looked for before a fit or, where `assume_finite` forbids that, when one has failed."""

from contextlib import contextmanager

import torch
from sklearn import get_config

from torchlogreg._rows import product_dtype
from torchlogreg._sparse import Sparse
from torchlogreg._stream import Opened

CHECKED = 2**22  # numbers that are looked at together


def check_finite(X):
    """Raise if a tensor (n, p) holds NaN or infinity."""
    if not X.is_floating_point():
        return
    wide = product_dtype(X)
    for block in X.split(max(1, CHECKED // X.shape[1])):
        block = block.to(wide)
        if not bool(torch.isfinite(block.sum())) and not bool(torch.isfinite(block).all()):  # a sum may overflow
            what = "NaN" if bool(block.isnan().any()) else "infinity"
            raise ValueError(f"Input X contains {what}. Impute or remove those rows first.")


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
    if isinstance(X, Opened):
        return (block for block, *_ in X.blocks())
    return (torch.from_numpy(X.csr.data)[:, None],) if isinstance(X, Sparse) else (X,)
