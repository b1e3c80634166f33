"""Numbers of threads: that of torch in the calling thread alone, and that of NumPy's BLAS, mostly of the process."""

import ctypes
import os
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import NamedTuple

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def torch_threads(n):
    """`n` threads for torch in this thread."""
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


class OneBlasThread:
    """NumPy's and scipy's products on one thread for as long as any fit runs.

    Their threads spin for 25 ms after every product, on the cores of those that pass over the rows. Where the number
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


one_blas_thread = OneBlasThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_blas_thread.leave_all)
