"""Where arithmetic runs: the device of a fit, and the device and dtype of the coefficients."""

from typing import NamedTuple, Self

import torch

from torchlogreg._data.device_cost import Work


class Placement(NamedTuple):
    """A device and a dtype."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def beside(cls, device: torch.device) -> Self:
        """Where coefficients and all small algebra live beside an X on `device`: there, or on the CPU beside MPS.

        Always in float64, which MPS does not have.
        """
        return cls(torch.device("cpu") if device.type == "mps" else device, torch.float64)

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor here; moved before it is cast, because a device may lack the dtype."""
        return tensor.to(self.device).to(self.dtype)


def widest_dtype(device: torch.device) -> torch.dtype:
    """The widest floating dtype that `device` computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


def copied_to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the host on `device`; where that is possible, the host does not wait for the copy."""
    if device.type not in ("cuda", "xpu") or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def available_devices() -> list[str]:
    """Names of the devices that this machine offers to torch."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.xpu.is_available():
        names += ["xpu", *(f"xpu:{i}" for i in range(torch.xpu.device_count()))]
    if torch.backends.mps.is_available():
        names += ["mps", "mps:0"]  # the latter is what a tensor there has as its device
    return names


class Choice(NamedTuple):
    """Where a fit runs, and the reason in a sentence that begins with the name of the device."""

    device: torch.device
    reason: str

    @classmethod
    def of(cls, device: str | torch.device, because: str) -> Self:
        return cls(torch.device(device), f"{device}: {because}")


def choose_device(asked: str | torch.device, X, work: Work | None) -> Choice:
    """The device for a fit of X; `work` is None where products with X run on the host.

    The work is looked at first, and devices are looked for only if it pays: to ask CUDA how many there are starts no
    context, but it does start the driver, after which a forked process cannot use it.
    """
    if str(asked) != "auto":
        names = available_devices()
        if str(asked) not in names:
            raise ValueError(f"device={str(asked)!r} is not available here. Choose 'auto' or one of {names}.")
        return Choice.of(asked, "the parameter device asks for it")
    if X.device.type != "cpu":
        return Choice.of(X.device, "the rows are there already")
    if work is None:
        return Choice.of("cpu", "products with a sparse X run on the host")
    if not work.pays():
        return Choice.of("cpu", work.why_not())
    for kind in ("cuda", "xpu"):
        if getattr(torch, kind).is_available():
            return Choice.of(kind, work.why())
    if not torch.backends.mps.is_available():
        return Choice.of("cpu", "no accelerator was found")
    # Without float64 an MPS device is a fair choice for single precision only.
    if X.dtype != torch.float32:
        return Choice.of("cpu", f"mps is chosen for float32 alone, and X is {str(X.dtype).removeprefix('torch.')}")
    return Choice.of("mps", work.why())
