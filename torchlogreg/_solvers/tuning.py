"""The constants of the solvers: what they count, why they have these values, and what they were measured on.

Times are of two Zen 4 cores. "Passes" are passes over X, "numbers" are matrix entries.
"""

import numpy as np

# Which solver "auto" stands for, and which implementation of Newton's method.
# `newton_numpy.size` up to which Newton's method, in NumPy, is done before L-BFGS has begun: for one logit 1.8 ms
# instead of 5.2 for 300 x 10, the same 15 for 2000 x 50, 15 instead of 7 for 10,000 x 10; for several, 9 ms instead of
# 12 for 214 x 9 with 6 classes, the same 17 for 300 x 10 with 10.
AUTO_NEWTON_NUMBERS = 3 * 2**15
NUMPY_NEWTON_NUMBERS = 2**19  # `newton_numpy.size` up to which Newton's method runs in NumPy
NUMPY_LBFGS_NUMBERS = 2**19  # n d K up to which L-BFGS of several logits runs in NumPy

# The driver.
# Share of the objective at zero below which a model fell so far that curvature seen on the way says little of that at
# the end: estimates of the gap are then believed only where a bound or the whole Hessian confirms them.
DOUBTFUL_VALUE_SHARE = 0.02
FINISHED_TOGETHER_NUMBERS = 2**25  # numbers in the Hessians of models that are finished together
# An objective that counts as zero, its lower bound. Zero is the infimum where one class has all the weight, to which
# nothing is near by a relative gap.
ZERO_VALUE = float(np.finfo(np.float64).eps)

# Line search.
ARMIJO = 1e-4  # fraction of the predicted decrease that a step must achieve
MOST_HALVINGS = 150  # of one step: by twice as many, no finite direction is left long
# Rounding errors by which values may differ and still count as equal, in float64 and with products in float32.
EQUAL_VALUE_ROUNDINGS, EQUAL_VALUE_ROUNDINGS_OF_PRODUCTS = 64, 4

# Starts.
START_ROUNDING = 1e-6  # relative rounding of sums over the rows in float32, by which a start may be worse than zero
SEGMENT_POINTS = 64  # looked at between a start and zero, each at half the distance of the one before

# What second-order information costs, in passes. Measured in float64; only ratios matter: a pass runs at the speed of
# memory, sums of outer products at that of arithmetic once there are many unknowns.
# For one logit and for several: passes that scaled copies of the rows take, and unknowns whose products with all others
# take one more; and the passes of a factorisation, times n over the square of the unknowns.
COPIES_PASSES, UNKNOWNS_PER_PASS, FACTOR_PASSES = (3.0, 9.0), (40, 16), 0.06
OVERHEAD_PRODUCTS = 600_000  # products in the time that a pass takes besides
SAMPLE_GOAL_GAP = 1e-6  # relative gap that a sample's size is chosen for
NESTED_HESSIANS = 1.5  # Hessians of the whole sample that Newton's method on nested samples amounts to
GATHER_PASSES = 5.0  # passes over rows in order that a random row costs
SMALLEST_SAMPLE_ROWS = 2000
ROWS_PER_UNKNOWN = (5, 10, 20, 50, 100, 200, 500, 1000)  # that a sample's size is chosen from
# A number of a sparse X takes as long as so many of a dense one, and its sparse products with the others of its
# row as long as so many passes.
SPARSE_NUMBER_COST, SPARSE_PRODUCT_PASSES = 3.0, 3.0

# Newton's method on samples of the rows.
SMALLEST_NESTED_ROWS = 500  # rows of the first sample
MOST_SAMPLE_STEPS = 20  # on one sample, whose optimum may be far
MIN_EFFECTIVE_ROWS = 5.0  # rows of a sample that should be unlike most in a column whose curvature may matter
MATTERING_CURVATURE = 4.0  # it may if it is so many times that of the penalty
EQUAL_MOMENTS = 1e-3  # relative difference of moments that are the same
NEAR_GAP = 4.0  # Newton's last step on a sample starts where its gap is this many times d / m
ROOT_PRODUCTS = 2**36  # products that a root of the Hessian may take

