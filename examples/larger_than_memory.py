"""
Larger than memory
==================

The same million numbers from a file in memory-mapped form, from shards, from Parquet and from a ``DataLoader``: the fit
reads them block by block, a handful of times, and finds the coefficients that it finds in memory.
"""

import tempfile
from pathlib import Path

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


# %%
# A stream is anything that can be iterated over again and again, and yields ``(X, y)`` or ``(X, y, sample_weight)``.
# A list will do, if its blocks are in memory anyway. Otherwise a class says how to come by them.
class Shards:
    """Blocks from pairs of .npy files."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __iter__(self):
        for path in sorted(self.folder.glob("X-*.npy")):
            yield np.load(path), np.load(self.folder / path.name.replace("X", "y"))


class Parquet:
    """Batches of a Parquet file, without what it does not need of it. ``pip install torchlogreg[parquet]``"""

    def __init__(self, path, label, n_rows=65_536):
        self.path, self.label, self.n_rows = path, label, n_rows

    def __iter__(self):
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(self.n_rows):
                features = [name for name in batch.schema.names if name != self.label]
                columns = [batch[name].to_numpy() for name in features]
                yield np.column_stack(columns), batch[self.label].to_numpy(zero_copy_only=False)


def compare(name, *arguments):
    """Fit from wherever it comes and print how far from the fit in memory that is."""
    model = TorchLogisticRegression(tol=1e-10).fit(*arguments)
    difference = abs(model.coef_ - in_memory.coef_).max()
    print(f"{name:28}{model.n_passes_:6.2f} reads, coefficients differ by {difference:.0e}")
    assert difference < 1e-8
    return model


with tempfile.TemporaryDirectory() as folder:
    # %%
    # A file in memory-mapped form needs no class: pass it as X. (Small ones, as here, are arrays like any other.)
    np.save(f"{folder}/table.npy", X)
    compare("np.load(mmap_mode='r')", np.load(f"{folder}/table.npy", mmap_mode="r"), y)

    for k in range(5):
        np.save(f"{folder}/X-{k}.npy", X[k::5])
        np.save(f"{folder}/y-{k}.npy", y[k::5])
    compare("shards", Shards(folder))

    if pyarrow is None:
        print("Parquet: skipped, for pyarrow is not installed (pip install torchlogreg[parquet])")
    else:
        table = pyarrow.table({**{f"x{j}": column for j, column in enumerate(X.T)}, "bought": y})
        pyarrow.parquet.write_table(table, f"{folder}/table.parquet")
        compare("Parquet", Parquet(f"{folder}/table.parquet", "bought", n_rows=10_000))

# %%
# A DataLoader may shuffle: the order of the rows does not matter to a fit that takes them all. To ``solver="sgd"`` it
# does, and a loader that shuffles is how to give it a new order in every epoch.
loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=5000, shuffle=True)
model = compare("DataLoader", loader)

# %%
# Predictions come block by block, too: nothing but the output grows with the number of rows.
right = sum(int((model.predict(block) == labels.numpy()).sum()) for block, labels in loader)
print(f"accuracy {right / len(y):.3f}")
assert right / len(y) == model.score(X, y)
