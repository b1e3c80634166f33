"""Fitted models for others: files, torch modules, scikit-learn's estimators, ONNX."""
