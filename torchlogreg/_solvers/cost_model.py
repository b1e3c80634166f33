"""What second-order information costs, in reads of X: for choosing a solver, a sample, and when to renew a metric.

Measured on two Zen 4 cores in float64; only ratios matter. A read runs at the speed of memory, sums of outer products
at that of arithmetic once there are many unknowns.
"""

import math

# For one logit and for several: reads that copies of the rows take, and unknowns whose products with all others take
# one more; and the reads of a factorisation, times n over the square of the unknowns.
COPIES, COLUMNS, FACTOR = (3.0, 9.0), (40, 16), 0.06
OVERHEAD = 600_000  # products in the time that a read takes besides

GOAL = 1e-6  # relative gap that a sample's size is chosen for
LEVELS = 1.5  # Hessians of the whole sample that Newton's method on nested samples amounts to
GATHER = 5.0  # a random row costs as much as so many in order
SMALLEST = 2000  # rows in a sample
ROWS_PER_UNKNOWN = (5, 10, 20, 50, 100, 200, 500, 1000)


# A number of a sparse X takes as long to read as so many of a dense one, and its sparse products with the others of its
# row as long as so many reads.
SPARSE, PRODUCTS = 3.0, 3.0


def hessian(m, n, d, n_logits, filled=math.inf):
    """Reads of n rows that the Hessian costs on m of them, where a row holds `filled` numbers (d if X is dense)."""
    unknowns = n_logits * d
    several = n_logits > 1
    faster = max(1.0, d / (SPARSE * filled))  # a read, than one of dense rows
    products = min(faster * unknowns / COLUMNS[several], PRODUCTS * n_logits * filled)
    reads = m / n * (COPIES[several] + products) + faster * FACTOR * unknowns**2 / n
    return reads * n * unknowns / (n * unknowns + OVERHEAD)


def sample_size(n, d, n_logits, filled=math.inf):
    """Rows of the sample on which Newton's method starts: what its Hessians cost against the reads that they save.

    From r rows for each unknown the gap starts near 1 / r and falls by that factor a read.
    """

    def reads(r):
        m = min(n, r * n_logits * d)
        return math.log(GOAL) / math.log(1 / r) + LEVELS * hessian(m, n, d, n_logits, filled) + GATHER * m / n

    return min(n, max(SMALLEST, n_logits * d * min(ROWS_PER_UNKNOWN, key=reads)))
