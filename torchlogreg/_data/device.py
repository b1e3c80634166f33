"""Where arithmetic runs: the device of a fit, and where coefficients live."""

from typing import NamedTuple

import torch


class Placement(NamedTuple):
    """Where coefficients and all small algebra live: float64, on the device of X if it has float64."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def beside(cls, device):
        return cls(torch.device("cpu") if device.type == "mps" else device, torch.float64)


# Work (n p K) from which an accelerator is expected to repay the copy of X, for device="auto".
ACCELERATOR_PAYS = 50_000_000


def available_devices():
    """Names of the devices that this machine offers to torch."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names += ["mps", "mps:0"]  # the latter is what a tensor there has as its device
    return names


def resolve_device(device, X, work):
    """The torch device that a fit of X runs on."""
    device = str(device)  # of a torch.device too
    if device == "auto":
        if X.device.type != "cpu" or work < ACCELERATOR_PAYS:
            return X.device
        if torch.cuda.is_available():
            return torch.device("cuda")
        # Without float64 an MPS device is a fair choice for single precision only.
        return torch.device("mps" if X.dtype == torch.float32 and torch.backends.mps.is_available() else "cpu")
    names = available_devices()
    if device not in names:
        raise ValueError(f"device={device!r} is not available here. Choose 'auto' or one of {names}.")
    return torch.device(device)
