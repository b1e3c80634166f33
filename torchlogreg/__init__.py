"""Logistic regression for scikit-learn users, running on torch."""

from importlib.metadata import version as _version

from torchlogreg._displays import (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    ScorePathDisplay,
)
from torchlogreg._estimators.logistic import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._export.conversion import LogisticModule, to_sklearn, to_torch
from torchlogreg._export.safetensors import SKOPS_TRUSTED_TYPES
from torchlogreg._model_selection.grid_search import TorchGridSearchCV
from torchlogreg._model_selection.logistic_cv import TorchLogisticRegressionCV, TorchSoftmaxClassifierCV
from torchlogreg._model_selection.penalty_grid import smallest_useful_C

for _class in (
    CoefficientDisplay,
    CoefficientPathDisplay,
    LogisticModule,
    LossCurveDisplay,
    ProbabilityCurveDisplay,
    ScorePathDisplay,
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
):
    _class.__module__ = "torchlogreg"  # the path that pickles hold, whatever file a class moves to
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
    "smallest_useful_C",
    "to_sklearn",
    "to_torch",
]
