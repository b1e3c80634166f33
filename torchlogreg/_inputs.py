"""From what users pass to rows on a device: the only file that knows containers.

NumPy arrays, lists, data frames, sparse matrices, tensors and streams come in; checked tensors (or their stand-ins),
encoded labels, weights and a device go out.
Nothing is copied that need not be, and nothing the user owns is written to.
"""

import copy
import numbers
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn import config_context, get_config
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, validate_data

from torchlogreg._arrays import Space, numpy_of, tensor_of
from torchlogreg._labels import (
    WEIGHTLESS,
    as_column,
    check_number_of_classes,
    check_presence,
    checked_labels,
    checked_weights,
    class_weights,
    codes_among,
    encoded,
)
from torchlogreg._losses import loss_of
from torchlogreg._memory import ran_out
from torchlogreg._rows import Home, Rows, product_dtype
from torchlogreg._sparse import Sparse, SparseRows, pays_dense, thinned
from torchlogreg._stream import SAMPLE_BYTES, Block, Opened, Slices
from torchlogreg._threads import mapped
from torchlogreg._watch import Training, Validation
from torchlogreg._wide import is_wide_table

# Work (n p K) from which an accelerator is expected to repay the copy of X, for device="auto".
ACCELERATOR_PAYS = 50_000_000
LARGE = 2**23  # numbers from which a memory-mapped array is fitted, and any array predicted, part by part
TABLES = ("shape", "__array__", "__array_interface__", "__dataframe__", "__dlpack__")  # what has one of them is one
CHECKED = 2**22  # numbers of a tensor that are looked at together


class TrainingData(NamedTuple):
    """What `fit` was given, checked and encoded."""

    X: torch.Tensor | Sparse | Opened  # (n, p) on the device
    codes: np.ndarray | None  # (n,) index of each row's class; None for a stream
    weight: np.ndarray | None  # (n,) sample weight times class weight; None for a stream
    classes: np.ndarray
    schema: dict  # classes_ where y is, n_features_in_ and, for frames, feature_names_in_
    dtype: np.dtype  # of the coefficients
    space: Space  # of the other fitted arrays
    own: np.ndarray | None = None  # (n,) sample weight alone, where one was given
    factor: np.ndarray | None = None  # (n_classes,) class weights, where they were given

    @property
    def torch_dtype(self):
        """The dtype of the coefficients, as torch has it."""
        return torch.float32 if self.dtype == np.float32 else torch.float64


def fit_data(estimator, X, y, sample_weight, *, validated=False):
    """What `training_data` returns, or a stream: of blocks, or of a file in memory-mapped form.

    With `validated`, early stopping holds out no rows, for there are others.
    """
    if y is None and is_stream(X):
        if sample_weight is not None:
            raise ValueError("A stream brings its weights itself: let it yield (X, y, sample_weight).")
        return _streamed(estimator, X, validated)
    stochastic = estimator.solver == "sgd"  # which reads rows in random order, a page each
    if y is not None and _is_large_file(X) and not stochastic and not is_wide_table(*X.shape):
        return _streamed(estimator, Slices(X, *_slicable(X, y, sample_weight)))
    try:
        return training_data(estimator, X, y, sample_weight)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not ran_out(error) or stochastic or (isinstance(X, torch.Tensor) and X.device.type != "cpu"):
            raise
    warnings.warn(
        "X does not fit in the memory of the device: reading it block by block.", RuntimeWarning, stacklevel=4
    )
    stand_in = copy.copy(estimator)
    checked = _checked_rows(stand_in, X, reset=True)
    data = _streamed(estimator, Slices(checked, *_slicable(checked, y, sample_weight)))
    return data._replace(schema={**data.schema, **_schema(stand_in)})


def is_stream(X):
    """Whether X is something to iterate over that is no table of numbers."""
    return hasattr(X, "__iter__") and not any(hasattr(X, name) for name in TABLES)


def _is_large_file(X):
    return isinstance(X, np.memmap) and X.ndim == 2 and X.size >= LARGE and X.dtype.kind in "fiub"


def _slicable(X, y, sample_weight):
    """Labels and weights as arrays."""
    y = as_column(y)
    check_consistent_length(X, y)
    return y, None if sample_weight is None else checked_weights(sample_weight, len(y))


