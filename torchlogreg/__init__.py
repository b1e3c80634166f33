"""Logistic regression for scikit-learn users, running on torch."""

from importlib.metadata import version as _version

from torchlogreg._conversion import LogisticModule, to_sklearn, to_torch
from torchlogreg._cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
from torchlogreg._displays import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    ScorePathDisplay,
)
from torchlogreg._estimators import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._persistence import SKOPS_TRUSTED_TYPES
from torchlogreg._search import TorchGridSearchCV

__version__ = _version("torchlogreg")
__all__ = [
    "SKOPS_TRUSTED_TYPES",
    "CoefficientDisplay",
    "CoefficientPathDisplay",
    "LogisticModule",
    "LossCurveDisplay",
    "ProbabilityCurveDisplay",
    "ScorePathDisplay",
    "TorchGridSearchCV",
    "TorchLogisticRegression",
    "TorchLogisticRegressionCV",
    "TorchSoftmaxClassifier",
    "TorchSoftmaxClassifierCV",
    "to_sklearn",
    "to_torch",
]
