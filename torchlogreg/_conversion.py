"""Where pickles of version 0.1.0.dev0 look for this class."""

from torchlogreg._export.conversion import LogisticModule

__all__ = ["LogisticModule"]