def _streamed(estimator, source, validated=False):
    """Open a stream of blocks, which reads it once."""
    if hasattr(source, "__next__"):
        raise ValueError(
            f"A fit reads its stream several times, but {type(source).__name__} can be read only once: pass a list, a "
            "torch DataLoader, or an object whose __iter__ starts afresh each time."
        )
    holds_out = estimator.early_stopping and not validated
    if estimator.solver == "sgd" and (holds_out or estimator.batch_size is None):
        raise ValueError(
            "On a stream solver='sgd' takes its mini-batches as they come: it needs early_stopping=False and a "
            "batch_size other than None. (With X_val, early_stopping=True is possible.)"
        )
    stand_in = copy.copy(estimator)
    read = _BlockReader(stand_in)
    given = estimator.class_weight
    opened = Opened(
        source,
        read,
        n_sampled_bytes=SAMPLE_BYTES if estimator.solver in ("auto", "lbfgs") else 0,
        seed=check_random_state(0 if estimator.random_state is None else estimator.random_state).randint(2**31 - 1),
        weightless=[label for label, value in given.items() if value == 0] if isinstance(given, dict) else (),
    )
    classes = opened.classes
    if not np.isfinite(opened.mass.sum()):
        raise ValueError("The sum of the sample weights overflows. Scale them down.")
    if not opened.mass.any():
        raise ValueError(WEIGHTLESS)
    if given is not None:
        opened.factor = class_weights(given, classes, np.arange(len(classes)), opened.mass)
    check_number_of_classes(estimator, classes)
    check_presence(classes, opened.mass * opened.factor)
    n_logits = loss_of(len(classes)).n_logits
    like = torch.empty(0, dtype=opened.dtype, device=opened.device)
    opened.device = resolve_device(estimator.device, like, work=opened.numel() * n_logits)
    dtype = np.dtype(np.float32 if opened.dtype == torch.float32 else np.float64)
    if opened.device.type == "mps":
        opened.dtype = torch.float32
    schema = {**_schema(stand_in), "classes_": classes}
    factor = None if given is None else opened.factor
    return TrainingData(opened, None, None, classes, schema, dtype, Space(), factor=factor)


class _BlockReader:
    """From a block as the user yields it to a checked `Block`; the first one tells the names and number of features."""

    def __init__(self, stand_in):
        self.stand_in, self.first = stand_in, True

    def __call__(self, block, checked):
        if (
            not isinstance(block, (tuple, list))
            or len(block) not in (2, 3)
            or block[1] is None
            or isinstance(block[0], numbers.Number)
        ):
            raise ValueError(
                "A stream must yield tuples (X, y) or (X, y, sample_weight). For a single table, fit requires y to be "
                "passed, but the target y is None."
            )
        X, y, weight = (*block, None)[:3]
        if hasattr(X, "shape") and len(X.shape) == 2 and not X.shape[0]:
            return None
        with config_context(assume_finite=checked or get_config()["assume_finite"]):
            X = _checked_rows(self.stand_in, X.toarray() if issparse(X) else X, reset=self.first)
        self.first = False
        y = checked_labels(y)
        check_consistent_length(X, y)
        weight = None if weight is None else checked_weights(weight, len(y), all_zero=True)
        return Block(X, *encoded(y), weight)


def _schema(stand_in):
    """What validate_data found about the features, by attribute name."""
    return {name: value for name, value in vars(stand_in).items() if name in ("n_features_in_", "feature_names_in_")}


def training_data(estimator, X, y, sample_weight):
    """Check the arguments of `fit` without touching the estimator."""
    if is_stream(X) and (y is None or not isinstance(X, (list, tuple))):
        raise ValueError(
            "A stream of blocks is fitted by TorchLogisticRegression and TorchSoftmaxClassifier alone, which take its "
            "labels from the blocks: fit(stream), without y."
        )
    space = Space.of(X)
    X, labels, schema = _checked_pair(estimator, X, y, reset=True)
    classes, codes = encoded(labels)
    schema["classes_"] = Space.of(y).array(classes)
    weight = checked_weights(sample_weight, len(codes))
    own, factor = None if sample_weight is None else weight, None
    if estimator.class_weight is not None:
        factor = class_weights(estimator.class_weight, classes, codes, weight)
        weight = weight * factor[codes]
    check_number_of_classes(estimator, classes)
    check_presence(classes, np.bincount(codes, weights=weight, minlength=len(classes)))
    data = _on_device(estimator, X, codes, weight, classes, schema, space)._replace(own=own, factor=factor)
    reads_all = estimator.solver in ("auto", "lbfgs") and not isinstance(data.X, Sparse)
    return data._replace(X=thinned(data.X)) if reads_all else data


