"""The choice of device="auto": a rule on sizes, asked before any device is, and the reason that a fit gives."""

import math
import os
import pickle
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pretend
import pytest
import torch
from helpers import table
from scipy import sparse
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import (
    TorchGridSearchCV,
    TorchLogisticRegression,
    TorchLogisticRegressionCV,
    TorchSoftmaxClassifier,
    TorchSoftmaxClassifierCV,
)
from torchlogreg._data import tuning
from torchlogreg._data.design import Access
from torchlogreg._data.device import choose_device
from torchlogreg._data.device_cost import Rates, Table, Work

pytestmark = pytest.mark.skipif(
    os.environ.get("TORCHLOGREG_PRETEND", "") not in ("", "everywhere"), reason="every fit runs on a pretend device"
)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "devices.md"
X, Y = table("breast_cancer", True)
X3, Y3 = table("wine", True)
BLOCKS = [(X[i : i + 100], Y[i : i + 100]) for i in range(0, len(X), 100)]
SMALL = X[:60], Y[:60]  # of two classes
NOTHING = {"HOST_CALL_SECONDS": 0.0, "LAUNCH_SECONDS": 0.0}  # no calls, so that sizes alone decide
EVERYTHING_PAYS = {"START_SECONDS": -math.inf}
PRETEND = pytest.mark.skipif(bool(pretend.why_not()), reason=pretend.why_not() or "it can be used")


@contextmanager
def tuned(**values):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(tuning, name, value)
        yield


# --- The rule.

ACCESS = {
    "products": Access(),
    "second moments": Access(by_products=False),
    "mini-batches": Access(in_random_order=True, by_products=False, batch_rows=32),
    "all rows": Access(in_random_order=True, by_products=False),
    "one pass": Access(n_passes=1),
}


def work(access, n=1000, p=20, K=1, B=1, size=8, streamed=False):
    return Work.of(Table((n, p), K, size, size, streamed), access._replace(n_models=B))


def test_the_work_of_a_fit_by_hand():
    n, p, K, B, passes = 1000, 20, 3, 5, tuning.ASSUMED_PASSES
    of_batch = work(Access(), n, p, K, B)
    assert of_batch.n_bytes == passes * n * (2 * p + 4 * K * B) * 8
    assert of_batch.flops == passes * 4 * n * p * K * B
    assert of_batch.n_calls == passes * (130 + 16)
    assert of_batch.n_copied == n * p * 8
    assert work(Access(), n, p, K, B, streamed=True).n_copied == passes * n * p * 8
    assert work(Access(n_passes=1), n, p, K, B) == Work(*(v / passes for v in of_batch[:3]), n * p * 8, 8)
    second_moments = work(Access(by_products=False), n, p, K, B)
    assert second_moments.flops == of_batch.flops + passes * 2 * n * (p * K) ** 2 * B
    batches = work(Access(in_random_order=True, batch_rows=32), n, p, K)
    assert batches.n_calls == passes * (130 + 16 * n / 32)
    half = Work.of(Table((n, p), K, 4, 2), Access())  # half precision, multiplied in float32
    assert (half.n_copied, half.n_bytes) == (n * p * 2, passes * n * (2 * p + 4 * K) * 4)


def test_seconds_by_hand():
    spent = Work(n_bytes=600.0, flops=80.0, n_calls=5.0, n_copied=30.0, number_bytes=8)
    rates = Rates(bytes_per_s=100.0, flops_per_s={4: 1.0, 8: 10.0}, call_s=0.5, bus_bytes_per_s=15.0, start_s=7.0)
    assert spent.seconds(rates) == 6.0 + 8.0 + 2.5 + 2.0 + 7.0
    assert spent.seconds(rates._replace(bus_bytes_per_s=math.inf, start_s=0.0)) == 16.5
    host = Rates(100.0, {8: 10.0}, 0.5)
    assert not spent.pays(host, rates)
    assert not spent.pays(host, host)  # the host, where it makes no difference
    assert spent.pays(host, host._replace(bytes_per_s=101.0))


@pytest.mark.parametrize("kind", ACCESS)
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_pays_still_pays_if_there_is_more_of_it(kind, size, streamed):
    rng = np.random.default_rng(0)
    for _ in range(100):
        sizes = {"n": 10 ** rng.uniform(2, 7), "p": 10 ** rng.uniform(0.5, 3.5), "K": int(10 ** rng.uniform(0, 3))}
        sizes["B"] = int(10 ** rng.uniform(0, 2))
        for name in sizes:
            if name == "B" and ACCESS[kind].in_random_order:
                continue  # such fits are not batched
            pays, seconds = [], []
            for factor in 4 ** np.arange(12):
                more = work(ACCESS[kind], size=size, streamed=streamed, **{**sizes, name: sizes[name] * factor})
                pays.append(more.pays())
                seconds.append((more.seconds(Rates.of_host()), more.seconds(Rates.of_accelerator())))
            assert pays == sorted(pays)
            assert seconds == sorted(seconds)


