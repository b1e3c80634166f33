"""What second-order information costs, in reads of X: for choosing a solver and for renewing a metric.

Measured on two Zen 4 cores in float64; only ratios matter. A read runs at the speed of memory, sums of outer products
at that of arithmetic once d is large.
"""

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
