"""How many threads small work gets, and products that ignore the caller's autocast."""

from contextlib import contextmanager

import torch

# Numbers in X, or in a mini-batch, up to which a second thread costs more than it saves; other thread pools that spin
# (NumPy's, say) make it far worse.
ONE_THREAD = 131_072


@contextmanager
def threads_for(work):
    """Run small work on one thread and give the caller's number of threads back.

    Results differ by rounding at most. (A thread that uses torch for the first time meanwhile may start with one, too.)
    """
    before = torch.get_num_threads()
    if work > ONE_THREAD or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def plain_arithmetic(X, *, one_column=False):
    """Products in the dtype of their factors, and on one thread where that is faster.

    Products with one column are NumPy's on a CPU (see `Rows`). It brings its own threads, and torch's would wait for
    the same cores.
    """
    small = one_column and X.device.type == "cpu"
    with threads_for(0 if small else X.numel()), torch.autocast(X.device.type, enabled=False):
        yield
