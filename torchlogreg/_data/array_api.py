"""Arrays of other libraries: into torch without a copy, and answers in the library that X came from."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from torchlogreg._runtime.sklearn_private import (
    get_namespace_and_device,
    is_namespace,
    is_numpy_namespace,
    max_precision_float_dtype,
    move_to,
    np_compat,
)

NUMERIC_KINDS = "biufc"  # kinds of NumPy's dtypes that other libraries have, too


def tensor_of(array) -> torch.Tensor | None:
    """A tensor over the memory of a tensor or of another library's array; None for NumPy's and for all else."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return array if type(array) is torch.Tensor else array.as_subclass(torch.Tensor)
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__") or hasattr(array, "__arrow_c_array__"):
        return None  # NumPy takes pyarrow's without a copy too, and without a warning about versions of DLPack
    try:
        return torch.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None  # NumPy may know better


def numpy_of(array) -> Any:
    """Labels, weights or coefficients as NumPy has them, on the host; anything but an array stays as it is."""
    tensor = tensor_of(array)
    if tensor is None:
        # NumPy takes what torch cannot, such as text.
        return move_to(array, xp=np_compat, device="cpu") if hasattr(array, "__array_namespace__") else array
    narrow = tensor.is_floating_point() and tensor.element_size() < 4  # bfloat16 is not among NumPy's types
    return (tensor.double() if narrow else tensor).numpy(force=True)


def numpy_values(values: dict[str, Any]) -> dict[str, Any]:
    """What splitters and scorers know, for they support no other library: `numpy_of` each value."""
    return {name: numpy_of(value) for name, value in values.items()}


class Space(NamedTuple):
    """The library and the device that answers go to: NumPy's unless scikit-learn's `array_api_dispatch` is on."""

    xp: Any = None  # None for NumPy
    device: Any = None

    @classmethod
    def of(cls, array) -> "Space":
        """That of X, or of the labels."""
        xp, _, device = get_namespace_and_device(array)
        return cls() if is_numpy_namespace(xp) else cls(xp, device)

    def array(self, value):
        """A tensor or NumPy array as an array of this space; text stays NumPy's, because the others have none."""
        if self.xp is None:
            return value.numpy(force=True) if isinstance(value, torch.Tensor) else value
        if isinstance(value, np.ndarray) and value.dtype.kind not in NUMERIC_KINDS:
            return value
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, device="cpu")
        if tensor.dtype == torch.float64 and max_precision_float_dtype(self.xp, self.device) == self.xp.float32:
            tensor = tensor.float()
        if is_namespace(self.xp, "torch"):
            return tensor.to(self.device)
        if tensor.device.type != "cpu":
            return self.xp.from_dlpack(tensor)  # where X is
        return self.xp.asarray(tensor.numpy(), device=self.device)

    def joined(self, pieces: Iterable[Any], n: int, classes: np.ndarray | None = None):
        """Tensors one after the other as one array of n rows; if they are indices of `classes` (NumPy), the classes."""
        in_numpy = self.xp is None or (classes is not None and classes.dtype.kind not in NUMERIC_KINDS)
        labels: Any = classes if classes is None or in_numpy else torch.tensor(classes, device="cpu")
        out, start = None, 0
        for piece in pieces:
            piece = piece.numpy(force=True) if in_numpy else piece
            if labels is not None:
                piece = cast("Any", labels[piece] if in_numpy else labels.to(piece.device)[piece])
            if out is None:
                shape = (n, *piece.shape[1:])
                out = cast("Any", np.empty(shape, piece.dtype) if in_numpy else piece.new_empty(shape))
            out[start : start + len(piece)] = piece
            start += len(piece)
        return self.array(out)
