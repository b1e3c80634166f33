"""How rows are divided: into blocks that stay in cache, one after the other, and into parts, one for each thread."""

from collections.abc import Iterator

import torch

from torchlogreg._data import tuning
from torchlogreg._runtime.out_of_memory import divisor


def block_numbers(device: torch.device) -> int:
    """How many numbers of X a block holds on a device; fewer where its memory has run out before."""
    numbers = tuning.CPU_BLOCK_NUMBERS if device.type == "cpu" else tuning.ACCELERATOR_BLOCK_NUMBERS
    return numbers // divisor.get()


def rows_per_block(numbers: int, row_numbers: int) -> int:
    """How many rows of `row_numbers` numbers make a block of `numbers`."""
    return max(tuning.MIN_BLOCK_ROWS, numbers // row_numbers)


def most_rows_per_block(n: int) -> int:
    """How many of n rows a block has at most: all of them, or the more blocks the shorter the memory of the device is.

    Without this the first attempts after memory ran out would change nothing for an X that is one block anyway.
    """
    return max(tuning.MIN_BLOCK_ROWS, n // divisor.get())


def slices_of_size(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of `size` of n rows; the last one may be shorter."""
    return (slice(start, start + size) for start in range(0, n, size))


def even_slices(n: int, n_parts: int) -> list[slice]:
    """`n_parts` consecutive slices of n rows, of nearly the same size."""
    return [slice(n * i // n_parts, n * (i + 1) // n_parts) for i in range(n_parts)]