# What a raised diagonal hides of the gap.
SURE_GAP, NEGLIGIBLE_GAP = 1e-2, 1e-8  # above the first it does not matter yet, and below the second in no case
NEGLIGIBLE_RAISE = 0.01  # share of the penalty that may be added to a diagonal without a word
GRADIENT_ROUNDINGS = 64  # rounding errors in an entry of the gradient, against the root of the Hessian's

# Which preconditioner.
PRECONDITIONER_NUMBERS, ALL_PRECONDITIONERS_NUMBERS = 2**24, 2**25  # in one model's, and in those of all models
DEAREST_START_PASSES = 20  # that a preconditioner may cost at the start
UNREPRESENTATIVE_GAP = 0.3  # relative decrease that no sound estimate promises at a point near the optimum
SOON_ITERATION, LATE_ITERATION = 3, 10  # of the first renewal, from few rows or from most; then at twice the last
SHARED_SAMPLE_FACTOR = 4  # sample of models around a centre, against a single one's
LONG_FIT_HESSIAN_PASSES = 50  # passes of a long fit, which the whole Hessian may cost
COUPLED_UNKNOWNS = 640  # coefficients in the coupled block of the preconditioner in an eigenbasis
EIGENBASIS_ROUNDING = 1e-12  # of the largest second moment
ROWS_PER_FREQUENT_COLUMN = 20  # rows of the sample for the frequent columns of one logit

# When a new one.
RENEWAL_GOAL_GAP = 1e-8  # relative gap that the Hessian of all rows is to reach sooner than the present preconditioner
PACE_WINDOW = 2  # iterations over which the pace is measured
RENEWAL_PATIENCE = 0.25  # passes since the last renewal, against the Hessian's cost, before it is thought of
TOGETHER_SHARE = 0.2  # of its time that the pass of a model takes beside another one, whose Hessian takes its own time
SLOW_NEWTON_FALL = 2.0  # fall of the gap's logarithm in a step of Newton's that is not converging quadratically
MOST_BELIEVED_PASSES = 60  # beyond which an estimate of the passes to come is not believed

# L-BFGS.
LEAST_CURVATURE = 1e-14  # relative, along a step that makes a pair
# In NumPy: pairs; iterations after which Newton's method goes on, at least, and unknowns whose Hessian costs one more.
SMALL_MEMORY_PAIRS, SHORTEST_PATIENCE, UNKNOWNS_OF_A_HESSIAN_PASS = 30, 20, 8
SMALL_MEMORY_BYTES = 2**25  # that pairs may take however small X is
BATCHED_PRODUCT_NUMBERS = 2**12  # numbers in a matrix from which torch's batched matrix-vector product is slower

# SGD.
AUTOMATIC_BATCH_ROWS = 32  # rows in a mini-batch with batch_size="auto"
COOLING_SHARE = 0.4  # of the epochs over which the learning rate "auto" falls to zero
EQUAL_WEIGHTS = 1e-12  # relative difference of weights that are all alike

