"""Tensors of a pretend accelerator, and the rules that they obey; see `pretend`.

Operations on them reach `run` through `PretendTensor.__torch_dispatch__`. It checks what the device would check,
computes with the values on the host, and hands out tensors of the device. The rules are those of the torch at hand:
which operations need all tensors on one device, and which have a kernel for it, is read from the
native_functions.yaml that comes with it (torchgen).
"""

import re
import sys
from collections import Counter
from functools import cache, partial
from importlib.resources import files
from threading import RLock

import torch
from torch.utils._mode_utils import no_dispatch

KEYS = {"cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}  # the dispatch key of each kind
COUNT = {"cuda": 2, "mps": 1, "xpu": 1}  # devices of each kind
DLPACK_NUMBERS = {"cuda": 2, "mps": 8, "xpu": 14}
DOUBLE = (torch.float64, torch.complex128)  # what MPS lacks
# Operations that take tensors of several devices, and those that index, which take an index on the host.
ACROSS = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize", "set_", "fill_", "is_pinned", "_pin_memory"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
# Products have no kernel for whole numbers on an accelerator.
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mv", "addmv", "dot", "vdot", "addbmm"}
# What the host waits for: it needs a number, or the shape of the result depends on values.
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("repeat_interleave", "equal", "_linalg_eigh", "_linalg_svd", "_linalg_check_errors"),
}
REAL_GENERATOR = torch.Generator  # another class stands for it while there are pretend devices
NO_KERNEL = {
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh"),
    *("_local_scalar_dense", "_unsafe_view"),
}


class Tally:
    """What the devices were asked for, by place in the package."""

    def __init__(self):
        self.waits, self.kernels = Counter(), Counter()


class Machine:
    """The state of all pretend devices. torch has one set of devices in a process, so there is one of these."""

    def __init__(self):
        self.lock = RLock()  # the package computes in threads
        self.limit: int | None = None  # bytes that the devices have together
        self.held: dict[int, list[int]] = {}  # by address: how many tensors share the memory, and its bytes
        self.tally: Tally | None = None
        self.n_operations = 0
        self.libraries: dict[str, list] = {}
        self.places: dict[int, torch.device] = {}  # of generators, by their C++ parts, which is what operations get

    def allocate(self, host: torch.Tensor, kind: str) -> int:
        """Account for the memory of a tensor; returns its address."""
        storage = host.untyped_storage()
        at, n_bytes = storage.data_ptr(), storage.nbytes()
        with self.lock:
            if at not in self.held:
                if self.limit is not None and self.n_held() + n_bytes > self.limit:
                    raise _out_of_memory(kind, n_bytes)
                self.held[at] = [0, n_bytes]
            self.held[at][0] += 1
        return at

    def release(self, at: int) -> None:
        with self.lock:
            self.held[at][0] -= 1
            if not self.held[at][0]:
                del self.held[at]

    def n_held(self) -> int:
        return sum(n_bytes for _, n_bytes in self.held.values())


def _out_of_memory(kind: str, n_bytes: int) -> RuntimeError:
    """As torch raises it: on MPS it is a RuntimeError that only its text tells from others."""
    asked = f"{kind.upper()} out of memory. Tried to allocate {n_bytes / 2**20:.2f} MiB."
    return RuntimeError(asked.replace("MPS", "MPS backend")) if kind == "mps" else torch.OutOfMemoryError(asked)


machine = Machine()


class _Memory:
    """What a tensor holds of the devices' memory."""

    at: int | None = None

    def __init__(self, host: torch.Tensor, kind: str):
        self.at = machine.allocate(host, kind)

    def __del__(self):
        if self.at is not None:
            machine.release(self.at)


def numbered(device) -> torch.device:
    """The device with its number: "cuda" is "cuda:0"."""
    device = torch.device(device)
    return torch.device(device.type, 0) if device.index is None and device.type in KEYS else device


class PretendTensor(torch.Tensor):
    """A tensor of a pretend device; `host` has its values."""

    @staticmethod
    def __new__(cls, host: torch.Tensor, device: torch.device):
        device = numbered(device)
        if device.index >= COUNT[device.type]:
            raise RuntimeError(f"there is no {device}")
        if device.type == "mps" and host.dtype in DOUBLE:
            raise TypeError("MPS has no float64")
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        make = partial(torch.Tensor._make_wrapper_subclass, cls, host.shape, dtype=host.dtype, device=device, **layout)
        if host.is_inference() == torch.is_inference_mode_enabled():
            out = make()
        else:
            with torch.inference_mode(host.is_inference()):
                out = make()
        out.host, out._memory = host, _Memory(host, device.type)
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    # What torch does in Python or in C++ without an operation that is dispatched.

    def numpy(self, *, force=False):
        if not force:
            raise TypeError(f"NumPy has no arrays on {self.device}")
        return self.detach().cpu().resolve_conj().resolve_neg().numpy()

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        place = {"dtype": dtype or self.dtype, "device": device or self.device}
        return torch.tensor(data, **place, requires_grad=requires_grad)

    def data_ptr(self):
        return self.host.data_ptr()

    def as_subclass(self, cls):
        return self

    def pin_memory(self, device=None):
        raise RuntimeError(f"only tensors of the host can be pinned, not one on {self.device}")

    def is_pinned(self, device=None):
        return False

    def __dlpack_device__(self):
        return DLPACK_NUMBERS[self.device.type], self.device.index

    def __dlpack__(self, **_):
        raise BufferError("the pretend device has no DLPack")

    def __deepcopy__(self, memo):
        return self.detach().clone().requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol):
        return on_device, (self.host.detach(), str(self.device))

    def __repr__(self, **_):
        return f"{self.host!r} on {self.device}"


