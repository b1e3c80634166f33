"""Ray, Dask and Spark: the model of one process, whatever share of the rows each worker has, and what fails how.

Those that start an engine are skipped where it is missing; `make test-engines` installs all of them.
"""

import importlib.util
import os
import shutil
import signal
import sys
from itertools import count, pairwise
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch.distributed as dist
from helpers import serial
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchlogreg import TorchLogisticRegression, TorchSoftmaxClassifier
from torchlogreg._data.tuning import GATHERED_NUMBERS
from torchlogreg._launchers.launch import concluded
from torchlogreg._launchers.shares import Columns, Share, joined
from torchlogreg._launchers.worker import Outcome, Place, fit_in_rank, joined_group, opened_store
from torchlogreg._runtime.desk import Desk
from torchlogreg._runtime.rank_errors import Told
from torchlogreg.distributed import fit_on_dask, fit_on_ray, fit_on_spark

# Large enough not to be gathered in one process, where a sample of the rows, drawn by their numbers, is the start.
N, P = 60_011, 9
NAMES = [f"x{i}" for i in range(P)]
assert N * (P + 1) > GATHERED_NUMBERS
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P))
Y = (X @ RNG.normal(size=(P, 3)) + RNG.gumbel(size=(N, 3))).argmax(axis=1)
WEIGHT = RNG.uniform(0.5, 2, size=N)
UNKNOWN = X.copy()
UNKNOWN[N - 5, 3] = np.nan
MODEL = TorchSoftmaxClassifier()
NAN = "In rank [12]: Input X contains NaN"
KILLED_MID_FIT = 4  # the message of rank 0 at which the process of rank 1 is killed
WAIT_S = 60


class Killed(TorchSoftmaxClassifier):
    """A model whose process in rank 1 is killed in the middle of the fit."""

    def fit(self, *args, **kwargs):
        if dist.get_rank() == 0:
            return super().fit(*args, **kwargs)
        do, messages = Desk.do, count()

        def do_or_die(desk, message):
            if next(messages) == KILLED_MID_FIT:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(desk, message)

        with patch.object(Desk, "do", do_or_die):
            return super().fit(*args, **kwargs)


def needs(engine, *, java=False):
    is_missing = importlib.util.find_spec(engine) is None
    reason = f"{engine} is not installed"
    if java and not is_missing:
        is_missing, reason = not (shutil.which("java") or os.environ.get("JAVA_HOME")), "no Java"
    return lambda test: serial(
        pytest.mark.filterwarnings("ignore")(pytest.mark.skipif(is_missing, reason=reason)(test))  # the engines' own
    )


@pytest.fixture(scope="module")
def importable():
    """Workers import this module for the classes in it."""
    with pytest.MonkeyPatch.context() as patched:
        paths = os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patched.setenv("PYSPARK_PYTHON", sys.executable)
        yield


def one_process(model=MODEL, X=X, weight=WEIGHT, **validation):
    return clone(model).fit(X, Y, weight, **validation)


def assert_same(found, expected, given=MODEL):
    assert not hasattr(given, "coef_")
    assert found.get_params() == given.get_params()
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, rtol=0, atol=1e-10)
    assert found.n_iter_ == expected.n_iter_
    assert found.n_passes_ == pytest.approx(expected.n_passes_)
    assert getattr(found, "feature_names_in_", []) == pytest.approx(getattr(expected, "feature_names_in_", []))


# --- Without an engine.


