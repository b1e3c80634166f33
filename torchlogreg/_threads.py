"""Threads that read rows beside the caller's, and how many torch takes for what is not divided among them."""

from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from threading import Thread

import torch
from sklearn import config_context, get_config

from torchlogreg._settings import caller, fork, one_blas_thread, own_settings, set_torch_threads, torch_threads

# Numbers in X, or in a mini-batch, up to which a second thread costs more than it saves; other thread pools that spin
# (NumPy's, say) make it far worse.
ONE_THREAD = 131_072
TINY = 4096  # numbers in X up to which NumPy's products take one thread anyway


class _Worker:
    """A thread that does one thing after the other, until it is told to end.

    Not an executor of the standard library's, which takes no work once the main thread has ended. Where no thread can
    start, work is done at once: from Python 3.12 on in functions of `atexit`, and where the system allows no more.
    """

    def __init__(self):
        self._tasks = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)  # lest a read that is left halfway keep the process
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def submit(self, function, *args):
        """A future for function(*args)."""
        future = Future()
        if self._thread is None:
            _do(future, function, args)
        else:
            self._tasks.put((future, function, args))
        return future

    def end(self):
        """When all is done."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()

    def _work(self):
        set_torch_threads(1)
        one_blas_thread.in_this_thread()
        while (task := self._tasks.get()) is not None:
            _do(*task)
            del task


def _do(future, function, args):
    try:
        future.set_result(function(*args))
    except BaseException as error:
        future.set_exception(error)
        del future  # which the error's frames would keep


class _Readers:
    """The threads that read the rows of a fit: the caller's, and others that start when needed and end with the fit.

    They never outlive it: threads that did would be dead in a forked process.
    """

    def __init__(self, n):
        self.n, self._others = n, []

    def others(self, n):
        """`n` of them."""
        while len(self._others) < n:
            self._others.append(_Worker())
        return self._others[:n]

    def end(self):
        for other in self._others:
            other.end()


_OUTSIDE = _Readers(1)
_ALONE = _Readers(1)  # for a part of the work, which is not divided again
_readers = ContextVar("readers", default=_OUTSIDE)  # of the fit at hand


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

    context = _undivided()
    others = _readers.get().others(len(parts) - 1)
    with torch_threads(1):
        rest = [other.submit(context.copy().run, quietly, part) for other, part in zip(others, parts[1:], strict=True)]
        try:
            first = context.run(quietly, parts[0])
        finally:
            wait(rest)
        return [first, *(future.result() for future in rest)]


def ahead(iterator):
    """The items of an iterator, the next one being made in a thread while the last one is worked on."""
    config, context, worker = get_config(), _undivided(), _Worker()  # scikit-learn's settings are those of a thread

    def following():
        with config_context(**config), torch.no_grad():
            return next(iterator, None)

    try:
        coming = worker.submit(context.run, following)
        while (item := coming.result()) is not None:
            coming = worker.submit(context.run, following)
            yield item
            del item
    finally:
        worker.end()


def _undivided():
    """A copy of the context, for a part of the work."""
    context = copy_context()
    context.run(_readers.set, _ALONE)
    return context


def threads_for(work):
    """One thread of torch's for small work, whatever the fit as a whole has."""
    return torch_threads(1) if work <= ONE_THREAD else nullcontext()


@contextmanager
def plain_arithmetic(X, *, one_column=False):
    """Products in the dtype of their factors, and on one thread where that is faster.

    Products with one column are NumPy's on a CPU (see `Rows`), those with a sparse X are scipy's.
    """
    one_column = one_column or not isinstance(X, torch.Tensor)
    small = X.numel() <= ONE_THREAD or (one_column and X.device.type == "cpu")
    with own_settings(), torch.autocast(X.device.type, enabled=False):
        n = 1 if small or fork.is_child or _readers.get() is _ALONE else caller.get().n_threads
        if n > 1:
            fork.note()
        with nullcontext() if n == torch.get_num_threads() else torch_threads(n):
            yield


@contextmanager
def fit_arithmetic(X, *, one_column=False):
    """`plain_arithmetic` with threads that read the rows for as long as a fit lasts, a part each."""
    on_host = X.device.type == "cpu"
    blas = one_blas_thread() if on_host and X.numel() > TINY else nullcontext()
    with own_settings(), blas, plain_arithmetic(X, one_column=one_column):
        readers = _Readers(caller.get().n_threads if on_host else 1)
        token = _readers.set(readers)
        try:
            yield
        finally:
            _readers.reset(token)
            readers.end()