def on_device(host: torch.Tensor, device: str) -> PretendTensor:
    """From a pickle; torch must be told that it is safe to call this."""
    return PretendTensor(host, torch.device(device))


# --- Rules, from torch's own tables.


@cache
def _rules() -> tuple[set[str], dict[str, set[str]]]:
    """The overloads that check no devices themselves, and the dispatch keys that each has kernels for."""
    text = files("torchgen").joinpath("packaged/ATen/native/native_functions.yaml").read_text()
    unchecked, keys, delegates = set(), {}, {}
    for entry in re.split(r"^- func: ", text, flags=re.M)[1:]:
        name = entry[: entry.index("(")]
        if "device_check: NoCheck" in entry:
            unchecked.add(name)
        block = re.search(r"^  dispatch:\n((?:    .*\n)+)", entry, flags=re.M)
        lines = re.findall(r"^    ([A-Za-z0-9_, ]+):", block[1], flags=re.M) if block else []
        keys[name] = {key.strip() for line in lines for key in line.split(",")}
        if "ufunc_inner_loop" in entry:
            keys[name] |= {"CPU", "CUDA"}
        if delegate := re.search(r"^  structured_delegate: (\S+)", entry, flags=re.M):
            delegates[name] = delegate[1]
    for name, other in delegates.items():
        keys[name] |= keys.get(other, set())
        if other in unchecked:
            unchecked.add(name)
    return unchecked, keys


class _Operation:
    """What the tables say of an overload."""

    def __init__(self, func):
        schema = func._schema
        self.packet = schema.name.split("::")[1]
        self.name = f"{self.packet}.{schema.overload_name}" if schema.overload_name else self.packet
        self.is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        self.is_mutable, self.is_view = schema.is_mutable, func.is_view
        self.writes_first = schema.name.endswith("_") and not schema.name.endswith("__")
        self.changes_shape = torch.Tag.inplace_view in func.tags
        unchecked, keys = _rules()
        self.takes_numbers = self.name in unchecked  # of the host, as elementwise operations do
        own = keys.get(self.name)
        is_everywhere = not own or any(key.startswith("Composite") for key in own)  # or made by the code generator
        is_everywhere |= self.is_mutable and not keys.get(self.name.rstrip("_"))
        # The kernels of XPU are in a library of their own.
        self.kinds = {kind for kind in KEYS if is_everywhere or kind == "xpu" or KEYS[kind] in (own or ())}


_operation = cache(_Operation)


def _leaves(values) -> list:
    """The values, and those in lists and tuples among them."""
    out = []
    for value in values:
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            out += _leaves(value)
        else:
            out.append(value)
    return out


def _mapped(function, value):
    """The function of every leaf of a value."""
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_mapped(function, item) for item in value)
    return function(value)


def _on_host(value):
    return value.host if isinstance(value, PretendTensor) else value


