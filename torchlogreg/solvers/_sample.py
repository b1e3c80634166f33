"""Newton's method on random samples of the rows: a start near the optimum, and a metric there."""

from itertools import islice

from torchlogreg.solvers._descent import Stand
from torchlogreg.solvers.newton import descend

SMALLEST = 500  # rows of the first sample
MOST_STEPS = 20  # on one sample, whose optimum may be far
NEAR = 4.0  # Newton's last step on a sample starts where its gap is this many times d / m


def draw(problem, size, generator):
    """The problem on `size` random rows that have a weight; on all rows if there are no more.

    Never strided: sorted or periodic rows would make a biased sample.
    """
    rows = problem.rows
    if rows.in_memory and size >= rows.shape[0]:
        return problem.lifted()
    return problem.sampled(rows.draw(size, generator))


def newton_on_samples(problem, W, size, generator) -> Stand:
    """Newton's method on nested samples, each four times the one before, up to `size` rows.

    A sample of m rows is solved to the precision of its own optimum, a relative gap of about d / m; more would be
    wasted (Mokhtari et al. 2016, AdaNewton, arXiv:1605.07659), so most samples take one step. Its penalty is at least
    1 / m of each column's variance, which is within that precision too, and keeps coefficients finite where the
    sample's classes are separable, or only one of them is in it. Returns where the last step starts, and that step.
    """
    pool = draw(problem, size, generator)
    n_unknowns = W.shape[1] * W.shape[2]
    sizes = [size]
    while sizes[-1] // 4 >= max(SMALLEST, 5 * n_unknowns):
        sizes.append(sizes[-1] // 4)
    scatter = pool.sampled(slice(sizes[-1])).scatter()
    for m in reversed(sizes):
        for stand in islice(descend(pool.sampled(slice(m)).shrunk(scatter / m), W), MOST_STEPS):
            if bool((stand.gap <= min(0.25, NEAR * n_unknowns / m)).all()):
                break
        W = stand.point.W + stand.direction
    return stand
