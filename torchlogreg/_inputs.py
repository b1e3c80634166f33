"""From what users pass to rows on a device: the only file that knows containers.

NumPy arrays, lists, data frames, sparse matrices and tensors come in; checked tensors (or `Sparse`), encoded labels,
weights and a device go out.
Nothing is copied that need not be, and nothing the user owns is written to.
"""

import copy
import numbers
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from torchlogreg._rows import Home, Rows
from torchlogreg._sparse import Sparse, SparseRows, pays_dense

# Work (n p K) from which an accelerator is expected to repay the copy of X, for device="auto".
ACCELERATOR_PAYS = 50_000_000


class TrainingData(NamedTuple):
    """What `fit` was given, checked and encoded."""

    X: torch.Tensor | Sparse  # (n, p) on the device
    codes: np.ndarray  # (n,) index of each row's class
    weight: np.ndarray  # (n,) sample weight times class weight
    classes: np.ndarray
    schema: dict  # n_features_in_ and, for frames, feature_names_in_
    dtype: np.dtype  # of the coefficients


def training_data(estimator, X, y, sample_weight):
    """Check the arguments of `fit` without touching the estimator."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    stand_in = copy.copy(estimator)  # takes the attributes that validate_data sets
    X = _checked_rows(stand_in, X, reset=True)
    schema = {name: value for name, value in vars(stand_in).items() if name in ("n_features_in_", "feature_names_in_")}
    y = _checked_labels(y)
    check_consistent_length(X, y)
    classes, codes = _encoded(y)
    weight = _checked_weights(sample_weight, len(y))
    if estimator.class_weight is not None:
        weight = weight * class_weights(estimator.class_weight, classes, codes, weight)[codes]
    _check_classes(estimator, classes, np.bincount(codes, weights=weight, minlength=len(classes)))
    n_logits = 1 if len(classes) == 2 else len(classes)
    dtype = np.dtype(np.float32 if X.dtype in (torch.float32, torch.float16, torch.bfloat16) else np.float64)
    device = resolve_device(estimator.device, X, work=X.numel() * n_logits)
    return TrainingData(_moved(X, device), codes, weight, classes, schema, dtype)


def rows_of(data, loss, index=None, *, intercept):
    """Rows for a loss, of all data or of those at `index`."""
    X, codes, weight = data.X, _as_tensor(data.codes), _as_tensor(data.weight)
    if index is not None:
        index = torch.from_numpy(index)
        X, codes, weight = X[index.to(X.device)], codes[index], weight[index]
    wide = torch.float32 if X.device.type == "mps" else torch.float64
    y = loss.targets(codes.to(X.device), wide)
    return _kind(X)(X, y, weight.to(wide).to(X.device)[:, None], intercept=intercept)


def prediction_rows(estimator, X, dtype):
    """Rows without labels for the methods that predict, with products in `dtype` or wider."""
    X = _checked_rows(estimator, X, reset=False)
    on_host = X.device.type == "cpu"
    device = X.device
    to_device = estimator.device != "auto" and estimator.device in available_devices()
    if on_host and to_device and not isinstance(X, Sparse):
        device = torch.device(estimator.device)
    X = _moved(X, device)
    nothing = torch.empty(len(X), 0, dtype=X.dtype, device=X.device)
    wide = torch.promote_types(X.dtype, dtype) if device.type != "mps" else torch.float32
    return _kind(X)(X, nothing, nothing, intercept=True, products=Home(device, wide))


def _kind(X):
    """The class of rows that reads X."""
    return SparseRows if isinstance(X, Sparse) else Rows


def dense_coefficients(coef):
    """`coef_` as an array, whether or not it was made sparse."""
    return coef.toarray() if issparse(coef) else coef


def available_devices():
    """Names of the devices that this machine offers to torch."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def resolve_device(device, X, work):
    """The torch device that a fit of X runs on."""
    if device == "auto":
        if X.device.type != "cpu" or work < ACCELERATOR_PAYS or isinstance(X, Sparse):
            return X.device
        if torch.cuda.is_available():
            return torch.device("cuda")
        # Without float64 an MPS device is a fair choice for single precision only.
        return torch.device("mps" if X.dtype == torch.float32 and torch.backends.mps.is_available() else "cpu")
    names = available_devices()
    if device not in names:
        raise ValueError(f"device={device!r} is not available here. Choose 'auto' or one of {names}.")
    return torch.device(device)


