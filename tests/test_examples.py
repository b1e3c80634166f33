"""Every example runs without a warning, and all but the quickstart stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
PICTURES = sorted(FOLDER.glob("plot_*.py"))
LESSONS = [path for path in PICTURES if path.name not in {"plot_c_path.py", "plot_what_a_model_says.py"}]
NEED_DATA = {"plot_from_line_to_softmax.py"}  # the others say what they leave out
SLOW = {"quickstart.py"}


def _example(path):
    marks = [pytest.mark.slow] if path.name in SLOW else []
    if path.name in NEED_DATA:
        missing = "TORCHLOGREG_DATA" not in os.environ
        marks.append(pytest.mark.skipif(missing, reason="TORCHLOGREG_DATA is not set: it would download the data"))
    return pytest.param(path, marks=marks, id=path.name)


@pytest.mark.parametrize("path", [_example(path) for path in sorted(FOLDER.glob("*.py"))])
def test_runs_without_warnings(path, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error", str(path)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    if path.name == "quickstart.py":
        assert (tmp_path / "output" / "quickstart.png").stat().st_size > 10_000
        assert ("MNIST: skipped" in run.stdout) == ("TORCHLOGREG_DATA" not in os.environ)


def test_there_is_an_example_for_every_lesson():
    assert len(LESSONS) == 5


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
