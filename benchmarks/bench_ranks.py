"""Fits over several processes: time against one process, messages and bytes an iteration, and Spark ML as peer.

Each process gets one thread; ``benchmarks/README.md`` says how to read the tables.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from statistics import median

import numpy as np

GAP = 1e-6  # relative, of the objective, within which a peer has to come
SETUP_SECONDS, ITERATION_SECONDS = 0.015, 0.001  # that messages may add to a fit, and to an iteration
ROWS = {  # n, p, number of classes
    "tall": (500_000, 54, 2),
    "wide rows": (100_000, 300, 2),
    "ten classes": (60_000, 100, 10),
    "many rows": (4_000_000, 20, 2),
}


def rows(name, scale):
    """X, y of a row of the table."""
    n, p, K = ROWS[name]
    n = max(2000, int(n * scale))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    X[:, 1:] += 0.5 * X[:, :-1]
    y = (X @ rng.standard_normal((p, K)) / p**0.5 * 2 + rng.gumbel(size=(n, K))).argmax(axis=1)
    return X, y


def part(n, rank, size):
    """Return the slice of a rank's rows."""
    return slice(n * rank // size, n * (rank + 1) // size)


def worker(arguments):
    """Be one rank of a group: fit alone to its part of the rows, then with the others to all; rank 0 prints it."""
    import torch
    import torch.distributed as dist

    from torchlogreg import TorchSoftmaxClassifier
    from torchlogreg.distributed import shared_rows

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, arguments.threads // size))
    X, y = rows(arguments.worker, arguments.scale)
    own = part(len(X), rank, size)
    X, y = X[own].copy(), y[own].copy()

    def timed(fit):
        times = []
        for _ in range(arguments.repeats + 1):  # the first one warms up
            dist.barrier()
            start = time.perf_counter()
            model = fit()
            times.append(time.perf_counter() - start)
        return min(times[1:]), median(times[1:]), model

    alone = timed(lambda: TorchSoftmaxClassifier().fit(X, y))
    everyone = [None] * size
    dist.all_gather_object(everyone, (alone[0], alone[2].n_iter_.tolist()))
    with shared_rows() as ranks:
        best, middle, model = timed(lambda: TorchSoftmaxClassifier().fit(X, y))
        n_fits = arguments.repeats + 1
        messages, n_bytes = ranks.n_calls / n_fits, ranks.n_bytes / n_fits
    if rank == 0:
        found = {
            "seconds": best,
            "median": middle,
            "slower part alone": max(seconds for seconds, _ in everyone),
            "n_iter": int(model.n_iter_[0]),
            "n_passes": model.n_passes_,
            "objective": model.objective_,
            "messages": messages,
            "bytes": n_bytes,
        }
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def spark(arguments):
    """Spark ML on the same rows and objective, with the loosest tolerance that comes within the gap; prints it."""
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master(f"local[{arguments.threads}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "8g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    import pandas as pd

    X, y = rows(arguments.spark, arguments.scale)
    parts = []
    for k in range(arguments.threads):
        own = part(len(X), k, arguments.threads)
        table = pd.DataFrame({"x": list(X[own]), "label": y[own].astype(float)})
        parts.append(session.createDataFrame(table))
    frame = parts[0]
    for other in parts[1:]:
        frame = frame.union(other)
    frame = frame.select(array_to_vector("x").alias("features"), "label").repartition(arguments.threads).cache()
    frame.count()
    for tol in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9):
        solver = LogisticRegression(
            maxIter=1000,
            regParam=1.0 / len(X),
            standardization=False,
            tol=tol,
            family="multinomial",
        )
        if y.max() == 1:
            solver.setFamily("binomial")
        solver.fit(frame)
        start = time.perf_counter()
        model = solver.fit(frame)
        seconds = time.perf_counter() - start
        W, b = model.coefficientMatrix.toArray(), model.interceptVector.toArray()
        value = objective(X, y, W, b)
        n_iter = model.summary.totalIterations
        print(json.dumps({"seconds": seconds, "objective": value, "n_iter": n_iter, "tol": tol}), flush=True)
        if value <= arguments.optimum * (1 + GAP):
            break
    session.stop()


def objective(X, y, W, b):
    """(sum of losses + ||W||^2 / 2) / n with C = 1, coefficients (K, p), of one logit or of one for each class."""
    eta = X @ W.T + b
    if eta.shape[1] == 1:
        losses = np.logaddexp(0.0, np.where(y == 1, -eta[:, 0], eta[:, 0]))
    else:
        eta = eta - eta.max(axis=1, keepdims=True)
        losses = np.log(np.exp(eta).sum(axis=1)) - eta[np.arange(len(y)), y]
    return float((losses.sum() + 0.5 * np.square(W).sum()) / len(y))


def run(words, n_processes, arguments):
    """Return what rank 0 prints as JSON, line by line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [sys.executable, __file__, *words, "--scale", str(arguments.scale), "--repeats", str(arguments.repeats)]
    processes = []
    for rank in range(n_processes):
        group = {"RANK": rank, "WORLD_SIZE": n_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in group.items()}}
        command = [*common, "--threads", str(arguments.threads)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    lines = [process.communicate()[0].splitlines() for process in processes]
    found = [json.loads(line) for line in lines[0] if line.startswith("{")]
    if any(process.returncode for process in processes) or not found:
        raise SystemExit(f"{' '.join(words)} failed")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of all processes together")
    parser.add_argument("--without-spark", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--spark", help=argparse.SUPPRESS)
    parser.add_argument("--optimum", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    if arguments.spark:
        return spark(arguments)
    print("Seconds are the least of the repeats; `added` is what is beyond the slower part fitted alone.\n")
    print("| rows | processes | s | times as fast | added, ms | allowed, ms | iterations | passes | messages | kB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    peers = []
    for name in arguments.rows:
        one = run(["--worker", name], 1, arguments)[-1]
        for n_processes in (1, 2):
            seen = one if n_processes == 1 else run(["--worker", name], 2, arguments)[-1]
            added = 1e3 * (seen["seconds"] - seen["slower part alone"])
            allowed = 1e3 * (SETUP_SECONDS + seen["n_iter"] * ITERATION_SECONDS)
            print(
                f"| {name} | {n_processes} | {seen['seconds']:.3f} | {one['seconds'] / seen['seconds']:.2f} "
                f"| {added:.1f} | {allowed:.0f} | {seen['n_iter']} | {seen['n_passes']:.1f} | {seen['messages']:.0f} "
                f"| {seen['bytes'] / 1e3:.0f} |",
                flush=True,
            )
        peers.append((name, seen))
    if arguments.without_spark:
        return None
    try:
        import pyspark
    except ImportError:
        print("\npyspark is not installed: no peer")
        return None
    print(f"\nSpark ML {pyspark.__version__}, the same rows in memory, local[{arguments.threads}]\n")
    print("| rows | Spark ML, s | its iterations | tol | torchlogreg over 2 processes, s | times as fast |")
    print("|---|---|---|---|---|---|")
    for name, seen in peers:
        found = run(["--spark", name, "--optimum", repr(seen["objective"])], 1, arguments)[-1]
        reached = "" if found["objective"] <= seen["objective"] * (1 + GAP) else " (did not get there)"
        print(
            f"| {name} | {found['seconds']:.2f}{reached} | {found['n_iter']} | {found['tol']:g} "
            f"| {seen['seconds']:.3f} | {found['seconds'] / seen['seconds']:.1f} |",
            flush=True,
        )
    return None


if __name__ == "__main__":
    main()
