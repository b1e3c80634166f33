"""
How much penalty
================

C decides how strongly large coefficients are penalised. Cross-validation tries a grid of values: fifty models of the
digits (five folds, ten values of C), solved as one batch, and a picture of what each value is worth.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from torchlogreg import ScorePathDisplay, TorchSoftmaxClassifierCV

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# One penalty for all pixels is fair if all have the same spread, so they are standardised first. The scaler sees all
# training rows, those of the left-out fold too: it does not look at labels, so that hardly flatters the scores.
scaler = StandardScaler().fit(X_train)
model = TorchSoftmaxClassifierCV(Cs=10, cv=5, max_iter=300)
model.fit(scaler.transform(X_train), y_train)

# %%
# The chosen C is the one with the best mean over the folds. The test rows took no part in that choice.
score = model.scores_[:, 0].mean(axis=0).max()
accuracy = (model.predict(scaler.transform(X_test)) == y_test).mean()
print(f"chosen C                 {model.C_:.3g}")
print(f"cross-validated log loss {-score:.3f}")
print(f"accuracy on test rows    {accuracy:.3f}")
assert model.converged_
assert accuracy > 0.95

# %%
# On the left the penalty keeps all probabilities near one tenth. On the right it hardly acts: the models are too sure
# of themselves, and where they are wrong that is expensive.
display = ScorePathDisplay.from_estimator(model)
display.ax_.set_title("Digits: which C?")
