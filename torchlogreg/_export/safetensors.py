"""Models as files that hold data only: one .safetensors file with tensors and JSON, nothing of which is ever executed.

Floating arrays are tensors of the file; everything else is JSON text in its metadata:

    {"format": 1, "torchlogreg": version, "class": name,
     "parameters": {name: value}, "attributes": {name: value}, "sha256": digest}

A value is null, a boolean, a number, a string, a list of values, or an object with one key, which names its
type; `_DECODERS` lists them. The digest is that of all the rest and of the tensors. It finds damage and edits by hand;
it is not a signature, so the content is checked as well.
"""

import hashlib
import json
import math
import os
import re
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from torchlogreg._data.validation import plain
from torchlogreg._runtime.files import is_special, replace_file

FORMAT = 1  # of the file; raised when an older torchlogreg would misread a file
TENSORS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}

SKOPS_TRUSTED_TYPES = [
    "torch.device",
    "torchlogreg.TorchLogisticRegression",
    "torchlogreg.TorchLogisticRegressionCV",
    "torchlogreg.TorchSoftmaxClassifier",
    "torchlogreg.TorchSoftmaxClassifierCV",
    # of files from version 0.1.0.dev0
    "torchlogreg._cv.TorchLogisticRegressionCV",
    "torchlogreg._cv.TorchSoftmaxClassifierCV",
    "torchlogreg._estimators.TorchLogisticRegression",
    "torchlogreg._estimators.TorchSoftmaxClassifier",
]


def save(model: Any, path: str | os.PathLike) -> None:
    """Write a fitted estimator to a file, all of it or nothing."""
    check_is_fitted(model)
    if hasattr(model, "_skl_callbacks"):
        raise TypeError(
            "Callbacks cannot be saved: remove them with set_callbacks(), without arguments, and save then."
        )
    fitted = {name: value for name, value in vars(plain(model)).items() if _is_fitted_name(name)}
    check_attributes(model, fitted)
    tensors = {}
    content = {
        "format": FORMAT,
        "torchlogreg": version("torchlogreg"),
        "class": type(model).__name__,
        "parameters": {name: _encode(value, name, tensors) for name, value in model.get_params(deep=False).items()},
        "attributes": {name: _encode(value, name, tensors) for name, value in fitted.items()},
    }
    model._validate_params()  # what cannot be loaded is not saved
    content["sha256"] = _digest(content, tensors)
    # One entry, for safetensors writes several in random order, and equal models shall be equal files.
    replace_file(path, _safetensors().numpy.save(tensors, {"torchlogreg": json.dumps(content)}))


def load(cls: type, path: str | os.PathLike) -> Any:
    """The estimator of class `cls` in a file."""
    text, tensors = _read(path)
    try:
        content = json.loads(text)
        format_, writer, name = content["format"], content["torchlogreg"], content["class"]  # as in every format
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: the metadata is not that of a model of torchlogreg.") from None
    if type(format_) is not int or format_ != FORMAT:
        raise ValueError(
            f"{path} has format {format_!r}, and torchlogreg {version('torchlogreg')} reads format {FORMAT}. It was "
            f"written by torchlogreg {writer}: install that version or a newer one."
        )
    try:
        if content.pop("sha256", None) != _digest(content, tensors):
            raise ValueError("It was changed after it was saved: its content does not match its SHA-256.")
        if name != cls.__name__:
            raise ValueError(f"It holds a {name}: use {name}.load.")
        parameters = {key: _decode(value, tensors) for key, value in content["parameters"].items()}
        attributes = {key: _decode(value, tensors) for key, value in content["attributes"].items()}
        if unknown := parameters.keys() - set(cls._get_param_names()):
            raise ValueError(f"{sorted(unknown)} are no parameters; they may be those of torchlogreg {writer}.")
        if unknown := [key for key in attributes if not _is_fitted_name(key)]:
            raise ValueError(f"{sorted(unknown)} are no fitted attributes.")
        model = cls(**parameters)
        model._validate_params()
        check_attributes(model, attributes)
    except Exception as error:  # any error means that the file is invalid
        raise ValueError(f"{path} does not hold a valid {cls.__name__}. {error}") from error
    if type(attributes.get("n_iter_")) is int:  # as the first files have it
        attributes["n_iter_"] = np.array([attributes["n_iter_"]], dtype=np.int32)
    vars(model).update(attributes)
    return model


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("save and load need safetensors: pip install 'torchlogreg[save]'.") from error
    return safetensors


def _read(path: str | os.PathLike) -> tuple[str, dict[str, np.ndarray]]:
    """(JSON text, tensors by name) of a file."""
    safetensors = _safetensors()
    if is_special(path) and not os.path.isdir(path):  # to open a pipe is to wait for its writer
        raise ValueError(f"{path} is not a regular file. Copy its content to one, and load that.")
    with open(path, "rb"):  # the usual errors for what is missing, a folder, or not readable
        pass
    try:
        with safetensors.safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
            if metadata.keys() != {"torchlogreg"} or not set(dtypes.values()) <= TENSORS.keys():
                raise ValueError(f"{path} was not written by torchlogreg, or was changed since.")
            tensors = {name: file.get_tensor(name) for name in dtypes}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file: {error}.") from error
    return metadata["torchlogreg"], tensors