@pytest.mark.parametrize(
    "vectors",
    [
        pa.array(list(X[:6])),
        pa.array(list(X[:6]), pa.large_list(pa.float64())),
        pa.FixedSizeListArray.from_arrays(X[:6].ravel(), P),
        pa.FixedShapeTensorArray.from_numpy_ndarray(X[:6]),
    ],
    ids=lambda vectors: type(vectors).__name__,
)
def test_columns_of_vectors(vectors):
    table = pa.concat_tables([pa.table({"x": vectors, "y": Y[:6], "w": WEIGHT[:6]})] * 2)
    share = Columns.of("x", "y", "w").share(table.slice(2))
    np.testing.assert_array_equal(share.X, np.tile(X[:6], (2, 1))[2:])
    np.testing.assert_array_equal(share.y, np.tile(Y[:6], 2)[2:])
    np.testing.assert_array_equal(share.weight, np.tile(WEIGHT[:6], 2)[2:])


def test_columns_of_numbers_keep_their_names():
    table = pa.table({"b": X[:4, 0], "y": ["no", "yes", "no", "yes"], "a": pa.array([1, None, 2, 3])})
    share = Columns.of(["b", "a"], "y", None).share(table)
    assert list(share.X) == ["b", "a"]
    assert share.X["a"].isna().sum() == 1
    assert share.y.tolist() == ["no", "yes", "no", "yes"]
    assert Columns.of("b", "y", None).share(table.slice(4)) is None


def test_columns_that_are_no_vectors():
    with pytest.raises(ValueError, match="'x' differ in length: none, 1, 2"):
        Columns.of("x", "y", None).share(pa.table({"x": [[1.0, 2.0], [1.0], None], "y": [0, 1, 0]}))
    with pytest.raises(TypeError, match="this column holds double"):
        Columns.of("x", "y", None).share(pa.table({"x": [1.0, 2.0], "y": [0, 1]}))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, pd.DataFrame], ids=["array", "sparse", "frame"])
def test_shares_of_any_kind_are_joined(kind):
    cuts = [0, 3, 3, 5]
    shares = [Share(kind(X[a:b]), Y[a:b]) for a, b in pairwise(cuts)]
    whole = joined(shares)
    dense = whole.X.toarray() if sparse.issparse(whole.X) else np.asarray(whole.X)
    np.testing.assert_array_equal(dense, X[:5])
    assert whole.weight is None
    assert type(whole.without_rows().X) is type(whole.X)
    assert whole.without_rows().X.shape == (0, P)
    assert joined(shares[1:2]) is None


def in_one_process(model, load):
    store = opened_store("127.0.0.1", WAIT_S)
    return fit_in_rank(model, load, Place(0, 1, ("127.0.0.1", store.port), WAIT_S), store)


def test_a_process_leaves_its_group():
    outcome = in_one_process(MODEL, lambda: Share(X, Y, WEIGHT))
    assert_same(concluded(MODEL, [outcome], {}), one_process())
    assert not dist.is_initialized()
    outcome = in_one_process(MODEL, lambda: Share(UNKNOWN, Y))
    with pytest.raises(ValueError, match="In rank 0: Input X contains NaN"):
        concluded(MODEL, [outcome], {})
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="There are no rows"):
        concluded(MODEL, [in_one_process(MODEL, lambda: None)], {})


def test_a_process_belongs_to_one_group():
    place = Place(0, 1, ("127.0.0.1", 0), WAIT_S)
    with joined_group(place, opened_store("127.0.0.1", WAIT_S)):
        outcome = in_one_process(MODEL, lambda: Share(X, Y))
    with pytest.raises(RuntimeError, match=r"belongs to a group of torch.distributed already"):
        concluded(MODEL, [outcome], {})


def test_processes_that_do_not_come():
    store = opened_store("127.0.0.1", 0.5)
    outcome = fit_in_rank(MODEL, lambda: None, Place(0, 2, ("127.0.0.1", store.port), 0.5), store)
    with pytest.raises(RuntimeError, match=r"Not all 2 processes came together within 0.5 seconds"):
        concluded(MODEL, [outcome], {})


