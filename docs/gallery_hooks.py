"""What sphinx-gallery calls by name: the order of the examples, and what each of them starts from."""

import re
import warnings
from contextlib import ExitStack
from pathlib import Path

import torch


class HeaderOrder:
    """Sort examples as examples/GALLERY_HEADER.rst names them."""

    def __init__(self, _folder):
        header = Path(__file__).parents[1] / "examples" / "GALLERY_HEADER.rst"
        self.names = re.findall(r":doc:`(\w+)`", header.read_text(encoding="utf-8"))

    def __call__(self, filename):
        """Return the position of a file."""
        return self.names.index(Path(filename).stem)


N_THREADS = torch.get_num_threads()
changed = ExitStack()  # what is undone when an example has ended


def isolate(_gallery_conf, _filename, when):
    """Turn warnings into errors while an example runs, and undo the number of threads that it sets.

    All examples run in the process that builds the site. The build is their only test, so a warning has to fail it.
    """
    changed.close()
    torch.set_num_threads(N_THREADS)
    if when == "before":
        changed.enter_context(warnings.catch_warnings(action="error"))
