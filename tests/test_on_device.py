"""The command for the first real accelerator runs to its end: at toy size, on the CPU and on a pretend device."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pretend
import pytest
import torch
from pretend_cases import Place, bound_of

from torchlogreg._data import tuning

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NO_BACKWARD = "Cannot access accelerator device when none is available."

pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.exists(), reason="the benchmarks are not installed"),
    pytest.mark.usefixtures("one_thread", "no_windows"),
]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run it and return its exit status and its lines."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("MPLBACKEND", "Agg")  # or it would set it for good
    modules = set(sys.modules)
    import on_device

    def run(*arguments):
        status = on_device.main([*arguments, "--out", str(tmp_path)])
        (path,) = tmp_path.iterdir()
        return status, [json.loads(line) for line in path.read_text().splitlines()]

    yield run
    for name in set(sys.modules) - modules:  # names such as `datasets` are not for other tests
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def figures_of_memory(monkeypatch):
    """What the pretend device does not have."""
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretend 1000")


def check(lines, parts):
    assert [line for line in lines if "result" not in line] == []
    assert list(dict.fromkeys(line["part"] for line in lines)) == ["card", *parts]


@pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not())
def test_parts_run_on_a_pretend_device(command, figures_of_memory, capsys):
    parts = ["parity", "times", "peers", "epoch", "memory"]
    with pretend.devices("cuda"):
        _, lines = command("--device", "cuda", "--toy", "--parts", ",".join(parts))
    # torch's own optimisers get as far as the first backward pass, for which its engine wants a real device.
    backward = [line for line in lines if "torch LBFGS" in line["step"] or "lessons" in line["step"]]
    assert all(line["error"].strip().endswith(NO_BACKWARD) for line in backward)
    check([line for line in lines if line not in backward], parts)
    printed = capsys.readouterr().out
    assert "Device: Pretend 1000" in printed
    (constants,) = (line["result"] for line in lines if line["step"] == "constants")
    assert all(f"  {name} = " in printed for name in constants)
    assert set(constants) <= set(vars(tuning))


def test_parts_run_on_the_cpu(command):
    parts = ["peers", "epoch", "cases"]
    status, lines = command("--device", "cpu", "--toy", "--parts", ",".join(parts))
    check(lines, parts)
    assert status == 0


def test_numbers_that_are_none_do_not_agree(command, monkeypatch):
    import device_parts

    class Wrong:
        """Right where it is asked first."""

        objective_ = 1.0

        def set_params(self, device):
            self.device = device
            return self

        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            return np.full(len(X), np.nan if self.device == "auto" and X.shape[1] == 70 else 0.5)

    monkeypatch.setattr(device_parts, "estimator", lambda *_, **__: Wrong())
    _, lines = command("--device", "cpu", "--toy", "--parts", "parity")
    results = [line["result"] for line in lines if line["part"] == "parity"]
    assert results
    assert not any(result["agrees"] for result in results)


@pytest.mark.parametrize(("name", "differs"), [("mostly_zero", False), ("fit", True)])
def test_cases_have_the_bounds_of_the_tests(command, name, differs):
    import device_parts

    cases = SimpleNamespace(SINGLE={"mps"}, Place=Place, bound_of=bound_of, flat=lambda value: value)
    cases.CASES, cases.expected = {name: lambda at: [np.full(3, 0.02)]}, lambda *_: [np.zeros(3)]
    assert bool(device_parts.fault_of(cases, name, "mps", True)) == differs


def test_steps_go_on_beside_a_device_that_refuses_everything(command, monkeypatch):
    import on_device

    def refuses():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(on_device, "of_device", lambda _: SimpleNamespace(empty_cache=refuses))
    monkeypatch.setattr(on_device, "card", lambda run: None)
    monkeypatch.setattr(on_device, "PARTS", {"parts": lambda run: run.step("works", 0, lambda run: 42.0)})
    status, lines = command("--device", "cpu", "--toy")
    assert (status, lines[1]["result"]) == (0, 42.0)


def test_a_step_that_fails_is_written_down_and_the_next_one_runs(command, monkeypatch, capsys):
    import on_device

    def raises(run):
        raise ZeroDivisionError("as it happens")

    def differs(run):
        return {"agrees": False}

    def lasts(run):
        while True:
            pass

    def parts(run):
        run.step("raises", 0, raises)
        run.step("differs", 0, differs)
        run.step("large", 1e6, differs)
        monkeypatch.setattr(run, "toy", False)
        monkeypatch.setattr(on_device, "PATIENCE", 1e-3)
        run.step("lasts", 1, lasts)
        run.step("large", 1e6, differs)
        run.step("works", 0, lambda run: {"answer": 42.00001, "nothing": float("inf")})

    monkeypatch.setattr(on_device, "card", lambda run: None)
    monkeypatch.setattr(on_device, "PARTS", {"parts": parts})
    status, lines = command("--device", "cpu", "--toy", "--seconds", "100")
    assert (status, lines.pop(0)["step"]) == (1, "machine")
    assert "ZeroDivisionError: as it happens" in lines[0]["error"]
    assert "stopped" in lines[3]["skipped"]
    assert "needs about 1000000 s" in lines[4]["skipped"]
    assert lines[5]["result"] == {"answer": 42.0, "nothing": None}
    assert "3 failed" in capsys.readouterr().out
