"""Tuning constants of the data room: sizes, shares and limits that decide speed and memory, and no result.

Each comment states the unit, the reason and, where there is one, the measurement. Use them as `tuning.NAME`, so that
a test changes them in one place. Measurements are on two Zen 4 cores unless a comment names another machine.
"""

# --- Blocks: consecutive rows that are multiplied together.

# Numbers of X in a block on a CPU: 3.5 MB in float64, which stays in the cache between `matvec` and `rmatvec`.
CPU_BLOCK_NUMBERS = 440_000
# Numbers of X in a block on an accelerator, which wants few large kernels instead of a warm cache.
ACCELERATOR_BLOCK_NUMBERS = 2**26
# Rows that a block has at least, however wide they are.
MIN_BLOCK_ROWS = 64
# Numbers of X that one logit counts as when a block is sized, because a logit is computed in several steps.
NUMBERS_PER_LOGIT = 4
# Numbers in a block of a sparse X for each column of X. With fewer, the sums over the columns take as long as the
# products.
BLOCK_NUMBERS_PER_COLUMN = 32
# Parts in which a sparse X is upcast, at least, so that one of them at a time exists in the wider dtype.
UPCAST_PARTS = 8

# --- Threads.

# Blocks that make it worthwhile to give a thread a part of the rows.
MIN_BLOCKS_PER_THREAD = 4
# Multiplications that make it worthwhile to give a thread a part of a sum over the rows.
MIN_PRODUCTS_PER_THREAD = 2**23
# Numbers that partial sums over the rows may take in all threads together: 32 MB in float64.
MAX_PARTIAL_SUM_NUMBERS = 2**22

# --- Models.

# Share of the models that weigh some row of a block, beyond which a pass computes the logits of all of them: copying
# the coefficients of the others away then saves too little.
MOST_MODELS_SHARE = 0.9

# --- Second moments.

# Density of a sparse X below which sparse products give second moments sooner than dense pieces of X do.
MAX_SPARSE_GRAM_DENSITY = 1 / 12
# Rows up to which X X' and its Cholesky factor repay their arithmetic where X has more columns than rows.
MAX_INNER_PRODUCT_ROWS = 4096

# Rows that are compared together with another row, when the rows are counted that differ from it.
COMPARED_ROWS = 1024

# --- Storage of X.

# Numbers up to which X is small, and a sparse X is stored as a dense array.
MAX_SMALL_NUMBERS = 2**19
# Density from which a sparse X is stored as a dense array. One of its numbers takes three times as long as one of a
# dense array, and its index takes 1.5 times the memory of a number: from here on the dense array is faster, and takes
# at most twice the memory.
MIN_DENSE_DENSITY = 1 / 3
# Density of a dense array up to which a sparse copy of it is made. Passes over the copy are faster then, and it takes
# at most 19 % of the bytes (25 % in float32).
MAX_SPARSE_COPY_DENSITY = 1 / 8
# Numbers of a dense array that are looked at before all of them are.
PROBED_NUMBERS = 2**14

# --- Frequent columns of a sparse X (see `Design.n_frequent_columns`).

# The cube of their number, for each number of X and each logit: second moments of that many columns, from a sample of
# twenty rows for each, take the time of about three passes over the data.
FREQUENT_COLUMNS_CUBED_PER_NUMBER = 4.0
# Limits of their number.
MIN_FREQUENT_COLUMNS, MAX_FREQUENT_COLUMNS = 32, 1024

# --- Mini-batches.

# Rows that are gathered together for the mini-batches of SGD. Gathering is bound by memory and gains from threads,
# unlike the arithmetic of a small batch.
GATHERED_ROWS = 1024

# --- Streams.

# Bytes that the sample of a stream's rows may take, or as much as a block if that is more.
STREAM_SAMPLE_BYTES = 2**25
# Numbers up to which blocks of a stream are joined, because each block costs a fifth of a millisecond.
MAX_JOINED_BLOCK_NUMBERS = 2**19
# Bytes of a memory-mapped file, or of an array that is predicted in parts, that make one block.
MAPPED_BLOCK_BYTES = 2**24
# Numbers from which a memory-mapped array is fitted, and any array is predicted, block by block.
MIN_STREAMED_NUMBERS = 2**23
# Bytes of rows that are hashed together: few calls, and all of them stay in the cache.
HASHED_BYTES = 2**20
# The same on an accelerator.
ACCELERATOR_HASHED_BYTES = 2**26

# --- Sparse X.

# Columns of a sparse X, as a share of all, below which those that are not empty are the only ones that are fitted.
MAX_NON_EMPTY_SHARE = 0.8

# --- Rows in several processes.

# Rows times columns up to which a table is gathered in the process that leads: a pass over it takes no longer than a
# message, and the solvers in NumPy, which are for such tables, have it at hand.
GATHERED_NUMBERS = 2**19
# The same of a sample of the rows: 128 MB in float64, which take a tenth of a second to gather.
GATHERED_SAMPLE_NUMBERS = 2**24
# The most that is gathered where a sample will not do: 2 GB in float64.
MOST_GATHERED_NUMBERS = 2**28

# --- Checks.

# Numbers of X that are checked together for NaN and infinity.
FINITE_CHECK_NUMBERS = 2**22

# --- The rule of device="auto" (`device_cost.py`); docs/devices.md has the same table.
# What concerns the host was measured on two Zen 4 cores that others used as well, and is rounded. What concerns an
# accelerator is assumed, not measured, for no GPU has run this yet. benchmarks/on_device.py prints all by name.

# Bytes a second that a pass over X moves, X counted twice. The host: 1,000,000 x 100 and one logit, float32, two cores.
HOST_BYTES_PER_S, DEVICE_BYTES_PER_S = 7e9, 1e12
# Multiplications and additions a second of a pass with 200 logits, by the bytes of a number (float32, float64).
HOST_FLOPS_PER_S, DEVICE_FLOPS_PER_S = {4: 2e10, 8: 1.2e10}, {4: 5e12, 8: 1e12}
# Seconds of an operation on a few numbers.
HOST_CALL_SECONDS, LAUNCH_SECONDS = 7e-6, 1e-5
# Bytes a second from the host's pageable memory to a device.
BUS_BYTES_PER_S = 1e10
# Seconds from the first use of a device to the end of the first product there.
START_SECONDS = 1.0
# Passes over the data of a fit. It is the same for all solvers and whatever max_iter is: with another max_iter a
# checkpoint is resumed, and that has to be where the fit began.
ASSUMED_PASSES = 10
# Operations in a pass, and for each block or mini-batch in it: counted on the pretend device of the tests.
CALLS_PER_PASS, CALLS_PER_BATCH = 130, 16
