"""
When are predicted probabilities calibrated?
============================================

Of all rows to which a model gives the probability 0.8, four fifths should belong to the class. Logistic regression is
calibrated by itself if there are enough rows. With few rows and a weak penalty it is far too confident. scikit-learn's
tools for calibration work with the estimators directly.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.metrics import log_loss

from torchlogreg import TorchLogisticRegression, TorchLogisticRegressionCV

# %%
# Twenty features, and a class that is sampled with a known probability, so that the best possible log loss is known.
rng = np.random.default_rng(0)
X = rng.standard_normal((40_000, 20))
p = expit(X @ rng.standard_normal(20) * 0.4)
y = rng.random(len(X)) < p
many, few, test = slice(0, 20_000), slice(0, 200), slice(20_000, None)
weak = TorchLogisticRegression(C=1000)
sgd = TorchLogisticRegression(C=np.inf, solver="sgd", early_stopping=True, random_state=0)
models = {
    "20,000 rows": clone(weak).fit(X[many], y[many]),
    "200 rows, weak penalty": clone(weak).fit(X[few], y[few]),
    "200 rows, C chosen": TorchLogisticRegressionCV(Cs=13).fit(X[few], y[few]),
    "200 rows, calibrated": CalibratedClassifierCV(weak).fit(X[few], y[few]),
    "200 rows, sgd stopped early": sgd.fit(X[few], y[few]),
}
losses = {name: log_loss(y[test], model.predict_proba(X[test])) for name, model in models.items()}
best = log_loss(y[test], p[test])
print(f"log loss on 20,000 other rows\n{'the true probabilities':29}{best:.4f}")
print(*(f"{name:29}{loss:.4f}" for name, loss in losses.items()), sep="\n")

# %%
# With many rows the log loss is close to that of the true probabilities, without any calibration. With few rows and a
# weak penalty, more than half of the possible improvement over a coin toss (0.69) is lost, and early stopping of
# mini-batch SGD does not prevent that. A penalty chosen by cross-validated log loss recovers much of it, and so does a
# calibrator.
assert losses["20,000 rows"] - best < 0.001
assert losses["200 rows, C chosen"] < losses["200 rows, weak penalty"] - 0.05
assert losses["200 rows, calibrated"] < losses["200 rows, weak penalty"] - 0.05
assert losses["200 rows, weak penalty"] > (best + np.log(2)) / 2
assert losses["200 rows, sgd stopped early"] > losses["200 rows, C chosen"]

styles = zip(list(models)[:4], ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D", strict=True)
_, ax = plt.subplots(figsize=(6, 5), layout="constrained")
for name, colour, marker in styles:
    CalibrationDisplay.from_estimator(
        models[name], X[test], y[test], n_bins=10, ax=ax, name=name, color=colour, marker=marker
    )
ax.set(xlabel="predicted probability", ylabel="observed frequency", title="Calibration curves")
ax.legend(loc="upper left")

# %%
# The weaker the penalty, the better the loss on the training rows and, from some C on, the worse the loss on all
# others. Cross-validation does not see those other rows and still finds a good value.
Cs = np.geomspace(1e-4, 1e4, 25)
path = [TorchLogisticRegression(C=C).fit(X[few], y[few]) for C in Cs]
_, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for rows, name, style in ((few, "the 200 rows", "--"), (test, "other rows", "-")):
    ax.semilogx(Cs, [log_loss(y[rows], m.predict_proba(X[rows])) for m in path], style, c="k", lw=2, label=name)
chosen = models["200 rows, C chosen"].C_
ax.axvline(chosen, c="#009E73", ls=":", lw=2, label=f"chosen, C = {chosen:.2g}")
ax.axhline(best, c="#0072B2", ls="-.", lw=1.5, label="true probabilities")
ax.set(xlabel="C", ylabel="log loss", title="200 rows: log loss against C"), ax.legend(loc="center right")
