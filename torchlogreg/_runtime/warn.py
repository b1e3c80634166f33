"""Warnings that point at the user's own line."""

import contextlib
import os
import sys
import warnings

import sklearn

# Decorators of scikit-learn and of contextlib stand between the user and the package, and scikit-learn's pipelines and
# searches call it. From Python 3.12 on, `warnings.warn(skip_file_prefixes=...)` does the same.
FOLDERS = os.path.dirname(os.path.dirname(__file__)), os.path.dirname(sklearn.__file__)
SKIPPED = contextlib.__file__, *(os.path.join(folder, "") for folder in FOLDERS)


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning that points at the innermost caller outside the package and scikit-learn."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_code.co_filename.startswith(SKIPPED):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
