"""Time of a fit, against a hand-written torch loop on MNIST and against scikit-learn on three small tables.

Every comparison runs side by side in this process and reports ratios of medians, so that it also holds on a machine
that does other work. ``benchmarks/README.md`` says how to read the tables.
"""

import argparse
import os
import platform
from statistics import median
from types import SimpleNamespace

import numpy as np
import sklearn
import torch
from measure import alternated, cpu_model, timed
from scipy.special import logsumexp
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import torchlogreg
from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg.datasets import fetch_mnist

BATCH, MOMENTUM, EPOCHS = 64, 0.9, 5
RATE = 0.02  # at 0.05 the last batches still move the test accuracy by half a percent, in either contestant
ACCURACY = 0.92  # that the estimator must reach on MNIST's test images
SHARE = 0.2  # of the loop's epoch that the estimator's epoch may take
CHUNK = 10  # fits in a row, where the contestants do not take turns at every fit
NOISE = 1e-12  # relative difference of objectives that is rounding only


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 fits of 2 epochs on MNIST, 50 fits of each small table")
    parser.add_argument(
        "--repeats", type=int, help="fits of each contestant (default: 5 on MNIST, 200 on small tables)"
    )
    parser.add_argument("--only", choices=("mnist", "small"), help="run one part")
    arguments = parser.parse_args()
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    describe_machine()
    if arguments.only != "small":
        bench_mnist(arguments.repeats or (2 if arguments.quick else 5), epochs=2 if arguments.quick else EPOCHS)
    if arguments.only != "mnist":
        bench_small(arguments.repeats or (50 if arguments.quick else 200))


def describe_machine():
    print(f"CPU: {cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__},")
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}, torchlogreg {torchlogreg.__version__}\n")


def bench_mnist(repeats, epochs):
    """Time an epoch of mini-batch SGD with momentum, of the estimator and of the usual loop."""
    data = fetch_mnist()
    threads = torch.get_num_threads()
    # The loop's epochs are alike and it has no set-up. Its threads can be so slow on a busy machine that one will do.
    contestants = {
        "`TorchSoftmaxClassifier`": (fit_estimator, threads, epochs),
        "loop of the lessons": (lesson, threads, 1),
        "loop over tensors": (loop, threads, 1),
        "loop over tensors, one thread": (loop, 1, epochs),
    }
    seconds = {name: [] for name in contestants}
    accuracy = {name: [] for name in contestants}
    whole = []
    for repeat in range(repeats):
        for name, (contestant, n_threads, n_epochs) in alternated(contestants.items(), repeat):
            torch.set_num_threads(n_threads)
            elapsed, model = timed(contestant, data, n_epochs, repeat)
            if contestant is fit_estimator:  # what an epoch adds, apart from set-up and the final evaluation
                whole.append(elapsed)
                elapsed -= timed(contestant, data, 1, repeat)[0]
                n_epochs -= 1
            torch.set_num_threads(threads)
            seconds[name].append(elapsed / n_epochs)
            accuracy[name].append(float(np.mean(model.predict(data.X_test) == data.y_test)))
    per_epoch = {name: median(times) for name, times in seconds.items()}
    ours, *loops = contestants
    print(f"\n### MNIST: {len(data.X_train):,} x {data.X_train.shape[1]} float32, batches of {BATCH}\n")
    print(f"SGD, learning rate {RATE}, momentum {MOMENTUM}; medians of {repeats} fits.\n")
    print("| contestant | threads | epochs | s per epoch | estimator's share | lowest test accuracy |")
    print("|---|---|---|---|---|---|")
    for name, (_, n_threads, n_epochs) in contestants.items():
        share = per_epoch[ours] / per_epoch[name]
        print(
            f"| {name} | {n_threads} | {n_epochs} | {per_epoch[name]:.3f} | {share:.3f} | {min(accuracy[name]):.4f} |"
        )
    print(
        f"\nThe estimator's epoch is what an epoch adds to a fit; the whole fit of {epochs} epochs took "
        f"{median(whole):.3f} s.\n"
    )
    for name in loops:
        verdict(f"an epoch takes at most {SHARE:.0%} of the {name}", per_epoch[ours] <= SHARE * per_epoch[name])
    if epochs >= EPOCHS:
        verdict(f"test accuracy is at least {ACCURACY}", min(accuracy[ours]) >= ACCURACY)


