"""Logistic regression for scikit-learn users, running on torch."""

from importlib.metadata import version as _version

from torchlogreg._cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
from torchlogreg._estimators import TorchLogisticRegression, TorchSoftmaxClassifier

__version__ = _version("torchlogreg")
__all__ = [
    "TorchLogisticRegression",
    "TorchLogisticRegressionCV",
    "TorchSoftmaxClassifier",
    "TorchSoftmaxClassifierCV",
]
