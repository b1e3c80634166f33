"""What processes that fit one model together tell each other of their rows, and what all of them know then."""

from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch

from torchlogreg._data.checksum import checksum
from torchlogreg._data.csr_tensor import CSRTensor
from torchlogreg._data.scanned_stream import ScannedStream
from torchlogreg._data.storage import StoredX, n_probed_nonzeros
from torchlogreg._data.targets import distinct

OWN_PARAMETERS = "verbose", "device"  # may differ from rank to rank


class Told(NamedTuple):
    """What a rank tells of its rows."""

    terms: dict[str, str]  # what all ranks with rows have to agree on, by what messages call it
    parameters: dict[str, str]  # and what all ranks have to
    n: int  # rows
    n_features: int
    n_stored: int  # numbers of X that are stored
    n_probed: tuple[int, int]  # numbers of a dense X that were looked at, and how many of them are not zero
    classes: np.ndarray
    mass: np.ndarray  # (n_classes,) weight of each class, in units of `peak`
    peak: float  # largest weight of a row
    is_weighted: bool

    @classmethod
    def of(cls, estimator, X: StoredX | ScannedStream, classes, mass, peak, *, names, is_weighted, is_alone) -> "Told":
        """Of the rows X with these classes."""
        n, p = X.shape
        if is_alone:
            return cls({}, {}, n, p, X.numel(), (0, 0), classes, mass, peak, is_weighted)
        kind = {CSRTensor: "a sparse matrix", ScannedStream: "a stream"}.get(type(X), "a table")
        terms = {
            "kind of X": kind,
            "number of features": str(p),
            "dtype of X": str(X.dtype).removeprefix("torch."),
            "feature names": "none" if names is None else str(names.tolist()),
        }
        probed = n_probed_nonzeros(X) if isinstance(X, torch.Tensor) and n else (0, 0)
        stored = X.numel() if n else 0
        return cls(terms, _parameters(estimator), n, p, stored, probed, classes, mass, peak, is_weighted)


class Agreed(NamedTuple):
    """What all ranks know of all rows."""

    n: int
    n_features: int
    n_stored: int
    n_probed: tuple[int, int]
    classes: np.ndarray
    places: np.ndarray  # of the own classes among them
    mass: np.ndarray  # (n_classes,) weight of each class, in units of the largest weight
    peak: float
    is_weighted: bool
    n_ranks: int

    @classmethod
    def of(cls, everyone: list[Told], rank: int) -> "Agreed":
        """From what everyone has told; raises the same error in all ranks where they disagree."""
        present = [number for number, told in enumerate(everyone) if told.n]
        _check_same(everyone, range(len(everyone)), "parameters")
        _check_same(everyone, present, "terms")
        some = [everyone[number] for number in present] or everyone[:1]
        peak = max(told.peak for told in some)
        classes = _all_classes(everyone, present) if len(some) > 1 else some[0].classes
        mass = np.zeros(len(classes))
        for told in some:
            mass[np.searchsorted(classes, told.classes)] += told.mass * (told.peak / peak if peak else 1.0)
        return cls(
            sum(told.n for told in some),
            some[0].n_features,
            sum(told.n_stored for told in some),
            reduce(_added, (told.n_probed for told in some)),
            classes,
            np.searchsorted(classes, everyone[rank].classes) if everyone[rank].n else np.empty(0, dtype=np.intp),
            mass,
            peak,
            any(told.is_weighted for told in some),
            len(everyone),
        )


def _added(a, b):
    return tuple(map(add, a, b))


def _parameters(estimator) -> dict[str, str]:
    """The parameters of an estimator as plain text."""
    out = {"estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name in OWN_PARAMETERS:
            continue
        if isinstance(value, np.random.RandomState):
            value = "a RandomState"
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = f"an array of {value.shape} with the checksum {checksum([value])}"
        out[name] = repr(value) if not isinstance(value, str) else value
    return out


def _check_same(everyone: list[Told], ranks: Any, what: str) -> None:
    ranks = list(ranks)
    if not ranks:
        return
    first = getattr(everyone[ranks[0]], what)
    for number in ranks[1:]:
        for name, value in getattr(everyone[number], what).items():
            if value != first.get(name):
                raise ValueError(
                    f"The ranks disagree about the {name}: {first.get(name)} in rank {ranks[0]}, {value} in rank "
                    f"{number}. All processes that fit one model need the same."
                )


def _all_classes(everyone: list[Told], present: list[int]) -> np.ndarray:
    try:
        return distinct([everyone[number].classes for number in present])
    except ValueError:
        kinds = ", ".join(f"{everyone[number].classes[:1].tolist()[0]!r} in rank {number}" for number in present)
        raise ValueError(f"The labels are numbers in some ranks and strings in others: {kinds}.") from None
