"""What `fit` and `partial_fit` were given, checked and encoded, and the designs made of it."""

import copy
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from sklearn import config_context, get_config
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length

from torchlogreg._data import tuning
from torchlogreg._data.agreement import Agreed, Told
from torchlogreg._data.array_api import Space, numpy_of
from torchlogreg._data.array_blocks import ArrayBlocks
from torchlogreg._data.design import Access, Design, is_wide_table
from torchlogreg._data.device import Choice, choose_device, widest_dtype
from torchlogreg._data.device_cost import Table, Work
from torchlogreg._data.products import product_dtype
from torchlogreg._data.scanned_stream import Block, ScannedStream
from torchlogreg._data.storage import (
    StoredX,
    as_tensors,
    dense_if_pays,
    densified,
    design_of_stored,
    sparsify_if_mostly_zero,
    stays_on_host,
    stored_numbers,
)
from torchlogreg._data.streamed import StreamedDesign
from torchlogreg._data.targets import (
    WEIGHTLESS,
    as_column,
    check_number_of_classes,
    check_presence,
    checked_labels,
    checked_weights,
    class_mass,
    class_weighted,
    class_weights,
    codes_among,
    encoded,
    n_logits_of,
)
from torchlogreg._data.validation import checked_X, is_no_table, is_stream
from torchlogreg._runtime.out_of_memory import ran_out
from torchlogreg._runtime.ranks import current_ranks
from torchlogreg._runtime.warn import warn

STREAMED = (
    "A stream of blocks is fitted by TorchLogisticRegression and TorchSoftmaxClassifier alone, which take its labels "
    "from the blocks: fit(stream), without y. Cross-validation takes a table, also a memory-mapped one: fit(X, y)."
)