# Penalties with kinks and bounds: the quadratic model.
# Coefficients off their kinks and bounds up to which those at them may leave with the first solution; where there are
# more, the first one is for these alone.
PIVOTS_FROM_SUPPORT = 20
# Share of the coefficients off their kinks that may join them in one exchange: of 480 that wanted to join 255 on a
# working set of 500 x 710, 70 stayed.
PIVOT_GROWTH = 0.2
MOST_PIVOTS, PIVOT_PATIENCE = 25, 4  # solutions of one guessing, and those in a row that contradict no fewer
MOST_EXPLAINING = 100  # coefficients without a kink, as intercepts are, that proximal terms leave alone
MOST_MODEL_SOLUTIONS = 120  # of one model, beyond which the best proximal point is enough
MODEL_VIOLATION_SHARE = 1e-3  # violation that a model's minimiser may keep, of that at the start
LEAST_VIOLATION_SHARE = 1e-8  # the same where more than this lowers nothing
# Share of a right-hand side that a solution may leave before the matrix counts as another one: a raise that is a ten
# thousandth of the curvature it is added to.
MOST_MISSING = 1e-4
LEAST_RAISE = 1e-12  # added to a diagonal scaled to one, before it is factored
BLOCK_SCALES, LEAST_DIAGONAL_SHARE = (1e-2, 1e2), 1e-3  # that pairs may scale blocks by, and leave of a diagonal
# Rows from which on a factor is kept, those of it for each row by which the next part may differ, and share of a
# right-hand side that a solution with it may leave: with 2200 rows, 20 ms instead of 120.
LEAST_KEPT_FACTOR, FACTOR_PER_BORDER, MOST_MISSING_BY_FACTOR = 300, 8, 1e-9
KINK_MEMORY_PAIRS = 20
LEAST_LEFT_SHARE = 1e-3  # of sums of squares from which terms are subtracted, instead of adding up the others
# Relative gap from which on the Hessian of all rows is thought of; before that, the coefficients that matter change. On
# 20,000 rows of MNIST, 10 times the smallest useful C, 14 passes and 4 Hessians instead of 17 and 10.
COUPLING_GAP = 1e-2
# Passes that the logits take for it, and the columns, which are picked from all rows: 86 ms on 100k x 300 in all for 60
# of them, where a pass is 26.
COUPLED_BESIDE_PASSES = 1.5
COUPLED_NUMBERS = 2**22  # in the rows whose outer products such a Hessian is the sum of, multiplied at once
# Damping of a model: how often it is raised at once, the shares of the slope's promise from which on a step lowers it a
# little and by much, and the share of the curvature along a step that does not matter.
MOST_DAMPINGS, GOOD_STEPS, NEGLIGIBLE_DAMPING = 6, (0.25, 0.4), 0.01
CLASS_BLOCK_ROWS, SAMPLE_NUMBERS = 6000, 2**25  # rows of the sample for blocks of classes; numbers of any sample
SMALLEST_SHARE = 1e-12  # of the weight that a class counts as having at the start
MOST_NEAR_KINKS = 150  # coefficients at zero in a model, or twice as many as are not
# Coefficients up to which all are in the quadratic model, and the share of its L1 strength beyond which a derivative
# brings a coefficient into a larger one.
FEW_CANDIDATES, NEAR_KINK = 100, 0.7
# The same share for the Hessian of all rows, whose cost grows with the square of their number, and which comes when the
# coefficients that matter are nearly known: on that MNIST as many passes as with 0.7, at half of the products.
COUPLED_NEAR_KINK = 0.8
PICKED_NUMBER_PRODUCTS = 16  # products in the time that it takes to pick a number of a column out of rows
REUSED_BLOCK_FACTOR = 2.0  # size of a block that is known, up to which its part is taken from it
# Numbers of a wide X up to which bounds of coefficients without an L1 norm, of which most are inside their bounds, are
# solved for in NumPy, whose matrices are products of the rows: 300 x 3000 in 1.8 s instead of 10.
NUMPY_WIDE_NUMBERS = 2**24
# Working sets: columns for each row from which on they are used, and rows up to which; columns of the smallest one, and
# steps of proximal Newton on one; violation to which one is solved, of that of all columns at the start.
WORKING_SET_COLUMNS_PER_ROW, MOST_WORKING_SET_ROWS = 4, 5000
# Coefficients of several classes whose Hessian is made on a working set: 128 MB. With more, all columns together take
# half of the time (100 x 1200, four classes, l1_ratio 0.01).
MOST_SET_COEFFICIENTS = 2**12
# Numbers in the blocks of all classes of a model: 256 MB. Coefficients beyond have a diagonal.
BLOCKS_NUMBERS = 2**25
# The least curvature of coefficients that have no place in a block, as a share of the largest of their class.
LEAST_UNBLOCKED_SHARE = 1e-4
LEAST_WORKING_SET, MOST_SET_STEPS, SET_VIOLATION_SHARE = 400, 50, 1e-2
