"""Fixtures that several test files use."""

import os

# Before NumPy and SciPy are imported. `array_api_dispatch` asks for the first. As to the second, tests run on all cores
# anyway, and two threads of BLAS wait for one another: scikit-learn's Newton on the digits took 136 s, and takes 1 s.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import pytest

pytest.register_assert_rewrite("helpers")


def threads(n):
    import torch  # here, because the process that hands out tests to others needs none

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads():
    """Two threads for torch, however many cores there are."""
    yield from threads(2)


@pytest.fixture
def one_thread():
    """One thread, as where an accelerator reads the rows."""
    yield from threads(1)


@pytest.fixture
def no_windows():
    """Pictures are drawn without a screen, and closed."""
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


PRETEND = os.environ.get("TORCHLOGREG_PRETEND", "")


def pytest_configure(config):
    """TORCHLOGREG_PRETEND=cuda (mps, xpu) sends all that goes to the host by default to a pretend accelerator."""
    if PRETEND in ("", "everywhere"):  # the latter asks `test_pretend.py` for every case on every device
        return
    import pretend

    from torchlogreg._data import tuning

    if reason := pretend.why_not():
        pytest.exit(f"TORCHLOGREG_PRETEND={PRETEND}: {reason}", returncode=2)
    config.add_cleanup(lambda: print(f"\n{pretend.machine.n_operations} operations on the pretend {PRETEND}"))
    tuning.START_SECONDS = -float("inf")  # so that an accelerator repays every fit
    context = pretend.devices(PRETEND)
    context.__enter__()
    config.add_cleanup(lambda: context.__exit__(None, None, None))
