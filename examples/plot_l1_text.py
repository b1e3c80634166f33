"""
A text classifier that needs few words
======================================

Is a docstring from SciPy or from scikit-learn? A table of words has thousands of columns, nearly all of them zero in
any one row. An L1 penalty leaves most words out of the model, and those that remain can be read.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

from torchlogreg import CoefficientDisplay, TorchLogisticRegression, smallest_useful_C

# %%
# Both libraries are installed wherever this runs, so their source is the data. Names of libraries do not count as
# words, which would be too easy.
texts, labels = [], []
for name in ("scipy", "sklearn"):
    for path in sorted(Path(find_spec(name).origin).parent.rglob("*.py")):
        if "tests" not in path.parts:
            source = path.read_text(encoding="utf-8")
            texts += [text for text in re.findall('"""(.*?)"""', source, re.DOTALL) if len(text) > 200]
    labels += [name] * (len(texts) - len(labels))
texts, test_texts, y, y_test = train_test_split(texts, labels, stratify=labels, random_state=0)
names = ["numpy", "scipy", "scikit", "learn", "sklearn"]
words = TfidfVectorizer(token_pattern="[a-z]{3,}", stop_words=names, min_df=3, sublinear_tf=True)
X, X_test = words.fit_transform(texts), words.transform(test_texts)
print(f"{X.shape[0]} docstrings, {X.shape[1]} words, {X.nnz / X.shape[0]:.0f} of them in a docstring on average")

# %%
# From a strong L1 penalty to a weak one. ``warm_start=True`` makes each fit begin at the model before.
model = TorchLogisticRegression(l1_ratio=1, warm_start=True)
n_words, accuracies = [], []
for C in smallest_useful_C(X, y) * np.geomspace(1.5, 100, 9):
    model.set_params(C=C).fit(X, y)
    assert model.converged_
    n_words.append(np.count_nonzero(model.coef_))
    accuracies.append(model.score(X_test, y_test))
    print(f"C = {C:6.3f}: {n_words[-1]:4} words, accuracy on other docstrings {accuracies[-1]:.3f}")

# %%
# An L2 penalty keeps every word, and is about as accurate.
ridge = TorchLogisticRegression(C=10).fit(X, y)
all_words, accuracy = np.count_nonzero(ridge.coef_), ridge.score(X_test, y_test)
print(f"L2 penalty: {all_words} words, accuracy on other docstrings {accuracy:.3f}")
assert abs(accuracy - max(accuracies)) < 0.02
_, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.semilogx(n_words, accuracies, "o-", color="#0072B2", label="L1 penalty")
ax.plot(all_words, accuracy, "s", color="#D55E00", label="L2 penalty")
ax.set(xlabel="words in the model", ylabel="accuracy on other docstrings", title="SciPy or scikit-learn?"), ax.legend()

# %%
# The words with the largest coefficients in a model of a hundred or so. The positive ones speak for scikit-learn.
few = TorchLogisticRegression(l1_ratio=1, C=0.7).fit(X, y)
print(f"{np.count_nonzero(few.coef_)} words, accuracy {few.score(X_test, y_test):.3f}")
CoefficientDisplay.from_estimator(few, feature_names=words.get_feature_names_out())
