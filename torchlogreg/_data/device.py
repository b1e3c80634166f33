"""Where arithmetic runs: the device of a fit, and the device and dtype of the coefficients."""

from typing import NamedTuple, Self

import torch

from torchlogreg._data import tuning


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


def resolve_device(device: str | torch.device, X, work: int) -> torch.device:
    """The device that a fit of X runs on; `work` is the size of one pass, n p K."""
    name = str(device)
    if name == "auto":
        if X.device.type != "cpu" or work < tuning.MIN_ACCELERATOR_WORK:
            return X.device
        for kind in ("cuda", "xpu"):
            if getattr(torch, kind).is_available():
                return torch.device(kind)
        # Without float64 an MPS device is a fair choice for single precision only.
        return torch.device("mps" if X.dtype == torch.float32 and torch.backends.mps.is_available() else "cpu")
    names = available_devices()
    if name not in names:
        raise ValueError(f"device={name!r} is not available here. Choose 'auto' or one of {names}.")
    return torch.device(name)
