"""Where pickles of version 0.1.0.dev0 look for this class."""

from torchlogreg._model_selection.grid_search import TorchGridSearchCV

__all__ = ["TorchGridSearchCV"]
