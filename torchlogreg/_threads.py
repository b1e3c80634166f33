"""How many threads work gets, and products that ignore the caller's autocast."""

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from functools import cache
from threading import Lock

import torch
from threadpoolctl import ThreadpoolController

# Numbers in X, or in a mini-batch, up to which a second thread costs more than it saves; other thread pools that spin
# (NumPy's, say) make it far worse.
ONE_THREAD = 131_072
TINY = 4096  # numbers in X up to which NumPy's products take one thread anyway


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


class _OneBlasThread:
    """NumPy's and scipy's products on one thread for as long as any fit runs.

    Their threads spin for 25 ms after every product, on the cores of those that read the rows. The setting belongs to
    the process: the first fit to enter notes what it was, the last one to leave restores it, where nobody else has
    changed it meanwhile.
    """

    def __init__(self):
        self._lock, self._n_inside, self._before = Lock(), 0, []

    def __enter__(self):
        with self._lock:
            if self._n_inside == 0:
                self._before = [(library, library.get_num_threads()) for library in _blas_libraries()]
                for library, _ in self._before:
                    library.set_num_threads(1)
            self._n_inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                for library, before in self._before:
                    if library.get_num_threads() == 1:
                        library.set_num_threads(before)


@cache
def _blas_libraries():
    """To look for them takes 10 ms."""
    return ThreadpoolController().select(user_api="blas").lib_controllers


_one_blas_thread = _OneBlasThread()


class _Readers:
    """The threads that read the rows of a fit: the caller's, and others that start when needed and end with the fit.

    They never outlive it: threads that did would be dead in a forked process.
    """

    def __init__(self, n):
        self.n, self._others = n, None

    @property
    def others(self):
        if self._others is None:
            self._others = ThreadPoolExecutor(self.n - 1)
        return self._others

    def end(self):
        if self._others is not None:
            self._others.shutdown()


_ALONE = _Readers(1)
_readers = ContextVar("readers", default=_ALONE)  # of the fit at hand


def n_readers():
    """How many threads may read rows at a time: as many as the caller allows torch."""
    return _readers.get().n


def in_threads(function, parts):
    """[function(part) for part in parts], each in a thread of its own whose arithmetic is on that thread alone.

    Two threads that each read their rows block by block keep both cores at it from one block to the next, where two
    threads within every operation wait for each other: 12 ms instead of 22 for 500k x 54 float64 on two Zen 4 cores,
    26 ms instead of 54 for MNIST in float32.
    """
    if len(parts) == 1 or n_readers() == 1:
        return [function(part) for part in parts]

    def quietly(part):
        with torch.no_grad():
            return function(part)

    pool, token = _readers.get().others, _readers.set(_ALONE)  # a part is not divided again
    try:
        with threads_for(0):  # new threads take torch's number of threads at the time
            others = [pool.submit(copy_context().run, quietly, part) for part in parts[1:]]
            try:
                first = quietly(parts[0])
            finally:
                wait(others)
            return [first, *(other.result() for other in others)]
    finally:
        _readers.reset(token)


@contextmanager
def plain_arithmetic(X, *, one_column=False):
    """Products in the dtype of their factors, and on one thread where that is faster.

    Products with one column are NumPy's on a CPU (see `Rows`), those with a sparse X are scipy's.
    """
    one_column = one_column or not isinstance(X, torch.Tensor)
    threads = threads_for(0 if one_column and X.device.type == "cpu" else X.numel())
    with threads, torch.autocast(X.device.type, enabled=False):
        yield


@contextmanager
def fit_arithmetic(X, *, one_column=False):
    """`plain_arithmetic` with threads that read the rows for as long as a fit lasts, a part each."""
    on_host = X.device.type == "cpu"
    readers = _Readers(torch.get_num_threads() if on_host else 1)
    blas = _one_blas_thread if on_host and X.numel() > TINY else nullcontext()
    with blas, plain_arithmetic(X, one_column=one_column):
        token = _readers.set(readers)
        try:
            yield
        finally:
            _readers.reset(token)
            readers.end()
