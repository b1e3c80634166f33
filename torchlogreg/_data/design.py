"""What a fit may ask of X."""

from typing import NamedTuple


class Access(NamedTuple):
    """How a solver goes through X, which decides how X is best stored."""

    in_random_order: bool = False  # row by row, not in blocks of consecutive rows
    by_products: bool = True  # through products with X and samples of its rows alone


LARGEST = 4096  # rows up to which X X' and its factor repay their arithmetic


def is_wide_table(n, d):
    """Whether n rows of d coefficients, hardly any of them zero, are."""
    return d > 2 * n and n <= LARGEST
