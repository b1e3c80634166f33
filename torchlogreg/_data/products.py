"""Products of two matrices, by whichever library is fastest at them, and the dtype that they run in."""

import numpy as np
import torch

# The dtypes that are multiplied as they are. An X of another dtype is upcast block by block.
PRODUCT_DTYPES = torch.float32, torch.float64


def product_dtype(X) -> torch.dtype:
    """The dtype of products with X: its own, or float32 for half precision and float64 for integers."""
    if X.dtype in PRODUCT_DTYPES:
        return X.dtype
    return torch.float32 if X.is_floating_point() or X.device.type == "mps" else torch.float64


def numpy_dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b; overflow is reported where the objective is checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.dot(a, b)


def matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b; by NumPy, which halves the work where one is the other's transpose, unless torch has several threads."""
    if a.device.type != "cpu" or torch.get_num_threads() > 1:
        return a @ b
    return torch.from_numpy(numpy_dot(a.numpy(), b.numpy()))


def csr_product(matrix, columns: np.ndarray) -> np.ndarray:
    """A sparse array times columns (p, M); scipy is faster with a vector where there is one column."""
    columns = np.ascontiguousarray(columns)
    with np.errstate(over="ignore", invalid="ignore"):  # as in `numpy_dot`
        return (matrix @ columns[:, 0])[:, None] if columns.shape[1] == 1 else matrix @ columns
