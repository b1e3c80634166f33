"""Fits of rows on disk: passes over the data, time against plain reading, and resident memory.

It writes float32 rows to a temporary folder, once as one .npy file, and once as shards. Every fit runs in a process of
its own; ``benchmarks/README.md`` says how to read the table.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

N_FEATURES, SHARD, PIECE = 50, 100_000, 2**24  # the last in bytes
COLD = "shards, from the disk each time"
MOST_PASSES, SLOWEST, MEGABYTES = 8, 1.5, 600  # what is to hold


class Shards:
    """Blocks from a folder: this is all that a stream needs to be, but for `cold`."""

    def __init__(self, folder, cold):
        self.paths, self.cold = sorted(Path(folder).glob("X-*.npy")), cold

    def __iter__(self):
        for path in self.paths:
            if self.cold:
                forget(path)
            yield np.load(path), np.load(path.with_name(path.name.replace("X", "y")))


def forget(path):
    """Drop a file from the system's cache, so that it comes from the disk again."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(folder, n):
    """Rows of correlated features with labels from a logistic model."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((N_FEATURES, N_FEATURES), dtype=np.float32) / N_FEATURES**0.5
    w = rng.standard_normal(N_FEATURES, dtype=np.float32) / N_FEATURES**0.5
    X = np.lib.format.open_memmap(folder / "X.npy", mode="w+", dtype=np.float32, shape=(n, N_FEATURES))
    y = np.lib.format.open_memmap(folder / "y.npy", mode="w+", dtype=np.int8, shape=(n,))
    for k, start in enumerate(range(0, n, SHARD)):
        m = min(SHARD, n - start)
        rows = rng.standard_normal((m, N_FEATURES), dtype=np.float32)
        rows = rows @ mixing + rows
        labels = (rng.random(m, dtype=np.float32) < 1 / (1 + np.exp(-rows @ w))).astype(np.int8)
        X[start : start + m], y[start : start + m] = rows, labels
        np.save(folder / f"X-{k:05}.npy", rows)
        np.save(folder / f"y-{k:05}.npy", labels)
    X.flush()


def reading(paths, cold):
    """Seconds to read files from beginning to end, into one buffer."""
    for path in paths if cold else ():
        forget(path)
    buffer = bytearray(PIECE)
    start = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def peak():
    """Largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had before it became this process
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1000 if sys.platform != "darwin" else 1e6)


def fit(folder, kind):
    """One fit; what it took, as JSON."""
    from torchlogreg import TorchLogisticRegression

    folder, before = Path(folder), peak()
    if kind == "memmap":
        arguments = np.load(folder / "X.npy", mmap_mode="r"), np.load(folder / "y.npy")
    else:
        arguments = (Shards(folder, cold=kind == COLD),)
    start = time.perf_counter()
    model = TorchLogisticRegression().fit(*arguments)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "passes": model.n_passes_,
                "converged": model.converged_,
                "objective": model.objective_,
                "before": before,
                "peak": peak(),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=20_000_000, help="each takes 400 bytes of disk (default: 20 million)"
    )
    parser.add_argument("--folder", help="where to make the temporary folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(*arguments.fit)
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            bench(Path(folder), arguments.rows, arguments.repeats)


def bench(folder, n, repeats):
    write(folder, n)
    os.sync()  # what is not on the disk yet cannot be dropped
    shards = sorted(folder.glob("X-*.npy"))
    files = {"memmap": [folder / "X.npy"], "shards": shards, COLD: shards}
    print(f"{n:,} x {N_FEATURES} float32, {n * N_FEATURES * 4 / 1e9:.2f} GB; medians of {repeats}\n")
    print("| data | reading the files, s | fit, s | passes | pass / reading | peak MB | before the fit | goals |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, paths in files.items():
        runs, plain_seconds = [], []
        for _ in range(repeats):
            plain_seconds.append(reading(paths, kind == COLD))
            command = [sys.executable, __file__, "--fit", str(folder), kind]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        seconds, plain = median(run["seconds"] for run in runs), median(plain_seconds)
        most, ratio = runs[0]["passes"], seconds / (plain * runs[0]["passes"])
        megabytes = max(run["peak"] for run in runs)
        met = runs[0]["converged"] and most <= MOST_PASSES and ratio <= SLOWEST and megabytes < MEGABYTES
        print(
            f"| {kind} | {plain:.2f} | {seconds:.2f} | {most:.2f} | {ratio:.2f} | {megabytes:.0f} "
            f"| {max(run['before'] for run in runs):.0f} | {'met' if met else 'NOT met'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
