"""What a fit is measured by: the objective in float64, its optimum, the clock, and the memory beyond what was there."""

import ctypes
import gc
import hashlib
import os
import platform
import signal
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp, softmax
from threadpoolctl import threadpool_limits

CACHE = Path(__file__).parent / ".cache"
BLOCK = 8192  # rows that are worked on at a time
ROUNDING = 4 * np.finfo(np.float64).eps
THREADS = torch.get_num_threads()  # before any library changes it: snapml sets OpenMP's number to 1
DENSE = 2e11  # multiplications that a preconditioner may cost
AGAIN = 5.0  # seconds between attempts to stop what has used up its time


class OutOfTime(BaseException):
    """The time is used up. It passes `except Exception`, as an interrupt from the keyboard does."""


class Objective:
    """F(W) = (sum of losses + ||coefficients||^2 / (2 C)) / n in float64, W (p + 1, K) with the intercepts last."""

    def __init__(self, X, y, C):
        self.X, self.y, self.raw, self.dtype = X.astype(np.float64, copy=False), y, X, X.dtype
        self.n, self.n_classes = len(X), y.max() + 1
        self.K = 1 if self.n_classes == 2 else self.n_classes
        self.strength = 1.0 / (C * self.n)

    def relative_gap(self, coef, intercept, optimum):
        """(F - optimum) / optimum at coefficients (K, p) and intercepts (K,)."""
        W = np.vstack([coef.T, intercept]).astype(np.float64)
        return float((self.value(W) - optimum) / optimum)

    def predict(self, W):
        """Logits (n, K)."""
        return self.X @ W[:-1] + W[-1]

    def pull(self, R):
        """Adjoint of `predict`."""
        return np.vstack([self.X.T @ R, R.sum(axis=0)])

    def value(self, W, Z=None):
        """F, with the logits Z of W if they are known."""
        Z = self.predict(W) if Z is None else Z
        if self.K == 1:
            losses = np.logaddexp(0.0, Z[:, 0]) - self.y * Z[:, 0]
        else:
            losses = logsumexp(Z, axis=1) - Z[np.arange(self.n), self.y]
        return losses.mean() + 0.5 * self.strength * np.square(W[:-1]).sum()

    def penalised(self, W):
        """Gradient of the penalty, which is linear in W."""
        return self.strength * np.vstack([W[:-1], np.zeros(self.K)])

    def gradient(self, W, P):
        """Gradient of F where the probabilities are P."""
        R = P.copy()
        if self.K == 1:
            R[:, 0] -= self.y
        else:
            R[np.arange(self.n), self.y] -= 1.0
        return self.pull(R) / self.n + self.penalised(W)

    def probabilities(self, Z):
        """Probabilities (n, K) of the classes; of the second one where there are two."""
        return expit(Z) if self.K == 1 else softmax(Z, axis=1)

    def hessian_product(self, P, V):
        """Multiply V (p + 1, K) by the exact Hessian; products with X run in the precision of the data."""
        X = self.raw
        T = P * (X @ V[:-1].astype(self.dtype) + V[-1].astype(self.dtype))
        T -= P * (T if self.K == 1 else T.sum(axis=1, keepdims=True))
        pulled = np.vstack([X.T @ T, T.sum(axis=0)]).astype(np.float64)
        return pulled / self.n + self.penalised(V)

    def class_block(self, p, stride):
        """Solver with the Hessian's block of the class that has the probabilities p, from every `stride`-th row."""
        X, curvature = self.raw[::stride], (p * (1.0 - p))[::stride]
        H = np.zeros((X.shape[1] + 1,) * 2)
        for start in range(0, len(X), BLOCK):
            rows = X[start : start + BLOCK]
            block = np.column_stack([rows, np.ones(len(rows), self.dtype)])
            H += (block.T * curvature[start : start + BLOCK]) @ block
        H /= len(X)
        H.flat[: -1 : len(H) + 1] += self.strength
        return safe_solver(H)


def safe_solver(H):
    """Solver with H, scaled to a unit diagonal; a diagonal is added where rounding made H indefinite."""
    scale = 1.0 / np.sqrt(np.maximum(H.diagonal(), np.finfo(np.float64).tiny))
    scaled = H * scale * scale[:, None]
    for shift in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        try:
            factor = cho_factor(scaled + shift * np.eye(len(H)))
            return lambda b: scale * cho_solve(factor, scale * b)
        except np.linalg.LinAlgError:
            continue
    return lambda b: scale**2 * b


