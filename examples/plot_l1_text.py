"""
A text classifier that needs few words
======================================

Is a docstring from SciPy or from scikit-learn? A table of words has thousands of columns, most of them zero in every
row. An L1 penalty leaves most columns out of the model, and the words that remain can be read.
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
# Both libraries are installed where this runs, so their source is the data. The names of libraries do not count as
# words; they would be too easy.
texts, labels = [], []
for name in ("scipy", "sklearn"):
    for path in sorted(Path(find_spec(name).origin).parent.rglob("*.py")):
        if "tests" not in path.parts:
            found = re.findall(r'"""(.{200,}?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
            texts += found
            labels += [name] * len(found)
texts, test_texts, y, y_test = train_test_split(texts, labels, stratify=labels, random_state=0)
names = ["numpy", "scipy", "scikit", "learn", "sklearn"]
words = TfidfVectorizer(token_pattern=r"[a-z]{3,}", stop_words=names, min_df=3, sublinear_tf=True)
X, X_test = words.fit_transform(texts), words.transform(test_texts)
print(f"{X.shape[0]} docstrings, {X.shape[1]} words, {X.nnz / X.shape[0]:.0f} of them in a docstring on average")

# %%
# The ridge penalty uses every word. Models with an L1 norm, from a strong penalty to a weak one, each start from the
# one before: ``warm_start=True``.
ridge = TorchLogisticRegression(C=10).fit(X, y)
model = TorchLogisticRegression(l1_ratio=1, warm_start=True)
path = []
for C in smallest_useful_C(X, y) * np.geomspace(1.2, 300, 10):
    model.set_params(C=C).fit(X, y)
    assert model.converged_
    path.append((np.count_nonzero(model.coef_), model.score(X_test, y_test)))
    print(f"C = {C:7.3f}: {path[-1][0]:4} words, accuracy on other docstrings {path[-1][1]:.3f}")
accuracy = ridge.score(X_test, y_test)
print(f"all {np.count_nonzero(ridge.coef_)} words, with an L2 penalty: {accuracy:.3f}")
