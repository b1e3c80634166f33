"""Labels, classes and weights of the rows: checked, encoded, and always NumPy's arrays."""

import datetime
import numbers
import sys
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from torchlogreg._data.array_api import numpy_of
from torchlogreg._runtime.warn import warn

MAYBE_MISSING = numbers.Number, np.generic, datetime.date  # types that have a value which does not equal itself
WEIGHTLESS = "All sample weights are zero; at least one weight must be positive."


def checked_labels(y, name: str = "y") -> np.ndarray:
    """Labels as a 1-d NumPy array of a kind that classifiers accept. `name` is what errors call them."""
    y = as_column(y, name)
    if y.dtype.kind not in "biuU":  # integers and text are class labels whatever they hold
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError(f"Input {name} contains infinity, which is no label. Leave those rows out.")
        check_classification_targets(y)
    return y


def as_column(y, name: str = "y") -> np.ndarray:
    """Labels as a 1-d NumPy array of whatever kind, none of them missing."""
    y = known(y, name)
    column = column_or_1d(y, warn=name == "y")
    if name != "y" and np.ndim(y) == 2:
        warn(
            f"A column-vector {name} was passed when a 1d array was expected. Pass {name}.ravel(), for example.",
            DataConversionWarning,
        )
    return column


def known(y, name: str = "y"):
    """Labels as NumPy has them, or as they are, if none is missing and none is bytes."""
    mask, y = np.ma.getmask(y), numpy_of(y)
    values = np.asarray(y)
    if values.dtype.kind == "U" and isinstance(y, (list, tuple)):
        values = np.asarray(y, dtype=object)  # NumPy has made text of other things, "nan" for example
    if (mask is not np.ma.nomask and np.any(mask)) or _has_missing(values):
        raise ValueError(f"Input {name} contains NaN. Leave out the rows without a label, or give them one.")
    if values.dtype.kind in "SO" and any(isinstance(value, bytes) for value in values.ravel()[:1].tolist()):
        raise TypeError(
            f"Support for labels represented as bytes is not supported. Make text of {name}: [label.decode() for label "
            f"in {name}]."
        )
    return y


def _has_missing(values: np.ndarray) -> bool:
    """Whether one of the labels is a NaN of some kind, or None."""
    if values.dtype.kind in "fc":
        return bool(np.isnan(values).any())
    if values.dtype.kind in "mM":
        return bool(np.isnat(values).any())
    if values.dtype.kind != "O":
        return False
    na = getattr(sys.modules.get("pandas"), "NA", None)
    others = (value for value in values.ravel().tolist() if type(value) is not str)
    return any(v is None or v is na or (isinstance(v, MAYBE_MISSING) and v != v) for v in others)