class TrainingData(NamedTuple):
    """What `fit` was given, checked and encoded."""

    X: StoredX | ScannedStream  # (n, p) on the device
    codes: np.ndarray | None  # (n,) index of each row's class; None for a stream
    weight: np.ndarray | None  # (n,) sample weight times class weight; None for a stream
    classes: np.ndarray
    schema: dict  # classes_ where y is, n_features_in_ and, for frames, feature_names_in_
    dtype: np.dtype  # of the coefficients
    space: Space  # of the other fitted arrays
    mass: np.ndarray | None = None  # (n_classes,) of each class, up to a factor; None for a block of `partial_fit`
    sample_weight: np.ndarray | None = None  # (n,) without class weights; None if it was not given
    factor: np.ndarray | None = None  # (n_classes,) class weights, where they were given
    device_reason: str = ""  # why X is where it is
    of_all: Agreed | None = None  # what is known of the rows of all processes; None for a block of `partial_fit`

    @property
    def n_rows(self) -> int:
        """Rows of all processes."""
        return self.X.shape[0] if self.of_all is None else self.of_all.n

    @property
    def is_shared(self) -> bool:
        """Whether other processes may have some of them."""
        return self.of_all is not None and self.of_all.n_ranks > 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the coefficients, as torch has it."""
        return torch.float32 if self.dtype == np.float32 else torch.float64


def fit_data(
    estimator,
    X,
    y,
    sample_weight,
    access: Access = Access(),  # noqa: B008 - immutable
    *,
    validated: bool = False,
) -> TrainingData:
    """What `training_data` returns, where the fit runs, or a stream: of blocks, or of a memory-mapped file.

    With `validated`, early stopping holds out no rows, because there are other rows to validate on.
    """
    is_file, is_large = _is_file(X), _are_large(current_ranks().exchanged(lambda: X.shape if _is_file(X) else (0, 0)))
    if y is None and is_stream(X):
        if sample_weight is not None:
            raise ValueError("A stream brings its weights itself: let it yield (X, y, sample_weight).")
        return _streamed(estimator, X, access, validated)
    scattered = access.in_random_order  # which would load a page of a file for each row
    if y is not None and is_file and is_large and not scattered:
        return _streamed(estimator, ArrayBlocks(X, *_sliceable(X, y, sample_weight)), access)
    try:
        return placed(estimator, training_data(estimator, X, y, sample_weight), access, or_streamed=not scattered)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        is_there = isinstance(X, torch.Tensor) and X.device.type != "cpu"
        if not ran_out(error) or scattered or is_there or current_ranks().size > 1:
            raise
    warn("X does not fit in the memory of the device: reading it block by block.", RuntimeWarning)
    stand_in = copy.copy(estimator)
    checked = checked_X(stand_in, X, reset=True)
    checked = dense_if_pays(checked)
    data = _streamed(estimator, ArrayBlocks(checked, *_sliceable(checked, y, sample_weight)), access)
    reason = f"{data.device_reason}; X does not fit in its memory, and its blocks are copied in each pass"
    return data._replace(schema={**data.schema, **_schema(stand_in)}, device_reason=reason)


def _is_file(X) -> bool:
    return isinstance(X, np.memmap) and X.ndim == 2 and X.dtype.kind in "fiub"


def _are_large(shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether the files of all processes together are read block by block."""
    n, p = sum(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    return n * p >= tuning.MIN_STREAMED_NUMBERS and not is_wide_table(n, p)


def _sliceable(X, y, sample_weight):
    """Labels and weights as arrays."""
    y = as_column(y)
    check_consistent_length(X, y)
    return y, None if sample_weight is None else checked_weights(sample_weight, len(y))


def _streamed(estimator, source, access: Access, validated: bool = False) -> TrainingData:
    """The data of a stream of blocks after its opening scan."""
    stand_in, given, ranks = copy.copy(estimator), estimator.class_weight, current_ranks()

    def scan():
        _check_repeatable(estimator, source, access, validated)
        stream = _scanned(estimator, source, access, stand_in)
        peak = max(stream.peak.tolist(), default=0.0)
        told = Told.of(
            estimator,
            stream,
            stream.classes,
            stream.mass / peak if peak else stream.mass,
            peak,
            names=_schema(stand_in).get("feature_names_in_"),
            is_weighted=stream.is_weighted,
        )
        return stream, told

    stream, everyone = ranks.introduced(scan)
    of_all = Agreed.of(everyone, ranks.rank)
    if not of_all.mass.any():
        raise ValueError(WEIGHTLESS)
    stream = stream.with_classes(of_all.classes, of_all.places)
    classes, mass = of_all.classes, of_all.mass
    if given is not None:
        stream.factor = class_weights(given, classes, mass)
        mass = class_weighted(of_all.peak * mass, stream.factor, np.arange(len(classes)))  # raises if it overflows
    check_number_of_classes(estimator, classes)
    check_presence(classes, mass)
    if not stream.shape[0]:  # the others have rows
        stream.shape, stream.dtype = (0, of_all.n_features), of_all.dtype
    schema, dtype = {**of_all.schema, "classes_": classes}, stream.dtype
    like = torch.empty(0, dtype=dtype, device=stream.device)
    table = _table(like, (of_all.n // ranks.size, of_all.n_features), classes)._replace(is_streamed=True)
    stream.device, reason = choose_device(estimator.device, like, Work.of(table, access))
    if stream.device.type == "mps":
        stream.dtype = torch.float32
    factor = None if given is None else stream.factor
    return TrainingData(
        stream,
        None,
        None,
        classes,
        schema,
        np.dtype(np.float32 if dtype == torch.float32 else np.float64),
        Space(),
        mass,
        factor=factor,
        device_reason=reason,
        of_all=of_all,
    )


def _scanned(estimator, source, access: Access, stand_in) -> ScannedStream:
    """A stream after its opening scan, which sets what `stand_in` knows of the features."""
    given, ranks = estimator.class_weight, current_ranks()
    seed = check_random_state(0 if estimator.random_state is None else estimator.random_state).randint(2**31 - 1)
    stream = ScannedStream(
        source,
        _BlockCheck(stand_in),
        n_sampled_bytes=tuning.STREAM_SAMPLE_BYTES if access.by_products else 0,
        seed=[seed, ranks.rank] if ranks.rank else seed,
        weightless=[label for label, value in given.items() if value == 0] if isinstance(given, dict) else (),
        may_be_empty=ranks.size > 1,
    )
    if not math.isfinite(sum(stream.mass.tolist())):
        raise ValueError("The sum of the sample weights overflows. Scale them down.")
    return stream


def _check_repeatable(estimator, source, access: Access, validated: bool) -> None:
    """Raise unless the source can be iterated over again, and the solver can use it in its own order."""
    if hasattr(source, "__next__"):
        raise ValueError(
            f"A fit reads its stream several times, but {type(source).__name__} can be read only once: pass a list, a "
            "torch DataLoader, or an object whose __iter__ starts afresh each time."
        )
    holds_out = estimator.early_stopping and not validated
    if access.in_random_order and (holds_out or estimator.batch_size is None):
        raise ValueError(
            "On a stream solver='sgd' takes its mini-batches as they come: it needs early_stopping=False and a "
            "batch_size other than None. (With X_val, early_stopping=True is possible.)"
        )


class _BlockCheck:
    """From a block as the user yields it to a checked `Block`; the first one sets the names and number of features."""

    def __init__(self, stand_in):
        self.stand_in, self.first = stand_in, True

    def __call__(self, block, is_known: bool) -> Block | None:
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
        X, y = block[:2]
        weight = block[2] if len(block) == 3 else None
        if 0 in (X.shape[:1] if hasattr(X, "shape") else [len(X)] if hasattr(X, "__len__") else []):
            check_consistent_length(X, y)
            return None
        with config_context(assume_finite=is_known or get_config()["assume_finite"]):
            X = cast("torch.Tensor", checked_X(self.stand_in, densified(X), reset=self.first))
        self.first = False
        y = checked_labels(y)
        check_consistent_length(X, y)
        weight = None if weight is None else checked_weights(weight, len(y), all_zero=True)
        return Block(X, *encoded(y), weight)


def _schema(stand_in):
    """What validate_data found about the features, by attribute name."""
    return {name: value for name, value in vars(stand_in).items() if name in ("n_features_in_", "feature_names_in_")}


def training_data(estimator, X, y, sample_weight) -> TrainingData:
    """Check the arguments of `fit` without touching the estimator; X is where it was."""
    if is_no_table(X) or (y is None and is_stream(X)):
        raise ValueError(STREAMED)
    ranks, own_space = current_ranks(), Space.of(X)

    def look():
        checked, labels, found = _checked_pair(estimator, X, y, reset=True, may_be_empty=ranks.size > 1)
        own_classes, codes = encoded(labels)
        weight = checked_weights(sample_weight, len(codes), all_zero=ranks.size > 1)
        mass, peak = class_mass(codes, weight, len(own_classes))
        told = Told.of(
            estimator,
            checked,
            own_classes,
            mass,
            peak,
            names=found.get("feature_names_in_"),
            is_weighted=sample_weight is not None,
        )
        return (checked, codes, weight), told

    (stored, codes, weight), everyone = ranks.introduced(look)
    of_all = Agreed.of(everyone, ranks.rank)
    classes, mass = of_all.classes, of_all.mass
    if len(of_all.places) < len(classes):  # other processes have more of them
        codes = of_all.places[codes]
    if not mass.any():
        raise ValueError(WEIGHTLESS)
    schema = {**of_all.schema, "classes_": Space.of(y).array(classes)}
    given, factor = weight if of_all.is_weighted else None, None
    if estimator.class_weight is not None:
        factor = class_weights(estimator.class_weight, classes, mass)
        weight, mass = class_weighted(weight, factor, codes), mass * factor
    check_number_of_classes(estimator, classes)
    check_presence(classes, mass)
    stored = dense_if_pays(stored, of_all.n, of_all.n_stored)
    dtype = _coefficient_dtype(of_all.dtype)
    return TrainingData(stored, codes, weight, classes, schema, dtype, own_space, mass, given, factor, of_all=of_all)


def block_data(estimator, X, y, classes, sample_weight) -> TrainingData:
    """Check the arguments of `partial_fit` without touching the estimator; X is where it was."""
    if is_no_table(X):
        raise ValueError("partial_fit takes the blocks of a stream one by one: partial_fit(X, y) for each of them.")
    if estimator.class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' is not supported for partial_fit, which does not see all rows. Compute the "
            "weights, sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y), from a sample "
            "of the labels and pass them as a dict."
        )
    space, known = Space.of(X), numpy_of(getattr(estimator, "classes_", None))
    if classes is None and known is None:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    given = known if classes is None else np.unique(checked_labels(classes, "classes"))
    if known is not None and not np.array_equal(given, known):
        raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {known!r}")
    check_number_of_classes(estimator, given)
    if len(given) < 2:
        raise ValueError(f"A classifier needs at least two classes; classes holds {given.tolist()}.")
    X, labels, schema = _checked_pair(estimator, X, y, reset=known is None)
    X = dense_if_pays(X)
    schema["classes_"] = Space.of(classes).array(given) if known is None else estimator.classes_
    present, index = encoded(labels)
    remedy = " Name all classes that the stream will hold in the first call to partial_fit."
    codes = codes_among(given, present, "y", remedy)[index]
    weight = checked_weights(sample_weight, len(codes))
    if estimator.class_weight is not None:
        mass, _ = class_mass(codes, weight, len(given))
        weight = class_weighted(weight, class_weights(estimator.class_weight, given, mass), codes)
    if not weight.any():
        raise ValueError("class_weight leaves no row of this block; at least one weight must be positive.")
    return TrainingData(X, codes, weight, given, schema, _coefficient_dtype(X.dtype), space)


def _checked_pair(estimator, X, y, *, reset, may_be_empty=False):
    """Checked rows and labels, and what they tell about the features, by attribute name."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    stand_in = copy.copy(estimator)  # takes the attributes that validate_data sets
    X = checked_X(stand_in, X, reset=reset, may_be_empty=may_be_empty)
    y = checked_labels(y)
    check_consistent_length(X, y)
    return X, y, _schema(stand_in)


def _coefficient_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(np.float32 if dtype.is_floating_point and dtype != torch.float64 else np.float64)


def placed(estimator, data: TrainingData, access: Access, *, or_streamed: bool = False) -> TrainingData:
    """The data where the fit runs, with the reason.

    With device="auto", an X for which the accelerator has no memory stays on the host, unless it may be streamed and
    that pays: then the error is raised, as for a device that was asked for.
    """
    X = data.X
    assert not isinstance(X, ScannedStream)  # which is placed where it is opened
    n, of_all = len(X), data.of_all
    if of_all is not None:
        n = of_all.n // of_all.n_ranks
    table = None if stays_on_host(X) else _table(X, (n, X.shape[1]), data.classes)
    choice = choose_device(estimator.device, X, None if table is None else Work.of(table, access))
    try:
        X = _moved(X, choice.device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        by_rule = str(estimator.device) == "auto" and choice.device.type != "cpu"
        if not ran_out(error) or not by_rule or table is None:
            raise
        in_blocks = table._replace(stored_bytes=table.number_bytes, is_streamed=True)
        if or_streamed and Work.of(in_blocks, access).pays():
            raise
        choice = Choice.of("cpu", f"X does not fit in the memory of {choice.device}")
    if access.by_products:
        shared = (of_all.n * X.shape[1], of_all.n_probed) if of_all is not None and data.is_shared else None
        X = sparsify_if_mostly_zero(X, shared)
    return data._replace(X=X, device_reason=choice.reason)


def _table(X: StoredX, shape: Sequence[int], classes: np.ndarray) -> Table:
    """What the cost of a fit depends on: a shape, and the dtype of X."""
    n, p = shape
    return Table((n, p), n_logits_of(classes), product_dtype(X).itemsize, X.element_size())


def design_of(data: TrainingData, loss, index: np.ndarray | None = None, *, intercept: bool) -> Design:
    """The design for a loss, of all rows or of those at `index`."""
    if isinstance(data.X, ScannedStream):
        return StreamedDesign(data.X, loss, intercept=intercept)
    X, (codes, weight) = data.X, as_tensors(data.codes, data.weight)
    if index is not None:
        at = torch.from_numpy(index)
        X, codes, weight = X[at.to(X.device)], codes[at], weight[at]
    dtype = widest_dtype(X.device)
    y = loss.targets(codes.to(X.device), dtype)
    return design_of_stored(X, y, weight.to(dtype).to(X.device)[:, None], intercept=intercept)


def bytes_of_rows(X: StoredX, index: np.ndarray) -> bytes:
    """The bytes by which the rows of X at an index are recognised, the same however X is stored."""
    arrays = zip(stored_numbers(X, torch.from_numpy(index)), (np.int64, np.int64, np.float64), strict=True)
    return b"".join(array.astype(dtype).tobytes() for array, dtype in arrays)


def total_weight(data: TrainingData) -> float:
    """The sum of the rows' weights, class weights included; infinite where it overflows."""
    of_all = data.of_all
    if of_all is not None and (data.is_shared or data.codes is None):
        weight = of_all.peak * of_all.mass * (1.0 if data.factor is None else data.factor)
    else:
        weight = data.weight
    with np.errstate(over="ignore"):
        return float(np.asarray(weight).sum())


def _moved(X: StoredX, device: torch.device) -> StoredX:
    """X on `device`; cast on the host first where the device has no float64."""
    if device.type == "mps" and X.dtype == torch.float64:
        X = X.to(dtype=torch.float32)
    return X.to(device)
