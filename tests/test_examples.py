"""Every example runs without a warning, and all but the quickstart stay short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
PICTURES = sorted(FOLDER.glob("plot_*.py"))
LESSONS = {
    "gradient descent on eight points": ["plot_eight_points.py"],
    "momentum, a stop, and autograd": ["plot_two_clouds.py", "plot_autograd.py", "plot_autograd_newton.py"],
    "hours of study": ["plot_hours_of_study.py"],
    "from a line to softmax": [
        "plot_a_line.py",
        "plot_from_line_to_softmax.py",
        "plot_softmax_on_images.py",
        "plot_activations.py",
    ],
    "softmax on MNIST": ["plot_softmax_on_images.py", "plot_complaints_time_accuracy.py", "plot_complaints_losses.py"],
}
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


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_its_examples(lesson):
    assert {FOLDER / name for name in LESSONS[lesson]} <= set(PICTURES)


def test_the_gallery_names_every_example():
    header = (FOLDER / "GALLERY_HEADER.rst").read_text(encoding="utf-8")
    assert sorted(re.findall(r":doc:`(\w+)`", header)) == [path.stem for path in sorted(FOLDER.glob("*.py"))]


def test_the_picture_of_the_readme_can_be_drawn(tmp_path):
    script = FOLDER.parent / "docs" / "readme_picture.py"
    command = [sys.executable, "-W", "error", str(script), str(tmp_path / "picture.png")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert "](docs/_static/at-a-glance.png)" in readme
    assert (FOLDER.parent / "docs" / "_static" / "at-a-glance.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
