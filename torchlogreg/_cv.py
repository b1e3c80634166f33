"""Where pickles of version 0.1.0.dev0 look for these classes."""

from torchlogreg._model_selection.logistic_cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV

__all__ = ["TorchLogisticRegressionCV", "TorchSoftmaxClassifierCV"]
