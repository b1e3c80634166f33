"""The tuning constants of this package, with what they were chosen by."""

# Memory of models that are solved together: bytes that a batch may take, or those of X if they are more. A model takes
# about so many arrays of the size of its coefficients and, where the solver needs the whole Hessian, so many matrices
# of the size of the Hessian.
BATCH_BYTES = 2**28
ARRAYS_OF_A_MODEL = 24
HESSIANS_OF_A_MODEL = 3
# With an L1 norm a model takes about so many arrays more, and for each class a matrix of at most so many columns, those
# that are not zero or nearly so.
PAIRS_OF_A_MODEL, COLUMNS_OF_A_MODEL = 40, 1000

# Share of the best objective without features below which an optimum moves far with the rows and with C: weaker
# penalties are then solved along the path of their fold.
NEARLY_SEPARABLE = 0.2
# Largest length of an extrapolated step along a path, in units of the step before it (both in log C).
PATH_STRETCH = 1.5

# Largest tolerance for the models of all rows where those of the folds start from them.
CENTRE_TOL = 0.2

# Models with an L1 norm that are solved together, each group from the end of the one before: of 100 on 500k x 54,
# 100k x 300 and 500 x 20,000 in 4.1, 3.6 and 2.4 seconds, and in 7, 8.5 and 4.9 where all start from zero.
PATH_MODELS = 20

# Powers of ten that values of C span from the smallest useful one on; fewer where there are more features than rows,
# which weak penalties separate.
DECADES_OF_C, DECADES_OF_C_WIDE = 4, 2

# Rounding errors in an entry of the gradient, against the root of the Hessian's.
SLOPE_ROUNDINGS = 64

# Share of the weight that a class without any has where its logarithm is an intercept.
LEAST_SHARE = 1e-300

# Strength, over S, of the penalty on an intercept that a candidate does not have: an intercept of 1e-30 changes no
# logit.
NO_INTERCEPT = 1e30
