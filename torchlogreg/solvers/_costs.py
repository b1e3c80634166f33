"""What second-order information costs, in reads of X: for choosing a solver and for renewing a metric.

Measured on two Zen 4 cores in float64; only ratios matter. A read runs at the speed of memory, sums of outer products
at that of arithmetic once d is large.
"""

import math

GRAM_OVERHEAD, GRAM_COLUMNS = 3.0, 40  # reads that weighted copies take, and columns whose products take one more
FACTOR_ROWS = 100  # rows over which factoring d^2 numbers takes one read


def blocks(m, n, d):
    """Reads of n rows that one block (d, d) for each logit costs on m of them, by logit."""
    return m / n * (GRAM_OVERHEAD + d / GRAM_COLUMNS) + d * d / (FACTOR_ROWS * n)


def hessian(m, n, d, n_logits):
    """Reads of n rows that the whole Hessian costs on m of them."""
    pairs = n_logits * (n_logits + 1) / 2
    unknowns = n_logits * d
    return (pairs * m / n * (GRAM_OVERHEAD + d / GRAM_COLUMNS) + unknowns**3 / d / (FACTOR_ROWS * n)) / n_logits


def sample_size(n, d, n_logits):
    """Rows of the sample on which Newton's method starts: what its Hessians cost against the reads that they save.

    From a sample of m = r d K rows the gap starts near 1 / r and falls by that factor a read.
    """
    unknowns = n_logits * d

    def reads(r):
        m = min(n, r * unknowns)
        return math.log(1 / GOAL) / math.log(r) + LEVELS * hessian(m, n, d, n_logits) + GATHER * m / n

    return min(n, max(SMALLEST, unknowns * min(SAMPLES, key=reads)))


GOAL = 1e-6
SMALLEST = 2000  # rows that are not worth sampling from
LEVELS = 1.5  # Hessians of the whole sample that Newton's method on nested samples amounts to
GATHER = 5.0  # a random row costs as much as so many in order
SAMPLES = (5, 10, 20, 50, 100, 200, 500, 1000)