def _checked_rows(estimator, X, *, reset):
    """X as a finite (n, p) tensor or `Sparse` of a floating dtype; sets or checks feature names and their number."""
    if isinstance(X, torch.Tensor) and X.device.type != "cpu":
        return _checked_tensor(estimator, X, reset=reset)
    if isinstance(X, torch.Tensor):
        X = X.detach()
        X = (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).resolve_conj().resolve_neg().numpy()
    X = validate_data(estimator, X, reset=reset, dtype=[np.float64, np.float32], accept_sparse="csr")
    if not issparse(X):
        return _as_tensor(X)
    return torch.from_numpy(X.toarray()) if pays_dense(X) else Sparse.of(X)


def _checked_tensor(estimator, X, *, reset):
    """The checks of validate_data for a tensor on an accelerator, made there."""
    X = X.detach()
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"Expected a 2D tensor with at least one row and one column, got shape {tuple(X.shape)}.")
    if X.is_complex():
        raise ValueError("Complex data not supported")
    if X.dtype in (torch.bfloat16, torch.float16):
        X = X.float()
    if not X.is_floating_point():
        X = X.to(torch.float32 if X.device.type == "mps" else torch.float64)
    if not bool(torch.isfinite(X).all()):
        raise ValueError("Input X contains NaN or infinity. Impute or remove those rows first.")
    return X


def _as_tensor(array):
    """A tensor over the same memory; NumPy's read-only arrays and negative strides included."""
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    if array.flags.writeable:
        return torch.from_numpy(array)
    try:
        return torch.from_dlpack(array)  # from_numpy would warn
    except (BufferError, RuntimeError):
        return torch.from_numpy(array.copy())


def _moved(X, device):
    """X on `device`; cast on the host first where the device has no float64."""
    if device.type == "mps" and X.dtype == torch.float64:
        X = X.float()
    return X.to(device)


def _checked_labels(y):
    """Labels as a 1-d NumPy array of a kind that classifiers accept."""
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu()
        y = y.double() if y.is_floating_point() else y
    y = column_or_1d(y, warn=True)
    if y.dtype.kind not in "biuSU":  # those are class labels whatever they hold
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity.")
        check_classification_targets(y)
    return y


def _encoded(y):
    """Sorted classes, and the index of each label in them."""
    if y.dtype.kind not in "biu" or y.dtype == np.uint64 or not len(y):
        return np.unique(y, return_inverse=True)
    numbers = y.astype(np.int64)
    lowest = int(numbers.min())
    if int(numbers.max()) - lowest > len(y):
        return np.unique(y, return_inverse=True)
    # Counting takes a fifth of the time of sorting.
    present = np.bincount(numbers - lowest) > 0
    classes = (np.flatnonzero(present) + lowest).astype(y.dtype)
    return classes, (np.cumsum(present) - 1)[numbers - lowest]


def _checked_weights(sample_weight, n):
    """Sample weights as float64 (n,)."""
    if sample_weight is None:
        return np.ones(n)
    if isinstance(sample_weight, (numbers.Real, np.ndarray)) and np.ndim(sample_weight) == 0:
        sample_weight = np.full(n, sample_weight, dtype=np.float64)
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = sample_weight.detach().cpu().double()
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape}; expected one weight for each row, ({n},).")
    if (weight < 0).any():
        raise ValueError("Negative values in sample_weight: weights must be zero or positive.")
    if not weight.any():
        raise ValueError("All sample weights are zero; at least one weight must be positive.")
    return weight


def class_weights(class_weight, classes, codes, weight):
    """Weight of each class, (n_classes,)."""
    if class_weight == "balanced":
        total = np.bincount(codes, weights=weight / weight.max())
        return total.sum() / (np.count_nonzero(total) * np.where(total > 0, total, np.inf))
    out = compute_class_weight(class_weight, classes=classes, y=classes)
    if not (np.isfinite(out) & (out >= 0)).all():
        raise ValueError(f"class_weight must hold finite weights, zero or positive; got {class_weight}.")
    return out


def _check_classes(estimator, classes, weight_of_class):
    """Raise unless the estimator can tell these classes apart."""
    if len(classes) > 2 and not estimator.__sklearn_tags__().classifier_tags.multi_class:
        raise ValueError(
            f"Only binary classification is supported. y holds {len(classes)} classes: use TorchSoftmaxClassifier, "
            "or wrap this estimator in OneVsRestClassifier."
        )
    present = classes[weight_of_class > 0]
    if len(present) < 2:
        raise ValueError(
            "A classifier needs samples of at least two classes"
            + ("" if len(classes) < 2 else " with positive weight")
            + f", but the data contains only one class: {(present if len(present) else classes)[0]}"
        )