@pytest.mark.parametrize("size", [4, 8])
def test_the_threshold_is_where_both_sides_take_as_long(size):
    with tuned(**NOTHING):
        one = work(Access(), n=1, p=100, size=size)
        host, device = Rates.of_host(), Rates.of_accelerator()
        saved = one.seconds(host) - (one.seconds(device) - device.start_s)  # by a row
        n = device.start_s / saved
        assert not work(Access(), n=n * (1 - 1e-9), p=100, size=size).pays()
        assert work(Access(), n=n * (1 + 1e-9), p=100, size=size).pays()


def test_what_decides():
    assert work(Access(), n=500_000, p=100).pays()
    assert not work(Access(), n=300_000, p=100).pays()
    assert work(Access(), n=300_000, p=100, B=60).pays()  # more models
    assert work(Access(), n=300_000, p=100, K=20).pays()  # more logits
    assert work(Access(by_products=False), n=300_000, p=100).pays()  # more arithmetic
    assert not work(Access(), n=500_000, p=100, streamed=True).pays()  # more copies
    assert not work(ACCESS["mini-batches"], n=500_000, p=100).pays()  # more launches
    assert not work(Access(n_passes=1), n=500_000, p=100).pays()


def test_the_page_has_the_constants_of_the_package():
    if not PAGE.exists():
        pytest.skip("the pages are not installed")
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", text, re.MULTILINE))
    actual = {}
    for name in rows:
        value = getattr(tuning, name)
        actual[name] = [*value.values()] if isinstance(value, dict) else [value]
    assert {name: [float(number) for number in value.split(",")] for name, value in rows.items()} == actual
    assert set(rows) == {name for name in vars(tuning) if re.search("_PER_S$|_SECONDS$", name)}
    assert (tuning.ASSUMED_PASSES, tuning.NUMBERS_PER_LOGIT) == (10, 4)
    assert (tuning.CALLS_PER_PASS, tuning.CALLS_PER_BATCH) == (130, 16)
    assert f"{tuning.ACCELERATOR_BLOCK_NUMBERS / 1e6:.0f} million" in text
    numbers = next(n * 100 for n in range(10_000, 10_000_000, 1000) if work(Access(), n=n, p=100).pays())
    assert f"{numbers / 1e6:.0f}" == "39"
    assert "from about 40 million" in text


# --- The reason.


def test_reasons_in_words(monkeypatch):
    host = torch.zeros(1, 1)
    little, much = work(Access()), work(Access(), n=10**7, p=100)

    def reason(asked="auto", X=host, spent=little):
        return choose_device(asked, X, spent).reason

    start = "cpu: the fit moves about 3.5 MB and computes 800 kFLOP, too little for an accelerator to repay its start"
    assert reason() == start
    assert reason(spent=work(Access(), n=300_000, p=100, streamed=True)).endswith("its start and the copies of X")
    assert reason(spent=work(ACCESS["mini-batches"], n=10**7)).endswith("repay the launches of its kernels")
    assert reason(spent=None) == "cpu: products with a sparse X run on the host"
    assert reason("cpu", spent=much) == "cpu: the parameter device asks for it"
    assert reason(X=torch.zeros(1, 1, device="meta"), spent=much) == "meta: the rows are there already"
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert reason(spent=much) == "cpu: no accelerator was found"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert reason(X=host.double(), spent=much) == "cpu: mps is chosen for float32 alone, and X is float64"
    assert reason(X=host, spent=much).startswith("mps: the fit moves about 160 GB and computes 40 GFLOP, expected to")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert reason(spent=much) == (
        "cuda: the fit moves about 160 GB and computes 40 GFLOP, expected to take 27 s on the host, and 2 s there with "
        "the start and the copies of X"
    )


@pytest.fixture
def unasked(monkeypatch):
    """Raise where somebody asks for devices, and hence for their driver."""

    def asked(*_, **__):
        raise AssertionError("a device was asked for")

    for module in (torch.cuda, torch.xpu):
        for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
            monkeypatch.setattr(module, name, asked)
    monkeypatch.setattr(torch.backends.mps, "is_available", asked)


def grid(estimator, **options):
    return TorchGridSearchCV(estimator, {"C": [0.1, 1.0]}, cv=2, **options)