def test_the_error_that_tells_most():
    silence = Outcome(0, error=Told(RuntimeError, "silence"), is_broken=True)
    own, other = (Outcome(rank, error=Told(ValueError, text)) for rank, text in ((2, "odd"), (1, "In rank 2: odd")))
    lost = {1: OSError("worker died\nmore")}
    with pytest.raises(ValueError, match=r"^In rank 2: odd$"):
        concluded(MODEL, [silence, own], lost)
    with pytest.raises(ValueError, match=r"^In rank 2: odd$"):
        concluded(MODEL, [own, other], {})
    with pytest.raises(RuntimeError, match=r"The process of rank 1 was lost, and no model was fitted: worker died$"):
        concluded(MODEL, [silence], lost)
    with pytest.raises(RuntimeError, match=r"^silence$"):
        concluded(MODEL, [silence], {})
    with pytest.raises(ValueError, match=r"^alike$"):
        concluded(MODEL, [Outcome(rank, error=Told(ValueError, "alike")) for rank in (0, 1)], {})


@pytest.mark.parametrize(
    ("launch", "module", "extra"),
    [
        (lambda model, **n: fit_on_ray(model, None, features="x", label="y", **n), "ray", "ray"),
        (lambda model, **n: fit_on_spark(model, None, features="x", label="y", **n), "pyspark", "spark"),
        (lambda model, num_workers: fit_on_dask(model, X, Y), "distributed", "dask"),
    ],
    ids=["ray", "spark", "dask"],
)
def test_an_engine_that_is_missing(launch, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "torchlogreg\[{extra}\]"'):
        launch(MODEL, num_workers=2)


# --- Dask.


@pytest.fixture(scope="module")
def dask_client(importable):
    distributed = pytest.importorskip("distributed")
    options = {"dashboard_address": None, "worker_dashboard_address": None, "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def dask_array(array, rows=9001):
    return importlib.import_module("dask.array").from_array(array, chunks=(rows, *array.shape[1:]))


@needs("distributed")
@pytest.mark.parametrize("n_workers", [2, 3])
def test_dask_arrays(dask_client, n_workers):
    """Partitions lie at workers in an order of their own."""
    addresses = list(dask_client.nthreads())[:n_workers]
    arrays = [dask_array(array) for array in (X, Y, WEIGHT)]
    arrays = dask_client.persist(arrays, workers=addresses[::-1], allow_other_workers=False)
    assert_same(fit_on_dask(MODEL, *arrays, timeout=WAIT_S), one_process())


@needs("distributed")
def test_dask_frames_with_empty_partitions(dask_client):
    frames = importlib.import_module("dask.dataframe")
    table = pd.DataFrame(X, columns=NAMES).assign(label=Y, weight=WEIGHT)
    frame = frames.from_pandas(table, npartitions=5)
    frame = frames.concat([frame[frame.x0 > 1e9], frame, frame[frame.x0 > 1e9]])
    found = fit_on_dask(MODEL, frame[NAMES], frame.label, frame.weight, client=dask_client, timeout=WAIT_S)
    assert_same(found, one_process(X=table[NAMES]))


@needs("distributed")
def test_dask_frames_from_files(dask_client, tmp_path):
    """Dask joins partitions of which few columns are read."""
    table = pd.DataFrame(X, columns=NAMES).assign(label=Y)
    for i, rows in enumerate(np.array_split(np.arange(N), 4)):
        table.iloc[rows].to_parquet(tmp_path / f"{i}.parquet")
    frame = importlib.import_module("dask.dataframe").read_parquet(tmp_path)
    assert_same(fit_on_dask(MODEL, frame[NAMES], frame.label, timeout=WAIT_S), one_process(X=table[NAMES], weight=None))


@needs("distributed")
def test_dask_partitions_of_unknown_width(dask_client):
    """A partition without rows has another number of columns than the others."""
    arrays, delayed = importlib.import_module("dask.array"), importlib.import_module("dask").delayed

    def blocks(array, *empty):
        options = {"dtype": array.dtype, "meta": array[:0]}
        parts = [np.empty(empty), array[: N // 2], array[N // 2 :]]
        shape = (np.nan, *array.shape[1:])
        return arrays.concatenate([arrays.from_delayed(delayed(part), shape, **options) for part in parts])

    given = blocks(X, 0, 0), blocks(Y, 0), blocks(WEIGHT, 0)
    assert_same(fit_on_dask(MODEL, *given, timeout=WAIT_S), one_process())


@needs("distributed")
def test_dask_errors(dask_client):
    arrays = dask_array(X), dask_array(Y)
    with pytest.raises(ValueError, match=NAN):
        fit_on_dask(MODEL, dask_array(UNKNOWN), arrays[1], timeout=WAIT_S)
    with pytest.raises(TypeError, match="y is a ndarray"):
        fit_on_dask(MODEL, arrays[0], Y)
    with pytest.raises(ValueError, match="Inconsistent numbers of partitions: X 7, y 6"):
        fit_on_dask(MODEL, arrays[0], dask_array(Y[:-9000]))
    with pytest.raises(ZeroDivisionError):
        fit_on_dask(MODEL, arrays[0].map_blocks(lambda block: block / (1 // 0), meta=X[:0]), arrays[1])
    with pytest.raises(TypeError, match="this is a Pipeline"):
        fit_on_dask(make_pipeline(StandardScaler(), MODEL), *arrays)


@needs("distributed")
def test_dask_warnings_reach_the_caller(dask_client):
    with pytest.warns(ConvergenceWarning, match="after 1 iterations"):
        fit_on_dask(TorchSoftmaxClassifier(max_iter=1), dask_array(X), dask_array(Y), timeout=WAIT_S)


@needs("distributed")
def test_dask_loses_a_worker(dask_client):
    arrays = dask_array(X), dask_array(Y)
    with pytest.raises(RuntimeError, match="The process of rank 1 was lost, and no model was fitted: the worker at"):
        fit_on_dask(Killed(), *arrays, timeout=WAIT_S)
    dask_client.wait_for_workers(3, timeout=WAIT_S)
    assert_same(fit_on_dask(MODEL, *arrays, timeout=WAIT_S), one_process(weight=None))


# --- Ray.


@pytest.fixture(scope="module")
def ray(importable):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR", object_store_memory=200 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def tables(X=X, n_blocks=7):
    """The rows in blocks of uneven size, one of them empty."""
    cuts = [0, *sorted(np.random.default_rng(1).integers(N, size=n_blocks - 2)), N, N]
    return [
        pa.table({"x": list(X[a:b]), "label": Y[a:b], "weight": WEIGHT[a:b], **dict(zip(NAMES, X[a:b].T, strict=True))})
        for a, b in pairwise(cuts)
    ]


@needs("ray")
def test_ray_vectors_and_validation_rows(ray):
    data = ray.data.from_arrow(tables())
    n = 1  # which only one worker has
    held_out = ray.data.from_arrow(tables()[0].slice(0, n))
    options = {"features": "x", "label": "label", "weight": "weight", "num_workers": 2, "timeout": WAIT_S}
    found = fit_on_ray(MODEL, data, validation=held_out, **options)
    expected = one_process(X_val=X[:n], y_val=Y[:n], sample_weight_val=WEIGHT[:n])
    assert_same(found, expected)
    np.testing.assert_allclose(
        found.history_["validation_loss"], expected.history_["validation_loss"], rtol=0, atol=1e-10
    )


@needs("ray")
def test_ray_columns_of_numbers(ray):
    data = ray.data.from_arrow(tables())
    found = fit_on_ray(MODEL, data, features=NAMES, label="label", weight="weight", num_workers=3, timeout=WAIT_S)
    assert_same(found, one_process(X=pd.DataFrame(X, columns=NAMES)))


@needs("ray")
def test_ray_worker_without_rows_and_nan(ray):
    few = ray.data.from_pandas(pd.DataFrame({"x0": [0.0, np.nan], "label": [0, 1]}))
    with pytest.raises(ValueError, match=NAN):
        fit_on_ray(MODEL, few, features=["x0"], label="label", num_workers=2, timeout=WAIT_S)
    few = ray.data.from_pandas(pd.DataFrame({"x0": [0.0, 1.0], "label": [0, 1]}))
    found = fit_on_ray(TorchLogisticRegression(), few, features=["x0"], label="label", num_workers=3, timeout=WAIT_S)
    expected = TorchLogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-10)


@needs("ray")
def test_ray_loses_a_worker(ray):
    data = ray.data.from_arrow(tables())
    with pytest.raises(RuntimeError, match="The process of rank 1 was lost, and no model was fitted"):
        fit_on_ray(Killed(), data, features="x", label="label", num_workers=2, timeout=WAIT_S)


@needs("ray")
def test_ray_without_room(ray):
    data = ray.data.from_arrow(tables())
    with pytest.raises(TimeoutError, match="Ray had no room for 9 workers, each with one CPU, within 1 seconds"):
        fit_on_ray(MODEL, data, features="x", label="label", num_workers=9, timeout=1)


# --- Spark.


@pytest.fixture(scope="module")
def spark(importable):
    sql = pytest.importorskip("pyspark.sql")
    options = {
        "spark.ui.enabled": False,
        "spark.ui.showConsoleProgress": False,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts faster
        "spark.sql.shuffle.partitions": 2,
    }
    builder = sql.SparkSession.builder.master("local[3]")
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def spark_frame(spark):
    frame = spark.createDataFrame(pd.concat([table.to_pandas() for table in tables()]))
    return frame.repartition(4).sort("x0")  # partitions of rows whose order is known


IN_SPARK = np.argsort(X[:, 0])


@needs("pyspark", java=True)
def test_spark_vectors(spark_frame):
    to_vectors = importlib.import_module("pyspark.ml.functions").array_to_vector
    frame = spark_frame.withColumn("vectors", to_vectors("x"))
    options = {"label": "label", "weight": "weight", "timeout": WAIT_S}
    expected = clone(MODEL).fit(X[IN_SPARK], Y[IN_SPARK], WEIGHT[IN_SPARK])
    assert_same(fit_on_spark(MODEL, frame, features="vectors", num_workers=2, **options), expected)


@needs("pyspark", java=True)
def test_spark_columns_of_numbers(spark_frame):
    expected = clone(MODEL).fit(pd.DataFrame(X[IN_SPARK], columns=NAMES), Y[IN_SPARK], WEIGHT[IN_SPARK])
    found = fit_on_spark(
        MODEL, spark_frame, features=NAMES, label="label", weight="weight", num_workers=3, timeout=WAIT_S
    )
    assert_same(found, expected)


@needs("pyspark", java=True)
def test_spark_nan_and_few_rows(spark):
    few = spark.createDataFrame([(0.0, 0), (float("nan"), 1)], ["x0", "label"])
    with pytest.raises(ValueError, match=NAN):
        fit_on_spark(MODEL, few, features=["x0"], label="label", num_workers=2, timeout=WAIT_S)
    found = fit_on_spark(
        TorchLogisticRegression(), few.fillna(1.0), features=["x0"], label="label", num_workers=3, timeout=WAIT_S
    )
    expected = TorchLogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-10)
    with pytest.raises(ValueError, match="There are no rows"):
        fit_on_spark(MODEL, few.limit(0), features=["x0"], label="label", num_workers=2, timeout=WAIT_S)


@needs("pyspark", java=True)
def test_spark_loses_a_worker(spark_frame):
    with pytest.raises(RuntimeError, match=r"no model was fitted: .*Python worker exited unexpectedly"):
        fit_on_spark(Killed(), spark_frame, features="x", label="label", num_workers=2, timeout=WAIT_S)
