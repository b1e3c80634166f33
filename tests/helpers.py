"""What several test files share: tables, random problems, streams, what mathematics says of a fit, other processes."""

import atexit
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.preprocessing import StandardScaler

from torchlogreg._data.dense import DenseDesign
from torchlogreg._objective.losses import Binomial, Multinomial
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet, Strengths
from torchlogreg._solvers import SOLVERS as TABLE

# Solvers by name, from the package's own table: a new one is in all tests that ask for these. "auto" is none of them:
# it stands for one of the others, and `test_solvers.py` says for which. Nor is "prox-newton", which without kinks and
# bounds is L-BFGS: what it is for has tests of its own.
SOLVERS = sorted(set(TABLE) - {"prox-newton"})
DETERMINISTIC = [name for name in SOLVERS if not TABLE[name].stochastic]
LOSSES = [Binomial(), Multinomial(3)]
F64 = torch.float64

needs_data = pytest.mark.skipif(
    "TORCHLOGREG_DATA" not in os.environ, reason="TORCHLOGREG_DATA names no folder with MNIST and the diabetes table"
)

# Tests that measure or kill processes: never two at once.
serial = pytest.mark.serial

# Tables

LOADERS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}


@cache
def table(name, scaled, binary=False):
    """A table of scikit-learn's; `binary` keeps the last two classes."""
    X, y = LOADERS[name](return_X_y=True)
    if binary:
        keep = y >= y.max() - 1
        X, y = X[keep], y[keep]
    if scaled:
        X = StandardScaler().fit_transform(X)
    X.flags.writeable = y.flags.writeable = False
    return X, y


# What mathematics says of a fit


def objective(estimator, X, y, sample_weight=None):
    """F at the coefficients of a fitted linear classifier, from its definition, in float64."""
    coef, intercept = np.float64(estimator.coef_), np.float64(estimator.intercept_)
    s = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    eta = np.asarray(X, dtype=np.float64) @ coef.T + intercept
    codes = np.searchsorted(estimator.classes_, y)
    if len(estimator.classes_) == 2:
        losses = np.logaddexp(0, eta[:, 0]) - codes * eta[:, 0]
    else:
        losses = np.logaddexp.reduce(eta, axis=1) - eta[np.arange(len(y)), codes]
    ratio = getattr(estimator, "l1_ratio", None) or 0.0
    penalty = ratio * np.abs(coef).sum() + (1 - ratio) * (coef**2).sum() / 2
    return (s @ losses + penalty / estimator.C) / s.sum()


def gradient_norm(estimator, X, y):
    """max|gradient of F| at the coefficients of a fitted estimator, from its definition, in float64."""
    X, coef = np.asarray(X, dtype=np.float64), np.float64(estimator.coef_)
    eta = X @ coef.T + np.float64(estimator.intercept_)
    onehot = y[:, None] == estimator.classes_
    if len(coef) == 1:
        residual = 1 / (1 + np.exp(-eta)) - onehot[:, 1:]
    else:
        e = np.exp(eta - eta.max(axis=1, keepdims=True))
        residual = e / e.sum(axis=1, keepdims=True) - onehot
    gradient = (residual.T @ X + coef / estimator.C) / len(y)
    both = [gradient.ravel(), residual.mean(axis=0)] if estimator.fit_intercept else [gradient.ravel()]
    return np.abs(np.concatenate(both)).max()


# Random problems


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def objective_of(design, loss, l2=1.0):
    """The objective over these rows, with an L2 penalty of that strength on all coefficients but the intercepts."""
    penalty = ElasticNet.of(
        Strengths(0.0, l2), design.n_features, intercept=design.intercept, accumulation=design.accumulation
    )
    return Objective.of(design, loss, penalty)


def dense_design(X, y, weight=None, intercept=True):
    """NumPy's arrays as a design; without weights every row has one of 1."""
    weight = np.ones((len(X), 1)) if weight is None else weight
    X, y, weight = (
        torch.from_numpy(np.asarray(array).copy()) for array in (X, y, weight)
    )  # copies, for a table is read-only
    return DenseDesign(X, y, weight, intercept=intercept)


def random_design(n=50, p=4, B=2, intercept=True, n_classes=3, loss=None, order="C"):
    g = generator()
    X = torch.randn(n, p, generator=g, dtype=F64)
    X = X if order == "C" else X.T.contiguous().T
    codes = torch.randint(n_classes, (n,), generator=g)
    weight = torch.rand(n, B, generator=g, dtype=F64)
    y = codes if loss is None else loss.targets(codes, F64)
    return DenseDesign(X, y, weight, intercept=intercept)


def random_objective(loss, B=1, l2=0.3, n=50, p=4, intercept=True):
    return objective_of(random_design(n, p, B, intercept, max(2, loss.n_logits), loss), loss, l2)


# SGD by autograd, what the closed-form steps are held to


def mini_batch(objective, W, index):
    """The objective (B,) estimated on the rows at `index`, differentiable; its mean over the batches is F."""
    rows = objective.design.take(index)
    value = objective.loss.value(rows.matvec(W), rows.y)
    scale = objective.design.shape[0] / rows.shape[0]
    return scale * (rows.weight * value).sum(dim=0) + objective.penalty.value(W)


def autograd_epoch(solver, objective, W, velocity, rate, generator):
    """`SGD.epoch` by autograd."""
    n, total = objective.design.shape[0], 0.0
    order = torch.randperm(n, generator=generator) if (solver.batch_size or n) < n else torch.arange(n)
    for index in order.split(solver.batch_size or n):
        leaf = W.detach().requires_grad_()
        value = mini_batch(objective, leaf, index)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        velocity.mul_(solver.momentum).add_(gradient)
        W.sub_(gradient.add(velocity, alpha=solver.momentum) if solver.nesterov else velocity, alpha=rate)
        total = total + value.detach() * (len(index) / n)
    return total


