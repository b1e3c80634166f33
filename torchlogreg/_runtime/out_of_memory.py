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


def attempts():
    """Context managers for the same work, with ever smaller blocks and a warning while a device has no memory for it.

    ``for attempt in attempts(): with attempt: ...``: no function stands between the caller and the work.
    """
    for number in range(len(DIVISORS)):
        attempt = _Attempt(number)
        yield attempt
        if not attempt.failed:
            return
        gc.collect()  # the error's frames held what the attempt had allocated
        for kind in (torch.cuda, torch.xpu):
            if kind.is_initialized():
                kind.empty_cache()


def with_room(work):
    """The result of work(), which is called again with ever smaller blocks while a device has no memory for it."""
    for attempt in attempts():
        with attempt:
            return work()
    raise AssertionError  # the last attempt raises


class _Attempt:
    def __init__(self, number):
        self.number, self.failed = number, False

    def __enter__(self):
        self._token = divisor.set(DIVISORS[self.number])

    def __exit__(self, kind, error, trace):
        divisor.reset(self._token)
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
            raise MemoryError(f"{_asked(error)} on the host. {MEMORY_REMEDY}") from error
        self.failed = isinstance(error, (torch.OutOfMemoryError, RuntimeError)) and ran_out(error)
        if not self.failed:
            return False
        if self.number == len(DIVISORS) - 1:
            raise MemoryError(f"{_asked(error)} on the device, even in the smallest blocks. {MEMORY_REMEDY}") from error
        if self.number == 0:
            warn(f"{_asked(error)} on the device: starting again with smaller blocks.", RuntimeWarning)
        return True


def ran_out(error):
    """Whether an error means that an accelerator has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


@contextmanager
def translated(*, device=False):
    """Make MemoryErrors of the RuntimeErrors that torch raises when memory runs out: the host's, or also a device's."""
    try:
        yield
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            where = "host"
        elif device and ran_out(error):
            where = "device"
        else:
            raise
        raise MemoryError(f"{_asked(error)} on the {where}. {MEMORY_REMEDY}") from error


def _asked(error):
    size = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    return f"Memory ran out when {size[1] if size else 'more'} were asked for"


divisor = ContextVar("divisor", default=1)  # of the sizes of blocks, where memory is short
