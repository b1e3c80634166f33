"""A pretend accelerator: tensors that compute on the CPU and say that they are elsewhere.

`devices("cuda")` makes torch believe in devices of that kind, and whatever would raise there raises here: a forgotten
transfer, an operation that the device lacks, float64 on MPS, memory that runs out. It leans on private parts of torch,
so it knows the versions in `KNOWN` only. It cannot see dtypes of kernels, TF32, races, and real memory.
"""

import ctypes
import gc
import sys
from contextlib import contextmanager
from functools import cache, partial, wraps
from pathlib import Path

import torch
import torch.utils._device
from pretend_tensors import COUNT, KEYS, REAL_GENERATOR, Tally, machine, numbered, on_device, run

KNOWN = ("2.13",)
TYPE_NUMBERS = {"cuda": 1, "xpu": 12, "mps": 13, "meta": 14}  # of c10::DeviceType


def why_not() -> str:
    """Why the harness cannot be used here; empty where it can."""
    if not torch.__version__.startswith(tuple(f"{version}." for version in KNOWN)):
        return f"the pretend accelerator knows torch {', '.join(KNOWN)}, not {torch.__version__}"
    if sys.platform != "linux":
        return "the pretend accelerator reaches into torch's libraries as Linux names them"
    real = [kind for kind in KEYS if (torch.backends.mps if kind == "mps" else getattr(torch, kind)).is_available()]
    return f"there is a real device here: {', '.join(real)}" if real else ""


class _Generator(torch.Generator):
    """A generator of a device, with the numbers of one of the host."""

    def __new__(cls, device):
        return super().__new__(cls)

    def __init__(self, device):
        machine.places[self._cdata] = numbered(device)

    def __del__(self):
        machine.places.pop(self._cdata, None)

    device = property(lambda self: machine.places[self._cdata])


class _GeneratorType(type):
    def __instancecheck__(cls, obj):
        return isinstance(obj, REAL_GENERATOR)

    def __call__(cls, device="cpu"):
        return (_Generator if torch.device(device).type in KEYS else REAL_GENERATOR)(device)


class _AnyGenerator(metaclass=_GeneratorType):
    """Stands for torch.Generator, which is no function but a class."""


def _with_numbers(function):
    """The function with "cuda:0" for "cuda": C++ would ask the device's guard for the number."""

    def exact(value):
        is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in KEYS)
        return numbered(value) if is_device else value

    @wraps(function)
    def call(*args, **kwargs):
        return function(*map(exact, args), **{name: exact(value) for name, value in kwargs.items()})

    return call


def _of_generator(function):
    """A random function that refuses the generator of another device, also where its numbers are for the host."""

    @wraps(function)
    def call(*args, generator=None, device=None, **kwargs):
        place = torch.device("cpu" if device is None else device)
        if generator is not None and generator.device.type != place.type:
            raise RuntimeError(f"a generator of {generator.device} for numbers on {place}")
        return function(*args, generator=generator, device=device, **kwargs)

    return call


@cache
def _factories() -> list:
    """The operations that make a tensor from nothing, and `copy_`: their own kernels would need a real device."""
    out = [torch.ops.aten.copy_.default]
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.partition(".")
        if not base.startswith("aten::"):
            continue
        try:
            func = getattr(getattr(torch.ops.aten, base[6:]), overload or "default")
        except AttributeError:
            continue
        arguments = func._schema.arguments
        if any(a.name == "device" for a in arguments) and not any("Tensor" in str(a.type) for a in arguments):
            out.append(func)
    return out


def _dispatch(kind: str) -> None:
    """Send the operations of a kind to `run`, for good: without tensors of the kind nothing comes this way."""
    if kind in machine.libraries:
        return
    # Devices get the guard of the meta device, which does nothing, lest C++ says that it is not linked with them.
    core = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 22).in_dll(core, "_ZN3c104impl26device_guard_impl_registryE")
    if guards[TYPE_NUMBERS[kind]] is None:
        guards[TYPE_NUMBERS[kind]] = guards[TYPE_NUMBERS["meta"]]
    library, aten = machine.libraries[kind] = [torch.library.Library(name, "IMPL") for name in ("_", "aten")]
    library.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), KEYS[kind])
    for func in _factories():
        aten.impl(func, partial(lambda func, *args, **kwargs: run(func, args, kwargs), func), KEYS[kind])


def _replacements(kinds) -> list[tuple]:
    """What stands for which attribute of which part of torch."""

    def nothing(*_, **__):
        return None

    def yes(*_, **__):
        return True

    out = [(torch, "Generator", _AnyGenerator), (torch.Tensor, "to", _with_numbers(torch.Tensor.to))]
    out += [(torch, name, _with_numbers(getattr(torch, name))) for name in ("tensor", "as_tensor")]
    out += [(torch, name, _of_generator(getattr(torch, name))) for name in ("rand", "randn", "randint", "randperm")]
    out += [(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor.clone())]
    # A module's parameters become tensors of the device; torch would write that into the ones of the host.
    out += [(torch.__future__, "_overwrite_module_params_on_conversion", True)]
    for kind in kinds:
        module = getattr(torch, kind)
        out += [(module, name, nothing) for name in ("synchronize", "empty_cache")]
        if kind == "mps":
            out += [(torch.backends.mps, "is_available", yes)]
            continue
        answers = {"is_available": yes, "is_initialized": yes, "is_bf16_supported": yes, "_lazy_init": nothing}
        answers |= {"device_count": lambda kind=kind: COUNT[kind], "current_device": lambda: 0}
        out += [(module, name, answer) for name, answer in answers.items()]
        out += [(torch.Tensor, kind, lambda tensor, device=kind, **options: tensor.to(device, **options))]
    return out


@contextmanager
def devices(*kinds: str):
    """Make torch believe in devices of these kinds ("cuda", "mps", "xpu")."""
    torch.utils._device._device_constructors()  # of torch's own functions, before some are replaced
    for kind in kinds:
        _dispatch(kind)
    replacements = _replacements(kinds)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        with torch.serialization.safe_globals([on_device]):
            yield machine
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def memory(n_bytes: int):
    """Allocations fail that would take more than so many bytes besides what is held already."""
    gc.collect()
    machine.limit = n_bytes + machine.n_held()
    try:
        yield
    finally:
        machine.limit = None


@contextmanager
def counted():
    """Count the waits for the devices and their kernels."""
    machine.tally = Tally()
    try:
        yield machine.tally
    finally:
        machine.tally = None