def validation_data(estimator, data, X, y, sample_weight):
    """The monitor of the rows that the user validates on, checked as those of `data` were; None if there are none."""
    if X is None and y is None and sample_weight is None:
        return None
    if X is None or y is None:
        missing = [name for name, value in (("X_val", X), ("y_val", y)) if value is None]
        raise ValueError(f"Validation data come together, as X_val and y_val: {' and '.join(missing)} must be given.")
    if is_stream(X) and not isinstance(X, (list, tuple)):
        raise ValueError("X_val must be a table, an array or a tensor; a stream cannot be validated on.")
    stand_in = copy.copy(estimator)
    vars(stand_in).pop("feature_names_in_", None)
    vars(stand_in).update(data.schema)
    try:
        n, parts = prediction_parts(stand_in, X, data.torch_dtype)
        small = isinstance(parts, tuple)
        for _ in parts:  # checks them
            pass
        labels = checked_labels(y)
    except (TypeError, ValueError) as error:
        error.add_note("This is about the validation data, X_val and y_val.")
        raise
    if len(labels) != n:
        raise ValueError(f"X_val has {n} rows, and y_val {len(labels)} labels; they must be as many.")
    present, index = encoded(labels)
    codes = codes_among(data.classes, present, "y_val")[index]
    weight = checked_weights(sample_weight, n, name="sample_weight_val")
    own = None if sample_weight is None else weight
    if data.factor is not None:
        weight = weight * data.factor[codes]
        if not weight.any():
            raise ValueError("class_weight leaves no row of X_val; at least one weight must be positive.")
    source = (lambda: parts) if small else partial(_read_again, stand_in, X, data.torch_dtype)
    return Validation(source, loss_of(len(data.classes)), *_as_tensors(codes, weight, own), data.torch_dtype)


def _read_again(stand_in, X, dtype):
    """The parts of a large array that has been checked."""
    vars(stand_in).pop("feature_names_in_", None)  # nor say again what there is to say of names
    with config_context(assume_finite=True):
        yield from prediction_parts(stand_in, X, dtype)[1]


def held_out_data(data, loss, index, *, intercept):
    """The monitor of the rows at an index of the training data."""
    rows = rows_of(data, loss, index, intercept=intercept)
    own = None if data.own is None else data.own[index]
    return Validation(lambda: (rows,), loss, *_as_tensors(data.codes[index], data.weight[index], own), data.torch_dtype)


def training_monitor(data, index):
    """The monitor of the training rows, of all or of those at an index."""
    if data.codes is None:
        return Training(factor=torch.from_numpy(data.X.factor) if data.X.is_weighted else None)
    own = data.own if data.own is None or index is None else data.own[index]
    return Training(*_as_tensors(own))


def block_data(estimator, X, y, classes, sample_weight):
    """Check the arguments of `partial_fit` without touching the estimator."""
    if estimator.class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' is not supported for partial_fit, which does not see all rows. Compute the "
            "weights, sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y), from a sample "
            "of the labels and pass them as a dict."
        )
    space, known = Space.of(X), numpy_of(getattr(estimator, "classes_", None))
    if classes is None and known is None:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    given = known if classes is None else np.unique(checked_labels(classes))
    if known is not None and not np.array_equal(given, known):
        raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}")
    check_number_of_classes(estimator, given)
    if len(given) < 2:
        raise ValueError(f"A classifier needs at least two classes; classes holds {given.tolist()}.")
    X, labels, schema = _checked_pair(estimator, X, y, reset=known is None)
    schema["classes_"] = Space.of(classes).array(given) if known is None else estimator.classes_
    present, index = encoded(labels)
    remedy = " Name all classes that the stream will hold in the first call to partial_fit."
    codes = codes_among(given, present, "y", remedy)[index]
    weight = checked_weights(sample_weight, len(codes))
    if estimator.class_weight is not None:
        weight = weight * class_weights(estimator.class_weight, given, codes, weight)[codes]
    if not weight.any():
        raise ValueError("class_weight leaves no row of this block; at least one weight must be positive.")
    return _on_device(estimator, X, codes, weight, given, schema, space)


