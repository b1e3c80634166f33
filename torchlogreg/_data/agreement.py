"""What processes that fit one model together tell each other of their rows, and what all of them know then."""

from collections.abc import Mapping, Sequence
from functools import reduce
from numbers import Real
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.checksum import checksum
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.device import available_devices
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._data.storage import StoredX, n_probed_nonzeros
from torchlogreg._data.targets import distinct
from torchlogreg._runtime.ranks import current_ranks

OWN_PARAMETERS = "verbose", "device"  # may differ from rank to rank
SHOWN_CHARACTERS = 200  # of a value in a message
FEW_NUMBERS = 20  # of an array that is written out


class Told(NamedTuple):
    """What a rank tells of its rows."""

    terms: dict[str, str]  # what all ranks that have such a thing have to agree on, by what messages call it
    n: int  # rows
    n_features: int
    n_stored: int  # numbers of X that are stored
    n_probed: tuple[int, int]  # numbers of a dense X that were looked at, and how many of them are not zero
    dtype: torch.dtype
    names: np.ndarray | None  # of the features
    classes: np.ndarray
    mass: np.ndarray  # (n_classes,) weight of each class, in units of `peak`
    peak: float  # largest weight of a row
    is_weighted: bool

    @classmethod
    def of(cls, estimator, X: StoredX | ScannedStream, classes, mass, peak, *, names, is_weighted) -> "Told":
        """Of the rows X with these classes."""
        n, p = X.shape
        if current_ranks().size == 1:
            return cls({}, n, p, X.numel(), (0, 0), X.dtype, names, classes, mass, peak, is_weighted)
        kind = {CSRTensor: "a sparse matrix", ScannedStream: "a stream"}.get(type(X), "a table")
        terms = parameters_as_text(estimator)
        if p:  # but no stream without blocks
            terms["the number of features"] = str(p)
        if n:
            terms["the kind of X"] = kind
            terms["the dtype of X"] = str(X.dtype).removeprefix("torch.")
            terms["the feature names"] = "none" if names is None else str(names.tolist())
        # Where X may move to an accelerator, it stays dense, and so it has to in all ranks.
        probed = (0, 0)
        if isinstance(X, torch.Tensor) and n and _stays_here(estimator.device):
            probed = n_probed_nonzeros(X)
        stored = X.numel() if n else 0
        return cls(terms, n, p, stored, probed, X.dtype, names, classes, mass, peak, is_weighted)


class Agreed(NamedTuple):
    """What all ranks know of all rows."""

    n: int
    n_features: int
    n_stored: int
    n_probed: tuple[int, int]
    dtype: torch.dtype  # of X
    schema: dict[str, Any]  # `n_features_in_` and, where they have names, `feature_names_in_`
    classes: np.ndarray
    places: np.ndarray  # of the own classes among them
    mass: np.ndarray  # (n_classes,) weight of each class, in units of the largest weight
    peak: float
    is_weighted: bool
    n_ranks: int

    @classmethod
    def of(cls, everyone: list[Told], rank: int) -> "Agreed":
        """From what everyone has told; raises the same error in all ranks where they disagree."""
        check_same([told.terms for told in everyone])
        present = [number for number, told in enumerate(everyone) if told.n]
        if not present:
            raise ValueError("No process has any row of X.")
        some = [everyone[number] for number in present]
        peak = max(told.peak for told in some)
        classes = _all_classes(everyone, present) if len(some) > 1 else some[0].classes
        mass = np.zeros(len(classes))
        for told in some:
            mass[np.searchsorted(classes, told.classes)] += told.mass * (told.peak / peak if peak else 1.0)
        names = {} if some[0].names is None else {"feature_names_in_": some[0].names}
        return cls(
            sum(told.n for told in some),
            some[0].n_features,
            sum(told.n_stored for told in some),
            reduce(_added, (told.n_probed for told in some)) if all(told.n_probed[0] for told in some) else (0, 0),
            some[0].dtype,
            {"n_features_in_": some[0].n_features, **names},
            classes,
            np.searchsorted(classes, everyone[rank].classes) if everyone[rank].n else np.empty(0, dtype=np.intp),
            mass,
            peak,
            any(told.is_weighted for told in some),
            len(everyone),
        )


def check_same(everyone: Sequence[dict[str, str]]) -> None:
    """Raise unless the ranks that name a thing have the same value for it."""
    first: dict[str, tuple[int, str]] = {}
    for number, terms in enumerate(everyone):
        for name, value in terms.items():
            rank, expected = first.setdefault(name, (number, value))
            if value != expected:
                a, b = _where_they_differ(expected, value)
                raise ValueError(
                    f"The ranks disagree about {name}: {a} in rank {rank}, {b} in rank {number}. All processes that "
                    "fit one model need the same."
                )


def _where_they_differ(*values: str) -> list[str]:
    """Both values; of long ones the part where they begin to differ."""
    if max(map(len, values)) <= SHOWN_CHARACTERS:
        return [*values]
    n_equal = next((i for i, (a, b) in enumerate(zip(*values, strict=False)) if a != b), min(map(len, values)))
    start = max(0, n_equal - SHOWN_CHARACTERS // 4)
    ends = [start + SHOWN_CHARACTERS] * 2
    return [
        ("..." if start else "") + value[start:end] + ("..." if end < len(value) else "")
        for value, end in zip(values, ends, strict=True)
    ]


def _stays_here(device: Any) -> bool:
    """Whether rows on the host are certain to stay there."""
    return str(device) == "cpu" or (str(device) == "auto" and available_devices() == ["cpu"])


def _added(a, b):
    return tuple(map(add, a, b))


def parameters_as_text(estimator) -> dict[str, str]:
    """The parameters of an estimator as plain text."""
    given = {name: v for name, v in estimator.get_params(deep=False).items() if name not in OWN_PARAMETERS}
    return {
        "the estimator": type(estimator).__name__,
        **{f"the parameter {name}": _described(value) for name, value in given.items()},
    }


def _described(value: Any) -> str:
    """A value as text, equal for equal ones; arrays as what their numbers add up to."""
    if isinstance(value, np.random.RandomState):
        return "a RandomState"
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{_described(key)}: {_described(v)}" for key, v in value.items())) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_described, value)) + "]"
    if hasattr(value, "get_params"):
        return _described(parameters_as_text(value))
    if hasattr(value, "shape") and value.shape != ():
        array = np.asarray(numpy_of(value))
        if array.dtype.kind in "biuf" and array.size > FEW_NUMBERS:
            array = array.astype(np.float64)
            return f"an array of shape {array.shape} with the checksum {checksum([array])}"
        return _described(array.tolist())
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, Real) and not isinstance(value, bool):
        return repr(float(value))
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text  # where it is in memory says nothing


def _all_classes(everyone: list[Told], present: list[int]) -> np.ndarray:
    try:
        return distinct([everyone[number].classes for number in present])
    except ValueError:
        kinds = ", ".join(f"{everyone[number].classes[:1].tolist()[0]!r} in rank {number}" for number in present)
        raise ValueError(f"The labels are numbers in some ranks and strings in others: {kinds}.") from None
