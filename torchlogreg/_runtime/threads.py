"""Threads that pass over rows beside the caller's, the settings under which they and the caller's compute, and his own.

torch has threads of its own, which it keeps for the thread that divides work among them. They are not used but in
`in_pool`: they spin between two operations, on the cores of those that need them, and in a forked process, where
they do not exist, the next operation would wait for them for ever.
"""

from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch
from sklearn import config_context, get_config

from torchlogreg._runtime.thread_counts import one_blas_thread, set_torch_threads, torch_threads

TINY = 4096  # numbers in X up to which NumPy's products take one thread anyway


class _Worker:
    """A thread that does one thing after the other, with `n_threads` of torch's, until it is told to end.

    Not an executor of the standard library's, which takes no work once the main thread has ended. Where no thread can
    start, work is done at once: from Python 3.12 on in functions of `atexit`, and where the system allows no more.
    """

    def __init__(self, n_threads=1):
        self._tasks, self._n_threads = SimpleQueue(), n_threads
        self._thread = Thread(
            target=self._work, daemon=True
        )  # so that a pass that is left halfway does not keep the process alive
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
        set_torch_threads(self._n_threads)
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


class _Call:
    """A call of the package: what the caller's thread was set to, and the threads that work beside it.

    Those start when needed and end with the call: threads that outlived it would be dead in a forked process.
    """

    def __init__(self, n_workers, n_threads, context):
        self.n_workers, self.n_threads, self.context = n_workers, n_threads, context
        self._readers, self._pool = [], None

    def alone(self):
        """The same where no work is divided: in a part of it."""
        return _Call(1, self.n_threads, self.context)

    def workers(self, n):
        """`n` threads beside the caller's."""
        while len(self._readers) < n:
            self._readers.append(_Worker())
        return self._readers[:n]

    @property
    def pool(self):
        """The thread that torch's own threads belong to."""
        if self._pool is None:
            self._pool = _Worker(self.n_workers)
        return self._pool

    def end(self):
        for worker in [*self._readers, *([] if self._pool is None else [self._pool])]:
            worker.end()


_call: ContextVar[Any] = ContextVar("call", default=None)  # a _Call inside a call of ours


@contextmanager
def package_settings():
    """torch on one thread and NumPy without complaints: overflow is reported where the objective is looked at.

    A call inside another one of ours finds these settings.
    """
    if _call.get() is not None:
        yield
        return
    n_threads = torch.get_num_threads()
    call = _Call(n_threads, n_threads, copy_context())
    token = _call.set(call)
    try:
        with torch_threads(1), np.errstate(all="ignore"):
            yield
    finally:
        _call.reset(token)
        call.end()


@contextmanager
def caller_settings():
    """The caller's settings, for code of his; yields what calls a function under those of the package again."""
    call, own = _call.get(), copy_context()

    def ours(function):
        with torch_threads(1):
            return own.copy().run(function)  # a copy: no context is entered twice

    if call is None:
        yield ours
        return
    token = _call.set(None)
    try:
        with torch_threads(call.n_threads), np.errstate(**call.context.copy().run(np.geterr)):
            yield ours
    finally:
        _call.reset(token)


def under_caller_settings(iterable):
    """The items of what the caller has passed, each of them made under his settings, in whatever thread it is."""
    call = _call.get()
    if call is None:
        yield from iterable
        return
    context = call.context.copy()  # those of two passes may overlap
    items, end = context.run(iter, iterable), object()
    while True:
        with torch_threads(call.n_threads):
            item = [context.run(next, items, end)]
        if item[0] is end:
            return
        yield item.pop()  # and is not held here while it is worked on


def n_workers():
    """How many threads may work at a time: as many as the caller allows torch."""
    call = _call.get()
    return 1 if call is None else call.n_workers


def in_threads(function, parts):
    """[function(part) for part in parts], each in a thread of its own whose arithmetic is on that thread alone.

    Two threads that each take their rows block by block keep both cores at it from one block to the next, where two
    threads within every operation wait for each other: 12 ms instead of 22 for 500k x 54 float64 on two Zen 4 cores,
    26 ms instead of 54 for MNIST in float32.
    """
    if len(parts) == 1 or n_workers() == 1:
        return [function(part) for part in parts]
    context, others = _of_part(), _call.get().workers(len(parts) - 1)
    rest = [
        other.submit(context.copy().run, _quietly, function, part)
        for other, part in zip(others, parts[1:], strict=True)
    ]
    try:
        first = context.run(_quietly, function, parts[0])
    finally:
        wait(rest)
    return [first, *(future.result() for future in rest)]


def mapped(function, items, device):
    """function(item) for each item, in their order; on the host as many at a time as there are workers."""
    items = iter(items)
    while some := list(islice(items, n_workers() if device.type == "cpu" else 1)):
        with one_blas_thread() if len(some) > 1 else nullcontext():
            done = in_threads(function, some)
        yield from done


def in_pool(function, *args):
    """function(*args), divided by torch among threads of its own, which belong to a thread of ours."""
    if n_workers() == 1:
        return function(*args)
    return _call.get().pool.submit(_of_part().run, _quietly, function, *args).result()


def ahead(iterator):
    """The items of an iterator, the next one being made in a thread while the last one is worked on."""
    config, context, worker = get_config(), _of_part(), _Worker()  # scikit-learn's settings are those of a thread

    def following():
        with config_context(**config):
            return _quietly(next, iterator, None)

    try:
        coming = worker.submit(context.run, following)
        while (item := coming.result()) is not None:
            coming = worker.submit(context.run, following)
            yield item
            del item
    finally:
        worker.end()


def _of_part():
    """A copy of the context, for a part of the work."""
    context, call = copy_context(), _call.get()
    if call is not None:
        context.run(_call.set, call.alone())
    return context


def _quietly(function, *args):
    with torch.no_grad():  # a setting of the thread
        return function(*args)


@contextmanager
def plain_arithmetic(X):
    """Products in the dtype of their factors, and divided among no threads where X is not on the host."""
    with package_settings(), torch.autocast(X.device.type, enabled=False):
        call = _call.get()
        token = _call.set(call if X.device.type == "cpu" else call.alone())
        try:
            yield
        finally:
            _call.reset(token)


@contextmanager
def fit_arithmetic(X):
    """`plain_arithmetic` without the threads of NumPy's BLAS for as long as a fit lasts."""
    blas = one_blas_thread() if X.device.type == "cpu" and X.numel() > TINY else nullcontext()
    with plain_arithmetic(X), blas:
        yield
