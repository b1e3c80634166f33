"""Logistic regression for scikit-learn users, running on torch."""

from importlib.metadata import version as _version

from torchlogreg._cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
from torchlogreg._displays import ScorePathDisplay
from torchlogreg._estimators import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._search import TorchGridSearchCV

__version__ = _version("torchlogreg")
__all__ = [
    "ScorePathDisplay",
    "TorchGridSearchCV",
    "TorchLogisticRegression",
    "TorchLogisticRegressionCV",
    "TorchSoftmaxClassifier",
    "TorchSoftmaxClassifierCV",
]
