"""The two estimators; pickles of version 0.1.0.dev0 find them here."""

from torchlogreg._estimators.logistic import TorchLogisticRegression, TorchSoftmaxClassifier

__all__ = ["TorchLogisticRegression", "TorchSoftmaxClassifier"]
