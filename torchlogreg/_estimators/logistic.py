"""The two public estimators."""

from torchlogreg._estimators.base import LinearClassifier
from torchlogreg._estimators.docstrings import SINGLE_FIT, documented


@documented(
    SINGLE_FIT,
    summary="Logistic regression for two classes.",
    notes="""
    The model is ``P(y = classes_[1] | x) = sigmoid(coef_ @ x + intercept_)``.""",
    other=":class:`TorchSoftmaxClassifier` : The same for any number of classes.",
    example="""
    >>> from sklearn.datasets import load_breast_cancer
    >>> from torchlogreg import TorchLogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = TorchLogisticRegression().fit(X, y)
    >>> model.converged_
    True
    >>> round(model.score(X, y), 3)
    0.958""",
)
class TorchLogisticRegression(LinearClassifier):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


@documented(
    SINGLE_FIT,
    summary="Softmax (multinomial logistic) regression for any number of classes.",
    notes="""
    The model is ``P(y = classes_[k] | x) = softmax(coef_ @ x + intercept_)[k]``, with one row of coefficients for each
    class. Two classes are fitted with a single logit, as :class:`~sklearn.linear_model.LogisticRegression` does; a
    softmax with two rows, both penalised, gives the same probabilities at ``C`` as the single logit at ``2 C``.""",
    other=":class:`TorchLogisticRegression` : The same for two classes only.",
    example="""
    >>> from sklearn.datasets import load_wine
    >>> from torchlogreg import TorchSoftmaxClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = TorchSoftmaxClassifier().fit(X, y)
    >>> model.coef_.shape
    (3, 13)
    >>> round(model.score(X, y), 3)
    0.994""",
)
class TorchSoftmaxClassifier(LinearClassifier):
    pass