def _checked_pair(estimator, X, y, *, reset):
    """Checked rows and labels, and what they tell about the features, by attribute name."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    stand_in = copy.copy(estimator)  # takes the attributes that validate_data sets
    X = _checked_rows(stand_in, X, reset=reset)
    y = checked_labels(y)
    check_consistent_length(X, y)
    return X, y, _schema(stand_in)


def _on_device(estimator, X, codes, weight, classes, schema, space):
    """The data where the fit runs."""
    n_logits = loss_of(len(classes)).n_logits
    dtype = np.dtype(np.float32 if X.dtype.is_floating_point and X.dtype != torch.float64 else np.float64)
    device = resolve_device(estimator.device, X, work=X.numel() * n_logits)
    return TrainingData(_moved(X, device), codes, weight, classes, schema, dtype, space)


def rows_of(data, loss, index=None, *, intercept):
    """Rows for a loss, of all data or of those at `index`."""
    if data.codes is None:
        return data.X.rows(loss, intercept=intercept)
    X, codes, weight = data.X, _as_tensor(data.codes), _as_tensor(data.weight)
    if index is not None:
        index = torch.from_numpy(index)
        X, codes, weight = X[index.to(X.device)], codes[index], weight[index]
    wide = torch.float32 if X.device.type == "mps" else torch.float64
    y = loss.targets(codes.to(X.device), wide)
    return _kind(X)(X, y, weight.to(wide).to(X.device)[:, None], intercept=intercept)


def bytes_of_rows(X, index):
    """What the rows of X at an index are told from others by."""
    rows = X[torch.from_numpy(index).to(X.device)]
    csr = rows.csr.copy() if isinstance(rows, Sparse) else csr_array(rows.to("cpu", torch.float64).numpy())
    csr.eliminate_zeros()  # so that they are the same however X is stored
    return b"".join(
        array.astype(dtype).tobytes()
        for array, dtype in ((csr.indptr, np.int64), (csr.indices, np.int64), (csr.data, np.float64))
    )


def plain(model):
    """A copy of a fitted model with dense NumPy arrays, whatever library X came from and however `coef_` is stored."""
    out = copy.copy(model)
    arrays = {name: value for name, value in vars(model).items() if name.endswith("_") and hasattr(value, "shape")}
    vars(out).update({name: dense_coefficients(v) for name, v in arrays.items() if not isinstance(v, np.generic)})
    return out


def total_weight(data):
    """The sum of the rows' weights."""
    return float((data.X.mass * data.X.factor if data.weight is None else data.weight).sum())


def prediction_rows(estimator, X, dtype):
    """Rows without labels for the methods that predict, with products in `dtype` or wider.

    X stays where it is, in its own dtype: it is cast, and moved to the device, block by block.
    """
    if is_stream(X) and not isinstance(X, (list, tuple)):
        raise ValueError("Predict the blocks of a stream one by one: for X, *_ in stream: model.predict(X).")
    X = _checked_rows(estimator, X, reset=False)
    device = X.device
    to_device = estimator.device != "auto" and estimator.device in available_devices()
    if device.type == "cpu" and to_device and not isinstance(X, Sparse):
        device = torch.device(estimator.device)
    nothing = torch.empty(len(X), 0, device=X.device)
    wide = torch.promote_types(product_dtype(X), dtype) if device.type != "mps" else torch.float32
    return _kind(X)(X, nothing, nothing, intercept=True, products=Home(device, wide))


def _kind(X):
    """The class of rows that reads X."""
    return SparseRows if isinstance(X, Sparse) else Rows


def dense_coefficients(coef):
    """`coef_` as NumPy's array, whether or not it was made sparse."""
    return coef.toarray() if issparse(coef) else numpy_of(coef)


