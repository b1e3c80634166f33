"""The examples of the gallery: complete, in order, and short.

`make docs` runs them, with warnings as errors; `test_site.py` looks at what they left.
"""

import re
from pathlib import Path

import pytest
from helpers import run_program

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
    "softmax on MNIST": ["plot_softmax_on_images.py", "plot_slow_batches.py", "plot_similar_losses.py"],
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_its_examples(lesson):
    assert {FOLDER / name for name in LESSONS[lesson]} <= set(PICTURES)


def test_the_gallery_names_every_example():
    header = (FOLDER / "GALLERY_HEADER.rst").read_text(encoding="utf-8")
    assert sorted(re.findall(r":doc:`(\w+)`", header)) == [path.stem for path in sorted(FOLDER.glob("*.py"))]


def test_the_picture_of_the_readme_can_be_drawn(tmp_path):
    script = FOLDER.parent / "docs" / "readme_picture.py"
    run_program(script, tmp_path / "picture.png", folder=tmp_path)
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert "](docs/_static/at-a-glance.png)" in readme
    assert (FOLDER.parent / "docs" / "_static" / "at-a-glance.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
