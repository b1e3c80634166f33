"""Labels, classes and weights of the rows: checked, encoded, and always NumPy's."""

import numbers

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from torchlogreg._arrays import numpy_of

WEIGHTLESS = "All sample weights are zero; at least one weight must be positive."


def checked_labels(y):
    """Labels as a 1-d NumPy array of a kind that classifiers accept."""
    y = as_column(y)
    if y.dtype.kind not in "biuSU":  # those are class labels whatever they hold
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity.")
        check_classification_targets(y)
    return y


def as_column(y):
    """Labels as a 1-d NumPy array of whatever kind."""
    return column_or_1d(numpy_of(y), warn=True)


def encoded(y):
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


def codes_among(classes, labels, name, remedy=""):
    """The index of each label in `classes`."""
    places = {label: code for code, label in enumerate(classes.tolist())}
    unknown = [label for label in labels.tolist() if label not in places]
    if unknown:
        raise ValueError(f"{name} holds labels that are not among the classes {classes.tolist()}: {unknown}.{remedy}")
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)


def checked_weights(sample_weight, n, *, all_zero=False, name="sample_weight"):
    """Sample weights as float64 (n,); all of them may be zero if `all_zero`. `name` is what errors call them."""
    if sample_weight is None:
        return np.ones(n)
    sample_weight = numpy_of(sample_weight)
    if isinstance(sample_weight, (numbers.Real, np.ndarray)) and np.ndim(sample_weight) == 0:
        sample_weight = np.full(n, sample_weight, dtype=np.float64)
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name=name)
    if weight.shape != (n,):
        raise ValueError(f"{name} has shape {weight.shape}; expected one weight for each row, ({n},).")
    if (weight < 0).any():
        raise ValueError(f"Negative values in {name}: weights must be zero or positive.")
    if not all_zero and not weight.any():
        raise ValueError(WEIGHTLESS)
    return weight


def class_weights(class_weight, classes, codes, weight):
    """Weight of each class, (n_classes,); a class that a dict does not name has the weight 1."""
    if class_weight == "balanced":
        total = np.bincount(codes, weights=weight / weight.max())
        return total.sum() / (np.count_nonzero(total) * np.where(total > 0, total, np.inf))
    # By the labels themselves: scikit-learn's compute_class_weight makes numbers of text first ("01" and "1").
    class_weight, labels = class_weight or {}, classes.tolist()
    missing = [label for label in labels if label not in class_weight]
    if missing and len(labels) - len(missing) < len(class_weight):
        raise ValueError(
            f"The classes, {missing}, are not in class_weight, some of whose keys are no classes: {list(class_weight)}."
        )
    out = np.array([class_weight.get(label, 1.0) for label in labels], dtype=np.float64)
    if not (np.isfinite(out) & (out >= 0)).all():
        raise ValueError(f"class_weight must hold finite weights, zero or positive; got {class_weight}.")
    return out


def check_number_of_classes(estimator, classes):
    """Raise if the estimator knows no more than two classes and there are more."""
    if len(classes) > 2 and not estimator.__sklearn_tags__().classifier_tags.multi_class:
        raise ValueError(
            f"Only binary classification is supported. y holds {len(classes)} classes: use TorchSoftmaxClassifier, "
            "or wrap this estimator in OneVsRestClassifier."
        )


def check_presence(classes, mass):
    """Raise unless there are two classes, of which one may have no weight; `mass` (n_classes,) are those weights."""
    if len(classes) < 2:
        raise ValueError(
            f"A classifier needs samples of at least two classes, but the data contains only one class: {classes[0]}"
        )
    if not mass.any():
        raise ValueError("class_weight leaves no row; at least one weight must be positive.")