def states(solver, objective, W):
    """The states of a solver from W on, without end."""
    solver = solver.specialised(objective, W)
    state = solver.init(objective, W)
    while True:
        yield state
        state = solver.step(objective, state)


# Streams


class Blocks:
    """A stream of uneven blocks that counts how often it is read, and may change from its second pass on."""

    def __init__(self, X, y, weight=None, size=1500, order=None, later=None):
        self.arrays, self.size, self.order, self.later = (X, y, weight), size, order, later
        self.n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        X, y, weight = self.arrays
        if self.later is not None and self.n_passes > 1:
            X, y, weight = self.later(X, y, weight)
        index = np.arange(len(X)) if self.order is None else self.order.permutation(len(X))
        start, k = 0, 0
        while start < len(X):
            part = index[start : start + self.size - self.size // 40 * (k % 3)]
            yield (X[part], y[part]) if weight is None else (X[part], y[part], weight[part])
            start, k = start + len(part), k + 1


def halves(*arrays):
    """The arrays as a stream of two blocks."""
    middle = len(arrays[0]) // 2
    return [tuple(array[part] for array in arrays) for part in (slice(middle), slice(middle, None))]


def as_file(X, path, **options):
    """A memory-mapped file with the numbers of X."""
    array = np.memmap(path, dtype=X.dtype, mode="w+", shape=X.shape, **options)
    array[:] = X
    array.flush()
    return np.memmap(path, dtype=X.dtype, mode="r", shape=X.shape, **options)


# Callbacks


class Callback:
    """A callback of scikit-learn's protocol that does nothing; the tests' own override what they need."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


class Interrupt(Callback):
    """Ends a fit by force when a task of that name has ended, as soon as `after` of them have."""

    def __init__(self, task, after=1, error=KeyboardInterrupt):
        self.task, self.after, self.error, self.n_ended = task, after, error, 0

    def setup(self, estimator, context):
        self.n_ended = 0

    def on_fit_task_end(self, estimator, context):
        self.n_ended += context.task_name == self.task
        if context.task_name == self.task and self.n_ended >= self.after:
            raise self.error


# Threads


def in_turn(*steps):
    """Run (thread, function) pairs one after the other, each thread by its name and alive until all are done."""
    pools = {name: ThreadPoolExecutor(1) for name, _ in steps}
    try:
        return [pools[name].submit(function).result() for name, function in steps]
    finally:
        for pool in pools.values():
            pool.shutdown()


# Other processes

# For processes whose memory is measured: the C library gives freed arrays back at once. By default it moves the size
# from which on it does so, and the same work takes 7 MB beside X in one run and 49 MB in another.
STEADY_HEAP = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}

# Importing torch and scikit-learn takes longer than most of what a test asks of a process of its own. So one process
# imports them and forks a child for each program; it never computes, so that a child may do whatever a new process may.
SERVER = """
import json, os, runpy, sys, warnings
import matplotlib.pyplot, pandas, sklearn.datasets, sklearn.model_selection
import torchlogreg.callbacks, torchlogreg.datasets

for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(job[name], os.O_WRONLY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["folder"])
        sys.argv = [job["path"], *job["arguments"]]
        warnings.resetwarnings()
        warnings.simplefilter(job["warnings"])
        runpy.run_path(job["path"], run_name="__main__")
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class _Server:
    """The process that forks, and its answers."""

    def __init__(self):
        command = [sys.executable, "-W", "error", "-c", SERVER]
        environment = {**os.environ, "MPLBACKEND": "Agg"}
        environment.pop("SCIPY_ARRAY_API")  # as in a process that no test has prepared
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process, self.answers = subprocess.Popen(command, env=environment, **pipes), queue.Queue()
        atexit.register(self.process.stdin.close)  # at which it ends
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.answers.put(int(line))

    def run(self, job, timeout):
        """The exit code of a program."""
        print(json.dumps(job), file=self.process.stdin, flush=True)
        pid = self.answers.get(timeout=120)
        try:
            return self.answers.get(timeout=timeout)
        except queue.Empty:
            os.kill(pid, 9)
            self.answers.get(timeout=60)
            raise TimeoutError(f"{job['path']} took more than {timeout} seconds") from None


server = cache(_Server)


def run_program(program, *arguments, folder=None, warnings="error", timeout=300):
    """What a Python program, its text or its path, prints in a process of its own, where that folder is the current."""
    with tempfile.TemporaryDirectory() as place:
        folder = folder or place
        out, err, path = (Path(place) / name for name in ("out", "err", "program.py"))
        out.touch(), err.touch()
        if isinstance(program, Path):
            path = program
        else:
            path.write_text(program, encoding="utf-8")
        if hasattr(os, "fork"):
            job = {"path": str(path), "arguments": [*map(str, arguments)], "folder": str(folder), "warnings": warnings}
            code = server().run({**job, "out": str(out), "err": str(err)}, timeout)
        else:
            command, environment = [sys.executable, "-W", warnings, str(path)], {**os.environ, "MPLBACKEND": "Agg"}
            with out.open("w") as o, err.open("w") as e:
                code = subprocess.run(
                    [*command, *map(str, arguments)], cwd=folder, env=environment, stdout=o, stderr=e, timeout=timeout
                ).returncode
        printed = out.read_text(encoding="utf-8")
        assert code == 0, printed + err.read_text(encoding="utf-8")
        return printed
