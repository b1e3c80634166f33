"""The rows of one process among several: from what an engine hands out to the arguments of `fit`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


class Columns(NamedTuple):
    """The columns of a table that a model is fitted to, by name."""

    features: str | list[str]  # one column of vectors, or columns of numbers
    label: str
    weight: str | None

    @classmethod
    def of(cls, features: str | Sequence[str], label: str, weight: str | None) -> "Columns":
        return cls(features if isinstance(features, str) else list(features), label, weight)

    @property
    def numbers(self) -> list[str]:
        """The columns of X."""
        return [self.features] if isinstance(self.features, str) else self.features

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.numbers, self.label, *([] if self.weight is None else [self.weight])]))

    def share(self, table: Any) -> "Share | None":
        """The rows of an Arrow table; None if it has none."""
        if not table.num_rows:
            return None
        weight = None if self.weight is None else _values(table[self.weight])
        return Share(self._matrix(table), _values(table[self.label]), weight)

    def _matrix(self, table) -> Any:
        if not isinstance(self.features, str):
            return table.select(self.features).to_pandas()  # a frame, for the model to know the names
        column = table[self.features]
        vectors = np.concatenate([_flat(chunk) for chunk in column.chunks])
        lengths = np.concatenate([_lengths(chunk) for chunk in column.chunks])
        if (lengths != lengths[0]).any():
            found = ["none" if length < 0 else f"{length}" for length in np.unique(lengths)[:5].tolist()]
            raise ValueError(
                f"The arrays in the column {self.features!r} differ in length: {', '.join(found)}. All rows need the "
                "same number of features."
            )
        return vectors.reshape(len(lengths), lengths[0])


class Share(NamedTuple):
    """Some rows, as `fit` takes them."""

    X: Any
    y: Any
    weight: Any = None

    def without_rows(self) -> "Share":
        """The same without its rows, for others to know of what kind they are."""
        return Share(*(None if part is None else _empty(part) for part in self))


def joined(shares: Sequence[Share]) -> Share | None:
    """All rows of several shares, in their order; None if there are none."""
    shares = [share for share in shares if share.X.shape[0]]
    if len(shares) < 2:
        return shares[0] if shares else None
    return Share(*(None if parts[0] is None else _stacked(parts) for parts in zip(*shares, strict=True)))


def _stacked(parts) -> Any:
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    if hasattr(parts[0], "iloc"):
        import pandas as pd  # which made the parts

        return pd.concat(parts, ignore_index=True)
    return np.concatenate(parts)


def _empty(part):
    return part.iloc[:0] if hasattr(part, "iloc") else part[:0]


def _values(column) -> np.ndarray:
    """A column of Arrow's, as NumPy has it; NaN or None where a value is missing."""
    return column.to_numpy() if column.num_chunks else np.empty(0)


def _flat(chunk) -> np.ndarray:
    """The numbers of a chunk of arrays, one after the other."""
    return _stored(chunk).flatten().to_numpy(zero_copy_only=False)


def _lengths(chunk) -> np.ndarray:
    """How many numbers each array of a chunk has; -1 where there is none."""
    return _stored(chunk).value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)


def _stored(chunk) -> Any:
    """A chunk of arrays as a chunk of lists, which is how tensors are stored, too."""
    chunk = getattr(chunk, "storage", chunk)
    if not hasattr(chunk, "flatten") or not hasattr(chunk, "value_lengths"):
        raise TypeError(
            f"features is one column of arrays or a list of columns of numbers, and this column holds {chunk.type}. "
            "Give the names of columns of numbers as a list."
        )
    return chunk
