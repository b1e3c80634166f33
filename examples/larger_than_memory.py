"""
Fit data that does not fit in memory
====================================

The same million numbers from a memory-mapped file, from shards, from Parquet and from a ``DataLoader``. ``fit`` passes
over them block by block, about ten times at this small tolerance, and finds the same coefficients as in memory.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchlogreg import TorchLogisticRegression

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    pyarrow = None

rng = np.random.default_rng(0)
X = rng.standard_normal((50_000, 20)) @ rng.standard_normal((20, 20))
y = X[:, 0] + X[:, 1] > 4 * rng.standard_normal(len(X))
in_memory = TorchLogisticRegression(tol=1e-10).fit(X, y)
fits = {}


# %%
# A stream is any object that can be iterated over repeatedly and yields ``(X, y)`` or ``(X, y, sample_weight)``. A list
# is enough if its blocks are in memory anyway. Otherwise a class produces them.
class Shards:
    """Blocks from pairs of .npy files."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __iter__(self):
        for path in sorted(self.folder.glob("X-*.npy")):
            yield np.load(path), np.load(self.folder / path.name.replace("X", "y"))


class Parquet:
    """Batches of rows from a Parquet file. ``pip install torchlogreg[parquet]``"""

    def __init__(self, path, label, n_rows=65_536):
        self.path, self.label, self.n_rows = path, label, n_rows

    def __iter__(self):
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(self.n_rows):
                features = [name for name in batch.schema.names if name != self.label]
                columns = [batch[name].to_numpy() for name in features]
                yield np.column_stack(columns), batch[self.label].to_numpy(zero_copy_only=False)


def compare(name, *arguments):
    """Fit to any source and compare with the fit in memory."""
    fits[name] = model = TorchLogisticRegression(tol=1e-10).fit(*arguments)
    difference = abs(model.coef_ - in_memory.coef_).max()
    print(f"{name:28}{model.n_passes_:6.2f} passes over the data, coefficients differ by {difference:.0e}")
    assert difference < 1e-8
    return model


with tempfile.TemporaryDirectory() as folder:
    # %%
    # A memory-mapped file needs no class: pass it as X. (Small ones, as here, are treated as ordinary arrays.)
    np.save(f"{folder}/table.npy", X)
    compare("np.load(mmap_mode='r')", np.load(f"{folder}/table.npy", mmap_mode="r"), y)

    for k in range(5):
        np.save(f"{folder}/X-{k}.npy", X[k::5])
        np.save(f"{folder}/y-{k}.npy", y[k::5])
    compare("shards", Shards(folder))

    if pyarrow is None:
        print("Parquet: skipped, because pyarrow is not installed (pip install torchlogreg[parquet])")
    else:
        table = pyarrow.table({**{f"x{j}": column for j, column in enumerate(X.T)}, "bought": y})
        pyarrow.parquet.write_table(table, f"{folder}/table.parquet")
        compare("Parquet", Parquet(f"{folder}/table.parquet", "bought", n_rows=10_000))

# %%
# A DataLoader may shuffle, because the order of the rows does not matter for a fit that uses all of them. It does
# matter for ``solver="sgd"``, and a shuffling loader gives it a new order in every epoch.
loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=5000, shuffle=True)
model = compare("DataLoader", loader)

# %%
# The coefficients of each fit, next to those of the fit in memory.
_, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.bar(range(20), in_memory.coef_[0], color="#0072B2", alpha=0.35, label="in memory")
for (name, model), marker, size in zip(fits.items(), "osD^", (13, 9, 6, 3), strict=False):
    ax.plot(model.coef_[0], marker, ms=size, mfc="none", mew=1.5, label=name)
ax.set(xlabel="feature", ylabel="coefficient", title="The same coefficients from every source")
ax.set_xticks(range(0, 20, 2)), ax.legend()

# %%
# Predict block by block as well: only the output grows with the number of rows.
correct = sum(int((model.predict(block) == labels.numpy()).sum()) for block, labels in loader)
print(f"accuracy {correct / len(y):.3f}")
assert correct / len(y) == model.score(X, y)
