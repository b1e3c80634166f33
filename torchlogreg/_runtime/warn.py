"""Warnings that point at the user's own line."""

import contextlib
import os
import sys
import warnings

import sklearn

# Decorators of scikit-learn and of contextlib stand between the user and the package, and scikit-learn's pipelines and
# searches call it. From Python 3.12 on, `warnings.warn(skip_file_prefixes=...)` does the same.
SKIPPED = tuple(os.path.join(os.path.dirname(path), "") for path in (os.path.dirname(__file__), sklearn.__file__))


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning that points at the innermost caller outside the package and scikit-learn."""
    frame, level = sys._getframe(1), 2
    while frame is not None and _is_skipped(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_skipped(filename: str) -> bool:
    return filename == contextlib.__file__ or filename.startswith(SKIPPED)