class _Call:
    """One operation that concerns a pretend device: its checks, and its result."""

    def __init__(self, func, args, kwargs):
        self.func, self.args, self.kwargs, self.operation = func, args, kwargs, _operation(func)
        self.leaves = _leaves((*args, *kwargs.values()))
        self.tensors = [value for value in self.leaves if isinstance(value, torch.Tensor)]
        self.ours = [tensor for tensor in self.tensors if isinstance(tensor, PretendTensor)]
        self.packet, self.name = self.operation.packet, self.operation.name
        asked = kwargs.get("device")
        self.target = None if asked is None else numbered(asked)  # the device that is asked for
        home = args[0].device if self.packet == "copy_" else self.ours[0].device if self.ours else None
        self.place: torch.device | None = self.target or home  # of the results

    def check(self) -> None:
        self._check_devices()
        self._check_kernels()
        self._check_generator()
        if self.place is not None and self.place.type == "mps" and self.kwargs.get("dtype") in DOUBLE:
            raise TypeError("MPS has no float64")
        if self.packet == "_pin_memory" and self.ours:
            raise RuntimeError("only tensors of the host can be pinned")

    def _check_devices(self) -> None:
        """Whether the operation takes these tensors together."""
        if len(self.tensors) < 2 or self.packet in ACROSS:
            return
        if len({tensor.device for tensor in self.tensors}) < 2:
            return
        if self.packet in INDEXING:
            self._check_index()
            return
        common = self.ours[0].device
        for k, tensor in enumerate(self.tensors):
            is_number = (
                tensor.device.type == "cpu" and tensor.ndim == 0 and not (self.operation.writes_first and k == 0)
            )
            if tensor.device != common and not (self.operation.takes_numbers and is_number):
                raise RuntimeError(f"{self.name} takes tensors of one device, not of {common} and {tensor.device}")

    def _check_index(self) -> None:
        """Indices are on the host or with the tensor, values are with the tensor or single numbers."""
        first, rest = self.tensors[0].device, self.tensors[1:]
        n_indices = len(rest) - ("put" in self.packet)
        for index in rest[:n_indices]:
            if index.device != first and index.device.type != "cpu":
                raise RuntimeError(f"an index on {index.device} of a tensor on {first}")
        for value in rest[n_indices:]:
            if value.device != first and value.ndim:
                raise RuntimeError(f"{self.name} of values on {value.device} into a tensor on {first}")

    def _check_kernels(self) -> None:
        """Whether the devices have the operation at all."""
        devices = [self.ours[0].device] if self.ours else []
        for device in devices if self.target is None else [*devices, self.target]:
            if device.type in KEYS and device.type not in self.operation.kinds:
                raise NotImplementedError(f"{device.type} has no kernel for {self.name}")
        if self.packet in PRODUCTS and self.ours:
            dtype = self.ours[0].dtype
            if not (dtype.is_floating_point or dtype.is_complex):
                raise NotImplementedError(f"{self.packet} has no kernel for {dtype}")

    def _check_generator(self) -> None:
        generator = next((value for value in self.leaves if isinstance(value, REAL_GENERATOR)), None)
        if generator is None or self.place is None:
            return
        place = machine.places.get(generator._cdata, generator.device)
        if place.type != self.place.type:
            raise RuntimeError(f"a generator of {place} for numbers on {self.place}")

    def result(self):
        """What the operation returns, computed on the host."""
        args = _mapped(_on_host, self.args)
        kwargs = {name: _mapped(_on_host, value) for name, value in self.kwargs.items()}
        if self.target is not None:
            kwargs["device"] = torch.device("cpu")
        if self.packet == "_to_copy":
            kwargs.pop("non_blocking", None)
        result = self.func(*args, **kwargs)
        if self.operation.changes_shape:
            with no_dispatch():  # the same to the shape of the tensor that has no values
                self.func(*self.args, **self.kwargs)
            return self.args[0]
        if self.packet == "_to_copy" and any(result is tensor.host for tensor in self.ours):
            result = result.clone()
        return _mapped(self._handed_out, result)

    def _handed_out(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        if self.operation.is_mutable:  # what was written to is returned as it came
            for tensor in self.tensors:
                if _on_host(tensor) is value:
                    assert tensor.shape == value.shape, f"{self.name} resized its output"
                    return tensor
        if self.place is None or self.place.type not in KEYS:
            return value
        return PretendTensor(value, self.place)

    def count(self, tally: Tally) -> None:
        """Whether the host waits, and whether a kernel is launched."""
        crosses, waits = False, self.packet in WAITS and (self.packet != "_local_scalar_dense" or bool(self.ours))
        if self.packet in ("_to_copy", "copy_") and self.place is not None:
            source = self.args[0 if self.packet == "_to_copy" else 1].device
            crosses = source.type != self.place.type
            is_blocking = not (self.kwargs.get("non_blocking") or (self.packet == "copy_" and len(self.args) > 2))
            waits = crosses and is_blocking
        if self.packet in INDEXING and self.ours:
            indices = [index for index in self.args[1] if index is not None]
            waits = any(index.dtype == torch.bool or index.device.type == "cpu" for index in indices)
        site = _site()
        with machine.lock:
            tally.waits[site] += waits
            tally.kernels[site] += not (self.operation.is_view or crosses or self.packet in NO_KERNEL)


def run(func, args, kwargs):
    """An operation of which a tensor, or the device that is asked for, is a pretend one."""
    if _operation(func).is_composite:  # as it comes in inference mode
        return func.decompose(*args, **kwargs)
    call = _Call(func, args, kwargs)
    call.check()
    machine.n_operations += 1
    if machine.tally is not None:
        call.count(machine.tally)
    return call.result()


def _site() -> str:
    """The innermost function of the package that asked for the operation."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torchlogreg/" in file:
            return f"{file.rsplit('/torchlogreg/', 1)[1]} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "outside"