def _digest(content: dict, tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of all that a file says."""
    digest = hashlib.sha256(json.dumps(content).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{json.dumps(name)} {tensor.dtype.name} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _is_fitted_name(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_") and name.isidentifier()


def check_attributes(model: Any, attributes: dict[str, Any]) -> None:
    """Raise unless the model can predict with these attributes."""
    for name in ("classes_", "coef_", "intercept_", "n_features_in_"):
        if name not in attributes:
            raise ValueError(f"{name} is missing.")
    classes, p, names = attributes["classes_"], attributes["n_features_in_"], attributes.get("feature_names_in_")
    if type(p) is not int or p < 1:
        raise ValueError(f"n_features_in_ must be a positive integer, got {p!r}.")
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) < 2:
        raise ValueError(f"classes_ must be an array of at least two labels, got {classes!r}.")
    if not np.all(classes[:-1] < classes[1:]):
        raise ValueError(f"classes_ must be in ascending order, each once, got {classes.tolist()}.")
    if len(classes) > 2 and not model.__sklearn_tags__().classifier_tags.multi_class:
        raise ValueError(f"{type(model).__name__} has two classes, got {len(classes)}: use TorchSoftmaxClassifier.")
    K = 1 if len(classes) == 2 else len(classes)
    dtype = getattr(attributes["coef_"], "dtype", None)
    for name, shape in (("coef_", (K, p)), ("intercept_", (K,))):
        value = attributes[name]
        if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64) or value.dtype != dtype:
            raise ValueError("coef_ and intercept_ must be arrays of the same dtype, float32 or float64.")
        if value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}; {len(classes)} classes and {p} features need {shape}.")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} contains NaN or infinity.")
    if names is not None and not (
        isinstance(names, np.ndarray) and names.shape == (p,) and all(isinstance(name, str) for name in names.tolist())
    ):
        raise ValueError(f"feature_names_in_ must hold {p} strings, got {names!r}.")


def _encode(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """A value as JSON; floating arrays go to `tensors`. `name` is where it was found."""
    value = value.item() if isinstance(value, np.generic) else value
    kind = next((cls for cls in type(value).__mro__ if cls in _ENCODERS), None)
    if kind is None:
        raise TypeError(
            f"{name} is a {type(value).__name__}, and a .safetensors file holds numbers, strings and arrays only. If "
            "it is a parameter, give it a plain value with set_params before saving; or use pickle, joblib or skops."
        )
    return _ENCODERS[kind](value, name, tensors)


def _decode(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """What `_encode` was given."""
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind not in _DECODERS:
        raise ValueError(f"{kind!r} is no kind of value.")
    return _DECODERS[kind](content, tensors)


def _encode_list(value, name, tensors):
    return [_encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]


def _encode_dict(value, name, tensors):
    return {"dict": [[_encode(k, name, tensors), _encode(v, f"{name}.{k}", tensors)] for k, v in value.items()]}


def _encode_masked(value, name, tensors):
    return {"masked": [_encode(np.array(value.data), name, tensors), _encode(np.ma.getmaskarray(value), name, tensors)]}


def _encode_array(value, name, tensors):
    if value.dtype in TENSORS.values() and name != "classes_":  # labels of any dtype are to be readable
        name = name.encode("utf-8", "backslashreplace").decode()
        while name in tensors:
            name += "'"
        # safetensors writes memory as it lies there, so strides and byte order must be the plain ones.
        tensors[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {"tensor": name}
    dtype = value.dtype.str if value.dtype.kind in "biuf" else value.dtype.kind
    if not re.fullmatch(_LISTED, dtype):
        raise TypeError(f"{name} has dtype {value.dtype}, for which a .safetensors file has no place; use pickle.")
    return {"array": [dtype, list(value.shape), _encode_list(value.ravel().tolist(), name, tensors)]}


def _decode_array(content, tensors):
    dtype, shape, encoded = content
    values = _decode(encoded, tensors)
    if (
        not re.fullmatch(_LISTED, dtype)
        or not isinstance(values, list)
        or any(isinstance(v, list | tuple | dict | np.ndarray) for v in values)
    ):
        raise ValueError(f"An array of dtype {dtype!r} holds something other than numbers and strings.")
    if (
        dtype in "SU" and max(map(len, values), default=0) * len(values) > 2**28
    ):  # NumPy makes all as wide as the widest
        raise ValueError("The labels would take more than a gigabyte.")
    array = np.array(values, dtype=dtype)
    if _encode_list(array.tolist(), "", {}) != encoded:
        raise ValueError(f"The values of an array do not fit its dtype {dtype!r}.")
    return array.reshape(shape)


def _decode_float(content, _):
    if content not in ("inf", "-inf", "nan"):
        raise ValueError(f"{content!r} is no float.")
    return float(content)


def _decode_tuple(content, tensors):
    if not isinstance(content, list):
        raise ValueError("A tuple must be given as a list.")
    return tuple(_decode(content, tensors))


def _decode_masked(content, tensors):
    data, mask = (_decode(part, tensors) for part in content)
    return np.ma.MaskedArray(data, mask)


# dtypes of arrays that are lists in JSON; strings are as wide as the longest, whatever width a file names
_LISTED = r"[<>|][biuf][1248]|[OSU]"
_ENCODERS = {
    **dict.fromkeys((type(None), bool, int, str), lambda value, *_: value),
    float: lambda value, *_: value if math.isfinite(value) else {"float": str(value)},
    bytes: lambda value, *_: {"bytes": value.decode("latin-1")},
    torch.device: lambda value, *_: {"device": str(value)},
    list: _encode_list,
    tuple: lambda value, name, tensors: {"tuple": _encode_list(value, name, tensors)},
    dict: _encode_dict,
    np.ndarray: _encode_array,
    np.ma.MaskedArray: _encode_masked,
}
_DECODERS = {
    "float": _decode_float,
    "bytes": lambda content, _: content.encode("latin-1"),
    "device": lambda content, _: torch.device(str(content)),
    "tuple": _decode_tuple,
    "dict": lambda content, tensors: {_decode(k, tensors): _decode(v, tensors) for k, v in content},
    "array": _decode_array,
    "tensor": lambda content, tensors: tensors[content],
    "masked": _decode_masked,
}
