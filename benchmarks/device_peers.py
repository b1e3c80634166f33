"""The parts of `on_device.py` that compare: solvers at equal objective, and epochs of SGD."""

from functools import partial

import numpy as np
import torch
from cell import TARGETS, Cell, first
from device_parts import mnist, planted
from measure import Objective, timed
from peers import AUTO, Contestant, Fit, as_tensors, device_contestants, host, linear, mean_loss, ours, targets_of
from torch.utils.data import DataLoader, TensorDataset

from torchlogreg import TorchSoftmaxClassifier

BATCH, RATE, MOMENTUM = 64, 0.02, 0.9  # of the lessons' loop
TABLE = {False: (100_000, 54, 2), True: (500, 8, 2)}  # rows, features, classes
TARGET = 1e-6  # relative gap to which the search for the least effort goes
BUDGET = {False: 4.0, True: 0.02}  # seconds for which a contestant climbs
NEEDS = 10.0  # seconds for all that is done with a contestant


# --- The lessons' loop.


def batches_of_loader(X, y, device):
    """As the lessons have it: rows of the host, shuffled and put together one by one, each batch sent to the device."""
    for rows, labels in DataLoader(TensorDataset(X, y), batch_size=BATCH, shuffle=True):
        yield rows.to(device), labels.to(device)


def batches_there(X, y, device):
    """Do the least by hand: all rows are on the device, and each batch is one gather."""
    for index in torch.randperm(len(y), device=device).split(BATCH):
        yield X[index], y[index]


def fit_lesson(X, y, C, effort, device, batches):
    """Run so many epochs of plain SGD with momentum, with the running loss and accuracy that lessons print."""
    torch.manual_seed(0)
    if isinstance(X, np.ndarray):
        X, y = torch.from_numpy(X), torch.from_numpy(y)
    model = linear(X[:1].to(device), y)
    decay = {"params": [model.weight], "weight_decay": 1.0 / (C * len(y))}  # the gradient of the penalty
    optimiser = torch.optim.SGD([decay, {"params": [model.bias]}], lr=RATE, momentum=MOMENTUM)
    for _ in range(effort):
        running_loss, n_right = 0.0, 0
        for rows, labels in batches(X, y, device):
            out = model(rows)
            loss = mean_loss(out, targets_of(model, labels))
            running_loss += loss.item() * len(labels)
            predicted = out.argmax(dim=1) if out.shape[1] > 1 else out[:, 0] > 0
            n_right += (predicted == labels).sum().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Fit(host(model.weight), host(model.bias), effort, exact=True)


def lessons(device):
    """Return the loop as a contestant, from both places."""
    loader = partial(fit_lesson, device=device, batches=batches_of_loader)
    gather = partial(fit_lesson, device=device, batches=batches_there)
    return [
        Contestant("lessons' loop, from host", loader, package="torch", module="torch", threads=(None,)),
        Contestant("lessons' loop, resident", gather, partial(as_tensors, device=device), "torch", "torch"),
    ]


# --- Peers at equal objective.


def peers(run):
    """Every contestant on a table with two classes and on MNIST, each in a step of its own; as a toy, on the table."""
    for name, data in (("table", table), ("MNIST", mnist))[: 1 if run.toy else 2]:
        problem, cells = {}, {}
        run.step(f"{name}: the optimum", 20, optimum, data, problem)
        if not problem:
            continue
        for contestant in [*device_contestants(run.device), *lessons(run.device)]:
            run.step(f"{name}: {contestant.name}", NEEDS, compete, contestant, problem, cells)
        run.step(f"{name}: at equal objective", 0, at_equal_objective, cells)


def table(toy):
    return (tensor.numpy() for tensor in planted(TABLE[toy], torch.float32, "cpu"))


def optimum(run, data, problem, C=1.0):
    """Find the least objective by a fit of ours in float64; its error is bounded by code that is not ours."""
    X, y = data(run.toy)
    objective = Objective(X, y, C)
    device = "cpu" if run.device == "mps" else run.device  # which has no float64
    model = ours(y)(C=C, tol=1e-9, max_iter=500, device=device).fit(X.astype(np.float64), y)
    W = np.vstack([model.coef_.T, model.intercept_])
    Z = objective.predict(W)
    value, gradient = float(objective.value(W, Z)), objective.gradient(W, objective.probabilities(Z))
    problem.update(X=X, y=y, C=C, objective=objective, optimum=value)
    bound = 0.5 * float(np.square(gradient[:-1]).sum()) / objective.strength
    return {"n": len(X), "p": X.shape[1], "C": C, "optimum": value, "relative_bound": bound / value}


def compete(run, contestant, problem, cells):
    """Relative gaps and seconds of a contestant, with the least effort for the target."""
    cell = Cell(contestant, **problem, budget=BUDGET[run.toy], device=run.device)
    cell.explore()
    cell.bisect(TARGET)
    if effort := first(cell.points, TARGET):
        cell.repeat(effort)
    cells[contestant.name] = cell
    reached = {f"{gap:g}": cell.seconds(gap) for gap in TARGETS if first(cell.points, gap)}
    return {"seconds_to_gap": reached, "least_gap": least_gap(cell), "points": len(cell.points)}


def least_gap(cell):
    return min(point["gap"] for point in cell.points.values())


def at_equal_objective(_, cells):
    """For each peer, its seconds and ours to the target, or to the least gap that the peer reached."""
    out = {}
    for name, cell in cells.items():
        own = cells.get(f"{AUTO}, {name.split(', ')[-1]}")
        if own is None or cell is own:
            continue
        gap = max(TARGET, least_gap(cell))
        theirs, mine = cell.seconds(gap), own.seconds(gap)
        slower = theirs / mine if np.isfinite(mine) else None  # ours had too little time to come as far
        out[name] = {"gap": gap, "seconds": theirs, "ours": mine, "times_slower": slower}
    return out


# --- An epoch of SGD.


def epoch(run):
    """Time epochs of batches of 64 on MNIST, ours and the lessons'."""
    options = {"solver": "sgd", "batch_size": BATCH, "learning_rate": RATE, "momentum": MOMENTUM, "tol": 0}

    def fit_sgd(X, y, C, effort):
        model = TorchSoftmaxClassifier(C=C, max_iter=effort, random_state=0, device=run.device, **options).fit(X, y)
        return Fit(model.coef_, model.intercept_)

    resident = partial(as_tensors, device=run.device)
    for contestant in [
        Contestant(f"{AUTO.split()[0]} sgd, resident", fit_sgd, resident),
        Contestant(f"{AUTO.split()[0]} sgd, from host", fit_sgd),
        *lessons(run.device),
    ]:
        run.step(contestant.name, 12, seconds_of_epoch, contestant)


def seconds_of_epoch(run, contestant):
    """Say what an epoch adds to a fit, the whole fit, and the accuracy on the training images."""
    X, y = mnist(run.toy)
    data, more = contestant.prepare(X, y), 1 if run.toy else 2
    contestant.fit(*(rows[: 10 * BATCH] for rows in data), np.inf, 1)  # loads its kernels
    one, _ = timed(contestant.fit, *data, np.inf, 1)
    several, fit = timed(contestant.fit, *data, np.inf, 1 + more)
    accuracy = float(np.mean((X @ fit.coef.T + fit.intercept).argmax(axis=1) == y))
    return {"seconds_per_epoch": (several - one) / more, "fit_seconds": several, "training_accuracy": accuracy}