def fit_estimator(data, epochs, seed):
    model = TorchSoftmaxClassifier(
        C=np.inf,
        solver="sgd",
        batch_size=BATCH,
        learning_rate=RATE,
        momentum=MOMENTUM,
        tol=0,
        max_iter=epochs,
        random_state=seed,
        device="cpu",
    )
    return model.fit(data.X_train, data.y_train)


class Images(Dataset):
    """MNIST as the lessons hold it: bytes, made a tensor in [0, 1] image by image."""

    def __init__(self, data):
        self.images = np.round(255 * data.X_train).astype(np.uint8).reshape(-1, 28, 28)
        self.labels = data.y_train.tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]).float().div(255), self.labels[index]


def lesson(data, epochs, seed):
    """Run the loop as the lessons have it, over a Dataset of images."""
    return loop(data, epochs, seed, Images(data))


def loop(data, epochs, seed, training=None):
    """Softmax regression as tutorials write it: with the running loss and accuracy, less the printing."""
    torch.manual_seed(seed)
    training = training or TensorDataset(torch.from_numpy(data.X_train), torch.from_numpy(data.y_train))
    loader = DataLoader(training, batch_size=BATCH, shuffle=True)
    model, loss_function = nn.Linear(784, 10), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    for _ in range(epochs):
        running_loss, n_right = 0.0, 0
        for X, y in loader:
            out = model(X.flatten(1))
            loss = loss_function(out, y)
            running_loss += loss.item() * len(y)
            n_right += (out.argmax(dim=1) == y).sum().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def predict(X):
        return model(torch.from_numpy(X)).argmax(dim=1).numpy()

    return SimpleNamespace(predict=predict)


def bench_small(repeats):
    """Default fits on three standardised tables, one after the other and in chunks."""
    tables = {
        "iris": (load_iris, TorchSoftmaxClassifier),
        "wine": (load_wine, TorchSoftmaxClassifier),
        "breast_cancer": (load_breast_cancer, TorchLogisticRegression),
    }
    print(f"\n### Small tables: default fits on standardised data, medians of {repeats} fits\n")
    print("| table | order | torchlogreg, ms | scikit-learn, ms | ratio | our objective | scikit-learn's |")
    print("|---|---|---|---|---|---|---|")
    faster, lower = True, True
    for name, (load, ours) in tables.items():
        X, y = load(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        estimators = ours(), LogisticRegression()
        F_ours, F_theirs = (objective(estimator.fit(X, y), X, y) for estimator in estimators)
        lower &= F_ours <= F_theirs * (1.0 + NOISE)
        for order, chunk in (("in turn", 1), (f"chunks of {CHUNK}", CHUNK)):
            t_ours, t_theirs = (1e3 * t for t in medians(estimators, X, y, repeats, chunk))
            faster &= t_ours <= t_theirs
            print(
                f"| {name} | {order} | {t_ours:.3f} | {t_theirs:.3f} | {t_ours / t_theirs:.2f} "
                f"| {F_ours:.10f} | {F_theirs:.10f} |"
            )
    print()
    verdict("no default fit is slower than scikit-learn's", faster)
    verdict("no objective is higher than scikit-learn's", lower)


def medians(estimators, X, y, repeats, chunk):
    """Median seconds of a fit for each estimator; they take turns, `chunk` fits at a time, in alternating order."""
    times = [[] for _ in estimators]
    for turn in range(-(-repeats // chunk)):
        for estimator, own in alternated(zip(estimators, times, strict=True), turn):
            own.extend(timed(estimator.fit, X, y)[0] for _ in range(chunk))
    return [median(own) for own in times]


def objective(model, X, y):
    """F, the mean loss plus the penalty, at the coefficients of either library's model; C = 1."""
    scores = model.decision_function(X)
    logits = np.column_stack([np.zeros(len(X)), scores]) if scores.ndim == 1 else scores
    codes = np.searchsorted(model.classes_, y)
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(X)), codes]
    return losses.mean() + np.square(model.coef_).sum() / (2.0 * len(X))


def verdict(target, met):
    print(f"{'met' if met else 'MISSED'}: {target}")


if __name__ == "__main__":
    main()