def optimum(X, y, C, max_iter=200):
    """Minimum of F by damped Newton in float64, and how far above the true one it can be.

    Each step is solved by conjugate gradients on the exact Hessian, preconditioned by Cholesky factors of its class
    blocks, which for two classes are the Hessian. With more columns than rows, X is replaced by the triangular factor
    of its transpose, which leaves F's minimum as it is. F is strongly convex in the coefficients with modulus 1/(C n),
    hence the bound ``C n ||gradient||^2 / 2``, valid where the intercepts are optimal.

    Returns
    -------
    value, bound, intercept_gradient : float
        F at the last iterate, the bound, and the largest absolute entry of the gradient in the intercepts.
    """
    if X.shape[1] > len(X):
        X = np.linalg.qr(X.T.astype(np.float64), mode="r").T
    objective = Objective(X, y, C)
    W = np.zeros((X.shape[1] + 1, objective.K))
    Z = objective.predict(W)
    F = objective.value(W, Z)
    for _ in range(max_iter):
        P = objective.probabilities(Z)
        G = objective.gradient(W, P)
        D = newton_direction(objective, P, G)
        S, slope = objective.predict(D), np.vdot(D, G)
        for t in 0.5 ** np.arange(40.0):
            F_new = objective.value(W + t * D, Z + t * S)
            if F_new <= F + 1e-4 * t * slope + ROUNDING * abs(F):
                break
        W, Z, F = W + t * D, Z + t * S, F_new
        if -slope <= 1e-10 * F:
            break
    G = objective.gradient(W, objective.probabilities(objective.predict(W)))
    bound = 0.5 * np.square(G[:-1]).sum() / objective.strength
    return float(objective.value(W)), float(bound), float(np.abs(G[-1]).max())


def newton_direction(objective, P, G, tol=0.1, max_iter=200):
    """-H^{-1} G by preconditioned conjugate gradients, to the relative error `tol` in the preconditioner's norm."""
    stride = int(max(1, np.ceil(objective.K * objective.n * len(G) ** 2 / DENSE)))
    P = P.astype(objective.dtype)
    solvers = [objective.class_block(p, stride) for p in P.T]

    def precondition(V):
        return np.column_stack([solve(v) for solve, v in zip(solvers, V.T, strict=True)])

    D, R = np.zeros_like(G), -G
    V = precondition(R)
    Q, rho = V, np.vdot(R, V)
    start = rho
    for _ in range(max_iter):
        HQ = objective.hessian_product(P, Q)
        step = rho / np.vdot(Q, HQ)
        D, R = D + step * Q, R - step * HQ
        V = precondition(R)
        rho, before = np.vdot(R, V), rho
        if not rho > tol**2 * start:
            break
        Q = V + (rho / before) * Q
    return D


def cached_optimum(X, y, C):
    """Like `optimum`, kept in a file under the data's hash."""
    digest = hashlib.blake2b(repr((X.shape, X.dtype.str, C)).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(X))
    digest.update(np.ascontiguousarray(y))
    path = CACHE / f"{digest.hexdigest()}.txt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        path.write_text(" ".join(repr(number) for number in optimum(X, y, C)))
    return tuple(float(word) for word in path.read_text().split())


def timed(function, *arguments):
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def alternated(contestants, turn):
    """Return the contestants, in reverse every other turn."""
    return list(contestants)[:: -1 if turn % 2 else 1]


@contextmanager
def threads(number):
    """Limit BLAS, OpenMP and torch to so many threads; None means the default, also where a library left another."""
    torch.set_num_threads(number or THREADS)
    try:
        with threadpool_limits(number) if number else nullcontext():
            yield
    finally:
        torch.set_num_threads(THREADS)


@contextmanager
def time_limit(seconds):
    """Raise `OutOfTime` here after so many seconds; where there are no alarms, work goes on to its end."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def of_device(device):
    """Return torch's module for devices of this kind, such as torch.cuda; None for the CPU."""
    kind = torch.device(device).type
    return None if kind == "cpu" else getattr(torch, kind)


def synchronize(device):
    """Wait for the device to be done with what it was given."""
    module = of_device(device)
    if module is not None:
        module.synchronize()


@contextmanager
def peak_memory(device):
    """Yield a list that receives the largest number of bytes held beyond those at the start; nothing if unknown."""
    peak = []
    module = of_device(device)
    if module is not None:
        known = hasattr(module, "max_memory_allocated")  # MPS keeps no such number
        if known:
            module.reset_peak_memory_stats()
            before = module.memory_allocated()
        yield peak
        if known:
            peak.append(module.max_memory_allocated() - before)
        return
    known = reset_high_water_mark()
    before = status("VmRSS") if known else 0
    yield peak
    if known:
        peak.append(max(0, status("VmHWM") - before))


def reset_high_water_mark():
    """Have Linux count this process's peak memory from now on; False where that is not possible."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status(field):
    """Bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def machine(device, packages):
    """Describe the machine and the versions of what runs on it, as a dict of strings."""
    description = {
        "CPU": f"{cpu_model()}, {os.cpu_count()} cores, {THREADS} torch threads",
        "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "Packages": ", ".join(f"{name} {installed(name)}" for name in packages if installed(name)),
    }
    module = of_device(device)
    if module is not None:
        name = getattr(module, "get_device_name", lambda: platform.processor())()  # Apple's GPU has the name of its CPU
        description["Device"] = f"{name}, CUDA {torch.version.cuda}" if module is torch.cuda else name
    return description


def installed(package):
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model():
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
