"""Plots of fitted models in the style of scikit-learn's displays, one display a file."""

from torchlogreg._displays.coefficient_path import CoefficientPathDisplay
from torchlogreg._displays.coefficients import CoefficientDisplay
from torchlogreg._displays.loss_curve import LossCurveDisplay
from torchlogreg._displays.probability_curve import ProbabilityCurveDisplay
from torchlogreg._displays.score_path import ScorePathDisplay

__all__ = [
    "CoefficientDisplay",
    "CoefficientPathDisplay",
    "LossCurveDisplay",
    "ProbabilityCurveDisplay",
    "ScorePathDisplay",
]
