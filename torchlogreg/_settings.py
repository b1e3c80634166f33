"""Settings of the caller's thread and of the process: what a call changes, and how it gives it back.

`own_settings` is what the package computes under, `callers_settings` what the caller's code inside a call runs under:
his callbacks and streams. Two numbers of threads are set: that of torch in the calling thread alone, that of NumPy's
and scipy's BLAS, where it has no other, in the process.
"""

import ctypes
import os
from contextlib import ExitStack, contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache
from threading import Lock, local
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import ThreadpoolController


class Caller(NamedTuple):
    """What the caller's thread was set to."""

    n_threads: int  # of torch
    context: Context  # with NumPy's handling of errors


caller = ContextVar("caller", default=None)


@contextmanager
def own_settings():
    """torch on one thread and NumPy without complaints: overflow is reported where the objective is looked at.

    A call inside another one of ours finds these settings.
    """
    if caller.get() is not None:
        yield
        return
    token = caller.set(Caller(torch.get_num_threads(), copy_context()))
    try:
        with torch_threads(1), np.errstate(all="ignore"):
            yield
    finally:
        caller.reset(token)


@contextmanager
def callers_settings():
    """The caller's settings, for code of his; yields what calls a function under those of the package again."""
    own, n_threads, before = copy_context(), torch.get_num_threads(), caller.get()

    def ours(function):
        with torch_threads(n_threads):
            return own.copy().run(function)  # a copy: no context is entered twice

    if before is None:
        yield ours
        return
    token = caller.set(None)
    try:
        with torch_threads(before.n_threads), np.errstate(**before.context.copy().run(np.geterr)):
            yield ours
    finally:
        caller.reset(token)


def of_caller(iterable):
    """The items of what the caller has passed, each of them made under his settings, in whatever thread it is."""
    if caller.get() is None:
        yield from iterable
        return
    n_threads, context = caller.get()
    context = context.copy()  # those of two reads may overlap
    items, end = context.run(iter, iterable), object()
    while True:
        with torch_threads(n_threads):
            item = [context.run(next, items, end)]
        if item[0] is end:
            return
        yield item.pop()  # and is not kept here while it is worked on


@contextmanager
def torch_threads(n):
    """`n` threads for torch in this thread; for small work a second one costs more than it saves."""
    before, mkl_before = torch.get_num_threads(), set_torch_threads(n)
    try:
        yield
    finally:
        set_torch_threads(before, mkl_before)


def set_torch_threads(n, mkl=None):
    """Set the number of threads that torch, and MKL within it, takes in this thread; returns what MKL's was."""
    functions = _functions_of_this_thread()
    if functions is None:
        torch.set_num_threads(n)
        return None
    openmp, of_mkl = functions
    torch.get_num_threads()  # gives a new thread its number when first asked: later that would undo what we set
    openmp(n)
    return of_mkl and of_mkl(n if mkl is None else mkl)


@cache
def _functions_of_this_thread():
    """OpenMP's and MKL's functions that set the number of threads of the thread that calls them; None without OpenMP.

    torch.set_num_threads calls them, but also notes the number for all threads that have not used torch yet: one that
    does so during a fit would keep the fit's number for life.
    """
    library = ctypes.CDLL(torch._C.__file__)  # functions are found in what it is linked with, too
    openmp, mkl = (getattr(library, name, None) for name in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"))
    if openmp is None:
        return None
    n = torch.get_num_threads()
    openmp(n + 1)
    is_that_of_torch = torch.get_num_threads() == n + 1
    openmp(n)
    return (openmp, mkl) if is_that_of_torch else None


class _Fork:
    """What a forked process has to know.

    The threads that torch keeps for a thread do not exist in a forked process, where the next work that is divided
    among them would wait for them for ever. So the package divides none there, and a thread whose threads it has
    started itself is left with torch on one thread, as those of torch's DataLoader are.
    """

    def __init__(self):
        self.is_child, self._started = False, local()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_child)

    def note(self):
        """torch may start threads for this one."""
        self._started.here = True

    def _in_child(self):
        self.is_child = True
        if getattr(self._started, "here", False):
            set_torch_threads(1)
        one_blas_thread.leave_all()


class OneBlasThread:
    """NumPy's and scipy's products on one thread for as long as any fit runs.

    Their threads spin for 25 ms after every product, on the cores of those that read the rows. Where the number
    belongs to the process, the first fit to enter notes what it was and the last one to leave restores it, unless
    somebody else has set it meanwhile. Where it belongs to a thread, every thread sets its own.
    """

    def __init__(self):
        self._lock, self._inside, self._before = Lock(), set(), []

    @contextmanager
    def __call__(self):
        me = object()
        with ExitStack() as stack:
            for library in _blas_libraries().of_thread:
                stack.callback(library.set_num_threads, library.get_num_threads())
                library.set_num_threads(1)
            with self._lock:
                if not self._inside:
                    self._enter()
                self._inside.add(me)
            try:
                yield
            finally:
                with self._lock:
                    self._inside.discard(me)
                    if not self._inside:
                        self._leave()

    def in_this_thread(self):
        """The same for a thread that belongs to a fit, and ends with it."""
        for library in _blas_libraries().of_thread:
            library.set_num_threads(1)

    def leave_all(self):
        """In a forked process, where the fits of the other threads do not go on."""
        self._lock = Lock()
        self._inside.clear()
        self._leave()

    def _enter(self):
        self._before = [(lib, lib.get_num_threads(), _who_limits(lib)) for lib in _blas_libraries().of_process]
        for library, *_ in self._before:
            _limit(library, 1)

    def _leave(self):
        before, self._before = self._before, []
        for library, n_threads, limited_by in before:
            if library.get_num_threads() == 1 and _who_limits(library) in (None, limited_by):
                _limit(library, n_threads)


def _limit(library, n_threads):
    """Set the number of the process.

    From threadpoolctl 3.8 on, the thread that sets it first owns it until it ends, and what others set is ignored: the
    last fit to leave could not restore it, nor others limit anything after a fit.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(n_threads)


def _who_limits(library):
    """The thread that owns the number; None if none does, or threadpoolctl does not know."""
    thread = getattr(getattr(library, "_SHARED_STATE", None), "controlling_thread", None)
    return thread if thread is not None and thread.is_alive() else None


class _Libraries(NamedTuple):
    of_thread: list  # whose number belongs to the thread that sets it
    of_process: list


@cache
def _blas_libraries():
    """To look for them takes 10 ms."""
    kinds = _Libraries([], [])
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        of_thread = library.internal_api == "mkl" or getattr(library, "threading_layer", None) == "openmp"
        (kinds.of_thread if of_thread else kinds.of_process).append(library)
    return kinds


one_blas_thread, fork = OneBlasThread(), _Fork()
