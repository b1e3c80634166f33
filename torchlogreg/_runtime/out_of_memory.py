"""What happens when memory runs out: smaller blocks on an accelerator, a clear error on the host."""

import gc
import re
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from torchlogreg._runtime.warn import warn

DIVISORS = (1, 8, 64, 512)  # of the size of blocks, tried one after the other
MEMORY_REMEDY = (
    "Pass X as float32, as np.memmap or as a stream of blocks, or choose a solver that needs no Hessian ('lbfgs')."
)


def attempts(first: int = 0):
    """Context managers for the same work, with ever smaller blocks and a warning while a device has no memory for it.

    ``for attempt in attempts(): with attempt: ...``: no function stands between the caller and the work.
    """
    for number in range(first, len(DIVISORS)):
        failures = []
        yield _attempt(number, failures)
        if not failures:
            return
        gc.collect()  # the error's frames held what the attempt had allocated
        for kind in (torch.cuda, torch.xpu):
            if kind.is_initialized():
                kind.empty_cache()


class Room:
    """Calls work again with ever smaller blocks while a device has no memory for it, and remembers what it has for."""

    n_failed = 0  # sizes of blocks

    def call(self, work):
        """The result of work()."""
        for attempt in attempts(self.n_failed):
            with attempt:
                return work()
            self.n_failed += 1
        raise AssertionError  # the last attempt raises


def with_room(work):
    """The result of work(), which is called again with ever smaller blocks while a device has no memory for it."""
    return Room().call(work)


@contextmanager
def _attempt(number, failures):
    token = divisor.set(DIVISORS[number])
    is_last = number == len(DIVISORS) - 1
    try:
        with translated(device="device, even in the smallest blocks" if is_last else None):
            yield
    except RuntimeError as error:
        if not ran_out(error):
            raise
        failures.append(number)
        if number == 0:
            warn(f"{_asked(error)} on the device: starting again with smaller blocks.", RuntimeWarning)
    finally:
        divisor.reset(token)


def ran_out(error):
    """Whether an error means that an accelerator has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


@contextmanager
def translated(device: str | None = "device"):
    """Make MemoryErrors of the RuntimeErrors that torch raises when memory runs out, the host's or that of `device`."""
    try:
        yield
    except RuntimeError as error:
        where = "host" if "DefaultCPUAllocator" in str(error) else device if ran_out(error) else None
        if where is None:
            raise
        raise MemoryError(f"{_asked(error)} on the {where}. {MEMORY_REMEDY}") from error


def _asked(error):
    size = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    return f"Memory ran out when {size[1] if size else 'more'} were asked for"


divisor = ContextVar("divisor", default=1)  # of the sizes of blocks, where memory is short