SGD = {"solver": "sgd", "max_iter": 2, "tol": 0, "random_state": 0}
FITS = {
    "fit": lambda: TorchLogisticRegression().fit(X, Y),
    "newton": lambda: TorchLogisticRegression(solver="newton-cholesky").fit(X, Y),
    "softmax": lambda: TorchSoftmaxClassifier().fit(X3, Y3),
    "sgd": lambda: TorchLogisticRegression(**SGD).fit(X, Y),
    "tensor": lambda: TorchLogisticRegression().fit(torch.tensor(X), Y),
    "stream": lambda: TorchLogisticRegression().fit(BLOCKS),
    "stream of sgd": lambda: TorchLogisticRegression(**{**SGD, "batch_size": 10}).fit(BLOCKS),
    "partial_fit": lambda: TorchLogisticRegression().partial_fit(X, Y, classes=[0, 1]),
    "cv": lambda: TorchLogisticRegressionCV(Cs=2, cv=2).fit(X, Y),
    "softmax cv": lambda: TorchSoftmaxClassifierCV(Cs=2, cv=2).fit(X3, Y3),
    "cv by score": lambda: TorchLogisticRegressionCV(Cs=2, cv=2, scoring="roc_auc").fit(X, Y),
    "grid": lambda: grid(TorchLogisticRegression()).fit(X, Y),
}


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("name", FITS)
def test_small_fits_give_their_reason_and_ask_for_no_device(name):
    model = FITS[name]()
    assert re.fullmatch(r"cpu: the fit moves .*, too little for an accelerator to repay [^:]*", model.device_reason_)
    model.predict(X3 if "softmax" in name else X)
    assert not torch.cuda.is_initialized()


@pytest.mark.usefixtures("unasked")
def test_sparse_rows_ask_for_no_device_however_many_they_are():
    X = sparse.random_array((20_000, 300), density=0.01, rng=0).tocsr()
    with tuned(**EVERYTHING_PAYS):
        model = TorchLogisticRegression().fit(X, np.arange(20_000) % 2)
    assert model.device_reason_ == "cpu: products with a sparse X run on the host"


def test_more_models_are_more_work():
    single, batch = TorchLogisticRegression().fit(X, Y), TorchLogisticRegressionCV(Cs=2, cv=2).fit(X, Y)
    assert "computes 680 kFLOP" in single.device_reason_
    # Seven models: two values of C on two folds and on all rows, and the refit.
    assert "computes 4.8 MFLOP" in batch.device_reason_
    search = grid(TorchLogisticRegression()).fit(X, Y)
    assert "computes 4.1 MFLOP" in search.device_reason_  # six models
    assert search.best_estimator_.device_reason_ == single.device_reason_


def test_a_search_that_is_left_to_scikit_learn_has_the_reason_of_its_best_estimator():
    search = grid(TorchLogisticRegression(solver="lbfgs")).fit(X, Y)
    assert search.device_reason_.startswith("cpu: ")
    search.set_params(estimator=TorchLogisticRegression(**SGD)).fit(X, Y)
    assert not hasattr(search, "device_reason_")
    assert search.best_estimator_.device_reason_.startswith("cpu: ")
    pipeline = make_pipeline(StandardScaler(), TorchLogisticRegression())
    search = TorchGridSearchCV(pipeline, {"torchlogisticregression__C": [0.1, 1.0]}, cv=2).fit(X, Y)
    assert search.device_reason_.startswith("cpu: the fit moves")


