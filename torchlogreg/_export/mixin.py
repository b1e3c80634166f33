"""The methods that save a fitted estimator and convert it."""

from __future__ import annotations

import os
from typing import Self

from sklearn.linear_model import LogisticRegression

from torchlogreg._export.conversion import LogisticModule, as_module, as_sklearn
from torchlogreg._export.safetensors import load, save


class Portable:
    """An estimator that can be saved and converted once it is fitted."""

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted estimator to a file that holds data only.

        The file has the .safetensors format: floating arrays are its tensors, and its metadata is JSON with
        parameters, classes, feature names, the other fitted attributes and the version. Callbacks and metadata requests
        are not part of it. Whenever the process ends, the file is either complete or not there.

        Parameters
        ----------
        path : str or path-like
            File to write or replace. A pipe or a device is written to.

        Raises
        ------
        ImportError
            If safetensors is not installed: ``pip install 'torchlogreg[save]'``.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If a parameter is more than a plain value, such as a ``RandomState`` or a function, or callbacks are set.
        ValueError
            If the coefficients are not finite, or a parameter is invalid.
        """
        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Load a fitted estimator from a file that :meth:`save` wrote.

        Nothing in the file is executed, and all of its content is checked, so a file of unknown origin can at worst be
        a wrong model. Its SHA-256 finds damage and edits by hand; it does not prove who wrote it.

        Parameters
        ----------
        path : str or path-like
            File to load.

        Returns
        -------
        estimator : object
            The fitted estimator, of the class that the method is called on.

        Raises
        ------
        ImportError
            If safetensors is not installed: ``pip install 'torchlogreg[save]'``.
        ValueError
            If the file is damaged or was changed, comes from a newer format, or holds another class.
        """
        return load(cls, path)

    def to_sklearn(self) -> LogisticRegression:
        """Convert to scikit-learn's estimator.

        Returns
        -------
        model : LogisticRegression
            A fitted :class:`~sklearn.linear_model.LogisticRegression` with the same predictions and, where it has them,
            the same parameters. Solvers that it does not have become ``'lbfgs'``, or ``'saga'`` with an L1 penalty.
            With cross-validation it is the final model.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.

        Warns
        -----
        UserWarning
            If it was fitted with `penalty_weights` or `coef_bounds`, which LogisticRegression does not have: the
            converted model predicts the same, but to fit it again would give another model.
        """
        return as_sklearn(self)

    def to_torch(self) -> LogisticModule:
        """Convert to a torch module.

        Returns
        -------
        module : LogisticModule
            A linear layer and a sigmoid or softmax, on the CPU and in the dtype of ``coef_``. Its forward maps a tensor
            of that dtype to probabilities of shape (n_samples, n_classes). It shares no memory with the estimator.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        return as_module(self)
