"""What second-order information costs, in passes over X.

That is for choosing a solver, a sample, and when to renew a preconditioner.
"""

import math

from torchlogreg._solvers import tuning


def hessian(m, n, d, n_logits, filled=math.inf):
    """Passes over n rows that the Hessian costs on m of them, where a row holds `filled` numbers (d if X is dense)."""
    unknowns = n_logits * d
    several = n_logits > 1
    faster = max(1.0, d / (tuning.SPARSE_NUMBER_COST * filled))  # a pass, than one over dense rows
    products = min(
        faster * unknowns / tuning.UNKNOWNS_PER_PASS[several], tuning.SPARSE_PRODUCT_PASSES * n_logits * filled
    )
    passes = m / n * (tuning.COPIES_PASSES[several] + products) + faster * tuning.FACTOR_PASSES * unknowns**2 / n
    return passes * n * unknowns / (n * unknowns + tuning.OVERHEAD_PRODUCTS)


def sample_size(n, d, n_logits, filled=math.inf):
    """Rows of the sample on which Newton's method starts: what its Hessians cost against the passes that they save.

    From r rows for each unknown the gap starts near 1 / r and falls by that factor a pass.
    """

    def passes(r):
        m = min(n, r * n_logits * d)
        return (
            math.log(tuning.SAMPLE_GOAL_GAP) / math.log(1 / r)
            + tuning.NESTED_HESSIANS * hessian(m, n, d, n_logits, filled)
            + tuning.GATHER_PASSES * m / n
        )

    return min(n, max(tuning.SMALLEST_SAMPLE_ROWS, n_logits * d * min(tuning.ROWS_PER_UNKNOWN, key=passes)))
