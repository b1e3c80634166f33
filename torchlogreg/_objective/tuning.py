"""The constants of the objective: what they count, why they have these values, and what they were measured on."""

import torch

# Logits that a Point may hold: bytes, as a share of those of X, and the bytes that are small whatever X is.
LOGITS_BYTES_SHARE, SMALL_LOGITS_BYTES = 1 / 8, 2**23
# Numbers that the Hessians of all parts of the rows may hold, as a share of those of X. Where they are larger, the sums
# over one part have threads instead.
PARTIAL_HESSIANS_SHARE = 0.1
ROOT_BLOCK_NUMBERS = 2**23  # numbers of derivatives of the logits that are written out together for a root
CERTAIN_LOGIT = 64.0  # logit of a class beside which the others have a probability of e^-64

# The certificate.
BEST_INTERCEPT_GRADIENT = 1e-10  # gradient at intercepts that count as best: within its square of the least value
# Numbers of X up to which one more pass costs nothing to speak of, and passes of a fit of which it is a twentieth.
CHEAP_PASS_NUMBERS, LONG_FIT_PASSES = 2**18, 20
MANY_FEATURES = 2000  # from which on those whose coefficients are at their kinks are left out of sums
LARGE_LOSS = 30.0  # of a row, whose probability is nothing beside one
ROW_BY_ROW_LOGITS = 2**16  # that are worked on together, in fewer and longer steps than products with X are
SMALLEST_CURVATURE = {torch.float32: 1e-32, torch.float64: 1e-300}  # that sums of products hold

# Reparametrisations.
# Numbers of X X' for each number of X, up to which the span of the rows is cheaper than X itself: text of few rows.
ROW_SPACE_NUMBERS_PER_NUMBER = 16

# The search for a direction that separates the classes; all margins are those of rows at unit length.
IN_MEMORY_NUMBERS = 2**22  # numbers of X up to which all rows are looked at together
MOST_SEPARATION_UNKNOWNS = 512  # beyond which the coefficients themselves are the only direction that is tried
SAMPLE_ROWS_PER_UNKNOWN, SMALLEST_SEPARATION_SAMPLE = 10, 500  # rows, which mostly tell that there is no direction
MARGINS_PER_UNKNOWN, MOST_ROUNDS = 3, 30  # margins that join the others in a round, and rounds
# Margins above the first are zero to rounding, and above the second are certainly positive.
MARGIN_NOISE, CLEAR_MARGIN = 1e-11, 1e-6
ZERO_DIRECTION = 1e-10  # size of a direction that is zero, where the sum's is one
RANK_TOLERANCE = 1e-12  # least second moment, relative to the largest, in the span of the rows

# Share of a row's mean curvature by which a softmax with bounds is lifted along a row without a penalty. Where bounds
# hold some classes, a step of the others is one along the flat direction, too, and a lift as large as the curvature
# makes it too short: of five problems with 18 to 90 coefficients, 2 did not converge in 200 iterations, and all did in
# 4 to 11 with a share of 1e-3 or 1e-6.
BOUNDED_LIFT = 1e-6
