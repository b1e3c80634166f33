"""
Choose the penalty by cross-validation
======================================

C decides how strongly large coefficients are penalised. Cross-validation tries a grid of values. Here these are fifty
models of the digits (five folds, ten values of C), fitted as one batch, and a plot of the score of each value.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from torchlogreg import ScorePathDisplay, TorchSoftmaxClassifierCV

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# One penalty for all pixels makes sense if all have the same spread, so they are standardised first. The scaler sees
# all training rows, including those of the held-out fold. It does not see labels, so this hardly biases the scores.
scaler = StandardScaler().fit(X_train)
model = TorchSoftmaxClassifierCV(Cs=10, cv=5, max_iter=300)
model.fit(scaler.transform(X_train), y_train)

# %%
# The chosen C has the best mean score over the folds. The test rows were not used for that choice.
score = model.scores_[:, 0].mean(axis=0).max()
accuracy = (model.predict(scaler.transform(X_test)) == y_test).mean()
print(f"chosen C                 {model.C_:.3g}")
print(f"cross-validated log loss {-score:.3f}")
print(f"accuracy on test rows    {accuracy:.3f}")
assert model.converged_
assert accuracy > 0.95

# %%
# On the left the penalty keeps all probabilities near one tenth. On the right it has hardly any effect: the models are
# overconfident, and their mistakes cost a large loss.
display = ScorePathDisplay.from_estimator(model)
display.ax_.set_title("Digits: which C?")