def prediction_parts(estimator, X, dtype):
    """How many rows there are, and their `prediction_rows`; those of a large array in parts, lest checks copy it."""
    table = isinstance(X, np.ndarray) or (isinstance(X, torch.Tensor) and X.layout == torch.strided)
    if table and X.ndim == 2 and X.shape[0] * X.shape[1] >= LARGE:
        validate_data(estimator, X, reset=False, skip_check_array=True)  # what it says of names, it says once
        nameless = copy.copy(estimator)
        vars(nameless).pop("feature_names_in_", None)
        return len(X), (prediction_rows(nameless, part, dtype) for part, *_ in Slices(X))
    rows = prediction_rows(estimator, X, dtype)
    return rows.shape[0], (rows,)


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
    """X as a finite (n, p) tensor, or `Sparse`; sets or checks feature names and their number."""
    tensor = tensor_of(X)
    if tensor is not None:
        return _checked_tensor(estimator, tensor, reset=reset)
    _check_columns(X)
    # scikit-learn looks at pandas' dtypes alone: it would make a polars frame of float32 one of float64.
    single = {str(dtype) for dtype in getattr(X, "dtypes", ())} == {"Float32"}
    dtype = np.float32 if single else [np.float64, np.float32]
    X = validate_data(estimator, X, reset=reset, dtype=dtype, accept_sparse="csr")
    if not issparse(X):
        return _as_tensor(X)
    return torch.from_numpy(X.toarray()) if pays_dense(X) else Sparse.of(X)


def _check_columns(X):
    """Raise for columns of a frame that NumPy would make numbers of though they are none, or that it has no number for.

    A column of Python objects may hold numbers; NumPy says so if it does not.
    """

    def is_number(dtype):
        kind = getattr(dtype, "kind", None)  # pandas
        if kind is not None:
            return kind in "biufc" or str(dtype) == "object"
        return not hasattr(dtype, "is_numeric") or dtype.is_numeric() or str(dtype) == "Boolean"  # polars

    columns, dtypes = getattr(X, "columns", ()), getattr(X, "dtypes", ())
    odd = [name for name, dtype in zip(columns, dtypes, strict=False) if not is_number(dtype)]
    if odd:
        names = ", ".join(map(repr, odd[:10])) + (", ..." if len(odd) > 10 else "")
        raise ValueError(
            f"Columns that are no numbers: {names}. Encode them, with sklearn.preprocessing.OneHotEncoder in a "
            "ColumnTransformer for example, or leave them out."
        )


def _checked_tensor(estimator, X, *, reset):
    """The checks of validate_data for a tensor, made where it is.

    What is narrower than the dtype of products with it, half precision and small integers, stays as it is, for `Rows`
    lifts it block by block.
    """
    if X.layout != torch.strided or X.is_quantized:
        raise TypeError(
            f"X is a tensor of layout {X.layout} and dtype {X.dtype}; pass a dense one (X.to_dense(), X.dequantize())."
        )
    if X.device.type == "meta":
        raise ValueError("X is on the meta device, where tensors have a shape but no values. Move X to a real device.")
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got a tensor of shape {tuple(X.shape)} instead. Reshape it to (n_samples, n_features)."
        )
    for count, what in zip(X.shape, ("sample(s)", "feature(s)"), strict=True):
        if not count:
            raise ValueError(f"Found array with 0 {what} (shape={tuple(X.shape)}) while a minimum of 1 is required.")
    if X.is_complex():
        raise ValueError("Complex data not supported: pass the real and the imaginary parts as features.")
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    X = X.resolve_neg()
    wide = product_dtype(X)
    if X.element_size() >= wide.itemsize:
        X = X.to(wide)
    look = X.is_floating_point() and not get_config()["assume_finite"]
    blocks = X.split(max(1, CHECKED // X.shape[1])) if look else ()
    for what in mapped(partial(_flaw, dtype=wide), blocks, X.device):
        if what:
            raise ValueError(f"Input X contains {what}. Impute or remove those rows first.")
    return X


def _flaw(block, dtype):
    """What a block contains that is no finite number; None if there is nothing."""
    block = block.to(dtype)
    if bool(torch.isfinite(block.sum())) or bool(torch.isfinite(block).all()):  # a sum may overflow
        return None
    return "NaN" if bool(block.isnan().any()) else "infinity"


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


def _as_tensors(*arrays):
    """Tensors over the same memory; None stays None."""
    return [None if array is None else _as_tensor(array) for array in arrays]


def _moved(X, device):
    """X on `device`; cast on the host first where the device has no float64."""
    if device.type == "mps" and X.dtype == torch.float64:
        X = X.float()
    return X.to(device)
