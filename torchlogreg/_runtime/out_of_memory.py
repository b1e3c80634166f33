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


def with_room(work):
    """work(), again with smaller blocks, and a warning, whenever the memory of an accelerator does not suffice."""
    for number, by in enumerate(DIVISORS):
        token = divisor.set(by)
        try:
            with translated():
                return work()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if by == DIVISORS[-1]:
                raise MemoryError(
                    f"{_asked(error)} on the device, even in the smallest blocks. {MEMORY_REMEDY}"
                ) from error
            asked = _asked(error)
        finally:
            divisor.reset(token)
        gc.collect()  # the error's frames held what the attempt had allocated
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if number == 0:
            warn(f"{asked} on the device: starting again with smaller blocks.", RuntimeWarning)
    raise AssertionError


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