def encoded(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes, and the index of each label in them."""
    if y.dtype.kind not in "biu" or y.dtype == np.uint64 or not len(y):
        return np.unique(y, return_inverse=True)
    numbers = y.astype(np.int64)  # a copy: codes may outlive what a stream yields
    lowest = int(numbers.min())
    if int(numbers.max()) - lowest > len(y):
        return np.unique(y, return_inverse=True)
    # Counting takes a fifth of the time of sorting.
    numbers = numbers - lowest if lowest else numbers
    present = np.bincount(numbers) > 0
    classes = (np.flatnonzero(present) + lowest).astype(y.dtype)
    return classes, numbers if present.all() else (np.cumsum(present) - 1)[numbers]


def codes_among(classes: np.ndarray, labels: np.ndarray, name: str, remedy: str = "") -> np.ndarray:
    """The index of each label in `classes`."""
    places = {label: code for code, label in enumerate(classes.tolist())}
    unknown = [label for label in labels.tolist() if label not in places]
    if unknown:
        raise ValueError(f"{name} holds labels that are not among the classes {classes.tolist()}: {unknown}.{remedy}")
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)


def checked_weights(sample_weight, n: int, *, all_zero: bool = False, name: str = "sample_weight") -> np.ndarray:
    """Sample weights as float64 (n,); all of them may be zero if `all_zero`. `name` is what errors call them."""
    if sample_weight is None:
        return np.ones(n)
    sample_weight = numpy_of(sample_weight)
    is_array_of_one = isinstance(sample_weight, np.ndarray) and sample_weight.ndim == 0
    if isinstance(sample_weight, numbers.Real) or is_array_of_one:
        sample_weight = np.full(n, sample_weight, dtype=np.float64)
    float64: Any = np.float64
    least = 0 if all_zero else 1
    weight = check_array(sample_weight, ensure_2d=False, dtype=float64, input_name=name, ensure_min_samples=least)
    if weight.shape != (n,):
        raise ValueError(f"{name} has shape {weight.shape}; expected one weight for each row, ({n},).")
    if not np.isfinite(weight).all():  # under assume_finite=True scikit-learn does not look
        raise ValueError(f"Input {name} contains NaN or infinity. Leave those rows out, or give them a weight.")
    if (weight < 0).any():
        raise ValueError(f"Negative values in {name}: weights must be zero or positive.")
    if not all_zero and not weight.any():
        raise ValueError(WEIGHTLESS)
    return weight


def n_logits_of(classes: np.ndarray) -> int:
    """How many logits a model of these classes has: one for two classes, else one for each."""
    return 1 if len(classes) == 2 else len(classes)


def distinct(labels: list[np.ndarray]) -> np.ndarray:
    """The sorted distinct labels among several arrays of them."""
    kinds = {"number" if array.dtype.kind in "biuf" else array.dtype.kind.replace("O", "U") for array in labels}
    if len(kinds) > 1:
        raise ValueError("The labels of the stream are numbers in some blocks and strings in others.")
    return np.unique(np.concatenate(labels))


def class_mass(codes: np.ndarray, weight: np.ndarray, n_classes: int) -> tuple[np.ndarray, float]:
    """The weight of each class (n_classes,) in units of the largest one of a row, and that."""
    peak = float(weight.max(initial=0.0))
    units = weight if peak in (0.0, 1.0) else weight / peak
    return np.bincount(codes, weights=units, minlength=n_classes), peak


def class_weights(class_weight, classes: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Weight of each class, (n_classes,), from the sums (n_classes,) of its rows' weights, in whatever units.

    A class that a dict does not name has the weight 1.
    """
    if class_weight == "balanced":
        total = mass
        return total.sum() / (np.count_nonzero(total) * np.where(total > 0, total, np.inf))
    # Keys are compared with the labels themselves: scikit-learn's compute_class_weight turns text into numbers first
    # ("01" and "1"). Dates stay as they are: as Python's objects they may be numbers.
    class_weight, labels = class_weight or {}, list(classes) if classes.dtype.kind in "mM" else classes.tolist()
    missing = [label for label in labels if label not in class_weight]
    if missing and len(labels) - len(missing) < len(class_weight):
        raise ValueError(
            f"The classes, {missing}, are not in class_weight, some of whose keys are no classes: {list(class_weight)}."
        )
    out = np.array([class_weight.get(label, 1.0) for label in labels], dtype=np.float64)
    if not (np.isfinite(out) & (out >= 0)).all():
        raise ValueError(f"class_weight must hold finite weights, zero or positive; got {class_weight}.")
    return out


def class_weighted(weight: np.ndarray, factor: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The weights of the rows times those of their classes."""
    with np.errstate(over="ignore"):
        out = weight * factor[codes]
    if not np.isfinite(out).all():
        raise ValueError("sample_weight times class_weight overflows. Scale one of them down.")
    return out


def check_number_of_classes(estimator, classes: np.ndarray) -> None:
    """Raise if the estimator is a binary one and there are more than two classes."""
    if len(classes) > 2 and not estimator.__sklearn_tags__().classifier_tags.multi_class:
        raise ValueError(
            f"Only binary classification is supported. y holds {len(classes)} classes: use TorchSoftmaxClassifier, "
            "or wrap this estimator in OneVsRestClassifier."
        )


def check_presence(classes: np.ndarray, mass: np.ndarray) -> None:
    """Raise unless there are two classes, and one of them has a weight; `mass` (n_classes,) are their weights."""
    if len(classes) < 2:
        raise ValueError(
            f"A classifier needs samples of at least two classes, but the data contains only one class: {classes[0]}"
        )
    if not mass.any():
        raise ValueError("class_weight leaves no row; at least one weight must be positive.")