def test_the_reason_is_kept_with_the_model(tmp_path):
    model = TorchLogisticRegression(device="cpu").fit(X, Y)
    assert model.device_reason_ == "cpu: the parameter device asks for it"
    model.save(tmp_path / "model")
    for other in (TorchLogisticRegression.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert other.device_reason_ == model.device_reason_
    assert not hasattr(clone(model), "device_reason_")
    assert model.set_params(device="auto").partial_fit(X, Y).device_reason_.startswith("cpu: the fit moves")


# --- On a pretend accelerator.

LARGE = np.random.default_rng(0).standard_normal((6000, 20))
LABELS = (LARGE[:, 0] + LARGE[:, 1] * np.random.default_rng(1).standard_normal(6000) > 0).astype(int)
QUICK = {**NOTHING, "START_SECONDS": 1e-3}  # to start: between the two tables
# What fits many models: more than one of them on the small table.
LARGE_FITS = {
    "fit": lambda X, y: TorchLogisticRegression().fit(X, y),
    "stream": lambda X, y: TorchLogisticRegression().fit([(X[::2], y[::2]), (X[1::2], y[1::2])]),
    "cv": lambda X, y: TorchLogisticRegressionCV(Cs=2, cv=2).fit(X, y),
    "grid": lambda X, y: grid(TorchLogisticRegression()).fit(X, y),
}


@PRETEND
@pytest.mark.parametrize("name", LARGE_FITS)
@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_large_fit_goes_to_the_device_and_a_small_one_stays(name, kind):
    fit = LARGE_FITS[name]
    with pretend.devices(kind) as machine, tuned(**QUICK):
        before = machine.n_operations
        small = fit(*SMALL)
        assert machine.n_operations == before
        large = fit(LARGE, LABELS)
        assert machine.n_operations > before
    assert small.device_reason_.startswith("cpu: the fit moves")
    assert large.device_reason_.startswith(f"{kind}: the fit moves")
    if name != "grid":
        assert small.device_ == "cpu"
        assert large.device_.startswith(kind)
        np.testing.assert_allclose(large.coef_, fit(LARGE, LABELS).coef_, atol=1e-4)


@PRETEND
def test_many_models_go_to_the_device_where_one_stays():
    with pretend.devices("cuda"), tuned(**NOTHING, START_SECONDS=0.01):
        assert TorchLogisticRegression().fit(LARGE, LABELS).device_ == "cpu"
        assert TorchLogisticRegressionCV(Cs=5, cv=4).fit(LARGE, LABELS).device_ == "cuda:0"
        search = TorchGridSearchCV(TorchLogisticRegression(), {"C": [0.01, 0.1, 1.0, 10.0]}).fit(LARGE, LABELS)
        assert search.device_reason_.startswith("cuda: ")
        assert search.best_estimator_.device_ == "cpu"


@PRETEND
def test_mini_batches_stay_where_the_others_go():
    with pretend.devices("cuda"), tuned(START_SECONDS=0.0, LAUNCH_SECONDS=tuning.HOST_CALL_SECONDS * 1.02):
        assert TorchLogisticRegression().fit(LARGE, LABELS).device_ == "cuda:0"
        sgd = TorchLogisticRegression(**SGD, batch_size=1).fit(LARGE, LABELS)
        assert sgd.device_reason_.endswith("repay the launches of its kernels")
        assert TorchLogisticRegression(**SGD, batch_size=None).fit(LARGE, LABELS).device_ == "cuda:0"


@PRETEND
def test_rows_on_a_device_stay_there():
    with pretend.devices("cuda"):
        there = torch.tensor(X).to("cuda")
        model = TorchLogisticRegression().fit(there, Y)
        assert (model.device_, model.device_reason_) == ("cuda:0", "cuda:0: the rows are there already")
        stream = TorchLogisticRegression().fit([(there[:300], Y[:300]), (there[300:], Y[300:])])
        assert stream.device_reason_ == "cuda:0: the rows are there already"
        assert TorchLogisticRegression(device="cuda").fit(X, Y).device_reason_.startswith("cuda: the parameter")


@PRETEND
@pytest.mark.parametrize("name", ["fit", "cv", "grid", "sgd"])
def test_too_little_memory_keeps_a_fit_on_the_host(name):
    fit = {**LARGE_FITS, "sgd": lambda X, y: TorchLogisticRegression(**SGD).fit(X, y)}[name]
    # It pays to copy X once, but not in every pass.
    rates = {"BUS_BYTES_PER_S": tuning.HOST_BYTES_PER_S / 4, "START_SECONDS": 0.0, **NOTHING}
    with pretend.devices("cuda"), tuned(**rates), pretend.memory(LARGE.nbytes // 2), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit(LARGE, LABELS)
    assert model.device_reason_ == "cpu: X does not fit in the memory of cuda"


@PRETEND
def test_too_little_memory_for_x_copies_blocks_where_that_pays():
    sizes = {"MAPPED_BLOCK_BYTES": 80_000, "MAX_JOINED_BLOCK_NUMBERS": 1000, "STREAM_SAMPLE_BYTES": 2**17}
    sizes |= {"ACCELERATOR_BLOCK_NUMBERS": 2**14}
    for device, reason in {"auto": "cuda: the fit moves", "cuda": "cuda: the parameter device asks for it"}.items():
        short = pretend.memory(LARGE.nbytes - 1)
        with pretend.devices("cuda"), tuned(**sizes, **EVERYTHING_PAYS), short, pytest.warns(match="block by block"):
            model = TorchLogisticRegression(device=device, solver="newton-cholesky").fit(LARGE, LABELS)
        assert model.device_reason_.startswith(reason)
        assert model.device_reason_.endswith("X does not fit in its memory, and its blocks are copied in each pass")
